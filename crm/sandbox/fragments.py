"""Columns as the JSON text that the API sends, and the SQL that glues them into records.

SQLite builds a page of records in C from these expressions; nothing here runs per record.
"""

import json
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

FORMAT_ARGUMENTS = 100  # SQLite allows 127 arguments to a function


def to_fragment(value: Any) -> str | None:
    """A JSON value as kept in a column; None for null. Lone surrogates stay escaped."""
    if value is None:
        return None
    text = encode_basestring(value) if isinstance(value, str) else json.dumps(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def from_fragment(fragment: Any) -> Any:
    """The way back; a lookup column gives the bare id."""
    if fragment is None or isinstance(fragment, int):
        return fragment
    return json.loads(fragment)


def quoted(name: str) -> str:
    """A field's API name as an SQL name."""
    return '"' + name.replace('"', '""') + '"'


def table_of(module: str) -> str:
    return quoted("m_" + module)


def index_name(module: str, api_name: str) -> str:
    return quoted(f"ix_{module}_{api_name}")


@dataclass(frozen=True)
class RecordSql:
    """How one kind of row is written by SQLite: an expression over `d`, and joins it needs."""

    module: str
    expression: str
    joins: str


@dataclass(frozen=True)
class Column:
    """One key of a row: its name there and the SQL that yields its JSON text."""

    key: str
    sql: str


def object_expression(columns: list[Column], tail: str = "") -> str:
    """SQL for a JSON object of these columns, in chunks of what one printf may take.

    `tail` is constant JSON text (`,"a":1`) put before the closing brace.
    """
    pieces = []
    for start in range(0, len(columns), FORMAT_ARGUMENTS):
        chunk = columns[start : start + FORMAT_ARGUMENTS]
        template = ("{" if start == 0 else ",") + ",".join(
            encode_basestring(c.key).replace("%", "%%") + ":%s" for c in chunk
        )
        if start + FORMAT_ARGUMENTS >= len(columns):
            template += tail.replace("%", "%%") + "}"
        pieces.append(f"printf({sql_text(template)},{','.join(c.sql for c in chunk)})")
    return "||".join(pieces)


def sql_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def plain_sql(alias: str, name: str) -> str:
    """A column's own JSON text."""
    return f"ifnull({alias}.{quoted(name)},'null')"


def id_sql(alias: str) -> str:
    return f"'\"'||{alias}.id||'\"'"


def bare_lookup_sql(alias: str, name: str) -> str:
    """A lookup as COQL gives it: only the id. Text in the column is raw JSON set by control."""
    column = f"{alias}.{quoted(name)}"
    return (
        f"case typeof({column}) when 'integer' then '{{\"id\":\"'||{column}||'\"}}' "
        f"when 'null' then 'null' else {column} end"
    )


def named_lookup_sql(alias: str, name: str, target_alias: str, target_name: str) -> str:
    """A lookup with the name of what it points to; empty if that is not there to be seen."""
    column = f"{alias}.{quoted(name)}"
    return (
        f"case when typeof({column})='text' then {column} when {target_alias}.id is null "
        f"then 'null' else '{{\"name\":'||ifnull({target_alias}.{quoted(target_name)},'null')"
        f"||',\"id\":\"'||{target_alias}.id||'\"}}' end"
    )


def user_sql(alias: str, name: str, user_alias: str) -> str:
    """A user as name, id and email."""
    column = f"{alias}.{quoted(name)}"
    return (
        f"case when typeof({column})='text' then {column} "
        f"else ifnull({user_alias}.fragment,'null') end"
    )
