"""Pages: from the bytes of an answer to records, and from page to page without going round.

Decides how a body is read (exact numbers, the exact text of each record, what is too deep) and
when a list that does not end is given up. Leaves fetching to `transport` and paths to `v8`.

Reading is split so that threads which fetch only do I/O: they look at the frame of a body
(`read_info`, its last few bytes), and the thread that uses the records parses them, on first use.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from enum import Enum
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, NamedTuple

from crm.zoho.errors import (
    BadList,
    BadPayload,
    FixRequest,
    PageTokenRejected,
    PagingLimit,
    redact,
)

MAX_DEPTH = 64  # the CRM's deepest known record has six levels
NUMBERED_ROWS = 2000  # page numbers reach no further, page tokens do


class Marker(Enum):
    """What stands in a record's place where JSON text has no value that we can trust."""

    NOT_A_NUMBER = "not a number"
    DUPLICATE_KEYS = "duplicate keys"


NOT_A_NUMBER = Marker.NOT_A_NUMBER  # NaN, Infinity, an integer of thousands of digits
DUPLICATE_KEYS = Marker.DUPLICATE_KEYS  # in place of a whole record that names a key twice


class RawRecord(NamedTuple):
    """`value`: the parsed item (floats as Decimal); `text`: its JSON exactly as received."""

    value: Any
    text: str


def _not_a_number(_: str) -> Marker:
    return NOT_A_NUMBER


def _guarded_int(text: str) -> int | Marker:
    try:
        return int(text)
    except ValueError:  # more digits than Python converts
        return NOT_A_NUMBER


def _guarded_decimal(text: str) -> Decimal | Marker:
    try:
        return Decimal(text)
    except ArithmeticError:  # an exponent beyond what Decimal holds
        return NOT_A_NUMBER


class _DuplicateKeys(Exception):
    pass


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _DuplicateKeys
    return found


# strict=False: a raw line break inside a text is a flaw of one record, not of the page.
_FAST = json.JSONDecoder(parse_float=Decimal, parse_constant=_not_a_number, strict=False)
_GUARDED = json.JSONDecoder(
    parse_float=_guarded_decimal,  # type: ignore[arg-type]
    parse_int=_guarded_int,  # type: ignore[arg-type]
    parse_constant=_not_a_number,
    strict=False,
)
_EXACT = json.JSONDecoder(
    parse_float=_guarded_decimal,  # type: ignore[arg-type]
    parse_int=_guarded_int,  # type: ignore[arg-type]
    parse_constant=_not_a_number,
    object_pairs_hook=_unique_pairs,
    strict=False,
)
_BLANK = re.compile(r"[ \t\n\r]*")
_INFO_KEY = b'"info"'
_TAIL_BYTES = 4096


class _TooDeep(Exception):
    pass


def _count_keys(value: Any, depth: int) -> int:
    """Keys of all objects inside `value`; _TooDeep beyond MAX_DEPTH."""
    if depth > MAX_DEPTH:
        raise _TooDeep
    total = 0
    if value.__class__ is dict:
        total = len(value)
        value = value.values()
    for item in value:
        kind = item.__class__
        if (kind is dict or kind is list) and item:
            total += _count_keys(item, depth + 1)
    return total


def _keys_of(record: dict) -> int:
    """`_count_keys` of a record, without a call for each of its references."""
    total = len(record)
    for item in record.values():
        kind = item.__class__
        if kind is dict:
            total += len(item)
            for inner in item.values():
                kind = inner.__class__
                if (kind is dict or kind is list) and inner:
                    total += _count_keys(inner, 3)
        elif kind is list and item:
            total += _count_keys(item, 2)
    return total


def bad_payload(why: str, body: bytes | str = b"", *, status: int | None = 200) -> BadPayload:
    """The error for an answer that cannot be used, with a short excerpt without secrets."""
    text = body if isinstance(body, str) else body[:4096].decode("utf-8", "replace")
    return BadPayload(
        f"The CRM's answer cannot be used: {why}. It is asked again by itself; if this stays, "
        "look at what stands between here and the CRM (proxy, ZOHO_BASE_URL).",
        code="bad_payload",
        status=status,
        details={"excerpt": redact(text)} if text else {},
    )


def to_text(body: bytes) -> str:
    """The body as text; a byte that is no UTF-8 costs its character, not the page."""
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return body.decode("utf-8", "replace")


def parse_whole(body: bytes) -> Any:
    """Any JSON body, guarded: exact numbers, bounded depth. Raises BadPayload."""
    text = to_text(body)
    try:
        value = _GUARDED.decode(text)
        if isinstance(value, dict | list):
            _count_keys(value, 1)
    except (ValueError, RecursionError) as error:
        raise bad_payload(_why(error), body) from None
    except _TooDeep:
        raise bad_payload("it is nested too deeply", body) from None
    return value


def parse_rows(text: str, key: str) -> list[RawRecord]:
    """The items of the list under `key` of the object in `text`. Raises BadPayload."""
    try:
        return _parse_rows(text, key)
    except _TooDeep:
        raise bad_payload("it is nested too deeply", text) from None
    except (ValueError, RecursionError, StopIteration, IndexError) as error:
        raise bad_payload(_why(error), text) from None


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "it is no whole JSON text"


def _parse_rows(text: str, key: str) -> list[RawRecord]:
    rows: list[RawRecord] | None = None
    at = _skip(text, 0)
    if text[at] != "{":
        raise bad_payload("it is no JSON object", text)
    at = _skip(text, at + 1)
    while text[at] != "}":
        if text[at] != '"':
            raise ValueError
        name, at = scanstring(text, at + 1, False)
        at = _skip(text, at)
        if text[at] != ":":
            raise ValueError
        at = _skip(text, at + 1)
        if name == key and text[at] == "[":
            rows, at = _scan_items(text, at + 1)
        else:
            _, at = _GUARDED.scan_once(text, at)  # type: ignore[attr-defined]
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)
        elif text[at] != "}":
            raise ValueError
    if _skip(text, at + 1) != len(text):
        raise ValueError
    if rows is None:
        raise bad_payload(f"it has no list named {key}", text)
    return rows


def _skip(text: str, at: int) -> int:
    return _BLANK.match(text, at).end()  # type: ignore[union-attr]


def _scan_items(text: str, at: int) -> tuple[list[RawRecord], int]:
    """Items of an array whose first one begins at `at`, and the place after its bracket."""
    scan = _FAST.scan_once  # type: ignore[attr-defined]
    rows: list[RawRecord] = []
    add = rows.append
    at = _skip(text, at)
    if text[at] == "]":
        return rows, at + 1
    while True:
        try:
            value, end = scan(text, at)
        except (ArithmeticError, ValueError):
            value, end = _GUARDED.scan_once(text, at)  # type: ignore[attr-defined]
        item = text[at:end]
        if value.__class__ is dict:
            # As many keys as places that look like one: then none was named twice. Otherwise
            # (a quote and a colon inside a text, other spacing) look exactly.
            if _keys_of(value) != item.count('":'):
                value = _without_duplicates(item, value)
        elif value.__class__ is list:
            _count_keys(value, 1)
        add(RawRecord(value, item))
        following = text[end]
        if following not in ",]":
            end = _skip(text, end)
            following = text[end]
        if following == "]":
            return rows, end + 1
        if following != ",":
            raise ValueError
        at = end + 1
        if text[at] in " \t\r\n":
            at = _skip(text, at)


def _without_duplicates(item: str, value: Any) -> Any:
    try:
        _EXACT.decode(item)
    except _DuplicateKeys:
        return DUPLICATE_KEYS
    return value


def info_at_end(body: bytes) -> dict[str, Any] | None:
    """The `info` object with which the CRM ends a page, or None if the body ends otherwise.

    In whole JSON an object behind the last `"info":` with one closing brace after it can be
    nothing but the top-level one; and a body that was cut does not end like this.
    """
    found = body.rfind(_INFO_KEY, max(0, len(body) - _TAIL_BYTES))
    if found < 0:
        return None
    tail = to_text(body[found + len(_INFO_KEY) :])
    at = _skip(tail, 0)
    if tail[at : at + 1] != ":":
        return None
    try:
        info, end = _GUARDED.scan_once(tail, _skip(tail, at + 1))  # type: ignore[attr-defined]
    except (ValueError, StopIteration, RecursionError):
        return None
    return info if isinstance(info, dict) and tail[end:].strip() == "}" else None


def read_info(body: bytes) -> dict[str, Any]:
    """The top-level `info` object of a page; {} if there is none. Raises BadPayload."""
    info = info_at_end(body)
    if info is not None:
        return info
    if _INFO_KEY not in body:
        return {}
    whole = parse_whole(body)
    info = whole.get("info") if isinstance(whole, dict) else None
    return info if isinstance(info, dict) else {}


class Page:
    """One answer of a list: its rows (parsed on first use), and where it goes on.

    `next_token` as the CRM says; `server_date` its Date header (UTC); `nbytes` the size of the
    body. A page that is done with should be `release()`d: it holds the body and the rows.
    """

    def __init__(
        self,
        body: bytes,
        *,
        key: str = "data",
        info: dict[str, Any] | None = None,
        server_date: datetime | None = None,
        max_rows: int | None = None,
    ) -> None:
        self._body: bytes | None = body
        self._key = key
        self._max_rows = max_rows
        self._rows: list[RawRecord] | None = None if body else []
        self._guard = threading.Lock()
        info = info or {}
        token = info.get("next_page_token")
        more = info.get("more_records")
        self._says_more = more if isinstance(more, bool) else None
        self.next_token: str | None = token if isinstance(token, str) and token else None
        self.server_date = server_date
        self.nbytes = len(body)
        counted = info.get("count")
        self._announced = counted if isinstance(counted, int) else None
        if max_rows is not None and (self._announced or 0) > max_rows:
            raise bad_payload(f"it announces {self._announced} rows, {max_rows} were asked for")

    @classmethod
    def empty(cls, server_date: datetime | None = None) -> Page:
        return cls(b"", server_date=server_date)

    @property
    def records(self) -> list[RawRecord]:
        """The rows, in the CRM's order. Raises BadPayload."""
        with self._guard:
            if self._rows is None:
                if self._body is None:
                    raise RuntimeError("this page was released")
                rows = parse_rows(to_text(self._body), self._key)
                if self._max_rows is not None and len(rows) > self._max_rows:
                    raise bad_payload(f"it holds {len(rows)} rows, {self._max_rows} were asked for")
                self._rows = rows
                self._body = None
            return self._rows

    @property
    def more(self) -> bool:
        """Whether there are more, as the CRM says. Where it does not say, a page with as many rows
        as were asked for is not taken for the last one. May raise BadPayload."""
        if self._says_more is not None:
            return self._says_more
        return self._max_rows is not None and self.count >= self._max_rows

    @property
    def count(self) -> int:
        """Rows in this page; before parsing, the number the CRM announces."""
        if self._rows is None and self._announced is not None:
            return self._announced
        return len(self.records)

    def release(self) -> None:
        """Give the memory of body and rows back. `records` cannot be used afterwards."""
        with self._guard:
            self._body = None
            self._rows = None


class LoopGuard:
    """Ends a list that would go round for ever: a token seen before, an empty page with more, the
    same page under the next number."""

    def __init__(self, subject: str, max_pages: int) -> None:
        self._subject = subject
        self._max_pages = max_pages
        self._pages = 0
        self._seen: set[object] = set()
        self._ends: tuple[str, str] | None = None

    def begin_at(self, position: object) -> None:
        self._seen.add(position)

    def check(self, page: Page, position: object) -> None:
        """Before following `page` to `position` (its next token or page number)."""
        self._pages += 1
        if page.count == 0:
            raise self._loop("sends an empty page and says there is more")
        if position in self._seen or (isinstance(position, int) and self._is_repeated(page)):
            raise self._loop("leads back to a page that was read already")
        if self._pages >= self._max_pages:
            raise self._loop(f"does not end after {self._pages} pages")
        self._seen.add(position)

    def _is_repeated(self, page: Page) -> bool:
        """Numbers always differ, so they alone would not show a CRM that ignores them."""
        texts = [record.text for record in page.records]
        before, self._ends = self._ends, (texts[0], texts[-1]) if texts else None
        return before is not None and before == self._ends

    def _loop(self, how: str) -> BadList:
        return BadList(
            f"The CRM's list of {self._subject} {how}. It is not read any further and nothing is "
            "lost; if it comes again, report it to the CRM's support.",
            code="paging_loop",
        )


def follow_tokens(
    fetch: Callable[[str | None, int], Page],
    first: str | None,
    guard: LoopGuard,
    *,
    per_page: int,
) -> Iterator[Page]:
    """Pages from `fetch(token, number)` until there are no more.

    A CRM that gives no token is asked for the next number, as far as numbers reach. Raises
    PagingLimit there, and PageTokenRejected where a list begun at a token knows no number.
    """
    token, number = first, 1
    if token is not None:
        guard.begin_at(token)
    while True:
        page = fetch(token, number)
        if not page.nbytes:
            return
        follow = page.more
        token, number = page.next_token, number + 1
        dead_end = None
        if follow and token is None:
            dead_end = _no_number(first, number, per_page)
        if follow and dead_end is None:
            guard.check(page, token or number)
        yield page
        if dead_end is not None:
            raise dead_end
        if not follow:
            return


def _no_number(first: str | None, number: int, per_page: int) -> FixRequest | None:
    """Why the page of this number cannot be asked for."""
    if first is not None:
        return PageTokenRejected(
            "The CRM says there is more behind a page token, but not where. Read the list again "
            "from the first page.",
            code="no_page_token",
        )
    if number * per_page > NUMBERED_ROWS:
        return PagingLimit(
            f"The CRM gives no page token, and page numbers reach {NUMBERED_ROWS} records only. "
            "Read the rest by id ranges.",
            code="no_page_token",
        )
    return None


def follow_numbers(fetch: Callable[[int], Page], guard: LoopGuard) -> Iterator[Page]:
    """Pages from `fetch(1)`, `fetch(2)` … until the CRM says there are no more."""
    number = 1
    while True:
        page = fetch(number)
        if not page.nbytes:
            return
        follow = page.more
        number += 1
        if follow:
            guard.check(page, number)
        yield page
        if not follow:
            return
