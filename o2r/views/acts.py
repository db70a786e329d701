"""What people do on an opportunity's page: the dialog of each act, and what it answers.

One address: `?do=` names the act and opens its dialog, a POST to the same address does it. Done,
the page comes again (or, with htmx, an event tells its live part); refused, the dialog comes back
with the sentence beside the field and with what was typed. Who may and what follows is decided in
`o2r/services`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render

from crm.errors import CrmError, FieldsRefused
from crm.mapping.convert import decimals_of
from crm.models import OutboxEntry, outbox
from crm.words import is_number
from crm.writeback import decisions
from o2r import forms, milestones, told
from o2r.errors import ConfirmEarly, PermissionRefused, RecordedMeanwhile
from o2r.models import Opportunity
from o2r.permissions import may_resolve
from o2r.services import blocking, reviews, work
from o2r.services import milestones as recording
from o2r.services.entry import require
from o2r.tracker import MilestoneState, milestone_states
from o2r.views.shell import PageRequest
from o2r.views.signals import ROMAN, SIGNALS
from o2r.written import day_words


@dataclass
class Ask:
    """Who asks for what, when. `data` is what was posted, if anything was."""

    opportunity: Opportunity
    request: PageRequest
    now: datetime
    today: date
    states: list[MilestoneState] = field(default_factory=list)

    @property
    def user(self) -> Any:
        return self.request.user

    @property
    def data(self) -> Any:
        return self.request.POST if self.request.method == "POST" else None

    @property
    def who_when(self) -> dict[str, Any]:
        return {"user": self.user, "now": self.now}

    def bound(self, form: type[Any], initial: dict[str, Any] | None = None, **options: Any) -> Any:
        version = self.opportunity.deal.change_seq
        return form(self.data, initial={"version": version, **(initial or {})}, **options)

    def one_of(self, rows: QuerySet) -> Any:
        """The row that the address names. Raises Http404."""
        word = self.request.GET.get("id", "")
        row = rows.filter(pk=int(word)).first() if is_number(word) else None
        if row is None:
            raise Http404("This is not here any more; somebody may have removed it.")
        row.opportunity = self.opportunity
        return row


@dataclass
class Act:
    """A dialog: what it says, its form if it has one, and what its button does."""

    title: str
    button: str
    run: Callable[[], str]
    form: Any = None
    lead: str = ""
    facts: list[tuple[str, str]] = field(default_factory=list)
    choices: list[tuple[str, str]] = field(default_factory=list)
    banner: str = ""
    # Where the form posts, if not to the address that opened it.
    query: str = ""
    is_over: bool = False
    is_grave: bool = False


# -- milestones -----------------------------------------------------------------------------------


def _milestone(ask: Ask) -> Act:
    return _record(ask, ask.request.GET.get("key", ""), is_gate=False)


def _phase(ask: Ask) -> Act:
    """The gate as it was when the dialog was opened: what somebody else records meanwhile moves
    the phase, and must not let this one record another milestone."""
    key = ask.request.GET.get("key") or recording.gate_now(ask.opportunity, ask.today)
    act = _record(ask, key, is_gate=True)
    act.query = f"do=phase&key={key}"
    return act


def _record(ask: Ask, key: str, *, is_gate: bool) -> Act:
    states = ask.states or milestone_states(ask.opportunity, ask.today)
    state = next((each for each in states if each.key == key), None)
    if state is None:
        raise Http404("There is no such milestone.")
    is_open = state.completed_on is None or state.is_plan or state.is_estimated
    known = None if is_open else state.completed_on
    deal = ask.opportunity.deal
    currency = state.currency or deal.currency or "SGD"
    is_part = state.amount_minor is not None and (state.amount_minor, currency) != (
        deal.amount_minor,
        deal.currency,
    )
    initial = {
        # The day most often meant; it is changed by who means another.
        "completed_on": known,
        "target_on": state.target_on,
        "status": state.status if state.status != "delayed" or _said_so(ask, key) else "pending",
        "reason": state.reason,
        "note": state.note,
        "amount": amount_of(state.amount_minor, currency) if is_part else None,
    }
    form = ask.bound(forms.MilestoneForm, initial, currency=currency, is_own_amount=key in _PAID)
    if is_open and ask.data is None and ask.request.GET.get("plan") is None:
        form.offer_today(ask.today)

    def run() -> str:
        said = form.said()
        done = recording.record(
            ask.opportunity,
            key=key,
            today=ask.today,
            version=form.cleaned_data["version"],
            **ask.who_when,
            **said,
        )
        return _recorded_words(ask, done, state.title)

    where = "Its day goes to the CRM." if state.in_crm else state.stays_here
    title = f"Update phase: {state.title}" if is_gate else state.title
    lead = f"This completes phase {ROMAN[state.phase]}. {where}" if is_gate else where
    return Act(title, "Record", run, form, lead=lead)


_PAID = ("po", "invoice", "payment", "revenue")


def _said_so(ask: Ask, key: str) -> bool:
    """Whether a person said *delayed*; by the target alone it follows and is not said again."""
    return ask.opportunity.milestones.filter(key=key, status="delayed").exists()


def amount_of(minor: int | None, currency: str) -> Decimal | None:
    return None if minor is None else Decimal(minor).scaleb(-decimals_of(currency))


def _recorded_words(ask: Ask, done: recording.Recorded, title: str) -> str:
    """What it did, in a line: `PO received recorded. Phase III, On Track.`"""
    if not done.changed:
        return f"Nothing was changed: {title} is as it was."
    opportunity = done.opportunity
    parts = [f"{title} recorded."]
    phase = f"Phase {ROMAN[opportunity.current_phase]}"
    signal = SIGNALS.get(opportunity.health_signal)
    parts.append(f"{phase}, {signal[0] if signal else opportunity.get_outcome_display()}.")
    return " ".join(parts)


def _own(ask: Ask) -> Act:
    form = ask.bound(forms.OwnMilestoneForm)

    def run() -> str:
        said = forms.with_defaults(forms.OwnMilestoneForm, form.cleaned_data)
        version = form.cleaned_data["version"]
        recording.add_own(ask.opportunity, today=ask.today, version=version, **ask.who_when, **said)
        return f"Milestone added: {said['title']}"

    lead = "A delivery milestone of this opportunity. It stays here: the CRM has no field for it."
    return Act("Add a milestone", "Add", run, form, lead=lead)


# -- action items ---------------------------------------------------------------------------------


def _item(ask: Ask) -> Act:
    if "id" not in ask.request.GET:
        initial = {"owner": ask.opportunity.deal.owner_id}
        form = ask.bound(forms.ItemForm, initial)

        def add() -> str:
            said = forms.with_defaults(forms.ItemForm, form.cleaned_data)
            work.add_item(ask.opportunity, **ask.who_when, **said)
            return "Action item added"

        return Act("Add an action item", "Add", add, form)
    item = ask.one_of(ask.opportunity.action_items.all())
    initial = {"text": item.text, "owner": item.owner_id, "due_on": item.due_on}
    form = ask.bound(forms.ItemForm, initial)

    def edit() -> str:
        work.edit_item(item, **ask.who_when, **form.said())
        return "Action item changed"

    return Act("Change the action item", "Save", edit, form)


def _tick(ask: Ask) -> Act:
    item = ask.one_of(ask.opportunity.action_items.all())

    def run() -> str:
        work.tick(item, **ask.who_when)
        return f"Done: {item.text}"

    return Act("Action item", "Done", run, lead=item.text)


def _reopen(ask: Ask) -> Act:
    item = ask.one_of(ask.opportunity.action_items.all())

    def run() -> str:
        work.reopen(item, **ask.who_when)
        return f"Open again: {item.text}"

    return Act("Action item", "Open again", run, lead=item.text)


def _drop_item(ask: Ask) -> Act:
    item = ask.one_of(ask.opportunity.action_items.all())

    def run() -> str:
        work.remove_item(item, user=ask.user)
        return "Action item removed"

    return Act("Remove this action item?", "Remove", run, lead=item.text, is_grave=True)


# -- activities -----------------------------------------------------------------------------------


def _activity(ask: Ask) -> Act:
    if "id" not in ask.request.GET:
        form = ask.bound(forms.ActivityForm, {"type": "call"})

        def add() -> str:
            said = forms.with_defaults(forms.ActivityForm, form.cleaned_data)
            work.add_activity(ask.opportunity, **ask.who_when, **said)
            return "Activity added"

        return Act("Add an activity", "Add", add, form)
    row = ask.one_of(ask.opportunity.activities.all())
    names = ("type", "description", "scheduled_at", "completed_at", "outcome")
    form = ask.bound(forms.ActivityForm, {name: getattr(row, name) for name in names})

    def edit() -> str:
        work.edit_activity(row, **ask.who_when, **form.said())
        return "Activity changed"

    return Act("Change the activity", "Save", edit, form)


def _complete(ask: Ask) -> Act:
    row = ask.one_of(ask.opportunity.activities.all())

    def run() -> str:
        work.complete_activity(row, **ask.who_when)
        return "Activity completed"

    return Act("Activity", "It happened", run, lead=row.description)


def _drop_activity(ask: Ask) -> Act:
    row = ask.one_of(ask.opportunity.activities.all())

    def run() -> str:
        work.remove_activity(row, user=ask.user)
        return "Activity removed"

    return Act("Remove this activity?", "Remove", run, lead=row.description, is_grave=True)


# -- reviews, blocks, snoozes ---------------------------------------------------------------------


def _review(ask: Ask) -> Act:
    if "id" not in ask.request.GET:
        form = ask.bound(forms.ReviewForm)

        def add() -> str:
            said = forms.with_defaults(forms.ReviewForm, form.cleaned_data)
            reviews.review(ask.opportunity, today=ask.today, **ask.who_when, **said)
            return "Review kept"

        lead = "It is kept with the signal, the reasons and the dates as they are now."
        return Act("Write a review", "Keep", add, form, lead=lead)
    row = ask.one_of(ask.opportunity.reviews.all())
    form = ask.bound(forms.ReviewForm, {"decision": row.decision, "note": row.note})

    def edit() -> str:
        said = forms.with_defaults(forms.ReviewForm, form.cleaned_data)
        reviews.edit_review(row, today=ask.today, **ask.who_when, **said)
        return "Review changed"

    return Act("Change the review of today", "Save", edit, form)


def _block(ask: Ask) -> Act:
    form = ask.bound(forms.BlockForm, {"reason": ask.opportunity.blocked_reason})

    def run() -> str:
        said = form.cleaned_data
        blocking.block(
            ask.opportunity,
            today=ask.today,
            reason=said["reason"],
            version=said["version"],
            **ask.who_when,
        )
        return "Marked as blocked"

    lead = "Its signal is Blocked, worse than At Risk, until somebody says otherwise."
    return Act("Mark as blocked", "Mark as blocked", run, form, lead=lead)


def _unblock(ask: Ask) -> Act:
    def run() -> str:
        blocking.unblock(ask.opportunity, today=ask.today, **ask.who_when)
        return "Not blocked any more"

    return Act(
        "Not blocked any more?", "Not blocked any more", run, lead=ask.opportunity.blocked_reason
    )


def _snooze(ask: Ask) -> Act:
    form = ask.bound(forms.SnoozeForm)

    def run() -> str:
        said = form.cleaned_data
        if said["until"] is None:
            raise FieldsRefused({"until": "Say on which day its alerts come again."})
        work.snooze(
            ask.opportunity,
            today=ask.today,
            until=said["until"],
            reason=said["reason"],
            **ask.who_when,
        )
        return f"Alerts wait until {day_words(said['until'])}"

    lead = "Its alerts wait. The signal stays as it is, and everybody sees it."
    return Act("Let its alerts wait", "Let them wait", run, form, lead=lead)


def _wake(ask: Ask) -> Act:
    def run() -> str:
        work.wake(ask.opportunity, **ask.who_when)
        return "Alerts come again"

    return Act("Let alerts come again?", "Let them come again", run)


# -- conflicts with the CRM -----------------------------------------------------------------------


def _conflict(ask: Ask) -> Act:
    """Both values and who changed them; a person chooses."""
    deal = ask.opportunity.deal
    entries = OutboxEntry.objects.filter(
        module="Deals", record_id=deal.pk, status=outbox.CONFLICT, kind=outbox.EDIT
    )
    column = milestones.MAPPED.get(ask.request.GET.get("key", ""), "")
    entry = entries.filter(field=column).first()
    if entry is None:
        return Act("Nothing to decide", "", lambda: "", lead=_DECIDED, is_over=True)

    def run() -> str:
        require(may_resolve(ask.user, deal))
        keep = ask.data.get("choice", "")
        if keep not in (decisions.OURS, decisions.THEIRS):
            raise CrmError("Say which of the two values is to stay.")
        decisions.resolve(entry.pk, keep, by=ask.user, now=ask.now)
        return "Ours goes to the CRM" if keep == decisions.OURS else "The CRM's value stands"

    def words(text: str | None) -> str:
        return told.value_words(
            entry.field, json.loads(text or "null"), currency=deal.currency, name_of=_no_name
        )

    facts = [
        ("Before", words(entry.base)),
        ("Ours", f"{words(entry.new)}, by {entry.author_name or 'a rule'}"),
        ("In the CRM", f"{words(entry.theirs)}{f', by {entry.theirs_by}' * bool(entry.theirs_by)}"),
    ]
    choices = [(decisions.OURS, "Keep ours"), (decisions.THEIRS, "Take the CRM's")]
    title = f"{told.field_words(entry.field)}: changed in the CRM too"
    return Act(title, "", run, facts=facts, choices=choices)


_DECIDED = "Somebody decided it already. Look at the opportunity as it is now."


def _no_name(column: str, pk: int) -> str:
    return f"no. {pk}"


ACTS: dict[str, Callable[[Ask], Act]] = {
    "phase": _phase,
    "milestone": _milestone,
    "own": _own,
    "item": _item,
    "tick": _tick,
    "reopen": _reopen,
    "drop-item": _drop_item,
    "activity": _activity,
    "complete": _complete,
    "drop-activity": _drop_activity,
    "review": _review,
    "block": _block,
    "unblock": _unblock,
    "snooze": _snooze,
    "wake": _wake,
    "conflict": _conflict,
}


def act_of(ask: Ask) -> Act:
    """What `do=` names. Raises Http404."""
    build = ACTS.get(ask.request.GET.get("do", ""))
    if build is None:
        raise Http404("There is no such act.")
    return build(ask)


def perform(act: Act) -> tuple[int, str]:
    """Do it: the status (200 done; else the act says why), and what to tell the person."""
    form = act.form
    if form is not None and not form.is_valid():
        return 422, ""
    try:
        return 200, act.run()
    except FieldsRefused as refused:
        if form is None:
            act.banner = " ".join(refused.fields.values())
        else:
            form.refuse(refused)
        return 422, ""
    except ConfirmEarly as early:
        act.banner, form.asks_early = early.message, True
        return 409, ""
    except RecordedMeanwhile as meanwhile:
        act.banner = meanwhile.message
        if form is None:
            act.is_over = True
        else:
            form.take_version(meanwhile.more["version"])
            act.button = f"{act.button} mine all the same"
        return 409, ""
    except PermissionRefused as refused:
        act.banner, act.is_over = refused.message, True
        return 403, ""
    except CrmError as refused:
        act.banner, act.is_over = refused.message, True
        return 409, ""


def done(request: PageRequest, words: str, back: str) -> HttpResponse:
    """Go back to the page with a message; or tell it, where htmx asks, that something was done."""
    if not request.htmx:
        messages.success(request, words)
        return redirect(back)
    said = {"pulse:toast": {"text": words, "kind": "success"}, "pulse:done": {}}
    return HttpResponse(status=204, headers={"HX-Trigger": json.dumps(said)})


def address_of(request: PageRequest, act: Act) -> str:
    """Where its form posts."""
    return f"{request.path}?{act.query}" if act.query else request.get_full_path()


def dialog(request: PageRequest, act: Act, status: int, **context: Any) -> HttpResponse:
    """The dialog alone. The mark lets the browser show a refusal too."""
    context["address"] = address_of(request, act)
    response = render(request, "o2r/_act.html", {"act": act, **context}, status=status)
    response["X-Act"], response["HX-Reswap"] = "1", "innerHTML"
    return response
