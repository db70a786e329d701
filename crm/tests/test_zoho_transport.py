"""One call against a CRM that answers badly: what is tried again, how long, and what is said."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import threading
import time as real_time
from contextlib import suppress
from typing import Any

import pytest

from crm.tests.odd_server import (
    DATE,
    NOTHING,
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
from crm.zoho.errors import (
    BadPayload,
    BreakerOpen,
    Closed,
    CreditsExhausted,
    FixFields,
    FixRequest,
    GiveUp,
    NotPermitted,
    RateLimited,
    Reauthenticate,
    RetryLater,
    ScopeMissing,
    ServerFault,
    Unreachable,
    ZohoError,
)
from crm.zoho.state import MemoryState

GOOD = page([{"id": "1", "Deal_Name": "Acme"}])
HTML = Odd(200, b"<html><body>Sign in</body></html>", {"Content-Type": "text/html"})


def read(client: Any) -> int:
    page_ = client.by_ids("Deals", [1], ["Deal_Name"])
    return len(page_.records)


def one_read(*script: Odd, time: HeldTime | None = None, **changes: Any) -> tuple[int, Any, Any]:
    with OddServer(list(script)) as server:
        client = client_of(server, time, **changes)
        return read(client), client, server


# ---------------------------------------------------------------- too many calls


def test_row_24_a_429_without_retry_after_waits_and_ends_well():
    time = HeldTime()
    rows, client, _ = one_read(
        error(429, "TOO_MANY_REQUESTS"), error(429, "TOO_MANY_REQUESTS"), GOOD, time=time
    )
    assert rows == 1
    assert (client.calls, client.retries) == (3, 2)
    assert sum(time.slept) == pytest.approx(1 + 60 ** (1 / 4), rel=0.01)


def test_row_24_every_client_of_the_installation_pauses():
    time = HeldTime()
    state = MemoryState(lambda: time.wall)
    with OddServer([error(429, "TOO_MANY_REQUESTS", Retry_After="60"), GOOD]) as server:
        patience = {"tries": 2, "total_s": 70}
        with client_of(server, time, state=state, patience=patience) as first:
            assert read(first) == 1
    with OddServer([error(429, "TOO_MANY_REQUESTS", Retry_After="600"), GOOD]) as server:
        short = client_of(server, time, state=state, patience={"total_s": 30})
        with short, pytest.raises(RateLimited):
            read(short)
        state.put("zoho:pause:" + _name_of(state), repr(time.wall + 500), 500)
        with pytest.raises(RateLimited) as caught:
            read(client_of(server, time, state=state, purpose="page"))
        assert caught.value.retry_after_s > 400
        assert len(server.asked) == 1


def _name_of(state: MemoryState) -> str:
    name = next(name for name in state._values if name.startswith("zoho:token:"))
    return name.removeprefix("zoho:token:")


def test_row_24_a_concurrency_429_is_no_failure_of_the_crm():
    time = HeldTime()
    state = MemoryState(lambda: time.wall)
    script = [error(429, "TOO_MANY_REQUESTS")] * 5 + [GOOD]
    with OddServer(script) as server:
        client = client_of(server, time, state=state)
        assert read(client) == 1
        assert not any(name.startswith("zoho:breaker") for name in state._values)
        assert client._transport.gate.limit == 1  # 8, halved with each refusal


@pytest.mark.parametrize(
    ("value", "waited"),
    [
        ("7", 7),
        ("0", 0),
        ("-1", 0),
        ("Fri, 20 Nov 2026 10:00:30 GMT", 30),
        ("Fri, 20 Nov 2026 09:00:00 GMT", 0),
        ("Fri, 20 Nov 2026 23:00:00 GMT", 900),
        ("1000000000", 900),
        ("9" * 40, 1),
        ("abc", 1),
        ("7.5s", 1),
        ("٧", 1),
        ("", 1),
    ],
)
def test_row_25_retry_after_is_obeyed_within_reason(value, waited):
    time = HeldTime()
    refusal = error(429, "TOO_MANY_REQUESTS")
    refusal.headers = {**refusal.headers, "Retry-After": value}
    if not value.isascii():
        refusal.raw = refusal.start().replace(b"\xd9\xa7", b"\xd9\xa7") + refusal.body
    rows, _, _ = one_read(refusal, GOOD, time=time, patience={"total_s": 2000})
    assert rows == 1
    assert sum(time.slept) == pytest.approx(waited, abs=0.01)


def test_row_25_a_wait_longer_than_the_call_may_take_is_handed_to_the_caller():
    time = HeldTime()
    with OddServer([error(429, "TOO_MANY_REQUESTS", Retry_After="1000000")]) as server:
        with pytest.raises(RateLimited) as caught:
            read(client_of(server, time))
        assert caught.value.retry_after_s == 900
        assert time.slept == []


def test_row_26_no_credits_left_is_not_tried_again():
    refusal = error(429, "TOO_MANY_REQUESTS", X_API_CREDITS_REMAINING="0")
    with OddServer([refusal]) as server:
        client = client_of(server)
        with pytest.raises(CreditsExhausted) as caught:
            read(client)
        assert caught.value.retry_after_s == 3600
        assert len(server.asked) == 1
        assert client.credits_remaining == 0


def test_row_26_the_credits_the_crm_names_are_kept():
    rows, client, _ = one_read(page([{"id": "1"}], X_API_CREDITS_REMAINING="2400"))
    assert (rows, client.credits_remaining) == (1, 2400)
    rows, client, _ = one_read(GOOD)
    assert (rows, client.credits_remaining) == (1, None)


# ---------------------------------------------------------------- the CRM is down


@pytest.mark.parametrize("status", [408, 425, 500, 502, 503, 504])
def test_row_27_a_short_burst_is_outlasted(status):
    burst = Odd(status, b"<html>oops</html>", {"Content-Type": "text/html"})
    time = HeldTime()
    rows, client, _ = one_read(burst, burst, burst, GOOD, time=time)
    assert rows == 1
    assert client.retries == 3


def test_row_27_at_most_six_tries_and_one_request_a_probe():
    time = HeldTime(breath_s=0.01)
    state = MemoryState(lambda: time.wall)
    with OddServer([Odd(503)]) as server:
        client = client_of(server, time, state=state)
        with pytest.raises(ServerFault) as caught:
            read(client)
        assert len(server.asked) == 6
        assert "503" in caught.value.message
        for _ in range(10):
            with pytest.raises(BreakerOpen):
                read(client_of(server, time, state=state))
        assert len(server.asked) == 6
        time.pass_by(61)
        threads = [
            threading.Thread(target=_quietly, args=(client_of(server, time, state=state, **ONE),))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(server.asked) == 7


ONE = {"purpose": "check"}


def _quietly(client: Any) -> None:
    with suppress(ZohoError):
        read(client)


def test_row_27_a_call_under_way_outlasts_the_rest_and_ends_well():
    time = HeldTime()
    script = [Odd(500)] * 5 + [GOOD]
    rows, client, _ = one_read(*script, time=time)
    assert rows == 1
    assert client.calls == 6
    assert sum(time.slept) >= 60  # the breaker's rest was kept


@pytest.mark.parametrize(("purpose", "waits"), [("sync", True), ("page", False)])
def test_row_27_a_run_under_way_waits_for_the_rest_and_a_page_does_not(purpose, waits):
    time = HeldTime()
    state = MemoryState(lambda: time.wall)
    with OddServer([GOOD]) as server:
        client = client_of(server, time, state=state, purpose=purpose)
        assert read(client) == 1
        other = client_of(f"http://127.0.0.1:{server.port}", time, state=state)
        for _ in range(5):
            time.pass_by(1)
            other._transport._breaker.failed(time.wall)
        time.pass_by(1.1)
        if waits:
            assert read(client) == 1
            assert sum(time.slept) > 50
        else:
            with pytest.raises(BreakerOpen):
                read(client)
            assert time.slept == []


def test_a_person_does_not_wait_for_a_crm_that_is_down():
    time = HeldTime()
    with OddServer([Odd(503)]) as server:
        with pytest.raises(ServerFault):
            read(client_of(server, time, purpose="page"))
        assert len(server.asked) == 2
        assert sum(time.slept) <= 10


def test_the_whole_call_ends_after_ten_minutes():
    time = HeldTime()
    with OddServer([error(503, "INTERNAL_ERROR", Retry_After="250")]) as server:
        with pytest.raises(ServerFault):
            read(client_of(server, time))
        assert sum(time.slept) <= 600
        assert len(server.asked) == 3


# ---------------------------------------------------------------- refused


def test_row_31_a_missing_scope_is_named_and_no_token_is_wasted_on_it():
    refusal = error(401, "OAUTH_SCOPE_MISMATCH", "invalid oauth scope to access this URL")
    with OddServer([refusal]) as server:
        client = client_of(server)
        with pytest.raises(ScopeMissing, match=r"ZohoCRM\.coql\.READ") as caught:
            client.coql("select id from Deals where id is not null")
        assert caught.value.details["scope"] == "ZohoCRM.coql.READ"
        with pytest.raises(ScopeMissing, match=r"ZohoCRM\.modules\.Leads\.READ"):
            list(client.list_pages("Leads", ["Last_Name"]))
        assert len(server.asked) == 2
        assert len(server.minted) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_row_31_a_missing_permission_names_module_and_permission(status):
    details = {"permissions": ["Crm_Implied_View_Deals"]}
    with OddServer([error(status, "NO_PERMISSION", "permission denied", details)]) as server:
        with pytest.raises(NotPermitted, match="Crm_Implied_View_Deals") as caught:
            read(client_of(server))
        assert "Deals" in caught.value.message
        assert caught.value.code == "NO_PERMISSION"
        assert caught.value.crm_message == "permission denied"
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("odd", "kind", "words"),
    [
        (
            error(400, "INVALID_MODULE", "the module name given seems to be invalid"),
            FixFields,
            "mapping",
        ),
        (error(400, "LIMIT_EXCEEDED"), FixRequest, "LIMIT_EXCEEDED"),
        (error(404, "INVALID_URL_PATTERN"), FixRequest, "ZOHO_BASE_URL"),
        (Odd(404, b"<html>no</html>", {"Content-Type": "text/html"}), FixRequest, "ZOHO_BASE_URL"),
        (Odd(403, b"<html>blocked</html>"), NotPermitted, "http_403"),
        (error(415, "MEDIA_TYPE_NOT_SUPPORTED"), FixRequest, "415"),
        (error(200, "INVALID_MODULE"), FixFields, "mapping"),
        (
            Odd(401, b"<html>who</html>", {"Content-Type": "text/html"}),
            Reauthenticate,
            "data centre",
        ),
    ],
)
def test_a_refusal_is_typed_by_what_to_do_and_not_repeated(odd, kind, words):
    with OddServer([odd]) as server:
        with pytest.raises(kind, match=words):
            read(client_of(server))
        assert len(server.asked) == 1


# ---------------------------------------------------------------- odd bodies


@pytest.mark.parametrize("nothing", [NOTHING, Odd(304, headers={"Content-Length": ""})])
def test_row_32_an_empty_answer_is_an_empty_page(nothing):
    rows, client, _ = one_read(nothing)
    assert (rows, client.retries) == (0, 0)


@pytest.mark.parametrize(
    "odd",
    [
        HTML,
        Odd(200, b""),
        Odd(200, b'{"data":[]}', {"Content-Type": "text/plain"}),
        Odd(200, b'{"data":[]}', {"Content-Type": ""}),
        Odd(200, b'"just text"'),
        Odd(200, b'{"data":[{"id":"1"}'),
        Odd(200, b'{"data":[{"id":"1"}]'),
        Odd(200, b'{"data":[{"id":"1","x":{}}'),
        Odd(200, b"\xff\xfe"),
    ],
)
def test_row_33_what_is_no_json_is_asked_again_and_never_no_records(odd):
    rows, client, _ = one_read(odd, GOOD)
    assert (rows, client.retries) == (1, 1)


def test_row_33_html_for_ever_is_a_bad_payload_with_a_clean_excerpt():
    body = b"<html>1000.0123456789abcdef.0123456789abcdef the-client-secret" + b"x" * 5000
    with OddServer([Odd(200, body, {"Content-Type": "text/html"})]) as server:
        with pytest.raises(BadPayload, match="text/html") as caught:
            read(client_of(server))
        excerpt = caught.value.details["excerpt"]
        assert excerpt.startswith("<html>")
        assert "0123456789abcdef" not in excerpt
        assert "the-client-secret" not in excerpt
        assert len(excerpt) <= 1024
        assert len(server.asked) == 6


WHOLE = GOOD.start() + GOOD.body


@pytest.mark.parametrize("cut", range(1, len(WHOLE), max(1, len(WHOLE) // 40)))
@pytest.mark.parametrize("then", ["close", "reset"])
def test_row_34_and_35_an_answer_cut_anywhere_is_asked_again(cut, then):
    rows, client, _ = one_read(Odd(raw=WHOLE[:cut], then=then), GOOD)
    assert rows == 1
    assert client.calls == 2


@pytest.mark.parametrize("cut", range(1, len(GOOD.body), 3))
def test_row_34_without_a_length_a_cut_body_is_still_found(cut):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    rows, client, _ = one_read(Odd(raw=head + GOOD.body[:cut], then="close"), GOOD)
    assert (rows, client.calls) == (1, 2)


@pytest.mark.parametrize("cut", range(1, len(gzip.compress(GOOD.body)), 7))
def test_row_34_a_packed_body_that_was_cut_is_found_whatever_its_length_says(cut):
    packed = gzip.compress(GOOD.body)[:cut]
    rows, client, _ = one_read(Odd(200, packed, {"Content-Encoding": "gzip"}), GOOD)
    assert (rows, client.calls) == (1, 2)


def test_a_packed_body_is_read():
    packed = Odd(200, gzip.compress(GOOD.body), {"Content-Encoding": "gzip"})
    rows, client, _ = one_read(packed)
    assert (rows, client.calls) == (1, 1)


def test_a_chunked_body_is_read_and_a_cut_one_found():
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    body = GOOD.body
    half = len(body) // 2
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:half], body[half:]))
    assert one_read(Odd(raw=head + chunks + b"0\r\n\r\n"))[0] == 1
    rows, client, _ = one_read(Odd(raw=head + chunks[:-9], then="close"), GOOD)
    assert (rows, client.calls) == (1, 2)


@pytest.mark.parametrize("wrong", [-3, 5])
def test_row_34_a_wrong_content_length_is_found(wrong):
    odd = Odd(200, GOOD.body, {"Content-Length": str(len(GOOD.body) + wrong)}, then="close")
    rows, client, _ = one_read(odd, GOOD)
    assert (rows, client.calls) == (1, 2)


# ---------------------------------------------------------------- no answer at all


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_row_35_nobody_listens():
    time = HeldTime()
    client = client_of(f"http://127.0.0.1:{free_port()}", time)
    with pytest.raises(Unreachable, match="connection refused") as caught:
        read(client)
    assert "ZOHO_BASE_URL" in caught.value.message
    assert caught.value.was_sent is False


def test_row_35_a_name_nobody_knows():
    client = client_of("http://no-such-host.invalid", purpose="check")
    with pytest.raises(Unreachable, match="name is not known"):
        read(client)


def test_row_35_a_plain_server_behind_https():
    with OddServer() as server:
        client = client_of(server.url.replace("http:", "https:"), purpose="check")
        with pytest.raises(Unreachable):
            read(client)


def test_row_35_a_black_hole_ends_by_the_read_timeout():
    with OddServer([Odd(raw=b"", pieces=[b""], pause_s=1.0)]) as server:
        patience = {"read_s": 0.2, "exchange_s": 5, "tries": 1}
        started = real_time.monotonic()
        with pytest.raises(Unreachable, match="no whole answer"):
            read(client_of(server, patience=patience))
        assert real_time.monotonic() - started < 1


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nContent-Ty", GOOD.start()])
def test_row_36_a_slow_drip_ends_by_the_deadline_of_the_whole_answer(start):
    drip = Odd(raw=start, pieces=[b"x"] * 100, pause_s=0.05)
    with OddServer([drip]) as server:
        patience = {"read_s": 0.3, "exchange_s": 0.4, "tries": 1}
        started = real_time.monotonic()
        with pytest.raises(Unreachable, match="no whole answer"):
            read(client_of(server, patience=patience))
        assert real_time.monotonic() - started < 1


def test_row_37_a_body_beyond_the_cap_is_not_taken():
    announced = Odd(raw=GOOD.start().replace(b"Content-Length: ", b"Content-Length: 9999999"))
    endless = Odd(
        raw=b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n",
        pieces=[b'{"data":[' + b" " * 40_000] * 10,
        then="close",
    )
    bomb = Odd(200, gzip.compress(b" " * 5_000_000), {"Content-Encoding": "gzip"})
    for odd in (announced, endless, bomb):
        with (
            OddServer([odd]) as server,
            pytest.raises(BadPayload, match="bigger than 100000"),
        ):
            read(client_of(server, patience={"tries": 1, "max_body_bytes": 100_000}))


# ---------------------------------------------------------------- going elsewhere


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_row_40_a_redirect_is_refused_and_not_followed(status):
    with OddServer() as other:
        odd = Odd(status, headers={"Location": other.url + "/crm/v8/Deals"})
        with OddServer([odd]) as server:
            with pytest.raises(GiveUp) as caught:
                read(client_of(server))
            assert caught.value.code == "redirect_refused"
            assert len(server.asked) == 1
        assert other.asked == []


def test_row_40_an_api_domain_that_is_not_the_crms_is_not_used(caplog):
    with OddServer([GOOD], tokens=[token_reply(api_domain="https://evil.example")]) as server:
        assert read(client_of(server)) == 1
        assert len(server.asked) == 1
    assert "api_domain_refused" in caplog.text


# ---------------------------------------------------------------- what is kept and told


def test_the_crms_clock_is_that_of_the_first_good_answer():
    later = page([{"id": "1"}], Date="Fri, 20 Nov 2026 11:00:00 GMT")
    with OddServer([Odd(503, headers={"Date": "Fri, 20 Nov 2026 09:00:00 GMT"}), GOOD, later]) as s:
        client = client_of(s)
        read(client)
        read(client)
        assert client.first_server_date.isoformat() == "2026-11-20T10:00:00+00:00"
        assert DATE.startswith("Fri, 20 Nov 2026 10:00:00")


@pytest.mark.parametrize("date", ["", "yesterday", "Fri, 99 Nov 2026 10:00:00 GMT"])
def test_a_date_that_is_none_is_none(date):
    rows, client, _ = one_read(page([{"id": "1"}], Date=date))
    assert (rows, client.first_server_date) == (1, None)


def test_one_log_line_a_request_and_no_secret_in_it(caplog):
    caplog.set_level(logging.DEBUG, "crm.zoho")
    caplog.set_level(logging.DEBUG)
    script = [Odd(503), error(401, "INVALID_TOKEN"), GOOD]
    tokens = [token_reply("1000.aaaaaaaaaa.bbbbbbbbbb"), token_reply("1000.cccccccccc.dddddddddd")]
    with OddServer(script, tokens) as server:
        read(client_of(server, patience={"mint_interval_s": 0}))
    ours = [line for line in caplog.messages if line.startswith("zoho GET /crm/v8/Deals ")]
    assert len([line for line in ours if " try " in line]) == 3
    for secret in ("aaaaaaaaaa", "cccccccccc", "the-client-secret", "the-refresh"):
        assert secret not in caplog.text


def test_closing_the_client_wakes_a_call_that_waits():
    with OddServer([Odd(503, headers={"Retry-After": "300"})]) as server:
        from crm.tests.odd_server import OpenCipher, settings_of
        from crm.zoho.factory import States, build_client

        state = MemoryState()
        client = build_client(settings_of(server), states=States(state, state), cipher=OpenCipher())
        caught: list[BaseException] = []

        def call() -> None:
            try:
                read(client)
            except RetryLater as error_:
                caught.append(error_)

        thread = threading.Thread(target=call)
        thread.start()
        while not server.asked:
            real_time.sleep(0.01)
        real_time.sleep(0.05)
        client.close()
        thread.join(2)
        assert not thread.is_alive()
        assert isinstance(caught[0], Closed)


def test_threads_share_a_client_and_never_exceed_its_concurrency():
    inside, most = 0, 0
    guard = threading.Lock()

    def script(asked: Asked) -> Odd:
        nonlocal inside, most
        with guard:
            inside += 1
            most = max(most, inside)
        return GOOD

    class Slow(OddServer):
        def _send(self, connection: socket.socket, odd: Odd) -> None:  # type: ignore[override]
            nonlocal inside
            if odd is GOOD:
                real_time.sleep(0.02)
                with guard:
                    inside -= 1
            OddServer._send(connection, odd)

        def _choose(self, asked: Asked) -> Odd:
            return script(asked) if asked.path != "/oauth/v2/token" else token_reply()

    with Slow() as server:
        client = client_of(server, concurrency=3)
        counts: list[int] = []
        threads = [threading.Thread(target=lambda: counts.append(read(client))) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert counts == [1] * 12
        assert client.calls == 12
        assert most == 3


def test_cookies_are_neither_kept_nor_sent():
    with OddServer([page([{"id": "1"}], Set_Cookie="session=abc"), GOOD]) as server:
        client = client_of(server)
        read(client)
        read(client)
        assert "cookie" not in server.asked[1].headers


def test_the_bodys_bytes_are_counted():
    rows, client, _ = one_read(GOOD)
    assert client.bytes_received == len(GOOD.body)
    assert json.loads(GOOD.body)["data"]
    assert rows == 1
    assert answer({}).body == b"{}"


BIG = page([{"id": str(n), "Owner": {"id": "7"}, "Tag": [{"name": "a{b"}]} for n in range(200)])


@pytest.mark.parametrize("cut", range(1, len(BIG.body), len(BIG.body) // 60))
def test_row_34_a_big_body_cut_with_a_matching_length_is_found(cut):
    odd = Odd(200, BIG.body[:cut])
    rows, client, _ = one_read(odd, GOOD)
    assert (rows, client.calls) == (1, 2)
