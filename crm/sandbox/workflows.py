"""The CRM's own automation: rules that change a record after somebody wrote it through the API.

A rule, set by control, is {"module", "when", "set", "revert"}: `when` is a list of fields of which
one must be in the write, or an object of fields with the value that must have come out; `set`
gives fields their values, `revert` puts fields back to what they were before the write. Rules run
after the write was answered for, so the answer does not show them. They run unless the request's
`trigger` leaves out "workflow"; they do not run for people (control, life), nor for one another.
"""

from typing import Any

from crm.sandbox.fragments import from_fragment
from crm.sandbox.rows import acting_user, update_row
from crm.sandbox.schema import Module
from crm.sandbox.store import Store, Transaction
from crm.sandbox.values import clean


class Automation:
    """The rules that one request sets off."""

    def __init__(self, store: Store, module: Module, content: dict[str, Any]) -> None:
        runs = "workflow" in content.get("trigger", ["workflow"])
        self.module = module
        self.rules = [r for r in store.workflows if r["module"] == module.api_name and runs]

    def before(self, tx: Transaction, record: Any) -> dict[str, Any] | None:
        """The record as it is before the write, if a rule may want it."""
        text = str(record.get("id", "")) if self.rules and isinstance(record, dict) else ""
        return tx.row(self.module.api_name, int(text)) if text.isdigit() else None

    def after(
        self,
        tx: Transaction,
        record: dict[str, Any],
        result: dict[str, Any],
        before: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Run the rules that this write meets; the write's own result, unchanged."""
        for rule in self.rules:
            row = tx.row(self.module.api_name, int(result["details"]["id"]))
            if row is None or not _meets(rule["when"], record, row):
                continue
            columns = {
                name: clean(tx, self.module.fields[name], value, 0)
                for name, value in rule["set"].items()
            }
            columns |= {name: before[name] for name in rule["revert"] if before is not None}
            update_row(tx, self.module, row, columns, acting_user(tx.store), "workflow")
        return result


def _meets(when: Any, record: dict[str, Any], row: dict[str, Any]) -> bool:
    if isinstance(when, dict):
        return all(from_fragment(row.get(name)) == value for name, value in when.items())
    return not when or any(name in record for name in when)
