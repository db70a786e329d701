"""People of the application: for now those of the demonstration.

Decides who can sign in to a sandbox run, and with what. Their passwords are random, made once per
PULSE_HOME and kept there, readable by the owner alone, so that they can be printed again. What a
role may do is decided by the apps' permission functions.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.contrib.auth.models import Group, User
from django.db import transaction
from rest_framework.authtoken.models import Token

from pipelinepulse import home as pulse_home

# user name → group; e-mail is <name>@example.com, by which a person is tied to a CRM user.
DEMO_ROLES = {"rep": "sales rep", "manager": "sales manager", "ops": "ops"}
DEMO_INTEGRATOR = "integrator"


@dataclass(frozen=True)
class SignIn:
    """How a person of the demo signs in. `password` is None once they have set their own."""

    username: str
    role: str
    password: str | None


@dataclass(frozen=True)
class DemoPeople:
    """The sign-ins to print, and the API token of the demo's integrator."""

    sign_ins: list[SignIn]
    api_token: str


def ensure_demo_people(home: Path) -> DemoPeople:
    """Make the people of the demo that are missing; the others stay as they are.

    Raises RuntimeError when a real CRM is configured: known sign-ins have no place there.
    """
    if settings.ZOHO is not None and not settings.SANDBOX:
        raise RuntimeError("demo people are for the sandbox alone")
    passwords = pulse_home.read_private(home, pulse_home.SIGN_INS)
    missing = {name: secrets.token_urlsafe(9) for name in DEMO_ROLES if name not in passwords}
    if missing:
        # Kept before the accounts exist: a password that nobody can read again locks people out.
        pulse_home.write_private(home, pulse_home.SIGN_INS, {**passwords, **missing})
        passwords = {**passwords, **missing}
    with transaction.atomic():
        sign_ins = [_ensure(name, role, passwords[name]) for name, role in DEMO_ROLES.items()]
        token, _ = Token.objects.get_or_create(user=_user(DEMO_INTEGRATOR, DEMO_INTEGRATOR)[0])
    return DemoPeople(sign_ins, token.key)


def _ensure(name: str, role: str, password: str) -> SignIn:
    user, is_new = _user(name, role)
    if is_new:
        user.set_password(password)
        user.save(update_fields=["password"])
    return SignIn(name, role, password if is_new or user.check_password(password) else None)


def _user(name: str, role: str) -> tuple[User, bool]:
    user, is_new = User.objects.get_or_create(
        username=name,
        defaults={
            "email": f"{name}@example.com",
            "first_name": "Demo",
            "last_name": name.capitalize(),
            "is_staff": role == "ops",
            "password": "!",  # none fits, until one is set
        },
    )
    if is_new:
        user.groups.add(Group.objects.get(name=role))
    return user, is_new


def retire_demo_people(home: Path) -> int:
    """Lock out the people of an earlier demo in this home; returns how many it were."""
    names = [*pulse_home.read_private(home, pulse_home.SIGN_INS), DEMO_INTEGRATOR]
    if len(names) == 1:
        return 0
    users = User.objects.filter(username__in=names, email__endswith="@example.com")
    Token.objects.filter(user__in=users).delete()
    return users.filter(is_active=True).update(is_active=False)
