"""The tree of errors: what a caller may rely on, and that nothing secret is in it."""

from __future__ import annotations

import pickle

import pytest

from crm.zoho import errors
from crm.zoho.errors import (
    NotConfigured,
    RateLimited,
    ZohoError,
    error_from_answer,
    one_line,
    redact,
    redact_details,
)

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, ZohoError) and kind is not NotConfigured
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_carries_code_message_status_and_details(kind):
    error = kind("Do this.", code="THEIRS", status=418, details={"a": 1}, crm_message="said")
    assert (error.message, error.code, error.status, error.details) == (
        "Do this.",
        "THEIRS",
        418,
        {"a": 1},
    )
    assert str(error) == "Do this."


@pytest.mark.parametrize("kind", KINDS)
def test_errors_survive_the_way_between_processes(kind):
    error = kind("Do this.", code="THEIRS", status=418, details={"a": 1})
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(again) is kind
    assert vars(again) == vars(error)
    assert str(again) == "Do this."


def test_not_configured_says_what_to_set():
    assert "ZOHO_REFRESH_TOKEN" in NotConfigured().message
    assert pickle.loads(pickle.dumps(NotConfigured())).code == "not_configured"  # noqa: S301


def test_every_status_gives_an_error_of_one_line():
    for status in [*range(300, 304), *range(305, 600)]:
        error = error_from_answer(
            status,
            {"code": "X\r\nY", "message": "a\x1b[31m\nb", "details": "c\nd"},
            host="crm",
            subject="the module Deals",
        )
        assert error.status == status
        for text in (error.message, error.code, error.crm_message, repr(error.details)):
            assert one_line(text) == text
        assert error.message.rstrip().endswith(".")


def test_a_rate_code_counts_whatever_the_status():
    error = error_from_answer(400, {"code": "RATE_LIMIT_EXCEEDED"}, host="crm", subject="x")
    assert isinstance(error, RateLimited)


@pytest.mark.parametrize(
    "text",
    [
        "1000.SECRETSECRET.SECRETSECRET",
        "Authorization: Zoho-oauthtoken SECRET",
        '{"access_token":"SECRET"}',
        "refresh_token=SECRET&client_id=1",
        "client_secret: SECRET",
        "mine is SECRET here",
    ],
)
def test_secrets_are_taken_out(text):
    assert "SECRET" not in redact(text, ["SECRET"])


@pytest.mark.parametrize(
    "text",
    ['{"access_token":"SECRET"}', "refresh_token=SECRET&x=1", "Zoho-oauthtoken SECRET"],
)
def test_what_looks_like_a_secret_is_taken_out_unasked(text):
    assert "SECRET" not in redact(text)


def test_an_excerpt_is_short_and_on_one_line():
    cut = redact("line\nline\r\x00\u2028" + "x" * 100_000)
    assert "\n" not in cut
    assert "\u2028" not in cut
    assert len(cut) < 1100


def test_details_stay_small_and_without_secrets():
    deep: dict = {}
    deep["again"] = deep
    kept = redact_details(
        {
            "token": "SECRET",
            "permissions": ["a"] * 1000,
            "limit": 50,
            "deep": deep,
            "text": "x" * 10_000,
            "param_name": "page_token",
        }
    )
    assert kept["token"] == "***"
    assert len(kept["permissions"]) == 50
    assert kept["limit"] == 50
    assert kept["param_name"] == "page_token"
    assert len(repr(kept)) < 3000
