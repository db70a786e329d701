"""Notification channels: register, change, remove, and really call back when records change.

Changes are gathered for `gather_ms` and sent as one call for each module and operation. Control
can make calls get lost, be repeated or arrive in another order, by chance from a seed: nothing
about retries, order or once-only is documented, so a receiver must stand all of it.
"""

import json
import queue
import random
import re
import threading
import time
import traceback
from typing import Any
from urllib.parse import parse_qsl, urlparse

from crm.sandbox.clock import parse_instant, text_of
from crm.sandbox.errors import ApiError, invalid_data, missing_param
from crm.sandbox.fragments import from_fragment
from crm.sandbox.params import body_list, json_object
from crm.sandbox.posting import allowed_url, post_json
from crm.sandbox.schema import Module, zoho_id
from crm.sandbox.server import Request, Response
from crm.sandbox.store import Change, Store

MAX_CHANNELS = 50
MAX_EVENTS = 50
MAX_URL = 255
MAX_TOKEN = 50
LONGEST_S = 7 * 86_400
DEFAULT_S = 3_600
MAX_IDS = 100
MAX_CONDITIONS = 2
MAX_CONDITION_FIELDS = 10
UNSUBSCRIBED = "Successfully un-subscribed from actions-watch"
OPERATIONS = {"insert": "create", "update": "edit", "delete": "delete"}
EVENT = re.compile(r"(\w+)\.(create|edit|delete|all)$")


class Channels:
    """The org's channels and the thread that calls back."""

    def __init__(self, store: Store, seed: int = 1) -> None:
        self.store = store
        self.base = ""
        self.gather_ms = 50.0
        self.lose = 0.0
        self.repeat = 0.0
        self.shuffle = False
        self.sent = 0
        self._rng = random.Random(f"channels {seed}")
        self._changes: queue.SimpleQueue[list[Change]] = queue.SimpleQueue()
        store.listeners.append(self._changes.put)

    def start(self) -> None:
        threading.Thread(target=self._call_back, daemon=True, name="channels").start()

    # -- endpoints -----------------------------------------------------------------------------

    def register(self, _store: Store, request: Request) -> Response:
        """POST /crm/v8/actions/watch"""
        return self._each(request, self._register_one, 201)

    def replace(self, _store: Store, request: Request) -> Response:
        """PUT /crm/v8/actions/watch: the whole configuration of channels that live."""

        def act(wish: dict[str, Any]) -> dict[str, Any]:
            self._living(wish)
            return self._register_one(wish)

        return self._each(request, act, 200)

    def change(self, _store: Store, request: Request) -> Response:
        """PATCH /crm/v8/actions/watch: some keys; `_delete_events` takes events away."""
        return self._each(request, self._change_one, 200)

    def show(self, _store: Store, request: Request) -> Response:
        """GET /crm/v8/actions/watch"""
        wanted, module = request.query.get("channel_id"), request.query.get("module")
        found = [
            self._describe(channel)
            for channel in self._alive()
            if wanted in (None, channel["channel_id"])
            and (module is None or any(e.startswith(f"{module}.") for e in channel["events"]))
        ]
        if not found:
            return Response(204)
        info = {"per_page": 200, "count": len(found), "page": 1, "more_records": False}
        return Response.of({"watch": found, "info": info})

    def remove(self, _store: Store, request: Request) -> Response:
        """DELETE /crm/v8/actions/watch?channel_ids="""
        if not request.query.get("channel_ids"):
            raise missing_param("channel_ids")
        results = []
        living = {channel["channel_id"] for channel in self._alive()}
        for channel_id in request.query["channel_ids"].split(","):
            if channel_id not in living:
                results.append(not_subscribed().item())
                continue
            with self.store.write() as tx:
                tx.sql.execute("delete from channel where channel_id=?", (channel_id,))
            results.append(
                _success(
                    {"channel_id": channel_id}, "Successfully un-subscribed from actions-watch"
                )
            )
        return Response.of({"watch": results}, status_of(results, 200))

    # -- one channel ---------------------------------------------------------------------------

    def _each(self, request: Request, act: Any, good: int) -> Response:
        wishes = body_list(json_object(request), "watch")
        if len(wishes) > MAX_CHANNELS:
            raise ApiError(400, "LIMIT_REACHED", "too many channels", {"limit": MAX_CHANNELS})
        results = []
        for wish in wishes:
            try:
                if not isinstance(wish, dict):
                    raise _bad("watch")
                results.append(act(wish))
            except ApiError as error:
                results.append(error.item())
        return Response.of(
            {"watch": results}, status_of(results, good), ignored=self._short(wishes)
        )

    def _short(self, wishes: list[Any]) -> tuple[str, ...]:
        """Wishes that silently come to an hour: too far ahead, or none at all."""
        latest = self.store.clock.time() + LONGEST_S
        expiries = [wish.get("channel_expiry") for wish in wishes if isinstance(wish, dict)]
        too_far = [e for e in expiries if isinstance(e, str) and (parse_instant(e) or 0) > latest]
        return ("channel_expiry beyond a week",) if too_far else ()

    def _register_one(self, wish: dict[str, Any]) -> dict[str, Any]:
        channel = {
            "channel_id": _channel_id(wish),
            "events": self._events(wish.get("events")),
            "notify_url": _url(wish.get("notify_url")),
            "token": _token(wish.get("token")),
            "channel_expiry": self._expiry(wish.get("channel_expiry")),
            "notify_on_related_action": wish.get("notify_on_related_action", True),
            "return_affected_field_values": wish.get("return_affected_field_values", False),
            "notification_condition": _condition(wish.get("notification_condition")),
        }
        self._keep(channel)
        message = "Successfully subscribed for actions-watch of the given module"
        return _success({"events": self._event_rows(channel)}, message)

    def _change_one(self, wish: dict[str, Any]) -> dict[str, Any]:
        channel = self._living(wish)
        if "events" in wish:
            named = self._events(wish["events"])
            if wish.get("_delete_events"):
                channel["events"] = [e for e in channel["events"] if e not in named]
            else:
                channel["events"] = list(dict.fromkeys([*channel["events"], *named]))
        if "notify_url" in wish:
            channel["notify_url"] = _url(wish["notify_url"])
        if "token" in wish:
            channel["token"] = _token(wish["token"])
        if "channel_expiry" in wish:
            channel["channel_expiry"] = self._expiry(wish["channel_expiry"])
        for key in (
            "notify_on_related_action",
            "return_affected_field_values",
            "notification_condition",
        ):
            if key in wish:
                channel[key] = wish[key]
        _condition(channel["notification_condition"])
        self._keep(channel)
        message = "Successfully updated the subscribe details"
        return _success({"events": self._event_rows(channel)}, message)

    def _events(self, raw: Any) -> list[str]:
        if not isinstance(raw, list) or not raw:
            raise ApiError(
                400, "MANDATORY_NOT_FOUND", "required field not found", {"api_name": "events"}
            )
        if len(raw) > MAX_EVENTS:
            raise ApiError(400, "LIMIT_REACHED", "too many events", {"limit": MAX_EVENTS})
        for event in raw:
            match = EVENT.match(event) if isinstance(event, str) else None
            if match is None or match[1] not in {*self.store.modules, "Users"}:
                raise _bad("events")
        return raw

    def _expiry(self, raw: Any) -> str:
        """Absent or more than a week ahead: one hour, silently."""
        now = self.store.clock.time()
        if raw is None:
            return text_of(now + DEFAULT_S)
        instant = parse_instant(raw) if isinstance(raw, str) else None
        if instant is None or instant <= now:
            raise _bad("channel_expiry")
        return text_of(instant if instant <= now + LONGEST_S else now + DEFAULT_S)

    def _keep(self, channel: dict[str, Any]) -> None:
        with self.store.write() as tx:
            tx.sql.execute(
                "insert or replace into channel values (?,?)",
                (channel["channel_id"], json.dumps(channel)),
            )

    def _alive(self) -> list[dict[str, Any]]:
        """Channels that have not expired: an expired one is as if it never was."""
        with self.store.reader() as sql:
            rows = sql.execute("select definition from channel").fetchall()
        channels = [json.loads(row[0]) for row in rows]
        now = self.store.clock.time()
        return [c for c in channels if (parse_instant(c["channel_expiry"]) or 0) > now]

    def _living(self, wish: dict[str, Any]) -> dict[str, Any]:
        wanted = _channel_id(wish)
        for channel in self._alive():
            if channel["channel_id"] == wanted:
                return channel
        raise not_subscribed()

    def _event_rows(self, channel: dict[str, Any]) -> list[dict[str, Any]]:
        modules = dict.fromkeys(event.split(".")[0] for event in channel["events"])
        return [
            {
                "channel_expiry": channel["channel_expiry"],
                **self._resource(name),
                "channel_id": channel["channel_id"],
            }
            for name in modules
        ]

    def _resource(self, name: str) -> dict[str, str]:
        module: Module | None = self.store.modules.get(name)
        return {
            "resource_uri": f"{self.base}/crm/v8/{name}",
            "resource_id": module.id if module else zoho_id(2_000),
            "resource_name": name,
        }

    def _describe(self, channel: dict[str, Any]) -> dict[str, Any]:
        return {
            **channel,
            **self._resource(channel["events"][0].split(".")[0]),
            "fields": None,
        }

    # -- calling back --------------------------------------------------------------------------

    def _call_back(self) -> None:
        while True:
            changes = list(self._changes.get())
            time.sleep(self.gather_ms / 1000)
            while not self._changes.empty():
                changes += self._changes.get()
            try:
                self._notify(changes)
            except Exception:
                traceback.print_exc()

    def _notify(self, changes: list[Change]) -> None:
        calls = []
        for channel in self._alive():
            for group in gather(changes):
                wanted = {f"{group[0].module}.{OPERATIONS[group[0].operation]}",
                          f"{group[0].module}.all"}  # fmt: skip
                chosen = [c for c in group if _concerns(channel, c)]
                if chosen and wanted & set(channel["events"]):
                    calls += [
                        (channel, chosen[n : n + MAX_IDS]) for n in range(0, len(chosen), MAX_IDS)
                    ]
        if self.shuffle:
            self._rng.shuffle(calls)
        for channel, group in calls:
            if self._rng.random() < self.lose:
                continue
            body = self._body(channel, group)
            for _ in range(2 if self._rng.random() < self.repeat else 1):
                post_json(channel["notify_url"], body)
                self.sent += 1

    def _body(self, channel: dict[str, Any], group: list[Change]) -> dict[str, Any]:
        first = group[0]
        ids = list(dict.fromkeys(str(i) for change in group for i in change.ids))
        body: dict[str, Any] = {
            "server_time": int(self.store.clock.time() * 1000),
            "query_params": dict(parse_qsl(urlparse(channel["notify_url"]).query)),
            "module": first.module,
            "resource_uri": f"{self.base}/crm/v8/{first.module}",
            "ids": ids,
            "affected_fields": [
                {str(i): list(names)} for c in group for i, names in c.fields.items()
            ],
            "operation": first.operation,
            "channel_id": channel["channel_id"],
            "token": channel["token"],
        }
        if channel["return_affected_field_values"]:
            body["affected_values"] = [
                {
                    "record_id": str(i),
                    "values": {name: from_fragment(v) for name, v in values.items()},
                }
                for c in group
                for i, values in c.values.items()
            ]
        return body


def gather(changes: list[Change]) -> list[list[Change]]:
    """Changes in the order they came, neighbours of one module and operation together."""
    groups: list[list[Change]] = []
    for change in changes:
        last = groups[-1][0] if groups else None
        if last and (last.module, last.operation) == (change.module, change.operation):
            groups[-1].append(change)
        else:
            groups.append([change])
    return groups


def _concerns(channel: dict[str, Any], change: Change) -> bool:
    """Whether an update touches a field the channel's condition names; others always do."""
    condition = channel.get("notification_condition")
    if change.operation != "update" or not isinstance(condition, list):
        return True
    names = set(_field_names(condition))
    touched = {name for fields in change.fields.values() for name in fields}
    return not names or bool(names & touched)


def _field_names(node: Any) -> list[str]:
    if isinstance(node, list):
        return [name for item in node for name in _field_names(item)]
    if isinstance(node, dict):
        own = node.get("field")
        found = [own["api_name"]] if isinstance(own, dict) and "api_name" in own else []
        return found + [n for k, v in node.items() if k != "field" for n in _field_names(v)]
    return []


def _success(details: dict[str, Any], message: str) -> dict[str, Any]:
    return {"code": "SUCCESS", "details": details, "message": message, "status": "success"}


def not_subscribed() -> ApiError:
    return ApiError(
        400,
        "NOT_SUBSCRIBED",
        "Not subscribed for actions-watch of the given channel",
        counts=False,
    )


def status_of(results: list[dict[str, Any]], good: int) -> int:
    """All, some or none went well."""
    failed = sum(result["status"] == "error" for result in results)
    return good if not failed else 207 if failed < len(results) else 400


def _bad(name: str) -> ApiError:
    return invalid_data(api_name=name)


def _channel_id(wish: dict[str, Any]) -> str:
    text = str(wish.get("channel_id", ""))
    if not text:
        raise ApiError(
            400, "MANDATORY_NOT_FOUND", "required field not found", {"api_name": "channel_id"}
        )
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise _bad("channel_id")
    return text


def _url(raw: Any) -> str:
    if not isinstance(raw, str) or not raw:
        raise ApiError(
            400, "MANDATORY_NOT_FOUND", "required field not found", {"api_name": "notify_url"}
        )
    if len(raw) > MAX_URL or not allowed_url(raw):
        raise _bad("notify_url")
    return raw


def _condition(raw: Any) -> Any:
    """At most two conditions of at most ten fields each."""
    if raw is None:
        return None
    if not isinstance(raw, list) or len(raw) > MAX_CONDITIONS:
        raise _bad("notification_condition")
    if any(len(_field_names([one])) > MAX_CONDITION_FIELDS for one in raw):
        raise _bad("notification_condition")
    return raw


def _token(raw: Any) -> str | None:
    if raw is not None and (not isinstance(raw, str) or len(raw) > MAX_TOKEN):
        raise _bad("token")
    return raw
