"""What the product may ask of the CRM, whichever version of its API answers.

Decides the calls, their shapes and their errors. Leaves paths, parameters and envelopes to the
dialects `v8` and `v6`, and retries, tokens and limits to `transport`: every call here may raise any
`ZohoError`, after all tries that make sense.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, BinaryIO

from crm.zoho.bulk import BulkJob
from crm.zoho.paging import DUPLICATE_KEYS, NOT_A_NUMBER, Page, RawRecord

__all__ = [
    "DUPLICATE_KEYS",
    "NOT_A_NUMBER",
    "ChannelResult",
    "ChannelWish",
    "Page",
    "RawRecord",
    "WatchedChannel",
    "WriteResult",
    "ZohoClient",
]


@dataclass(frozen=True)
class WriteResult:
    """What became of one row of a write, in the order of the request."""

    ok: bool
    id: int | None
    code: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)
    action: str | None = None  # of an upsert: "insert" or "update"


@dataclass(frozen=True)
class ChannelWish:
    """A notification channel as it shall be. `channel_id`: digits, at most 19, of our choice.

    `expires_at`: at most a week ahead by the CRM's clock; beyond, it silently becomes an hour.
    """

    channel_id: str
    events: Sequence[str]  # as "Deals.all", at most 50
    notify_url: str
    token: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True)
class ChannelResult:
    """What became of one channel of a call, in the order of the request.

    `code` NOT_SUBSCRIBED: there is no such channel (any more). `expires_at` as the CRM decided.
    """

    channel_id: str
    ok: bool
    code: str
    message: str
    expires_at: datetime | None = None


@dataclass(frozen=True)
class WatchedChannel:
    """A channel that lives at the CRM."""

    channel_id: str
    events: tuple[str, ...]
    notify_url: str
    expires_at: datetime | None


class ZohoClient(ABC):
    """One connection, safe to share between threads; make one per run, and `close()` it.

    Times passed in must be aware; they are sent whole seconds, rounded down.
    """

    @property
    @abstractmethod
    def calls(self) -> int:
        """Requests sent to the API so far, repeats included."""

    @property
    @abstractmethod
    def retries(self) -> int:
        """How many of `calls` were repeats."""

    @property
    @abstractmethod
    def bytes_received(self) -> int: ...

    @property
    @abstractmethod
    def credits_remaining(self) -> int | None:
        """As the CRM last said; it says so only once half of the day's credits are used."""

    @property
    @abstractmethod
    def first_server_date(self) -> datetime | None:
        """The CRM's clock (UTC) at this client's first good answer."""

    @abstractmethod
    def close(self) -> None:
        """End waiting calls and connections."""

    # ------------------------------------------------------------ the organisation

    @abstractmethod
    def org(self) -> dict[str, Any]: ...

    @abstractmethod
    def current_user(self) -> dict[str, Any]: ...

    @abstractmethod
    def users(self, kind: str = "AllUsers") -> Iterator[Page]: ...

    @abstractmethod
    def currencies(self) -> list[dict[str, Any]]:
        """Empty where multi-currency is off."""

    @abstractmethod
    def fields(self, module: str) -> list[dict[str, Any]]: ...

    @abstractmethod
    def layouts(self, module: str) -> list[dict[str, Any]]: ...

    @abstractmethod
    def pipelines(self, layout_id: int | str) -> list[dict[str, Any]]: ...

    @abstractmethod
    def modules(self) -> list[dict[str, Any]]: ...

    # ------------------------------------------------------------ reading records

    @abstractmethod
    def list_pages(
        self,
        module: str,
        fields: Sequence[str],
        *,
        sort_by: str = "id",
        sort_order: str = "asc",
        modified_since: datetime | None = None,
        converted: str | None = None,
        page_token: str | None = None,
        per_page: int = 200,
    ) -> Iterator[Page]:
        """By page tokens, to 100,000 records (then PagingLimit). Nothing there: no page.

        Raises PageTokenRejected, GiveUp("paging_loop").
        """

    @abstractmethod
    def by_ids(
        self,
        module: str,
        ids: Sequence[int],
        fields: Sequence[str],
        converted: str | None = None,
    ) -> Page:
        """At most 50 ids; those that do not exist are not in the page."""

    @abstractmethod
    def record(self, module: str, record_id: int) -> RawRecord | None:
        """One record with all its fields, or None."""

    @abstractmethod
    def deleted_pages(
        self, module: str, *, since: datetime | None, kind: str = "all"
    ) -> Iterator[Page]: ...

    @abstractmethod
    def count(self, module: str) -> int: ...

    @abstractmethod
    def coql(self, query: str) -> Page:
        """Raises QueryRefused where this query is not usable."""

    @abstractmethod
    def id_range(
        self,
        module: str,
        fields: Sequence[str],
        *,
        after: int,
        upto: int | None,
        modified_since: datetime | None = None,
        converted: str | None = None,
        limit: int = 2000,
    ) -> Page:
        """The first `limit` records with after < id <= upto, by id. Lookups come as their id.

        `converted` "both": converted ones too, as far as queries can show them.
        """

    # ------------------------------------------------------------ bulk read

    @abstractmethod
    def bulk_start(
        self, module: str, fields: Sequence[str], *, page: int = 1, page_token: str | None = None
    ) -> str:
        """Have the CRM write 200,000 records to a file (50 credits); returns the job's id."""

    @abstractmethod
    def bulk_job(self, job_id: str) -> BulkJob:
        """How the job stands. Raises JobFailed, JobLost."""

    @abstractmethod
    def bulk_download(
        self, job_id: str, file: BinaryIO, *, between: Callable[[], None] | None = None
    ) -> int:
        """The zip file with the job's CSV, written to `file`; returns its size in bytes.

        `between` is called with each piece; what it raises ends the download. Raises JobLost.
        """

    # ------------------------------------------------------------ writing records

    @abstractmethod
    def insert(
        self, module: str, rows: list[dict[str, Any]], *, trigger: Sequence[str] | None = None
    ) -> list[WriteResult]:
        """At most 100. Never repeated blindly: may raise UnknownOutcome."""

    @abstractmethod
    def update(
        self,
        module: str,
        rows: list[dict[str, Any]],
        *,
        trigger: Sequence[str] | None = None,
        unmodified_since: datetime | None = None,
        repeatable: bool = True,
    ) -> list[WriteResult]:
        """At most 100, each with its `id`. A row that changed since: code ALREADY_MODIFIED.

        `repeatable` False, here and below: raises UnknownOutcome where sending it again could
        overwrite what somebody else wrote meanwhile.
        """

    @abstractmethod
    def upsert(
        self,
        module: str,
        rows: list[dict[str, Any]],
        *,
        trigger: Sequence[str] | None = None,
        duplicate_check_fields: Sequence[str] | None = None,
        unmodified_since: datetime | None = None,
        repeatable: bool = True,
    ) -> list[WriteResult]:
        """At most 100. Without `duplicate_check_fields` as careful as `insert`."""

    @abstractmethod
    def delete(
        self, module: str, ids: Sequence[int], *, repeatable: bool = True
    ) -> list[WriteResult]:
        """Into the CRM's recycle bin, at most 100."""

    @abstractmethod
    def convert(self, lead_id: int, wishes: dict[str, Any]) -> WriteResult:
        """Convert a lead (5 credits); `details` name Accounts, Contacts and Deals with their ids.

        Never repeated blindly: may raise UnknownOutcome. `wishes` is the CRM's own form.
        """

    # ------------------------------------------------------------ notification channels

    @abstractmethod
    def watch(self, wishes: Sequence[ChannelWish]) -> list[ChannelResult]:
        """Make channels, at most 50; one that exists by this id is replaced."""

    @abstractmethod
    def rewatch(self, wishes: Sequence[ChannelWish]) -> list[ChannelResult]:
        """Replace living channels whole: the way to prolong them."""

    @abstractmethod
    def drop_events(self, channel_id: str, events: Sequence[str]) -> ChannelResult:
        """Take some events away from a channel."""

    @abstractmethod
    def watched(
        self, *, channel_id: str | None = None, module: str | None = None
    ) -> list[WatchedChannel]:
        """The channels of these credentials that live."""

    @abstractmethod
    def unwatch(self, channel_ids: Sequence[str]) -> list[ChannelResult]:
        """End channels."""

    def __enter__(self) -> ZohoClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def details_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item's `details` as a dict, whatever the CRM put there."""
    details = item.get("details")
    return dict(details) if isinstance(details, Mapping) else {}
