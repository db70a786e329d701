"""Data that passes between the parts of a page's store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from crm.mapping.apply import Mapped


@dataclass
class Counts:
    """What a page came to. seen = created + updated + unchanged + failed."""

    seen: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    failed: int = 0
    deleted: int = 0
    restored: int = 0
    changed_pks: list[int] = field(default_factory=list)
    gone_ids: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Existing:
    """What is known of a mirrored record before its full row is needed.

    Times are as the driver gives them (`bulk_write.moment_writer`): text on SQLite, datetimes on
    PostgreSQL. Both sort by time; a hundred thousand of them need not be parsed to be compared.
    """

    pk: int
    content_hash: str
    modified_at: Any
    read_at: Any
    is_deleted: bool
    is_stub: bool


@dataclass(slots=True)
class Incoming:
    """A mapped record with its text as received."""

    mapped: Mapped
    body: str


def is_older(modified_at: Any, read_at: Any, known: Existing, now: Any) -> bool:
    """Whether what we hold is newer: by the CRM's time, by our time of reading as tie-break.

    A reading that lies ahead of `now` was stamped by a clock that has been set back since, and
    says nothing: else a day in 2038 would keep a record as it was until then.
    """
    if modified_at is None or known.modified_at is None or modified_at == known.modified_at:
        return known.read_at is not None and read_at < known.read_at <= now
    return modified_at < known.modified_at
