"""What is refused when people work on opportunities, said so that they know what to do next."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied

from crm.errors import CrmError, EditConflict


class PermissionRefused(PermissionDenied):
    """May see it, may not do it; `message` says why (403)."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.message = why


class Ended(CrmError):
    """The deal is lost or deleted: nothing more is recorded (409)."""

    code = "ended"


class ConfirmEarly(CrmError):
    """The day lies before the deal's creation: right, if somebody says so (409).

    Asked once: the same request with `confirm_early` is accepted.
    """

    code = "confirm_early"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.more: dict[str, Any] = {"confirm": "confirm_early"}


class RecordedMeanwhile(EditConflict):
    """Somebody recorded something after this page was opened; the sentence names it (409).

    `version` is the one to say when the second still wants theirs.
    """

    def __init__(self, message: str, version: int) -> None:
        super().__init__(message)
        self.more: dict[str, Any] = {"version": version}


class NotNow(CrmError):
    """Right as such, but not as things stand; the sentence says what to do instead (409)."""

    code = "not_now"
