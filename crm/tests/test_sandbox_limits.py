"""The sandbox refusing too much at once, too much a day."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from crm.sandbox.clock import Clock
from crm.sandbox.limits import Limits, credits_of
from crm.tests.sandbox_calls import Crm
from crm.tests.sandbox_process import running_sandbox, start_sandbox

QUERY = "select Stage from Deals where id is not null"


def statuses(call, count):
    with ThreadPoolExecutor(count) as pool:
        return sorted(pool.map(lambda _: call().status_code, range(count)))


def test_more_calls_at_once_than_the_limit_are_refused_without_retry_after(tmp_path):
    with running_sandbox(tmp_path, deals=5, latency_ms=400, concurrency=3) as sandbox:
        crm = Crm(sandbox)
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: crm.get("org"), range(6)))
        assert sorted(a.status_code for a in answers) == [200] * 3 + [429] * 3
        refused = next(a for a in answers if a.status_code == 429)
        assert refused.json()["code"] == "TOO_MANY_REQUESTS"
        assert "Retry-After" not in refused.headers
        stats = sandbox.control("stats")
        assert (stats["throttled"], stats["rule_breaks"]) == (3, {})


def test_heavy_calls_have_a_lower_limit_of_ten(tmp_path):
    with running_sandbox(tmp_path, deals=5, latency_ms=500) as sandbox:
        crm = Crm(sandbox)
        assert statuses(lambda: crm.coql(QUERY), 13) == [200] * 10 + [429] * 3
        assert statuses(lambda: crm.get("Deals", fields="Stage"), 13) == [200] * 13
        sorted_list = {"fields": "Stage", "sort_by": "id"}
        assert 429 in statuses(lambda: crm.get("Deals", **sorted_list), 13)


def test_credits_show_from_half_on_and_end_in_429_until_a_day_has_passed(tmp_path):
    with running_sandbox(tmp_path, deals=5, credits=6) as sandbox:
        crm = Crm(sandbox)
        answers = [crm.get("org") for _ in range(8)]
        assert [a.status_code for a in answers] == [200] * 6 + [429] * 2
        left = [a.headers.get("X-API-CREDITS-REMAINING") for a in answers]
        assert left == [None, None, "3", "2", "1", "0", None, None]
        sandbox.control("config", clock_offset_s=86_400 + 120)
        crm.sign_in()
        assert crm.get("org").status_code == 200


@pytest.mark.parametrize(
    ("edition", "users", "credits"),
    [
        ("free", 3, 5_000),
        ("standard", 10, 52_500),
        ("standard", 1_000, 100_000),
        ("professional", 10, 55_000),
        ("enterprise", 15, 65_000),
        ("ultimate", 10_000, 20_050_000),
    ],
)
def test_credits_by_edition(edition, users, credits):
    assert credits_of(edition, users) == credits


def test_a_call_that_fails_gives_its_place_back():
    limits = Limits(Clock(), credits=100, concurrency=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), limits.admit(heavy=True):
            1 / 0  # noqa: B018
    assert (limits.in_flight, limits.heavy_in_flight) == (0, 0)


def test_waiting_calls_do_not_hold_up_others(tmp_path):
    with running_sandbox(tmp_path, deals=5) as sandbox:
        crm = Crm(sandbox)
        sandbox.control("faults", rules=[{"do": "delay", "ms": 1_500, "path": "/crm/v8/users"}])
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(crm.get, "users", type="AllUsers")
            other = Crm(sandbox)
            assert all(other.get("org").ok for _ in range(20))
            assert not slow.done()
            assert slow.result().ok


def test_credits_spent_outlive_a_restart(tmp_path):
    first = start_sandbox(tmp_path, deals=5, credits=3)
    crm = Crm(first)
    assert [crm.get("org").status_code for _ in range(4)] == [200, 200, 200, 429]
    first.stop()
    second = start_sandbox(tmp_path, credits=3)
    try:
        assert second.control("stats")["credits_used"] == 3
        assert Crm(second).get("org").status_code == 429
    finally:
        second.stop()


def test_refused_calls_cost_one_and_throttled_ones_nothing(tmp_path):
    with running_sandbox(tmp_path, deals=5, credits=4) as sandbox:
        crm = Crm(sandbox)
        refused = [crm.get("Deals").status_code for _ in range(6)]
        assert refused == [400] * 4 + [429] * 2
        assert sandbox.control("stats")["credits_used"] == 4


def test_notification_calls_are_throttled_under_their_own_code(tmp_path):
    with running_sandbox(tmp_path, deals=5, credits=0) as sandbox:
        crm = Crm(sandbox)
        assert crm.get("actions/watch").json()["code"] == "RATE_LIMIT_EXCEEDED"
        assert crm.get("org").json()["code"] == "TOO_MANY_REQUESTS"
