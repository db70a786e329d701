"""One opportunity's story: what the CRM told, phases, signals, milestones, work, reviews and
write-backs in one order, the newest first.

Decides what is told and in which words; each entry says when it happened and when we learnt it. A
page costs the same number of queries however long the story is, and goes on from a cursor that
new entries do not shift.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any, NamedTuple

from django.conf import settings
from django.core import signing
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.db.models.functions import Coalesce

from crm.models import Account, ChangeEvent, Contact, CrmUser, OutboxEntry, outbox
from o2r import health_signals, milestones, told
from o2r.models import MilestoneChange, Opportunity
from o2r.written import business, day_words, zone

PAGE = 30
MOST = 200
_SALT = "o2r.timeline"
CRM, WRITE_BACK, MILESTONE, PHASE, SIGNAL = "crm", "write_back", "milestone", "phase", "signal"
ACTION, ACTIVITY, REVIEW, SNOOZE = "action", "activity", "review", "snooze"
KINDS = (CRM, WRITE_BACK, MILESTONE, PHASE, SIGNAL, ACTION, ACTIVITY, REVIEW, SNOOZE)
BY_ITSELF = "by itself"
IN_THE_CRM = "the CRM"
_REFERRED = {"owner_id": CrmUser, "account_id": Account, "contact_id": Contact}


class Position(NamedTuple):
    """Where an entry stands; later ones are greater. Of one moment, what follows from another is
    greater than it: a signal than the milestone that turned it."""

    moment: datetime
    rank: int
    pk: int


@dataclass(frozen=True)
class Entry:
    """One thing that happened. `happened_at` is empty where only the day is known."""

    kind: str
    text: str
    happened_on: date
    happened_at: datetime | None
    learnt_at: datetime
    position: Position = field(repr=False)
    who: str = ""
    details: tuple[str, ...] = ()
    status: str = ""

    @property
    def id(self) -> str:
        return f"{self.kind}-{self.position.rank}-{self.position.pk}"


@dataclass(frozen=True)
class Page:
    """`next` is the cursor of what is older; empty at the beginning of the story."""

    entries: list[Entry]
    next: str


class NoCursor(ValueError):
    """Not a cursor of a timeline."""


def timeline_of(
    opportunity: Opportunity,
    *,
    cursor: str = "",
    limit: int = PAGE,
    kinds: Sequence[str] = KINDS,
) -> Page:
    """The newest entries, or those older than the cursor. Raises NoCursor."""
    limit = max(1, min(limit, MOST))
    if opportunity.pk is None:  # mirrored a moment ago
        kinds = [kind for kind in kinds if kind in (CRM, WRITE_BACK)]
    story = _Story(opportunity, _position(cursor) if cursor else None, limit + 1)
    found: list[Entry] = []
    for kind, sources in _SOURCES.items():
        if kind in kinds:
            for source in sources:
                found += source(story)
    found.sort(key=lambda entry: entry.position, reverse=True)
    page = found[:limit]
    more = len(found) > limit
    return Page(page, _cursor(page[-1].position) if more else "")


def _position(cursor: str) -> Position:
    try:
        moment, rank, pk = signing.loads(cursor, salt=_SALT)
        return Position(datetime.fromisoformat(moment), int(rank), int(pk))
    except (signing.BadSignature, TypeError, ValueError) as error:
        raise NoCursor("This is no cursor of a timeline. Take it from `next`.") from error


def _cursor(at: Position) -> str:
    return signing.dumps([at.moment.isoformat(), at.rank, at.pk], salt=_SALT)


class _Story:
    """What the sources share: whose story, from where on, and how many of each are enough."""

    def __init__(self, opportunity: Opportunity, at: Position | None, most: int) -> None:
        self.opportunity, self.at, self.most = opportunity, at, most
        self.deal = opportunity.deal
        self._titles: dict[str, str] | None = None

    def newest(self, rows: QuerySet, moment: Any, rank: int) -> list[Any]:
        """Rows of one source, the newest first, each with its `moment`."""
        rows = rows.annotate(moment=moment)
        if self.at is not None:
            older = Q(moment__lt=self.at.moment)
            if rank < self.at.rank:
                older |= Q(moment=self.at.moment)
            elif rank == self.at.rank:
                older |= Q(moment=self.at.moment, pk__lt=self.at.pk)
            rows = rows.filter(older)
        return list(rows.order_by("-moment", "-pk")[: self.most])

    def by_day(self, rows: QuerySet, rank: int) -> Iterator[tuple[Any, Position]]:
        """Rows that know their day alone. One learnt on that day stands where it was learnt, any
        other at the beginning of its day. An opportunity has few of them."""
        if self.at is not None:
            rows = rows.filter(happened_on__lte=business(self.at.moment).date())
        placed = [(row, Position(_moment_of(row), rank, row.pk)) for row in rows]
        if self.at is not None:
            placed = [(row, where) for row, where in placed if where < self.at]
        placed.sort(key=lambda each: each[1], reverse=True)
        yield from placed[: self.most]

    def title_of(self, key: str) -> str:
        """A milestone's name; those of one's own are asked for once."""
        if key in milestones.BUILT_IN or not key:
            return milestones.title_of(key) if key else ""
        if self._titles is None:
            own = self.opportunity.milestones.exclude(title="")
            self._titles = dict(own.values_list("key", "title"))
        return self._titles.get(key) or milestones.title_of(key)


def _moment_of(row: Any) -> datetime:
    if business(row.learnt_at).date() == row.happened_on:
        return row.learnt_at
    start = datetime.combine(row.happened_on, time.min)
    return start.replace(tzinfo=zone(settings.BUSINESS_TIME_ZONE))


def _at(
    kind: str, rank: int, row: Any, text: str, learnt_at: datetime | None = None, **more: Any
) -> Entry:
    """An entry of a row whose moment is known."""
    return Entry(
        kind,
        text,
        business(row.moment).date(),
        row.moment,
        learnt_at or row.moment,
        position=Position(row.moment, rank, row.pk),
        **more,
    )


# -- what the CRM told ----------------------------------------------------------------------------


def _changes(story: _Story) -> Iterator[Entry]:
    """The kept events of the deal. A day recorded here is told as the milestone it is."""
    rows = ChangeEvent.objects.filter(module="Deals", record_id=story.deal.pk)
    own = MilestoneChange.objects.filter(opportunity=story.opportunity.pk)
    recorded = own.filter(at=OuterRef("changed_at"))
    columns = list(milestones.MAPPED.values())
    rows = rows.exclude(Q(source="local", field__in=columns) & Exists(recorded))
    rows = rows.select_related("author")
    events = story.newest(rows, Coalesce("changed_at", "learnt_at"), 0)
    name_of = _names_in(events)
    for event in events:
        yield _at(
            CRM, 0, event, _change_words(event, story, name_of), event.learnt_at, who=_by(event)
        )


def _by(event: ChangeEvent) -> str:
    if event.author is not None:
        return event.author.get_full_name() or event.author.get_username()
    return "" if event.source == "local" else IN_THE_CRM


def _change_words(event: ChangeEvent, story: _Story, name_of: Callable[[str, int], str]) -> str:
    where = "here" if event.source == "local" else "in the CRM"
    if event.kind != ChangeEvent.CHANGED:
        return f"{event.kind.capitalize()} {where}"
    old, new = (
        told.value_words(
            event.field, json.loads(text or "null"), currency=story.deal.currency, name_of=name_of
        )
        for text in (event.old, event.new)
    )
    return f"{told.field_words(event.field)}: {old} → {new}"


def _names_in(events: Iterable[ChangeEvent]) -> Callable[[str, int], str]:
    """Names of what these events refer to; a query for each kind of record, whatever they hold."""
    wanted: dict[str, set[int]] = {column: set() for column in _REFERRED}
    for event in events:
        if event.kind == ChangeEvent.CHANGED and event.field in wanted:
            values = (json.loads(text or "null") for text in (event.old, event.new))
            wanted[event.field] |= {value for value in values if isinstance(value, int)}
    found = {
        column: {row.pk: str(row) for row in model.objects.filter(pk__in=wanted[column])}
        for column, model in _REFERRED.items()
    }
    return lambda column, pk: found.get(column, {}).get(pk, f"no. {pk}")


# -- what was written to the CRM ------------------------------------------------------------------

_SENT = {
    outbox.PENDING: "waits to be sent to the CRM",
    outbox.READING: "is being sent to the CRM",
    outbox.SENDING: "is being sent to the CRM",
    outbox.UNKNOWN: "was sent; whether the CRM has it is being asked",
    outbox.SENT: "is in the CRM",
    outbox.DONE: "is in the CRM",
    outbox.CONFLICT: "is in conflict: it was changed in the CRM too",
    outbox.DEAD: "could not be sent to the CRM",
    outbox.REFUSED: "was refused by the CRM",
    outbox.DISMISSED: "was given up",
    outbox.WITHDRAWN: "was taken back before it was sent",
}
_WHOLE = {
    outbox.CREATE: "The new opportunity",
    outbox.DELETE: "The deletion",
    outbox.CONVERT: "The conversion",
}


def _written(story: _Story) -> Iterator[Entry]:
    rows = OutboxEntry.objects.filter(module="Deals", record_id=story.deal.pk)
    for entry in story.newest(rows, Coalesce("sent_at", "settled_at", "created_at"), 1):
        what = _WHOLE.get(entry.kind) or told.field_words(entry.field)
        yield _at(
            WRITE_BACK,
            1,
            entry,
            f"{what} {_SENT[entry.status]}",
            who=entry.author_name,
            details=(entry.message,) if entry.message else (),
            status=entry.status,
        )


# -- what follows from the facts ------------------------------------------------------------------


def _milestones(story: _Story) -> Iterator[Entry]:
    for change in story.newest(story.opportunity.milestone_changes.all(), F("at"), 2):
        words = told.milestone_words(change.key, story.title_of(change.key), change.old, change.new)
        text = words[:1].upper() + words[1:]
        yield _at(MILESTONE, 2, change, text, who=change.author_name)


def _phases(story: _Story) -> Iterator[Entry]:
    rows = story.opportunity.phase_changes.select_related("author")
    for change, where in story.by_day(rows, 3):
        if not change.to_phase:
            text = "Ended"
        elif not change.from_phase:
            text = f"Phase {told.PHASES[change.to_phase]}"
        else:
            text = f"Phase {told.PHASES[change.from_phase]} → {told.PHASES[change.to_phase]}"
        author = change.author
        yield _on(
            PHASE,
            where,
            change,
            text,
            who=(author.get_full_name() or author.get_username()) if author else "",
            details=(change.why,) if change.why else (),
        )


def _signals(story: _Story) -> Iterator[Entry]:
    for change, where in story.by_day(story.opportunity.signal_changes.all(), 4):
        to = told.SIGNALS.get(change.to_signal, change.to_signal)
        was = told.SIGNALS.get(change.from_signal, change.from_signal)
        text = f"Signal {was} → {to}" if change.from_signal else f"Signal {to}"
        yield _on(
            SIGNAL,
            where,
            change,
            text,
            details=tuple(
                health_signals.evidence(reason)
                for reason in health_signals.reasons_on(change.reasons, change.happened_on)
            ),
            status=change.to_signal,
        )


def _on(kind: str, where: Position, row: Any, text: str, **more: Any) -> Entry:
    """An entry of a row that knows its day alone."""
    return Entry(kind, text, row.happened_on, None, row.learnt_at, position=where, **more)


# -- what people did ------------------------------------------------------------------------------


def _items_made(story: _Story) -> Iterator[Entry]:
    rows = story.opportunity.action_items.select_related("created_by", "owner")
    for item in story.newest(rows, F("created_at"), 5):
        for_whom = f"For {item.owner}" if item.owner else ""
        due = f"Due {day_words(item.due_on)}" if item.due_on else ""
        yield _at(
            ACTION,
            5,
            item,
            f"{'Proposed' if item.rule else 'To do'}: {item.text}",
            who=_person(item.created_by),
            details=tuple(filter(None, (for_whom, due))),
            status="proposed" if item.rule else "open",
        )


def _items_done(story: _Story) -> Iterator[Entry]:
    rows = story.opportunity.action_items.filter(done_at__isnull=False).select_related("done_by")
    for item in story.newest(rows, F("done_at"), 6):
        ended = item.closed_by_rule
        yield _at(
            ACTION,
            6,
            item,
            f"{'No longer needed' if ended else 'Done'}: {item.text}",
            who=BY_ITSELF if ended else _person(item.done_by),
            status="done",
        )


def _activities(story: _Story) -> Iterator[Entry]:
    rows = story.opportunity.activities.select_related("created_by")
    moment = Coalesce("completed_at", "scheduled_at", "created_at")
    for activity in story.newest(rows, moment, 7):
        plan = "" if activity.completed_at else " (planned)"
        yield _at(
            ACTIVITY,
            7,
            activity,
            f"{activity.get_type_display()}{plan}: {activity.description}",
            activity.updated_at,
            who=_person(activity.created_by),
            details=(activity.get_outcome_display(),) if activity.outcome else (),
            status=activity.outcome,
        )


def _reviews(story: _Story) -> Iterator[Entry]:
    for review in story.newest(story.opportunity.reviews.all(), F("created_at"), 8):
        decision, note = review.decision, review.note
        yield _at(
            REVIEW,
            8,
            review,
            f"Reviewed: {decision or note}",
            who=review.reviewer_name,
            details=(note,) if decision and note else (),
            status=review.health_signal,
        )


def _snoozes(story: _Story) -> Iterator[Entry]:
    rows = story.opportunity.snoozes.select_related("author")
    for snooze in story.newest(rows, F("created_at"), 9):
        text = f"Alerts wait until {day_words(snooze.until)}: {snooze.reason}"
        yield _at(SNOOZE, 9, snooze, text, who=_person(snooze.author))


def _person(user: Any) -> str:
    return "" if user is None else user.get_full_name() or user.get_username()


_SOURCES: dict[str, tuple[Callable[[_Story], Iterable[Entry]], ...]] = {
    CRM: (_changes,),
    WRITE_BACK: (_written,),
    MILESTONE: (_milestones,),
    PHASE: (_phases,),
    SIGNAL: (_signals,),
    ACTION: (_items_made, _items_done),
    ACTIVITY: (_activities,),
    REVIEW: (_reviews,),
    SNOOZE: (_snoozes,),
}
