"""HTTP/1.1 by hand on plain sockets: a thread per connection, keep-alive, no framework.

It knows nothing of the CRM. It is here, and not a WSGI server, because a fault must be able to
cut a body short, reset a connection or drip bytes, and because each call costs tens of
microseconds instead of hundreds.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote

MAX_BODY = 20 * 1024 * 1024
MAX_HEADERS = 100
MAX_LINE = 65_536

REASONS = {status.value: status.phrase for status in HTTPStatus}


class BadRequest(Exception):
    """What arrived is not HTTP that we read; the status to answer with."""

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


@dataclass
class Request:
    """One request. Header names are lower case; of repeated query keys the last counts."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    keep_alive: bool = True

    @cached_property
    def json(self) -> Any:
        """The body as JSON; ValueError if it is none."""
        try:
            return json.loads(self.body)
        except RecursionError as error:
            raise ValueError("nested too deep") from error

    @property
    def form(self) -> dict[str, str]:
        """The body as a form, over the query string."""
        fields = dict(self.query)
        kind = self.headers.get("content-type", "")
        if kind.startswith("application/x-www-form-urlencoded"):
            fields.update(parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True))
        return fields


Delivery = Callable[[socket.socket, bytes, bytes], bool]
"""Sends head and body in its own way; False ends the connection."""


@dataclass
class Response:
    """One answer. `credits` is what the call costs; `deliver` replaces the usual sending.

    `length` is the body's where it is not in `body`; `stream` is a body of unknown length;
    `ignored` names what of the request was passed over.
    """

    status: int
    body: bytes = b""
    content_type: str = "application/json;charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)
    credits: int = 1
    deliver: Delivery | None = None
    length: int | None = None
    stream: Any = None
    ignored: tuple[str, ...] = ()

    @classmethod
    def of(cls, content: Any, status: int = 200, **more: Any) -> "Response":
        """An answer from a JSON value."""
        return cls(status, json_bytes(content), **more)


def json_bytes(content: Any) -> bytes:
    """JSON text as UTF-8; with escapes where a lone surrogate cannot be written otherwise."""
    try:
        return json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(content).encode()


def render_head(response: Response, length: int) -> bytes:
    """Status line and headers."""
    lines = [f"HTTP/1.1 {response.status} {REASONS.get(response.status, 'Unknown')}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    if response.status not in (204, 304):
        lines.append(f"Content-Type: {response.content_type}")
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class Server:
    """Listens, reads requests, gives them to `handle`, sends what it returns."""

    def __init__(self, host: str, port: int, handle: Callable[[Request], Response]) -> None:
        self.handle = handle
        self._listener = socket.create_server((host, port), backlog=256)
        self.port: int = self._listener.getsockname()[1]

    def serve(self) -> NoReturn:
        """Accept connections until an exception (a signal's) ends it."""
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader = connection.makefile("rb", 65_536)
            while True:
                try:
                    request = read_request(reader, connection)
                except BadRequest as error:
                    refusal = Response(error.status, b"", "text/plain")
                    refusal.headers["Connection"] = "close"
                    connection.sendall(render_head(refusal, 0))
                    return
                if request is None:
                    return
                response = self.handle(request)
                if not send(connection, response) or not request.keep_alive:
                    return


def send(connection: socket.socket, response: Response) -> bool:
    """Put one answer on the wire; whether the connection can go on."""
    if response.stream is not None:
        return _send_stream(connection, response)
    head = render_head(response, response.length or len(response.body))
    body = b"" if response.status in (204, 304) else response.body
    if response.deliver is not None:
        return response.deliver(connection, head, body)
    if len(body) < 100_000:
        connection.sendall(head + body)
        return True
    sent = connection.sendmsg([head, body])
    if sent < len(head):
        connection.sendall(head[sent:])
        sent = len(head)
    connection.sendall(memoryview(body)[sent - len(head) :])
    return True


def _send_stream(connection: socket.socket, response: Response) -> bool:
    """A body of unknown length, as long as its iterator; the connection ends it."""
    response.headers["Connection"] = "close"
    lines = render_head(response, 0).replace(b"Content-Length: 0\r\n", b"")
    connection.sendall(lines)
    for chunk in response.stream:
        connection.sendall(chunk)
    return False


def read_request(reader: Any, connection: socket.socket) -> Request | None:
    """The next request of a connection; None when the other side has ended it."""
    line = reader.readline(MAX_LINE)
    if not line:
        return None
    parts = line.decode("latin-1").rstrip("\r\n").split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise BadRequest(400)
    headers = _read_headers(reader)
    if headers.get("expect", "").lower() == "100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = _read_body(reader, headers)
    path, _, query = parts[1].partition("?")
    wish = headers.get("connection", "").lower()
    keep_alive = wish != "close" and (parts[2] == "HTTP/1.1" or wish == "keep-alive")
    return Request(
        parts[0],
        unquote(path),
        dict(parse_qsl(query, keep_blank_values=True)) if query else {},
        headers,
        body,
        keep_alive,
    )


def _read_headers(reader: Any) -> dict[str, str]:
    headers: dict[str, str] = {}
    for _ in range(MAX_HEADERS):
        line = reader.readline(MAX_LINE)
        if line in (b"\r\n", b"\n", b""):
            return headers
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon:
            raise BadRequest(400)
        headers[name.strip().lower()] = value.strip()
    raise BadRequest(431)


def _read_body(reader: Any, headers: dict[str, str]) -> bytes:
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return _read_chunks(reader)
    length = headers.get("content-length", "0")
    if not length.isdigit():
        raise BadRequest(400)
    if int(length) > MAX_BODY:
        raise BadRequest(413)
    return _read_whole(reader, int(length))


def _read_whole(reader: Any, length: int) -> bytes:
    """Raises OSError where the caller went away in the middle: half a request is none."""
    body = reader.read(length) if length else b""
    if len(body) < length:
        raise ConnectionAbortedError("the caller went away")
    return body


def _read_chunks(reader: Any) -> bytes:
    pieces: list[bytes] = []
    total = 0
    while True:
        try:
            size = int(reader.readline(MAX_LINE).split(b";")[0], 16)
        except ValueError as error:
            raise BadRequest(400) from error
        if size == 0:
            while reader.readline(MAX_LINE) not in (b"\r\n", b"\n", b""):
                pass
            return b"".join(pieces)
        total += size
        if size < 0 or total > MAX_BODY:
            raise BadRequest(413)
        pieces.append(_read_whole(reader, size))
        reader.readline(MAX_LINE)
