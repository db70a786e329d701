"""One opportunity from first call to recognised revenue: where it stands, what to do, its story.

Decides what stands where, and what a click opens. What people do from here is `acts.py`; what
phases, signals and milestones mean is decided in `o2r/phases.py`, `health_signals.py` and
`tracker.py`; its story is `o2r/timeline.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from crm.api.base import domain_name
from crm.models import Deal
from crm.words import is_number
from o2r import phases, timeline
from o2r.cash import Cash, Wait, cash_of, planned_on
from o2r.facts import Facts, facts_of
from o2r.future import turns_of
from o2r.gather import Rulebook
from o2r.health_signals import Threshold
from o2r.milestones import title_of
from o2r.models import ActionItem, Opportunity, Review
from o2r.models.opportunity import ACTIVE, LOST
from o2r.permissions import may_do_item, may_edit_review, may_record, may_review, may_snooze
from o2r.services.entry import opportunity_of
from o2r.services.work import snooze_of
from o2r.tracker import MilestoneState, milestone_states
from o2r.views import acts
from o2r.views.acts import Act, Ask, act_of, dialog, done, perform
from o2r.views.shell import PageRequest, business_today, digest, for_sales, shell_of
from o2r.views.signals import PHASES, ROMAN, WHY, SignalShown, signal_shown
from o2r.written import business, day_words

REFRESH_S = 60
AT_ONCE = timedelta(minutes=1)
FEW = 5
KINDS = {
    timeline.CRM: "CRM",
    timeline.WRITE_BACK: "To the CRM",
    timeline.MILESTONE: "Milestones",
    timeline.PHASE: "Phases",
    timeline.SIGNAL: "Signals",
    timeline.ACTION: "Action items",
    timeline.ACTIVITY: "Activities",
    timeline.REVIEW: "Reviews",
    timeline.SNOOZE: "Snoozes",
}
SYMBOLS = {
    timeline.CRM: "world",
    timeline.WRITE_BACK: "external-link",
    timeline.MILESTONE: "flag",
    timeline.PHASE: "route",
    timeline.SIGNAL: "alert-circle",
    timeline.ACTION: "circle-check",
    timeline.ACTIVITY: "message",
    timeline.REVIEW: "clipboard-check",
    timeline.SNOOZE: "player-pause",
}
MONEY_LABELS = {
    "booked": "Booked",
    "invoiced": "Invoiced",
    "collected": "Collected",
    "recognised": "Recognised",
}
WAITS_FOR = {
    "po": "for the PO",
    "invoice": "to be invoiced",
    "payment": "for payment",
    "revenue": "to be recognised",
}


@dataclass(frozen=True)
class PhaseShown:
    """A stretch of the tracker and the gate at its end. `state`: done, here, ahead."""

    number: int
    roman: str
    name: str
    state: str
    note: str
    gate: MilestoneState | None
    gate_title: str
    planned_on: date | None
    actual_on: date | None
    is_next: bool


@for_sales
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def opportunity(request: PageRequest, id: str) -> HttpResponse:
    """The page, its live part, one dialog of it; or, posted to, an act upon it."""
    deal = found(id)
    now = timezone.now()
    today = business_today(now)
    if deal.deleted_at is not None:
        return gone(request, deal)
    row = opportunity_of(deal)
    row.deal = deal
    ask = Ask(row, request, now, today)
    act, status = None, 200
    if "do" in request.GET:
        act = act_of(ask)
        if request.method == "POST":
            status, words = perform(act)
            if status == 200:
                return done(request, words, address_of(deal))
    elif request.method == "POST":
        raise Http404("There is no such act.")
    is_part = bool(request.htmx) and not request.htmx.history_restore_request
    if act is not None and is_part:
        return dialog(request, act, status, base=address_of(deal))
    context = page_context(ask, act)
    if is_part and request.headers.get("X-Revision") == context["revision"]:
        return HttpResponse(status=204)
    template = "o2r/opportunity.html#live" if is_part else "o2r/opportunity.html"
    return render(request, template, context, status=status)


def found(word: str) -> Deal:
    """The deal of this id, ours or the CRM's; deleted ones too. Raises Http404."""
    if is_number(word) and not word.startswith("0"):
        rows = Deal.objects.filter(is_stub=False).select_related(
            "account", "owner", "contact", "opportunity__blocked_by"
        )
        for name in ("pk", "zoho_id"):
            deal = rows.filter(**{name: int(word)}).first()
            if deal is not None:
                return deal
    raise Http404("There is no opportunity with this id.")


def address_of(deal: Deal) -> str:
    return reverse("o2r:opportunity", args=[deal.pk])


def gone(request: PageRequest, deal: Deal) -> HttpResponse:
    """It was deleted, perhaps while its page was open. A live part or a dialog says so in its
    place (and asks no more); the page is not there."""
    by = f" by {deal.deleted_by}" if deal.deleted_by else ""
    on = day_words(business_today(deal.deleted_at)) if deal.deleted_at else ""
    where = "here" if deal.deleted_source == "local" else "in the CRM"
    said = f"{deal.name or 'This opportunity'} was deleted {where}{by} on {on}."
    context = {"said": said, "deal": deal}
    if not request.htmx:
        return render(request, "o2r/opportunity_gone.html", context, status=404)
    if "do" in request.GET:
        over = Act("It was deleted", "", lambda: "", is_over=True, banner=f"{said} {NOTHING_KEPT}")
        base = reverse("o2r:tracker")
        return dialog(request, over, 409, base=base)
    return render(request, "o2r/opportunity_gone.html#live", context)


NOTHING_KEPT = "What you entered was not kept. If it was deleted by mistake, restore it there."


def page_context(ask: Ask, act: Act | None) -> dict[str, Any]:
    """Everything on the page; `revision` is a mark of all of it but ages."""
    row, deal, today = ask.opportunity, ask.opportunity.deal, ask.today
    facts = facts_of([row.pk])[row.pk]
    rules = Rulebook.load().thresholds
    states = milestone_states(row, today)
    titles = {state.key: state.title for state in states if state.is_own}
    story = story_of(ask)
    items = items_of(ask)
    activities = list(row.activities.select_related("created_by")[:30])
    reviews = reviews_of(ask)
    snooze = snooze_of(row, today)
    shell = shell_of(ask.user, ask.now)
    may = decided(ask)
    turns = turns_of(facts, today, rules) if row.outcome == ACTIVE else []
    signal = signal_shown(row, today, titles=titles, turns=turns)
    line = tracker_line(row, facts, states, today)
    return {
        "deal": with_domain(deal),
        "opportunity": row,
        "today": today,
        "shell": shell,
        "base": address_of(deal),
        "here": ask.request.get_full_path() if not act else address_of(deal),
        "address": acts.address_of(ask.request, act) if act else "",
        "act": act,
        "signal": signal,
        "why": WHY.get(signal.key, "Signal"),
        "line": line,
        "roman": ROMAN[row.current_phase],
        "next_gate": next((phase for phase in line if phase.is_next), None),
        "cash": cash_context(cash(facts, states, rules, deal, today), row),
        "states": states,
        "findings": [finding_words(each) for each in row.findings],
        "items": items,
        "next_action": next_action(items, signal, row),
        "activities": activities,
        "reviews": reviews,
        "snooze": snooze,
        "may": may,
        "story": story,
        "refresh_seconds": REFRESH_S,
        "revision": digest(
            (
                today,
                ask.request.GET.urlencode(),
                deal.change_seq,
                [(s.key, s.pending, s.conflict, s.status) for s in states],
                row.health_signal,
                row.reasons,
                [(each.pk, each.updated_at) for each in (*items["open"], *items["done"])],
                [(each.pk, each.updated_at) for each in (*activities, *reviews)],
                snooze.pk if snooze else None,
                [(entry.id, entry.text) for entry in story["entries"]],
                {name: bool(decision) for name, decision in may.items()},
            )
        ),
    }


def with_domain(deal: Deal) -> Deal:
    """With the CRM's name in addresses, for the link into it."""
    deal.crm_domain = domain_name()  # type: ignore[attr-defined]
    return deal


def decided(ask: Ask) -> dict[str, Any]:
    """What this person may do here; a refusal carries why."""
    deal = ask.opportunity.deal
    return {
        "record": may_record(ask.user, deal),
        "review": may_review(ask.user),
        "snooze": may_snooze(ask.user, deal),
    }


# -- where it stands ----------------------------------------------------------------------------


def tracker_line(
    row: Opportunity, facts: Facts, states: list[MilestoneState], today: date
) -> list[PhaseShown]:
    """The four phases as a line, with the gate at the end of each."""
    by_key = {state.key: state for state in states}
    reached = facts.reached(today)
    stays = phases.stays_of(facts, today)
    shown, next_key = [], ""
    if row.outcome == ACTIVE:
        next_key = phases.gate_of(row.current_phase, facts)
    for number, name in PHASES.items():
        came = [key for key in phases.GATES[number] if key in reached]
        gate = min(came, key=lambda key: reached[key]) if came else phases.gate_of(number, facts)
        if number == row.current_phase and next_key:
            gate = next_key if not came else gate
        state = "done" if number < row.current_phase else "ahead"
        if number == row.current_phase:
            state = {ACTIVE: "here", LOST: "stopped"}.get(row.outcome, "done")
        shown.append(
            PhaseShown(
                number,
                ROMAN[number],
                name,
                state,
                phase_note(row, number, state, stays, today),
                by_key.get(gate),
                " or ".join(title_of(key) for key in phases.GATES[number])
                if not came and number == 3
                else title_of(gate),
                planned_on(gate, facts, today),
                reached.get(gate),
                gate == next_key and gate not in reached,
            )
        )
    return shown


def phase_note(
    row: Opportunity, number: int, state: str, stays: dict[int, int], today: date
) -> str:
    """How long it stood there, or stands there now."""
    if state == "here" and row.phase_entered_on is not None:
        days = phases.days_in_phase(row.phase_entered_on, today)
        return f"{days_long(days)} here, since {day_words(row.phase_entered_on)}"
    if number in stays:
        return f"took {days_long(stays[number])}"
    if state == "stopped":
        return "lost here"
    return "passed over" if state == "done" and number < row.current_phase else ""


def days_long(days: int) -> str:
    return f"{days:,} day{'s' * (days != 1)}"


def cash(
    facts: Facts,
    states: list[MilestoneState],
    rules: dict[str, Threshold],
    deal: Deal,
    today: date,
) -> Cash:
    given = {
        state.key: (state.amount_minor, state.currency)
        for state in states
        if state.amount_minor is not None
        and (state.amount_minor, state.currency) != (deal.amount_minor, deal.currency)
    }
    rule = rules.get("invoice_no_payment")
    return cash_of(
        facts,
        today,
        amount_minor=deal.amount_minor,
        currency=deal.currency,
        amounts=given,
        overdue_after=rule.red if rule else None,
    )


def cash_context(line: Cash, row: Opportunity) -> dict[str, Any]:
    """The money in bars (percent of the deal's amount) and where the rest waits, in words."""
    whole = row.deal.amount_minor or 0
    money = [
        {
            "label": MONEY_LABELS[each.key],
            "key": each.key,
            "minor": each.minor,
            "on": each.on,
            "share": min(100, each.minor * 100 // whole) if each.minor and whole > 0 else 0,
        }
        for each in line.money
    ]
    waits = [] if row.outcome == LOST else [wait_row(wait) for wait in line.waits]
    return {
        "steps": line.steps,
        "money": money,
        "waits": waits,
        "currency": line.currency,
        "overdue": None if row.outcome == LOST else line.overdue,
        "left_out": [title_of(key) for key in line.left_out],
    }


def wait_row(wait: Wait) -> dict[str, Any]:
    return {
        "what": WAITS_FOR[wait.milestone],
        "minor": wait.minor,
        "since": wait.since,
        "days": days_long(wait.days),
        "overdue": days_long(wait.overdue_days) if wait.overdue_days > 0 else "",
    }


def finding_words(finding: dict[str, str]) -> str:
    """What is wrong with the dates, as a sentence."""
    milestone, other = title_of(finding["milestone"]), title_of(finding.get("other") or "")
    return {
        phases.GAP: f"{milestone} has no date, but {other} has one.",
        phases.ORDER: f"{milestone} is dated before {other}, which comes first.",
        phases.EARLY: f"{milestone} is dated before the deal was created.",
        phases.LOST_WITH_REVENUE: "The deal is lost, but its revenue is recognised.",
    }[finding["kind"]]


# -- what is to do ------------------------------------------------------------------------------


def items_of(ask: Ask) -> dict[str, list[ActionItem]]:
    """Open items by the day they are due, those without one last; the last few that are done."""
    rows = ask.opportunity.action_items.select_related("owner", "done_by", "created_by")
    everything = list(rows)
    for item in everything:
        item.opportunity = ask.opportunity
        item.is_mine = bool(may_do_item(ask.user, item))  # type: ignore[attr-defined]
        item.is_late = bool(item.due_on and item.due_on < ask.today)  # type: ignore[attr-defined]
    still_open = [item for item in everything if item.done_at is None]
    ended = [item for item in everything if item.done_at is not None]
    return {
        "open": sorted(still_open, key=lambda item: (item.due_on or date.max, item.pk)),
        "done": sorted(ended, key=lambda item: (item.done_at, item.pk), reverse=True)[:FEW],
    }


def next_action(
    items: dict[str, list[ActionItem]], signal: SignalShown, row: Opportunity
) -> dict[str, Any] | None:
    """The first open item; without one, what the worst reason advises."""
    if items["open"]:
        return {"item": items["open"][0]}
    if signal.first is not None:
        return {"words": signal.first.advice}
    return None


def reviews_of(ask: Ask) -> list[Review]:
    rows = list(ask.opportunity.reviews.all()[:20])
    for review in rows:
        editable = may_edit_review(ask.user, review, ask.today)
        review.may_edit = bool(editable)  # type: ignore[attr-defined]
    return rows


def story_of(ask: Ask) -> dict[str, Any]:
    """One page of the timeline: all of it, or one kind; the newest, or what is older."""
    kind = ask.request.GET.get("kind", "")
    kinds = (kind,) if kind in KINDS else timeline.KINDS
    cursor = ask.request.GET.get("older", "")
    try:
        page = timeline.timeline_of(ask.opportunity, cursor=cursor, kinds=kinds)
    except timeline.NoCursor:
        cursor = ""
        page = timeline.timeline_of(ask.opportunity, kinds=kinds)
    base = address_of(ask.opportunity.deal)

    def at(**given: str) -> str:
        query = urlencode({name: word for name, word in given.items() if word})
        return f"{base}?{query}" if query else base

    return {
        "entries": page.entries,
        "rows": [
            {"entry": entry, "icon": SYMBOLS[entry.kind], "learnt_at": learnt_apart(entry)}
            for entry in page.entries
        ],
        "kinds": [
            {"label": label, "href": at(kind=word), "active": word == kind}
            for word, label in {"": "All", **KINDS}.items()
        ],
        "newest": at(kind=kind) if cursor else "",
        "older": at(kind=kind, older=page.next) if page.next else "",
        "is_first": not cursor,
    }


def learnt_apart(entry: timeline.Entry) -> datetime | None:
    """When we learnt of it, where that is not when it happened."""
    if entry.happened_at is None:
        is_apart = business(entry.learnt_at).date() != entry.happened_on
    else:
        is_apart = abs(entry.learnt_at - entry.happened_at) >= AT_ONCE
    return entry.learnt_at if is_apart else None
