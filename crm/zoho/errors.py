"""What can go wrong with the CRM, as a tree by what the caller can do about it.

Decides the class, the sentence and the redaction of every failure. Leaves retrying to
`transport`, and showing or storing the error to the layers above.

Every error carries `.code` (the CRM's own, or ours in lower case), `.message` (one sentence that
says what to do, never a secret), `.crm_message` (the CRM's words), `.status` (HTTP status or
None) and `.details` (a redacted dict).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_TOKEN_SHAPES = re.compile(
    r"1000\.[0-9A-Za-z]{6,}\.[0-9A-Za-z]{6,}"
    r"|(?<=Zoho-oauthtoken )\S+"
    r"|(?<=Bearer )\S+"
)
_SECRET_PAIRS = re.compile(
    r"""(?ix)\b(access_token|refresh_token|client_secret|authorization|password|token|code)
        (["']?\s*[=:]\s*["']?)([^\s"'&,;}]+)"""
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_HIDDEN_KEYS = re.compile(r"(?i)token|secret|password|authorization")
EXCERPT_CHARACTERS = 1024


class ZohoError(Exception):
    """Anything the CRM library raises. Safe to log and to show."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int | None = None,
        details: Mapping[str, Any] | None = None,
        crm_message: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.details = dict(details or {})
        self.crm_message = crm_message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.__dict__)


class RetryLater(ZohoError):
    """Nothing is wrong with the request; it may work later. `retry_after_s` when known."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.retry_after_s = retry_after_s


class Unreachable(RetryLater):
    """No (whole) answer: refused, unknown name, TLS, timeout, reset, cut off."""

    def __init__(self, message: str, *, was_sent: bool = True, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.was_sent = was_sent


class RateLimited(RetryLater):
    """Too many calls at once or in a minute; the CRM itself is well."""


class CreditsExhausted(RetryLater):
    """The day's API credits of the organisation are used up."""


class ServerFault(RetryLater):
    """The CRM answered 5xx, 408 or 425."""


class BadPayload(RetryLater):
    """An answer that is no usable JSON: HTML, cut off, too big, too deep."""


class BreakerOpen(RetryLater):
    """The CRM failed repeatedly and is left alone for a while; nothing was sent."""


class UnknownOutcome(RetryLater):
    """A write that may or may not have happened. Read before repeating it."""


class Closed(RetryLater):
    """The client was closed while the call waited (the process is stopping)."""


class Reauthenticate(ZohoError):
    """A person has to connect the CRM again or mend the credentials."""


class ScopeMissing(Reauthenticate):
    """The consent lacks a scope; `details["scope"]` names it."""


class FixRequest(ZohoError):
    """The CRM refuses this request for good."""


class NotPermitted(FixRequest):
    """The integration user's profile lacks a permission; `details` name it."""


class QueryRefused(FixRequest):
    """COQL is not usable for this query; read by pages instead."""


class PageTokenRejected(FixRequest):
    """Expired or foreign page token: begin the list again from its first page."""


class PagingLimit(FixRequest):
    """The list goes beyond what page tokens may reach: use id ranges."""


class AlreadyModified(FixRequest):
    """The record changed since the time the write was based on."""


class FixFields(ZohoError):
    """A module or field that this organisation does not have: mend the configuration."""


class GiveUp(ZohoError):
    """Something that must not be followed: foreign redirect, endless paging."""


class BadList(GiveUp):
    """The list of one module leads round in circles, or nowhere; others may be well."""


class NotConfigured(ZohoError):
    """No CRM settings at all."""

    def __init__(self, message: str = "") -> None:
        super().__init__(
            message
            or "No CRM is connected. Set ZOHO_DC, ZOHO_CLIENT_ID, ZOHO_CLIENT_SECRET and "
            "ZOHO_REFRESH_TOKEN, or use the setup guide.",
            code="not_configured",
        )


def _rebuild(kind: type[ZohoError], state: dict[str, Any]) -> ZohoError:
    error = kind.__new__(kind, state.get("message", ""))
    error.__dict__.update(state)
    return error


def one_line(text: str) -> str:
    """`text` with every control character escaped, so that it stays one line in a log."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` on one line, at most 1 KB, without tokens, secrets or what looks like one."""
    text = text[: EXCERPT_CHARACTERS * 4]
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    text = _SECRET_PAIRS.sub(r"\1\2***", _TOKEN_SHAPES.sub("***", text))
    return one_line(text[:EXCERPT_CHARACTERS])


def redact_details(details: object, secrets: Iterable[str] = (), depth: int = 0) -> Any:
    """The CRM's `details`, small enough to store and without secrets."""
    if depth > 4:
        return "…"
    if isinstance(details, Mapping):
        return {
            one_line(str(key)[:100]): "***"
            if _HIDDEN_KEYS.search(str(key)) and str(value) != "page_token"
            else redact_details(value, secrets, depth + 1)
            for key, value in list(details.items())[:50]
        }
    if isinstance(details, list | tuple):
        return [redact_details(item, secrets, depth + 1) for item in details[:50]]
    if isinstance(details, bool | int) or details is None:
        return details
    return redact(str(details), secrets)


# ---------------------------------------------------------------- from a reply to an error

_RETRY_STATUS = {408, 425, 429}
_RATE_CODES = {"TOO_MANY_REQUESTS", "RATE_LIMIT_EXCEEDED"}
_PAGE_TOKEN_CODES = {"EXPIRED_VALUE", "TOKEN_BOUND_DATA_MISMATCH"}
_PAGING_LIMIT_CODES = {"PAGINATION_LIMIT_EXCEEDED", "DISCRETE_PAGINATION_LIMIT_EXCEEDED"}
_PERMISSION_CODES = {"NO_PERMISSION", "AUTHORIZATION_FAILED", "PERMISSION_DENIED"}
_FIELD_CODES = {"INVALID_MODULE"}
STALE_TOKEN_CODES = {"INVALID_TOKEN", "AUTHENTICATION_FAILURE"}


def error_from_answer(
    status: int,
    body: Mapping[str, Any] | None,
    *,
    host: str,
    subject: str,
    scope: str = "",
    query: bool = False,
    retry_after_s: float | None = None,
    credits_remaining: int | None = None,
    secrets: Iterable[str] = (),
) -> ZohoError:
    """The error for a refused call.

    `subject` names what was asked for ("the Deals list"), `scope` the OAuth scope it needs,
    `query` whether it was a COQL query. `body` is the CRM's flat error object, or None for HTML.
    """
    body = body or {}
    code = one_line(str(body.get("code") or f"http_{status}"))[:100]
    said = redact(str(body.get("message") or ""), secrets)
    details = redact_details(body.get("details") or {}, secrets)
    details = details if isinstance(details, dict) else {"details": details}
    common: dict[str, Any] = {
        "code": code,
        "status": status,
        "details": details,
        "crm_message": said,
    }
    quote = f"{code}: {said}" if said else code
    if status == 429 or code in _RATE_CODES:
        return _too_many(host, quote, said, credits_remaining, retry_after_s, common)
    if status >= 500 or status in _RETRY_STATUS:
        return ServerFault(
            f"The CRM at {host} has a fault of its own ({status} {quote}). Nothing to do here: "
            "it is tried again by itself.",
            retry_after_s=retry_after_s,
            **common,
        )
    if 300 <= status < 400:
        return GiveUp(
            f"The CRM at {host} answered with a redirect ({status}), which is never followed. "
            "Check ZOHO_BASE_URL and ZOHO_ACCOUNTS_URL.",
            **{**common, "code": "redirect_refused"},
        )
    if code == "OAUTH_SCOPE_MISMATCH":
        return _scope_missing(subject, scope, common)
    if code in STALE_TOKEN_CODES or (status == 401 and code.startswith("http_")):
        return Reauthenticate(
            f"The CRM at {host} refuses the access token it was just given ({quote}). Check that "
            "ZOHO_BASE_URL and ZOHO_ACCOUNTS_URL belong to the same data centre, then connect "
            "again.",
            **common,
        )
    if status in (401, 403) or code in _PERMISSION_CODES:
        return _not_permitted(subject, quote, common)
    return _refused_request(status, code, quote, host, subject, query, common)


def _too_many(
    host: str,
    quote: str,
    said: str,
    credits_remaining: int | None,
    retry_after_s: float | None,
    common: dict[str, Any],
) -> ZohoError:
    out_of_credits = credits_remaining is not None and credits_remaining <= 0
    if out_of_credits or "credit" in said.lower():
        return CreditsExhausted(
            f"The API credits of the CRM organisation are used up for now ({quote}). Nothing to "
            "do here: it goes on by itself as they come back over 24 hours; other programs use "
            "the same credits.",
            retry_after_s=3600.0 if retry_after_s is None else retry_after_s,
            **common,
        )
    return RateLimited(
        f"The CRM at {host} says too many calls ({quote}). It goes on by itself, slower; if this "
        "stays, lower RATE_LIMIT_CALLS_PER_MINUTE or check the organisation's API credits.",
        retry_after_s=retry_after_s,
        **common,
    )


def _scope_missing(subject: str, scope: str, common: dict[str, Any]) -> ScopeMissing:
    named = f" {scope}" if scope else ""
    return ScopeMissing(
        f"The CRM connection lacks the scope{named}, needed for {subject}. Connect the CRM again "
        "and allow it.",
        **{**common, "details": {**common["details"], "scope": scope, "subject": subject}},
    )


def _not_permitted(subject: str, quote: str, common: dict[str, Any]) -> NotPermitted:
    wanted = common["details"].get("permissions")
    named = f" {', '.join(map(str, wanted))}" if isinstance(wanted, list) and wanted else ""
    return NotPermitted(
        f"The CRM user of this connection may not use {subject} ({quote}). Give its profile the "
        f"permission{named} in the CRM.",
        **{**common, "details": {**common["details"], "subject": subject}},
    )


def _refused_request(
    status: int,
    code: str,
    quote: str,
    host: str,
    subject: str,
    query: bool,
    common: dict[str, Any],
) -> ZohoError:
    details = common["details"]
    about_page_token = "page_token" in (details.get("api_name"), details.get("param_name"))
    if code in _PAGE_TOKEN_CODES or (about_page_token and code == "INVALID_DATA"):
        return PageTokenRejected(
            f"The CRM no longer accepts the page token of {subject} ({quote}). Read it again from "
            "the first page.",
            **common,
        )
    if code in _PAGING_LIMIT_CODES:
        return PagingLimit(
            f"The CRM lists no further pages of {subject} ({quote}). Read the rest by id ranges.",
            **common,
        )
    if code in _FIELD_CODES:
        return FixFields(
            f"The CRM does not offer {subject} ({quote}). Check the module's name in the mapping "
            "and that the CRM user may see it.",
            **common,
        )
    if status == 412 or code == "ALREADY_MODIFIED":
        return AlreadyModified(
            f"The record in {subject} was changed in the CRM meanwhile ({quote}). Read it again, "
            "then decide.",
            **common,
        )
    if query:
        return QueryRefused(
            f"The CRM refuses the query for {subject} ({quote}). Read it by pages instead, or take "
            "the named field out of the mapping.",
            **common,
        )
    if status == 404:
        return FixRequest(
            f"The CRM at {host} does not know the address of {subject} ({quote}). Check "
            "ZOHO_BASE_URL and ZOHO_API_VERSION.",
            **common,
        )
    return FixRequest(
        f"The CRM refuses the request for {subject} ({status} {quote}). It is not repeated; mend "
        "what the code names.",
        **common,
    )
