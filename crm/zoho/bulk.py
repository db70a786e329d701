"""Bulk read jobs: start one, ask how it stands, take its file.

Decides paths, envelopes and states, and what is no usable answer. Leaves waiting, reading the
file and what a lost job means to `crm.sync.bulk_read`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO

from crm.zoho.download import Download
from crm.zoho.errors import FixRequest, GiveUp, redact
from crm.zoho.paging import bad_payload, parse_whole
from crm.zoho.transport import Call, Transport

ROWS_PER_JOB = 200_000
CREDITS_PER_JOB = 50
DOWNLOADS_A_MINUTE = 10
_ENDED = {"COMPLETED", "FAILURE"}
_SCOPE = "ZohoCRM.bulk.READ"
# `NOT_FOUND` by other versions of the documents; the result of a job lives for a day.
_LOST = {"RESOURCE_NOT_FOUND", "NOT_FOUND"}


class JobLost(FixRequest):
    """The CRM does not know this job or its file (any more): start another one."""


class JobFailed(GiveUp):
    """The CRM could not do the job; `crm_message` says why."""


@dataclass(frozen=True)
class BulkJob:
    """How a job stands. `count` rows in its file, and the token of the next page if there is more
    (None with `more`: the next page number follows)."""

    id: str
    is_done: bool
    count: int = 0
    more: bool = False
    next_token: str | None = None
    server_date: datetime | None = None


class BulkCalls:
    """The bulk part of a dialect. See `ZohoClient`."""

    version: str
    _transport: Transport

    def bulk_start(
        self, module: str, fields: Sequence[str], *, page: int = 1, page_token: str | None = None
    ) -> str:
        query: dict[str, Any] = {"module": {"api_name": module}, "fields": list(fields)}
        query |= {"page_token": page_token} if page_token else {"page": page}
        # Repeated after a lost answer: a job changes nothing, at worst it was paid for twice.
        call = Call(
            "POST",
            self._bulk_path(""),
            subject=f"the bulk read of {module}",
            scope=_SCOPE,
            json={"query": query, "file_type": "csv"},
        )
        details = _first(self._transport.send(call).body).get("details")
        found = details.get("id") if isinstance(details, Mapping) else None
        return _job_id(found)

    def bulk_job(self, job_id: str) -> BulkJob:
        answer = self._ask(
            Call("GET", self._bulk_path(f"/{_job_id(job_id)}"), subject="a bulk job", scope=_SCOPE)
        )
        item = _first(answer.body)
        state = str(item.get("state") or "")
        result = item.get("result")
        result = result if isinstance(result, Mapping) else {}
        if state == "FAILURE":
            raise _failed(result.get("error_message"))
        if state not in _ENDED:
            return BulkJob(job_id, is_done=False, server_date=answer.date)
        count, token = result.get("count"), result.get("next_page_token")
        more = result.get("more_records")
        if isinstance(count, bool) or not isinstance(count, int):
            raise bad_payload("it does not say how many rows the file has", answer.body)
        return BulkJob(
            job_id,
            is_done=True,
            count=count,
            # Where it is not said, a full file is not taken for the last one.
            more=more if isinstance(more, bool) else count >= ROWS_PER_JOB,
            next_token=token if isinstance(token, str) and token else None,
            server_date=answer.date,
        )

    def bulk_download(
        self, job_id: str, file: BinaryIO, *, between: Callable[[], None] | None = None
    ) -> int:
        patience = self._transport.patience
        into = Download(
            file,
            max_bytes=patience.max_file_bytes,
            whole_s=patience.download_s,
            **({"between": between} if between else {}),
        )
        # The address that the job's answer names is not followed: it could be anybody's.
        self._ask(
            Call(
                "GET",
                self._bulk_path(f"/{_job_id(job_id)}/result"),
                subject="the file of a bulk job",
                scope=_SCOPE,
                headers={"Accept": "*/*"},
                into=into,
            )
        )
        return into.size

    def _bulk_path(self, rest: str) -> str:
        return f"/crm/bulk/{self.version}/read{rest}"

    def _ask(self, call: Call) -> Any:
        try:
            return self._transport.send(call)
        except FixRequest as error:
            if error.status == 404 or error.code in _LOST:
                raise JobLost(
                    "The CRM does not have the bulk job or its file any more.",
                    code="job_lost",
                    status=error.status,
                    crm_message=error.crm_message,
                ) from None
            raise


def _first(body: bytes) -> Mapping[str, Any]:
    whole = parse_whole(body) if body else {}
    items = whole.get("data") if isinstance(whole, dict) else None
    first = items[0] if isinstance(items, list) and items else None
    if not isinstance(first, dict):
        raise bad_payload("it describes no bulk job", body)
    return first


def _job_id(found: object) -> str:
    text = str(found)
    if not (text.isascii() and text.isdigit() and len(text) <= 30):
        raise bad_payload("it names no bulk job")
    return text


def _failed(told: object) -> JobFailed:
    told = told if isinstance(told, Mapping) else {}
    message = redact(str(told.get("message") or "no reason given"))[:300]
    return JobFailed(
        f"The CRM's bulk job failed ({message}).",
        code=redact(str(told.get("code") or "job_failed"))[:64],
        crm_message=message,
    )
