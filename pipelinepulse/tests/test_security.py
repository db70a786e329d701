"""Headers of every answer, and how long a sign-in lasts."""

import pytest
from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
from django.test import Client, RequestFactory

from pipelinepulse.security import SEEN_AT, SEEN_EVERY_SECONDS, SIGNED_IN_AT, keep_or_end

HOUR = 3600.0
NOW = 1_800_000_000.0


@pytest.mark.django_db
def test_pages_carry_the_strict_headers(client: Client) -> None:
    headers = client.get("/login").headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "script-src 'self'" in policy
    assert "style-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self'" in policy
    assert "base-uri 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "camera=()" in headers["Permissions-Policy"]


@pytest.mark.django_db
def test_private_pages_are_kept_out_of_caches(client: Client) -> None:
    headers = client.get("/login").headers
    assert "no-store" in headers["Cache-Control"]
    assert {"Cookie", "HX-Request"} <= set(headers["Vary"].split(", "))


@pytest.mark.django_db
def test_nobody_gets_past_the_sign_in(client: Client) -> None:
    response = client.get("/")
    assert response.status_code == 302
    assert response["Location"].startswith("/login?")


@pytest.mark.django_db
def test_too_many_wrong_passwords_lock_the_account_out(client: Client, person) -> None:
    person("rep")
    guess = {"username": "rep", "password": "a guess"}
    for _ in range(settings.AXES_FAILURE_LIMIT):
        client.post("/login", guess)
    right = client.post("/login", {"username": "rep", "password": "a password"})
    assert right.status_code == 429
    assert SESSION_KEY not in client.session


def signed_in(rep, **kept: float):
    request = RequestFactory().get("/")
    request.session = SessionStore()
    request.session.update({SESSION_KEY: str(rep.pk), **kept})
    request.user = rep
    return request


@pytest.mark.parametrize(
    ("age", "idle", "lasts"),
    [
        (0, 0, True),
        (6.9 * 24, 1, True),
        (7.1 * 24, 1, False),
        (24, 11.9, True),
        (24, 12.1, False),
    ],
)
def test_sign_in_ends_by_age_or_by_idleness(rep, age: float, idle: float, lasts: bool) -> None:
    request = signed_in(rep, **{SIGNED_IN_AT: NOW - age * HOUR, SEEN_AT: NOW - idle * HOUR})
    keep_or_end(request, now=NOW)
    assert (SESSION_KEY in request.session) is lasts
    assert request.user.is_authenticated is lasts


def test_looking_at_pages_writes_the_session_now_and_then_only(rep) -> None:
    request = signed_in(rep)
    keep_or_end(request, now=NOW)
    assert request.session[SEEN_AT] == NOW
    request.session.modified = False
    keep_or_end(request, now=NOW + SEEN_EVERY_SECONDS)
    assert not request.session.modified
    keep_or_end(request, now=NOW + SEEN_EVERY_SECONDS + 1)
    assert request.session[SEEN_AT] == NOW + SEEN_EVERY_SECONDS + 1


def test_session_is_not_read_for_those_who_bring_none(client: Client) -> None:
    # no `db` mark: a query would fail this test
    assert client.get("/login").status_code == 200
