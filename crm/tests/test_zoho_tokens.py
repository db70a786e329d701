"""One token for all processes, however many need it at once."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import pytest

from crm.tests.odd_server import (
    Asked,
    HeldTime,
    Odd,
    OddServer,
    answer,
    client_of,
    error,
    page,
    token_reply,
)
from crm.zoho.errors import RateLimited, Reauthenticate, RetryLater
from crm.zoho.state import MemoryState

STALE = error(401, "INVALID_TOKEN", "invalid oauth token")


class Crm(OddServer):
    """Takes the tokens in `good` only; mints t1, t2, … and takes the newest."""

    def __init__(self) -> None:
        self.good: set[str] = set()
        super().__init__(script=self._api, tokens=self._mint)

    def _mint(self, asked: Asked) -> Odd:
        value = f"t{len(self.minted)}"
        self.good.add(value)
        return token_reply(value)

    def _api(self, asked: Asked) -> Odd:
        return page([{"id": "1"}]) if asked.token in self.good else STALE


@pytest.fixture
def crm():
    with Crm() as server:
        yield server


def read(client: Any) -> int:
    return client.by_ids("Deals", [1], ["Deal_Name"]).count


def test_row_29_many_clients_and_threads_mint_once(crm):
    time = HeldTime(breath_s=0.01)
    state = MemoryState(lambda: time.wall)
    clients = [client_of(crm, time, state=state) for _ in range(4)]
    threads = [
        threading.Thread(target=read, args=(client,)) for client in clients for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(crm.asked) == 16
    assert len(crm.minted) == 1
    assert {asked.token for asked in crm.asked} == {"t1"}


def test_the_form_carries_the_secrets_in_its_body(crm):
    read(client_of(crm))
    (minted,) = crm.minted
    assert minted.method == "POST"
    assert minted.query == {}
    assert b"grant_type=refresh_token" in minted.body
    assert b"the-client-secret" in minted.body


def test_row_28_an_expired_token_is_replaced_once_for_all_and_the_call_repeated(crm):
    time = HeldTime(breath_s=0.01)
    state = MemoryState(lambda: time.wall)
    clients = [client_of(crm, time, state=state) for _ in range(8)]
    assert [read(client) for client in clients] == [1] * 8
    crm.good.clear()
    time.pass_by(120)
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda client=client: counts.append(read(client)))
        for client in clients
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert counts == [1] * 8
    assert len(crm.minted) == 2


@pytest.mark.parametrize("code", ["INVALID_TOKEN", "AUTHENTICATION_FAILURE"])
def test_row_28_in_mid_paging_the_same_page_is_asked_again(code):
    script = [
        page([{"id": "1"}], more=True, token="p2"),
        error(401, code),
        page([{"id": "2"}]),
    ]
    time = HeldTime()
    with OddServer(script, tokens=[token_reply("t1"), token_reply("t2")]) as server:
        client = client_of(server, time, patience={"mint_interval_s": 0})
        pages = list(client.list_pages("Deals", ["Deal_Name"]))
        assert [row.value["id"] for p in pages for row in p.records] == ["1", "2"]
        assert [asked.query.get("page_token") for asked in server.asked] == [None, "p2", "p2"]
        assert [asked.token for asked in server.asked] == ["t1", "t1", "t2"]


def test_a_token_refused_right_after_it_was_minted_ends_with_what_to_check():
    with OddServer([STALE], tokens=[token_reply("t1"), token_reply("t2")]) as server:
        client = client_of(server, patience={"mint_interval_s": 0})
        with pytest.raises(Reauthenticate, match="same data centre") as caught:
            read(client)
        assert caught.value.code == "INVALID_TOKEN"
        assert len(server.asked) == 2


def test_row_29_never_more_than_one_mint_a_minute(crm):
    time = HeldTime()
    client = client_of(crm, time, patience={"tries": 20})
    minted_at: list[float] = []
    mint = crm.tokens
    crm.tokens = lambda asked: (minted_at.append(time.wall), mint(asked))[1]
    for _ in range(10):
        crm.good.clear()
        assert read(client) == 1
    gaps = [later - earlier for earlier, later in pairwise(minted_at)]
    assert len(minted_at) == 10
    assert min(gaps) >= 60


def test_a_token_is_renewed_at_four_fifths_of_its_life(crm):
    time = HeldTime()
    client = client_of(crm, time)
    read(client)
    time.pass_by(3600 * 0.79)
    read(client)
    assert len(crm.minted) == 1
    time.pass_by(3600 * 0.02)
    read(client)
    assert len(crm.minted) == 2
    assert [asked.token for asked in crm.asked] == ["t1", "t1", "t2"]


def test_a_renewal_that_fails_leaves_the_old_token_in_use(crm):
    time = HeldTime()
    client = client_of(crm, time)
    read(client)
    time.pass_by(3600 * 0.9)
    crm.tokens = [Odd(503)]
    assert read(client) == 1
    assert crm.asked[-1].token == "t1"


def test_a_second_process_uses_the_stored_token_which_is_not_in_clear(crm):
    time = HeldTime()
    state = MemoryState(lambda: time.wall)
    read(client_of(crm, time, state=state))
    stored = [value for value, _ in state._values.values()]
    assert not any("t1" in value and "access" in value for value in stored)
    assert not any(
        "the-client-secret" in name + value for name, (value, _) in state._values.items()
    )
    read(client_of(crm, time, state=state))
    assert len(crm.minted) == 1


def test_a_stored_token_that_cannot_be_read_is_replaced(crm):
    time = HeldTime()
    state = MemoryState(lambda: time.wall)
    read(client_of(crm, time, state=state))
    (name,) = [name for name in state._values if name.startswith("zoho:token:")]
    state.put(name, "written with a key that is gone")
    time.pass_by(61)
    assert read(client_of(crm, time, state=state)) == 1
    assert len(crm.minted) == 2


def test_other_credentials_do_not_get_this_token(crm):
    time = HeldTime()
    state = MemoryState(lambda: time.wall)
    read(client_of(crm, time, state=state))
    read(client_of(crm, time, state=state, refresh_token="1000.another.one"))
    assert len(crm.minted) == 2


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("invalid_client", "ZOHO_CLIENT_ID"),
        ("invalid_client_secret", "ZOHO_CLIENT_SECRET"),
        ("invalid_code", "ZOHO_REFRESH_TOKEN"),
        ("unsupported_grant_type", "ZOHO_CLIENT_ID"),
    ],
)
@pytest.mark.parametrize("status", [200, 400])
def test_row_30_a_refusal_says_what_to_do_and_is_not_asked_again(code, names, status):
    time = HeldTime()
    state = MemoryState(lambda: time.wall)
    with OddServer(tokens=[answer({"error": code}, status)]) as server:
        with pytest.raises(Reauthenticate) as caught:
            read(client_of(server, time, state=state))
        assert caught.value.code == code
        assert names in caught.value.message
        for _ in range(5):
            time.pass_by(61)
            with pytest.raises(Reauthenticate) as again:
                read(client_of(server, time, state=state))
            assert again.value.message == caught.value.message
        assert len(server.minted) == 1
        assert server.asked == []


def test_row_30_a_check_by_a_person_asks_anew():
    time = HeldTime()
    state = MemoryState(lambda: time.wall)
    tokens = [answer({"error": "invalid_client"}), token_reply("t1")]
    with OddServer(tokens=tokens) as server:
        with pytest.raises(Reauthenticate):
            read(client_of(server, time, state=state))
        time.pass_by(61)
        assert read(client_of(server, time, state=state, purpose="check")) == 1


def test_row_30_what_is_known_to_be_refused_is_told_without_a_call():
    time = HeldTime()
    state = MemoryState(lambda: time.wall)
    with OddServer(tokens=[answer({"error": "invalid_client"})]) as server:
        client = client_of(server, time, state=state)
        client._transport.raise_if_known_down()
        with pytest.raises(Reauthenticate) as caught:
            read(client)
        with pytest.raises(Reauthenticate) as again:
            client_of(server, time, state=state)._transport.raise_if_known_down()
        assert again.value.message == caught.value.message
        assert len(server.minted) == 1


def test_another_secret_is_not_judged_by_the_refusal_of_the_old_one():
    time = HeldTime()
    state = MemoryState(lambda: time.wall)
    with OddServer(tokens=[answer({"error": "invalid_client_secret"}), token_reply()]) as server:
        with pytest.raises(Reauthenticate):
            read(client_of(server, time, state=state))
        time.pass_by(61)
        assert read(client_of(server, time, state=state, client_secret="mended")) == 1


THROTTLED = {
    "error_description": "You have made too many requests continuously. Please try again.",
    "error": "Access Denied",
}


@pytest.mark.parametrize("status", [200, 400])
def test_row_29_the_crm_blocks_tokens_and_is_left_alone_for_ten_minutes(status):
    time = HeldTime()
    state = MemoryState(lambda: time.wall)
    with OddServer(tokens=[answer(THROTTLED, status), token_reply()]) as server:
        client = client_of(server, time, state=state, patience={"total_s": 30})
        with pytest.raises(RateLimited):
            read(client)
        for _ in range(9):
            time.pass_by(60)
            with pytest.raises(RateLimited):
                read(client)
        assert len(server.minted) == 1
        time.pass_by(61)
        assert read(client) == 1


@pytest.mark.parametrize(
    "odd",
    [
        Odd(200, b"<html>maintenance</html>", {"Content-Type": "text/html"}),
        Odd(502, b"<html>bad gateway</html>", {"Content-Type": "text/html"}),
        answer({}),
        answer([1]),
        answer({"access_token": ""}),
        Odd(200, b'{"access_token": "cut'),
    ],
)
def test_a_token_reply_that_is_none_is_tried_again_after_a_minute(odd):
    time = HeldTime()
    with OddServer(tokens=[odd, token_reply()]) as server:
        start = time.wall
        assert read(client_of(server, time)) == 1
        assert len(server.minted) == 2
        assert time.wall - start >= 60


def test_a_token_request_that_was_cut_off_may_be_repeated_at_once():
    time = HeldTime()
    with OddServer(tokens=[Odd(raw=b"", then="close"), token_reply()]) as server:
        start = time.wall
        assert read(client_of(server, time)) == 1
        assert time.wall - start < 10


@pytest.mark.parametrize(
    ("life", "seconds"),
    [
        ({}, 3600),
        ({"expires_in": 1800}, 1800),
        ({"expires_in": 3_600_000}, 3600),
        ({"expires_in": 3_600_000, "expires_in_sec": 1800}, 1800),
        ({"expires_in": "soon"}, 3600),
        ({"expires_in": -5}, 3600),
    ],
)
def test_the_life_of_a_token_however_it_is_said(life, seconds):
    time = HeldTime()
    reply = {"access_token": "t1", **life}
    with OddServer(tokens=[answer(reply), token_reply("t2")]) as server:
        client = client_of(server, time)
        read(client)
        time.pass_by(seconds * 0.79)
        read(client)
        assert len(server.minted) == 1
        time.pass_by(seconds * 0.02)
        read(client)
        assert len(server.minted) == 2


def test_a_wrong_accounts_address_says_which_setting():
    with (
        OddServer(tokens=[Odd(404, b"<html>not here</html>")]) as server,
        pytest.raises(Reauthenticate, match="ZOHO_ACCOUNTS_URL"),
    ):
        read(client_of(server))


def test_row_40_a_redirect_of_the_token_call_is_not_followed():
    elsewhere = Odd(302, headers={"Location": "http://127.0.0.1:9/steal"})
    with OddServer(tokens=[elsewhere]) as server:
        with pytest.raises(Reauthenticate, match="ZOHO_ACCOUNTS_URL"):
            read(client_of(server))
        assert len(server.minted) == 1


def test_a_process_that_waits_for_anothers_token_takes_it():
    time = HeldTime()
    state = MemoryState(lambda: time.wall)
    with Crm() as crm:
        first = client_of(crm, time, state=state)
        read(first)
        (name,) = [name for name in state._values if name.startswith("zoho:token:")]
        stored = state.get(name)
        state.compare_and_set(name, stored, None)
        lock = name.replace("token", "minting")
        waits: list[float] = []

        with state.lock(lock, 60) as held:
            assert held
            second = client_of(crm, time, state=state)
            second._transport._tokens._wait = lambda s: (waits.append(s), state.put(name, stored))
            assert read(second) == 1
        assert waits
        assert len(crm.minted) == 1


def test_a_token_that_never_comes_is_retry_later():
    time = HeldTime()
    state = MemoryState(lambda: time.wall)
    with Crm() as crm:
        client = client_of(crm, time, state=state, patience={"tries": 1})
        name = client._transport._tokens._lock_name
        state.put(name, "another process, for ever")
        with pytest.raises(RetryLater) as caught:
            read(client)
        assert caught.value.code == "token_wait"
        assert crm.minted == []
