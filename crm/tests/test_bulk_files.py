"""The file of a bulk job: cells, rows and zips as they come, good and bad; and what it costs."""

from __future__ import annotations

import io
import json
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm.mapping import profiles
from crm.mapping.apply import Mapper
from crm.mapping.profiles import builtin_mapping
from crm.sync.csv_records import MAX_CELL, Columns, read_rows
from crm.sync.ways import BULK, PAGES, RANGES, Pace, cheapest, credits_of, seconds_of
from crm.zoho.errors import BadPayload
from crm.zoho.paging import parse_rows

SPECS = builtin_mapping("Deals", profiles.STANDARD)
TYPES = {"AWS_Funded": "boolean", "Amount": "currency", "Tags": "multiselectpicklist"}


def zipped(text: str | bytes, name: str = "1.csv", **more: str) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
        for other, body in more.items():
            archive.writestr(other, body)
    file.seek(0)
    return file


def rows(text: str | bytes, types: dict[str, str] | None = None) -> list[Any]:
    return list(read_rows(zipped(text), Columns(SPECS, TYPES if types is None else types)))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("Id,Deal_Name\r\n1,plain\r\n", ["plain"]),
        ('Id,Deal_Name\r\n1,"a,b"\r\n2,"say ""no"""\r\n', ["a,b", 'say "no"']),
        ('Id,Deal_Name\r\n1,"two\r\nlines"\r\n2,"one\nmore"\r\n', ["two\r\nlines", "one\nmore"]),
        ('Id,Deal_Name\r\n1,""\r\n2,\r\n', [None, None]),
        ("Id,Deal_Name\n1,line feeds\n2,and no last one", ["line feeds", "and no last one"]),
        ("\ufeffId,Deal_Name\r\n1,behind a mark\r\n", ["behind a mark"]),
        ("ID,Deal_Name\r\n1,another id\r\n", ["another id"]),
        ("Deal_Name,id\r\nlast,1\r\n", ["last"]),
        ("Id,DEAL_NAME\r\n1,another case\r\n", ["another case"]),
        ("Id,Deal_Name\r\n\r\n1,behind an empty line\r\n", ["behind an empty line"]),
        ('Id,Deal_Name\r\n1," spaces stay "\r\n', [" spaces stay "]),
        ("Id,Deal_Name\r\n", []),
        ("", []),
    ],
)  # fmt: skip
def test_texts_of_a_csv(text: str, values: list[Any]) -> None:
    assert [record.value["Deal_Name"] for record in rows(text)] == values


@pytest.mark.parametrize(
    ("name", "cell", "value"),
    [
        ("Amount", "1234.50", Decimal("1234.50")),
        ("Amount", "7", 7),
        ("Amount", "-0.005", Decimal("-0.005")),
        ("Amount", "1e3", Decimal("1e3")),
        ("Amount", '"1,234.50"', "1,234.50"),
        ("Amount", "NaN", "NaN"),
        ("Probability", "80", 80),
        ("Probability", "80%", "80%"),
        ("AWS_Funded", "true", True),
        ("AWS_Funded", "false", False),
        ("AWS_Funded", "maybe", "maybe"),
        ("Owner", "3652397000000186017", {"id": "3652397000000186017"}),
        ("Account_Name", "9007199254740993", {"id": "9007199254740993"}),
        ("Account_Name", "nobody", "nobody"),
        ("Next_Step", "007", "007"),
        ("Closing_Date", "2026-02-30", "2026-02-30"),
        ("Amount", "", None),
        ("Tags", "a;b", ["a", "b"]),
    ],
)
def test_a_cell_is_what_json_would_hold(name: str, cell: str, value: Any) -> None:
    types = {**TYPES, "Tags": "multiselectpicklist"}
    specs = [*SPECS, profiles.FieldSpec("tags", "Tags", profiles.TEXT)]
    (record,) = read_rows(
        zipped(f"Id,{name}\r\n3652397000000186999,{cell}\r\n"), Columns(specs, types)
    )
    assert record.value == {"id": "3652397000000186999", name: value}
    (again,) = parse_rows(f'{{"data":[{record.text}]}}', "data")
    assert again.value == record.value


def test_where_the_type_is_not_known_the_mapping_tells_it() -> None:
    text = "Id,Amount,AWS_Funded,Owner,Deal_Name\r\n1,5.5,true,77,5.5\r\n"
    (record,) = rows(text, types={})
    assert record.value == {
        "id": "1", "Amount": Decimal("5.5"), "AWS_Funded": True, "Owner": {"id": "77"},
        "Deal_Name": "5.5",
    }  # fmt: skip


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1))
def test_any_text_comes_back_as_it_was_and_maps_alike(texts: list[str]) -> None:
    file = io.StringIO(newline="")
    import csv

    writer = csv.writer(file)
    writer.writerow(["Id", "Deal_Name"])
    writer.writerows([at + 1, text] for at, text in enumerate(texts))
    found = rows(file.getvalue())
    assert [record.value["Deal_Name"] or "" for record in found] == texts
    mapper = Mapper(SPECS, home_currency="USD")
    for record, text in zip(found, texts, strict=True):
        as_json = {"id": record.value["id"], "Deal_Name": text or None}
        assert mapper.apply(record.value).values == mapper.apply(as_json).values
        assert json.loads(record.text) == as_json


@pytest.mark.parametrize(
    "file",
    [
        io.BytesIO(b"no zip at all"),
        zipped("Id\r\n1\r\n", name="1.ics"),
        zipped("Id\r\n1\r\n", **{"2.csv": "Id\r\n2\r\n"}),
        zipped("Deal_Name\r\nno id\r\n"),
        zipped("Id,Deal_Name,Deal_Name\r\n1,a,b\r\n"),
        zipped('Id,Deal_Name\r\n1,"open\r\n' + "x" * (MAX_CELL + 100_000)),
        zipped('Id,Deal_Name\r\n1,"stray"quote\r\n'),
        io.BytesIO(zipped("Id\r\n" + "1234567\r\n" * 5000).getvalue()[:-300]),
    ],
    ids=["no zip", "other file", "two files", "no id", "name twice", "open quote", "stray", "cut"],
)
def test_a_file_that_cannot_be_trusted_is_refused(file: io.BytesIO) -> None:
    with pytest.raises(BadPayload):
        list(read_rows(file, Columns(SPECS, TYPES)))


def test_a_damaged_zip_gives_no_row_at_all() -> None:
    body = bytearray(zipped("Id\r\n" + "".join(f"{n}\r\n" for n in range(50_000))).getvalue())
    body[len(body) // 2] ^= 0xFF
    given: list[Any] = []
    with pytest.raises(BadPayload):
        given.extend(read_rows(io.BytesIO(bytes(body)), Columns(SPECS, TYPES)))
    assert given == []


def test_a_row_of_another_width_is_no_record_and_costs_no_other() -> None:
    found = rows("Id,Deal_Name\r\n1,a\r\n2\r\n3,b,c\r\n4,d\r\n")
    assert [isinstance(record.value, dict) for record in found] == [True, False, False, True]


def test_memory_is_one_row(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "big.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("1.csv", "w") as raw,
    ):
        raw.write(b"Id,Deal_Name,Description\r\n")
        for at in range(20_000):
            raw.write(f"{at + 1},Deal {at},{'word ' * 100}\r\n".encode())
    tracemalloc.start()
    with path.open("rb") as file:
        assert sum(1 for _ in read_rows(file, Columns(SPECS, TYPES))) == 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000  # of ten megabytes


# -- which way ------------------------------------------------------------------------------------

USUAL = Pace(calls_a_minute=100, at_once=8)


@pytest.mark.parametrize(
    ("rows", "pace", "has_queries", "way"),
    [
        (None, USUAL, True, RANGES),
        (None, USUAL, False, PAGES),
        (0, USUAL, True, RANGES),
        (20_000, USUAL, True, RANGES),
        (33_000, USUAL, True, RANGES),  # not cheaper in credits either
        (200_000, USUAL, True, BULK),
        (1_000_000, USUAL, True, BULK),
        (1_000_000, Pace(100, 8, last_job=(200_000, 400.0)), True, RANGES),  # far too slow
        (200_000, Pace(100, 8, last_job=(200_000, 20.0)), True, BULK),
        (50_000, Pace(5, 8), True, BULK),  # few calls a minute: queries take four minutes
        (5_000, USUAL, False, PAGES),
        (50_000, USUAL, False, BULK),
        (150_000, Pace(100, 8, last_job=(200_000, 9_000.0)), False, BULK),  # no other way reaches
    ],
)
def test_the_way_that_costs_least_is_taken(
    rows: int | None, pace: Pace, has_queries: bool, way: str
) -> None:
    assert cheapest(rows, pace, has_queries=has_queries) == way


@pytest.mark.parametrize("rows", [1, 1_000, 40_000, 100_000, 400_000, 2_000_000])
@pytest.mark.parametrize("calls", [5, 100, 1_000])
@pytest.mark.parametrize("last", [None, (200_000, 10.0), (1_000, 4.0), (200_000, 1_000.0)])
def test_what_is_cheaper_in_credits_and_time_is_always_taken(
    rows: int, calls: int, last: tuple[int, float] | None
) -> None:
    pace = Pace(calls, 8, last)
    credits, seconds = ((f(BULK), f(RANGES)) for f in (
        lambda way: credits_of(way, rows), lambda way: seconds_of(way, rows, pace)))  # fmt: skip
    taken = cheapest(rows, pace, has_queries=True)
    if credits[0] < credits[1] and seconds[0] < seconds[1]:
        assert taken == BULK
    if credits[0] > credits[1] and seconds[0] > seconds[1]:
        assert taken == RANGES


@pytest.mark.parametrize(
    ("way", "rows", "credits"),
    [(RANGES, 2_000, 3), (RANGES, 2_001, 6), (BULK, 200_000, 50), (BULK, 200_001, 100),
     (PAGES, 400, 2), (BULK, 0, 50)],
)  # fmt: skip
def test_credits_as_the_crm_charges_them(way: str, rows: int, credits: int) -> None:
    assert credits_of(way, rows) == credits
