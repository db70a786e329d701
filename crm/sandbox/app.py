"""Every request goes through here: faults, routes, sign-in, limits, then the call itself.

Routes and their costs are the table below; what a call does lives in the module it names.
"""

import json
import re
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from crm.sandbox import convert, coql, field_setup, metadata, records, search, timeline, writes
from crm.sandbox.bulk import BulkJobs
from crm.sandbox.channels import Channels
from crm.sandbox.clock import Clock
from crm.sandbox.control import Control
from crm.sandbox.errors import ApiError, invalid_url
from crm.sandbox.faults import Faults
from crm.sandbox.life import Life
from crm.sandbox.limits import Limits
from crm.sandbox.oauth import OAuth
from crm.sandbox.server import Request, Response
from crm.sandbox.store import Store

Handler = Callable[..., Response]


@dataclass(frozen=True)
class Route:
    """One call: method, path pattern, what runs, scopes it needs, when it counts as heavy."""

    method: str
    pattern: re.Pattern[str]
    handler: Handler
    scopes: tuple[str, ...]
    heavy: Callable[[Request], bool]


def _never(_request: Request) -> bool:
    return False


def _always(_request: Request) -> bool:
    return True


def _sorted_list(request: Request) -> bool:
    return "sort_by" in request.query or "cvid" in request.query


def _many_records(request: Request) -> bool:
    try:
        data = request.json.get("data")
    except (ValueError, AttributeError):
        return False
    return isinstance(data, list) and len(data) > 10


def _routes(bulk: BulkJobs, channels: Channels) -> list[Route]:
    module = r"(?P<module_name>(?!(?:org|users|settings|coql|actions)\b)[A-Za-z]\w*)"
    record = r"(?P<record_id>\d{1,19})"
    field_id = r"(?P<field_id>\d+)"
    reading = ("ZohoCRM.modules.{module}.READ",)
    fields, layouts = ("ZohoCRM.settings.fields.{verb}",), ("ZohoCRM.settings.layouts.READ",)
    watching = ("ZohoCRM.notifications.{verb}",)
    table: list[tuple[str, str, Handler, tuple[str, ...], Callable[[Request], bool]]] = [
        ("POST", r"coql", coql.run_coql, ("ZohoCRM.coql.READ", "ZohoCRM.modules.READ"), _always),
        ("GET", r"org", metadata.get_org, ("ZohoCRM.org.READ",), _never),
        ("GET", r"org/currencies", metadata.get_currencies,
         ("ZohoCRM.settings.currencies.READ",), _never),
        ("GET", r"users", metadata.get_users, ("ZohoCRM.users.READ",), _never),
        ("GET", r"users/(?P<user_id>\d{1,19})", metadata.get_user, ("ZohoCRM.users.READ",), _never),
        ("GET", r"settings/modules", metadata.get_modules, ("ZohoCRM.settings.modules.READ",),
         _never),
        ("GET", r"settings/fields", metadata.get_fields, fields, _never),
        ("POST", r"settings/fields", field_setup.create_fields, fields, _never),
        ("GET", rf"settings/fields/{field_id}", metadata.get_field, fields, _never),
        ("PATCH", rf"settings/fields/{field_id}", field_setup.update_field, fields, _never),
        ("DELETE", rf"settings/fields/{field_id}", field_setup.delete_field, fields, _never),
        ("GET", rf"settings/fields/{field_id}/pick_list_values", metadata.get_pick_list_values,
         fields, _never),
        ("GET", r"settings/layouts", metadata.get_layouts, layouts, _never),
        ("GET", r"settings/pipeline", metadata.get_pipelines,
         ("ZohoCRM.settings.pipeline.READ",), _never),
        ("GET", r"actions/watch", channels.show, watching, _never),
        ("POST", r"actions/watch", channels.register, watching, _never),
        ("PUT", r"actions/watch", channels.replace, watching, _never),
        ("PATCH", r"actions/watch", channels.change, watching, _never),
        ("DELETE", r"actions/watch", channels.remove, watching, _never),
        ("POST", rf"Leads/{record}/actions/convert", convert.convert_lead,
         ("ZohoCRM.modules.leads.CREATE",), _always),
        ("GET", rf"Leads/{record}/__conversion_options", convert.conversion_options,
         ("ZohoCRM.modules.leads.READ",), _never),
        ("GET", rf"Deals/{record}/Stage_History", timeline.get_stage_history,
         ("ZohoCRM.modules.deals.READ",), _never),
        ("GET", rf"{module}/{record}/__timeline", timeline.get_timeline, reading, _never),
        ("GET", rf"{module}/deleted", records.list_deleted, reading, _never),
        ("GET", rf"{module}/actions/count", search.count_records, reading, _never),
        ("GET", rf"{module}/search", search.search_records,
         (*reading, "ZohoSearch.securesearch.READ"), _always),
        ("POST", rf"{module}/upsert", writes.upsert_records,
         ("ZohoCRM.modules.{module}.CREATE",), _many_records),
        ("GET", module, records.list_records, reading, _sorted_list),
        ("POST", module, writes.insert_records, ("ZohoCRM.modules.{module}.CREATE",),
         _many_records),
        ("PUT", module, writes.update_records, ("ZohoCRM.modules.{module}.UPDATE",), _many_records),
        ("DELETE", module, writes.delete_records, ("ZohoCRM.modules.{module}.DELETE",), _never),
        ("GET", rf"{module}/{record}", records.get_record, reading, _never),
        ("PUT", rf"{module}/{record}", writes.update_records,
         ("ZohoCRM.modules.{module}.UPDATE",), _never),
        ("DELETE", rf"{module}/{record}", writes.delete_records,
         ("ZohoCRM.modules.{module}.DELETE",), _never),
    ]  # fmt: skip
    routes = [
        Route(method, re.compile(rf"/crm/v[68]/{path}"), handler, scopes, heavy)
        for method, path, handler, scopes, heavy in table
    ]
    job = r"/crm/bulk/v[68]/read/(?P<job_id>\d{1,19})"
    bulk_scopes = ("ZohoCRM.bulk.READ", "ZohoCRM.modules.READ")
    for method, pattern, handler in (
        ("POST", r"/crm/bulk/v[68]/read", bulk.create),
        ("GET", job, bulk.status),
        ("GET", rf"{job}/result", bulk.result),
    ):
        routes.append(Route(method, re.compile(pattern), handler, bulk_scopes, _never))
    return routes


class Stats:
    """What was asked of us and what of it broke a rule. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        with self._lock:
            self.requests = 0
            self.by_path: Counter[str] = Counter()
            self.by_status: Counter[int] = Counter()
            self.rule_breaks: Counter[str] = Counter()

    def saw(self, request: Request, status: int) -> None:
        path = re.sub(r"/\d{6,}", "/{id}", request.path)
        with self._lock:
            self.requests += 1
            self.by_path[f"{request.method} {path}"] += 1
            self.by_status[status] += 1

    def broke(self, request: Request, error: ApiError) -> None:
        about = error.details.get("param_name") or error.details.get("api_name") or error.message
        path = re.sub(r"/\d{6,}", "/{id}", request.path)
        with self._lock:
            self.rule_breaks[f"{request.method} {path}: {error.code} ({about})"] += 1


class App:
    """The stand-in CRM as one function from request to response."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        oauth: OAuth,
        limits: Limits,
        life: Life,
        *,
        latency_ms: float = 0,
        with_control: bool = False,
    ) -> None:
        self.store = store
        self.clock = clock
        self.oauth = oauth
        self.limits = limits
        self.life = life
        self.latency_ms = latency_ms
        self.stats = Stats()
        self.faults = Faults()
        self.control = Control(self) if with_control else None
        self.bulk = BulkJobs(store)
        self.channels = Channels(store)
        self.routes = _routes(self.bulk, self.channels)
        self._accounts: dict[tuple[str, str], Handler] = {
            ("POST", "/oauth/v2/token"): oauth.token,
            ("GET", "/oauth/v2/auth"): oauth.authorize,
            ("POST", "/oauth/v2/token/revoke"): oauth.revoke,
            ("GET", "/oauth/serverinfo"): oauth.server_info,
        }

    def begin(self, base: str) -> None:
        """We listen at `base`: tokens, channels and notices name it; life and calls start."""
        self.oauth.base = self.channels.base = base
        self.channels.start()
        self.life.start()

    def handle(self, request: Request) -> Response:
        """Answer one request, whatever happens in it."""
        if self.control is not None and request.path == "/_control":
            return self._dated(self.control.handle(request))
        fault = self.faults.pick(request)
        early = fault.early(self) if fault else None
        response = early or self._answer(request)
        self.stats.saw(request, response.status)
        self._dated(response)
        if fault and early is None:
            response = fault.late(response)
        if self.control is not None:
            self.control.after_request(request)
        return response

    def _dated(self, response: Response) -> Response:
        response.headers["Date"] = self.clock.http_date()
        return response

    def _answer(self, request: Request) -> Response:
        try:
            accounts = self._accounts.get((request.method, request.path))
            if accounts is not None:
                self._sleep()
                return accounts(request)
            return self._api(request)
        except ApiError as error:
            if error.counts:
                self.stats.broke(request, error)
            body = error.body()
            if error.status == 412:
                body = json.dumps({"data": [error.item()]}).encode()
            return Response(error.status, body)
        except Exception:
            traceback.print_exc(file=sys.stderr)
            return Response.of(
                {
                    "code": "INTERNAL_ERROR",
                    "details": {},
                    "message": "Internal Server Error",
                    "status": "error",
                },
                500,
            )

    def _api(self, request: Request) -> Response:
        call, route = self._route(request)
        self.oauth.check(request.headers.get("authorization"))
        self.oauth.check_scopes(self._scopes(request, route, call))
        with self.limits.admit(route.heavy(request)):
            self._sleep()
            response = call()
        self.limits.spend(response.credits)
        remaining = self.limits.remaining_header()
        if remaining is not None:
            response.headers["X-API-CREDITS-REMAINING"] = remaining
        return response

    def _sleep(self) -> None:
        if self.latency_ms:
            time.sleep(self.latency_ms / 1000)

    def _route(self, request: Request) -> tuple[partial[Response], Route]:
        other_method = False
        for route in self.routes:
            match = route.pattern.fullmatch(request.path)
            if match is None:
                continue
            if route.method == request.method:
                return partial(route.handler, self.store, request, **match.groupdict()), route
            other_method = True
        if other_method:
            raise ApiError(
                405, "METHOD_NOT_ALLOWED", "The request method is not allowed for this URL"
            )
        raise invalid_url()

    def _scopes(self, request: Request, route: Route, call: partial[Response]) -> tuple[str, ...]:
        module = str(call.keywords.get("module_name", "")).lower()
        verb = {"POST": "CREATE", "PATCH": "UPDATE", "DELETE": "DELETE"}.get(request.method, "READ")
        return tuple(
            scope.replace("{module}", module).replace("{verb}", verb) for scope in route.scopes
        )

    def snapshot(self) -> dict[str, Any]:
        """The statistics as control shows them."""
        stats = self.stats
        return {
            "requests": stats.requests,
            "by_path": dict(stats.by_path),
            "by_status": {str(k): v for k, v in stats.by_status.items()},
            "rule_breaks": dict(stats.rule_breaks),
            "throttled": stats.by_status[429],
            "tokens_minted": self.oauth.minted,
            "mints_refused": self.oauth.mints_refused,
            "credits_used": self.limits.spent,
            "most_in_flight": self.limits.most_in_flight,
            "notices_sent": self.channels.sent,
        }
