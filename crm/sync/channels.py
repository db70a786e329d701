"""Notification channels: set up, look after, remove.

One channel a module, for at most a week. Each is renewed at half its life, made anew when the CRM
knows it no more (a delta then catches up with what it did not tell), and replaced when our address
or token has changed. How they stand, and whether they work, is told by `channel_state`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import structlog
from django.conf import settings
from django.utils.crypto import salted_hmac

from crm import webhook
from crm.errors import CrmError, CrmNotConfigured, NoWebhookAddress
from crm.models import NotificationChannel
from crm.sync import runs
from crm.sync.modules import ORDER
from crm.zoho.client import ChannelResult, ChannelWish, ZohoClient
from crm.zoho.errors import FixRequest, ZohoError
from crm.zoho.factory import client_from_settings

log = structlog.get_logger(__name__)

PATH = webhook.ADDRESS
MAX_ADDRESS = 255
# A week is the most; a clock of ours that is ahead must not turn it into the CRM's hour.
LIFE = timedelta(days=7) - timedelta(hours=1)
CHECK_EVERY = timedelta(hours=1)
GONE = "NOT_SUBSCRIBED"

Make = Callable[[], ZohoClient]


def page_client() -> ZohoClient:
    return client_from_settings(purpose="page")


# -- where the CRM is to call ---------------------------------------------------------------------


def address() -> str:
    """The webhook's address. Raises NoWebhookAddress with what to do, if the CRM cannot use it."""
    base = settings.APP_BASE_URL.rstrip("/")
    parts = urlsplit(base)
    host = parts.hostname or ""
    if not settings.WEBHOOK_TOKENS:
        raise NoWebhookAddress("Set WEBHOOK_TOKEN (at most 50 characters) and start again.")
    if len(base + PATH) > MAX_ADDRESS:
        raise NoWebhookAddress(
            f"APP_BASE_URL is too long: the CRM takes addresses of {MAX_ADDRESS} characters."
        )
    if _is_loopback(host) and _is_crm_on_this_machine():
        return base + PATH
    if parts.scheme != "https" or not _is_public(host):
        raise NoWebhookAddress(
            f"The CRM cannot call {base}: notifications need a public https address. Set "
            "APP_BASE_URL to it and start again. Until then changes arrive with the delta sync."
        )
    return base + PATH


def _is_crm_on_this_machine() -> bool:
    crm = urlsplit(settings.ZOHO.base_url).hostname if settings.ZOHO else ""
    return _is_loopback(crm or "")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_public(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host and not host.endswith((".local", ".internal", ".localhost"))


def _token_mark() -> str:
    """Changes with the token, and tells nothing of it."""
    return salted_hmac("crm.sync.channels", settings.WEBHOOK_TOKENS[0]).hexdigest()[:32]


# -- acts -----------------------------------------------------------------------------------------


def set_up(*, now: datetime, make_client: Make = page_client) -> list[NotificationChannel]:
    """A living channel for each module; those that live are prolonged.

    Raises CrmNotConfigured, NoWebhookAddress, and the CRM's error if it accepted none.
    """
    if settings.ZOHO is None:
        raise CrmNotConfigured
    url = address()
    channels = [_row_of(module.name, url, now) for module in ORDER]
    with make_client() as client:
        results = _register(client, channels, url, now)
    _raise_if_all_refused(results)
    return channels


def look_after(
    *, now: datetime, make_client: Make = page_client, is_forced: bool = False
) -> list[NotificationChannel]:
    """What is due for the channels there are: prolonged at half-life or with a changed address or
    token, made anew where the CRM has it no more. Returns those that were touched.

    Raises as `set_up` does; nothing is asked of the CRM while nothing is due.
    """
    channels = list(NotificationChannel.objects.order_by("pk"))
    if not channels or settings.ZOHO is None:
        return []
    url = address()
    due = [each for each in channels if is_forced or is_due(each, url, now)]
    unsure = [each for each in channels if each not in due and _is_unsure(each, now)]
    if not due and not unsure:
        return []
    with make_client() as client:
        gone = _gone(client, unsure, now) if unsure else []
        results = _register(client, [*due, *gone], url, now, gone=gone)
    _raise_if_all_refused(results)
    return [*due, *gone]


def is_due(channel: NotificationChannel, url: str, now: datetime) -> bool:
    """Whether it is to be prolonged now."""
    if channel.registered_at is None or channel.expires_at is None:
        return True
    half = channel.registered_at + (channel.expires_at - channel.registered_at) / 2
    is_changed = channel.notify_url != url or channel.token_mark != _token_mark()
    # Registered in the future, by a clock that has been set back since: nothing of it holds.
    return is_changed or now >= half or channel.registered_at > now + CHECK_EVERY


def remove(
    channels: Sequence[NotificationChannel] | None = None, *, make_client: Make = page_client
) -> int:
    """End them at the CRM (all, if none is named), then forget them; returns how many.

    One that the CRM has no more is forgotten too. Raises the CRM's error, and then all stay.
    """
    rows = list(NotificationChannel.objects.all() if channels is None else channels)
    if rows and settings.ZOHO is None:
        raise CrmNotConfigured
    if rows:
        with make_client() as client:
            results = client.unwatch([row.channel_id for row in rows])
        ended = {r.channel_id for r in results if r.ok or r.code == GONE}
        NotificationChannel.objects.filter(channel_id__in=ended).delete()
        webhook.forget_channels()
        _raise_if_all_refused([r for r in results if r.channel_id not in ended])
    return len(rows)


def _row_of(module: str, url: str, now: datetime) -> NotificationChannel:
    """Known here before it is at the CRM: its first notice may come before the answer."""
    number = str(10**15 + secrets.randbelow(9 * 10**15))
    row, _ = NotificationChannel.objects.get_or_create(
        module=module, defaults={"channel_id": number, "notify_url": url, "created_at": now}
    )
    return row


def _is_unsure(channel: NotificationChannel, now: datetime) -> bool:
    checked = channel.checked_at
    return checked is None or not timedelta(0) <= now - checked < CHECK_EVERY


def _gone(
    client: ZohoClient, channels: Iterable[NotificationChannel], now: datetime
) -> list[NotificationChannel]:
    """Those that the CRM does not list; of the others it is known that the CRM answers again."""
    alive = {each.channel_id for each in client.watched()}
    rows = list(channels)
    found = [row.pk for row in rows if row.channel_id in alive]
    listed = NotificationChannel.objects.filter(pk__in=found)
    listed.update(checked_at=now)
    # What the CRM refused is not undone by its being up.
    listed.filter(state=NotificationChannel.ACTIVE).update(error_code="", message="")
    return [row for row in rows if row.channel_id not in alive]


def _register(
    client: ZohoClient,
    channels: Sequence[NotificationChannel],
    url: str,
    now: datetime,
    *,
    gone: Sequence[NotificationChannel] = (),
) -> list[ChannelResult]:
    """Prolong what lives, make what does not (`gone`: surely not); the rows say what came of it."""
    wishes = {row.channel_id: _wish(row, url, now) for row in channels}
    new = {row.channel_id for row in channels if row.registered_at is None}
    lost = {row.channel_id for row in gone}
    results = client.rewatch([wish for name, wish in wishes.items() if name not in new | lost])
    lost |= {result.channel_id for result in results if result.code == GONE}
    kept = [result for result in results if result.code != GONE]
    made = client.watch([wish for name, wish in wishes.items() if name in new | lost])
    by_id = {row.channel_id: row for row in channels}
    for result in [*kept, *made]:
        _keep(by_id[result.channel_id], result, url, now)
    if lost:
        log.warning("channels_made_anew", number=len(lost))
        _catch_up()
    return [*kept, *made]


def _wish(row: NotificationChannel, url: str, now: datetime) -> ChannelWish:
    token = settings.WEBHOOK_TOKENS[0]
    return ChannelWish(row.channel_id, [f"{row.module}.all"], url, token, now + LIFE)


def _keep(row: NotificationChannel, result: ChannelResult, url: str, now: datetime) -> None:
    if result.ok:
        row.state, row.notify_url, row.token_mark = row.ACTIVE, url, _token_mark()
        row.registered_at = row.checked_at = now
        row.expires_at = result.expires_at or now + timedelta(hours=1)
        row.error_code = row.message = ""
    else:
        # What lived before lives on until it ends: when it was registered stays as it was.
        row.state, row.error_code, row.message = row.REFUSED, result.code[:64], result.message
    row.save(
        update_fields=["state", "notify_url", "token_mark", "registered_at", "checked_at",
                       "expires_at", "error_code", "message"]
    )  # fmt: skip


def _raise_if_all_refused(results: Sequence[ChannelResult]) -> None:
    if results and not any(result.ok for result in results):
        first = results[0]
        raise FixRequest(
            f"The CRM refuses the notification channels ({first.code}: {first.message}).",
            code=first.code,
            crm_message=first.message,
        )


def _catch_up() -> None:
    """What happened while nobody told us: a delta from the last good sync."""
    with contextlib.suppress(CrmError):  # one under way does the same
        runs.request_run(kind=runs.DELTA, trigger="webhook")


# -- keeping them, by schedule --------------------------------------------------------------------


def keep(*, now: datetime, make_client: Make = page_client) -> None:
    """The schedule's turn: `look_after`. In the sandbox's own run they are also set up; a real CRM
    gets channels from a person only. What goes wrong is logged and stands on the channels.
    """
    try:
        is_own = settings.SANDBOX and settings.ZOHO is not None
        if is_own and NotificationChannel.objects.count() < len(ORDER):
            set_up(now=now, make_client=make_client)
        look_after(now=now, make_client=make_client)
    except (CrmError, ZohoError) as error:
        log.warning("channels_not_renewed", code=error.code, reason=error.message)
        NotificationChannel.objects.update(error_code=error.code[:64], message=error.message)
