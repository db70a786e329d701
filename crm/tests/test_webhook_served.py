"""The webhook behind the real web server: what only raw sockets can send."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import requests
from django.conf import settings as django_settings
from django.db import connection

from crm import webhook
from crm.models import Notice
from crm.tests.notices import ADDRESS, LIVE, body_of, known_channels
from crm.tests.sandbox_process import ROOT

pytestmark = [pytest.mark.processes, pytest.mark.django_db(transaction=True)]
START_S = 60
THREADS = 4


def database_url() -> str:
    """The address of the test's own database."""
    parts = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{parts['NAME']}"
    password = f":{parts['PASSWORD']}" if parts["PASSWORD"] else ""
    host = f"{parts['HOST']}:{parts['PORT'] or 5432}"
    return f"postgres://{parts['USER']}{password}@{host}/{parts['NAME']}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def web(request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings of the web process that a test chooses."""
    return getattr(request, "param", {})


@pytest.fixture
def port(transactional_db: None, web: dict[str, str]) -> Iterator[int]:
    """Gunicorn as it is deployed, on the test's database; no CRM, no broker."""
    known_channels()
    chosen = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "pipelinepulse.wsgi"],
        cwd=ROOT,
        env={
            **os.environ,
            "DATABASE_URL": database_url(),
            "PORT": str(chosen),
            "WEBHOOK_TOKEN": LIVE,
            "WEB_CONCURRENCY": "1",
            "WEB_THREADS": str(THREADS),
            **web,
            "PULSE_HOME": str(django_settings.PULSE_HOME),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + START_S
        while not _answers(chosen):
            assert process.poll() is None and time.monotonic() < deadline, "no web process"
            time.sleep(0.05)
        yield chosen
    finally:
        process.terminate()
        process.wait(20)


def _answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/healthz", timeout=1).status_code == 200
    except requests.RequestException:
        return False


def head(port: int, *lines: str) -> bytes:
    first = [f"POST {ADDRESS} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    return "\r\n".join([*first, "Content-Type: application/json", *lines, "", ""]).encode()


def exchange(port: int, sent: bytes, timeout: float = 20) -> int:
    """The status of the answer to these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as line:
        line.sendall(sent)
        return int(line.recv(200).split()[1])


def status_of(session: requests.Session, url: str, zoho_id: int) -> int:
    """0 where the server closed a connection that was kept for the next notice."""
    try:
        return session.post(url, json=body_of([zoho_id]), timeout=20).status_code
    except requests.ConnectionError:
        return 0


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])


SOUND = json.dumps(body_of([1])).encode()
CHUNKED = "Transfer-Encoding: chunked"


def test_row_70_a_chunked_body_is_read_and_one_without_end_is_refused_at_a_megabyte(
    port: int,
) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        line.sendall(head(port, CHUNKED) + chunked(SOUND[:50], SOUND[50:]))
        answer = line.recv(2000)
    assert answer.split()[1] == b"202"
    assert b"content-length: 0\r\n" in answer.lower()
    assert Notice.objects.get().zoho_id == 1
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        line.sendall(head(port, CHUNKED))
        piece = b"%x\r\n%s\r\n" % (65_536, b" " * 65_536)
        for _ in range(webhook.MAX_BODY // 65_536 + 2):  # no end is sent: it must not wait for one
            line.sendall(piece)
        assert line.recv(200).split()[1] == b"413"


def test_row_70_an_announced_ten_megabytes_is_refused_before_it_is_sent(port: int) -> None:
    assert exchange(port, head(port, "Content-Length: 10000000")) == 413


def test_row_70_cut_off_bodies_are_no_notice(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        line.sendall(head(port, f"Content-Length: {len(SOUND) + 10}") + SOUND)
        line.shutdown(socket.SHUT_WR)
        answer = line.recv(200)
    assert answer == b"" or answer.split()[1] == b"400"
    assert not Notice.objects.exists()


# Row 72 as written is a minute at a thousand a second: PULSE_FLOOD_SECONDS=60.
FLOOD_S = float(os.environ.get("PULSE_FLOOD_SECONDS", "1"))
FLOOD_A_SECOND, FLOOD_IDS, ADMITTED_A_SECOND = 1000, 10_000, 200


@pytest.mark.parametrize("web", [{"WEBHOOK_PER_SECOND": str(ADMITTED_A_SECOND)}], indirect=True)
def test_row_72_in_a_flood_what_was_accepted_is_stored_and_the_rest_is_429(
    port: int, web: dict[str, str]
) -> None:
    """Eight senders, a thousand a second for as long as is asked for, of ten thousand ids. How soon
    each is answered is for `make bench` to say."""
    number = int(FLOOD_A_SECOND * FLOOD_S)
    began, url = time.monotonic(), f"http://127.0.0.1:{port}{ADDRESS}"

    def send(sender: int) -> list[tuple[int, int]]:
        with requests.Session() as session:
            found = []
            for at in range(sender, number, 8):
                time.sleep(max(0.0, began + at / FLOOD_A_SECOND - time.monotonic()))
                zoho_id = at % FLOOD_IDS + 1
                found.append((zoho_id, status_of(session, url, zoho_id)))
            return found

    with ThreadPoolExecutor(8) as senders:
        answers = [each for found in senders.map(send, range(8)) for each in found]
    lasted_s = time.monotonic() - began
    accepted = Counter(zoho_id for zoho_id, status in answers if status == 202)
    stored = dict(Notice.objects.values_list("zoho_id", "times"))
    assert {status for _, status in answers} <= {0, 202, 429}
    # What got no answer may be stored too, or twice where it was sent again.
    assert all(stored.get(zoho_id, 0) >= times for zoho_id, times in accepted.items())
    assert accepted.total() >= min(number, ADMITTED_A_SECOND)
    assert accepted.total() <= ADMITTED_A_SECOND * (lasted_s + 2)
    unanswered = sum(status == 0 for _, status in answers)
    assert sum(stored.values()) <= accepted.total() + 2 * unanswered
    assert exchange(port, head(port, f"Content-Length: {len(SOUND)}") + SOUND) in (202, 429)


def test_row_76_five_hundred_open_sockets_leave_others_served(port: int) -> None:
    """They are open and say nothing."""
    with ExitStack() as idle:
        for _ in range(500):
            idle.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
        assert exchange(port, head(port, f"Content-Length: {len(SOUND)}") + SOUND) == 202


@pytest.mark.parametrize("begun", [b"POST ", head(0, "Content-Length: 500") + b"{"])
def test_row_76_requests_that_stall_give_their_threads_back(port: int, begun: bytes) -> None:
    """As many as there are threads, half-sent: in their head, and in their body. Without a limit
    nobody else is served as long as they stay open. Hundreds of them, or some that send a byte now
    and then, are for the proxy in front to keep out (RELIABILITY 76)."""
    with ExitStack() as stalled:
        for _ in range(THREADS + 1):
            line = stalled.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            line.sendall(begun)
        time.sleep(0.5)
        sent = head(port, f"Content-Length: {len(SOUND)}") + SOUND
        assert exchange(port, sent, timeout=60) == 202
