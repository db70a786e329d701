"""The sandbox's data: one SQLite file, safe to kill at any moment, quick to read in bulk.

Each field of a record is kept as the JSON text that the API sends (`"Closed Won"`, `1200.5`), a
lookup as the bare id of what it points to; nothing as NULL. SQLite then glues whole pages of
records together in C, and no Python runs per record or field. Names behind lookups are joined
at reading, so a renamed account shows at once everywhere and touches no Modified_Time, as in
the real CRM.

What may be written, and what a write means, is decided in `writes.py`; this module keeps it.
"""

# Names in SQL come from the schema, never from a request; values are bound.
# ruff: noqa: S608

import json
import queue
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from crm.sandbox.clock import Clock
from crm.sandbox.fragments import RecordSql, index_name, quoted, table_of
from crm.sandbox.schema import Field, Module, zoho_id

TABLES = """
create table if not exists meta (key text primary key, value text not null);
create table if not exists field (
    module text not null, position integer not null, api_name text not null,
    definition text not null, primary key (module, api_name));
create table if not exists users (
    id integer primary key, status text not null, definition text not null, fragment text not null,
    modified text not null);
create table if not exists currency (iso_code text primary key, definition text not null);
create table if not exists gone (
    module text not null, id integer not null, kind text not null, deleted_time text not null,
    display_name text, deleted_by integer, created_by integer, content text not null,
    primary key (module, id));
create index if not exists gone_when on gone (module, deleted_time);
create table if not exists history (
    id integer primary key, module text not null, record integer not null, at text not null,
    by_user integer, source text not null, content text not null);
create index if not exists history_of on history (module, record);
create table if not exists access_token (
    token text primary key, minted real not null, expires real not null);
create table if not exists channel (channel_id text primary key, definition text not null);
create table if not exists bulk_job (id integer primary key, definition text not null);
"""

FIRST_NEW_SEQUENCE = 500_000_000_000


@dataclass(frozen=True)
class Change:
    """What one write did to records of one module; heard by channels and statistics."""

    module: str
    operation: str  # insert, update, delete
    ids: tuple[int, ...]
    fields: dict[int, tuple[str, ...]] = field(default_factory=dict)
    values: dict[int, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """Records glued together with `,\\n` as bytes, how many, and whether there are more."""

    body: bytes
    count: int
    more: bool


class Transaction:
    """One write under way: the connection, the moment, and what it changed so far."""

    def __init__(self, store: "Store", connection: sqlite3.Connection, now: str) -> None:
        self.store = store
        self.sql = connection
        self.now = now
        self.changes: list[Change] = []
        self.touched: set[str] = set()

    def row(self, module: str, record_id: int) -> dict[str, Any] | None:
        """A live record as its columns, or None."""
        return fetch_row(self.sql, module, record_id)

    def insert(self, module: str, record_id: int, columns: dict[str, Any]) -> None:
        """Add a record given as fragments."""
        names = ["id", *columns]
        self.sql.execute(
            f"insert into {table_of(module)} ({','.join(map(quoted, names))}) "
            f"values ({','.join('?' * len(names))})",
            (record_id, *columns.values()),
        )
        self._note(module, "insert", record_id, columns)

    def update(self, module: str, record_id: int, columns: dict[str, Any]) -> None:
        """Set some columns of a live record."""
        assignments = ",".join(f"{quoted(name)}=?" for name in columns)
        self.sql.execute(
            f"update {table_of(module)} set {assignments} where id=?",
            (*columns.values(), record_id),
        )
        self._note(module, "update", record_id, columns)

    def remember(
        self, module: str, record_id: int, by: int | None, source: str, diff: list[Any]
    ) -> None:
        """Keep a line of the record's timeline: [[field, old, new], ...]."""
        self.sql.execute(
            "insert into history (module, record, at, by_user, source, content) "
            "values (?,?,?,?,?,?)",
            (module, record_id, self.now, by, source, json.dumps(diff)),
        )

    def remove(self, module: str, record_id: int, kind: str, by: int | None) -> bool:
        """Take a record away as recycle, permanent or hidden; False if it is not there.

        Lookups to it become empty, as the CRM shows them, without touching those records.
        """
        row = self.row(module, record_id)
        if row is None:
            return False
        name = row.get(self.store.modules[module].name_field)
        self.sql.execute(
            "insert or replace into gone values (?,?,?,?,?,?,?,?)",
            (
                module,
                record_id,
                kind,
                self.now,
                name if isinstance(name, str) else None,
                by,
                row.get("Created_By"),
                json.dumps(row),
            ),
        )
        self.sql.execute(f"delete from {table_of(module)} where id=?", (record_id,))
        if kind != "hidden":
            self._clear_lookups(module, record_id)
            self._note(module, "delete", record_id, {})
        else:
            self.touched.add(module)
        return True

    def bring_back(self, module: str, record_id: int, kinds: tuple[str, ...]) -> bool:
        """Restore a record that went away as one of `kinds`, exactly as it was."""
        found = self.sql.execute(
            "select kind, content from gone where module=? and id=?", (module, record_id)
        ).fetchone()
        if found is None or found[0] not in kinds:
            return False
        self.sql.execute("delete from gone where module=? and id=?", (module, record_id))
        columns = json.loads(found[1])
        columns.pop("id", None)
        known = self.store.modules[module].fields
        self.insert(module, record_id, {k: v for k, v in columns.items() if k in known})
        return True

    def next_id(self) -> int:
        """A fresh record id, above every earlier one."""
        sequence = int(self.store.read_meta(self.sql, "sequence") or FIRST_NEW_SEQUENCE)
        self.store.write_meta(self.sql, "sequence", str(sequence + 1_003))
        return int(zoho_id(sequence))

    def _clear_lookups(self, module: str, record_id: int) -> None:
        for other in self.store.modules.values():
            for f in other.fields.values():
                if f.lookup == module:
                    self.sql.execute(
                        f"update {table_of(other.api_name)} set {quoted(f.api_name)}=null "
                        f"where {quoted(f.api_name)}=?",
                        (record_id,),
                    )
                    self.touched.add(other.api_name)

    def _note(self, module: str, operation: str, record_id: int, columns: dict[str, Any]) -> None:
        self.touched.add(module)
        self.changes.append(
            Change(
                module,
                operation,
                (record_id,),
                {record_id: tuple(columns)} if operation == "update" else {},
                {record_id: columns} if operation == "update" else {},
            )
        )


def fetch_row(sql: sqlite3.Connection, module: str, record_id: int) -> dict[str, Any] | None:
    """A live record as {column: fragment}; None if there is none."""
    cursor = sql.execute(f"select * from {table_of(module)} where id=?", (record_id,))
    found = cursor.fetchone()
    if found is None:
        return None
    names = [item[0] for item in cursor.description]
    texts = (v.decode() if isinstance(v, bytes) else v for v in found)
    return dict(zip(names, texts, strict=True))


class Store:
    """The database, its readers and its one writer."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.clock = clock
        self.modules: dict[str, Module] = {}
        self.org: dict[str, Any] = {}
        self.versions: dict[str, int] = defaultdict(lambda: int(clock.time() * 1000) & 0xFFFFFFFF)
        self.listeners: list[Callable[[list[Change]], None]] = []
        self.habits: dict[str, int] = {"mixed_status": 0, "failed_status": 0}
        self.workflows: list[dict[str, Any]] = []
        self.holds: dict[tuple[str, int], set[str]] = {}
        self.schema_version = 0
        self._user_names: dict[int, str] = {}
        self._readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._writer = self._connect()
        self._writer.execute("pragma journal_mode=wal")
        self._writer.executescript(TABLES)
        if self.is_seeded():
            self.load_schema()

    # -- connections ------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=30, isolation_level=None, check_same_thread=False
        )
        connection.execute("pragma synchronous=normal")
        connection.execute("pragma mmap_size=8589934592")
        connection.execute("pragma temp_store=memory")
        return connection

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """A connection for reading; its texts come as bytes, ready to be sent."""
        try:
            connection = self._readers.get_nowait()
        except queue.Empty:
            connection = self._connect()
            connection.text_factory = bytes
        try:
            yield connection
        finally:
            self._readers.put(connection)

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A write transaction; listeners hear of its changes after the commit."""
        with self._lock:
            transaction = Transaction(self, self._writer, self.clock.now_text())
            self._writer.execute("begin immediate")
            try:
                yield transaction
            except BaseException:
                self._writer.execute("rollback")
                raise
            self._writer.execute("commit")
            # After the commit: a page read before it carries the old number, so its token
            # is found to be of another state.
            for module in transaction.touched:
                self.versions[module] = (self.versions[module] + 1) & 0xFFFFFFFF
            if transaction.changes:
                for listener in self.listeners:
                    listener(transaction.changes)

    def close(self) -> None:
        with self._lock:
            self._writer.close()

    # -- small facts ------------------------------------------------------------------------

    def read_meta(self, sql: sqlite3.Connection, key: str) -> str | None:
        found = sql.execute("select value from meta where key=?", (key,)).fetchone()
        if found is None:
            return None
        return found[0].decode() if isinstance(found[0], bytes) else found[0]

    def write_meta(self, sql: sqlite3.Connection, key: str, value: str) -> None:
        sql.execute("insert or replace into meta values (?,?)", (key, value))

    def is_seeded(self) -> bool:
        """Whether a seeding was finished in this file."""
        return self.read_meta(self._writer, "seeded") == "yes"

    def user_names(self) -> dict[int, str]:
        """Full names of all users by id; users do not change while we run."""
        if not self._user_names:
            with self.reader() as sql:
                rows = sql.execute("select id, fragment from users").fetchall()
            self._user_names = {user_id: json.loads(text)["name"] for user_id, text in rows}
        return self._user_names

    def rate_of(self, iso_code: str) -> str | None:
        """The exchange rate text of a currency of the org; None if it has no such currency."""
        with self.reader() as sql:
            found = sql.execute(
                "select definition from currency where iso_code=?", (iso_code,)
            ).fetchone()
        return None if found is None else json.loads(found[0])["exchange_rate"]

    # -- schema -----------------------------------------------------------------------------

    def create_schema(self, modules: dict[str, Module], org: dict[str, Any]) -> None:
        """Make the tables of a new org; what an interrupted seeding left is dropped."""
        sql = self._writer
        for module in modules.values():
            sql.execute(f"drop table if exists {table_of(module.api_name)}")
            columns = ",".join(quoted(name) for name in module.fields)
            sql.execute(
                f"create table {table_of(module.api_name)} (id integer primary key,{columns})"
            )
        for table in ("field", "users", "currency", "gone", "history", "channel", "bulk_job"):
            sql.execute(f"delete from {table}")
        self.modules, self.org = modules, org
        self.save_schema(sql)

    def save_schema(self, sql: sqlite3.Connection) -> None:
        """Write modules and org as they are in memory."""
        plain = [
            {**{k: v for k, v in vars(m).items() if k != "fields"}} for m in self.modules.values()
        ]
        self.write_meta(sql, "modules", json.dumps(plain))
        self.write_meta(sql, "org", json.dumps(self.org))
        sql.execute("delete from field")
        sql.executemany(
            "insert into field values (?,?,?,?)",
            [
                (m.api_name, n, f.api_name, json.dumps(f.to_dict()))
                for m in self.modules.values()
                for n, f in enumerate(m.fields.values())
            ],
        )
        self.schema_version += 1

    def load_schema(self) -> None:
        sql = self._writer
        self.org = json.loads(self.read_meta(sql, "org") or "{}")
        fields: dict[str, dict[str, Field]] = defaultdict(dict)
        for module, api_name, definition in sql.execute(
            "select module, api_name, definition from field order by module, position"
        ):
            fields[module][api_name] = Field.from_dict(json.loads(definition))
        self.modules = {
            plain["api_name"]: Module(**plain, fields=fields[plain["api_name"]])
            for plain in json.loads(self.read_meta(sql, "modules") or "[]")
        }
        self.schema_version += 1

    def index(self) -> None:
        """Build the secondary indexes; after seeding, because sorted building is cheaper."""
        for module in self.modules.values():
            for f in module.fields.values():
                if f.api_name in ("Created_Time", "Modified_Time") or f.lookup or f.unique:
                    self._writer.execute(
                        f"create index if not exists {index_name(module.api_name, f.api_name)} "
                        f"on {table_of(module.api_name)} ({quoted(f.api_name)})"
                    )

    def put_field(self, tx: Transaction, module: str, new: Field) -> None:
        """Add or replace a field's definition, with its column if it has none yet."""
        fields = self.modules[module].fields
        if new.api_name not in fields:
            tx.sql.execute(f"alter table {table_of(module)} add column {quoted(new.api_name)}")
        fields[new.api_name] = new
        self.save_schema(tx.sql)
        tx.touched.add(module)

    def set_removed(self, tx: Transaction, module: str, api_name: str, removed: bool) -> None:
        """Take a field out of the API, or put it back with its values."""
        old = self.modules[module].fields[api_name]
        self.put_field(tx, module, replace(old, removed=removed))

    # -- reading records --------------------------------------------------------------------

    def select(
        self,
        sql: sqlite3.Connection,
        record: "RecordSql",
        *,
        where: str,
        params: Iterable[Any],
        order: str,
        limit: int,
        offset: int = 0,
        hint: str = "",
    ) -> Page:
        """A page of records as one piece of text, made by SQLite in one step.

        One step matters: each step hands the interpreter lock around, and ten requests at once
        would spend their time waiting for it.
        """
        inner = (
            f"select {record.expression} as j from {table_of(record.module)} d {hint} "
            f"{record.joins} where {where} order by {order} limit {limit + 1} offset {offset}"
        )
        body, count = sql.execute(
            f"select group_concat(j, char(44,10)), count(*) from ({inner})", tuple(params)
        ).fetchone()
        if count > limit:
            return Page(body[: body.rindex(b",\n")], limit, True)
        return Page(body or b"", count, False)
