"""Who may see the mirror and start a sync: asked here, answered by the app that knows the roles.

The mirror knows no roles of its own; `settings.PERMISSIONS_MODULE` names the module that does.
An answer is true or false and carries `why`, the sentence of a refusal.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol

from django.conf import settings


class Decision(Protocol):
    why: str

    def __bool__(self) -> bool: ...


def may_see_sales(user: Any) -> Decision:
    """Whether this person may read deals, accounts, contacts, leads and the sync's history."""
    return _answers().may_see_sales(user)


def may_start_sync(user: Any, kind: str) -> Decision:
    """Whether this person may start a sync of this kind, full or delta."""
    return _answers().may_start_sync(user, kind)


def may_configure(user: Any) -> Decision:
    """Whether this person may repair the mirror and change how it is made."""
    return _answers().may_configure(user)


def may_write_back(user: Any, kind: str, record: Any) -> Decision:
    """Whether this person may have a change of this kind (edit, create, delete, convert) made to
    this record of the CRM; asked again when it is sent."""
    return _answers().may_write_back(user, kind, record)


def may_preview_write_back(user: Any) -> Decision:
    """Whether this person may look at everything that would be sent to the CRM."""
    return _answers().may_preview_write_back(user)


def may_resolve(user: Any, record: Any) -> Decision:
    """Whether this person may decide a conflict of this record."""
    return _answers().may_resolve(user, record)


def _answers() -> Any:
    return import_module(settings.PERMISSIONS_MODULE)
