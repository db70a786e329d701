"""Control commands about records: what people do in the CRM, and what nobody can do there."""

import json
from collections.abc import Iterator
from typing import Any

from crm.sandbox.control_reading import (
    BadControl,
    Command,
    columns_of,
    id_of,
    ids_of,
    module_of,
)
from crm.sandbox.fragments import to_fragment
from crm.sandbox.holds import KINDS, lift_hold, put_hold
from crm.sandbox.merging import merge_records
from crm.sandbox.records import record_sql
from crm.sandbox.rows import insert_row, update_row
from crm.sandbox.schema import Module
from crm.sandbox.store import Store

DUMP_STEP = 2_000


def edit(store: Store, command: Command) -> dict[str, Any]:
    module = module_of(store, command)
    with store.write() as tx:
        row = tx.row(module.api_name, id_of(command.get("id")))
        if row is None:
            raise BadControl(f"no {module.api_name} record {command.get('id')}")
        columns = columns_of(tx, command, module)
        user = id_of(command.get("user", row.get("Owner") or store.org["current_user"]))
        if command.get("touch") is False:
            tx.update(module.api_name, row["id"], columns)
            return {"ok": True, "id": str(row["id"])}
        if not command.get("raw"):
            update_row(tx, module, row, columns, user, "crm_ui")
            return {"ok": True, "id": str(row["id"]), "Modified_Time": tx.now}
        stamp = {"Modified_Time": to_fragment(tx.now), "Modified_By": user}
        tx.update(module.api_name, row["id"], {**stamp, **columns})
    return {"ok": True, "id": str(row["id"])}


def insert(store: Store, command: Command) -> dict[str, Any]:
    module = module_of(store, command)
    with store.write() as tx:
        columns = columns_of(tx, command, module)
        user = int(store.org["current_user"])
        if not command.get("raw"):
            row = insert_row(tx, module, columns, user)
            return {"ok": True, "id": str(row["id"])}
        now = to_fragment(tx.now)
        stamps = {"Created_Time": now, "Modified_Time": now}
        people = {"Created_By": user, "Modified_By": user, "Owner": user}
        new_id = id_of(command["id"]) if "id" in command else tx.next_id()
        if tx.row(module.api_name, new_id) is not None:
            raise BadControl(f"{module.api_name} has a record {new_id} already")
        more = {"Converted__s": "false"} if module.api_name == "Leads" else {}
        tx.insert(module.api_name, new_id, {**stamps, **people, **more, **columns})
    return {"ok": True, "id": str(new_id)}


def delete(store: Store, command: Command) -> dict[str, Any]:
    kind = command.get("type", "recycle")
    if kind not in ("recycle", "permanent"):
        raise BadControl("'type' must be recycle or permanent")
    return take(store, command, kind)


def take(store: Store, command: Command, kind: str) -> dict[str, Any]:
    """Delete, or hide without a trace."""
    module = module_of(store, command)
    user = int(store.org["current_user"])
    with store.write() as tx:
        done = [tx.remove(module.api_name, i, kind, user) for i in ids_of(command)]
    return {"ok": True, "count": sum(done)}


def bring_back(store: Store, command: Command, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Restore, or show again."""
    module = module_of(store, command)
    with store.write() as tx:
        done = [tx.bring_back(module.api_name, i, kinds) for i in ids_of(command)]
    return {"ok": True, "count": sum(done)}


def merge(store: Store, command: Command) -> dict[str, Any]:
    module = module_of(store, command)
    master, losers = id_of(command.get("id")), ids_of({"ids": command.get("ids")})
    if master in losers:
        raise BadControl("a record cannot be merged into itself")
    with store.write() as tx:
        if not merge_records(tx, module, master, losers, int(store.org["current_user"])):
            raise BadControl(f"not all of these are {module.api_name}: {[master, *losers]}")
    return {"ok": True, "id": str(master)}


def hold(store: Store, command: Command) -> None:
    module, kind = module_of(store, command), command.get("as")
    if kind not in KINDS:
        raise BadControl(f"'as' must be one of {list(KINDS)}")
    with store.write() as tx:
        for record_id in ids_of(command):
            put_hold(tx, module.api_name, record_id, kind)


def release(store: Store, command: Command) -> None:
    module, kind = module_of(store, command), command.get("as")
    if kind not in (None, *KINDS):
        raise BadControl(f"'as' must be one of {list(KINDS)}, or left out for all")
    with store.write() as tx:
        for record_id in ids_of(command):
            lift_hold(tx, module.api_name, record_id, kind)


def dump(store: Store, module: Module) -> Iterator[bytes]:
    """The whole module, a page of ids at a time, at flat memory."""
    names = tuple(module.visible())
    yield b'{"records":['
    last, first = 0, True
    with store.reader() as sql:
        while True:
            page = store.select(
                sql,
                record_sql(store, module.api_name, names),
                where="d.id > ?",
                params=[last],
                order="d.id",
                limit=DUMP_STEP,
            )
            if page.count == 0:
                break
            yield (b"" if first else b",\n") + page.body
            first = False
            last = int(json.loads(page.body[page.body.rfind(b",\n") + 1 :].lstrip())["id"])
        gone = sql.execute(
            "select id, kind, deleted_time from gone where module=? and kind<>'hidden'",
            (module.api_name,),
        ).fetchall()
    deleted = [
        {"id": str(i), "type": kind.decode(), "deleted_time": when.decode()}
        for i, kind, when in gone
    ]
    yield b'],"deleted":' + json.dumps(deleted).encode() + b"}"
