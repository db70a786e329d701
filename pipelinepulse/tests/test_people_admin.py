"""People in the admin: what ops may do with them, and what not."""

import re
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core import mail
from django.test import Client

pytestmark = pytest.mark.django_db
LIST = "/admin/auth/user/"


def page(person: User) -> str:
    return f"{LIST}{person.pk}/change/"


def form(person: User, *roles: str, **values: Any) -> dict[str, Any]:
    """The form as the page would send it."""
    names = {name: getattr(person, name) for name in ("username", "first_name", "last_name")}
    active = {"is_active": "on"} if person.is_active else {}
    groups = list(Group.objects.filter(name__in=roles).values_list("pk", flat=True))
    return {**names, "email": person.email, **active, "groups": groups, **values}


def test_ops_invite_a_person_who_chooses_a_password(ops_client: Client, client: Client) -> None:
    group = Group.objects.get(name="sales rep")
    new = {"username": "ann", "first_name": "Ann", "last_name": "Lee", "email": "ann@acme.example"}
    said = ops_client.post(f"{LIST}add/", {**new, "groups": [group.pk]}, follow=True)
    assert "A link to choose a password goes to ann@acme.example." in said.content.decode()
    ann = User.objects.get(username="ann")
    assert [group.name for group in ann.groups.all()] == ["sales rep"]
    assert not ann.is_staff and not ann.is_superuser
    [message] = mail.outbox
    link = re.search(r"http://testserver(/password/reset/\S+)", message.body)
    assert link
    chosen = client.get(link[1], follow=True).redirect_chain[-1][0]
    word = "seven silver spoons"
    client.post(chosen, {"new_password1": word, "new_password2": word})
    assert client.post("/login", {"username": "ann", "password": word}).status_code == 302


def test_without_an_address_nobody_is_invited(ops_client: Client) -> None:
    response = ops_client.post(f"{LIST}add/", {"username": "ann", "groups": []})
    assert "This field is required" in response.content.decode()
    assert not User.objects.filter(username="ann").exists()


def test_ops_change_name_role_and_door(ops_client: Client, rep: User) -> None:
    ops_client.post(page(rep), form(rep, "ops", last_name="Tan"))
    rep.refresh_from_db()
    assert (rep.last_name, rep.is_staff) == ("Tan", True)
    ops_client.post(page(rep), form(rep, "sales manager"))
    rep.refresh_from_db()
    assert not rep.is_staff
    assert [group.name for group in rep.groups.all()] == ["sales manager"]
    sent = form(rep, "sales manager")
    del sent["is_active"]
    ops_client.post(page(rep), sent)
    rep.refresh_from_db()
    assert not rep.is_active


def test_ops_give_nothing_but_the_roles_of_the_product(ops_client: Client, rep: User) -> None:
    other = Group.objects.create(name="all powerful")
    more = {"is_superuser": "on", "is_staff": "on", "user_permissions": [1]}
    response = ops_client.post(page(rep), {**form(rep, "sales rep"), **more})
    assert response.status_code == 302
    rep.refresh_from_db()
    assert (rep.is_superuser, rep.is_staff, rep.user_permissions.count()) == (False, False, 0)
    response = ops_client.post(page(rep), {**form(rep), "groups": [other.pk]})
    assert "is not one of the available choices" in response.content.decode()
    assert "all powerful" not in ops_client.get(page(rep)).content.decode()


def test_a_superuser_is_beyond_their_reach(ops_client: Client, admin_user: User) -> None:
    assert ops_client.post(page(admin_user), form(admin_user, email="me@x.io")).status_code == 403
    link = {"action": "send_link", "_selected_action": [admin_user.pk]}
    ops_client.post(LIST, link)
    assert mail.outbox == []
    admin_user.refresh_from_db()
    assert admin_user.email != "me@x.io"


def test_nobody_locks_themselves_out(ops_client: Client, ops: User) -> None:
    for sent in (form(ops, "sales rep"), {**form(ops, "ops"), "is_active": ""}):
        assert "This is you" in ops_client.post(page(ops), sent).content.decode()
    ops.refresh_from_db()
    assert ops.is_active and ops.is_staff


def test_ops_set_no_password_and_remove_nobody(ops_client: Client, rep: User) -> None:
    assert ops_client.get(f"{LIST}{rep.pk}/password/").status_code == 403
    assert ops_client.post(f"{LIST}{rep.pk}/delete/", {"post": "yes"}).status_code == 403
    ops_client.post(LIST, {"action": "send_link", "_selected_action": [rep.pk]})
    assert [message.to for message in mail.outbox] == [[rep.email]]


def test_a_superuser_keeps_the_whole_form(admin_client: Client, rep: User) -> None:
    whole = admin_client.get(page(rep)).content.decode()
    assert 'name="is_superuser"' in whole and 'name="user_permissions"' in whole
    new = {"username": "eve", "password1": "seven silver spoons", "usable_password": "true"}
    admin_client.post(f"{LIST}add/", {**new, "password2": new["password1"]})
    assert User.objects.get(username="eve").check_password(new["password1"])


@pytest.mark.parametrize("who", ["rep_client", "manager_client"])
def test_people_are_not_for_others(request: pytest.FixtureRequest, who: str) -> None:
    assert request.getfixturevalue(who).get(LIST).status_code == 403
