"""Notification channels in the dialect of version 8: `/actions/watch`.

Decides how the five calls are spelled and their per-channel results read. When a channel is set
up, renewed or given up is decided in `crm.sync.channels`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from crm.zoho.client import ChannelResult, ChannelWish, WatchedChannel, details_of
from crm.zoho.errors import FixRequest, UnknownOutcome, redact
from crm.zoho.paging import bad_payload, parse_whole
from crm.zoho.times import crm_time
from crm.zoho.transport import Call, Transport

MAX_CHANNELS = 50
MAX_EVENTS = 50
_PATH = "/actions/watch"
_SUBJECT = "the notification channels"
_ITEMS = "watch"


class WatchCalls:
    """The calls of `ZohoClient` about channels; mixed into a dialect."""

    version: str
    _transport: Transport

    def watch(self, wishes: Sequence[ChannelWish]) -> list[ChannelResult]:
        return self._watch("POST", "CREATE", [_whole(wish) for wish in wishes])

    def rewatch(self, wishes: Sequence[ChannelWish]) -> list[ChannelResult]:
        return self._watch("PUT", "UPDATE", [_whole(wish) for wish in wishes])

    def drop_events(self, channel_id: str, events: Sequence[str]) -> ChannelResult:
        change = {"channel_id": channel_id, "events": list(events), "_delete_events": True}
        return self._watch("PATCH", "UPDATE", [change])[0]

    def watched(
        self, *, channel_id: str | None = None, module: str | None = None
    ) -> list[WatchedChannel]:
        asked = {"channel_id": channel_id, "module": module}
        call = self._watch_call("GET", "READ", params={k: v for k, v in asked.items() if v})
        answer = self._transport.send(call)
        if not answer.body or answer.status == 204:
            return []
        whole = parse_whole(answer.body)
        items = whole.get(_ITEMS) if isinstance(whole, dict) else None
        if not isinstance(items, list):
            raise bad_payload(f"it has no list named {_ITEMS}", answer.body)
        return [_watched(item) for item in items if isinstance(item, Mapping)]

    def unwatch(self, channel_ids: Sequence[str]) -> list[ChannelResult]:
        if not channel_ids:
            return []
        params = {"channel_ids": ",".join(channel_ids)}
        call = self._watch_call("DELETE", "DELETE", params=params, items=True)
        return self._watch_results(call, channel_ids)

    def _watch(self, method: str, verb: str, wishes: list[dict[str, Any]]) -> list[ChannelResult]:
        if not wishes:
            return []
        if len(wishes) > MAX_CHANNELS:
            raise FixRequest(
                f"The CRM cannot be asked this: {len(wishes)} channels in one call, "
                f"{MAX_CHANNELS} are allowed.",
                code="bad_request",
            )
        call = self._watch_call(method, verb, json={_ITEMS: wishes}, items=True)
        return self._watch_results(call, [str(wish["channel_id"]) for wish in wishes])

    def _watch_call(self, method: str, verb: str, **more: Any) -> Call:
        return Call(
            method,
            f"/crm/{self.version}{_PATH}",
            subject=_SUBJECT,
            scope=f"ZohoCRM.notifications.{verb}",
            item_key=_ITEMS,
            **more,
        )

    def _watch_results(self, call: Call, channel_ids: Sequence[str]) -> list[ChannelResult]:
        answer = self._transport.send(call)
        whole = parse_whole(answer.body) if answer.body else {}
        items = whole.get(_ITEMS) if isinstance(whole, dict) else None
        if not isinstance(items, list) or len(items) != len(channel_ids):
            raise UnknownOutcome(
                f"The CRM's answer about {_SUBJECT} does not say what became of each. Look which "
                "there are before trying again.",
                code="unknown_outcome",
                status=answer.status,
            )
        return [_result(*pair) for pair in zip(channel_ids, items, strict=True)]


def _whole(wish: ChannelWish) -> dict[str, Any]:
    return {
        "channel_id": wish.channel_id,
        "events": list(wish.events),
        "notify_url": wish.notify_url,
        "token": wish.token,
        "channel_expiry": crm_time(wish.expires_at),
        "notify_on_related_action": False,
        "return_affected_field_values": False,
    }


def _result(channel_id: str, item: object) -> ChannelResult:
    if not isinstance(item, Mapping):
        return ChannelResult(channel_id, False, "bad_payload", "the CRM gave no result for it")
    events = details_of(item).get("events")
    first = events[0] if isinstance(events, list) and events else {}
    return ChannelResult(
        channel_id,
        ok=item.get("status") == "success",
        code=redact(str(item.get("code") or "unknown")),
        message=redact(str(item.get("message") or "")),
        expires_at=_moment(first.get("channel_expiry")) if isinstance(first, Mapping) else None,
    )


def _watched(item: Mapping[str, Any]) -> WatchedChannel:
    events = item.get("events")
    return WatchedChannel(
        channel_id=str(item.get("channel_id") or ""),
        events=tuple(map(str, events)) if isinstance(events, list) else (),
        notify_url=str(item.get("notify_url") or ""),
        expires_at=_moment(item.get("channel_expiry")),
    )


def _moment(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(value))
        return moment.astimezone(UTC) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
