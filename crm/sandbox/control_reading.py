"""Reading a control command: the module, ids and values it names, or a sentence why not."""

from typing import Any

from crm.sandbox.fragments import to_fragment
from crm.sandbox.schema import Field, Module
from crm.sandbox.store import Store, Transaction
from crm.sandbox.values import clean

Command = dict[str, Any]


class BadControl(Exception):
    """A control request that cannot be carried out; says why."""


def module_of(store: Store, command: Command) -> Module:
    """The module it names."""
    name = command.get("module")
    if name not in store.modules:
        raise BadControl(f"'module' must be one of {sorted(store.modules)}")
    return store.modules[name]


def ids_of(command: Command) -> list[int]:
    """The record ids it names, as `ids` or one as `id`."""
    raw = command.get("ids", [command["id"]] if "id" in command else None)
    if not isinstance(raw, list):
        raise BadControl("'ids' must be a list of record ids")
    return [id_of(item) for item in raw]


def id_of(raw: Any) -> int:
    """A record id given as text or number."""
    if not str(raw).isdigit() or len(str(raw)) > 19:
        raise BadControl(f"not a record id: {raw!r}")
    return int(raw)


def values_of(module: Module, values: Any, name: str = "values") -> dict[str, Any]:
    """An object of values of fields that the module has."""
    if not isinstance(values, dict):
        raise BadControl(f"'{name}' must be an object of field values")
    unknown = set(values) - set(module.fields) - {"id"}
    if unknown:
        raise BadControl(f"{module.api_name} has no field {sorted(unknown)}")
    return {key: value for key, value in values.items() if key != "id"}


def columns_of(tx: Transaction, command: Command, module: Module) -> dict[str, Any]:
    """The values as columns: checked as the CRM checks, or as they are where `raw` says so."""
    values = values_of(module, command.get("values"))
    if command.get("raw"):
        return {name: raw_column(module.fields[name], v) for name, v in values.items()}
    return {name: clean(tx, module.fields[name], v, 0) for name, v in values.items()}


def raw_column(f: Field, value: Any) -> Any:
    """Any JSON value as a column, unchecked; a lookup given by its id stays one."""
    if f.is_lookup and isinstance(value, dict) and str(value.get("id", "")).isdigit():
        return int(value["id"])
    return to_fragment(value)
