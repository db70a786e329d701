"""Control commands about the org: its fields, people, rates, rules and habits."""

# Names in SQL come from the schema, never from a request; values are bound.
# ruff: noqa: S608

import json
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from crm.sandbox.control_reading import BadControl, Command, module_of, values_of
from crm.sandbox.fragments import quoted, table_of
from crm.sandbox.people import set_status
from crm.sandbox.schema import JSON_TYPES, NUMBER_TYPES, TEXT_TYPES, Choice, Field, Module
from crm.sandbox.store import Store, Transaction

if TYPE_CHECKING:
    from crm.sandbox.app import App

DATA_TYPES = TEXT_TYPES | NUMBER_TYPES | set(JSON_TYPES) | {"date", "datetime"}
ACTIONS = ("remove", "restore", "retype", "relabel", "add_choice")


def field(store: Store, command: Command) -> None:
    module = module_of(store, command)
    f = module.fields.get(str(command.get("api_name")))
    if f is None:
        raise BadControl(f"{module.api_name} has no field {command.get('api_name')!r}")
    action, text = command.get("action"), str(command.get("value", ""))
    with store.write() as tx:
        if action in ("remove", "restore"):
            store.set_removed(tx, module.api_name, f.api_name, action == "remove")
        elif action == "retype":
            _retype(tx, module, f, command.get("data_type"))
        elif action == "relabel" and text:
            store.put_field(tx, module.api_name, replace(f, label=text))
        elif action == "add_choice" and text and f.choices:
            extra = f.choices[0].extra
            new = replace(f, choices=(*f.choices, Choice(text, text, extra)))
            store.put_field(tx, module.api_name, new)
        else:
            raise BadControl(f"'action' must be one of {ACTIONS}, the last two with a 'value'")


def _retype(tx: Transaction, module: Module, f: Field, data_type: Any) -> None:
    """Change a field's type; towards text its numbers and booleans become texts."""
    if data_type not in DATA_TYPES:
        raise BadControl(f"'data_type' must be one of {sorted(DATA_TYPES)}")
    if data_type in TEXT_TYPES and f.data_type not in TEXT_TYPES:
        column = quoted(f.api_name)
        tx.sql.execute(
            f"update {table_of(module.api_name)} set {column}='\"'||{column}||'\"' "
            f"where {column} is not null and substr({column},1,1)<>'\"'"
        )
    tx.store.put_field(tx, module.api_name, replace(f, data_type=data_type))


def user(store: Store, command: Command) -> None:
    status = command.get("status")
    if status not in ("active", "inactive", "deleted"):
        raise BadControl("'status' must be active, inactive or deleted")
    wanted = str(command.get("id") or command.get("email"))
    with store.write() as tx:
        if not set_status(tx, wanted, status):
            raise BadControl(f"no user {wanted}")


def currency(store: Store, command: Command) -> None:
    code, rate = command.get("iso_code"), command.get("exchange_rate")
    try:
        text = f"{Decimal(str(rate)):.9f}"
    except (InvalidOperation, ValueError) as error:
        raise BadControl("'exchange_rate' must be a decimal as text") from error
    with store.write() as tx:
        found = tx.sql.execute("select definition from currency where iso_code=?", (code,))
        row = found.fetchone()
        if row is None:
            raise BadControl(f"no currency {code!r}")
        definition = {
            **json.loads(row[0]),
            "exchange_rate": text,
            "modified_time": tx.now,
            "exchange_rate_updated_time": tx.now,
        }
        tx.sql.execute(
            "update currency set definition=? where iso_code=?",
            (json.dumps(definition, ensure_ascii=False), code),
        )


def workflow(store: Store, command: Command) -> None:
    module = module_of(store, command)
    when, revert = command.get("when", []), command.get("revert", [])
    names = list(when) if isinstance(when, list | dict) else None
    if names is None or not isinstance(revert, list):
        raise BadControl("'when' is a list of fields or an object of values, 'revert' a list")
    values_of(module, dict.fromkeys([*names, *revert]), "when or revert")
    rule = {
        "module": module.api_name,
        "when": when,
        "set": values_of(module, command.get("set", {}), "set"),
        "revert": revert,
    }
    store.workflows = [*store.workflows, rule]


def permission(app: "App", command: Command) -> None:
    name, may_read = module_of(app.store, command).api_name, command.get("read")
    if not isinstance(may_read, bool):
        raise BadControl("'read' must be true or false")
    app.forbidden = app.forbidden - {name} if may_read else app.forbidden | {name}


def config(app: "App", command: Command) -> dict[str, Any]:
    """Set some of the settings; all as they hold now."""
    number: tuple[type, ...] = (int, float)
    settings: dict[str, tuple[type | tuple[type, ...], Any, str]] = {
        "latency_ms": (number, app, "latency_ms"),
        "concurrency": (int, app.limits, "concurrency"),
        "credits": (int, app.limits, "credits"),
        "clock_offset_s": (number, app.clock, "offset_s"),
        "token_ttl_s": (int, app.oauth, "token_ttl_s"),
        "mint_limit": (int, app.oauth, "mint_limit"),
        "mint_refusal_status": (int, app.oauth, "refusal_status"),
        "life": (number, app.life, "edits_per_minute"),
        "bulk_job_s": (number, app.bulk, "job_s"),
        "bulk_failures": (int, app.bulk, "failures"),
        "mixed_status": (int, app.store.habits, "mixed_status"),
        "failed_status": (int, app.store.habits, "failed_status"),
        "notice_gather_ms": (number, app.channels, "gather_ms"),
        "notice_lose": (number, app.channels, "lose"),
        "notice_repeat": (number, app.channels, "repeat"),
        "notice_shuffle": (int, app.channels, "shuffle"),
    }
    unknown = set(command) - set(settings) - {"do", "scopes"}
    if unknown:
        raise BadControl(f"config does not know {sorted(unknown)}")
    for name, (kind, _, _) in settings.items():
        if name in command and (
            isinstance(command[name], bool) or not isinstance(command[name], kind)
        ):
            raise BadControl(f"'{name}' must be a number")
    if "scopes" in command:
        app.oauth.scopes = frozenset(str(s) for s in command["scopes"])
    for name, (_, target, key) in settings.items():
        if name in command and isinstance(target, dict):
            target[key] = command[name]
        elif name in command:
            setattr(target, key, command[name])
    return {
        name: target[key] if isinstance(target, dict) else getattr(target, key)
        for name, (_, target, key) in settings.items()
    }
