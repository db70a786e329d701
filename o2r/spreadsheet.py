"""Tables as files that other programs open: CSV and XLSX, written row by row. Knows no deals.

Decides that text is text wherever it is opened: a cell that begins like a formula is none. Both
are streams in constant memory; an XLSX is written by hand, because a library keeps a cell object
for each of millions of values.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import Any
from xml.sax.saxutils import escape

Cell = str | int | Decimal | date | None
# What spreadsheets take for the beginning of a formula, also after blanks and in full width.
_FORMULA = re.compile(r"^[\s\u200b\ufeff]*[=+\-@\uff1d\uff0b\uff0d\uff20\t\r\n|]")
# Characters that XML cannot hold, and those that Excel reads as an escape.
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_ESCAPE = re.compile(r"_(?=x[0-9A-Fa-f]{4}_)")
_ODD = re.compile(f"{_NO_XML.pattern}|[&<>]|_x")
LONGEST_CELL = 32_767
ROWS_AT_ONCE = 500
_DAY_ZERO = date(1899, 12, 30)
_FIRST_DAY = date(1900, 3, 1)
_BOM = "\ufeff"


def csv_stream(heads: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Iterator[bytes]:
    """UTF-8 with a mark by which Excel knows it; a few hundred rows at a time."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    buffer.write(_BOM)
    writer.writerow(heads)
    for number, row in enumerate(rows, 1):
        writer.writerow([_plain(cell) for cell in row])
        if number % ROWS_AT_ONCE == 0:
            yield _drained(buffer)
    yield _drained(buffer)


def _drained(buffer: io.StringIO) -> bytes:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text.encode("utf-8", "replace")


def _plain(cell: Cell) -> Any:
    """What `csv` writes as we mean it: numbers and days as they are, text harmless."""
    return harmless(cell) if cell.__class__ is str else cell


def harmless(text: str) -> str:
    """Text that no spreadsheet takes for a formula: with an apostrophe in front, if it might."""
    if text[:1].isalnum():  # nearly all: a call less for each
        return text
    return f"'{text}" if _FORMULA.match(text) else text


# -- XLSX -----------------------------------------------------------------------------------------

_TYPES = """<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">\
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>\
<Default Extension="xml" ContentType="application/xml"/>\
<Override PartName="/xl/workbook.xml" ContentType=\
"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/>\
%s<Override PartName="/xl/styles.xml" ContentType=\
"application/vnd.openxmlformats-officedocument.spreadsheetml.styles+xml"/></Types>"""
_TYPE = """<Override PartName="/xl/worksheets/sheet%d.xml" ContentType=\
"application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/>"""
_DOCUMENT = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_ROOT = f"""<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<Relationships xmlns="{_RELATIONS}"><Relationship Id="rId1" Type="{_DOCUMENT}/officeDocument" \
Target="xl/workbook.xml"/></Relationships>"""
_BOOK = f"""<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<workbook xmlns="{_MAIN}" xmlns:r="{_DOCUMENT}"><sheets>\
%s</sheets></workbook>"""
_IN_BOOK = '<sheet name="%s" sheetId="%d" r:id="rId%d"/>'
_BOOK_PARTS = f"""<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<Relationships xmlns="{_RELATIONS}">%s\
<Relationship Id="rId0" Type="{_DOCUMENT}/styles" Target="styles.xml"/></Relationships>"""
_PART = f'<Relationship Id="rId%d" Type="{_DOCUMENT}/worksheet" Target="worksheets/sheet%d.xml"/>'
# 0 plain, 1 heading, 2 day, 3 amount
_STYLES = f"""<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<styleSheet xmlns="{_MAIN}"><numFmts count="1">\
<numFmt numFmtId="164" formatCode="yyyy\\-mm\\-dd"/></numFmts>\
<fonts count="2"><font><sz val="11"/><name val="Calibri"/></font>\
<font><b/><sz val="11"/><name val="Calibri"/></font></fonts>\
<fills count="1"><fill><patternFill patternType="none"/></fill></fills>\
<borders count="1"><border/></borders><cellStyleXfs count="1"><xf numFmtId="0"/></cellStyleXfs>\
<cellXfs count="4"><xf xfId="0"/><xf fontId="1" applyFont="1" xfId="0"/>\
<xf numFmtId="164" applyNumberFormat="1" xfId="0"/>\
<xf numFmtId="4" applyNumberFormat="1" xfId="0"/></cellXfs><cellStyles count="1">\
<cellStyle name="Normal" xfId="0" builtinId="0"/></cellStyles></styleSheet>"""
_SHEET = f"""<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<worksheet xmlns="{_MAIN}"><sheetViews><sheetView workbookViewId="0">\
<pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" state="frozen"/></sheetView>\
</sheetViews><sheetData>"""
_SHEET_END = "</sheetData></worksheet>"
PLAIN, HEADING, DAY, AMOUNT = 0, 1, 2, 3


class _Pipe(io.RawIOBase):
    """What the archive writes to, emptied after each few rows."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.parts.append(bytes(data))
        return len(data)

    def drained(self) -> bytes:
        found, self.parts = b"".join(self.parts), []
        return found


@dataclass(frozen=True)
class Sheet:
    """One table of a workbook; its rows are asked for when it is written."""

    title: str
    heads: Sequence[str]
    rows: Iterable[Sequence[Cell]]


def xlsx_stream(sheets: Sequence[Sheet]) -> Iterator[bytes]:
    """Headings that stay in sight, days and amounts as such, all text as text."""
    pipe = _Pipe()
    numbers = range(1, len(sheets) + 1)
    named = [
        _IN_BOOK % (escape(sheet.title, {'"': "&quot;"}), number, number)
        for number, sheet in enumerate(sheets, 1)
    ]
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("[Content_Types].xml", _TYPES % "".join(_TYPE % n for n in numbers))
        archive.writestr("_rels/.rels", _ROOT)
        archive.writestr("xl/workbook.xml", _BOOK % "".join(named))
        parts = "".join(_PART % (number, number) for number in numbers)
        archive.writestr("xl/_rels/workbook.xml.rels", _BOOK_PARTS % parts)
        archive.writestr("xl/styles.xml", _STYLES)
        for number, sheet in enumerate(sheets, 1):
            with archive.open(f"xl/worksheets/sheet{number}.xml", "w") as out:
                for text in _sheet_texts(sheet):
                    out.write(text.encode())
                    yield pipe.drained()
    yield pipe.drained()


def _sheet_texts(sheet: Sheet) -> Iterator[str]:
    """A few hundred rows at a time."""
    waiting = [_SHEET, _row([_text(head, HEADING) for head in sheet.heads])]
    for row in sheet.rows:
        waiting.append(_row([_cell(cell) for cell in row]))
        if len(waiting) >= ROWS_AT_ONCE:
            yield "".join(waiting)
            waiting.clear()
    yield "".join(waiting) + _SHEET_END


def _row(cells: Iterable[str]) -> str:
    return f"<row>{''.join(cells)}</row>"


def _cell(cell: Any) -> str:
    if cell is None or cell == "":
        return "<c/>"
    kind = cell.__class__
    if kind is str:
        return _text(cell, PLAIN)
    if kind is Decimal:
        return f'<c s="{AMOUNT}"><v>{cell}</v></c>'
    return _day(cell) if kind is date else f"<c><v>{cell}</v></c>"


@lru_cache(maxsize=10_000)
def _day(day: date) -> str:
    if day < _FIRST_DAY:  # spreadsheets count days from there
        return _text(day.isoformat(), PLAIN)
    return f'<c s="{DAY}"><v>{(day - _DAY_ZERO).days}</v></c>'


def _text(text: str, style: int) -> str:
    """Said to be text, so whatever it begins with it is no formula."""
    if len(text) > LONGEST_CELL or _ODD.search(text):
        text = _NO_XML.sub("\ufffd", text[:LONGEST_CELL])
        text = escape(_ESCAPE.sub("_x005F_", text))
    mark = f' s="{style}"' if style else ""
    return f'<c{mark} t="inlineStr"><is><t xml:space="preserve">{text}</t></is></c>'
