"""Merging duplicates: one record stays, the others leave for the recycle bin.

What the master lacks it takes from the losers; what pointed to a loser points to the master, and,
as with a deletion, without touching those records' Modified_Time (undocumented: the harder
reading). That a loser shows in the deleted list is how integrators report it.
"""

# Names in SQL come from the schema, never from a request; values are bound.
# ruff: noqa: S608

from crm.sandbox.fragments import quoted, table_of
from crm.sandbox.rows import update_row
from crm.sandbox.schema import Module
from crm.sandbox.store import Transaction


def merge_records(
    tx: Transaction, module: Module, master: int, losers: list[int], user: int
) -> bool:
    """Merge; False, and nothing done, if any of them is not there."""
    row = tx.row(module.api_name, master)
    others = [tx.row(module.api_name, loser) for loser in losers]
    if row is None or any(other is None for other in others):
        return False
    filled = {}
    for f in module.visible().values():
        if f.read_only or f.unique or row.get(f.api_name) is not None:
            continue
        found = [o[f.api_name] for o in others if o and o.get(f.api_name) is not None]
        if found and found[0] != master:
            filled[f.api_name] = found[0]
    for loser in losers:
        _point_to(tx, module.api_name, loser, master)
        tx.remove(module.api_name, loser, "recycle", user)
    update_row(tx, module, row, filled, user, "crm_ui")
    return True


def _point_to(tx: Transaction, module: str, loser: int, master: int) -> None:
    for other in tx.store.modules.values():
        for f in other.fields.values():
            if f.lookup == module:
                tx.sql.execute(
                    f"update {table_of(other.api_name)} set {quoted(f.api_name)}=? "
                    f"where {quoted(f.api_name)}=?",
                    (master, loser),
                )
                tx.touched.add(other.api_name)
