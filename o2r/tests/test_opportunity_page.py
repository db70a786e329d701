"""One opportunity's page: what it shows, what people do from it, and what is refused how."""

from __future__ import annotations

import html
import json
import re
from datetime import date, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from crm.models import Deal, OutboxEntry
from crm.writeback import versions
from o2r.models import ActionItem, Activity, Milestone, Opportunity, Review, Snooze
from o2r.tests import mirror_rows as rows
from o2r.views.shell import business_today
from o2r.written import day_words

pytestmark = pytest.mark.django_db
HTMX = {"HX-Request": "true"}


@pytest.fixture(autouse=True)
def configured(settings: Any) -> None:
    settings.ZOHO = rows.ZOHO
    rows.synced()


@pytest.fixture
def today() -> date:
    return business_today(timezone.now())


@pytest.fixture
def ann(rep: Any) -> Any:
    return rows.owner("Ann Lee", "rep@example.com")


@pytest.fixture
def deal(ann: Any, today: date) -> Deal:
    """Proposal sent 40 days ago, no PO: red."""
    found = rows.deal(
        "Landing zone",
        sgd=12_345_600,
        owner=ann,
        account=rows.account("Acme"),
        territory="APAC",
        proposal_date=today - timedelta(days=40),
    )
    # A version as the mirror gives them, so that later ones are greater.
    versions.renew(found, timezone.now())
    rows.count()
    found.refresh_from_db()
    return found


def at(deal: Deal, **query: Any) -> str:
    words = "&".join(f"{name}={word}" for name, word in query.items())
    return f"/o2r/{deal.pk}" + (f"?{words}" if words else "")


def page_of(client: Client, path: str, status: int = 200, **headers: str) -> str:
    response = client.get(path, headers=headers)
    assert response.status_code == status
    return response.content.decode()


def plain(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def version(deal: Deal) -> int:
    deal.refresh_from_db()
    return deal.change_seq


def post(client: Client, path: str, status: int, **said: Any) -> str:
    response = client.post(path, said)
    assert response.status_code == status, plain(response.content.decode())[:400]
    return response.content.decode()


def opportunity(deal: Deal) -> Opportunity:
    return Opportunity.objects.get(deal=deal)


# --- who and what --------------------------------------------------------------------------------


def test_strangers_sign_in_first_and_persons_without_a_role_are_told(
    client: Client, django_user_model: Any, deal: Deal
) -> None:
    assert client.get(at(deal)).headers["Location"].startswith("/login")
    nobody = django_user_model.objects.create_user("nobody")
    client.force_login(nobody, backend="django.contrib.auth.backends.ModelBackend")
    assert "no role yet" in page_of(client, at(deal), 403)


def test_the_page_tells_where_it_stands_why_and_what_to_do(
    rep_client: Client, deal: Deal, today: date
) -> None:
    page = page_of(rep_client, at(deal))
    for mark in ("milestone-tracker", "timeline", "health-signal", "cash-line"):
        assert page.count(f'data-testid="{mark}"') == 1, mark
    words = plain(page)
    sent, red_on = today - timedelta(days=40), today - timedelta(days=9)
    assert "Landing zone" in words and "Acme" in words
    assert "40 days, no PO" in words
    assert f"Red since {day_words(red_on)}" in words
    assert f"40 days here, since {day_words(sent)}" in words
    assert "Ask for the purchase order" in words
    assert f"waits for the PO since {day_words(sent)}, 40 days" in words
    assert "SGD 123,456.00" in words.replace("\xa0", " ")


def test_a_yellow_one_says_on_which_day_it_turns_red(
    rep_client: Client, ann: Any, today: date
) -> None:
    deal = rows.deal("Soon", owner=ann, proposal_date=today - timedelta(days=20))
    rows.count()
    red_on = day_words(today + timedelta(days=11))
    assert f"Turns red on {red_on} if no PO arrives" in plain(page_of(rep_client, at(deal)))


def test_a_green_one_says_what_makes_it_worse(rep_client: Client, ann: Any, today: date) -> None:
    deal = rows.deal("Fresh", owner=ann, proposal_date=today - timedelta(days=3))
    rows.count()
    yellow_on = day_words(today + timedelta(days=12))
    assert f"Turns yellow on {yellow_on} if no PO arrives" in plain(page_of(rep_client, at(deal)))


def test_the_id_of_the_crm_leads_here_too_and_nonsense_nowhere(
    rep_client: Client, deal: Deal
) -> None:
    assert "Landing zone" in page_of(rep_client, f"/o2r/{deal.zoho_id}")
    for word in ("0", "x", "99999999999999999999999", "%00"):
        page_of(rep_client, f"/o2r/{word}", 404)


def test_the_live_part_comes_alone_and_only_when_it_differs(rep_client: Client, deal: Deal) -> None:
    part = page_of(rep_client, at(deal), **HTMX)
    assert part.strip().startswith('<div class="page" id="live"')
    revision = re.search(r'"X-Revision": "(\w+)"', part)[1]
    known = {**HTMX, "X-Revision": revision}
    assert rep_client.get(at(deal), headers=known).status_code == 204
    rep_client.post(at(deal, do="item"), {"text": "Call them"})
    assert rep_client.get(at(deal), headers=known).status_code == 200


def test_names_and_notes_cannot_write_markup(rep_client: Client, ann: Any) -> None:
    deal = rows.deal("<script>alert(1)</script>", owner=ann)
    rows.count()
    post(rep_client, at(deal, do="item"), 302, text="<img src=x onerror=alert(1)>")
    page = page_of(rep_client, at(deal))
    assert "<script>alert" not in page and "<img src=x" not in page


# --- recording -----------------------------------------------------------------------------------


def test_update_phase_records_the_gate_here_and_for_the_crm(
    rep_client: Client, deal: Deal, today: date
) -> None:
    page = page_of(rep_client, at(deal, do="phase"))
    assert "Update phase: PO received" in page
    assert f'value="{today.isoformat()}"' in page
    said = {"completed_on": today.isoformat(), "status": "pending", "version": version(deal)}
    said |= {"initial-status": "pending"}
    response = rep_client.post(at(deal, do="phase"), said, follow=True)
    assert response.redirect_chain == [(at(deal), 302)]
    assert "PO received recorded. Phase III, On Track." in plain(response.content.decode())
    deal.refresh_from_db()
    assert deal.po_date == today
    assert (opportunity(deal).current_phase, opportunity(deal).health_signal) == (3, "green")
    entry = OutboxEntry.objects.get(record_id=deal.pk)
    assert (entry.field, json.loads(entry.new)) == ("po_date", today.isoformat())
    assert "Pending" in page_of(rep_client, at(deal))


def test_with_htmx_the_page_is_told_and_the_dialog_left(
    rep_client: Client, deal: Deal, today: date
) -> None:
    dialog = page_of(rep_client, at(deal, do="phase"), **HTMX)
    assert "<html" not in dialog and 'name="completed_on"' in dialog
    said = {"completed_on": today.isoformat(), "version": version(deal)}
    response = rep_client.post(at(deal, do="phase"), said, headers=HTMX)
    assert response.status_code == 204
    told = json.loads(response.headers["HX-Trigger"])
    assert "pulse:done" in told and "PO received recorded" in told["pulse:toast"]["text"]


@pytest.mark.parametrize(
    ("said", "field", "why"),
    [
        ({"completed_on": "2098-01-01"}, "completed_on", "is in the future"),
        ({"completed_on": "yesterday"}, "completed_on", "Write the day as"),
        ({"status": "blocked"}, "reason", "Say what blocks it"),
        ({"status": "nonsense"}, "status", "not one of"),
        ({"amount": "12.345"}, "amount", "decimal"),
        ({"amount": "-1"}, "amount", "not negative"),
        ({"target_on": "0001-01-01"}, "target_on", "Years"),
    ],
)
@pytest.mark.parametrize("headers", [{}, HTMX])
def test_a_refusal_stands_beside_its_field_and_keeps_what_was_typed(
    rep_client: Client, deal: Deal, said: Any, field: str, why: str, headers: Any
) -> None:
    said = {"note": "typed with care", **said}
    response = rep_client.post(at(deal, do="milestone", key="po"), said, headers=headers)
    page = response.content.decode()
    assert response.status_code == 422
    beside = re.search(rf'<label for="id_{field}">.*?id="id_{field}"', page, re.S)[0]
    assert why in html.unescape(beside)
    assert "typed with care" in page
    assert not Milestone.objects.exists()


def test_a_day_before_the_creation_is_asked_about_once(rep_client: Client, deal: Deal) -> None:
    early = (timezone.now() - timedelta(days=200)).date().isoformat()
    address = at(deal, do="milestone", key="po")
    page = post(rep_client, address, 409, completed_on=early, version=version(deal))
    assert "before the deal was created" in page and 'name="confirm_early"' in page
    post(rep_client, address, 302, completed_on=early, confirm_early="on", version=version(deal))
    deal.refresh_from_db()
    assert deal.po_date.isoformat() == early


def test_the_second_of_two_sees_what_the_first_recorded_and_decides(
    rep_client: Client, manager_client: Client, deal: Deal, today: date
) -> None:
    seen = version(deal)
    yesterday = today - timedelta(days=1)
    address = at(deal, do="milestone", key="po")
    first = {"completed_on": yesterday.isoformat(), "note": "By mail", "version": seen}
    post(rep_client, address, 302, **first)
    mine = {"completed_on": today.isoformat(), "note": "", "initial-note": "", "version": seen}
    page = post(manager_client, address, 409, **mine)
    words = plain(page)
    assert f"recorded PO received on {day_words(yesterday)}" in words
    assert f'value="{today.isoformat()}"' in page, "what was typed is kept"
    deal.refresh_from_db()
    assert deal.po_date == yesterday
    newer = re.search(r'name="version" value="(\d+)"', page)[1]
    post(manager_client, address, 302, **{**mine, "version": newer})
    deal.refresh_from_db()
    assert deal.po_date == today
    assert Milestone.objects.get(key="po").note == "By mail", "what was not touched stays"


def test_who_may_not_record_is_told_why_and_has_no_button(person: Any, deal: Deal) -> None:
    other = Client()
    rows.owner("Bob", "bob@example.com")
    other.force_login(person("rep", "bob"), backend="django.contrib.auth.backends.ModelBackend")
    page = page_of(other, at(deal))
    assert "This belongs to somebody else" in page
    assert "do=phase" not in page and "do=item" not in page
    said = post(other, at(deal, do="phase"), 403, completed_on="2026-01-01")
    assert "This belongs to somebody else" in said
    deal.refresh_from_db()
    assert deal.po_date is None


def test_a_lost_deal_records_nothing_and_says_so(manager_client: Client, ann: Any) -> None:
    deal = rows.deal("Gone", stage="closed_lost", owner=ann)
    rows.count()
    page = page_of(manager_client, at(deal))
    assert "This deal is lost" in page and "do=milestone" not in page
    said = post(manager_client, at(deal, do="milestone", key="po"), 409, completed_on="2026-01-01")
    assert "Reopen it first" in said


def test_deleted_while_its_page_is_open(rep_client: Client, deal: Deal) -> None:
    page_of(rep_client, at(deal))
    gone = {"deleted_at": timezone.now(), "deleted_by": "Priya Nair", "change_seq": 10**9}
    Deal.objects.filter(pk=deal.pk).update(**gone)
    whole = page_of(rep_client, at(deal), 404)
    assert "Landing zone was deleted in the CRM by Priya Nair on" in whole
    part = page_of(rep_client, at(deal), **HTMX)
    assert "was deleted in the CRM" in part and "hx-get" not in part, "it asks no more"
    answer = rep_client.post(at(deal, do="phase"), {"completed_on": "2026-01-01"}, headers=HTMX)
    assert answer.status_code == 409 and answer.headers["X-Act"] == "1"
    assert "What you entered was not kept" in answer.content.decode()


def test_a_plan_stands_above_and_the_day_below(rep_client: Client, deal: Deal, today: date) -> None:
    target = today + timedelta(days=9)
    said = {"target_on": target.isoformat(), "version": version(deal)}
    post(rep_client, at(deal, do="milestone", key="po", plan=1), 302, **said)
    words = plain(page_of(rep_client, at(deal)))
    assert f"planned {day_words(target)}" in words
    assert opportunity(deal).current_phase == 2, "a plan is no fact"


def test_a_milestone_of_ones_own_stays_here(rep_client: Client, deal: Deal) -> None:
    post(rep_client, at(deal, do="own"), 302, title="Pilot live", version=version(deal))
    page = page_of(rep_client, at(deal))
    assert "Pilot live" in page
    again = post(rep_client, at(deal, do="own"), 422, title="Pilot live", version=version(deal))
    assert "already" in again
    assert not OutboxEntry.objects.exists()


def test_the_second_acts_are_said_without_the_name_of_a_field_that_is_not_there(
    rep_client: Client, deal: Deal
) -> None:
    assert "Give it a name" in post(rep_client, at(deal, do="own"), 422, title=" ")
    page_of(rep_client, at(deal, do="milestone", key="nonsense"), 404)
    page_of(rep_client, at(deal, do="nonsense"), 404)
    assert rep_client.post(at(deal)).status_code == 404


# --- work ----------------------------------------------------------------------------------------


def test_an_action_item_is_added_changed_done_opened_again_and_removed(
    rep_client: Client, deal: Deal, ann: Any, today: date
) -> None:
    due = today + timedelta(days=2)
    assert "Say what is to be done" in post(rep_client, at(deal, do="item"), 422, text=" ")
    post(rep_client, at(deal, do="item"), 302, text="Call them", due_on=due, owner=ann.pk)
    item = ActionItem.objects.get(rule="")
    assert (item.text, item.due_on, item.owner) == ("Call them", due, ann)
    assert f"due {day_words(due)}" in plain(page_of(rep_client, at(deal)))
    changed = {"text": "Write to them", "initial-text": "Call them"}
    post(rep_client, at(deal, do="item", id=item.pk), 302, **changed)
    item.refresh_from_db()
    assert (item.text, item.due_on) == ("Write to them", due)
    post(rep_client, at(deal, do="tick", id=item.pk), 302)
    item.refresh_from_db()
    assert item.done_at is not None
    post(rep_client, at(deal, do="reopen", id=item.pk), 302)
    post(rep_client, at(deal, do="drop-item", id=item.pk), 302)
    assert not ActionItem.objects.filter(rule="").exists()
    page_of(rep_client, at(deal, do="item", id=item.pk), 404)


def test_an_item_of_another_opportunity_is_not_found_here(rep_client: Client, deal: Deal) -> None:
    post(rep_client, at(deal, do="item"), 302, text="Call them")
    item = ActionItem.objects.get(rule="")
    other = rows.deal("Other", owner=deal.owner)
    rows.count()
    post(rep_client, at(other, do="tick", id=item.pk), 404)
    for word in ("x", "-1", "9" * 30):
        page_of(rep_client, at(deal, do="tick", id=word), 404)


def test_an_activity_is_planned_completed_and_removed(rep_client: Client, deal: Deal) -> None:
    said = {"type": "meeting", "description": "Kickoff talk", "scheduled_at": "2026-01-10T10:00"}
    post(rep_client, at(deal, do="activity"), 302, **said)
    activity = Activity.objects.get()
    assert activity.scheduled_at.isoformat() == "2026-01-10T02:00:00+00:00", "Singapore's clock"
    assert "planned for 10 Jan 2026, 10:00" in plain(page_of(rep_client, at(deal)))
    wrong = post(rep_client, at(deal, do="activity"), 422, type="call", scheduled_at="soon")
    assert "Write the time as" in wrong
    post(rep_client, at(deal, do="complete", id=activity.pk), 302)
    activity.refresh_from_db()
    assert (activity.outcome, activity.completed_at is None) == ("successful", False)
    post(rep_client, at(deal, do="drop-activity", id=activity.pk), 302)
    assert not Activity.objects.exists()


def test_a_review_is_kept_with_the_signal_as_it_was_and_changed_on_its_day(
    rep_client: Client, deal: Deal
) -> None:
    assert "Say what was decided" in post(rep_client, at(deal, do="review"), 422, decision="")
    post(rep_client, at(deal, do="review"), 302, decision="Call the buyer", note="")
    review = Review.objects.get()
    assert (review.health_signal, review.decision) == ("red", "Call the buyer")
    post(rep_client, at(deal, do="review", id=review.pk), 302, decision="Visit the buyer")
    assert Review.objects.get().decision == "Visit the buyer"
    assert "it was red" in plain(page_of(rep_client, at(deal)))


def test_it_is_blocked_with_a_reason_and_unblocked(rep_client: Client, deal: Deal) -> None:
    assert "Say what blocks it" in post(rep_client, at(deal, do="block"), 422, reason="")
    post(rep_client, at(deal, do="block"), 302, reason="Legal review", version=version(deal))
    assert opportunity(deal).health_signal == "blocked"
    words = plain(page_of(rep_client, at(deal)))
    assert "Why it is blocked" in words and "Legal review" in words
    post(rep_client, at(deal, do="unblock"), 302)
    assert opportunity(deal).health_signal == "red"


def test_snoozing_needs_a_day_and_a_reason_and_keeps_the_signal(
    rep_client: Client, deal: Deal, today: date
) -> None:
    assert "on which day" in post(rep_client, at(deal, do="snooze"), 422, reason="Holidays")
    late = {"until": today.isoformat(), "reason": "Holidays"}
    assert "A day after today" in post(rep_client, at(deal, do="snooze"), 422, **late)
    until = today + timedelta(days=7)
    post(rep_client, at(deal, do="snooze"), 302, until=until.isoformat(), reason="Holidays")
    words = plain(page_of(rep_client, at(deal)))
    assert f"Alerts wait until {day_words(until)}: Holidays" in words
    assert opportunity(deal).health_signal == "red"
    post(rep_client, at(deal, do="wake"), 302)
    assert not Snooze.objects.filter(ended_at=None).exists()


# --- the story -----------------------------------------------------------------------------------


def test_the_timeline_is_paged_and_filtered_by_kind(rep_client: Client, deal: Deal) -> None:
    for number in range(40):
        post(rep_client, at(deal, do="item"), 302, text=f"Step {number}")
    page = page_of(rep_client, at(deal))
    assert page.count('data-testid="timeline-entry"') == 30
    older = html.unescape(re.search(r'href="([^"]*older=[^"]*)"', page)[1])
    second = page_of(rep_client, older)
    assert second.count('data-testid="timeline-entry"') > 5
    assert not set(re.findall(r"To do: Step \d+<", page)) & set(
        re.findall(r"To do: Step \d+<", second)
    )
    signals = page_of(rep_client, at(deal, kind="signal"))
    assert set(re.findall(r'<li data-kind="(\w+)"', signals)) == {"signal"}
    for query in ({"kind": "nonsense"}, {"older": "nonsense"}):
        assert page_of(rep_client, at(deal, **query)).count('data-testid="timeline-entry"') == 30


def test_a_day_learnt_later_says_when_it_was_learnt(rep_client: Client, deal: Deal) -> None:
    page = page_of(rep_client, at(deal, kind="phase"))
    entry = plain(re.search(r'<li data-kind="phase".*?</li>', page, re.S)[0])
    assert "Phase I → II" in entry and "learnt" in entry


def test_the_number_of_queries_does_not_grow_with_what_is_kept(
    rep_client: Client, deal: Deal, django_assert_max_num_queries: Any
) -> None:
    def queries() -> int:
        with django_assert_max_num_queries(60) as captured:
            page_of(rep_client, at(deal))
        return len(captured)

    for do, said in (
        ("item", {"text": "One"}),
        ("activity", {"type": "call", "description": "One"}),
        ("review", {"decision": "One"}),
    ):
        post(rep_client, at(deal, do=do), 302, **said)
    few = queries()
    for number in range(5):
        post(rep_client, at(deal, do="item"), 302, text=f"Step {number}")
        post(rep_client, at(deal, do="activity"), 302, type="call", description=f"Call {number}")
        post(rep_client, at(deal, do="review"), 302, decision=f"Decision {number}")
    assert queries() == few
