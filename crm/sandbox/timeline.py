"""The history of a record: its timeline, and a deal's stages.

History is kept from the first change that this process made; the seeded past has none.
"""

import json
from typing import Any

from crm.sandbox.fragments import from_fragment
from crm.sandbox.params import module_named, paging
from crm.sandbox.rows import person
from crm.sandbox.server import Request, Response
from crm.sandbox.store import Store


def get_timeline(store: Store, request: Request, module_name: str, record_id: str) -> Response:
    """GET /crm/v8/{module}/{id}/__timeline, newest first."""
    module = module_named(store, module_name)
    page, per_page = paging(request.query)
    with store.reader() as sql:
        rows = sql.execute(
            "select id, at, by_user, source, content from history where module=? and record=? "
            "order by id desc limit ? offset ?",
            (module.api_name, int(record_id), per_page + 1, (page - 1) * per_page),
        ).fetchall()
    if not rows:
        return Response(204)
    entries = [
        {
            "id": str(entry_id),
            "audited_time": at.decode(),
            "action": "updated",
            "source": source.decode(),
            "done_by": person(store, by),
            "type": "timeline",
            "field_history": [
                _field_change(store, module.api_name, *change) for change in json.loads(content)
            ],
            "record": {
                "id": record_id,
                "name": None,
                "module": {"api_name": module.api_name, "id": module.id},
            },
            "related_record": None,
        }
        for entry_id, at, by, source, content in rows[:per_page]
    ]
    info = {
        "per_page": per_page,
        "count": len(entries),
        "page": page,
        "more_records": len(rows) > per_page,
        "next_page_token": None,
        "previous_page_token": None,
    }
    return Response.of({"__timeline": entries, "info": info})


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


def get_stage_history(store: Store, request: Request, record_id: str) -> Response:
    """GET /crm/v8/Deals/{id}/Stage_History: each stage the deal has entered, newest first."""
    page, per_page = paging(request.query)
    with store.reader() as sql:
        rows = sql.execute(
            "select id, at, by_user, content from history where module='Deals' and record=? "
            "order by id desc",
            (int(record_id),),
        ).fetchall()
    entries = []
    for entry_id, at, by, content in rows:
        changed = {name: new for name, _, new in json.loads(content)}
        if "Stage" in changed:
            entries.append(
                {
                    "id": str(entry_id),
                    "Stage": from_fragment(changed["Stage"]),
                    "Probability": from_fragment(changed.get("Probability")),
                    "Expected_Revenue": from_fragment(changed.get("Expected_Revenue")),
                    "Close_Date": from_fragment(changed.get("Closing_Date")),
                    "Modified_Time": at.decode(),
                    "Modified_By": person(store, by),
                }
            )
    shown = entries[(page - 1) * per_page : page * per_page]
    if not shown:
        return Response(204)
    info = {
        "per_page": per_page,
        "count": len(shown),
        "page": page,
        "more_records": len(entries) > page * per_page,
    }
    return Response.of({"data": shown, "info": info})
