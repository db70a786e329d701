"""Which way of reading a whole module is the cheapest: id ranges, pages, or the CRM's bulk read.

Decides by what the CRM charges and how long it takes; pure. Whether a way is allowed at all is
known to the caller.
"""

from __future__ import annotations

from dataclasses import dataclass

RANGES, PAGES, BULK = "ranges", "pages", "bulk"
ROWS_A_QUERY, CREDITS_A_QUERY = 2_000, 3
ROWS_A_PAGE, CREDITS_A_PAGE = 200, 1
ROWS_A_JOB, CREDITS_A_JOB = 200_000, 50
PAGES_REACH = 100_000  # records; no page token leads further
# Where no job of the module was seen yet: some seconds however small, a minute for a full one.
FIRST_GUESS = (5.0, 60.0)
CALL_S = 0.5  # a heavy call of a CRM across the internet
# What a person would wait to save a credit: at 200,000 records bulk saves 250 of them.
SECONDS_A_CREDIT = 0.25


@dataclass(frozen=True)
class Pace:
    """What calls cost here in time, and how long the last bulk job took (rows, seconds)."""

    calls_a_minute: int
    at_once: int
    last_job: tuple[int, float] | None = None


def cheapest(rows: int | None, pace: Pace, *, has_queries: bool) -> str:
    """The way with the least credits and seconds together. Unknown size: not by bulk."""
    other = RANGES if has_queries else PAGES
    if rows is None:
        return other
    if other == PAGES and rows > PAGES_REACH:
        return BULK
    return BULK if _price(BULK, rows, pace) < _price(other, rows, pace) else other


def credits_of(way: str, rows: int) -> int:
    """API credits for reading so many records."""
    at_once, price = {
        RANGES: (ROWS_A_QUERY, CREDITS_A_QUERY),
        PAGES: (ROWS_A_PAGE, CREDITS_A_PAGE),
        BULK: (ROWS_A_JOB, CREDITS_A_JOB),
    }[way]
    return price * _parts(rows, at_once)


def seconds_of(way: str, rows: int, pace: Pace) -> float:
    """How long the CRM needs to give so many records."""
    if way == BULK:
        jobs = _parts(rows, ROWS_A_JOB)
        return jobs * job_seconds(min(rows, ROWS_A_JOB), pace.last_job)
    calls = _parts(rows, ROWS_A_QUERY if way == RANGES else ROWS_A_PAGE)
    # Pages follow each other; the first minute's calls may all be made at once.
    by_latency = calls * CALL_S / (pace.at_once if way == RANGES else 1)
    return max(by_latency, (calls - pace.calls_a_minute) * 60 / pace.calls_a_minute)


def job_seconds(rows: int, last_job: tuple[int, float] | None) -> float:
    """A job's time, from the last one of the module: some of it is the same for every size."""
    least, full = FIRST_GUESS
    if last_job is None:
        return least + (full - least) * rows / ROWS_A_JOB
    seen_rows, seconds = last_job
    if rows <= seen_rows:
        return seconds
    return seconds * rows / max(seen_rows, ROWS_A_JOB // 100)


def _price(way: str, rows: int, pace: Pace) -> float:
    return credits_of(way, rows) * SECONDS_A_CREDIT + seconds_of(way, rows, pace)


def _parts(rows: int, at_once: int) -> int:
    return max(1, -(-rows // at_once))
