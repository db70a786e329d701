"""The people of the demo, and the roles that the product ships."""

import stat
from pathlib import Path

import pytest
from django.contrib.auth.models import Group, User

from pipelinepulse import home
from pipelinepulse.people import ensure_demo_people, retire_demo_people

pytestmark = pytest.mark.django_db


def test_roles_are_shipped_as_groups() -> None:
    names = {"sales rep", "sales manager", "ops", "integrator"}
    assert set(Group.objects.values_list("name", flat=True)) >= names


def test_demo_people_can_sign_in_with_what_is_printed(tmp_path: Path) -> None:
    people = ensure_demo_people(tmp_path)
    assert [(person.username, person.role) for person in people.sign_ins] == [
        ("rep", "sales rep"),
        ("manager", "sales manager"),
        ("ops", "ops"),
    ]
    for person in people.sign_ins:
        user = User.objects.get(username=person.username)
        assert user.check_password(person.password)
        assert user.email == f"{person.username}@example.com"
        assert [group.name for group in user.groups.all()] == [person.role]
        assert user.is_staff == (person.role == "ops")
        assert not user.is_superuser


def test_second_start_prints_the_same(tmp_path: Path) -> None:
    assert ensure_demo_people(tmp_path) == ensure_demo_people(tmp_path)
    assert User.objects.count() == 4
    assert stat.S_IMODE((tmp_path / home.SIGN_INS).stat().st_mode) == 0o600


def test_passwords_differ_from_home_to_home(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first = ensure_demo_people(tmp_path / "one")
    User.objects.all().delete()
    second = ensure_demo_people(tmp_path / "two")
    assert {p.password for p in first.sign_ins}.isdisjoint({p.password for p in second.sign_ins})


def test_password_that_a_person_has_changed_is_left_alone(tmp_path: Path) -> None:
    ensure_demo_people(tmp_path)
    rep = User.objects.get(username="rep")
    rep.set_password("my own")
    rep.save()
    people = ensure_demo_people(tmp_path)
    assert people.sign_ins[0].password is None
    assert User.objects.get(username="rep").check_password("my own")


def test_integrator_has_a_token_and_no_password(tmp_path: Path) -> None:
    token = ensure_demo_people(tmp_path).api_token
    integrator = User.objects.get(auth_token=token)
    assert [group.name for group in integrator.groups.all()] == ["integrator"]
    assert not integrator.has_usable_password()


def test_real_crm_gets_no_demo_people(tmp_path: Path, settings) -> None:
    settings.ZOHO = object()
    settings.SANDBOX = False
    with pytest.raises(RuntimeError):
        ensure_demo_people(tmp_path)
    assert not User.objects.exists()


def test_people_of_an_earlier_demo_are_locked_out(tmp_path: Path) -> None:
    ensure_demo_people(tmp_path)
    own = User.objects.create_user("ann", "ann@example.com", "a password")
    assert retire_demo_people(tmp_path) == 4
    assert list(User.objects.filter(is_active=True)) == [own]
    assert not User.objects.filter(auth_token__isnull=False).exists()


def test_home_without_a_demo_locks_out_nobody(tmp_path: Path) -> None:
    User.objects.create_user("integrator", "integrator@example.com", "a password")
    assert retire_demo_people(tmp_path) == 0
    assert User.objects.get().is_active
