"""The history of a record as the API tells it: its timeline, and a deal's stages."""

import sqlite3
from collections.abc import Iterator
from typing import Any

from crm.sandbox.errors import missing_param
from crm.sandbox.fragments import from_fragment
from crm.sandbox.params import module_named, paging
from crm.sandbox.past import Entry, past_of
from crm.sandbox.rows import person
from crm.sandbox.server import Request, Response
from crm.sandbox.store import Store, fetch_row

STAGE_HISTORY = ("Stage", "Amount", "Probability", "Expected_Revenue", "Close_Date",
                 "Modified_Time", "Modified_By")  # fmt: skip
DEAL_HISTORY = ("Potential_Name", "Stage", "Moved_To__s", "Modified_Time")
"""The fields of the bulk module DealHistory."""

DEALS_AT_ONCE = 500


def get_timeline(store: Store, request: Request, module_name: str, record_id: str) -> Response:
    """GET /crm/v8/{module}/{id}/__timeline, newest first."""
    module = module_named(store, module_name)
    page, per_page = paging(request.query)
    with store.reader() as sql:
        entries = past_of(sql, module.api_name, int(record_id))[::-1]
    shown = entries[(page - 1) * per_page : page * per_page]
    if not shown:
        return Response(204)
    about = {"id": record_id, "name": None,
             "module": {"api_name": module.api_name, "id": module.id}}  # fmt: skip
    info = {
        "per_page": per_page,
        "count": len(shown),
        "page": page,
        "more_records": len(entries) > page * per_page,
        "next_page_token": None,
        "previous_page_token": None,
    }
    lines = [_line(store, module.api_name, entry, about) for entry in shown]
    return Response.of({"__timeline": lines, "info": info})


def _line(store: Store, module: str, entry: Entry, about: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": str(entry.id),
        "audited_time": entry.at,
        "action": entry.action,
        "source": entry.source,
        "done_by": person(store, entry.by),
        "type": "timeline",
        "field_history": [_field_change(store, module, *change) for change in entry.changes],
        "record": about,
        "related_record": None,
    }


def _field_change(store: Store, module: str, name: str, old: Any, new: Any) -> dict[str, Any]:
    f = store.modules[module].fields.get(name)
    return {
        "api_name": name,
        "field_label": f.label if f else name,
        "data_type": f.data_type if f else "text",
        "_value": {"new": _text(new), "old": _text(old)},
    }


def _text(fragment: Any) -> str | None:
    value = from_fragment(fragment)
    if value is None or isinstance(value, str):
        return value
    return str(value) if not isinstance(value, bool) else str(value).lower()


# -- stages ---------------------------------------------------------------------------------


def stages_of(sql: sqlite3.Connection, store: Store, deal: int) -> list[dict[str, Any]]:
    """Each stage the deal has entered, oldest first, with what else it was then."""
    row = fetch_row(sql, "Deals", deal) or {}
    found = []
    entries = past_of(sql, "Deals", deal)
    then = {name: row.get(name) for name in ("Amount", "Expected_Revenue", "Closing_Date")}
    for entry in reversed(entries):
        changed = {name: new for name, _, new in entry.changes}
        if "Stage" in changed:
            found.append({
                "id": str(entry.id),
                "Stage": from_fragment(changed["Stage"]),
                "Probability": from_fragment(changed.get("Probability")),
                "Amount": from_fragment(then["Amount"]),
                "Expected_Revenue": from_fragment(then["Expected_Revenue"]),
                "Close_Date": from_fragment(then["Closing_Date"]),
                "Modified_Time": entry.at,
                "Modified_By": person(store, entry.by),
            })  # fmt: skip
        then |= {name: old for name, old, _ in entry.changes if name in then}
    return found[::-1]


def get_stage_history(store: Store, request: Request, record_id: str) -> Response:
    """GET /crm/v8/Deals/{id}/Stage_History?fields=: its stages, newest first."""
    if not request.query.get("fields"):
        raise missing_param("fields")
    asked = [name for name in request.query["fields"].split(",") if name in STAGE_HISTORY]
    page, per_page = paging(request.query)
    with store.reader() as sql:
        entries = stages_of(sql, store, int(record_id))[::-1]
    shown = [
        {name: entry[name] for name in (*asked, "id")}
        for entry in entries[(page - 1) * per_page : page * per_page]
    ]
    if not shown:
        return Response(204)
    info = {
        "per_page": per_page,
        "count": len(shown),
        "page": page,
        "more_records": len(entries) > page * per_page,
    }
    return Response.of({"data": shown, "info": info})


def deal_history(store: Store, after: int) -> Iterator[list[tuple[str, ...]]]:
    """Rows of DealHistory above an id: id, then DEAL_HISTORY; a row for each stage entered."""
    last = after - 100  # a stage's id lies a little above its deal's
    with store.reader() as sql:
        while True:
            deals = [
                row[0]
                for row in sql.execute(
                    "select id from m_Deals where id > ? order by id limit ?",
                    (last, DEALS_AT_ONCE),
                )
            ]
            if not deals:
                return
            yield [row for deal in deals for row in _history_rows(sql, store, deal, after)]
            last = deals[-1]


def _history_rows(
    sql: sqlite3.Connection, store: Store, deal: int, after: int
) -> list[tuple[str, ...]]:
    stages = stages_of(sql, store, deal)
    following = [str(stage["Stage"]) for stage in stages[1:]] + [""]
    rows = [
        (deal + n, str(deal), str(stage["Stage"]), following[n], stage["Modified_Time"])
        for n, stage in enumerate(stages)
    ]
    return [(str(row_id), *texts) for row_id, *texts in rows if row_id > after]
