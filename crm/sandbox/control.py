"""The hidden hand, for tests and demos: POST /_control with {"do": "...", ...}.

Served only with `--control`; never counted, never limited. Answers 200 with JSON, or 400 with
{"error": "..."}. `module` is Deals, Accounts, Contacts or Leads; ids are texts or numbers.

  stats            requests, by_path, by_status, rule_breaks, throttled, tokens_minted,
                   mints_refused, credits_used, most_in_flight, notices_sent
  reset_stats
  dump             {module} all live records as the list API shows them, and what is gone:
                   {"records": [...], "deleted": [{"id", "type", "deleted_time"}]}; streamed
  edit             {module, id, values, raw?, touch?, user?} as a person in the CRM: Modified_Time
                   moves (unless touch is false). raw: values go in unchecked, of any JSON type,
                   Modified_Time and Created_Time too
  insert           {module, values, raw?, id?} -> {"id"}
  delete           {module, ids, type: "recycle" | "permanent"}
  restore          {module, ids} from the recycle bin, as it was
  vanish, appear   {module, ids} lose sight of records, get it back; not in the deleted list
  field            {module, api_name, action: "remove" | "restore" | "retype", data_type?}
  user             {id or email, status} change a user's status
  currency         {iso_code, exchange_rate} set a rate
  faults           {rules: [...]} see faults.py; added to those in force
  clear_faults
  hook             {after_requests: n, path?: prefix, run: {"do": ...}} run another command once
                   n more requests (to that path) were worked out, just before the n-th is sent
  config           {latency_ms, concurrency, credits, clock_offset_s, life, token_ttl_s,
                   mint_limit, scopes: [...], bulk_job_s, notice_gather_ms,
                   notice_lose, notice_repeat (chances 0..1), notice_shuffle (0 or 1)}
                   any of them; answers with what holds now
  expire_tokens    all access tokens are stale now
  revoke_refresh_token, restore_refresh_token
"""

# Names in SQL come from the schema, never from a request; values are bound.
# ruff: noqa: S608

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from crm.sandbox.errors import ApiError
from crm.sandbox.faults import BadRule
from crm.sandbox.fragments import quoted, table_of, to_fragment
from crm.sandbox.records import record_sql
from crm.sandbox.schema import JSON_TYPES, NUMBER_TYPES, TEXT_TYPES, Field, Module
from crm.sandbox.server import Request, Response
from crm.sandbox.store import Transaction
from crm.sandbox.values import clean
from crm.sandbox.writes import insert_row, update_row

if TYPE_CHECKING:
    from crm.sandbox.app import App

DUMP_STEP = 2_000
DATA_TYPES = TEXT_TYPES | NUMBER_TYPES | set(JSON_TYPES) | {"date", "datetime"}


class BadControl(Exception):
    """A control request that cannot be carried out; says why."""


class Control:
    """Carries out control requests on the app's parts."""

    def __init__(self, app: "App") -> None:
        self.app = app
        self.store = app.store
        self._hooks: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._commands: dict[str, Callable[[dict[str, Any]], Any]] = {
            "stats": lambda _c: app.snapshot(),
            "reset_stats": lambda _c: app.stats.reset(),
            "edit": self._edit,
            "insert": self._insert,
            "delete": self._delete,
            "restore": lambda c: self._bring_back(c, ("recycle",)),
            "vanish": self._vanish,
            "appear": lambda c: self._bring_back(c, ("hidden",)),
            "field": self._field,
            "user": self._user,
            "currency": self._currency,
            "faults": self._faults,
            "clear_faults": lambda _c: app.faults.clear(),
            "hook": self._hook,
            "config": self._config,
            "expire_tokens": lambda _c: app.oauth.expire_tokens(),
            "revoke_refresh_token": lambda _c: app.oauth.revoke_refresh_token(),
            "restore_refresh_token": lambda _c: app.oauth.restore_refresh_token(),
        }

    def handle(self, request: Request) -> Response:
        """POST /_control"""
        try:
            if request.method != "POST":
                raise BadControl("POST a JSON object with a key 'do'")
            content = request.json
            if not isinstance(content, dict):
                raise BadControl("the body must be a JSON object with a key 'do'")
            if content.get("do") == "dump":
                return Response(200, stream=self._dump(self._module(content)))
            return Response.of(self.run(content))
        except (BadControl, BadRule, ValueError) as error:
            return Response.of({"error": str(error)}, 400)
        except ApiError as error:
            return Response.of({"error": error.item()}, 400)

    def run(self, content: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command; its result, or {"ok": true}."""
        command = self._commands.get(str(content.get("do")))
        if command is None:
            known = ", ".join(sorted([*self._commands, "dump"]))
            raise BadControl(f"unknown command {content.get('do')!r}; known: {known}")
        return command(content) or {"ok": True}

    def after_request(self, request: Request) -> None:
        """Run hooks that are due now that this request was answered."""
        if not self._hooks:
            return
        due = []
        with self._lock:
            for hook in self._hooks:
                if request.path.startswith(hook["path"]):
                    hook["left"] -= 1
                    if hook["left"] == 0:
                        due.append(hook)
            self._hooks = [hook for hook in self._hooks if hook["left"] > 0]
        for hook in due:
            self.run(hook["do"])

    # -- reading the request ----------------------------------------------------------------

    def _module(self, content: dict[str, Any]) -> Module:
        name = content.get("module")
        if name not in self.store.modules:
            raise BadControl(f"'module' must be one of {sorted(self.store.modules)}")
        return self.store.modules[name]

    def _ids(self, content: dict[str, Any]) -> list[int]:
        raw = content.get("ids", [content["id"]] if "id" in content else None)
        if not isinstance(raw, list):
            raise BadControl("'ids' must be a list of record ids")
        return [self._id(item) for item in raw]

    def _id(self, raw: Any) -> int:
        if not str(raw).isdigit() or len(str(raw)) > 19:
            raise BadControl(f"not a record id: {raw!r}")
        return int(raw)

    def _values(self, content: dict[str, Any], module: Module) -> dict[str, Any]:
        values = content.get("values")
        if not isinstance(values, dict):
            raise BadControl("'values' must be an object of field values")
        unknown = set(values) - set(module.fields) - {"id"}
        if unknown:
            raise BadControl(f"{module.api_name} has no field {sorted(unknown)}")
        return {name: value for name, value in values.items() if name != "id"}

    def _columns(self, tx: Transaction, content: dict[str, Any], module: Module) -> dict[str, Any]:
        values = self._values(content, module)
        if content.get("raw"):
            return {name: raw_column(module.fields[name], v) for name, v in values.items()}
        return {name: clean(tx, module.fields[name], v, 0) for name, v in values.items()}

    # -- records ----------------------------------------------------------------------------

    def _edit(self, content: dict[str, Any]) -> dict[str, Any]:
        module = self._module(content)
        with self.store.write() as tx:
            row = tx.row(module.api_name, self._id(content.get("id")))
            if row is None:
                raise BadControl(f"no {module.api_name} record {content.get('id')}")
            columns = self._columns(tx, content, module)
            user = self._id(content.get("user", row.get("Owner") or self.store.org["current_user"]))
            if content.get("touch") is False:
                tx.update(module.api_name, row["id"], columns)
                return {"ok": True, "id": str(row["id"])}
            if not content.get("raw"):
                update_row(tx, module, row, columns, user, "crm_ui")
                return {"ok": True, "id": str(row["id"]), "Modified_Time": tx.now}
            stamp = {"Modified_Time": to_fragment(tx.now), "Modified_By": user}
            tx.update(module.api_name, row["id"], {**stamp, **columns})
        return {"ok": True, "id": str(row["id"])}

    def _insert(self, content: dict[str, Any]) -> dict[str, Any]:
        module = self._module(content)
        with self.store.write() as tx:
            columns = self._columns(tx, content, module)
            user = int(self.store.org["current_user"])
            if not content.get("raw"):
                row = insert_row(tx, module, columns, user)
                return {"ok": True, "id": str(row["id"])}
            now = to_fragment(tx.now)
            stamps = {"Created_Time": now, "Modified_Time": now}
            people = {"Created_By": user, "Modified_By": user, "Owner": user}
            new_id = self._id(content["id"]) if "id" in content else tx.next_id()
            if tx.row(module.api_name, new_id) is not None:
                raise BadControl(f"{module.api_name} has a record {new_id} already")
            more = {"Converted__s": "false"} if module.api_name == "Leads" else {}
            tx.insert(module.api_name, new_id, {**stamps, **people, **more, **columns})
        return {"ok": True, "id": str(new_id)}

    def _delete(self, content: dict[str, Any]) -> dict[str, Any]:
        kind = content.get("type", "recycle")
        if kind not in ("recycle", "permanent"):
            raise BadControl("'type' must be recycle or permanent")
        return self._take(content, kind)

    def _vanish(self, content: dict[str, Any]) -> dict[str, Any]:
        return self._take(content, "hidden")

    def _take(self, content: dict[str, Any], kind: str) -> dict[str, Any]:
        module = self._module(content)
        user = int(self.store.org["current_user"])
        with self.store.write() as tx:
            done = [tx.remove(module.api_name, i, kind, user) for i in self._ids(content)]
        return {"ok": True, "count": sum(done)}

    def _bring_back(self, content: dict[str, Any], kinds: tuple[str, ...]) -> dict[str, Any]:
        module = self._module(content)
        with self.store.write() as tx:
            done = [tx.bring_back(module.api_name, i, kinds) for i in self._ids(content)]
        return {"ok": True, "count": sum(done)}

    def _dump(self, module: Module) -> Iterator[bytes]:
        """The whole module, a page of ids at a time, at flat memory."""
        names = tuple(module.visible())
        yield b'{"records":['
        last, first = 0, True
        with self.store.reader() as sql:
            while True:
                page = self.store.select(
                    sql,
                    record_sql(self.store, module.api_name, names),
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

    # -- metadata ---------------------------------------------------------------------------

    def _field(self, content: dict[str, Any]) -> None:
        module = self._module(content)
        f = module.fields.get(str(content.get("api_name")))
        if f is None:
            raise BadControl(f"{module.api_name} has no field {content.get('api_name')!r}")
        action = content.get("action")
        with self.store.write() as tx:
            if action in ("remove", "restore"):
                self.store.set_removed(tx, module.api_name, f.api_name, action == "remove")
            elif action == "retype":
                self._retype(tx, module, f, content.get("data_type"))
            else:
                raise BadControl("'action' must be remove, restore or retype")

    def _retype(self, tx: Transaction, module: Module, f: Field, data_type: Any) -> None:
        """Change a field's type; towards text its numbers and booleans become texts."""
        if data_type not in DATA_TYPES:
            raise BadControl(f"'data_type' must be one of {sorted(DATA_TYPES)}")
        if data_type in TEXT_TYPES and f.data_type not in TEXT_TYPES:
            column = quoted(f.api_name)
            tx.sql.execute(
                f"update {table_of(module.api_name)} set {column}='\"'||{column}||'\"' "
                f"where {column} is not null and substr({column},1,1)<>'\"'"
            )
        self.store.put_field(tx, module.api_name, replace(f, data_type=data_type))

    def _user(self, content: dict[str, Any]) -> None:
        status = content.get("status")
        if status not in ("active", "inactive", "deleted"):
            raise BadControl("'status' must be active, inactive or deleted")
        wanted = str(content.get("id") or content.get("email"))
        with self.store.write() as tx:
            for user_id, text in tx.sql.execute("select id, definition from users").fetchall():
                user = json.loads(text)
                if wanted in (user["id"], user["email"]):
                    user["status"], user["Modified_Time"] = status, tx.now
                    tx.sql.execute(
                        "update users set status=?, definition=?, modified=? where id=?",
                        (status, json.dumps(user, ensure_ascii=False), tx.now, user_id),
                    )
                    return
        raise BadControl(f"no user {wanted}")

    def _currency(self, content: dict[str, Any]) -> None:
        code, rate = content.get("iso_code"), content.get("exchange_rate")
        try:
            text = f"{Decimal(str(rate)):.9f}"
        except (InvalidOperation, ValueError) as error:
            raise BadControl("'exchange_rate' must be a decimal as text") from error
        with self.store.write() as tx:
            found = tx.sql.execute(
                "select definition from currency where iso_code=?", (code,)
            ).fetchone()
            if found is None:
                raise BadControl(f"no currency {code!r}")
            definition = {
                **json.loads(found[0]),
                "exchange_rate": text,
                "modified_time": tx.now,
                "exchange_rate_updated_time": tx.now,
            }
            tx.sql.execute(
                "update currency set definition=? where iso_code=?",
                (json.dumps(definition, ensure_ascii=False), code),
            )

    # -- behaviour --------------------------------------------------------------------------

    def _faults(self, content: dict[str, Any]) -> None:
        rules = content.get("rules")
        if not isinstance(rules, list):
            raise BadControl("'rules' must be a list of fault rules")
        self.app.faults.add(rules)

    def _hook(self, content: dict[str, Any]) -> None:
        count, command = content.get("after_requests"), content.get("run")
        if not isinstance(count, int) or count < 1:
            raise BadControl("'after_requests' must be a whole number of at least 1")
        if not isinstance(command, dict):
            raise BadControl("'run' must be a control command")
        with self._lock:
            self._hooks.append({"left": count, "path": str(content.get("path", "")), "do": command})

    def _config(self, content: dict[str, Any]) -> dict[str, Any]:
        setters: dict[str, tuple[type | tuple[type, ...], Any, str]] = {
            "latency_ms": ((int, float), self.app, "latency_ms"),
            "concurrency": (int, self.app.limits, "concurrency"),
            "credits": (int, self.app.limits, "credits"),
            "clock_offset_s": ((int, float), self.app.clock, "offset_s"),
            "token_ttl_s": (int, self.app.oauth, "token_ttl_s"),
            "mint_limit": (int, self.app.oauth, "mint_limit"),
            "life": ((int, float), self.app.life, "edits_per_minute"),
            "bulk_job_s": ((int, float), self.app.bulk, "job_s"),
            "notice_gather_ms": ((int, float), self.app.channels, "gather_ms"),
            "notice_lose": ((int, float), self.app.channels, "lose"),
            "notice_repeat": ((int, float), self.app.channels, "repeat"),
            "notice_shuffle": (int, self.app.channels, "shuffle"),
        }
        unknown = set(content) - set(setters) - {"do", "scopes"}
        if unknown:
            raise BadControl(f"config does not know {sorted(unknown)}")
        for name, (kind, _, _) in setters.items():
            if name in content and (
                isinstance(content[name], bool) or not isinstance(content[name], kind)
            ):
                raise BadControl(f"'{name}' must be a number")
        if "scopes" in content:
            self.app.oauth.scopes = frozenset(str(s) for s in content["scopes"])
        for name, (_, target, attribute) in setters.items():
            if name in content:
                setattr(target, attribute, content[name])
        return {
            name: getattr(target, attribute) for name, (_, target, attribute) in setters.items()
        }


def raw_column(f: Field, value: Any) -> Any:
    """Any JSON value as a column, unchecked; a lookup given by its id stays one."""
    if f.is_lookup and isinstance(value, dict) and str(value.get("id", "")).isdigit():
        return int(value["id"])
    return to_fragment(value)
