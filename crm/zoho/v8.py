"""Version 8 of the CRM's API: paths, parameters, envelopes.

Decides how each call of `ZohoClient` is spelled and read. Leaves retries, tokens, limits and the
meaning of error codes to `transport` and `errors`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from crm.zoho.bulk import BulkCalls
from crm.zoho.client import WriteResult, ZohoClient, details_of
from crm.zoho.errors import (
    FixRequest,
    QueryRefused,
    UnknownOutcome,
    ZohoError,
    redact,
    redact_details,
)
from crm.zoho.limits import RESERVE, concurrency_of
from crm.zoho.paging import (
    LoopGuard,
    Page,
    RawRecord,
    bad_payload,
    follow_numbers,
    follow_tokens,
    parse_whole,
    read_info,
)
from crm.zoho.times import crm_time
from crm.zoho.transport import Call, Transport
from crm.zoho.watch import WatchCalls
from crm.zoho.wire import Answer

MAX_FIELDS = 50
MAX_FIELDS_TEXT = 1024
MAX_ROWS = 100
MAX_IDS = 50
MAX_COQL_ROWS = 2000
PER_PAGE = 200
_MOST_PAGES = 100_000 // PER_PAGE + 1
_NAME = re.compile(r"[A-Za-z$][A-Za-z0-9_$.]{0,99}\Z")
_CONVERTED = "Converted__s"
_SORT_KEYS = {"id", "Created_Time", "Modified_Time"}
_NO_CURRENCIES = {"CURRENCIES_NOT_ENABLED", "FEATURE_NOT_ENABLED", "FEATURE_NOT_SUPPORTED"}


class ZohoV8(BulkCalls, WatchCalls, ZohoClient):
    """See `ZohoClient`."""

    version = "v8"

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    calls = property(lambda self: self._transport.calls)
    retries = property(lambda self: self._transport.retries)
    bytes_received = property(lambda self: self._transport.bytes_received)
    credits_remaining = property(lambda self: self._transport.credits_remaining)
    first_server_date = property(lambda self: self._transport.first_server_date)

    def close(self) -> None:
        self._transport.close()

    # ------------------------------------------------------------ the organisation

    def org(self) -> dict[str, Any]:
        found = self._objects("/org", "org", "the organisation", "ZohoCRM.org.READ")
        if not found:
            raise bad_payload("it names no organisation")
        licence = found[0].get("license_details")
        edition = str(licence.get("paid_type") or "") if isinstance(licence, Mapping) else ""
        at_once = concurrency_of(edition)
        if at_once is not None:
            self._transport.learn_concurrency(at_once - RESERVE)
        return found[0]

    def current_user(self) -> dict[str, Any]:
        found = self._objects(
            "/users", "users", "the current user", "ZohoCRM.users.READ", {"type": "CurrentUser"}
        )
        if not found:
            raise bad_payload("it names no user")
        return found[0]

    def users(self, kind: str = "AllUsers") -> Iterator[Page]:
        def fetch(number: int) -> Page:
            params = {"type": kind, "page": str(number), "per_page": str(PER_PAGE)}
            call = self._get("/users", "the users", "ZohoCRM.users.READ", params)
            return self._page(call, "users", PER_PAGE)

        return follow_numbers(fetch, LoopGuard("users", _MOST_PAGES))

    def currencies(self) -> list[dict[str, Any]]:
        try:
            return self._objects(
                "/org/currencies",
                "currencies",
                "the currencies",
                "ZohoCRM.settings.currencies.READ",
            )
        except FixRequest as error:
            if error.code in _NO_CURRENCIES:
                return []
            raise

    def fields(self, module: str) -> list[dict[str, Any]]:
        return self._settings("fields", "fields", {"module": _name(module)}, f"of {module}")

    def layouts(self, module: str) -> list[dict[str, Any]]:
        return self._settings("layouts", "layouts", {"module": _name(module)}, f"of {module}")

    def pipelines(self, layout_id: int | str) -> list[dict[str, Any]]:
        return self._settings("pipeline", "pipeline", {"layout_id": str(layout_id)}, "")

    def modules(self) -> list[dict[str, Any]]:
        return self._settings("modules", "modules", {}, "")

    # ------------------------------------------------------------ reading records

    def list_pages(
        self,
        module: str,
        fields: Sequence[str],
        *,
        sort_by: str = "id",
        sort_order: str = "asc",
        modified_since: datetime | None = None,
        converted: str | None = None,
        page_token: str | None = None,
        per_page: int = PER_PAGE,
    ) -> Iterator[Page]:
        if sort_by not in _SORT_KEYS or sort_order not in ("asc", "desc"):
            raise _misuse(f"records cannot be sorted by {sort_by!r} {sort_order!r}")
        params = {
            "fields": _list_fields(fields),
            "sort_by": sort_by,
            "sort_order": sort_order,
            "per_page": str(per_page),
        }
        if converted is not None:
            params["converted"] = converted
        since = {"If-Modified-Since": crm_time(modified_since)} if modified_since else {}

        def fetch(token: str | None, number: int) -> Page:
            numbered = {"page": str(number)} if number > 1 else {}
            follow = {"page_token": token} if token else numbered
            call = self._records(module, "", {**params, **follow}, headers=since, heavy=True)
            return self._page(call, "data", per_page)

        guard = LoopGuard(module, _MOST_PAGES)
        return follow_tokens(fetch, page_token, guard, per_page=per_page)

    def by_ids(
        self,
        module: str,
        ids: Sequence[int],
        fields: Sequence[str],
        converted: str | None = None,
    ) -> Page:
        if not ids:
            return Page.empty()
        if len(ids) > MAX_IDS:
            raise _misuse(f"{len(ids)} ids in one call, {MAX_IDS} are allowed")
        params = {
            "ids": ",".join(str(int(record_id)) for record_id in ids),
            "fields": _list_fields(fields),
            "per_page": str(PER_PAGE),
            # Lists hide what waits for approval; who asks by id wants to know whether it is there.
            "approved": "both",
        }
        if converted is not None:
            params["converted"] = converted
        return self._page(self._records(module, "", params), "data", PER_PAGE)

    def record(self, module: str, record_id: int) -> RawRecord | None:
        try:
            page = self._page(self._records(module, f"/{int(record_id)}", {}), "data", 1)
        except FixRequest as error:
            if error.code == "INVALID_DATA":
                return None
            raise
        return page.records[0] if page.records else None

    def deleted_pages(
        self, module: str, *, since: datetime | None, kind: str = "all"
    ) -> Iterator[Page]:
        headers = {"If-Modified-Since": crm_time(since)} if since else {}

        def fetch(number: int) -> Page:
            params = {"type": kind, "page": str(number), "per_page": str(PER_PAGE)}
            return self._page(
                self._records(module, "/deleted", params, headers=headers), "data", PER_PAGE
            )

        return follow_numbers(fetch, LoopGuard(f"deleted {module}", 5 * _MOST_PAGES))

    def count(self, module: str) -> int:
        answer = self._transport.send(self._records(module, "/actions/count", {}))
        if not answer.body:
            return 0
        whole = parse_whole(answer.body)
        number = whole.get("count") if isinstance(whole, dict) else None
        if isinstance(number, str) and number.isdigit():
            number = int(number)
        if isinstance(number, bool) or not isinstance(number, int):
            raise bad_payload("it holds no count", answer.body)
        return number

    def coql(self, query: str) -> Page:
        return self._coql(query, "records", MAX_COQL_ROWS)

    def id_range(
        self,
        module: str,
        fields: Sequence[str],
        *,
        after: int,
        upto: int | None,
        modified_since: datetime | None = None,
        converted: str | None = None,
        limit: int = MAX_COQL_ROWS,
    ) -> Page:
        if not 1 <= limit <= MAX_COQL_ROWS:
            raise _misuse(f"{limit} rows in one query, {MAX_COQL_ROWS} are allowed")
        where = f"id > '{int(after)}'"
        if upto is not None:
            where = f"({where} and id <= '{int(upto)}')"
        if modified_since is not None:
            where = f"({where} and Modified_Time >= '{crm_time(modified_since)}')"
        if converted == "both":
            # Whether queries hide converted leads is not documented: who names the field sees both.
            where = f"({where} and {_CONVERTED} is not null)"
        selected = ", ".join(_with_id(_checked_fields(fields)))
        # Every part is a checked name, a number or a time: nothing to quote.
        query = f"select {selected} from {_name(module)} where {where} order by id asc"  # noqa: S608
        return self._coql(f"{query} limit 0, {limit}", f"the module {module}", limit)

    # ------------------------------------------------------------ writing records

    def insert(
        self, module: str, rows: list[dict[str, Any]], *, trigger: Sequence[str] | None = None
    ) -> list[WriteResult]:
        return self._write("POST", module, "", rows, _extras(trigger), repeatable=False)

    def update(
        self,
        module: str,
        rows: list[dict[str, Any]],
        *,
        trigger: Sequence[str] | None = None,
        unmodified_since: datetime | None = None,
        repeatable: bool = True,
    ) -> list[WriteResult]:
        if any("id" not in row for row in rows):
            raise _misuse("an update needs the id of each row")
        headers = _unless_modified(unmodified_since)
        return self._write(
            "PUT", module, "", rows, _extras(trigger), headers=headers, repeatable=repeatable
        )

    def upsert(
        self,
        module: str,
        rows: list[dict[str, Any]],
        *,
        trigger: Sequence[str] | None = None,
        duplicate_check_fields: Sequence[str] | None = None,
        unmodified_since: datetime | None = None,
        repeatable: bool = True,
    ) -> list[WriteResult]:
        extras = _extras(trigger)
        if duplicate_check_fields:
            extras["duplicate_check_fields"] = list(duplicate_check_fields)
        return self._write(
            "POST",
            module,
            "/upsert",
            rows,
            extras,
            headers=_unless_modified(unmodified_since),
            repeatable=repeatable and bool(duplicate_check_fields),
        )

    def delete(
        self, module: str, ids: Sequence[int], *, repeatable: bool = True
    ) -> list[WriteResult]:
        if not ids:
            return []
        _at_most(len(ids))
        call = Call(
            "DELETE",
            self._path(f"/{_name(module)}"),
            subject=f"deleting {module}",
            scope=f"ZohoCRM.modules.{module}.DELETE",
            params={"ids": ",".join(str(int(record_id)) for record_id in ids)},
            heavy=len(ids) > 10,
            repeatable=repeatable,
            items=True,
        )
        return self._results(call, len(ids))

    def convert(self, lead_id: int, wishes: dict[str, Any]) -> WriteResult:
        call = Call(
            "POST",
            self._path(f"/Leads/{int(lead_id)}/actions/convert"),
            subject="converting a lead",
            scope="ZohoCRM.modules.leads.CREATE",
            json={"data": [plain(wishes)]},
            heavy=True,
            repeatable=False,
            items=True,
        )
        return self._results(call, 1)[0]

    # ------------------------------------------------------------ inside

    def _path(self, rest: str) -> str:
        return f"/crm/{self.version}{rest}"

    def _get(self, rest: str, subject: str, scope: str, params: Mapping[str, str]) -> Call:
        return Call("GET", self._path(rest), subject=subject, scope=scope, params=params)

    def _records(
        self,
        module: str,
        rest: str,
        params: Mapping[str, str],
        *,
        headers: Mapping[str, str] | None = None,
        heavy: bool = False,
    ) -> Call:
        return Call(
            "GET",
            self._path(f"/{quote(_name(module), safe='')}{rest}"),
            subject=f"the module {module}",
            scope=f"ZohoCRM.modules.{module}.READ",
            params=params,
            headers=headers or {},
            heavy=heavy,
        )

    def _coql(self, query: str, subject: str, max_rows: int) -> Page:
        call = Call(
            "POST",
            self._path("/coql"),
            subject=subject,
            scope="ZohoCRM.coql.READ",
            json={"select_query": query},
            heavy=True,
            query=True,
        )
        return self._page(call, "data", max_rows)

    def _page(self, call: Call, key: str, max_rows: int) -> Page:
        answer = self._transport.send(call)
        if not answer.body or answer.status in (204, 304):
            return Page.empty(answer.date)
        return Page(
            answer.body,
            key=key,
            info=read_info(answer.body),
            server_date=answer.date,
            max_rows=max_rows,
        )

    def _settings(
        self, name: str, key: str, params: Mapping[str, str], of: str
    ) -> list[dict[str, Any]]:
        subject = f"the {name} settings {of}".rstrip()
        scope = f"ZohoCRM.settings.{name}.READ"
        return self._objects(f"/settings/{name}", key, subject, scope, params)

    def _objects(
        self,
        rest: str,
        key: str,
        subject: str,
        scope: str,
        params: Mapping[str, str] | None = None,
    ) -> list[dict[str, Any]]:
        answer = self._transport.send(self._get(rest, subject, scope, params or {}))
        if not answer.body or answer.status == 204:
            return []
        whole = parse_whole(answer.body)
        items = whole.get(key) if isinstance(whole, dict) else None
        if not isinstance(items, list):
            raise bad_payload(f"it has no list named {key}", answer.body)
        return [item for item in items if isinstance(item, dict)]

    def _write(
        self,
        method: str,
        module: str,
        rest: str,
        rows: list[dict[str, Any]],
        extras: dict[str, Any],
        *,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = True,
    ) -> list[WriteResult]:
        if not rows:
            return []
        _at_most(len(rows))
        verb = {"PUT": "UPDATE"}.get(method, "CREATE")
        call = Call(
            method,
            self._path(f"/{_name(module)}{rest}"),
            subject=f"writing {module}",
            scope=f"ZohoCRM.modules.{module}.{verb}",
            json={"data": [plain(row) for row in rows], **extras},
            headers=headers or {},
            heavy=len(rows) > 10,
            repeatable=repeatable,
            items=True,
        )
        return self._results(call, len(rows))

    def _results(self, call: Call, rows: int) -> list[WriteResult]:
        """One result per row: results are positional, and a good status promises nothing."""
        answer = self._transport.send(call)
        whole = parse_whole(answer.body) if answer.body else {}
        items = whole.get("data") if isinstance(whole, dict) else None
        if isinstance(items, list) and len(items) == rows:
            return [_result(item) for item in items]
        raise self._unmatched(call, answer, items)

    def _unmatched(self, call: Call, answer: Answer, items: object) -> ZohoError:
        first = items[0] if isinstance(items, list) and items else None
        if answer.status >= 400 and isinstance(first, Mapping):
            result = _result(first)
            return FixRequest(
                f"The CRM refuses {call.subject} as a whole ({result.code}: {result.message}).",
                code=result.code,
                status=answer.status,
                details=result.details,
                crm_message=result.message,
            )
        return UnknownOutcome(
            f"The CRM's answer to {call.subject} does not say what became of each record. Read "
            "them before sending anything again.",
            code="unknown_outcome",
            status=answer.status,
        )


def _result(item: object) -> WriteResult:
    if not isinstance(item, Mapping):
        return WriteResult(False, None, "bad_payload", "the CRM gave no result for this record")
    details = details_of(item)
    found = str(details.get("id", item.get("id")))
    ok = item.get("status") == "success"
    return WriteResult(
        ok=ok,
        id=int(found) if found.isascii() and found.isdigit() else None,
        code=redact(str(item.get("code") or ("SUCCESS" if ok else "unknown"))),
        message=redact(str(item.get("message") or "")),
        details=redact_details(details),
        action=item["action"] if item.get("action") in ("insert", "update") else None,
    )


def _extras(trigger: Sequence[str] | None) -> dict[str, Any]:
    # Left out: the CRM's automation runs as set up there. Empty: none runs.
    return {} if trigger is None else {"trigger": list(trigger)}


def _unless_modified(moment: datetime | None) -> dict[str, str]:
    return {"If-Unmodified-Since": crm_time(moment)} if moment else {}


def plain(value: Any) -> Any:
    """A row as JSON can carry it: decimals as exact numbers."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, datetime):
        return crm_time(value)
    return value


def _number(value: Decimal) -> int | float:
    if value.is_finite() and abs(value.adjusted()) < 20:
        if value == value.to_integral_value():
            return int(value)
        if Decimal(repr(float(value))) == value:
            return float(value)
    raise _misuse(f"the number {str(value)[:40]} cannot be sent exactly")


def _at_most(rows: int) -> None:
    if rows > MAX_ROWS:
        raise _misuse(f"{rows} records in one call, {MAX_ROWS} are allowed")


def _name(name: str) -> str:
    if not _NAME.match(name):
        raise _misuse(f"{redact(name)[:60]!r} is no name of a module or field")
    return name


def _checked_fields(fields: Sequence[str]) -> list[str]:
    if not fields:
        raise _misuse("no fields were named")
    if len(fields) > MAX_FIELDS:
        raise _misuse(
            f"{len(fields)} fields in one call, the CRM allows {MAX_FIELDS}; map fewer fields"
        )
    return [_name(field) for field in fields]


def _with_id(fields: list[str]) -> list[str]:
    """That a query's rows carry their id unasked is nowhere promised."""
    selected = list(dict.fromkeys(["id", *fields]))
    if len(selected) > MAX_FIELDS:
        raise QueryRefused(
            f"{len(fields)} mapped fields leave no room for the id in a query, which takes "
            f"{MAX_FIELDS}. Read by pages instead, or map fewer fields.",
            code="too_many_fields",
        )
    return selected


def _list_fields(fields: Sequence[str]) -> str:
    text = ",".join(_checked_fields(fields))
    if len(text) > MAX_FIELDS_TEXT:
        raise _misuse(
            f"the field names take {len(text)} characters, the CRM allows {MAX_FIELDS_TEXT}; map "
            "fewer fields"
        )
    return text


def _misuse(what: str) -> FixRequest:
    return FixRequest(f"The CRM cannot be asked this: {what}.", code="bad_request")
