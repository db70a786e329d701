"""Recording milestones: what people say of the facts on the way, and where it goes.

Decides what is refused and why, what a date or a status implies, and whether the day goes to the
CRM (by the outbox, pending until the CRM has it) or stays here. Phase, signal and proposed items
follow in the same transaction (`o2r/recompute.py`).

One version stands for the deal and its milestones: whoever recorded on an older one is told what
the first recorded, and decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from django.db import transaction
from django.utils.text import slugify

from crm.errors import FieldsRefused
from crm.mapping.convert import MONEY_LIMIT, decimals_of
from crm.models import ChangeEvent, Deal
from crm.sync.metadata import business_day
from crm.writeback import outbox, versions
from crm.writeback.context import WritingContext
from o2r import facts, milestones, phases, recompute, told
from o2r.errors import ConfirmEarly, Ended, RecordedMeanwhile
from o2r.models import Milestone, MilestoneChange, Opportunity
from o2r.models.milestones import BLOCKED, COMPLETED, DELAYED, PENDING
from o2r.permissions import may_record
from o2r.services.entry import KEEP, fitting_day, name_of, raise_if_ended, require, text_of
from o2r.written import day_words, moment_words

STATUSES = (PENDING, COMPLETED, DELAYED, BLOCKED)
NOT_MAPPED = "The CRM has no field for it, so it stays here."
MOST_OF_ONES_OWN = 50
_TOLD = (
    *("title", "completed_on", "target_on", "status", "note", "blocked_reason"),
    *("amount_minor", "currency"),
)


@dataclass
class Recorded:
    """What became of it. `changed` names the fields; `stays_here` says why the day does not go to
    the CRM, and is empty where it does."""

    opportunity: Opportunity
    key: str
    version: int
    changed: tuple[str, ...] = ()
    stays_here: str = ""


@dataclass
class Held:
    """An opportunity behind the gate: nobody else changes it until commit."""

    opportunity: Opportunity
    deal: Deal
    user: Any
    now: datetime
    today: date
    entries: list[Any] = field(default_factory=list)


def record(
    opportunity: Opportunity,
    *,
    key: str,
    user: Any,
    now: datetime,
    today: date,
    completed_on: date | None = KEEP,
    target_on: date | None = KEEP,
    status: str = KEEP,
    note: str = KEEP,
    reason: str = KEEP,
    amount_minor: int | None = KEEP,
    currency: str = KEEP,
    confirm_early: bool = False,
    version: int | None = None,
) -> Recorded:
    """Say something of one milestone; what is not given stays, None clears.

    A day in the past completes it; *completed* without a day is today; completing unblocks.
    Raises PermissionRefused, Ended, RecordedMeanwhile, ConfirmEarly, FieldsRefused (by the names of
    the API: milestone, completed_on, target_on, status, note, reason, amount).
    """
    with transaction.atomic():
        held = hold(opportunity, user=user, now=now, today=today, version=version)
        row = _row_of(held, key)
        before = _said_of(held, row)
        was_on = before["completed_on"]
        day = _day_of(held, key, was_on, completed_on, status)
        _ask_once(held, row, was_on, day, confirm_early)
        _say_status(held, row, was_on if day is KEEP else day, status, reason)
        _say_rest(held, row, target_on, note, amount_minor, currency)
        stays_here = _put_day(held, row, was_on, day)
        return _keep(held, row, before, stays_here)


def update_phase(
    opportunity: Opportunity,
    *,
    user: Any,
    now: datetime,
    today: date,
    completed_on: date | None = KEEP,
    confirm_early: bool = False,
    version: int | None = None,
) -> Recorded:
    """Record the gate of the current phase, today unless a day is given. Raises as `record`."""
    return record(
        opportunity,
        key=gate_now(opportunity, today),
        user=user,
        now=now,
        today=today,
        completed_on=today if completed_on is KEEP else completed_on,
        confirm_early=confirm_early,
        version=version,
    )


def gate_now(opportunity: Opportunity, today: date) -> str:
    """The milestone that completes the phase in which it is."""
    if opportunity.pk is None:  # mirrored a moment ago
        return phases.GATES[phases.FIRST][0]
    found = facts.facts_of([opportunity.pk])[opportunity.pk]
    return phases.gate_of(phases.phase_of(found, today).current, found, today)


def add_own(
    opportunity: Opportunity,
    *,
    title: str,
    user: Any,
    now: datetime,
    today: date,
    target_on: date | None = None,
    note: str = "",
    version: int | None = None,
) -> Recorded:
    """A milestone of one's own, known by the slug of its title. Raises as `record`."""
    title = text_of("title", title, most=120, why_needed="Give it a name.")
    key = slugify(title)[:64].strip("-") or "milestone"
    with transaction.atomic():
        held = hold(opportunity, user=user, now=now, today=today, version=version)
        own = set(opportunity.milestones.values_list("key", flat=True))
        if key in own or key in milestones.BUILT_IN:
            raise FieldsRefused({"title": f"There is a milestone “{title}” already."})
        if len(own) >= MOST_OF_ONES_OWN:
            raise FieldsRefused({"title": f"At most {MOST_OF_ONES_OWN} of your own."})
        row = Milestone(opportunity=opportunity, key=key, recorded_at=now)
        before = _said_of(held, row)
        row.title = title
        _say_rest(held, row, target_on, note, KEEP, KEEP)
        return _keep(held, row, before, NOT_MAPPED)


# -- the gate ----------------------------------------------------------------------------------


def hold(
    opportunity: Opportunity, *, user: Any, now: datetime, today: date, version: int | None
) -> Held:
    """Inside a transaction. Raises PermissionRefused, Ended, RecordedMeanwhile."""
    seq = versions.hold(opportunity.deal)
    recompute.hold()  # before any row of an opportunity: a recompute under way waits for none
    deal = Deal.objects.get(pk=opportunity.deal_id)
    require(may_record(user, deal))
    raise_if_ended(deal)
    if seq is None:
        raise Ended("This opportunity is not in the CRM; nothing can be recorded on it.")
    if version is not None and version != seq:
        raise RecordedMeanwhile(_meanwhile(opportunity, deal, version), seq)
    return Held(opportunity, deal, user, now, today)


def _meanwhile(opportunity: Opportunity, deal: Deal, version: int) -> str:
    """What the first did, as the second is told it."""
    then = "Look at it as it is now; if yours is still right, record it again."
    newer = opportunity.milestone_changes.filter(version__gt=version).order_by("id")
    change = newer.last()
    if change is not None:
        own = opportunity.milestones.filter(key=change.key).values_list("title", flat=True).first()
        title = own or milestones.title_of(change.key)
        did = told.milestone_words(change.key, title, change.old, change.new)
        who = change.author_name or "Somebody"
        return f"{who} {did} (at {moment_words(change.at)}), after you opened this. {then}"
    events = ChangeEvent.objects.filter(module="Deals", record_id=deal.pk).order_by("-id")
    event = events.first()
    if event is None or not event.field:
        return f"This opportunity changed after you opened it. {then}"
    what = told.field_words(event.field)
    when = moment_words(event.learnt_at)
    return f"{what} changed after you opened this (learnt at {when}). {then}"


# -- one milestone -----------------------------------------------------------------------------


def _row_of(held: Held, key: str) -> Milestone:
    """What was said of it so far, or a row that nobody has saved yet. Raises FieldsRefused."""
    row = Milestone.objects.filter(opportunity=held.opportunity, key=key).first()
    if row is None:
        if key not in milestones.BUILT_IN:
            known = ", ".join(milestones.BUILT_IN)
            raise FieldsRefused(
                {"milestone": f"No milestone of this opportunity. One of {known}, or your own."}
            )
        row = Milestone(opportunity=held.opportunity, key=key, recorded_at=held.now)
    return row


def _said_of(held: Held, row: Milestone) -> dict[str, Any]:
    """What is told of it; the day is the deal's where the deal has one."""
    said = {name: getattr(row, name) for name in _TOLD}
    column = milestones.MAPPED.get(row.key)
    if column is not None:
        said["completed_on"] = getattr(held.deal, column) or row.completed_on
    return said


def _day_of(held: Held, key: str, was_on: date | None, said: date | None, status: str) -> Any:
    """The day to keep: a date, None (cleared), or KEEP. Raises FieldsRefused."""
    if said is not KEEP and said is not None and said == was_on:
        said = KEEP
    is_fact = was_on is not None and was_on <= held.today
    if said is KEEP:
        if status == COMPLETED:
            return KEEP if is_fact else held.today
        if status is not KEEP and is_fact:
            raise FieldsRefused(
                {
                    "status": f"It was completed on {day_words(was_on)}. Clear that date to make "
                    f"it {status} again."
                }
            )
        return KEEP
    if said is None:
        if status == COMPLETED:
            raise FieldsRefused({"completed_on": "A completed milestone has a date."})
        return None if was_on is not None else KEEP
    fitting_day("completed_on", said)
    if said > held.today:
        raise FieldsRefused(
            {
                "completed_on": f"{day_words(said)} is in the future (today is "
                f"{day_words(held.today)}). Give it as the target; record it on its day."
            }
        )
    if status not in (KEEP, COMPLETED):
        raise FieldsRefused({"status": "A milestone with a date is completed. Leave one out."})
    return said


def _ask_once(
    held: Held, row: Milestone, was_on: date | None, day: Any, confirm_early: bool
) -> None:
    """Raises ConfirmEarly for a day before the deal's creation that nobody has confirmed."""
    if day is KEEP:
        return
    created_on = business_day(held.deal.crm_created_at or held.deal.first_seen_at)
    is_early = day is not None and day < created_on
    if is_early and not confirm_early and not row.is_early_confirmed:
        raise ConfirmEarly(
            f"{day_words(day)} is before the deal was created ({day_words(created_on)}). If that "
            "is right, confirm it."
        )
    row.is_early_confirmed = is_early


def _say_status(held: Held, row: Milestone, day: date | None, status: str, reason: str) -> None:
    """Raises FieldsRefused."""
    if status is not KEEP and status not in STATUSES:
        raise FieldsRefused({"status": f"One of {', '.join(STATUSES)}."})
    if day is not None and day <= held.today:
        wanted = COMPLETED
    elif status is not KEEP:
        wanted = status
    else:
        wanted = PENDING if row.status == COMPLETED else row.status
    text = row.blocked_reason if reason is KEEP else text_of("reason", reason, most=10_000)
    if wanted == BLOCKED:
        if not text:
            raise FieldsRefused({"reason": "Say what blocks it."})
        row.blocked_on = row.blocked_on if row.status == BLOCKED else held.today
        row.blocked_reason = text
    else:
        if reason is not KEEP and text and status is not KEEP:
            raise FieldsRefused({"reason": "Only a blocked milestone has a reason; write a note."})
        if reason is not KEEP and text:
            raise FieldsRefused({"status": "Say *blocked* with a reason."})
        row.blocked_reason, row.blocked_on = "", None
    row.status = wanted


def _say_rest(
    held: Held,
    row: Milestone,
    target_on: date | None,
    note: str,
    amount_minor: int | None,
    currency: str,
) -> None:
    """Raises FieldsRefused."""
    if target_on is not KEEP:
        row.target_on = fitting_day("target_on", target_on)
    if note is not KEEP:
        row.note = text_of("note", note, most=10_000)
    if amount_minor is KEEP and currency is not KEEP and row.amount_minor is None:
        raise FieldsRefused({"currency": "A currency belongs to an amount."})
    if amount_minor is KEEP and currency is KEEP:
        return
    if amount_minor is not KEEP:
        row.amount_minor = amount_minor
    code = row.currency or held.deal.currency if currency is KEEP else currency
    row.currency = "" if row.amount_minor is None else code
    if row.amount_minor is None:
        return
    if not re.fullmatch(r"[A-Z]{3}", code or ""):
        raise FieldsRefused({"currency": "Three capital letters, as USD."})
    if abs(row.amount_minor) > MONEY_LIMIT * 10 ** decimals_of(code):
        raise FieldsRefused({"amount": "This amount is too large."})


def _put_day(held: Held, row: Milestone, was_on: date | None, day: Any) -> str:
    """Give the day to the deal's field, or keep it here; why it stays here, or nothing.

    Raises FieldsRefused where the CRM has a day that cannot be changed from here.
    """
    column = milestones.MAPPED.get(row.key)
    if column is None:
        if day is not KEEP:
            row.completed_on = day
        return NOT_MAPPED
    context = WritingContext(held.now)
    why = context.writer("Deals").why_not_writable(column)
    if day is KEEP:
        return f"It stays here. {why}" if why else ""
    if why:
        if getattr(held.deal, column) is not None:
            raise FieldsRefused({"completed_on": why})
        row.completed_on = day
        return f"It stays here. {why}"
    try:
        kept = outbox.edit(
            held.deal, {column: day}, author=held.user, now=held.now, context=context
        )
    except FieldsRefused as refused:
        raise FieldsRefused({"completed_on": " ".join(refused.fields.values())}) from refused
    held.entries += kept.entries
    row.completed_on = None
    return ""


# -- keeping it --------------------------------------------------------------------------------


def _keep(held: Held, row: Milestone, before: Mapping[str, Any], stays_here: str) -> Recorded:
    held.deal.refresh_from_db()
    after = _said_of(held, row)
    changed = tuple(name for name in _TOLD if before[name] != after[name])
    if not changed:
        return Recorded(held.opportunity, row.key, held.deal.change_seq, (), stays_here)
    row.recorded_by, row.recorded_at = held.user, held.now
    row.save()
    old, new = ({name: _plain(said[name]) for name in changed} for said in (before, after))
    version = keep_change(held, row.key, old, new)
    return Recorded(held.opportunity, row.key, version, changed, stays_here)


def keep_change(held: Held, key: str, old: dict[str, Any], new: dict[str, Any]) -> int:
    """Tell the change, give the opportunity its next version, and let everything follow."""
    version = versions.renew(held.deal, held.now)
    MilestoneChange.objects.create(
        opportunity=held.opportunity,
        key=key,
        old=old,
        new=new,
        author=held.user,
        author_name=name_of(held.user),
        at=held.now,
        version=version,
    )
    recompute.refresh([held.opportunity.pk], now=held.now, author=held.user)
    held.opportunity.refresh_from_db()
    return version


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value
