"""The CRM's own way of refusing: a status, a code, details and a message, flat."""

import json
from typing import Any


class ApiError(Exception):
    """A refusal. `counts` says whether a documented rule was broken, as opposed to bad luck."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: dict[str, Any] | None = None,
        *,
        counts: bool = True,
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.details = details or {}
        self.counts = counts

    def item(self) -> dict[str, Any]:
        """The error as an object, for a flat body or for one place in `data`."""
        return {
            "code": self.code,
            "details": self.details,
            "message": self.message,
            "status": "error",
        }

    def body(self) -> bytes:
        return json.dumps(self.item(), ensure_ascii=False).encode()


def invalid_data(message: str = "invalid data", **details: Any) -> ApiError:
    return ApiError(400, "INVALID_DATA", message, details)


def missing_param(name: str) -> ApiError:
    return ApiError(
        400, "REQUIRED_PARAM_MISSING", "required param is missing", {"param_name": name}
    )


def invalid_url() -> ApiError:
    return ApiError(
        404,
        "INVALID_URL_PATTERN",
        "Please check if the URL trying to access is a correct one",
    )


def no_permission(permission: str) -> ApiError:
    return ApiError(
        403,
        "NO_PERMISSION",
        "permission denied",
        {"permissions": [permission]},
        counts=False,
    )


def too_many_requests(message: str) -> ApiError:
    return ApiError(429, "TOO_MANY_REQUESTS", message, counts=False)
