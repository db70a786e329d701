"""One call to the CRM, until it has an answer or there is no more point.

Decides what is tried again, how often and when (the only retry loop of the product), what a
refused token, a 429, or a body that is no JSON means, and the one redacted log line per request.
Leaves the exchange to `wire`, tokens to `tokens`, paths and envelopes to `v8`.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from crm.zoho.auth import ZohoAuth, api_base
from crm.zoho.breaker import Breaker
from crm.zoho.download import Download
from crm.zoho.errors import (
    STALE_TOKEN_CODES,
    BadPayload,
    BreakerOpen,
    Closed,
    CreditsExhausted,
    RateLimited,
    RetryLater,
    ServerFault,
    UnknownOutcome,
    Unreachable,
    ZohoError,
    error_from_answer,
    one_line,
    redact,
)
from crm.zoho.limits import Gate, Patience, RateLimiter, Timing
from crm.zoho.paging import bad_payload, info_at_end, parse_whole
from crm.zoho.slots import SharedSlots
from crm.zoho.tokens import TokenStore
from crm.zoho.wire import Answer, Wire, http_date

log = logging.getLogger("crm.zoho")
_SMALL = 4096  # an answer up to this size may be an error in disguise
_OWN_PAUSES = {"token_pause", "token_wait", "own_rate_limit", "own_concurrency"}
_WHOLE_NUMBER = re.compile(r"[+-]?\d{1,18}\Z", re.ASCII)


@dataclass(frozen=True)
class Call:
    """What to ask for. `path` is below the API's base and begins with a slash.

    `subject` and `scope` name it in errors. `repeatable` False: after an unknown outcome it is not
    sent again. `items` True: a refusal whose body lists items, by `item_key`, is an answer, not an
    error.
    """

    method: str
    path: str
    subject: str
    scope: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    heavy: bool = False
    into: Download | None = None  # the answer is a file, which goes there
    repeatable: bool = True
    query: bool = False
    items: bool = False
    item_key: str = "data"


@dataclass
class _Attempt:
    """One try of a call; `sent` once its request may have reached the CRM."""

    number: int
    sent: bool = False


class Transport:
    """Thread-safe. Counts `calls` (requests sent), `retries` (of them repeats), bytes and credits.

    One transport belongs to one run: `first_server_date` is the Date of its first good answer.
    """

    def __init__(
        self,
        *,
        base_url: str,
        wire: Wire,
        tokens: TokenStore,
        limiter: RateLimiter,
        gate: Gate,
        slots: SharedSlots,
        breaker: Breaker,
        patience: Patience,
        timing: Timing,
        closing: threading.Event,
        secrets: tuple[str, ...],
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.host = urlsplit(base_url).netloc
        self.gate = gate
        self._slots = slots
        self._wire = wire
        self._tokens = tokens
        self._limiter = limiter
        self._breaker = breaker
        self.patience = patience
        self._timing = timing
        self._closing = closing
        self._secrets = secrets
        self._guard = threading.Lock()
        self.calls = 0
        self.retries = 0
        self.bytes_received = 0
        self.credits_remaining: int | None = None
        self.first_server_date: datetime | None = None
        self._refused_domain = ""

    def raise_if_known_down(self) -> None:
        """Raises what any call would end with at this moment, without sending one."""
        self._tokens.raise_if_refused()
        self._breaker.raise_if_resting()

    def close(self) -> None:
        """Wake every waiting call (it ends with Closed) and drop the connections."""
        self._closing.set()
        self._slots.release()
        self._wire.close()

    def learn_concurrency(self, at_once: int) -> None:
        """The organisation's edition allows `at_once` calls to us, all processes together."""
        self._slots.learn(at_once)

    def send(self, call: Call) -> Answer:
        """The answer: 2xx with a sound JSON body, 204, or 304. Anything else is a ZohoError."""
        deadline = self._timing.monotonic() + self.patience.total_s
        tries = 0
        cause: RetryLater | None = None
        while True:
            left = deadline - self._timing.monotonic()
            try:
                probing = self._breaker.admit()
            except BreakerOpen as rest:
                if not self._outlasts(tries) or (rest.retry_after_s or 0) > left:
                    raise
                self._wait(rest.retry_after_s or 0)
                continue
            attempt = _Attempt(tries + 1)
            tries = attempt.number
            try:
                return self._try(call, attempt, probing, left)
            except RetryLater as error:
                # A pause of our own follows from what the CRM did: that is what to tell.
                if cause is None or error.code not in _OWN_PAUSES:
                    cause = error
                delay = self._delay_after(error, cause, call, attempt, deadline)
                log.warning(
                    "zoho %s %s again in %.1f s (%s)",
                    call.method,
                    one_line(call.path),
                    delay,
                    error.code,
                )
            self._wait(delay)

    def _outlasts(self, tries: int) -> bool:
        """Whether to wait for a CRM that is left alone, instead of failing at once.

        A call under way waits, and every call of a run under way; what only begins does not, so
        that pages stay fast and a scheduled run is skipped.
        """
        under_way = self.patience.outlast_rest and self.first_server_date is not None
        return tries > 0 or under_way

    def _delay_after(
        self,
        error: RetryLater,
        cause: RetryLater,
        call: Call,
        attempt: _Attempt,
        deadline: float,
    ) -> float:
        """Seconds until the next try; raises `cause` when there is none."""
        if not call.repeatable and attempt.sent and _may_have_happened(error):
            raise UnknownOutcome(
                f"Whether the CRM did the change to {call.subject} is not known: {error.message} "
                "Read the record before sending it again.",
                code="unknown_outcome",
                status=error.status,
                details={"cause": error.code, **error.details},
                crm_message=error.crm_message,
            ) from error
        own = self.patience.delay_before(attempt.number + 1, self._timing.jitter)
        delay = own if error.retry_after_s is None else error.retry_after_s
        if isinstance(error, RateLimited) and error.status == 429:
            self._limiter.pause(delay)
        if isinstance(error, CreditsExhausted | Closed) or attempt.number >= self.patience.tries:
            raise cause
        if self._timing.monotonic() + delay > deadline:
            raise cause
        return delay

    def _try(self, call: Call, attempt: _Attempt, probing: bool, left: float) -> Answer:
        settled = False
        started_at = self._timing.wall()
        try:
            token = self._tokens.current()
            base = self._base(token.api_domain)
            self._slots.refresh(left)
            self._limiter.acquire(left)
            answer = self._exchange(call, base, token.value, attempt)
            if _is_stale_token(answer):
                attempt.sent = False
                token = self._tokens.after_rejection(token.value)
                self._limiter.acquire(left)
                answer = self._exchange(call, base, token.value, attempt)
            result = self._judge(call, answer)
            settled = True
            self._breaker.succeeded()
            self.gate.succeeded()
            return result
        except (Unreachable, ServerFault, BadPayload) as error:
            settled = True
            if "excerpt" in error.details:
                error.details["excerpt"] = redact(error.details["excerpt"], self._secrets)
            self._breaker.failed(started_at)
            raise
        except RateLimited as error:
            if error.status == 429:
                settled = True
                self._breaker.succeeded()
                self.gate.shrink()
            raise
        except ZohoError as error:
            if error.status is not None:
                settled = True
                self._breaker.succeeded()
            raise
        finally:
            if probing and not settled:
                self._breaker.abandon()

    def _exchange(self, call: Call, base: str, token: str, attempt: _Attempt) -> Answer:
        headers = dict(call.headers)
        data: bytes | None = None
        if call.json is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(call.json, separators=(",", ":")).encode()
        with self.gate.enter(heavy=call.heavy):
            self._count(attempt.number)
            attempt.sent = True
            try:
                answer = self._wire.exchange(
                    call.method,
                    base + call.path,
                    params=call.params,
                    data=data,
                    headers=headers,
                    auth=ZohoAuth(token),
                    secrets=(*self._secrets, token),
                    into=call.into,
                )
            except ZohoError as error:
                _log_failure(call, attempt.number, error)
                raise
        _log_answer(call, attempt.number, answer)
        self._learn(answer)
        return answer

    def _judge(self, call: Call, answer: Answer) -> Answer:
        """The answer if it is good; raises the typed error if not."""
        status = answer.status
        if status in (204, 304) or answer.saved is not None:
            return answer
        if 200 <= status < 300:
            check_json(answer)
            error = _error_in_disguise(answer)
            if error is None and call.into is not None:
                raise bad_payload("it is no file", answer.body, status=status)
            if error is None or call.items:
                return answer
            raise self._error(call, answer, error)
        body = _error_object(answer)
        if call.items and 400 <= status < 500 and isinstance(body.get(call.item_key), list):
            return answer
        raise self._error(call, answer, _first_item(body))

    def _error(self, call: Call, answer: Answer, body: Mapping[str, Any]) -> ZohoError:
        return error_from_answer(
            answer.status,
            body,
            host=self.host,
            subject=call.subject,
            scope=call.scope,
            query=call.query,
            retry_after_s=self._retry_after(answer),
            credits_remaining=_credits(answer),
            secrets=self._secrets,
        )

    def _retry_after(self, answer: Answer) -> float | None:
        """Retry-After in seconds, within [0, the most we obey]; None if absent or nonsense."""
        text = (answer.headers.get("Retry-After") or "").strip()
        if _WHOLE_NUMBER.match(text):
            seconds = float(text)
        else:
            until = http_date(text)
            if until is None:
                return None
            now = answer.date
            seconds = until.timestamp() - (now.timestamp() if now else self._timing.wall())
        return min(max(seconds, 0.0), self.patience.retry_after_max_s)

    def _base(self, api_domain: str) -> str:
        base, trusted = api_base(self.base_url, api_domain)
        if not trusted and api_domain != self._refused_domain:
            self._refused_domain = api_domain
            log.error(
                "zoho api_domain_refused host=%s: the token reply names an address that is not the "
                "CRM's; it is not used",
                one_line(urlsplit(api_domain).netloc)[:200],
            )
        return base

    def _count(self, tries: int) -> None:
        with self._guard:
            self.calls += 1
            self.retries += tries > 1

    def _learn(self, answer: Answer) -> None:
        credits_left = _credits(answer)
        date = answer.date if self.first_server_date is None and answer.status < 400 else None
        with self._guard:
            self.bytes_received += len(answer.body) + (answer.saved or 0)
            if credits_left is not None:
                self.credits_remaining = credits_left
            if date is not None and self.first_server_date is None:
                self.first_server_date = date

    def _wait(self, seconds: float) -> None:
        wait(seconds, self._timing, self._closing)


def wait(seconds: float, timing: Timing, closing: threading.Event) -> None:
    """Sleep, or raise Closed when the client is closed meanwhile."""
    if timing.sleep is not None:
        timing.sleep(seconds)
    elif seconds > 0:
        closing.wait(seconds)
    if closing.is_set():
        raise Closed("The call was given up because the process is stopping.", code="closed")


def check_json(answer: Answer) -> None:
    """BadPayload unless the body looks whole: cheap, because it runs in threads that fetch.

    Type, first and last character, then the end that pages have, or else balanced brackets; only
    where those do not balance (a cut, or brackets inside texts) or the end of the body was not
    marked is it really parsed.
    """
    body = answer.body
    kind = answer.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if not (kind == "application/json" or kind.endswith("+json")):
        named = one_line(kind)[:80] or "no type"
        raise bad_payload(f"it is {named}, not JSON", body, status=answer.status)
    head, tail = body[:64].lstrip(), body[-64:].rstrip()
    if (head[:1], tail[-1:]) not in ((b"{", b"}"), (b"[", b"]")):
        raise bad_payload("it is no whole JSON text", body, status=answer.status)
    if answer.framed and len(body) > _SMALL and info_at_end(body) is not None:
        return
    balanced = body.count(b"{") == body.count(b"}") and body.count(b"[") == body.count(b"]")
    if not balanced or not answer.framed:
        parse_whole(body)


def _may_have_happened(error: RetryLater) -> bool:
    if isinstance(error, Unreachable):
        return error.was_sent
    if isinstance(error, ServerFault):
        return error.status not in (408, 425)
    return isinstance(error, BadPayload)


def _is_stale_token(answer: Answer) -> bool:
    if answer.status != 401:
        return False
    return _first_item(_error_object(answer)).get("code") in STALE_TOKEN_CODES


def _error_object(answer: Answer) -> dict[str, Any]:
    """The body of a refusal as an object; {} for HTML and the like."""
    if not answer.body.lstrip().startswith(b"{"):
        return {}
    try:
        value = parse_whole(answer.body)
    except BadPayload:
        return {}
    return value if isinstance(value, dict) else {}


def _first_item(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Flat errors as they are; those inside a list by their first item."""
    if "code" in body:
        return body
    for value in body.values():
        if isinstance(value, list) and value and isinstance(value[0], dict) and "code" in value[0]:
            return value[0]
    return body


def _error_in_disguise(answer: Answer) -> Mapping[str, Any] | None:
    """A flat error object that came with a good status."""
    if len(answer.body) > _SMALL or b'"error"' not in answer.body:
        return None
    body = parse_whole(answer.body)
    if isinstance(body, dict) and body.get("status") == "error" and "code" in body:
        return body
    return None


def _credits(answer: Answer) -> int | None:
    text = answer.headers.get("X-API-CREDITS-REMAINING", "").strip()
    return int(text) if _WHOLE_NUMBER.match(text) else None


def _log_answer(call: Call, tries: int, answer: Answer) -> None:
    level = logging.INFO if answer.status < 400 else logging.WARNING
    log.log(
        level,
        "zoho %s %s %d %.0f ms %d bytes try %d",
        call.method,
        one_line(call.path),
        answer.status,
        answer.elapsed_ms,
        answer.saved or len(answer.body),
        tries,
    )


def _log_failure(call: Call, tries: int, error: ZohoError) -> None:
    log.warning(
        "zoho %s %s %s (%s) try %d",
        call.method,
        one_line(call.path),
        error.code,
        one_line(str(error.details.get("reason", ""))),
        tries,
    )
