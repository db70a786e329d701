"""What the CRM answered to a call, or did not: each record's own outcome is settled by itself.

What surely did not happen waits and goes again; what may have happened is unknown, and read before
anything else; what is refused for good shows the CRM's value again. Calls are made in `send.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog

from crm import failpoints
from crm.mapping import convert
from crm.models import OutboxEntry, outbox
from crm.sync import deletions
from crm.sync.modules import ACCOUNTS, CONTACTS, DEALS, LEADS, Module
from crm.sync.reading import id_of
from crm.sync.store import Store
from crm.sync.tombstones import tell_deletions
from crm.writeback import claims, results, rows_out, settle
from crm.writeback.claims import Work
from crm.writeback.context import WritingContext
from crm.zoho.client import RawRecord, WriteResult, ZohoClient
from crm.zoho.errors import (
    BreakerOpen,
    Closed,
    CreditsExhausted,
    FixFields,
    FixRequest,
    NotPermitted,
    RateLimited,
    Reauthenticate,
    RetryLater,
    Unreachable,
    ZohoError,
)

log = structlog.get_logger(__name__)

IDS_A_READING = 50
MOST_ATTEMPTS = 12
RETRY, RETRY_CAP = timedelta(seconds=30), timedelta(hours=1)
OUTAGE_PAUSE = timedelta(seconds=30)
NOT_OURS_PAUSE = timedelta(minutes=15)
HELD = (
    "deletions_held",
    "The CRM says that this record and many others are gone: ops must confirm it first.",
)
_NOT_SENT = (BreakerOpen, Closed, CreditsExhausted, RateLimited)


@dataclass
class Reading:
    """Records as they were at `read_at`; the ids that are really gone, and those that the CRM
    refuses to show, with its reason."""

    read_at: datetime
    records: list[RawRecord] = field(default_factory=list)
    gone: set[Any] = field(default_factory=set)
    unclear: dict[Any, ZohoError] = field(default_factory=dict)
    as_it_was: set[Any] = field(default_factory=set)  # ids that need no comparing

    def add(self, other: Reading) -> None:
        """As if it had been read with this one, when the first of both was."""
        self.read_at = min(self.read_at, other.read_at)
        self.records += other.records
        self.gone |= other.gone
        self.unclear |= other.unclear
        self.as_it_was |= other.as_it_was


@dataclass
class Report:
    """What one sending came to, in entries. `stopped`: why it ended early."""

    sent: int = 0
    settled: int = 0  # the CRM had our value already
    conflicts: int = 0
    refused: int = 0
    waiting: int = 0
    unknown: int = 0
    calls: int = 0
    stopped: str = ""


class SwitchedOff(Closed):
    """The switch, or the end of this process, came right before the call: nothing was sent."""

    def __init__(self, code: str) -> None:
        super().__init__("Not sent: the sending was stopped right before.", code=code)


class Stop(Exception):
    """Nothing more can be sent now; what is left waits."""

    def __init__(self, error: ZohoError | None, why: str, pause: timedelta) -> None:
        super().__init__(why)
        self.error, self.why, self.pause = error, why, pause


@dataclass
class Answers:
    """Settles what came of calls, and reads through the one door what has to be looked at again."""

    client: ZohoClient
    clock: Callable[[], datetime]
    report: Report
    context: WritingContext
    # Records of this round that the CRM does not have, and how many there were in this sending.
    vanished: list[Work] = field(default_factory=list, init=False)
    marked: int = field(default=0, init=False)

    def _settle(self, module: Module, works: list[Work], answers: Sequence[WriteResult]) -> None:
        answered_at = self.clock()
        failpoints.pass_by("send.before_settle")
        taken, refused, again, vanished = [], {}, [], []
        for work, answer in zip(works, answers, strict=True):
            outcome = results.outcome_of(answer)
            if outcome.kind == results.TAKEN:
                taken.append((work, answer))
            elif outcome.kind == results.GONE:
                vanished.append(work)
            elif outcome.kind == results.REFUSED:
                more, waits = rows_out.refusals(module, work, outcome, self.context)
                refused.update(more)
                self._wait(module, waits, timedelta(0), uncounted=True)
            elif outcome.kind == results.READ_AGAIN and work.kind == outbox.CREATE:
                self._is_there(module, work, answer)
            elif outcome.kind == results.READ_AGAIN:
                self._read_again(module, work, (outcome.code, outcome.message))
            else:
                self._later(module, work, outcome)
        again += self._taken(module, taken, answered_at)
        if refused:
            settle.refuse(module, refused, self.context, answered_at)
            self.report.refused += len(refused)
            again += [
                work.zoho_id
                for work in works
                if work.kind != outbox.EDIT
                and work.zoho_id
                and any(entry.pk in refused for entry in work.entries)
            ]
        failpoints.pass_by("send.after_settle")
        for work in vanished:
            self._gone(module, work)
        self._learn(module, again)

    def _taken(
        self, module: Module, taken: list[tuple[Work, WriteResult]], answered_at: datetime
    ) -> list[Any]:
        """Those whose value was seen to be another meanwhile, by the CRM's ids."""
        edits = [
            (entry, rows_out.modified_at(answer))
            for work, answer in taken
            if work.kind == outbox.EDIT
            for entry in work.entries
        ]
        others = [(work, answer) for work, answer in taken if work.kind != outbox.EDIT]
        self.report.sent += len(edits) + len(others)
        for work, answer in others:
            rows_out.conclude(work, answer, answered_at)
            if work.kind == outbox.CONVERT:
                for part in (ACCOUNTS, CONTACTS, DEALS):
                    made = answer.details.get(part.name)
                    zoho_id = convert.record_id(made.get("id")) if isinstance(made, dict) else None
                    if zoho_id is not None:
                        self._learn(part, [zoho_id])
                self._learn(LEADS, [work.zoho_id])
        ids = {work.record_id: work.zoho_id for work, _ in taken}
        return [ids[e.record_id] for e in settle.mark_sent(module, edits, answered_at)]

    def _gone(self, module: Module, work: Work) -> None:
        """The CRM does not know the id: asked for once more by itself, then believed."""
        try:
            record = self.client.record(module.name, work.zoho_id or 0)
        except ZohoError as error:
            self._wait(module, [work], RETRY, (error.code, error.message))
            return
        if record is None:
            self.vanished.append(work)
        else:
            self._wait(module, [work], RETRY)

    def _tell_vanished(self, module: Module) -> None:
        """At the end of a round: what the CRM does not have is marked, or held for ops where it is
        more at once than is plausible."""
        works, self.vanished = self.vanished, []
        if not works:
            return
        gone = [work.zoho_id or 0 for work in works if work.kind != outbox.DELETE]
        self.marked += len(gone)
        live = module.model.objects.live().count() if self.marked > deletions.IDS_PER_CALL else 0
        if live and deletions.is_too_many(self.marked, live):
            deletions.hold(module, None, deletions.live_ids(module, gone), live)
            held = [work for work in works if work.kind != outbox.DELETE]
            self._wait(module, held, NOT_OURS_PAUSE, HELD, uncounted=True)
            works = [work for work in works if work.kind == outbox.DELETE]
        tell_deletions(module, sorted(work.zoho_id or 0 for work in works), source="writeback")
        for work in works:
            if work.kind == outbox.DELETE:
                settle.finish(module, work.entries, self.clock())
                self.report.settled += 1
            self.report.refused += len(work.entries) * (work.kind == outbox.EDIT)

    def _read(self, module: Module, ids: Sequence[Any]) -> Reading:
        """In a thread. Raises RetryLater and Reauthenticate alone: what else is wrong concerns
        these records."""
        reading = Reading(self.clock())
        names = self.context.api_names(module.name)
        try:
            page = self.client.by_ids(module.name, ids, names, converted=module.converted)
            reading.records += page.records
        except (NotPermitted, FixFields) as error:
            reading.unclear = dict.fromkeys(ids, error)
            return reading
        except FixRequest:
            pass  # one of them it does not know: each is asked for by itself
        found = {id_of(record) for record in reading.records}
        for zoho_id in ids:
            if zoho_id in found:
                continue
            try:
                # Lists hide what waits for approval: only the record itself says that it is gone.
                record = self.client.record(module.name, zoho_id)
            except FixRequest as error:
                reading.unclear[zoho_id] = error
                continue
            if record is None:
                reading.gone.add(zoho_id)
            else:
                reading.records.append(record)
        return reading

    def _learn(self, module: Module, ids: Sequence[Any]) -> None:
        """Read these and store them, as a delta would later."""
        for some in chunks(list(dict.fromkeys(ids)), IDS_A_READING):
            try:
                reading = self._read(module, some)
            except ZohoError as error:
                log.info("write_back_not_read_again", reason=error.code)  # the delta will
                return
            self._store(module, reading.records, reading.read_at)

    def _store(self, module: Module, records: Sequence[RawRecord], read_at: datetime) -> None:
        if records:
            Store(
                module,
                self.context.mapper(module.name),
                source="writeback",
                deriver=self.context.deriver,
            ).store(records, read_at=read_at)

    def _fail(self, module: Module, works: list[Work], error: ZohoError) -> None:
        """The call as a whole. What surely did not happen waits; else its outcome is unknown."""
        if isinstance(error, SwitchedOff):
            self._wait(module, works, timedelta(0), uncounted=True)
            raise Stop(None, error.code, timedelta(0))
        reason = (error.code, error.message)
        was_sent = not isinstance(error, _NOT_SENT)
        if isinstance(error, Unreachable):
            was_sent = error.was_sent
        if isinstance(error, RetryLater) and was_sent:
            entries = [entry for work in works for entry in work.entries]
            spent = [entry for entry in entries if entry.attempts >= MOST_ATTEMPTS]
            settle.give_up(module, spent, reason)
            attempts = max(entry.attempts for entry in entries)
            until = self.clock() + settle.doubled(RETRY, attempts, RETRY_CAP)
            settle.unknown(module, entries, until=until, reason=reason)
            self.report.unknown += len(entries) - len(spent)
            return
        if isinstance(error, RetryLater):
            pause = timedelta(seconds=error.retry_after_s or OUTAGE_PAUSE.total_seconds())
            self._wait(module, works, pause, reason, uncounted=True)
            raise Stop(error, error.code, pause)
        if isinstance(error, Reauthenticate) or error.code in ("NO_PERMISSION", "not_configured"):
            self._wait(module, works, NOT_OURS_PAUSE, reason, uncounted=True)
            raise Stop(error, error.code, NOT_OURS_PAUSE)
        if len(works) > 1:
            # One of them spoils the call for all: each half alone, until it is found.
            middle = len(works) // 2
            for half in (works[:middle], works[middle:]):
                self._wait(module, half, timedelta(0), reason, uncounted=True)
            self._mark_to_go_alone(works)
            return
        is_creation = works[0].kind == outbox.CREATE
        if isinstance(error, FixRequest) and error.code == "ALREADY_MODIFIED" and not is_creation:
            self._read_again(module, works[0], reason)
            return
        named = convert.record_id(error.details.get("id"))
        result = WriteResult(False, named, error.code, error.crm_message, error.details)
        self._settle(module, works, [result])

    def _is_there(self, module: Module, work: Work, answer: WriteResult) -> None:
        """A creation that was sent before has arrived after all: the CRM names the record."""
        if answer.id is not None:
            self._learn(module, [answer.id])  # the door knows it by its external id
        self._read_again(module, work, (answer.code, "The CRM has this record already."))

    def _read_again(self, module: Module, work: Work, reason: tuple[str, str]) -> None:
        """At once, but not for ever: a clock that differs would refuse it each time."""
        if work.attempts >= MOST_ATTEMPTS:
            settle.give_up(module, work.entries, reason)
            return
        self._wait(module, [work], timedelta(0) if work.attempts <= 3 else RETRY, reason)

    def _mark_to_go_alone(self, works: Sequence[Work]) -> None:
        pks = [entry.pk for work in works for entry in work.entries]
        OutboxEntry.objects.filter(pk__in=pks, deaths__lt=claims.ALONE_AFTER_DEATHS).update(
            deaths=claims.ALONE_AFTER_DEATHS
        )

    def _later(self, module: Module, work: Work, outcome: results.Outcome) -> None:
        first, cap = outcome.pause
        attempts = work.attempts
        if attempts >= MOST_ATTEMPTS and not outcome.is_forever:
            settle.give_up(module, work.entries, (outcome.code, outcome.message))
            return
        pause = settle.doubled(first, attempts, cap)
        self._wait(module, [work], pause, (outcome.code, outcome.message))

    def _wait(
        self,
        module: Module,
        works: Sequence[Work],
        pause: timedelta,
        reason: tuple[str, str] = ("", ""),
        *,
        uncounted: bool = False,
    ) -> None:
        entries = [entry for work in works for entry in work.entries]
        if entries:
            settle.wait(
                module,
                entries,
                until=self.clock() + pause,
                reason=reason,
                uncounted=uncounted,
            )
            self.report.waiting += len(entries)


def chunks(items: Sequence[Any], size: int) -> Iterable[list[Any]]:
    for at in range(0, len(items), size):
        yield list(items[at : at + size])
