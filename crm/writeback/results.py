"""What the CRM said of one record → what becomes of the entries that it carried. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from crm.zoho.client import WriteResult

TAKEN, REFUSED, WAIT, READ_AGAIN, GONE = "taken", "refused", "wait", "read_again", "gone"

# code → first pause, longest pause, the sentence
_WAITING: Mapping[str, tuple[timedelta, timedelta, str]] = {
    "RECORD_LOCKED": (
        timedelta(minutes=1),
        timedelta(hours=1),
        "The record is locked in the CRM. It is tried again by itself when it is unlocked.",
    ),
    "NOT_APPROVED": (
        timedelta(minutes=5),
        timedelta(hours=4),
        "The record waits for approval in the CRM. It is tried again by itself.",
    ),
    "NOT_REVIEWED": (
        timedelta(minutes=5),
        timedelta(hours=4),
        "The record is in review in the CRM. It is tried again by itself.",
    ),
}
_PASSING = {"INTERNAL_ERROR", "INTERNAL_SERVER_ERROR", "TOO_MANY_REQUESTS", "bad_payload"}
_PASSING_PAUSE = (timedelta(seconds=30), timedelta(hours=1))
_HINTS = {
    "RECORD_IN_BLUEPRINT": "A blueprint of the CRM decides this field: make the step there.",
    "AUTHORIZATION_FAILED": "The CRM user of this connection may not change this record.",
    "MANDATORY_NOT_FOUND": "The CRM wants a value in this field.",
    "MAPPING_MISMATCH": "This stage does not belong to the deal's pipeline.",
    "DUPLICATE_DATA": "Another record of the CRM has this value already.",
    "NOT_ALLOWED": "The CRM does not allow this change any more.",
}


@dataclass(frozen=True)
class Outcome:
    """`kind` for the record as a whole; `fields` are refused alone: API name → (code, sentence)."""

    kind: str
    code: str = ""
    message: str = ""
    pause: tuple[timedelta, timedelta] = _PASSING_PAUSE
    is_forever: bool = False  # waits as long as it takes
    fields: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


def outcome_of(result: WriteResult) -> Outcome:
    """One row's result. A refusal that names fields concerns these alone."""
    if result.ok:
        return Outcome(TAKEN)
    code, said = result.code, result.message
    if code in _WAITING:
        first, longest, sentence = _WAITING[code]
        return Outcome(WAIT, code, sentence, (first, longest), is_forever=True)
    if code in _PASSING:
        return Outcome(WAIT, code, f"The CRM had a fault of its own ({said or code}).")
    if code == "ALREADY_MODIFIED":
        return Outcome(READ_AGAIN, code, "The record changed in the CRM at that moment.")
    fields = dict(_named_fields(result.details, code, said))
    if code == "INVALID_DATA" and "id" in fields:
        return Outcome(GONE, code, said)
    fields.pop("id", None)
    return Outcome(REFUSED, code, _sentence(code, said), fields=fields, details=result.details)


def _named_fields(
    details: Mapping[str, Any], code: str, said: str
) -> Iterator[tuple[str, tuple[str, str]]]:
    errors = details.get("errors")
    if isinstance(errors, list):
        for error in errors:
            if isinstance(error, Mapping):
                inner = error.get("details")
                yield from _named_fields(
                    inner if isinstance(inner, Mapping) else {},
                    str(error.get("code") or code),
                    str(error.get("message") or said),
                )
    elif isinstance(details.get("api_name"), str):
        yield details["api_name"], (code, _sentence(code, said))


def _sentence(code: str, said: str) -> str:
    hint = _HINTS.get(code, "The CRM does not take this.")
    return f"{hint} It says: {said or code} ({code})."
