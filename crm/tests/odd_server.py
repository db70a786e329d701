"""A CRM that answers exactly what a test scripts, down to the byte: for single odd exchanges.

`OddServer` speaks raw sockets so that a body can be cut, dripped or reset. `held_time()` is a clock
that only sleeping moves, `client_of(server)` the real client on top of both.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

from crm.zoho.client import ZohoClient
from crm.zoho.factory import States, build_client
from crm.zoho.limits import Timing
from crm.zoho.state import MemoryState

DATE = "Fri, 20 Nov 2026 10:00:00 GMT"


@dataclass
class Asked:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def token(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Zoho-oauthtoken ")


@dataclass
class Odd:
    """One scripted answer. `raw` replaces all of it; `then` says how the connection ends."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    pieces: Iterable[bytes] | None = None
    pause_s: float = 0.0  # between pieces
    then: str = "keep"  # keep, close, reset

    def start(self) -> bytes:
        lines = {
            "Date": DATE,
            "Content-Type": "application/json;charset=UTF-8",
            "Content-Length": str(len(self.body)),
            **self.headers,
        }
        head = [f"HTTP/1.1 {self.status} Whatever"]
        head += [f"{name}: {value}" for name, value in lines.items() if value != ""]
        return "\r\n".join([*head, "", ""]).encode()


def answer(value: Any, status: int = 200, **headers: str) -> Odd:
    names = {name.replace("_", "-"): text for name, text in headers.items()}
    return Odd(status, json.dumps(value, separators=(",", ":")).encode(), names)


def error(status: int, code: str, message: str = "no", details: Any = None, **headers: str) -> Odd:
    body = {"code": code, "details": details or {}, "message": message, "status": "error"}
    return answer(body, status, **headers)


def page(rows: list[Any], *, more: bool = False, token: str | None = None, **headers: str) -> Odd:
    info = {"count": len(rows), "more_records": more, "next_page_token": token}
    return answer({"data": rows, "info": info}, **headers)


def token_reply(value: str = "t1", **extra: Any) -> Odd:
    return answer({"access_token": value, "expires_in": 3600, "token_type": "Bearer", **extra})


NOTHING = Odd(204, headers={"Content-Type": "", "Content-Length": ""})
Script = Callable[[Asked], Odd]


class OddServer:
    """Answers from `script`: a list taken in order (its last one repeats), or a function."""

    def __init__(
        self,
        script: list[Odd] | Script | None = None,
        tokens: list[Odd] | Script | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.script = script if script is not None else [page([{"id": "1"}])]
        self.tokens = tokens if tokens is not None else [token_reply()]
        self.asked: list[Asked] = []
        self.minted: list[Asked] = []
        self._guard = threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._socket.getsockname()[1]
        self._tls = tls
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> OddServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        with self._guard:
            for connection in self._open:
                connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with self._guard:
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        if self._tls is not None:
            try:
                connection = self._tls.wrap_socket(connection, server_side=True)
            except OSError:
                connection.close()
                return
        reader = connection.makefile("rb")
        try:
            while (asked := self._read(reader)) is not None:
                odd = self._choose(asked)
                self._send(connection, odd)
                if odd.then == "reset":
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                if odd.then != "keep":
                    break
        except (OSError, ValueError):
            pass
        finally:
            reader.close()
            connection.close()
            with self._guard:
                self._open.discard(connection)

    @staticmethod
    def _send(connection: socket.socket, odd: Odd) -> None:
        if odd.raw is not None:
            connection.sendall(odd.raw)
        else:
            connection.sendall(odd.start() + odd.body)
        for piece in odd.pieces or ():
            connection.sendall(piece)
            time.sleep(odd.pause_s)

    @staticmethod
    def _read(reader: Any) -> Asked | None:
        line = reader.readline()
        if not line:
            return None
        method, target, _ = line.decode().split(" ", 2)
        headers: dict[str, str] = {}
        while (row := reader.readline().strip()) != b"":
            name, _, value = row.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = reader.read(int(headers.get("content-length", 0)))
        parts = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        return Asked(method, parts.path, query, headers, body)

    def _choose(self, asked: Asked) -> Odd:
        with self._guard:
            minting = asked.path == "/oauth/v2/token"
            (self.minted if minting else self.asked).append(asked)
            script = self.tokens if minting else self.script
            if callable(script):
                return script(asked)
            return script.pop(0) if len(script) > 1 else script[0]


@dataclass
class HeldTime:
    """A clock that only `sleep` (or `pass_by`) moves; `slept` keeps what was waited.

    Where threads wait for each other, `breath_s` lets the others run while one sleeps.
    """

    wall: float = 1_795_000_000.0
    monotonic: float = 1_000.0
    breath_s: float = 0.0
    slept: list[float] = field(default_factory=list)
    guard: Any = field(default_factory=threading.Lock)

    def sleep(self, seconds: float) -> None:
        with self.guard:
            self.slept.append(seconds)
        time.sleep(self.breath_s)
        self.pass_by(seconds)

    def pass_by(self, seconds: float) -> None:
        with self.guard:
            self.wall += seconds
            self.monotonic += seconds

    @property
    def timing(self) -> Timing:
        """Jitter at its most, so that every delay is the cap it was drawn below."""
        return Timing(
            wall=lambda: self.wall,
            monotonic=lambda: self.monotonic,
            sleep=self.sleep,
            jitter=lambda low, high: high,
        )


class OpenCipher:
    """Text reversed: enough to see that what is stored is not what was said."""

    def encrypt(self, text: str) -> str:
        return text[::-1]

    def decrypt(self, text: str) -> str:
        return text[::-1]


def settings_of(server: OddServer | str, **changes: Any) -> SimpleNamespace:
    url = server if isinstance(server, str) else server.url
    values = {
        "base_url": url,
        "accounts_url": url,
        "api_version": "v8",
        "client_id": "1000.CLIENT",
        "client_secret": "the-client-secret",
        "refresh_token": "1000.the-refresh.token",
        "rate_limit_per_minute": 6000,
        "concurrency": 8,
        "patience": {},
    }
    return SimpleNamespace(**{**values, **changes})


def client_of(
    server: OddServer | str,
    time: HeldTime | None = None,
    *,
    state: MemoryState | None = None,
    purpose: str = "sync",
    **changes: Any,
) -> ZohoClient:
    time = time or HeldTime()
    state = state or MemoryState(lambda: time.wall)
    return build_client(
        settings_of(server, **changes),
        states=States(durable=state, fast=state),
        cipher=OpenCipher(),
        purpose=purpose,
        timing=time.timing,
    )
