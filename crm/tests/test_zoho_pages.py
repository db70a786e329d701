"""Reading the body of a page: exact values, exact text, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm.zoho.client import DUPLICATE_KEYS, NOT_A_NUMBER
from crm.zoho.errors import BadPayload, GiveUp, PageTokenRejected, PagingLimit
from crm.zoho.paging import (
    LoopGuard,
    Page,
    follow_numbers,
    follow_tokens,
    parse_rows,
    parse_whole,
    read_info,
)


def rows_of(text: str, key: str = "data") -> list:
    return parse_rows(text, key)


def test_numbers_stay_exact():
    (row,) = rows_of('{"data":[{"id":"1","Amount":123456789012345.67,"n":3}]}')
    assert row.value == {"id": "1", "Amount": Decimal("123456789012345.67"), "n": 3}


def test_text_of_a_record_is_what_was_received():
    first, second = '{"id" : "1",\n "a":1.10}', '{ "id":"2" }'
    rows = rows_of('{"data": [' + first + " ,\n " + second + " ]}")
    assert [row.text for row in rows] == [first, second]


@given(
    st.lists(
        st.dictionaries(
            st.text(max_size=8),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(max_size=20),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(st.text(max_size=5), inner, max_size=3)
                ),
                max_leaves=6,
            ),
            max_size=6,
        ),
        max_size=5,
    ),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_any_page_reads_as_the_standard_parser_reads_it(records, indent, ascii_only):
    body = json.dumps(
        {"info": {"count": len(records)}, "data": records, "extra": [1, {"data": []}]},
        indent=indent,
        ensure_ascii=ascii_only,
    )
    rows = rows_of(body)
    assert [row.value for row in rows] == records
    assert [json.loads(row.text) for row in rows] == records


@pytest.mark.parametrize("odd", ["NaN", "Infinity", "-Infinity", "9" * 5000, "1e" + "9" * 30])
def test_row_58_what_is_no_usable_number_is_marked_and_the_page_survives(odd):
    rows = rows_of('{"data":[{"id":"1"},{"id":"2","Amount":' + odd + '},{"id":"3"}]}')
    assert rows[1].value == {"id": "2", "Amount": NOT_A_NUMBER}
    assert [row.value["id"] for row in rows] == ["1", "2", "3"]


@pytest.mark.parametrize(
    "record",
    [
        '{"id":"1","id":"2"}',
        '{"id":"1","Owner":{"name":"a","name":"b"}}',
        '{"id":"1","Tag":[{"x":1,"x":1}]}',
        '{"id" : "1", "id" : "1"}',
    ],
)
def test_row_66_a_record_that_names_a_key_twice_is_marked(record):
    rows = rows_of('{"data":[' + record + ',{"id":"9"}]}')
    assert rows[0].value is DUPLICATE_KEYS
    assert rows[0].text == record
    assert rows[1].value == {"id": "9"}


def test_a_quote_and_a_colon_inside_a_text_is_no_second_key():
    (row,) = rows_of(r'{"data":[{"id":"1","Description":"he said \"yes\": go"}]}')
    assert row.value["Description"] == 'he said "yes": go'


def test_items_that_are_no_objects_are_handed_on():
    rows = rows_of('{"data":[null,5,"x",[1]]}')
    assert [row.value for row in rows] == [None, 5, "x", [1]]


def test_a_raw_line_break_in_a_text_does_not_cost_the_page():
    (row,) = rows_of('{"data":[{"id":"1","Description":"a\nb"}]}')
    assert row.value["Description"] == "a\nb"


def test_a_byte_that_is_no_utf8_costs_its_character_only():
    page = Page(b'{"data":[{"id":"1","Deal_Name":"caf\xe9"}]}')
    assert page.records[0].value["Deal_Name"] == "caf�"


@pytest.mark.parametrize("depth", [70, 900, 100_000])
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_row_37_a_record_nested_too_deeply_is_a_bad_payload(depth, brackets):
    opening = "[" if brackets == "[]" else '{"a":'
    deep = opening * depth + "1" + brackets[1] * depth
    with pytest.raises(BadPayload, match="too deep"):
        rows_of('{"data":[{"id":"1","x":' + deep + "}]}")
    with pytest.raises(BadPayload, match="too deep"):
        parse_whole(('{"fields":' + deep + "}").encode())


WHOLE = '{"data":[{"id":"1","Owner":{"id":"7"}},{"id":"2"}],"info":{"count":2,"more":[1]}}'


@pytest.mark.parametrize("cut", range(len(WHOLE)))
def test_row_34_no_cut_of_a_page_is_read_as_fewer_records(cut):
    with pytest.raises(BadPayload):
        rows_of(WHOLE[:cut])


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "5",
        "null",
        '{"data":{}}',
        '{"users":[]}',
        "{}",
        WHOLE + "}",
        '{"data":[1 2]}',
        "{5:1}",
    ],
)
def test_what_is_no_page_is_never_read_as_no_records(body):
    with pytest.raises(BadPayload):
        rows_of(body)


def test_a_bad_payload_keeps_a_short_excerpt_without_secrets():
    token = "1000.0123456789abcdef.0123456789abcdef"
    with pytest.raises(BadPayload) as caught:
        rows_of('{"access_token":"' + token + '","x":"' + "y" * 5000)
    excerpt = caught.value.details["excerpt"]
    assert token not in excerpt
    assert 0 < len(excerpt) <= 1024


# ---------------------------------------------------------------- the frame of a page


@pytest.mark.parametrize(
    "body",
    [
        '{"data":[{"id":"1"}],"info":{"count":1,"more_records":true}}',
        '{"info":{"count":1,"more_records":true},"data":[{"id":"1"}]}',
        '{"data":[{"id":"1"}],"info" : {"count":1,"more_records":true} }\n',
        '{"data":[{"info":{"count":9}}],"info":{"count":1,"more_records":true},"x":{"info":{}}}',
    ],
)
def test_info_is_found_wherever_it_stands(body):
    assert read_info(body.encode()) == {"count": 1, "more_records": True}


@pytest.mark.parametrize(
    "body",
    [
        '{"data":[{"id":"1","info":{"more_records":true}}]}',
        '{"data":[{"id":"1","Description":"\\"info\\":{\\"more_records\\":true}}"}]}',
        '{"data":[],"other":{"info":{"more_records":true}}}',
    ],
)
def test_info_of_a_record_is_not_taken_for_that_of_the_page(body):
    assert read_info(body.encode()) == {}


def test_a_page_is_parsed_once_and_gives_its_memory_back():
    page = Page(b'{"data":[{"id":"1"}]}', info={"count": 1})
    assert page.count == 1
    assert page.records is page.records
    page.release()
    with pytest.raises(RuntimeError):
        _ = page.records


def test_row_37_more_rows_than_asked_for_is_a_bad_payload():
    many = json.dumps({"data": [{"id": str(n)} for n in range(201)]}).encode()
    with pytest.raises(BadPayload, match="201"):
        _ = Page(many, max_rows=200).records
    with pytest.raises(BadPayload, match="10000"):
        Page(many, info={"count": 10_000}, max_rows=200)


# ---------------------------------------------------------------- from page to page


def full(more: bool | None, token: str | None, name: int = 1) -> Page:
    info = {"more_records": more, "next_page_token": token}
    return Page(f'{{"data":[{{"id":"{name}"}}]}}'.encode(), info=info, max_rows=1)


def by_tokens(fetch: Callable[[str | None, int], Page], first: str | None = None, most: int = 100):
    return follow_tokens(fetch, first, LoopGuard("Deals", most), per_page=1)


def test_row_38_the_same_page_token_again_ends_the_list():
    tokens = iter(["a", "b", "a"])
    with pytest.raises(GiveUp) as caught:
        list(by_tokens(lambda *_: full(True, next(tokens))))
    assert caught.value.code == "paging_loop"


def test_row_38_a_token_that_leads_back_to_the_start_of_a_resumed_list_ends_it():
    with pytest.raises(GiveUp):
        list(by_tokens(lambda *_: full(True, "a"), "a"))


def test_row_38_more_records_for_ever_ends_after_the_most_pages():
    numbers = iter(range(1000))
    pages = by_tokens(lambda *_: full(True, f"t{next(numbers)}"), most=5)
    with pytest.raises(GiveUp, match="5 pages"):
        list(pages)


def test_row_38_more_without_rows_ends_the_list():
    empty = Page(b'{"data":[]}', info={"more_records": True, "next_page_token": "x"})
    with pytest.raises(GiveUp, match="empty page"):
        list(by_tokens(lambda *_: empty))


def test_more_without_a_token_is_asked_for_by_number_as_far_as_those_reach():
    asked, got = [], []

    def fetch(token: str | None, number: int) -> Page:
        asked.append((token, number))
        return full(True, "a" if number == 1 else None, number)

    pages = follow_tokens(fetch, None, LoopGuard("Deals", 100), per_page=500)
    with pytest.raises(PagingLimit):
        got += pages
    assert asked == [(None, 1), ("a", 2), (None, 3), (None, 4)]
    pages = follow_tokens(fetch, None, LoopGuard("Deals", 100), per_page=500)
    assert [next(pages).records[0].value["id"] for _ in range(4)] == ["1", "2", "3", "4"]


def test_a_list_begun_at_a_token_begins_anew_where_no_further_token_comes():
    pages = by_tokens(lambda *_: full(True, None), "kept")
    assert next(pages).count == 1  # what came is handed on first
    with pytest.raises(PageTokenRejected):
        next(pages)


@pytest.mark.parametrize("info", [{}, {"more_records": None}, {"more_records": "yes"}])
def test_where_the_crm_does_not_say_a_full_page_is_not_the_last(info):
    two = b'{"data":[{"id":"1"},{"id":"2"}]}'
    assert Page(two, info=info, max_rows=2).more
    assert not Page(two, info=info, max_rows=3).more
    assert not Page(two, info={"more_records": False}, max_rows=2).more
    assert Page(two, info={"more_records": True}, max_rows=3).more


def test_numbered_pages_end_where_the_crm_says():
    asked = []

    def fetch(number: int) -> Page:
        asked.append(number)
        return full(number < 3, None, number)

    assert len(list(follow_numbers(fetch, LoopGuard("users", 10)))) == 3
    assert asked == [1, 2, 3]
    assert list(follow_numbers(lambda _: Page.empty(), LoopGuard("users", 10))) == []


def test_numbered_pages_that_are_the_same_page_again_are_a_loop():
    asked = []

    def fetch(number: int) -> Page:
        asked.append(number)
        return full(None, None)

    with pytest.raises(GiveUp, match="read already"):
        list(follow_numbers(fetch, LoopGuard("users", 1000)))
    assert asked == [1, 2]
