"""The OpenAPI schema and its page: for anyone signed in, within the content security policy.

Decides what every operation of the schema has in common; each view describes its own.
"""

from __future__ import annotations

from typing import Any

from csp.constants import UNSAFE_INLINE
from csp.decorators import csp_update
from django.contrib.auth.decorators import login_required
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView
from rest_framework.renderers import JSONRenderer

from crm import webhook
from crm.api.notice_schema import OPERATION

ERROR = {
    "type": "object",
    "required": ["code", "message", "errors"],
    "properties": {
        "code": {"type": "string"},
        "message": {"type": "string"},
        "errors": {
            "type": "object",
            "additionalProperties": {"type": "array", "items": {"type": "string"}},
        },
    },
}
REFUSALS = {
    "401": "Not signed in.",
    "403": "The role does not allow this; `message` says why.",
    "422": "A value is not accepted; `errors` says which and why.",
    "429": "Too many calls; `Retry-After` says when to go on.",
    "503": "The database or the CRM is away or busy.",
}


class SchemaView(SpectacularJSONAPIView):
    """GET /api/schema, as plain JSON like every other answer."""

    renderer_classes = [JSONRenderer]


# The viewer writes style attributes; its scripts come from here and stay under the policy.
swagger = login_required(
    csp_update({"style-src": [UNSAFE_INLINE]})(
        SpectacularSwaggerSplitView.as_view(url_name="api-schema", template_name="docs.html")
    )
)

# The start of an address, and the chapter of the page it belongs to; the first that fits.
CHAPTERS = (
    ("/api/zoho/live-pipeline", "Opportunities"),
    ("/api/zoho/", "Sync"),
    ("/api/opportunities", "Opportunities"),
    ("/api/o2r/", "O2R"),
    ("/api/", "Mirror"),
)


def by_chapter(result: dict, generator: Any, request: Any, public: bool) -> dict:
    """Sorts the operations into chapters. A hook of the schema."""
    for path, operations in result["paths"].items():
        chapter = next(name for start, name in CHAPTERS if path.startswith(start))
        for operation in operations.values():
            operation["tags"] = [chapter]
    return result


def describe_webhook(result: dict, generator: Any, request: Any, public: bool) -> dict:
    """Adds the CRM's own address, which is no view of the API. A hook of the schema."""
    result["paths"][webhook.ADDRESS] = {"post": OPERATION}
    result["paths"] = dict(sorted(result["paths"].items()))
    return result


def describe_refusals(result: dict, generator: Any, request: Any, public: bool) -> dict:
    """Adds the error body, and what any operation may be refused with. A hook of the schema."""
    result.setdefault("components", {}).setdefault("schemas", {})["Error"] = ERROR
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    for path, operations in result["paths"].items():
        for method, operation in operations.items():
            refusals = dict(REFUSALS)
            if "{" in path:
                refusals["404"] = "Nothing has this id."
            if method != "get":
                refusals |= {"400": "The body is not JSON.", "415": "Send application/json."}
            for status, description in refusals.items():
                operation["responses"].setdefault(status, {"description": description})
            for status, response in operation["responses"].items():
                if status >= "400":
                    response.setdefault("content", content)
    return result
