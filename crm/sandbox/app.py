"""Every request goes through here: faults, routes, sign-in, limits, then the call itself.

The calls there are stand in `routes.py`; what a call does lives in the module it names there.
"""

import json
import sys
import time
import traceback
from functools import partial
from typing import Any

from crm.sandbox.bulk import BulkJobs
from crm.sandbox.channels import Channels
from crm.sandbox.clock import Clock
from crm.sandbox.control import Control
from crm.sandbox.errors import ApiError, invalid_url, no_permission
from crm.sandbox.faults import Faults
from crm.sandbox.holds import META_KEY, load_holds
from crm.sandbox.life import Life
from crm.sandbox.limits import Limits
from crm.sandbox.oauth import OAuth
from crm.sandbox.routes import SEARCHING, Handler, Route, routes_of
from crm.sandbox.server import Request, Response
from crm.sandbox.stats import Stats
from crm.sandbox.store import Store


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
        with store.reader() as sql:
            load_holds(store, store.read_meta(sql, META_KEY))
        self.clock = clock
        self.oauth = oauth
        self.limits = limits
        self.life = life
        self.latency_ms = latency_ms
        self.forbidden: frozenset[str] = frozenset()
        self.stats = Stats()
        self.faults = Faults()
        self.control = Control(self) if with_control else None
        self.bulk = BulkJobs(store)
        self.channels = Channels(store)
        self.routes = routes_of(self.bulk, self.channels)
        self._accounts: dict[tuple[str, str], Handler] = {
            ("POST", "/oauth/v2/token"): oauth.token,
            ("GET", "/oauth/v2/auth"): oauth.authorize,
            ("POST", "/oauth/v2/token/revoke"): oauth.revoke,
            ("GET", "/oauth/serverinfo"): oauth.server_info,
        }

    def begin(self, base: str) -> None:
        """We listen at `base`: tokens, channels and notices name it; life and calls start."""
        self.oauth.base = self.channels.base = base
        self.limits.start(self.store.path.with_name(self.store.path.name + ".credits"))
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
        self._check_permission(call)
        for name in sorted(set(request.query) - route.params):
            self.stats.ignored(request, f"query parameter {name}")
        try:
            with self.limits.admit(route.heavy(request)):
                self._sleep()
                response = call()
        except ApiError as error:
            if error.status != 429:  # whether refused calls cost is unknown: the harder reading
                self.limits.spend(1)
            elif "actions/watch" in request.path:
                error.code = "RATE_LIMIT_EXCEEDED"
            raise
        self.limits.spend(response.credits)
        for what in response.ignored:
            self.stats.ignored(request, what)
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
        searching = module and {"criteria", "email", "phone", "word"} & set(request.query)
        return tuple(
            scope.replace("{module}", module).replace("{verb}", verb)
            for scope in (*route.scopes, *((SEARCHING,) if searching else ()))
        )

    def _check_permission(self, call: partial[Response]) -> None:
        """403 where the token's user may not see the module; control says which."""
        module = str(call.keywords.get("module_name", ""))
        if module in self.forbidden:
            raise no_permission(f"Crm_Implied_View_{module}")

    def snapshot(self) -> dict[str, Any]:
        """The statistics as control shows them."""
        stats = self.stats
        return {
            "requests": stats.requests,
            "by_path": dict(stats.by_path),
            "by_status": {str(k): v for k, v in stats.by_status.items()},
            "rule_breaks": dict(stats.rule_breaks),
            "rule_breaks_ever": dict(stats.breaks_ever),
            "throttled": stats.by_status[429],
            "tokens_minted": self.oauth.minted,
            "mints_refused": self.oauth.mints_refused,
            "credits_used": self.limits.spent,
            "most_in_flight": self.limits.most_in_flight,
            "notices_sent": self.channels.sent,
        }
