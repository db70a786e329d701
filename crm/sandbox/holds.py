"""Records that the CRM holds back: locked, in a blueprint, waiting for approval or review.

A hold is set and lifted by control. It refuses writes through the API with the code that belongs
to it; a record waiting for approval is also hidden from lists, counts, queries and bulk jobs
unless `approved` asks for it (undocumented for queries and bulk: the harder reading). People in
the CRM (control, life) are not bound by holds: they are the ones who resolve them.
"""

import json
from typing import Any

from crm.sandbox.errors import ApiError, invalid_data
from crm.sandbox.store import Store, Transaction

KINDS = ("approval", "review", "lock", "blueprint", "access")
BLUEPRINT_FIELDS = frozenset({"Stage", "Pipeline", "Lead_Status"})
META_KEY = "holds"


def put_hold(tx: Transaction, module: str, record_id: int, kind: str) -> None:
    """Hold a record in one more way."""
    kinds = tx.store.holds.setdefault((module, record_id), set())
    kinds.add(kind)
    _keep(tx, module, record_id, kind, held=True)


def lift_hold(tx: Transaction, module: str, record_id: int, kind: str | None) -> None:
    """Let go of a record, of one kind of hold or of all."""
    kinds = tx.store.holds.get((module, record_id), set())
    for one in [kind] if kind else list(kinds):
        kinds.discard(one)
        _keep(tx, module, record_id, one, held=False)
    if not kinds:
        tx.store.holds.pop((module, record_id), None)


def _keep(tx: Transaction, module: str, record_id: int, kind: str, *, held: bool) -> None:
    if kind == "lock" and tx.row(module, record_id) is not None:
        tx.update(module, record_id, {"Locked__s": "true" if held else "false"})
    rows = [[name, i, sorted(kinds)] for (name, i), kinds in tx.store.holds.items() if kinds]
    tx.store.write_meta(tx.sql, META_KEY, json.dumps(rows))
    tx.touched.add(module)


def refuse_if_held(
    store: Store, module: str, record_id: int, index: int, names: set[str] | None
) -> None:
    """ApiError if a write of these fields (None: a deletion) meets a hold."""
    kinds = store.holds.get((module, record_id))
    if not kinds:
        return
    place = {"api_name": "id", "json_path": f"$.data[{index}].id"}
    if "access" in kinds:
        raise _refusal("AUTHORIZATION_FAILED", "user not authorized to update the record", place)
    if "lock" in kinds:
        place["action"] = "record_locking"
        raise _refusal("RECORD_LOCKED", "record is locked", place)
    if "approval" in kinds:
        raise _refusal("NOT_APPROVED", "record not approved", place)
    if "review" in kinds:
        raise _refusal("NOT_REVIEWED", "record in review", place)
    if "blueprint" in kinds and (names is None or names & BLUEPRINT_FIELDS):
        raise _refusal("RECORD_IN_BLUEPRINT", "record is in blueprint", place)


def _refusal(code: str, message: str, details: dict[str, Any]) -> ApiError:
    return ApiError(400, code, message, details, counts=False)


def approved_rule(store: Store, module: str, wish: str) -> str:
    """A further condition over `d` for `approved`: true, false or both."""
    if wish not in ("true", "false", "both"):
        raise invalid_data(param_name="approved", supported_values=["true", "false", "both"])
    waiting = [str(i) for (name, i), kinds in store.holds.items()
               if name == module and "approval" in kinds]  # fmt: skip
    if wish == "false":
        return f" and d.id in ({','.join(waiting) or 'null'})"
    if wish == "both" or not waiting:
        return ""
    return f" and d.id not in ({','.join(waiting)})"


def approval_state(store: Store, module: str, record_id: int) -> str:
    """As `$approval_state` names it."""
    waiting = "approval" in store.holds.get((module, record_id), ())
    return "approval_process_pending" if waiting else "approved"


def shown_state(store: Store, module: str, record_id: int) -> dict[str, Any]:
    """The `$` keys of a single read that a hold changes; nothing for a free record."""
    kinds = store.holds.get((module, record_id))
    if not kinds:
        return {}
    waiting = "approval" in kinds
    return {
        "$approval_state": approval_state(store, module, record_id),
        "$approved": not waiting,
        "$editable": not kinds & {"lock", "approval", "review", "access"},
        "$process_flow": "blueprint" in kinds,
        "$locked_for_me": "lock" in kinds,
        "$review": {"approve": True, "reject": True, "resubmit": False}
        if "review" in kinds
        else None,
    }


def load_holds(store: Store, text: str | None) -> None:
    """Take up the holds that the database remembers."""
    store.holds.clear()
    for module, record_id, kinds in json.loads(text or "[]"):
        store.holds[(module, record_id)] = set(kinds)
