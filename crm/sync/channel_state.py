"""How the notification channels stand: their states, silence, and a test that really calls.

Nothing here changes a channel; that is done in `channels`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import requests
import structlog
from django.conf import settings
from django.db.models import Min, Sum
from django_celery_beat.models import PeriodicTask

from crm import webhook
from crm.errors import CrmNotConfigured, NoWebhookAddress
from crm.models import Notice, NotificationChannel, SyncRunModule
from crm.models import runs as ledger
from crm.sync import runs
from crm.sync.channels import Make, address, page_client

log = structlog.get_logger(__name__)

OFF, NONE, OK, WARNING, CRITICAL = "off", "none", "healthy", "warning", "critical"
STATES = [OFF, NONE, OK, WARNING, CRITICAL]
WARN_BEFORE = timedelta(hours=24)
SILENT_SLOTS = 2
ANSWER_S = 5.0

# -- silence --------------------------------------------------------------------------------------


def note_silence(now: datetime) -> list[NotificationChannel]:
    """Alarm: the deltas of the last slots each found changes, and a channel that lived all along
    told nothing. Returns those channels."""
    silent = []
    for channel in NotificationChannel.objects.all():
        since = _silent_since(channel, now)
        if since is None:
            continue
        silent.append(channel)
        if channel.silent_since is None:
            log.error("channel_silent", module=channel.module, since=since.isoformat())
            NotificationChannel.objects.filter(pk=channel.pk).update(silent_since=since)
    return silent


def _silent_since(channel: NotificationChannel, now: datetime) -> datetime | None:
    slot = slot_length()
    lately = (
        SyncRunModule.objects.filter(
            module=channel.module,
            run__kind=runs.DELTA,
            run__status__in=[ledger.SUCCEEDED, ledger.PARTIAL],
            run__started_at__gt=now - slot * (SILENT_SLOTS + 2),
        )
        .select_related("run")
        .order_by("-run__started_at")[:SILENT_SLOTS]
    )
    parts = list(lately)
    if len(parts) < SILENT_SLOTS or not all(_found_changes(part) for part in parts):
        return None
    since = parts[-1].run.started_at - slot
    has_told = channel.last_event_at is not None and channel.last_event_at >= since
    was_there = channel.registered_at is not None and channel.created_at <= since
    return since if was_there and not has_told else None


def _found_changes(part: SyncRunModule) -> bool:
    return part.created + part.updated + part.deleted + part.restored > 0


def slot_length() -> timedelta:
    """How often a delta is due."""
    task = PeriodicTask.objects.filter(task="crm.tasks.scheduled_delta").first()
    if task is not None and task.interval is not None:
        return task.interval.schedule.run_every
    return timedelta(minutes=15)


# -- how they stand -------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChannelState:
    """One channel: its state as `OK`, `WARNING` or `CRITICAL`, and a sentence."""

    row: NotificationChannel
    state: str
    sentence: str


@dataclass(frozen=True)
class WebhookState:
    """One look at channels and inbox; asks nobody. `state` is the worst of the channels', `NONE`
    without any, `OFF` where the CRM could not call us."""

    state: str
    sentence: str
    address: str
    channels: list[ChannelState]
    last_event_at: datetime | None
    waiting: int
    taken: int
    dead: int
    ignored: int
    oldest_waiting_at: datetime | None
    rejected: int


def status(now: datetime) -> WebhookState:
    """A handful of queries."""
    channels = [_state_of(row, now) for row in NotificationChannel.objects.order_by("pk")]
    try:
        url, off = address(), ""
    except NoWebhookAddress as error:
        url, off = "", error.message
    if settings.ZOHO is None:
        off = CrmNotConfigured().message
    state, sentence = _overall(channels, off)
    counted = _inbox_counts()
    told = [each.row.last_event_at for each in channels if each.row.last_event_at]
    return WebhookState(
        state=state,
        sentence=sentence,
        address=url,
        channels=channels,
        last_event_at=max(told, default=None),
        rejected=webhook.rejected_count(),
        **counted,
    )


def _state_of(row: NotificationChannel, now: datetime) -> ChannelState:
    if row.expires_at is None:
        return ChannelState(row, CRITICAL, row.message or "The CRM has not accepted it.")
    if row.expires_at <= now:
        return ChannelState(row, CRITICAL, "It has expired; set it up again.")
    if row.silent_since is not None:
        return ChannelState(
            row,
            WARNING,
            "Delta syncs find changes of which it told nothing: test it, or set it up again.",
        )
    if row.error_code:
        return ChannelState(row, WARNING, row.message)
    lived = row.expires_at - (row.registered_at or now)
    if row.expires_at - now < min(WARN_BEFORE, lived / 4):
        return ChannelState(row, WARNING, "It expires soon and was not renewed.")
    return ChannelState(row, OK, "It lives.")


def _overall(channels: Sequence[ChannelState], off: str) -> tuple[str, str]:
    if off:
        return OFF, off
    if not channels:
        return NONE, "No channels: changes arrive with the delta sync. Set them up."
    for state in (CRITICAL, WARNING):
        if found := [each for each in channels if each.state == state]:
            names = ", ".join(each.row.module for each in found)
            return state, f"{names}: {found[0].sentence}"
    return OK, "The CRM tells us of every change."


def _inbox_counts() -> dict:
    """Each from its own small index: settled rows are nearly all of them, and are not read."""
    waiting = Notice.objects.filter(status=Notice.WAITING)
    return {
        "waiting": waiting.count(),
        "oldest_waiting_at": waiting.aggregate(oldest=Min("first_received_at"))["oldest"],
        "taken": Notice.objects.filter(status=Notice.TAKEN).count(),
        "dead": Notice.objects.filter(status=Notice.DEAD).count(),
        "ignored": Notice.objects.filter(zoho_id__isnull=True).aggregate(n=Sum("times"))["n"] or 0,
    }


# -- the test -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One leg of the round trip."""

    name: str
    is_ok: bool
    message: str
    duration_ms: int


def round_trip(*, make_client: Make = page_client) -> list[Step]:
    """Does the CRM hold our channels, and does our address answer as the CRM will call it?

    The CRM sends nothing on request, and no record of it is touched for a test: so it is asked for
    its channels, and the notice is sent by us, to the public address, with the live token. Raises
    CrmNotConfigured, NoWebhookAddress, and the CRM's error if that does not answer.
    """
    if settings.ZOHO is None:
        raise CrmNotConfigured
    url = address()
    return [_ask_crm(url, make_client), _call_ourselves(url)]


def _ask_crm(url: str, make_client: Make) -> Step:
    began = time.monotonic()
    with make_client() as client:
        alive = {each.channel_id: each for each in client.watched()}
    rows = list(NotificationChannel.objects.order_by("pk"))
    missing = [row.module for row in rows if row.channel_id not in alive]
    elsewhere = [
        row.module
        for row in rows
        if row.channel_id in alive and alive[row.channel_id].notify_url != url
    ]
    if not rows:
        said = "There are no channels; set them up."
    elif missing:
        said = f"The CRM has no channel any more for: {', '.join(missing)}. Set them up again."
    elif elsewhere:
        said = f"The CRM calls another address for: {', '.join(elsewhere)}. Set them up again."
    else:
        said = f"The CRM holds {len(rows)} channels that call {url}."
    return Step("channels", bool(rows) and not missing and not elsewhere, said, _ms(began))


def _call_ourselves(url: str) -> Step:
    """The way that a notice takes: name, TLS, proxy, web process, inbox."""
    began = time.monotonic()
    mark = f"test-{secrets.token_hex(8)}"
    body = {"module": "Test", "ids": [], "operation": "test", "channel_id": mark}
    try:
        answer = requests.post(
            url,
            json={**body, "token": settings.WEBHOOK_TOKENS[0]},
            timeout=ANSWER_S,
            allow_redirects=False,
        )
    except requests.RequestException as error:
        reason = type(error).__name__
        return Step("address", False, f"{url} does not answer ({reason}).", _ms(began))
    arrived = Notice.objects.filter(channel_id=mark).delete()[0]
    took = _ms(began)
    if answer.status_code != 202:
        said = f"{url} answers {answer.status_code} instead of 202: does it lead here?"
        return Step("address", False, said, took)
    if not arrived:
        said = f"{url} leads to another installation: the notice did not arrive here."
        return Step("address", False, said, took)
    return Step("address", True, f"A notice sent to {url} arrived in {took} ms.", took)


def _ms(began: float) -> int:
    return int((time.monotonic() - began) * 1000)
