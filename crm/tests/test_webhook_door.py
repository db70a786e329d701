"""POST /api/zoho/webhook: who is let in, what is refused, what is stored."""

from __future__ import annotations

import gzip
import inspect
import json
import threading
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from crm import webhook
from crm.models import Notice
from crm.tests.notices import ADDRESS, CHANNELS, LIVE, OLD, body_of, known_channels, post

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def door(settings: Any, db: None) -> None:
    """Two live tokens and four channels; no CRM is configured, so that nothing is fetched."""
    settings.ZOHO = None
    settings.WEBHOOK_TOKENS = [LIVE, OLD]
    cache.clear()
    webhook.flood = webhook.Flood()
    known_channels()


# -- 67: the token ------------------------------------------------------------------------------

MISSING = object()
WRONG = [MISSING, None, "", "live", LIVE + "x", LIVE[:-1], LIVE.upper(), "tökén", "\ud800", "\x00",
         [LIVE], {"token": LIVE}, 7, True, 1.5, LIVE.encode().hex()]  # fmt: skip


@pytest.mark.parametrize("token", WRONG, ids=[ascii(each)[:20] for each in WRONG])
def test_row_67_wrong_tokens_leave_no_row(token: object) -> None:
    body = body_of([1], token=token)
    if token is MISSING:
        del body["token"]
    answer = post(body)
    assert (answer.status_code, answer.content) == (403, b"")
    assert not Notice.objects.exists()
    assert webhook.rejected_count() == 1


def test_row_67_nobody_gets_in_where_no_token_is_set(settings: Any) -> None:
    settings.WEBHOOK_TOKENS = []
    for token in ("", None, LIVE):
        assert post(body_of([1], token=token)).status_code == 403
    assert not Notice.objects.exists()


@pytest.mark.parametrize("token", [LIVE, OLD])
def test_row_67_both_live_tokens_are_accepted_while_rotating(token: str) -> None:
    answer = post(body_of([1], token=token))
    assert (answer.status_code, answer.content) == (202, b"")
    assert Notice.objects.get().zoho_id == 1


def test_row_67_every_comparison_looks_at_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timing class, without a clock: however wrong a token is, the same comparisons are made,
    with the one function of the library that takes as long for each."""
    compared: list[tuple[bytes, bytes]] = []
    constant_time = webhook.hmac.compare_digest

    def recording(ours: bytes, theirs: bytes) -> bool:
        compared.append((ours, theirs))
        return constant_time(ours, theirs)

    monkeypatch.setattr(webhook.hmac, "compare_digest", recording)
    for token in [LIVE, OLD, *WRONG[1:]]:
        compared.clear()
        webhook.is_token(token)
        assert [theirs for _, theirs in compared] == [LIVE.encode(), OLD.encode()]
        assert all(isinstance(ours, bytes) for ours, _ in compared)
    assert "==" not in inspect.getsource(webhook.is_token)


# -- 68: unknown senders ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"channel_id": "99"},
        {"module": "Tasks"},
        {"module": "Ta\x00sks" + "x" * 100},
        {"ids": []},
        {"channel_id": 99},
    ],
)
def test_row_68_unknown_channels_and_modules_are_kept_as_ignored(changes: dict[str, Any]) -> None:
    for _ in range(3):
        assert post(body_of([1, 2]) | changes).status_code == 202
    ignored = Notice.objects.get()
    assert (ignored.status, ignored.zoho_id, ignored.times) == (Notice.IGNORED, None, 3)


# -- what is stored -----------------------------------------------------------------------------


def test_a_known_notice_costs_one_statement() -> None:
    post(body_of([1]))
    cache.set(webhook.NUDGED_KEY, 1)  # a worker is on its way; here it would come in between
    with CaptureQueriesContext(connection) as queries:
        assert post(body_of(range(2, 102))).status_code == 202
    inserts = [query["sql"] for query in queries if "SAVEPOINT" not in query["sql"]]
    assert len(inserts) == 1
    assert inserts[0].startswith("INSERT INTO crm_notice")
    assert Notice.objects.count() == 101


def test_row_69_a_thousand_repeats_are_one_row() -> None:
    for _ in range(1000):
        assert post(body_of([1])).status_code == 202
    notice = Notice.objects.get()
    assert (notice.times, notice.status) == (1000, Notice.WAITING)


def test_ids_come_as_text_or_number_and_count_once() -> None:
    body = body_of([]) | {"ids": ["5", 5, "6"], "channel_id": int(CHANNELS["Deals"])}
    assert post(body).status_code == 202
    assert sorted(Notice.objects.values_list("zoho_id", flat=True)) == [5, 6]


def test_what_a_body_says_of_values_is_not_kept() -> None:
    values = [{"record_id": "1", "values": {"Stage": "Closed Won"}}]
    post(body_of([1], affected_values=values))
    assert "Closed Won" not in json.dumps(list(Notice.objects.values()), default=str)


# -- 70: too large ------------------------------------------------------------------------------


def test_row_70_large_bodies_are_refused() -> None:
    assert post(body_of([1], padding="x" * webhook.MAX_BODY)).status_code == 413
    assert post(body_of(range(1, webhook.MAX_RECORDS + 2))).status_code == 413
    assert not Notice.objects.exists()


def test_row_70_a_gzip_bomb_is_unpacked_no_further_than_the_limit() -> None:
    bomb = gzip.compress(b"0" * 50_000_000)
    assert len(bomb) < webhook.MAX_BODY
    assert post(bomb, headers={"content-encoding": "gzip"}).status_code == 413


def test_a_small_gzip_body_is_read() -> None:
    packed = gzip.compress(json.dumps(body_of([1])).encode())
    assert post(packed, headers={"content-encoding": "gzip"}).status_code == 202
    assert Notice.objects.get().zoho_id == 1
    for damaged in (packed[:-9], b"no gzip"):
        assert post(damaged, headers={"content-encoding": "gzip"}).status_code == 400


# -- 71: malformed ------------------------------------------------------------------------------

SOUND = json.dumps(body_of([1])).encode()
MALFORMED = {
    "blank": b" ",
    "cut": SOUND[:-5],
    "depth": b"[" * 100_000,
    "depth in an object": SOUND[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "digits": SOUND[:-1] + b',"x":' + b"9" * 5000 + b"}",
    "nan": SOUND[:-1] + b',"x":NaN}',
    "infinity": SOUND[:-1] + b',"x":-Infinity}',
    "latin": SOUND[:-1] + ',"x":"é"}'.encode("latin-1"),
    "utf-16": json.dumps(body_of([1])).encode("utf-16"),
    "list": b"[" + SOUND + b"]",
    "text": b'"live"',
    "null": b"null",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_row_71_malformed_bodies_are_400(name: str) -> None:
    assert post(MALFORMED[name]).status_code == 400
    assert not Notice.objects.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"module": None},
        {"module": 7},
        {"ids": None},
        {"ids": "1"},
        {"ids": [None]},
        {"ids": ["abc"]},
        {"ids": ["-1"]},
        {"ids": [0]},
        {"ids": [10**30]},
        {"ids": [1.5]},
        {"ids": [True]},
        {"ids": [["1"]]},
        {"ids": [{"id": "1"}]},
        {"ids": ["١"]},
        {"channel_id": None},
        {"channel_id": {}},
        {"channel_id": True},
    ],
)
def test_row_71_a_notice_that_is_none_is_400(changes: dict[str, Any]) -> None:
    assert post(body_of([1]) | changes).status_code == 400
    assert not Notice.objects.exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(["module", "ids", "operation", "channel_id", "token", "server_time", "x"])


@given(changes=st.dictionaries(KEYS, JSON, max_size=4), junk=st.binary(max_size=12))
def test_row_71_whatever_comes_in_is_answered_and_never_500(
    changes: dict[str, Any], junk: bytes
) -> None:
    webhook.flood = webhook.Flood()
    body = json.dumps(body_of([1]) | changes).encode()
    at = sum(junk) % len(body)
    for data in (body, body[:at] + junk + body[at:], junk or b" "):
        assert post(data).status_code in (202, 400, 403, 413)


# -- 72: a flood --------------------------------------------------------------------------------


def test_row_72_beyond_the_limit_it_says_429_and_what_it_accepted_is_stored(settings: Any) -> None:
    settings.WEBHOOK_PER_SECOND = 10
    now = [1000.0]
    webhook.flood = webhook.Flood(monotonic=lambda: now[0])
    answers = [post(body_of([n])) for n in range(1, 31)]
    assert [answer.status_code for answer in answers] == [202] * 20 + [429] * 10
    assert answers[-1]["Retry-After"] == "1"
    assert Notice.objects.count() == 20
    now[0] += 0.5
    codes = [post(body_of([n])).status_code for n in range(31, 41)]
    assert codes == [202] * 5 + [429] * 5


def test_row_72_wrong_tokens_do_not_use_up_what_the_crm_may_send(settings: Any) -> None:
    settings.WEBHOOK_PER_SECOND = 1
    for _ in range(50):
        assert post(body_of([1], token="wrong")).status_code == 403
    assert post(body_of([1])).status_code == 202


# -- waking a worker ----------------------------------------------------------------------------


def test_many_notices_wake_a_worker_once_and_the_last_is_not_forgotten(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.WEBHOOK_NUDGE_GAP_S = 0.2
    given = threading.Semaphore(0)
    number: list[int] = []

    class Counting(webhook.Nudges):
        def give(self) -> None:
            number.append(1)
            given.release()

    monkeypatch.setattr(webhook, "_nudges", Counting())
    for zoho_id in range(1, 51):
        assert post(body_of([zoho_id])).status_code == 202
    # The first at once, and one behind the others, for what came after a worker had looked.
    assert given.acquire(timeout=5) and given.acquire(timeout=5)
    assert len(number) < 10


# -- 73: method, content type -------------------------------------------------------------------


@pytest.mark.parametrize("method", ["get", "put", "patch", "delete", "head", "options", "trace"])
def test_row_73_other_methods_are_405(method: str) -> None:
    answer = getattr(Client(), method)(ADDRESS)
    assert (answer.status_code, answer.content) == (405, b"")
    assert answer["Allow"] == "POST"


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "x"],
)
def test_row_73_other_content_is_415(content_type: str) -> None:
    assert post(SOUND, content_type=content_type).status_code == 415
    assert post(SOUND, headers={"content-encoding": "br"}).status_code == 415
    assert not Notice.objects.exists()


def test_a_charset_and_a_session_cookie_make_no_difference(ops_client: Any) -> None:
    answer = ops_client.post(ADDRESS, SOUND, content_type="application/json; charset=utf-8")
    assert answer.status_code == 202
    assert "Set-Cookie" not in answer


def test_row_13_a_database_that_is_away_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        from django.db import OperationalError

        raise OperationalError("server closed the connection")

    monkeypatch.setattr(connection, "cursor", away)
    answer = post(SOUND)
    assert (answer.status_code, answer.content) == (503, b"")
    assert answer["Retry-After"]
