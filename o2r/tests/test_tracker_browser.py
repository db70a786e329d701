"""A manager's Monday on the tracker, with a CRM behind it; and the pages under the hand."""

from __future__ import annotations

import os
from datetime import date, timedelta
from typing import Any

import pytest
from django.utils import timezone

from crm.models import CrmConnection, Deal, OutboxEntry, WriteBack, outbox
from crm.tests.synced import Crm
from o2r.models import ActionItem, Opportunity, Review
from o2r.tests import mirror_rows as rows
from o2r.tests.browsing import CUT_OFF, sign_in, violations
from o2r.views.shell import business_today
from o2r.written import day_words

os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "1")

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
TERRITORY = "India"


@pytest.fixture
def today() -> date:
    return business_today(timezone.now())


@pytest.fixture
def monday(crm: Crm, today: date) -> Deal:
    """A mirror of the sandbox in which a territory has three deals, the first of them red: its
    proposal is 40 days old. The two others are there for the review. What is recorded goes to the
    CRM at once."""
    crm.sync()
    still_open = Deal.objects.live().filter(stage_type="open", amount_minor__isnull=False)
    chosen = list(still_open.order_by("pk")[:3])
    later = ("PO_Date", "Kickoff_Date", "Signoff_Date", "Invoice_Date", "Payment_Date")
    others = Deal.objects.live().filter(territory=TERRITORY)
    for deal in others.exclude(pk__in=[deal.pk for deal in chosen]):
        crm.control("edit", module="Deals", id=deal.zoho_id, values={"Territory": "EMEA"})
    for number, deal in enumerate(chosen):
        sent = today - timedelta(days=40 - number * 10)
        values = {"Territory": TERRITORY, "Proposal_Date": sent.isoformat()}
        there = crm.record(deal.zoho_id)
        values |= dict.fromkeys(name for name in (*later, "Revenue_Date") if there.get(name))
        crm.control("edit", module="Deals", id=deal.zoho_id, values=values)
    crm.sync("delta")
    org_id = CrmConnection.objects.values_list("org_id", flat=True).first() or ""
    WriteBack.objects.update_or_create(
        pk=1, defaults={"mode": outbox.ON, "is_killed": False, "org_id": org_id}
    )
    found = Deal.objects.get(pk=chosen[0].pk)
    assert Opportunity.objects.get(deal=found).health_signal == "red"
    return found


def test_a_managers_monday(
    page: Any, live_server: Any, manager: Any, monday: Deal, crm: Crm, today: date
) -> None:
    sign_in(page.context, live_server.url, manager)
    # Open the tracker, filter to a territory, open the red one.
    page.goto(f"{live_server.url}/o2r")
    assert page.inner_text("h1") == "O2R Tracker Dashboard"
    page.locator("select[name=territory]").select_option(TERRITORY)
    page.get_by_role("button", name="Filter", exact=True).click()
    page.wait_for_url("**/o2r?territory=India")
    assert page.locator('[data-testid="opportunity-row"]').count() == 3
    assert violations(page) == []
    card = page.locator('[data-testid="opportunity-card"]', has_text=monday.name)
    assert "40 days, no PO" in card.inner_text()
    card.get_by_role("link", name="View Details").click()
    page.wait_for_url(f"**/o2r/{monday.pk}")
    # Read why, and since when.
    why = page.inner_text('[data-testid="reasons"]')
    assert "40 days, no PO" in why
    assert f"Red since {day_words(today - timedelta(days=9))}" in why
    assert violations(page) == []
    # Record the PO.
    page.get_by_role("link", name="Update Phase").click()
    page.wait_for_selector("#act:modal")
    assert page.url.endswith("?do=phase"), "the open dialog has an address"
    assert violations(page) == []
    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_selector(".toast:has-text('PO received recorded. Phase III, On Track.')")
    page.wait_for_selector('[data-testid="health-signal"][data-signal="green"]')
    assert page.url.endswith(f"/o2r/{monday.pk}")
    assert "0 days here" in page.inner_text('[data-testid="milestone-tracker"] .is-here')
    # It is in the CRM.
    assert crm.record(monday.zoho_id)["PO_Date"] == today.isoformat()
    statuses = OutboxEntry.objects.filter(record_id=monday.pk).values_list("status", flat=True)
    assert set(statuses) <= {outbox.SENT, outbox.DONE}
    # The proposed item has ended with its reason; one's own is closed by hand.
    assert not ActionItem.objects.filter(opportunity__deal=monday, done_at=None).exists()
    page.get_by_role("link", name="Action item", exact=True).click()
    page.get_by_label("What is to be done").fill("Send the kickoff invitation")
    page.get_by_role("button", name="Add", exact=True).click()
    item = page.locator('[data-testid="action-item"]', has_text="Send the kickoff invitation")
    item.get_by_role("button", name="Done").click()
    page.wait_for_selector(".toast:has-text('Done: Send the kickoff invitation')")
    item.wait_for(state="detached")
    story = page.inner_text('[data-testid="timeline"]')
    assert "Recorded PO received on" in story and "Done: Send the kickoff invitation" in story
    # Walk the review by keyboard: the mended one has left it.
    page.keyboard.press("g")
    page.keyboard.press("v")
    page.wait_for_url("**/reviews")
    page.goto(f"{live_server.url}/reviews?territory=India")
    assert "Start: 1 of 2" in page.inner_text("main")
    assert violations(page) == []
    page.get_by_role("link", name="Start: 1 of 2").click()
    page.wait_for_selector("[data-testid=position]:has-text('1 of 2')")
    assert violations(page) == []
    page.keyboard.press("e")
    page.keyboard.type("Visit the buyer")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-testid=position]:has-text('2 of 2')")
    page.wait_for_selector(".toast:has-text('Review kept')")
    page.keyboard.press("k")
    page.wait_for_selector("[data-testid=position]:has-text('1 of 2')")
    assert "Visit the buyer" in page.inner_text('[data-testid="review-one"]')
    page.keyboard.press("j")
    page.wait_for_selector("[data-testid=position]:has-text('2 of 2')")
    page.keyboard.press("j")
    page.wait_for_selector('[data-testid="review-queue"]')
    assert Review.objects.get().decision == "Visit the buyer"


# --- under the hand ------------------------------------------------------------------------------


@pytest.fixture
def tracked(settings: Any, today: date) -> Deal:
    """A mirror without a CRM behind it: a red one of the rep's, and others around it."""
    settings.ZOHO = rows.ZOHO
    settings.CELERY_TASK_ALWAYS_EAGER = False
    rows.synced()
    ann, acme = rows.owner("Ann Lee", "rep@example.com"), rows.account("Acme")
    red = rows.deal(
        "Landing zone of the Bundesbeschaffungsgesellschaft",
        sgd=9_000_000_00,
        amount_minor=123_456_789_00,
        currency="INR",
        owner=ann,
        account=acme,
        territory="Asia Pacific and Japan",
        service_line="Cloud Migration and Modernisation",
        strategic_account=True,
        aws_funded_tag="MAP",
        proposal_date=today - timedelta(days=40),
    )
    for number in range(30):
        days = {"proposal_date": today - timedelta(days=number)}
        days |= {"po_date": today - timedelta(days=number)} if number % 3 else {}
        days |= {"invoice_date": today - timedelta(days=50)} if number % 7 == 0 else {}
        rows.deal(f"Deal {number}", owner=ann, account=acme, territory="APAC", **days)
    rows.count()
    return red


@pytest.fixture
def signed_in(page: Any, live_server: Any, rep: Any, tracked: Deal) -> Any:
    sign_in(page.context, live_server.url, rep)
    page.base = live_server.url
    return page


def addresses(deal: Deal) -> list[str]:
    return ["/o2r", f"/o2r/{deal.pk}", "/reviews", f"/reviews?at={deal.pk}"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_page_has_a_known_barrier(signed_in: Any, tracked: Deal, theme: str) -> None:
    signed_in.emulate_media(color_scheme=theme)
    found = {}
    for path in (*addresses(tracked), f"/o2r/{tracked.pk}?do=milestone&key=po"):
        signed_in.goto(signed_in.base + path)
        signed_in.wait_for_load_state("networkidle")
        found[path] = violations(signed_in)
    assert {path: barriers for path, barriers in found.items() if barriers} == {}


@pytest.mark.parametrize("width", [360, 640, 834, 1024, 1280])
def test_no_page_scrolls_sideways_or_is_cut_off(signed_in: Any, tracked: Deal, width: int) -> None:
    signed_in.set_viewport_size({"width": width, "height": 800})
    for path in addresses(tracked):
        signed_in.goto(signed_in.base + path)
        signed_in.wait_for_load_state("networkidle")
        assert signed_in.evaluate("document.documentElement.scrollWidth") <= width, path
        assert signed_in.evaluate(CUT_OFF) == [], path


def test_the_first_glance_holds_the_four_cards_and_the_button(signed_in: Any) -> None:
    signed_in.set_viewport_size({"width": 1280, "height": 800})
    signed_in.goto(signed_in.base + "/o2r")
    for mark in ("total-pipeline", "cycle-time", "health-status", "phase-distribution"):
        box = signed_in.locator(f'[data-testid="{mark}"]').bounding_box()
        assert box["y"] + box["height"] <= 800, mark
    signed_in.get_by_role("button", name="Sync with CRM").click()
    signed_in.wait_for_selector(".toast:has-text('Sync Started')")
    signed_in.get_by_role("button", name="Sync with CRM").click()
    signed_in.wait_for_selector(".toast:has-text('Sync already running')")


def test_an_opportunity_shows_where_it_stands_at_the_first_glance(
    signed_in: Any, tracked: Deal
) -> None:
    signed_in.set_viewport_size({"width": 1280, "height": 800})
    signed_in.goto(f"{signed_in.base}/o2r/{tracked.pk}")
    for mark in ("milestone-tracker", "reasons", "action-items"):
        box = signed_in.locator(f'[data-testid="{mark}"]').bounding_box()
        assert box["y"] + box["height"] <= 800, mark


def test_a_number_filters_in_place_and_the_bar_follows(signed_in: Any) -> None:
    signed_in.goto(signed_in.base + "/o2r")
    signed_in.evaluate("window.same = true")
    signed_in.locator('[data-testid="health-status"] a', has_text="Need Attention").click()
    signed_in.wait_for_url("**/o2r?health_signal=yellow")
    signed_in.wait_for_selector(".chip:has-text('Signal: Yellow')")
    signed_in.wait_for_function("document.querySelector('[name=health_signal]').value === 'yellow'")
    assert signed_in.evaluate("window.same"), "the page was not loaded anew"
    signed_in.locator("th a.sort", has_text="Opportunity").click()
    signed_in.wait_for_url("**/o2r?health_signal=yellow&sort=name")
    assert signed_in.locator('th[aria-sort="ascending"]').inner_text() == "Opportunity"


def test_a_refusal_keeps_what_was_typed_and_takes_the_focus(
    signed_in: Any, tracked: Deal, today: date
) -> None:
    signed_in.goto(f"{signed_in.base}/o2r/{tracked.pk}")
    signed_in.get_by_role("link", name="Record: PO received").first.click()
    signed_in.wait_for_selector("#act:modal")
    tomorrow = (today + timedelta(days=1)).isoformat()
    signed_in.get_by_label("Completed on").fill(tomorrow)
    signed_in.get_by_label("Note").fill("By mail")
    signed_in.get_by_role("button", name="Record", exact=True).click()
    signed_in.wait_for_selector("#act .errorlist:has-text('is in the future')")
    assert signed_in.get_by_label("Note").input_value() == "By mail"
    assert signed_in.evaluate("document.activeElement.name") == "completed_on"
    assert violations(signed_in) == []
    signed_in.keyboard.press("Escape")
    signed_in.wait_for_url(f"**/o2r/{tracked.pk}")
    assert signed_in.locator("#act form").count() == 0


def test_the_second_of_two_is_told_in_the_open_dialog(
    signed_in: Any, tracked: Deal, today: date
) -> None:
    address = f"{signed_in.base}/o2r/{tracked.pk}?do=phase"
    signed_in.goto(address)
    signed_in.wait_for_selector("#act:modal")
    other = signed_in.context.new_page()
    other.goto(address)
    other.get_by_role("button", name="Record", exact=True).click()
    other.wait_for_selector(".toast:has-text('PO received recorded')")
    signed_in.get_by_role("button", name="Record", exact=True).click()
    signed_in.wait_for_selector("#act [role=alert]:has-text('after you opened this')")
    signed_in.get_by_role("button", name="Record mine all the same").click()
    signed_in.wait_for_selector(".toast:has-text('PO received')")


def test_deleted_in_the_crm_while_its_dialog_is_open(signed_in: Any, tracked: Deal) -> None:
    signed_in.goto(f"{signed_in.base}/o2r/{tracked.pk}?do=phase")
    signed_in.wait_for_selector("#act:modal")
    Deal.objects.filter(pk=tracked.pk).update(deleted_at=timezone.now())
    signed_in.get_by_role("button", name="Record", exact=True).click()
    signed_in.wait_for_selector("#act [role=alert]:has-text('was deleted in the CRM')")


def test_a_refusal_of_one_click_opens_a_dialog_that_says_why(signed_in: Any, tracked: Deal) -> None:
    signed_in.goto(f"{signed_in.base}/o2r/{tracked.pk}")
    Deal.objects.filter(pk=tracked.pk).update(deleted_at=timezone.now())
    signed_in.locator('[data-testid="action-item"]').get_by_role("button", name="Done").click()
    signed_in.wait_for_selector("#act:modal [role=alert]:has-text('was deleted in the CRM')")
    signed_in.get_by_role("link", name="Close", exact=True).last.click()
    assert signed_in.locator("dialog").count() == 0


def test_without_javascript_a_milestone_is_recorded_and_a_refusal_read(
    browser: Any, live_server: Any, rep: Any, tracked: Deal, today: date
) -> None:
    context = browser.new_context(java_script_enabled=False)
    sign_in(context, live_server.url, rep)
    plain = context.new_page()
    plain.goto(f"{live_server.url}/o2r/{tracked.pk}")
    plain.get_by_role("link", name="Update Phase").click()
    plain.get_by_label("Completed on").fill((today + timedelta(days=2)).isoformat())
    plain.get_by_role("button", name="Record", exact=True).click()
    assert "is in the future" in plain.inner_text("#act")
    plain.get_by_label("Completed on").fill(today.isoformat())
    plain.get_by_role("button", name="Record", exact=True).click()
    plain.wait_for_url(f"**/o2r/{tracked.pk}")
    assert "PO received recorded. Phase III, On Track." in plain.inner_text(".toast")
    context.close()


def test_signals_tell_why_on_focus(signed_in: Any, tracked: Deal) -> None:
    signed_in.goto(f"{signed_in.base}/o2r/{tracked.pk}")
    badge = signed_in.locator('[data-testid="health-signal"]')
    assert not signed_in.locator(".signal-why").is_visible()
    badge.focus()
    assert "40 days, no PO" in signed_in.locator(".signal-why").inner_text()
