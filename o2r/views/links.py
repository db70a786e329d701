"""Addresses of the dashboard and of the lists behind its numbers."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.urls import reverse

from crm.stages import OPEN_STAGES
from o2r.filters import Selection


class Links:
    """Addresses that differ from this page's in one respect, and the lists behind its numbers."""

    def __init__(self, selection: Selection, view: dict[str, str]) -> None:
        self.selection = selection
        self.view = view
        self.home = reverse("o2r:dashboard")
        self.opportunities = reverse("o2r:opportunity-list")
        self.open_stages = [
            stage for stage in OPEN_STAGES if not selection.stage or stage in selection.stage
        ]

    def here(self, *, view: dict[str, str] | None = None, **changes: Any) -> str:
        """This page with other filters, or with another list or span of changes shown."""
        return self.page(self.selection.query(**changes), view)

    def page(self, query: str, view: dict[str, str] | None = None) -> str:
        return address(self.home, query, urlencode({**self.view, **(view or {})}))

    def records(self, **changes: Any) -> str:
        """The list behind a number that counts whatever the changes say, of any time."""
        return address(self.opportunities, self.selection.query(**{"period": None, **changes}))

    def open_records(self, **changes: Any) -> str:
        """The list behind a number that counts open deals."""
        return self.records(**{"stage": self.open_stages, **changes})

    def closed_records(self, *stages: str) -> str:
        """The list behind a number that counts deals closed in the period."""
        return self.records(stage=list(stages), period=self.selection.period)


def address(path: str, *queries: str) -> str:
    query = "&".join(filter(None, queries))
    return f"{path}?{query}" if query else path
