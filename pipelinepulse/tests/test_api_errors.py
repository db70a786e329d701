"""What the API answers when something goes wrong: always JSON of one shape, never a page."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.db import OperationalError
from django.test import Client, RequestFactory
from django.urls import URLPattern, URLResolver, get_resolver
from rest_framework.authtoken.models import Token
from rest_framework.throttling import UserRateThrottle

from crm import errors as crm
from crm import webhook
from crm.zoho import errors as zoho
from pipelinepulse import api_errors

pytestmark = pytest.mark.django_db


def api_paths() -> list[str]:
    """Every address under /api/ that people and programs call, with an id where one belongs."""

    def walk(patterns: Any, prefix: str) -> Iterator[str]:
        for pattern in patterns:
            if isinstance(pattern, URLResolver):
                yield from walk(pattern.url_patterns, prefix + str(pattern.pattern))
            elif isinstance(pattern, URLPattern) and pattern.name:
                yield prefix + str(pattern.pattern)

    found = walk(get_resolver().url_patterns, "/")
    paths = {path.replace("<str:id>", "1") for path in found if path.startswith("/api/")}
    return sorted(paths - {webhook.ADDRESS})


METHODS = ["get", "post", "put", "patch", "delete"]


def refusal(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.content[:500]
    assert response.headers["Content-Type"].startswith("application/json")
    body = response.json()
    assert body.keys() >= {"code", "message", "errors"}
    assert body["code"] and body["message"]
    return body


# -- who ----------------------------------------------------------------------------------------


def test_there_are_paths_to_try() -> None:
    assert {"/api/zoho/status", "/api/opportunities/1", "/api/schema"} <= set(api_paths())


@pytest.mark.parametrize("path", api_paths())
@pytest.mark.parametrize("method", METHODS)
def test_nobody_hears_401_as_json_and_is_led_nowhere(
    client: Client, path: str, method: str
) -> None:
    response = getattr(client, method)(path)
    assert refusal(response, 401)["code"] == "not_authenticated"
    assert response.headers["WWW-Authenticate"] == "Token"
    assert "Location" not in response.headers


@pytest.mark.parametrize("path", [path for path in api_paths() if path != "/api/schema"])
def test_person_without_a_role_hears_why(client: Client, path: str) -> None:
    client.force_login(
        User.objects.create_user("new"), backend="django.contrib.auth.backends.ModelBackend"
    )
    method = "post" if path == "/api/zoho/sync" else "get"
    body = refusal(getattr(client, method)(path), 403)
    assert "no role yet" in body["message"]


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "garbage", "text/html,*/*"])
def test_answer_is_json_whatever_the_caller_would_accept(
    client: Client, rep_client, accept: str
) -> None:
    refusal(client.get("/api/zoho/status", headers={"accept": accept}), 401)
    response = rep_client.get("/api/zoho/status", headers={"accept": accept})
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"


def test_wrong_token_and_token_of_a_disabled_person(rep) -> None:
    token = Token.objects.create(user=rep)
    User.objects.filter(pk=rep.pk).update(is_active=False)
    for key in (token.key, "0" * 40, "ü"):
        client = Client(headers={"authorization": f"Token {key}"})
        body = refusal(client.get("/api/zoho/status"), 401)
        assert key not in body["message"]


@pytest.mark.parametrize("name", ["token", "api_key", "key", "access_token"])
def test_key_in_an_address_opens_nothing(client: Client, rep, name: str) -> None:
    token = Token.objects.create(user=rep)
    refusal(client.get(f"/api/zoho/status?{name}={token.key}"), 401)


# -- where and how ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/api/", "/api/nothing", "/api/zoho/status/", "/api/opportunities/", "/api/opportunities/1/x"],
)
@pytest.mark.parametrize("method", METHODS)
def test_address_that_is_none_is_404_in_json(rep_client, path: str, method: str) -> None:
    response = getattr(rep_client, method)(path)
    assert refusal(response, 404)["code"] == "not_found"


def test_page_that_is_none_is_a_page(rep_client) -> None:
    response = rep_client.get("/nothing")
    assert response.status_code == 404
    assert response.headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("path", ["/api/zoho/status", "/api/pipelines", "/api/zoho/sync-runs/1"])
def test_parameter_nobody_knows_is_refused(rep_client, path: str) -> None:
    assert list(refusal(rep_client.get(f"{path}?debug=1"), 422)["errors"]) == ["debug"]


def test_wrong_host_under_api_is_400_in_json(client: Client) -> None:
    body = refusal(client.get("/api/zoho/status", headers={"host": "evil.example"}), 400)
    assert "evil" not in body["message"]


# -- bodies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xfe",
        b"\xc0\xaf",
        b'{"mode": "\xed\xa0\x80"}',
        b'{"mode": "\\ud800"}',
        b'{"mode": NaN}',
        b'{"mode": -Infinity}',
        b'{"mode": ' + b"1" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\x00",
        b"\xef\xbb\xbf{}",
    ],
)
def test_body_that_is_no_json_is_400(rep_client, body: bytes) -> None:
    response = rep_client.post("/api/zoho/sync", body, content_type="application/json")
    assert refusal(response, 400)["code"] == "parse_error"


@pytest.mark.parametrize(
    "mime", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x"]
)
def test_body_of_another_kind_is_415(rep_client, mime: str) -> None:
    response = rep_client.post("/api/zoho/sync", b"mode=full", content_type=mime)
    assert refusal(response, 415)["code"] == "unsupported_media_type"


def test_body_that_is_too_large_is_413(rep_client, settings) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    body = json.dumps({"mode": "x" * 1000})
    response = rep_client.post("/api/zoho/sync", body, content_type="application/json")
    assert refusal(response, 413)["code"] == "too_large"


def test_what_was_sent_is_quoted_in_part(rep_client) -> None:
    body = json.dumps({"mode": "x" * 100_000})
    response = rep_client.post("/api/zoho/sync", body, content_type="application/json")
    refusal(response, 422)
    assert len(response.content) < 1000


# -- too often, too busy ------------------------------------------------------------------------


def test_too_many_calls_say_when_to_go_on(rep_client, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.clear()
    monkeypatch.setitem(UserRateThrottle.THROTTLE_RATES, "user", "2/min")
    for _ in range(2):
        assert rep_client.get("/api/zoho/status").status_code == 200
    response = rep_client.get("/api/zoho/status")
    assert refusal(response, 429)["code"] == "throttled"
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    cache.clear()


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("database is locked", "database_busy"),
        ("connection failed: refused", "database_away"),
    ],
)
def test_rows_13_15_database_that_is_busy_or_away_is_503(said: str, code: str) -> None:
    response = api_errors.handle(OperationalError(said), {})
    assert response is not None
    assert (response.status_code, response.data["code"]) == (503, code)
    assert response.headers["Retry-After"] == "5"
    assert said not in response.data["message"]


def test_error_before_a_view_is_json_under_api_and_a_page_elsewhere() -> None:
    for path, kind in (("/api/x", "application/json"), ("/x", "text/html")):
        request = RequestFactory().get(path)
        try:
            raise OperationalError("connection refused")
        except OperationalError:
            away = api_errors.server_error(request)
        try:
            raise ZeroDivisionError("secret detail")
        except ZeroDivisionError:
            bug = api_errors.server_error(request)
        assert (away.status_code, bug.status_code) == (503, 500)
        assert away.headers["Retry-After"] == "5"
        assert away.headers["Content-Type"].startswith(kind)
        assert b"secret detail" not in bug.content


# -- domain errors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (crm.CrmUnreachable("Down.", retry_after_s=12.2), 503, "13"),
        (crm.CrmUnreachable("Connect again."), 503, None),
        (crm.CrmNotConfigured(), 503, None),
        (crm.OtherOrganisation("A", "B"), 409, None),
        (crm.LeaseLost(), 409, None),
        (zoho.RateLimited("Slow.", code="x", retry_after_s=0.2), 503, "1"),
        (zoho.Reauthenticate("Connect.", code="invalid_code"), 503, None),
        (zoho.AlreadyModified("Changed.", code="ALREADY_MODIFIED"), 409, None),
        (zoho.FixFields("Fields.", code="INVALID_MODULE"), 503, None),
    ],
)
def test_domain_error_keeps_its_own_code_and_sentence(
    error: Any, status: int, retry_after: str | None
) -> None:
    response = api_errors.handle(error, {})
    assert response is not None
    assert response.status_code == status
    assert response.data == {"code": error.code, "message": error.message, "errors": {}}
    assert response.headers.get("Retry-After") == retry_after


def test_bug_is_left_to_be_logged() -> None:
    assert api_errors.handle(ZeroDivisionError(), {}) is None


# -- the schema ---------------------------------------------------------------------------------


def test_schema_names_every_path_and_what_each_may_refuse(rep_client) -> None:
    schema = json.loads(rep_client.get("/api/schema").content)
    described = {path.replace("{id}", "1") for path in schema["paths"]}
    assert described == {webhook.ADDRESS, *api_paths()} - {"/api/schema"}
    assert schema["paths"].pop(webhook.ADDRESS)["post"]["security"] == [{}]
    for operations in schema["paths"].values():
        for operation in operations.values():
            assert {"401", "403", "422", "429", "503"} <= operation["responses"].keys()
    started = schema["paths"]["/api/zoho/sync"]["post"]["responses"]
    assert {"202", "400", "409", "415"} <= started.keys()


def test_docs_are_for_anyone_signed_in(client: Client, rep_client) -> None:
    assert client.get("/docs").headers["Location"] == "/login?next=/docs"
    response = rep_client.get("/docs")
    assert response.status_code == 200
    policy = response.headers["Content-Security-Policy"]
    assert "style-src 'self' 'unsafe-inline'" in policy
    assert "script-src 'self'" in policy.split("; ")  # directives have no order
    assert b"http" not in response.content.replace(b"http://www.w3.org", b"")
