"""Bad days on request: rules that spoil chosen requests or their answers.

A rule (JSON, by control `faults`) chooses by `path` (prefix), `method`, `param` (a query parameter
that is there) and `body_contains`; it acts on matches number `nth` (default 1) and the `times`
(default 1; 0 = for ever) that follow, each with `probability` (default 1, drawn from `seed`).
`bad_days.py` draws rules for a whole day. What a rule does is `do`:

  status       answer `status` with `body` (text or JSON), `headers`; the call is not carried out
  html_200     an HTML page with 200, not carried out
  redirect     302 to `location`, not carried out
  expire_token all access tokens die just before this request
  delay        wait `ms`, then go on
  black_hole   never answer, hold the connection for `seconds`
  reset        `when`: "before" (not carried out), "after" (carried out, no answer),
               "body" (carried out, cut by a reset after `at` bytes of the body)
  truncate     body cut to `at` bytes; Content-Length stays full, unless `consistent`
  drip         body in pieces of `bytes` each `ms`
  content_type the right body under the wrong `value`
  huge         a body padded with spaces to `bytes`
  deep         a JSON body of arrays within arrays, `levels` deep
  rewrite      one record of the answer (`index`) replaced `with` any JSON, robbed of `drop` keys,
               or given the key `twice` a second time, with another value
  double       the first record of the answer once more at its end
  many         the records of the answer again and again, up to `to`
  empty_page   no records at all, but `more_records` true
  more_for_ever `more_records` always true, with the same page token
  top          top-level keys of a JSON answer: `set` some, `drop` some (say a token's expires_in)

Those from `rewrite` on leave an answer alone that has no such list: 204, errors, files.
"""

import contextlib
import json
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crm.sandbox.server import Delivery, Request, Response, json_bytes

if TYPE_CHECKING:
    from crm.sandbox.app import App

KINDS = {
    "status",
    "html_200",
    "redirect",
    "expire_token",
    "delay",
    "black_hole",
    "reset",
    "truncate",
    "drip",
    "content_type",
    "huge",
    "deep",
    "rewrite",
    "double",
    "many",
    "empty_page",
    "more_for_ever",
    "top",
}
CHOICE_KEYS = {
    "path", "method", "param", "body_contains", "nth", "times", "probability", "seed", "do",
}  # fmt: skip
KIND_KEYS = {
    "status": {"status", "body", "headers", "content_type"},
    "redirect": {"location"},
    "delay": {"ms"},
    "black_hole": {"seconds"},
    "reset": {"when", "at"},
    "truncate": {"at", "consistent"},
    "drip": {"bytes", "ms"},
    "content_type": {"value"},
    "huge": {"bytes"},
    "deep": {"levels"},
    "rewrite": {"index", "with", "drop", "twice"},
    "many": {"to"},
    "top": {"set", "drop"},
}
HTML = (
    b"<!DOCTYPE html><html><head><title>Zoho</title></head><body>Service unavailable</body></html>"
)


class BadRule(ValueError):
    """A fault rule that cannot be understood; says why."""


@dataclass
class Rule:
    """One rule and how often it has matched."""

    kind: str
    options: dict[str, Any]
    path: str = ""
    method: str = ""
    param: str = ""
    body_contains: str = ""
    nth: int = 1
    times: int = 1
    probability: float = 1.0
    rng: random.Random = field(default_factory=random.Random)
    matched: int = 0

    @classmethod
    def parse(cls, content: Any) -> "Rule":
        """A rule from its JSON; BadRule says what is wrong with it."""
        if not isinstance(content, dict) or content.get("do") not in KINDS:
            raise BadRule(f"a rule is an object whose 'do' is one of {sorted(KINDS)}")
        kind = content["do"]
        unknown = set(content) - CHOICE_KEYS - KIND_KEYS.get(kind, set())
        if unknown:
            raise BadRule(f"rule '{kind}' does not know {sorted(unknown)}")
        for name in ("nth", "times"):
            if not isinstance(content.get(name, 1), int) or content.get(name, 1) < 0:
                raise BadRule(f"'{name}' must be a whole number")
        if kind == "status" and not isinstance(content.get("status"), int):
            raise BadRule("rule 'status' needs a number 'status'")
        if kind == "redirect" and not isinstance(content.get("location"), str):
            raise BadRule("rule 'redirect' needs a text 'location'")
        return cls(
            kind,
            {k: content[k] for k in KIND_KEYS.get(kind, set()) if k in content},
            str(content.get("path", "")),
            str(content.get("method", "")).upper(),
            str(content.get("param", "")),
            str(content.get("body_contains", "")),
            content.get("nth", 1),
            content.get("times", 1),
            float(content.get("probability", 1)),
            random.Random(content.get("seed", 1)),
        )

    def acts_on(self, request: Request) -> bool:
        """Whether this request is one to spoil; counts the match."""
        if not request.path.startswith(self.path) or self.method not in ("", request.method):
            return False
        if self.param and self.param not in request.query:
            return False
        if self.body_contains and self.body_contains.encode() not in request.body:
            return False
        self.matched += 1
        if self.matched < self.nth or (self.times and self.matched >= self.nth + self.times):
            return False
        return self.probability >= 1 or self.rng.random() < self.probability

    def early(self, app: "App") -> Response | None:
        """The answer instead of the call; None to let the call happen."""
        maker = _EARLY.get(self.kind)
        return maker(self.options, app) if maker else None

    def late(self, response: Response) -> Response:
        """The call's answer, spoilt."""
        maker = _LATE.get(self.kind)
        return maker(self.options, response) if maker else response


class Faults:
    """The rules in force. Thread-safe; the first rule that acts wins."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._lock = threading.Lock()

    def add(self, contents: list[Any]) -> None:
        rules = [Rule.parse(content) for content in contents]
        with self._lock:
            self._rules += rules

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def pick(self, request: Request) -> Rule | None:
        if not self._rules:
            return None
        with self._lock:
            acting = [rule for rule in self._rules if rule.acts_on(request)]
        return acting[0] if acting else None


# -- instead of the call --------------------------------------------------------------------


def _status(options: dict[str, Any], _app: "App") -> Response:
    body = options.get("body", "")
    if not isinstance(body, str):
        text, kind = json.dumps(body), "application/json;charset=utf-8"
    else:
        text, kind = body, "text/html" if body.lstrip().startswith("<") else "application/json"
    headers = {str(k): str(v) for k, v in options.get("headers", {}).items()}
    return Response(options["status"], text.encode(), options.get("content_type", kind), headers)


def _delay(options: dict[str, Any], _app: "App") -> None:
    time.sleep(options.get("ms", 1_000) / 1000)


def _expire(_options: dict[str, Any], app: "App") -> None:
    app.oauth.expire_tokens()


def _black_hole(options: dict[str, Any], _app: "App") -> Response:
    def hold(connection: socket.socket, _head: bytes, _body: bytes) -> bool:
        connection.settimeout(options.get("seconds", 60))
        with contextlib.suppress(OSError):
            connection.recv(1)
        return False

    return Response(200, deliver=hold)


def _reset_before(options: dict[str, Any], _app: "App") -> Response | None:
    if options.get("when", "before") != "before":
        return None
    return Response(200, deliver=_reset_at(None))


_EARLY: dict[str, Callable[[dict[str, Any], "App"], Response | None]] = {
    "status": _status,
    "html_200": lambda _o, _a: Response(200, HTML, "text/html"),
    "redirect": lambda o, _a: Response(302, b"", "text/html", {"Location": o["location"]}),
    "expire_token": _expire,
    "delay": _delay,
    "black_hole": _black_hole,
    "reset": _reset_before,
}


# -- to the answer --------------------------------------------------------------------------


def _reset_at(at: int | None) -> Delivery:
    """Send head and `at` bytes of the body (None: nothing), then a TCP reset."""

    def deliver(connection: socket.socket, head: bytes, body: bytes) -> bool:
        if at is not None:
            connection.sendall(head + body[:at])
            time.sleep(0.02)  # let the bytes arrive: a reset discards what the peer has not read
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False  # the server closes, and lingering for no time makes that a reset

    return deliver


def _reset(options: dict[str, Any], response: Response) -> Response:
    response.deliver = _reset_at(
        options.get("at", len(response.body) // 2) if options.get("when") == "body" else None
    )
    return response


def _truncate(options: dict[str, Any], response: Response) -> Response:
    at = options.get("at", len(response.body) // 2)
    if options.get("consistent"):
        response.body = response.body[:at]
        return response

    def deliver(connection: socket.socket, head: bytes, body: bytes) -> bool:
        connection.sendall(head + body[:at])
        return False

    response.deliver = deliver
    return response


def _drip(options: dict[str, Any], response: Response) -> Response:
    size, pause = options.get("bytes", 1), options.get("ms", 1_000) / 1000

    def deliver(connection: socket.socket, head: bytes, body: bytes) -> bool:
        connection.sendall(head)
        for start in range(0, len(body), size):
            connection.sendall(body[start : start + size])
            time.sleep(pause)
        return True

    response.deliver = deliver
    return response


def _content_type(options: dict[str, Any], response: Response) -> Response:
    response.content_type = options.get("value", "text/plain")
    return response


def _huge(options: dict[str, Any], response: Response) -> Response:
    size = options.get("bytes", 50_000_000)

    def deliver(connection: socket.socket, head: bytes, body: bytes) -> bool:
        head = re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % (size + len(body)), head)
        connection.sendall(head)
        for start in range(0, size, 65_536):
            connection.sendall(b" " * min(65_536, size - start))
        connection.sendall(body)
        return True

    response.deliver = deliver
    return response


def _deep(options: dict[str, Any], response: Response) -> Response:
    levels = options.get("levels", 100_000)
    response.body = b'{"data":' + b"[" * levels + b"]" * levels + b"}"
    return response


Spoiler = Callable[[dict[str, Any], dict[str, Any], list[Any]], None]


def _content(spoil: Spoiler, *, key: str = "data") -> Callable[..., Response]:
    """A spoiler of JSON answers with that list; other answers stay as they are."""

    def late(options: dict[str, Any], response: Response) -> Response:
        if response.deliver is not None or response.stream is not None:
            return response
        with contextlib.suppress(ValueError):
            content = json.loads(response.body)
            if isinstance(content, dict) and isinstance(content.get(key, []), list):
                spoil(options, content, content.get(key, []))
                response.body = json_bytes(content)
        return response

    return late


def _rewrite(options: dict[str, Any], _content: dict[str, Any], records: list[Any]) -> None:
    index = options.get("index", 0)
    if index >= len(records):
        return
    if "with" in options:
        records[index] = options["with"]
    elif isinstance(records[index], dict):
        for name in options.get("drop", ()):
            records[index].pop(name, None)


def _rewrite_or_twice(options: dict[str, Any], response: Response) -> Response:
    if "twice" not in options:
        return _content(_rewrite)(options, response)
    key = json.dumps(str(options["twice"])).encode() + b":"
    at = response.body.find(key)
    if at >= 0:
        response.body = response.body[:at] + key + b'"another",' + response.body[at:]
    return response


def _double(_options: dict[str, Any], _content: dict[str, Any], records: list[Any]) -> None:
    records += records[:1]


def _many(options: dict[str, Any], _content: dict[str, Any], records: list[Any]) -> None:
    if records:
        most = options.get("to", 10_000)
        records *= -(-most // len(records))
        del records[most:]


def _empty_page(_options: dict[str, Any], content: dict[str, Any], records: list[Any]) -> None:
    if isinstance(content.get("info"), dict):
        records.clear()
        content["info"] |= {"count": 0, "more_records": True}


def _more_for_ever(_options: dict[str, Any], content: dict[str, Any], _records: list[Any]) -> None:
    if isinstance(content.get("info"), dict):
        content["info"]["more_records"] = True
        if "next_page_token" in content["info"]:
            content["info"]["next_page_token"] = "again"  # noqa: S105 (not a secret)


def _top(options: dict[str, Any], content: dict[str, Any], _records: list[Any]) -> None:
    content |= options.get("set", {})
    for name in options.get("drop", ()):
        content.pop(name, None)


_LATE: dict[str, Callable[[dict[str, Any], Response], Response]] = {
    "reset": _reset,
    "truncate": _truncate,
    "drip": _drip,
    "content_type": _content_type,
    "huge": _huge,
    "deep": _deep,
    "rewrite": _rewrite_or_twice,
    "double": _content(_double),
    "many": _content(_many),
    "empty_page": _content(_empty_page),
    "more_for_ever": _content(_more_for_ever),
    "top": _content(_top),
}
