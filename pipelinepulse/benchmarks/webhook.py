"""Notices under a full sync: our webhook against a bare view, none lost; how soon a change is here.

On PostgreSQL alone: SQLite has one writer, and the sync is it. The load is open: each request has
its moment, and what it waits for its turn counts. While it lasts no worker takes the notices, for
the bare view has none.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from pipelinepulse.benchmarks.kit import Bench, Figure, require
from pipelinepulse.benchmarks.processes import (
    TOKEN,
    WAIT_S,
    control,
    environment,
    free_port,
    output,
    redis,
    serving,
    sql,
    syncing,
    wait_for,
    working,
)

HERE = Path(__file__).parent
OURS, SETTINGS = "pipelinepulse.wsgi", "pipelinepulse.settings"
BARE = "pipelinepulse.benchmarks.bare_webhook:application"
BARE_SETTINGS = "pipelinepulse.benchmarks.bare_webhook_settings"
ADDRESS = "/api/zoho/webhook"
LATENCY_MS, ALLOWED_MS = 50, 50
PER_SECOND = int(os.environ.get("BENCH_WEBHOOK_PER_SECOND", "500"))
SECONDS = int(os.environ.get("BENCH_WEBHOOK_SECONDS", "60"))
SENDERS = 32
CHANGES = 30
EMPTY = (
    "TRUNCATE crm_deal, crm_account, crm_contact, crm_lead, crm_mirrorstate, crm_syncrun CASCADE"
)
BURST, MAX_CALLS = 1000, 20
MAX_TIMES_BARE = 3.0


def run(bench: Bench) -> list[Figure]:
    if not bench.is_postgres:
        return []
    with bench.crm(bench.deals, latency_ms=LATENCY_MS) as crm:
        control(crm, "config", notice_gather_ms=0)
        records = [row["id"] for row in control(crm, "dump", module="Deals")["records"]]
        bare, _ = _under_a_sync(bench, crm, records, is_ours=False)
        ours, seen = _under_a_sync(bench, crm, records, is_ours=True)
    figures = [
        Figure(
            f"webhook at {PER_SECOND} a second under a full sync, p99 times a bare insert",
            ours.p99_ms / bare.p99_ms,
            MAX_TIMES_BARE,
            False,
            f"{SECONDS} s: {ours.p99_ms:.1f} ms, bare {bare.p99_ms:.1f} ms; {ours.accepted:,} of "
            f"{ours.sent:,} accepted, bare {bare.accepted:,}",
        ),
        Figure("notices that were accepted and are not there", ours.lost, 0, False, "of ours"),
        Figure(f"calls for a burst of {BURST:,} notices", seen.calls, MAX_CALLS, False, "of ours"),
    ]
    for when, found in (("no sync", seen.idle_ms), ("under a full sync", seen.busy_ms)):
        median = statistics.median(found)
        figures.append(
            Figure(
                f"change in the CRM to list and dashboard, of latency + {ALLOWED_MS} ms, {when}",
                median / (LATENCY_MS + ALLOWED_MS),
                1.0,
                False,
                f"median of {len(found)}: {median:.0f} ms",
            )
        )
    return figures


@dataclass
class Load:
    """What became of the requests."""

    sent: int
    accepted: int
    lost: int
    p99_ms: float


@dataclass
class Seen:
    """Milliseconds from a change to its row, with and without a full sync under way."""

    busy_ms: list[float]
    idle_ms: list[float]
    calls: int = 0


# -- one measurement ------------------------------------------------------------------------------


def _under_a_sync(
    bench: Bench, crm: str, records: list[str], *, is_ours: bool
) -> tuple[Load, Seen]:
    database = bench.fresh_database()
    seen = Seen([], [])

    with ExitStack() as stack:
        port = free_port()
        broker = stack.enter_context(redis(bench)) if is_ours else ""
        env = environment(bench, database, crm, port, broker)
        if not is_ours:
            sql(database, "CREATE TABLE bare_notice (id bigserial primary key, module text, "
                 "zoho_id bigint, received_at timestamptz)")  # fmt: skip
        env["DJANGO_SETTINGS_MODULE"] = SETTINGS if is_ours else BARE_SETTINGS
        ready = "/healthz" if is_ours else "/ready"
        stack.enter_context(serving(env, port, OURS if is_ours else BARE, ready))
        channels: dict[str, str] = {}
        if is_ours:
            channels = json.loads(output(env, HERE / "our_channels.py"))
        body = {"module": "Deals", "operation": "update", "channel_id": channels.get("Deals", "1"),
                "token": TOKEN, "affected_fields": [], "server_time": 0}  # fmt: skip
        with syncing(bench, database, crm) as sync:
            load = _load(port, body, records, sync)
        if is_ours:
            load.lost = _lost(database, load.accepted)
            sql(database, EMPTY)  # of the full sync that was just ended
            bench.child(database, crm, HERE / "our_delta.py", "full")
            stack.enter_context(working(env))
            wait_for(lambda: _is_worked_off(database), "the inbox was not worked off")
            seen.calls = _calls_of_a_burst(crm, records, database)
            seen.idle_ms = _visibility(crm, database, records, lambda: True)
            with syncing(bench, database, crm, what="rewrite") as sync:
                seen.busy_ms = _visibility(crm, database, records, lambda: sync.poll() is None)
    return load, seen


def _load(
    port: int, body: dict[str, Any], records: list[str], sync: subprocess.Popen[bytes]
) -> Load:
    """Open load from so many connections; latencies count from the moment that was planned."""
    began = time.perf_counter() + 0.5
    number = PER_SECOND * SECONDS
    turn = iter(range(number))
    guard, results = threading.Lock(), []

    def send() -> None:
        line = Line(port)
        while True:
            with guard:
                at = next(turn, None)
            if at is None:
                return line.close()
            due = began + at / PER_SECOND
            time.sleep(max(0.0, due - time.perf_counter()))
            status = line.post({**body, "ids": [records[at % len(records)]]})
            results.append((status, (time.perf_counter() - due) * 1000))

    senders = [threading.Thread(target=send) for _ in range(SENDERS)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    require(sync.poll() is None, "the full syncs ended before the load did")
    took = sorted(took for _, took in results)
    return Load(
        sent=number,
        accepted=sum(status == 202 for status, _ in results),
        lost=0,
        p99_ms=took[int(len(took) * 0.99)],
    )


class Line:
    """One connection that is kept; next to no work of its own beside the server's."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def post(self, body: dict[str, Any]) -> int:
        """The answer's status; 0 if there was none."""
        data = json.dumps(body).encode()
        head = f"POST {ADDRESS} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        for _ in range(2):  # the server may just have closed a connection that rested
            try:
                if self._socket is None:
                    self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=30)
                self._socket.sendall(head.encode() + data)
                answer = self._socket.recv(4096)
                if answer.endswith(b"\r\n\r\n"):
                    return int(answer[9:12])
            except OSError:
                pass
            self.close()
        return 0

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None


def _calls_of_a_burst(crm: str, records: list[str], database: str) -> int:
    """What the CRM is asked for while a thousand records change and a notice of each comes."""
    control(crm, "reset_stats")
    for zoho_id in records[:BURST]:
        control(crm, "edit", module="Deals", id=zoho_id, values={"Next_Step": "burst"})
    seen = "SELECT count(*) FROM crm_deal WHERE next_step = 'burst'"
    wait_for(lambda: sql(database, seen) == BURST, "the burst was not seen")
    wait_for(lambda: _is_worked_off(database), "the burst was not worked off")
    paths = control(crm, "stats")["by_path"]
    return sum(number for path, number in paths.items() if "oauth" not in path)


def _visibility(
    crm: str, database: str, records: list[str], goes_on: Callable[[], bool]
) -> list[float]:
    """One change after the other, each until list and dashboard show it, while `goes_on`: the
    deal's row, and what its opportunity adds to the roll-up, which moves in the same transaction.
    """
    took: list[float] = []
    with psycopg.connect(database, autocommit=True) as connection:
        for at in range(CHANGES):
            if not goes_on():
                break
            target, mark = records[at], f"seen {time.time_ns()}"
            started = time.perf_counter()
            values = {"Next_Step": mark, "Amount": 1000 + time.time_ns() % 1_000_000}
            control(crm, "edit", module="Deals", id=target, values=values)
            while time.perf_counter() - started < WAIT_S:
                found = connection.execute(
                    "SELECT 1 FROM crm_deal d JOIN o2r_opportunity o ON o.deal_id = d.id WHERE "
                    "d.zoho_id = %s AND d.next_step = %s AND "
                    "o.counted_sgd_minor IS NOT DISTINCT FROM d.amount_sgd_minor",
                    (int(target), mark),
                ).fetchone()
                if found:
                    break
                time.sleep(0.001)
            took.append((time.perf_counter() - started) * 1000)
    told = ", ".join(f"{each:.0f}" for each in took)
    require(len(took) >= 5, f"the full sync had ended before five changes were seen ({told} ms)")
    return took


def _lost(database: str, accepted: int) -> int:
    stored = sql(database, "SELECT coalesce(sum(times), 0) FROM crm_notice WHERE zoho_id > 0")
    return max(0, accepted - int(stored))


def _is_worked_off(database: str) -> bool:
    waiting = "SELECT count(*) FROM crm_notice WHERE status IN ('waiting', 'taken')"
    return not sql(database, waiting)
