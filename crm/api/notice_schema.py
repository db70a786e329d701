"""How the webhook stands in the OpenAPI schema: what the CRM sends, and what it is answered.

Decides nothing of it: `crm.webhook` does, and `test_api_webhook.py` holds the two together.
"""

from __future__ import annotations

from typing import Any

from crm.webhook import MAX_BODY, MAX_RECORDS, RETRY_S

_ID: dict[str, Any] = {
    "oneOf": [{"type": "string", "pattern": "^[0-9]{1,19}$"}, {"type": "integer", "minimum": 1}]
}
NOTICE: dict[str, Any] = {
    "type": "object",
    "required": ["token", "module", "ids", "channel_id"],
    "properties": {
        "token": {
            "type": "string",
            "maxLength": 50,
            "description": "The secret that the channel was given.",
        },
        "module": {"type": "string", "example": "Deals"},
        "ids": {"type": "array", "items": _ID, "maxItems": MAX_RECORDS},
        "operation": {"type": "string", "enum": ["insert", "update", "delete"]},
        "channel_id": {
            "oneOf": [{"type": "string"}, {"type": "integer"}],
            "description": "Of another channel than ours the notice is kept as ignored.",
        },
        "affected_fields": {"type": "array", "items": {}, "description": "Not used."},
        "affected_values": {"type": "array", "items": {}, "description": "Not used."},
        "query_params": {"type": "object", "description": "Not used."},
        "resource_uri": {"type": "string", "description": "Not used."},
        "server_time": {"type": "integer", "description": "Milliseconds since 1970. Not used."},
    },
    "additionalProperties": True,
}


def _after(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "headers": {
            "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}},
        },
    }


OPERATION: dict[str, Any] = {
    "operationId": "api_zoho_webhook_create",
    "summary": "The CRM's notifications",
    "description": "Called by the CRM. The notice is stored and answered; a worker then fetches "
    "the records that it names from the CRM. Every answer has an empty body.",
    "security": [{}],
    "requestBody": {
        "required": True,
        "description": f"At most {MAX_BODY:,} bytes, also unpacked; gzip is understood.",
        "content": {"application/json": {"schema": NOTICE}},
    },
    "responses": {
        "202": {"description": "Stored."},
        "400": {"description": "No notice: not JSON, cut off, or a key of another type."},
        "403": {"description": "The token is wrong or missing."},
        "413": {"description": "The body, or the number of ids, is too large."},
        "415": {"description": "Send application/json, plain or as gzip."},
        "429": _after("More a second than WEBHOOK_PER_SECOND."),
        "503": _after(f"The database is away; the next delta sync covers it ({RETRY_S} s)."),
    },
}
