"""`manage.py sync_zoho`: run a sync here and now, with progress, and an exit code to act on.

0 done (also with up to 1 % of records set aside, said on stderr), 1 failed, or a module was not
read, 2 usage or configuration (refused credentials too), 3 another run is under way,
130 interrupted (it can be gone on with).
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from crm.errors import CrmError, CrmNotConfigured, CrmUnreachable, SyncUnderWay
from crm.mapping.convert import FIRST_YEAR, LAST_YEAR
from crm.models import SyncRun, SyncRunModule
from crm.models import runs as ledger
from crm.sync import dry_run, lease, modules, reachability, runs
from crm.sync.execute import execute
from crm.zoho.errors import STALE_TOKEN_CODES, ZohoError

DONE, FAILED, USAGE, UNDER_WAY, INTERRUPTED = 0, 1, 2, 3, 130


def moment(text: str) -> datetime:
    """ISO date or date and time; without an offset it is taken as UTC."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"“{text}” is no ISO date and time, such as 2026-11-01T08:00:00+08:00."
        ) from None
    if not FIRST_YEAR <= found.year <= LAST_YEAR:
        raise argparse.ArgumentTypeError(f"Years {FIRST_YEAR} to {LAST_YEAR} are known.")
    return found if found.tzinfo else found.replace(tzinfo=UTC)


class Command(BaseCommand):
    help = "Mirror the CRM: what changed (default) or everything."

    def add_arguments(self, parser: CommandParser) -> None:
        mode = parser.add_mutually_exclusive_group()
        mode.add_argument("--full", action="store_true", help="read everything")
        mode.add_argument("--delta", action="store_true", help="read what changed (default)")
        parser.add_argument(
            "--module",
            action="append",
            choices=[m.name for m in modules.ORDER],
            default=[],
            help="only this module; may be repeated",
        )
        parser.add_argument("--since", type=moment, help="delta from this ISO date and time")
        parser.add_argument(
            "--dry-run", action="store_true", help="say what would change, store nothing"
        )
        parser.add_argument(
            "--method",
            choices=["auto", "ranges", "bulk", "pages"],
            default="auto",
            help="how a full sync reads: auto takes the cheapest, pages uses the records API alone",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["full"] and options["since"]:
            raise CommandError("--since goes with a delta, not with --full.", returncode=USAGE)
        if settings.ZOHO is None:
            raise CommandError(CrmNotConfigured().message, returncode=USAGE)
        kind = runs.FULL if options["full"] else runs.DELTA
        if options["verbosity"] < 2:
            # A line per call belongs into a worker's log, not between a person and the bar.
            logging.getLogger("crm.zoho").setLevel(logging.ERROR)
        previous = signal.signal(signal.SIGTERM, _interrupt)
        try:
            if options["dry_run"]:
                self._dry_run(kind, options)
            else:
                self._run(kind, options)
        finally:
            signal.signal(signal.SIGTERM, previous)

    def _run(self, kind: str, options: dict) -> None:
        progress = Progress(self.stdout)
        try:
            run = self._requested(kind, options, progress)
            execute(run.pk, on_page=progress.page, on_interrupt="abort")
        except KeyboardInterrupt:
            progress.end()
            self.stderr.write("Interrupted. Start it again and it goes on where it was.")
            sys.exit(INTERRUPTED)
        progress.end()
        run.refresh_from_db()
        self._report(run)

    def _requested(self, kind: str, options: dict, progress: Progress) -> SyncRun:
        """The run to execute. One whose process died is ended first, or is the one asked for."""
        try:
            return runs.request_run(
                kind=kind,
                trigger="command",
                module_names=options["module"],
                since=options["since"],
                method=options["method"],
                nudge=False,
            )
        except SyncUnderWay as error:
            if not (error.run.is_active and lease.is_free_or_orphaned()):
                raise CommandError(error.message, returncode=UNDER_WAY) from None
            if _is_what_was_asked(error.run, kind, options):
                return error.run
            self.stderr.write(
                f"First the {error.run.kind} sync {error.run.pk}, which was left over."
            )
            execute(error.run.pk, on_page=progress.page, on_interrupt="abort")
            progress.end()
            error.run.refresh_from_db()
            if error.run.is_active:
                raise CommandError(error.message, returncode=UNDER_WAY) from None
            return self._requested(kind, options, progress)
        except CrmError as error:
            raise CommandError(error.message, returncode=USAGE) from None

    def _report(self, run: SyncRun) -> None:
        counts = (
            f"{run.seen} read: {run.created} new, {run.updated} changed, "
            f"{run.unchanged} unchanged, {run.failed} set aside; {run.deleted} deleted. "
            f"{run.api_calls} API calls."
        )
        if run.status == ledger.SUCCEEDED:
            self.stdout.write(f"{run.kind.title()} sync done. {counts}")
            if run.message:
                self.stderr.write(run.message)
        elif run.status == ledger.PARTIAL:
            self.stdout.write(f"{run.kind.title()} sync done in part. {counts}")
            self.stderr.write(run.message)
            is_whole = not run.parts.exclude(state=SyncRunModule.DONE).exists()
            if not is_whole or run.failed * 100 > run.seen:
                sys.exit(FAILED)
        elif run.is_active:
            raise CommandError(SyncUnderWay(run).message, returncode=UNDER_WAY)
        else:
            raise CommandError(
                run.message or f"The run ended as {run.status}.",
                returncode=USAGE if _is_configuration(run.error_code) else FAILED,
            )

    def _dry_run(self, kind: str, options: dict) -> None:
        try:
            result = dry_run.preview(kind, options["module"], since=options["since"])
        except (CrmError, ZohoError) as error:
            raise CommandError(
                error.message, returncode=USAGE if _is_configuration(error.code) else FAILED
            ) from None
        except KeyboardInterrupt:
            self.stderr.write("Interrupted. Nothing was stored.")
            sys.exit(INTERRUPTED)
        for line in result.lines():
            self.stdout.write(line)
        if result.refused:
            sys.exit(FAILED)


def _is_what_was_asked(run: SyncRun, kind: str, options: dict) -> bool:
    names = options["module"] or [m.name for m in modules.ORDER]
    return run.kind == kind and set(run.modules) == set(names) and run.since == options["since"]


# What a person must mend before any run can work: settings, consent, or the CRM user's scopes.
CONFIGURATION_CODES = STALE_TOKEN_CODES | {
    "not_configured",
    "other_organisation",
    "OAUTH_SCOPE_MISMATCH",
}


def _is_configuration(code: str) -> bool:
    if code in CONFIGURATION_CODES:
        return True
    try:
        reachability.raise_if_known_down()
    except CrmUnreachable as error:
        return error.retry_after_s is None  # the credentials were refused
    return False


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


class Progress:
    """A bar on a terminal; otherwise a plain line every few seconds, and one for each module."""

    WIDTH = 30

    def __init__(self, out: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self.out = out
        self.is_terminal = out.isatty()
        self.clock = clock
        self.part: SyncRunModule | None = None
        self.told_at = 0.0
        self.told_seen = 0
        # Of the part, where this process came in: what was read before says nothing of its pace.
        self.begun_at = 0.0
        self.begun_seen = 0

    def page(self, run: SyncRun, part: SyncRunModule) -> None:
        """A page of this part has been stored."""
        if not part.seen:  # a range without records may answer first
            return
        now = self.clock()
        if self.part is None or self.part.pk != part.pk:
            self.end()
            self.part, self.begun_at, self.begun_seen = part, now, part.seen
            self.told_at, self.told_seen = (0.0, 0) if self.is_terminal else (now, 0)
        if now - self.told_at >= (0.1 if self.is_terminal else 5.0):
            self._tell(part, now)

    def end(self) -> None:
        """Nothing more comes of this part."""
        if self.part is None:
            return
        if self.is_terminal:
            self.out.write("\r\x1b[2K", ending="")
        elif self.part.seen != self.told_seen:
            self._tell(self.part, self.clock())
        self.part = None

    def _tell(self, part: SyncRunModule, now: float) -> None:
        self.told_at, self.told_seen = now, part.seen
        words = ", ".join([_how_far(part), *self._pace(part, now)])
        if not self.is_terminal:
            self.out.write(f"{part.module}: {words}")
            return
        share = min(part.seen / part.expected, 1.0) if part.expected else 0.0
        bar = "█" * round(share * self.WIDTH)
        self.out.write(f"\r\x1b[2K{part.module:<9} {bar:<{self.WIDTH}} {words}", ending="")
        self.out.flush()

    def _pace(self, part: SyncRunModule, now: float) -> Iterator[str]:
        """How fast, and how long it will take: as soon as there is a second page to measure."""
        read, took = part.seen - self.begun_seen, now - self.begun_at
        if read <= 0 or took <= 0:
            return
        yield f"{read / took:,.0f} a second"
        if part.expected and part.expected > part.seen:
            yield f"{(part.expected - part.seen) * took / read:,.0f} s left"


def _how_far(part: SyncRunModule) -> str:
    if not part.expected:
        return f"{part.seen:,} read"
    expected = max(part.expected, part.seen)  # the CRM does not count what is converted
    return f"{part.seen:,} of {expected:,} ({part.seen * 100 // expected}%)"
