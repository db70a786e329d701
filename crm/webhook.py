"""POST /api/zoho/webhook: authenticate in constant time, store, answer. Work comes later.

Decides what is a notice and what is refused. One statement writes it; a worker fetches the record
(`crm.sync.events`). Whatever comes in is a hint at best: the token is a shared secret in the body,
there is no signature, no order and no promise of once (decision 6).
"""

from __future__ import annotations

import contextlib
import hmac
import json
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.core.cache import cache
from django.db import DatabaseError, InterfaceError, connection
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from crm.mapping.convert import clean_text, record_id
from crm.models import Notice, NotificationChannel
from crm.sync.modules import BY_NAME

log = structlog.get_logger(__name__)

ADDRESS = "/api/zoho/webhook"
MAX_BODY = 1_000_000
# The CRM names a hundred at most.
MAX_RECORDS = 1_000
RETRY_S = 5
REJECTED_KEY = "crm:webhook:rejected"
REJECTED_DAYS = 7
NUDGED_KEY = "crm:webhook:nudged"
# A nudge that got lost is given again after this; the sweeper looks anyway.
NUDGE_LASTS_S = 2
KNOWN_FOR_S = 10.0


class Refused(Exception):
    """The answer's status, without a word: whoever asks wrongly learns nothing."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True)
class Told:
    """What a notice says. `ids` is empty if it names no record."""

    module: str
    ids: tuple[int, ...]
    operation: str
    channel_id: str


class Flood:
    """At most so many notices a second in this process, and twice as many at once."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._guard = threading.Lock()
        self._left: float | None = None
        self._at = monotonic()

    def admits(self, per_second: float) -> bool:
        with self._guard:
            now, most = self._monotonic(), per_second * 2
            left = most if self._left is None else self._left
            left = min(most, left + (now - self._at) * per_second)
            self._at = now
            self._left = left - 1 if left >= 1 else left
            return left >= 1


flood = Flood()


class DoorMiddleware:
    """Answers the CRM's notices before the layers that are there for people: no session, no
    sign-in and no page is of use to it, and together they cost as much as storing the notice."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path_info == ADDRESS:
            response = receive(request)
            # Else the server sends an empty body in chunks, which is a packet more.
            response["Content-Length"] = str(len(response.content))
            return response
        return self.get_response(request)


@login_not_required
@csrf_exempt
def receive(request: HttpRequest) -> HttpResponse:
    """202 stored; 400, 403, 405, 413, 415, 429 or 503 with an empty body."""
    try:
        if request.method != "POST":
            raise Refused(405)
        told = read_notice(request)
        if not flood.admits(settings.WEBHOOK_PER_SECOND):
            raise Refused(429)
        _keep(told)
    except Refused as refusal:
        return _refusal(refusal.status)
    except (DatabaseError, InterfaceError) as error:
        # The delta is the truth: a notice that is lost here costs minutes, no data.
        log.warning("notice_not_stored", reason=type(error).__name__)
        return _refusal(503)
    return HttpResponse(status=202)


def _refusal(status: int) -> HttpResponse:
    response = HttpResponse(status=status)
    if status == 405:
        response["Allow"] = "POST"
    elif status == 429:
        response["Retry-After"] = "1"
    elif status == 503:
        response["Retry-After"] = str(RETRY_S)
    return response


# -- what it says ---------------------------------------------------------------------------------


def read_notice(request: HttpRequest) -> Told:
    """The body's notice, authenticated. Raises Refused."""
    if request.content_type != "application/json":
        raise Refused(415)
    body = _parsed(_unpacked(request, _read_body(request)))
    if not isinstance(body, dict):
        raise Refused(400)
    if not is_token(body.get("token")):
        count_rejected()
        raise Refused(403)
    return _told(body)


def _read_body(request: HttpRequest) -> bytes:
    """At most `MAX_BODY` bytes, also of a body that does not say how long it is."""
    try:
        announced = int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        raise Refused(400) from None
    if announced > MAX_BODY:
        raise Refused(413)
    stream: Any = request
    if not announced and request.META.get("wsgi.input_terminated"):
        stream = request.META["wsgi.input"]  # chunked: Django reads by the announced length alone
    try:
        body = stream.read(MAX_BODY + 1)
    except (OSError, ValueError):  # the sender went away, or the chunks are no chunks
        raise Refused(400) from None
    if len(body) > MAX_BODY:
        raise Refused(413)
    if len(body) < announced:
        raise Refused(400)  # cut off, even if what came makes sense
    return body


def _unpacked(request: HttpRequest, body: bytes) -> bytes:
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding != "gzip":
        raise Refused(415)
    unpacker = zlib.decompressobj(wbits=31)
    try:
        text = unpacker.decompress(body, MAX_BODY + 1)
    except zlib.error:
        raise Refused(400) from None
    if len(text) > MAX_BODY:
        raise Refused(413)
    if not unpacker.eof:
        raise Refused(400)
    return text


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):  # also no UTF-8, and numbers beyond 4,300 digits
        raise Refused(400) from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def is_token(given: object) -> bool:
    """Whether it is one of the live tokens; takes as long for any that is not."""
    is_text = isinstance(given, str)
    text = given.encode("utf-8", "surrogatepass") if isinstance(given, str) else b""
    found = False
    for token in settings.WEBHOOK_TOKENS:
        found |= hmac.compare_digest(text, token.encode())
    return found and is_text


def _told(body: dict[str, Any]) -> Told:
    module, ids, channel = body.get("module"), body.get("ids"), body.get("channel_id")
    if not isinstance(module, str) or not isinstance(ids, list):
        raise Refused(400)
    if not isinstance(channel, str | int) or isinstance(channel, bool):
        raise Refused(400)
    if len(ids) > MAX_RECORDS:
        raise Refused(413)
    found = {record_id(value) for value in ids}
    if None in found:
        raise Refused(400)
    operation = body.get("operation")
    return Told(
        module=clean_text(module)[:64],
        # One order for everybody: two notices that name the same records must not wait crosswise.
        ids=tuple(sorted(zoho_id for zoho_id in found if zoho_id is not None)),
        operation=clean_text(operation)[:16] if isinstance(operation, str) else "",
        channel_id=clean_text(str(channel))[:40],
    )


def count_rejected() -> None:
    """Wrong tokens of the last days are counted, not kept."""
    cache.add(REJECTED_KEY, 0, REJECTED_DAYS * 86_400)
    with contextlib.suppress(ValueError):  # it has just run out
        cache.incr(REJECTED_KEY)


def rejected_count() -> int:
    """Notices with a wrong token, counted for at most a week."""
    return int(cache.get(REJECTED_KEY) or 0)


# -- storing --------------------------------------------------------------------------------------

_INSERT = (
    "INSERT INTO crm_notice (module, zoho_id, channel_id, operation, status, times, taken_times, "
    "first_received_at, received_at, attempts, next_attempt_at, error_code, message) VALUES "
)
_ROW = "(%s, %s, %s, %s, %s, 1, 0, %s, %s, 0, %s, '', '')"
# A row that is being fetched stays with its worker and counts up: it waits again afterwards. One
# that waits for its next attempt keeps its time. Others begin anew.
_AGAIN = """ ON CONFLICT (module, zoho_id) DO UPDATE SET
times = crm_notice.times + 1,
received_at = excluded.received_at,
channel_id = excluded.channel_id,
operation = excluded.operation,
first_received_at = CASE WHEN crm_notice.status IN ('waiting', 'taken')
    THEN crm_notice.first_received_at ELSE excluded.first_received_at END,
attempts = CASE WHEN crm_notice.status IN ('waiting', 'taken')
    THEN crm_notice.attempts ELSE 0 END,
next_attempt_at = CASE WHEN crm_notice.status IN ('waiting', 'taken')
    THEN crm_notice.next_attempt_at ELSE excluded.next_attempt_at END,
status = CASE WHEN crm_notice.status = 'taken' THEN 'taken' ELSE 'waiting' END"""
_IGNORED_AGAIN = """ ON CONFLICT (channel_id, module) WHERE zoho_id IS NULL DO UPDATE SET
times = crm_notice.times + 1, received_at = excluded.received_at, operation = excluded.operation"""


def _keep(told: Told) -> None:
    now = timezone.now()
    if told.ids and told.module in BY_NAME and is_known_channel(told.channel_id):
        store_notices(told.module, told.ids, told.channel_id, told.operation, now)
        wake_worker()
    else:
        _store(told.module, [None], told.channel_id, told.operation, now, Notice.IGNORED)


def store_notices(
    module: str, zoho_ids: Sequence[int], channel_id: str, operation: str, now: datetime
) -> None:
    """Into the inbox, with one statement."""
    _store(module, zoho_ids, channel_id, operation, now, Notice.WAITING)


def _store(
    module: str,
    zoho_ids: Sequence[int | None],
    channel_id: str,
    operation: str,
    now: datetime,
    status: str,
) -> None:
    at = connection.ops.adapt_datetimefield_value(now)
    values: list[Any] = []
    for zoho_id in zoho_ids:
        values += [module, zoho_id, channel_id, operation, status, at, at, at]
    conflict = _IGNORED_AGAIN if status == Notice.IGNORED else _AGAIN
    with connection.cursor() as cursor:
        cursor.execute(_INSERT + ", ".join([_ROW] * len(zoho_ids)) + conflict, values)


class _KnownChannels:
    """Channels that exist here, remembered for a moment: most notices cost one statement."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def has(self, channel_id: str) -> bool:
        now = time.monotonic()
        if self._until.get(channel_id, 0.0) > now:
            return True
        if not NotificationChannel.objects.filter(channel_id=channel_id).exists():
            self._until.pop(channel_id, None)
            return False
        self._until[channel_id] = now + KNOWN_FOR_S
        return True

    def forget(self) -> None:
        self._until.clear()


_known = _KnownChannels()


def is_known_channel(channel_id: str) -> bool:
    """Whether we made it; one that was removed counts for some seconds more."""
    return _known.has(channel_id)


def forget_channels() -> None:
    """In this process: what is known of channels is asked anew."""
    _known.forget()


# -- waking a worker ------------------------------------------------------------------------------


class Nudges:
    """One message for many notices, and none for a while where the broker does not answer.

    The first notice gives it at once. Those of the next moment (`WEBHOOK_NUDGE_GAP_S`) leave it to
    a timer: asking Redis each time whether somebody did costs more than storing the notice.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._guard = threading.Lock()
        self._given_at: float | None = None
        self._timer: threading.Timer | None = None
        self._rest_until = 0.0

    def ask(self) -> None:
        """Have it given; returns at once where that was just done."""
        with self._guard:
            now = self._monotonic()
            gap = settings.WEBHOOK_NUDGE_GAP_S
            is_due = self._given_at is None or not 0 <= now - self._given_at < gap
            if is_due:
                self._given_at = now
            elif self._timer is None:
                self._timer = threading.Timer(gap, self._give_later)
                self._timer.daemon = True
                self._timer.start()
        if is_due:
            self.give()

    def _give_later(self) -> None:
        with self._guard:
            self._timer, self._given_at = None, self._monotonic()
        self.give()

    def give(self) -> None:
        from crm.sync import listening
        from crm.tasks import nudge, take_notices

        if self._monotonic() < self._rest_until or not cache.add(NUDGED_KEY, 1, NUDGE_LASTS_S):
            return
        if not listening.ring() and not nudge(take_notices):
            self._rest_until = self._monotonic() + NUDGE_LASTS_S


_nudges = Nudges()


def wake_worker() -> None:
    """Have the inbox looked at, unless that was asked for already and not done yet."""
    _nudges.ask()


def forget_nudge() -> None:
    """Called by the worker before it looks: what comes from now on nudges again."""
    cache.delete(NUDGED_KEY)
