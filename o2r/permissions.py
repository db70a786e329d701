"""Who may do what: decided here once, asked by pages, API and admin alike.

Roles are groups: sales rep, sales manager, ops, integrator. A refusal carries the sentence that
says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import CharField, F, Value
from django.db.models.functions import Cast

from crm.models import CrmUser

REP, MANAGER, OPS, INTEGRATOR = "sales rep", "sales manager", "ops", "integrator"
ROLES = (REP, MANAGER, OPS, INTEGRATOR)


@dataclass(frozen=True)
class Decision:
    """True or false, with the reason of a refusal."""

    is_allowed: bool
    why: str = ""

    def __bool__(self) -> bool:
        return self.is_allowed


ALLOWED = Decision(True)


def roles_of(user: Any) -> frozenset[str]:
    """The roles of a signed-in person."""
    return _person(user).roles


def owner_pks_of(user: Any) -> list[int]:
    """Primary keys of the CRM users that this person is, by e-mail, ignoring case."""
    return list(_person(user).owner_pks)


@dataclass(frozen=True)
class _Person:
    roles: frozenset[str] = frozenset()
    owner_pks: tuple[int, ...] = ()


def _person(user: Any) -> _Person:
    """What permissions ask of a person: one query for each user object."""
    if not user.is_authenticated:
        return _Person()
    known = getattr(user, "_pulse_person", None)
    if known is None:
        facts = (
            user.groups.filter(name__in=ROLES)
            .annotate(kind=Value("role"), word=F("name"))
            .values_list("kind", "word")
        )
        if user.email:
            owners = CrmUser.objects.filter(email__iexact=user.email)
            as_text = Cast("pk", CharField())
            facts = facts.union(
                owners.annotate(kind=Value("owner"), word=as_text).values_list("kind", "word")
            )
        found = list(facts)
        roles = frozenset(word for kind, word in found if kind == "role")
        if user.is_superuser:
            roles |= {MANAGER, OPS}
        pks = tuple(sorted(int(word) for kind, word in found if kind == "owner"))
        known = user._pulse_person = _Person(roles, pks)
    return known


def may_see_sales(user: Any) -> Decision:
    """Everybody with a role sees everything of sales."""
    if roles_of(user):
        return ALLOWED
    return Decision(False, "Your account has no role yet. Ask ops to give you one.")


def may_start_sync(user: Any, kind: str) -> Decision:
    """A delta: rep, manager and ops. A full sync: ops.

    What is asked for counts: that the first delta of an empty mirror reads everything is ours.
    """
    roles = roles_of(user)
    if kind == "full":
        if OPS in roles:
            return ALLOWED
        return Decision(False, "A full sync is started by ops. Start a delta instead, or ask ops.")
    if roles & {REP, MANAGER, OPS}:
        return ALLOWED
    return Decision(False, "Starting a sync needs the role sales rep, sales manager or ops.")


def may_configure(user: Any) -> Decision:
    """Mapping, stages, rates, thresholds, repairs of the mirror: ops."""
    if OPS in roles_of(user):
        return ALLOWED
    return Decision(False, "This is changed by ops. Ask them.")
