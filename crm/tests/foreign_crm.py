"""A second stand-in CRM, written from the CRM's documentation and not from our sandbox.

It knows only what reading needs, in one process with the test, and `flags` bend it where the
documentation is silent or other organisations answer otherwise. Deals only, unless given more.

Flags: noinfo (no `info` on any page), notoken (no page tokens), nocoql (no scope for queries),
no_coql_of_<Module>, ids_ignored, ids_400, since_ignored, no_single (a record alone: 404), no_row_id
(queries hand out the id only if it is selected), refuse_<Module> (400), lost_<Module> (404),
loop_<Module>, nodate.

Flags that tell the same otherwise: null_more (`more_records` is null), int_ids (ids as numbers),
lower_headers, no_fields (no metadata of fields: 204), nameless (references by id alone),
odd_offsets (each record in an offset of its own), stale_once (the next call: 401
AUTHENTICATION_FAILURE), gateway_once (the next list: 502 in HTML), ms_expiry (a token's life in
milliseconds), elsewhere (the token names another host). `reach`: how far page tokens lead.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

MODULES = ("Accounts", "Contacts", "Leads", "Deals")
FIRST_ID = 4150868000000100000
LONG_AGO = "2026-01-05T10:00:00+05:30"
FIELDS = {
    "Accounts": ["Account_Name"],
    "Contacts": ["Last_Name", "First_Name"],
    "Leads": ["Last_Name", "Company", "Converted__s"],
    "Deals": ["Deal_Name", "Stage", "Amount", "Closing_Date"],
}
SYSTEM = ["id", "Created_Time", "Modified_Time", "Modified_By", "Owner"]
QUERY = re.compile(
    r"select (.+?) from (\w+) where (.+?)(?: order by id (asc|desc))?(?: limit (\d+), (\d+))?$"
)


def stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


class ForeignCrm:
    """Its records by module and id, its list of deletions, and what it was asked (`asked`)."""

    def __init__(self, **counts: int) -> None:
        self.flags: set[str] = set()
        self.asked: list[str] = []
        self.records: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in MODULES}
        self.deleted: dict[str, list[dict[str, Any]]] = {name: [] for name in MODULES}
        self.ahead = timedelta()
        self.reach = 100_000
        self.between: dict[str, Any] = {}  # path → what happens once after it is answered
        self._next = FIRST_ID
        for module, count in counts.items():
            for _ in range(count):
                self.insert(module)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("H", (_Handler,), {"crm": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def insert(self, module: str = "Deals", **values: Any) -> int:
        self._next += 1
        record = {name: f"{name} {self._next}" for name in FIELDS[module]}
        if module == "Deals":
            record |= {"Stage": "Qualification", "Amount": 100.5, "Closing_Date": "2026-12-01"}
        if module == "Leads":
            record["Converted__s"] = False
        user = {"name": "Uma Ray", "id": str(FIRST_ID), "email": "uma@example.com"}
        system = {"Created_Time": LONG_AGO, "Modified_Time": LONG_AGO, "Modified_By": user,
                  "Owner": user, "id": str(self._next)}  # fmt: skip
        self.records[module][self._next] = {**record, **system, **values}
        return self._next

    def edit(self, zoho_id: int, module: str = "Deals", **values: Any) -> None:
        self.records[module][zoho_id] |= {"Modified_Time": stamp(self.now), **values}

    def delete(self, *zoho_ids: int, module: str = "Deals", told: bool = True) -> None:
        for zoho_id in zoho_ids:
            del self.records[module][zoho_id]
            if told:
                self.tell_deleted(zoho_id, module)

    def tell_deleted(self, zoho_id: int, module: str = "Deals") -> None:
        row = {"id": str(zoho_id), "deleted_time": stamp(self.now), "type": "recycle"}
        self.deleted[module].append({**row, "deleted_by": None, "display_name": None})

    def ids(self, module: str = "Deals") -> list[int]:
        return sorted(self.records[module])

    def calls(self, text: str) -> list[str]:
        return [line for line in self.asked if text in line]


@contextmanager
def foreign_crm(**counts: int) -> Iterator[ForeignCrm]:
    """`foreign_crm(Deals=450)`: running for the length of a with block."""
    crm = ForeignCrm(**counts)
    thread = threading.Thread(target=crm._server.serve_forever, daemon=True)
    thread.start()
    try:
        yield crm
    finally:
        crm._server.shutdown()
        crm._server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    crm: ForeignCrm
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def send_header(self, keyword: str, value: str) -> None:
        name = keyword.lower() if "lower_headers" in self.crm.flags else keyword
        super().send_header(name, value)

    def send_response(self, code: int, message: str | None = None) -> None:
        self.send_response_only(code, message)
        if "nodate" not in self.crm.flags:
            now = self.crm.now
            self.send_header("Date", self.date_time_string(int(now.timestamp())))

    def _answer(self, code: int, body: Any = None) -> None:
        raw = b"" if body is None else json.dumps(_bent(body, self.crm.flags)).encode()
        self.send_response(code)
        if body is not None:
            self.send_header("Content-Type", "application/json;charset=UTF-8")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _refuse(self, status: int, code: str, **details: Any) -> None:
        self._answer(
            status, {"code": code, "details": details, "message": "refused", "status": "error"}
        )

    # ------------------------------------------------------------ token and queries

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if self.path.endswith("/oauth/v2/token"):
            self._mint()
            return
        query = json.loads(text)["select_query"]
        self.crm.asked.append(f"COQL {query}")
        self._query(*QUERY.match(query).groups())  # type: ignore[union-attr]
        self._happen("coql")

    def _mint(self) -> None:
        life = 3_600_000 if "ms_expiry" in self.crm.flags else 3600
        reply = {"access_token": f"1000.{'a' * 32}.{'b' * 32}", "expires_in": life}
        if "elsewhere" in self.crm.flags:
            reply["api_domain"] = "https://www.zohoapis.eu"
        self._answer(200, reply)

    def _query(self, names: str, module: str, where: str, order: str, at: str, limit: str) -> None:
        flags = self.crm.flags
        if "nocoql" in flags:
            self._refuse(401, "OAUTH_SCOPE_MISMATCH")
            return
        if f"no_coql_of_{module}" in flags:
            self._refuse(400, "INVALID_QUERY", reason="column not supported")
            return
        rows = [r for r in list(self.crm.records[module].values()) if _matches(r, where)]
        if "Converted__s" not in where:
            rows = [row for row in rows if not row.get("Converted__s")]
        rows.sort(key=lambda r: int(r["id"]), reverse=order == "desc")
        page = rows[int(at) : int(at) + int(limit)]
        if not page:
            self._answer(204)
            return
        selected = [name.strip() for name in names.split(",")]
        hidden = set() if "no_row_id" in flags else {"id"}
        data = [{name: _bare(row.get(name)) for name in {*selected, *hidden}} for row in page]
        more = None if "null_more" in flags else int(at) + len(page) < len(rows)
        info = {"count": len(page), "more_records": more}
        self._answer(200, {"data": data} if "noinfo" in flags else {"data": data, "info": info})

    # ------------------------------------------------------------ lists and records

    def do_GET(self) -> None:
        target = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(target.query).items()}
        path = re.sub(r"^/crm/v\d+/", "", target.path)
        self.crm.asked.append(f"GET {path} {target.query}")
        module, _, rest = path.partition("/")
        flags = self.crm.flags
        if "stale_once" in flags:
            flags.discard("stale_once")
            self._refuse(401, "AUTHENTICATION_FAILURE")
        elif module in MODULES and "gateway_once" in flags:
            flags.discard("gateway_once")
            self.send_response(502)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", "13")
            self.end_headers()
            self.wfile.write(b"<html></html>")
        elif module in MODULES:
            self._of_module(module, rest, query)
        else:
            self._settings(path, query)
        self._happen(path)

    def _happen(self, path: str) -> None:
        event = self.crm.between.pop(path, None)
        if event:
            event()

    def _settings(self, path: str, query: dict[str, str]) -> None:
        if path == "org":
            org = {"id": "77", "company_name": "Other GmbH", "iso_code": "SGD", "mc_status": False}
            self._answer(200, {"org": [org]})
        elif path == "settings/fields" and "no_fields" not in self.crm.flags:
            names = [*FIELDS[query["module"]], *SYSTEM]
            kinds = [{"api_name": name, "field_label": name, "data_type": "text"} for name in names]
            self._answer(200, {"fields": kinds})
        else:
            self._answer(204)

    def _of_module(self, module: str, rest: str, query: dict[str, str]) -> None:
        flags, records = self.crm.flags, self.crm.records[module]
        if f"refuse_{module}" in flags:
            self._refuse(400, "INVALID_REQUEST")
        elif f"lost_{module}" in flags:
            self._refuse(404, "INVALID_URL_PATTERN")
        elif rest == "actions/count":
            self._answer(200, {"count": len(records)})
        elif rest == "deleted":
            self._page(self._since(self.crm.deleted[module], "deleted_time"), query)
        elif rest and "no_single" in flags:
            self._refuse(404, "INVALID_URL_PATTERN")
        elif rest:
            found = records.get(int(rest))
            self._answer(200, {"data": [found]}) if found else self._answer(204)
        elif f"loop_{module}" in flags:
            info = {"more_records": True, "next_page_token": "again"}
            young = {"Modified_Time": stamp(self.crm.now)}
            self._answer(200, {"data": [{**self._any(module), **young}], "info": info})
        else:
            self._list(list(records.values()), query)

    def _any(self, module: str) -> dict[str, Any]:
        return next(iter(self.crm.records[module].values()))

    def _list(self, rows: list[dict[str, Any]], query: dict[str, str]) -> None:
        flags = self.crm.flags
        if "ids" in query and "ids_ignored" not in flags:
            wanted = set(query["ids"].split(","))
            if "ids_400" in flags and not wanted <= {row["id"] for row in rows}:
                self._refuse(400, "INVALID_DATA", param_name="ids")
                return
            rows = [row for row in rows if row["id"] in wanted]
        rows = self._since(rows, "Modified_Time")
        if query.get("sort_by") == "Modified_Time":
            rows.sort(key=lambda r: datetime.fromisoformat(r["Modified_Time"]), reverse=True)
        else:
            rows.sort(key=lambda r: int(r["id"]), reverse=query.get("sort_order") != "asc")
        names = {*query["fields"].split(","), "id"}
        self._page([{name: row.get(name) for name in names} for row in rows], query)

    def _since(self, rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
        since = self.headers.get("If-Modified-Since")
        if not since or "since_ignored" in self.crm.flags:
            return list(rows)
        begin = datetime.fromisoformat(since)
        return [row for row in rows if datetime.fromisoformat(row[name]) > begin]

    def _page(self, rows: list[dict[str, Any]], query: dict[str, str]) -> None:
        flags, size = self.crm.flags, int(query.get("per_page", 200))
        if "page_token" in query and int(query["page_token"]) >= self.crm.reach:
            self._refuse(400, "PAGINATION_LIMIT_EXCEEDED", limit=self.crm.reach)
            return
        at = int(query.get("page_token", (int(query.get("page", 1)) - 1) * size))
        if "page_token" not in query and at >= 2000:
            self._refuse(400, "DISCRETE_PAGINATION_LIMIT_EXCEEDED", limit=2000)
            return
        page = rows[at : at + size]
        if not page:
            self._answer(204)
            return
        more = at + size < len(rows)
        info = {"per_page": size, "count": len(page), "page": 1, "more_records": more}
        if "null_more" in flags:
            info["more_records"] = None
        if "notoken" not in flags:
            info["next_page_token"] = str(at + size) if more else None
        self._answer(200, {"data": page} if "noinfo" in flags else {"data": page, "info": info})


def _matches(row: dict[str, Any], where: str) -> bool:
    for operator, bound in re.findall(r"\bid (>|<=) '(\d+)'", where):
        is_above = int(row["id"]) > int(bound)
        if is_above != (operator == ">"):
            return False
    for since in re.findall(r"Modified_Time >= '([^']+)'", where):
        modified = datetime.fromisoformat(row["Modified_Time"])
        if modified < datetime.fromisoformat(since):
            return False
    return True


def _bare(value: Any) -> Any:
    return {"id": value["id"]} if isinstance(value, dict) else value


OFFSETS = [timedelta(hours=5, minutes=30), timedelta(hours=-8), timedelta(), timedelta(hours=13)]
TIMES = ("Created_Time", "Modified_Time", "deleted_time")


def _bent(value: Any, flags: set[str]) -> Any:
    """The same answer, told otherwise."""
    if isinstance(value, list):
        return [_bent(item, flags) for item in value]
    if not isinstance(value, dict):
        return value
    bent = {name: _bent(item, flags) for name, item in value.items()}
    found = str(bent.get("id", ""))
    if found.isdigit():
        if "odd_offsets" in flags:
            zone = timezone(OFFSETS[int(found) % len(OFFSETS)])
            for name in set(TIMES) & set(bent):
                bent[name] = datetime.fromisoformat(bent[name]).astimezone(zone).isoformat()
        if "int_ids" in flags:
            bent["id"] = int(found)
        if "nameless" in flags and "name" in bent:
            bent = {"id": bent["id"]}
    return bent
