"""What the API answers when something goes wrong: one table, domain error → status and body.

Decides status, `{"code", "message", "errors"}` and headers, for API views and for what goes wrong
under /api/ before or beside them. The sentences come from the errors themselves; pages answer in
their own way.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.template import loader
from django.views import defaults
from rest_framework import exceptions as rest
from rest_framework.response import Response

from crm import errors as crm
from crm.zoho import errors as zoho

log = structlog.get_logger(__name__)
DATABASE_RETRY_S = 5
# A message quotes what was sent; not all of it.
LONGEST = 300


@dataclass
class Answer:
    """Status, code and sentence of a refusal; `more` are further keys of its body."""

    status: int
    code: str
    message: str
    errors: dict[str, list[str]] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "errors": self.errors, **self.more}


# Domain error → status; the first class that fits. Code and sentence are the error's own.
STATUS: tuple[tuple[type[Exception], int], ...] = (
    (crm.CrmUnreachable, 503),
    (crm.CrmNotConfigured, 503),
    (crm.FieldsRefused, 422),
    (crm.CrmError, 409),
    (zoho.AlreadyModified, 409),
    (zoho.ZohoError, 503),
)
# Sentences for what the framework says in its own words.
SENTENCES = {
    "not_authenticated": "Sign in, or send an API token: “Authorization: Token …”.",
    "not_found": "There is nothing at this address.",
    "permission_denied": "Your role does not allow this.",
    "error": "Something went wrong here, not in your request. It has been logged.",
}


def handle(error: Exception, context: dict[str, Any]) -> Response | None:
    """The framework's exception handler; None for a bug, which becomes a logged 500."""
    answer = answer_to(error)
    if answer is None:
        return None
    return Response(answer.body, status=answer.status, headers=answer.headers)


def answer_to(error: BaseException) -> Answer | None:
    """The answer to an error that is known; None for any other."""
    for kind, status in STATUS:
        if isinstance(error, kind):
            return _domain(error, status)
    if isinstance(error, rest.APIException):
        return _framework(error)
    if isinstance(error, Http404):
        return Answer(404, "not_found", SENTENCES["not_found"])
    if isinstance(error, PermissionDenied):
        return Answer(403, "permission_denied", str(error) or SENTENCES["permission_denied"])
    if isinstance(error, RequestDataTooBig):
        return Answer(413, "too_large", "The body is too large.")
    if isinstance(error, SuspiciousOperation):
        return Answer(400, "bad_request", "The request cannot be read.")
    if isinstance(error, OperationalError | InterfaceError):
        return _database(error)
    return None


def _domain(error: Any, status: int) -> Answer:
    answer = Answer(status, error.code, error.message)
    answer.more |= getattr(error, "more", {})
    if isinstance(error, crm.FieldsRefused):
        answer.errors = {name: [why] for name, why in error.fields.items()}
    wait_s = getattr(error, "retry_after_s", None)
    if wait_s is not None:
        answer.headers["Retry-After"] = str(max(1, math.ceil(wait_s)))
    if isinstance(error, crm.SyncUnderWay):
        run = error.run
        since = run.started_at or run.requested_at
        answer.more["run"] = {
            "id": str(run.pk),
            "kind": run.kind,
            "started_at": since.isoformat(),
        }
    return answer


def _framework(error: rest.APIException) -> Answer:
    answer = Answer(error.status_code, _code(error), _sentence(error))
    if isinstance(error, rest.ValidationError):
        answer.status, answer.code = 422, "invalid"
        answer.errors = _by_field(error.detail)
        named = ", ".join(answer.errors)
        answer.message = f"Not accepted: {named}." if named else "Not accepted."
    if getattr(error, "auth_header", None):
        answer.headers["WWW-Authenticate"] = error.auth_header
    if isinstance(error, rest.Throttled):
        answer.headers["Retry-After"] = str(math.ceil(error.wait or 1))
    return answer


def _code(error: rest.APIException) -> str:
    code = getattr(error.detail, "code", None)
    return str(code or error.default_code)


def _sentence(error: rest.APIException) -> str:
    is_own = error.detail != error.default_detail
    return str(error.detail) if is_own else SENTENCES.get(_code(error), str(error.detail))


def _by_field(detail: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, text in _flat(detail, ""):
        found.setdefault(name or "body", []).append(text)
    return found


def _flat(detail: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(detail, Mapping):
        for key, value in detail.items():
            own = "" if key == "non_field_errors" else str(key)
            yield from _flat(value, ".".join(filter(None, [name, own])))
    elif isinstance(detail, list | tuple):
        for value in detail:
            yield from _flat(value, name)
    else:
        yield name, str(detail)[:LONGEST]


def _database(error: BaseException) -> Answer:
    """Locked for longer than we wait, or gone: it is worth asking again."""
    log.warning("database_unavailable", reason=type(error).__name__)
    if "locked" in str(error) or "busy" in str(error):
        code, message = "database_busy", "The database is busy. Ask again in a few seconds."
    else:
        code, message = "database_away", "The database cannot be reached. Ask again later."
    return Answer(503, code, message, headers={"Retry-After": str(DATABASE_RETRY_S)})


# ---------------------------------------------------- what happens beside the API's own views


def api_not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """404 as JSON, whatever the method: an address under /api/ that nobody answers."""
    return _json(Answer(404, "not_found", SENTENCES["not_found"]))


def is_api(request: HttpRequest) -> bool:
    return request.path_info.startswith("/api/")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """`handler404`: JSON under /api/, the page elsewhere."""
    if is_api(request):
        return api_not_found(request)
    return defaults.page_not_found(request, exception)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """`handler400`."""
    if is_api(request):
        return _json(answer_to(exception) or Answer(400, "bad_request", str(exception)))
    return defaults.bad_request(request, exception)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    """`handler403`."""
    if is_api(request):
        return _json(answer_to(exception) or Answer(403, "permission_denied", ""))
    return defaults.permission_denied(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    """`handler500`; a database that is away answers 503, pages and API alike."""
    answer = answer_to(sys.exc_info()[1] or Exception())
    if is_api(request):
        return _json(answer or Answer(500, "error", SENTENCES["error"]))
    if answer is None or answer.status != 503:
        return defaults.server_error(request)
    # Without the request: what it would add to the page (people, messages) asks the database.
    page = loader.render_to_string("503.html", {"message": answer.message})
    return HttpResponse(page, status=503, headers=answer.headers)


def _json(answer: Answer) -> JsonResponse:
    return JsonResponse(answer.body, status=answer.status, headers=answer.headers)
