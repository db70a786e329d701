"""The sandbox's token desk: who gets a token, when it dies, what refusals look like."""

from urllib.parse import parse_qs, urlparse

import pytest
import requests

from crm.tests.sandbox_calls import Crm, mint
from crm.tests.sandbox_process import (
    CLIENT_ID,
    CLIENT_SECRET,
    REFRESH_TOKEN,
    running_sandbox,
    start_sandbox,
)


@pytest.fixture
def sandbox(tmp_path):
    with running_sandbox(tmp_path, deals=5) as running:
        yield running


def test_token_opens_the_api_and_names_its_own_base(sandbox):
    reply = mint(sandbox)
    assert reply["api_domain"] == sandbox.url
    assert reply["token_type"] == "Bearer"
    assert reply["expires_in"] == 3600
    assert "refresh_token" not in reply
    header = {"Authorization": f"Zoho-oauthtoken {reply['access_token']}"}
    assert requests.get(f"{sandbox.url}/crm/v8/org", headers=header, timeout=10).ok


def test_token_may_be_asked_for_in_the_query_string(sandbox):
    query = {
        "grant_type": "refresh_token",
        "refresh_token": REFRESH_TOKEN,
        "client_id": CLIENT_ID,
        "client_secret": "sandbox-secret",
    }
    answer = requests.post(f"{sandbox.url}/oauth/v2/token", params=query, timeout=10)
    assert "access_token" in answer.json()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"client_id": "1000.OTHER"}, "invalid_client"),
        ({"client_secret": "wrong"}, "invalid_client_secret"),
        ({"refresh_token": "1000.x.y"}, "invalid_code"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": "authorization_code", "code": "none"}, "invalid_code"),
    ],
)
def test_refusals_come_with_status_200_and_an_error(sandbox, change, error):
    assert mint(sandbox, **change) == {"error": error}


def test_eleventh_token_within_ten_minutes_is_refused_until_the_window_has_passed(sandbox):
    replies = [mint(sandbox) for _ in range(11)]
    assert all("access_token" in reply for reply in replies[:10])
    assert replies[10]["error"] == "Access Denied"
    sandbox.control("config", clock_offset_s=601)
    assert "access_token" in mint(sandbox)


def test_more_than_ten_live_tokens_kill_the_oldest(sandbox):
    sandbox.control("config", mint_limit=100)
    tokens = [mint(sandbox)["access_token"] for _ in range(11)]

    def status(token):
        header = {"Authorization": f"Zoho-oauthtoken {token}"}
        return requests.get(f"{sandbox.url}/crm/v8/org", headers=header, timeout=10).status_code

    assert [status(tokens[0]), status(tokens[1]), status(tokens[10])] == [401, 200, 200]


def test_expired_and_missing_tokens_have_different_codes(sandbox):
    crm = Crm(sandbox)
    sandbox.control("config", clock_offset_s=3601)
    expired = crm.get("org")
    assert (expired.status_code, expired.json()) == (
        401,
        {
            "code": "INVALID_TOKEN",
            "details": {},
            "message": "invalid oauth token",
            "status": "error",
        },
    )
    missing = requests.get(f"{sandbox.url}/crm/v8/org", timeout=10)
    assert (missing.status_code, missing.json()["code"]) == (401, "AUTHENTICATION_FAILURE")


def test_revoked_refresh_token_kills_its_tokens_and_mints_no_more(sandbox):
    crm = Crm(sandbox)
    sandbox.control("revoke_refresh_token")
    assert crm.get("org").json()["code"] == "INVALID_TOKEN"
    assert mint(sandbox) == {"error": "invalid_code"}


def test_missing_scope_is_named_as_such(sandbox):
    crm = Crm(sandbox)
    sandbox.control("config", scopes=["ZohoCRM.modules.ALL"])
    assert crm.get("Deals", fields="Stage").status_code == 200
    refused = crm.coql("select Stage from Deals where id is not null")
    assert (refused.status_code, refused.json()["code"]) == (401, "OAUTH_SCOPE_MISMATCH")


BACK = "http://127.0.0.1:1/callback"


def consent(sandbox, **more):
    """What the redirect after a consent carries."""
    answer = requests.get(
        f"{sandbox.url}/oauth/v2/auth",
        params={"client_id": CLIENT_ID, "redirect_uri": BACK, **more},
        allow_redirects=False,
        timeout=10,
    )
    return parse_qs(urlparse(answer.headers["Location"]).query)


def exchange(sandbox, code):
    return mint(sandbox, grant_type="authorization_code", code=code, redirect_uri=BACK)


def test_consent_gives_a_code_that_works_once(sandbox):
    query = consent(sandbox, state="s1", access_type="offline")
    assert query["state"] == ["s1"]
    assert query["accounts-server"] == [sandbox.url]
    assert exchange(sandbox, query["code"][0])["refresh_token"] == REFRESH_TOKEN
    assert exchange(sandbox, query["code"][0]) == {"error": "invalid_code"}


@pytest.mark.parametrize(
    ("wish", "gives"),
    [
        ({}, False),
        ({"access_type": "offline"}, False),
        ({"prompt": "consent"}, False),
        ({"access_type": "offline", "prompt": "consent"}, True),
    ],
)
def test_a_second_consent_gives_a_refresh_token_only_when_asked_twice(sandbox, wish, gives):
    exchange(sandbox, consent(sandbox, access_type="offline")["code"][0])
    again = exchange(sandbox, consent(sandbox, **wish)["code"][0])
    assert again["access_token"]
    assert ("refresh_token" in again) is gives


@pytest.mark.parametrize("status", [200, 400])
def test_too_many_tokens_are_refused_with_either_status(sandbox, status):
    sandbox.control("config", mint_limit=0, mint_refusal_status=status)
    answer = requests.post(f"{sandbox.url}/oauth/v2/token", timeout=10, data={
        "grant_type": "refresh_token", "refresh_token": REFRESH_TOKEN,
        "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
    })  # fmt: skip
    assert (answer.status_code, answer.json()["error"]) == (status, "Access Denied")


def test_a_token_reply_may_lack_its_life(sandbox):
    sandbox.control("faults", rules=[{"do": "top", "path": "/oauth", "drop": ["expires_in"]}])
    assert "expires_in" not in mint(sandbox)
    assert mint(sandbox)["expires_in"] == 3600


def test_issued_tokens_and_data_survive_a_power_cut(tmp_path):
    first = start_sandbox(tmp_path, deals=5)
    crm = Crm(first)
    made = crm.write("POST", "Accounts", [{"Account_Name": "Kept"}]).json()["data"][0]["details"][
        "id"
    ]
    first.kill()
    second = start_sandbox(tmp_path, deals=5_000, port=first.port)
    try:
        assert crm.record("Accounts", made)["Account_Name"] == "Kept"
        assert crm.get("Deals/actions/count").json() == {"count": 5}
        assert second.stop() == 0
    finally:
        second.stop()
