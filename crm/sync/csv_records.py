"""The file of a bulk job → records like those of the records API, a row at a time.

Decides what a cell means: a CSV has text only, so numbers, booleans and references are told by the
CRM's type of the field, or by how it is mapped where the type is not known; an empty cell is null.
Each row becomes a value that the mapper takes and the JSON text to keep, with equal canonical
values whichever way a record came. Reads as a stream: memory is one row.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any, BinaryIO

from crm.mapping import profiles
from crm.mapping.profiles import SYSTEM_FIELDS, FieldSpec
from crm.zoho.paging import NOT_A_NUMBER, RawRecord, bad_payload

# Characters of one cell: the CRM's longest texts have 65,535. An open quote ends here.
MAX_CELL = 200_000
MAX_FILE_BYTES = 16 * 1024**3  # unpacked; the number of rows is what really bounds it
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?\Z", re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,19}\Z", re.ASCII)
_MOST_DIGITS = 1000

# cell → (value as the JSON reader would give it, its JSON text)
Cell = Callable[[str], tuple[Any, str]]


def _text(cell: str) -> tuple[Any, str]:
    return cell, encode_basestring(cell)


def _number(cell: str) -> tuple[Any, str]:
    """What is no JSON number stays text: the mapper lists it as such."""
    found = _NUMBER.match(cell)
    if found is None:
        return _text(cell)
    if len(cell) > _MOST_DIGITS:
        return NOT_A_NUMBER, cell
    try:
        return (Decimal(cell) if found[1] or found[2] else int(cell)), cell
    except ArithmeticError:
        return NOT_A_NUMBER, cell


def _boolean(cell: str) -> tuple[Any, str]:
    word = cell.strip().lower()
    return (word == "true", word) if word in ("true", "false") else _text(cell)


def _reference(cell: str) -> tuple[Any, str]:
    """A bare id, which never goes through a float: ids are above 2^53."""
    if not _DIGITS.match(cell):
        return _text(cell)
    return {"id": cell}, f'{{"id":"{cell}"}}'


def _several(cell: str) -> tuple[Any, str]:
    values = cell.split(";")
    return values, "[" + ",".join(map(encode_basestring, values)) + "]"


_BY_TYPE: dict[str, Cell] = {
    "boolean": _boolean,
    "currency": _number,
    "double": _number,
    "percent": _number,
    "integer": _number,
    "bigint": _number,
    "lookup": _reference,
    "ownerlookup": _reference,
    "userlookup": _reference,
    "multiselectpicklist": _several,
} | dict.fromkeys(
    ("text", "textarea", "email", "phone", "website", "picklist", "date", "datetime", "autonumber"),
    _text,
)
_BY_KIND: dict[str, Cell] = {
    profiles.MONEY: _number,
    profiles.SGD: _number,
    profiles.PERCENT: _number,
    profiles.INTEGER: _number,
    profiles.FLAG: _boolean,
    profiles.REF: _reference,
}


class Columns:
    """How to read the columns of a module's file. `types`: API name → the CRM's data type."""

    def __init__(self, specs: Sequence[FieldSpec], types: Mapping[str, str]) -> None:
        kinds = {spec.api: spec.kind for spec in specs}
        kinds["Modified_By"] = profiles.REF
        self._cells = {
            name: _BY_TYPE.get(types.get(name, "")) or _BY_KIND.get(kind, _text)
            for name, kind in kinds.items()
        }
        self.asked = {*kinds, *SYSTEM_FIELDS}

    def of_header(self, header: Sequence[str]) -> list[tuple[str, Cell]]:
        """(JSON key, reader) of each column. Raises BadPayload for a header without id."""
        names = [name.strip().removeprefix("\ufeff") for name in header]
        keys = ["id" if name.lower() == "id" else name for name in names]
        if keys.count("id") != 1 or len(set(keys)) != len(keys):
            raise bad_payload("the header of its CSV has no id, or a name twice")
        by_lower = {name.lower(): name for name in self.asked}
        keys = [by_lower.get(key.lower(), key) for key in keys]
        return [(key, _text if key == "id" else self._cells.get(key, _text)) for key in keys]


def read_rows(file: BinaryIO, columns: Columns) -> Iterator[RawRecord]:
    """The records of a zipped CSV, in the file's order. Raises BadPayload.

    The whole file is checked against its checksum before the first row is given. A row with more
    or fewer cells than the header is no record: it comes with its text as its value.
    """
    try:
        with zipfile.ZipFile(file) as archive, archive.open(_member(archive)) as raw:
            yield from _rows_of(raw, columns)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise bad_payload(f"the file is no sound zip ({error})"[:200]) from None
    except csv.Error as error:
        raise bad_payload(f"its CSV cannot be read ({error})"[:200]) from None


def _member(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    found = [info for info in archive.infolist() if info.filename.lower().endswith(".csv")]
    if len(found) != 1 or found[0].file_size > MAX_FILE_BYTES:
        raise bad_payload("the zip does not hold one CSV file")
    broken = archive.testzip()
    if broken is not None:
        raise bad_payload("the zip is damaged")
    return found[0]


def _rows_of(raw: Any, columns: Columns) -> Iterator[RawRecord]:
    text = io.TextIOWrapper(raw, encoding="utf-8", errors="replace", newline="")
    csv.field_size_limit(max(MAX_CELL, csv.field_size_limit()))
    # strict: a stray quote is an error, not a guess. Line breaks inside quotes belong to the cell.
    rows = csv.reader(text, dialect="excel", strict=True)
    header = next(rows, None)
    if header is None:
        return  # an empty module may come without a header
    readers = columns.of_header(header)
    names = [(key, f"{encode_basestring(key)}:", read) for key, read in readers]
    width = len(names)
    for row in rows:
        if len(row) == width:
            yield _record(row, names)
        elif row:
            yield RawRecord(row, "[" + ",".join(map(encode_basestring, row)) + "]")


def _record(row: list[str], names: list[tuple[str, str, Cell]]) -> RawRecord:
    value: dict[str, Any] = {}
    parts: list[str] = []
    for cell, (key, label, read) in zip(row, names, strict=True):
        if cell == "":
            value[key] = None
            parts.append(label + "null")
        else:
            value[key], told = read(cell)
            parts.append(label + told)
    return RawRecord(value, "{" + ",".join(parts) + "}")
