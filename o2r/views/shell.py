"""The frame of every page: the state of the sync, always in reach, and the button that starts one.

Decides how that state is said and how often it is asked for again. What the state is, `crm` knows
(`crm/freshness.py`); who may start a sync, `o2r/permissions.py`.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST, require_safe
from django_htmx.middleware import HtmxDetails

from crm.errors import CrmError, SyncUnderWay
from crm.freshness import RunProgress, RunSummary, SyncState, sync_state
from crm.sync.runs import request_run
from o2r.permissions import may_configure, may_see_sales, may_start_sync

WORDS = {
    "connected": ("Connected", "circle-check"),
    "delayed": ("Delayed", "clock"),
    "disconnected": ("Disconnected", "plug-connected-x"),
    "not_configured": ("Not configured", "info-circle"),
    "never_synced": ("Not synced yet", "hourglass"),
}
POLL_RUNNING, POLL_DUE, POLL_IDLE = 2, 10, 60
DUE_WITHIN = timedelta(seconds=75)


@dataclass(frozen=True)
class Shell:
    """What the frame shows: one sync state, and whether this person may start a sync."""

    sync: SyncState
    may_start: bool
    sees_cause: bool
    poll_seconds: int
    asked_at: datetime

    @property
    def is_first(self) -> bool:
        """Whether the mirror was never complete yet."""
        return self.sync.freshness_seconds is None

    @property
    def mirrored_at(self) -> datetime | None:
        """The moment of the CRM that the mirror shows whole."""
        if self.sync.freshness_seconds is None:
            return None
        return self.asked_at - timedelta(seconds=self.sync.freshness_seconds)

    @property
    def is_due(self) -> bool:
        """Whether the next sync should have begun by now."""
        due = self.sync.next_sync_at
        return due is not None and due <= self.asked_at

    @property
    def ended(self) -> str:
        """A mark of the last run that ended: when it changes, figures may have."""
        last = self.sync.last_run
        return f"{last.id}-{last.status}" if last else ""

    @property
    def word(self) -> str:
        """The state in a word or two; a run under way comes first."""
        if self.sync.run:
            return "No answer" if self.sync.failures else "Syncing"
        return WORDS[self.sync.state][0]

    @property
    def icon(self) -> str:
        """The shape that goes with the word: state is never colour alone."""
        if self.sync.run:
            return "plug-connected-x" if self.sync.failures else "refresh"
        return WORDS[self.sync.state][1]

    @property
    def progress_words(self) -> str:
        if self.sync.run and self.sync.failures:
            return f"trying again ({self.sync.failures + 1})"
        return progress_words(self.sync.run) if self.sync.run else ""

    @property
    def progress_markup(self) -> str:
        """The same, with what a narrow place hides marked: all but the percentage."""
        count, bracket, share = self.progress_words.rstrip(")").partition("(")
        if not share.endswith("%"):
            return self.progress_words
        aside = '<span class="sync-count">{}</span>'
        return format_html(f"{aside}{{}}{aside}", count + bracket, share, ")")

    @property
    def revision(self) -> str:
        """Changes when, and only when, the indicator would say something else.

        Ages are left out: the browser counts them on.
        """
        said = replace(
            self.sync,
            sentence="",
            freshness_seconds=None,
            next_sync_at=None if self.is_due else to_the_minute(self.sync.next_sync_at),
            last_attempt_at=to_the_minute(self.sync.last_attempt_at),
            last_success_at=to_the_minute(self.sync.last_success_at),
        )
        return digest((said, self.is_due))


def to_the_minute(moment: datetime | None) -> datetime | None:
    """As pages write it."""
    return moment.replace(second=0, microsecond=0) if moment else None


View = Callable[..., HttpResponse]


class PageRequest(HttpRequest):
    """A request as our pages get it: the middleware has said whether htmx asks."""

    htmx: HtmxDetails


def for_sales(view: View) -> View:
    """Guard of every page that shows sales: signed in, and with a role."""

    @login_required
    @functools.wraps(view)
    def guarded(request: PageRequest, *args: object, **kwargs: object) -> HttpResponse:
        decision = may_see_sales(request.user)
        if not decision:
            raise PermissionDenied(decision.why)
        return view(request, *args, **kwargs)

    return guarded


def digest(value: object) -> str:
    """A short mark of a value made of plain data; equal data, equal mark."""
    return hashlib.blake2s(repr(value).encode(), digest_size=8).hexdigest()


def business_today(now: datetime) -> date:
    """The day it is where the business is."""
    return now.astimezone(ZoneInfo(settings.BUSINESS_TIME_ZONE)).date()


def shell_of(user: object, now: datetime) -> Shell:
    """The frame for this person. Queries: those of `sync_state` and one for the roles."""
    sync = sync_state(now)
    return Shell(
        sync=sync,
        may_start=sync.is_configured and bool(may_start_sync(user, "delta")),
        sees_cause=bool(may_configure(user)),
        poll_seconds=poll_seconds(sync, now),
        asked_at=now,
    )


def poll_seconds(sync: SyncState, now: datetime) -> int:
    """Every 2 s while a run is on, every 10 s around the time the next one is due, else 60 s."""
    if sync.run:
        return POLL_RUNNING
    due = sync.next_sync_at
    if due is not None and abs(due - now) < DUE_WITHIN:
        return POLL_DUE
    return POLL_IDLE


def progress_words(run: RunProgress) -> str:
    """`1,200 of 8,800 (13%)`, as far as it is known."""
    if not run.expected:
        return f"{run.done:,} records" if run.done else "starting"
    share = min(100, run.done * 100 // run.expected)
    return f"{run.done:,} of {run.expected:,} ({share}%)"


def summary_words(run: RunSummary) -> str:
    """How a run ended, in a line."""
    counts = f"{run.created:,} created, {run.updated:,} updated, {run.deleted:,} deleted"
    failed = f", {run.failed:,} failed" if run.failed else ""
    if run.status in ("succeeded", "partial"):
        return f"Sync finished: {counts}{failed}"
    return f"Sync {run.status}: {run.message or counts}"


@for_sales
@require_safe
def sync_indicator(request: PageRequest) -> HttpResponse:
    """The sync indicator alone; 204 while it would say what the browser already shows."""
    if not request.htmx:
        return redirect("o2r:dashboard")
    shell = shell_of(request.user, timezone.now())
    if request.headers.get("X-Revision") == shell.revision:
        return HttpResponse(status=204)
    watched = request.headers.get("X-Run", "")
    response = indicator_response(request, shell, watched)
    if watched and shell.sync.run is None and shell.sync.last_run:
        ended = shell.sync.last_run
        kind = "success" if ended.status == "succeeded" else "warning"
        add_toast(response, summary_words(ended), kind)
    return response


def indicator_response(request: PageRequest, shell: Shell, watched: str) -> HttpResponse:
    """`watched` is the run whose end this person wants to hear of; others end silently. The strip
    about delayed work goes beside it."""
    still = watched if shell.sync.run else ""
    said = {"shell": shell, "watched": still, "is_beside": True}
    return render(request, "components/_sync.html", said)


@for_sales
@require_POST
def sync_start(request: PageRequest) -> HttpResponse:
    """Ask for a delta sync. Answers with the indicator and a toast, or goes back with a message."""
    decision = may_start_sync(request.user, "delta")
    if not decision:
        raise PermissionDenied(decision.why)
    text, kind = start_delta(request)
    if not request.htmx:
        messages.add_message(request, getattr(messages, kind.upper()), text)
        return redirect(way_back(request))
    shell = shell_of(request.user, timezone.now())
    watched = str(shell.sync.run.id) if shell.sync.run else ""
    response = indicator_response(request, shell, watched)
    add_toast(response, text, kind)
    return response


def start_delta(request: PageRequest) -> tuple[str, str]:
    """Start it; (what to tell the person, kind of message)."""
    try:
        request_run(kind="delta", trigger="user", user=request.user)
    except SyncUnderWay:
        state = sync_state(timezone.now())
        done = f": {progress_words(state.run)}" if state.run else ""
        return f"Sync already running{done}", "info"
    except CrmError as refused:
        return refused.message, "error"
    return "Sync Started", "success"


def way_back(request: PageRequest) -> str:
    """The page the form was on, if it is one of ours."""
    address = request.POST.get("next", "")
    ours = url_has_allowed_host_and_scheme(address, {request.get_host()}, request.is_secure())
    return address if ours else "o2r:dashboard"


def add_toast(response: HttpResponse, text: str, kind: str) -> None:
    """Let the browser show a short message beside what was swapped."""
    response["HX-Trigger"] = json.dumps({"pulse:toast": {"text": text, "kind": kind}})
