"""The dashboard under the hand: swaps, ages, keyboard, themes, a phone, accessibility."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.conf import settings as django_settings
from django.contrib.sessions.models import Session
from django.utils import timezone

from crm import heartbeat
from crm.models import CrmConnection, Deal, MirrorState, SyncRun, SyncRunModule
from crm.tasks import sweep
from o2r.models import ClosedDay, Opportunity, PipelineCell, RecomputeState
from o2r.tests import mirror_rows as rows
from o2r.tests.browsing import CUT_OFF, ask_again, sign_in, violations
from o2r.views.shell import business_today

# The driver keeps an event loop in this thread from the first browser test on; database fixtures
# that come after it would take the test for a coroutine.
os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "1")

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def pipeline(settings: Any) -> None:
    settings.ZOHO = rows.ZOHO
    # A queued run stays queued: no worker stands behind these tests.
    settings.CELERY_TASK_ALWAYS_EAGER = False
    rows.synced()
    today = business_today(timezone.now())
    ann, acme = rows.owner("Ann Lee", "rep@example.com"), rows.account("Acme")
    long = "An unusually long name of a deal, with Bundesbeschaffungsgesellschaft in it"
    rows.deal(long, sgd=99, amount_minor=123_456_789_00, currency="INR", account=acme, owner=ann)
    for number, territory in enumerate(["APAC", "EMEA", "APAC", "India"] * 3):
        rows.deal(
            f"Deal {number}",
            sgd=1_000_000 * (number + 1),
            stage=["qualification", "discovery", "proposal", "negotiation"][number % 4],
            territory=territory,
            owner=ann,
            account=acme,
            closing_date=today + timedelta(days=number - 6),
        )
    rows.deal("Won", stage="closed_won", closing_date=today, territory="APAC")
    rows.count()


@pytest.fixture
def signed_in(page: Any, live_server: Any, rep: Any) -> Any:
    """A tab of the rep, and the address of the server in `page.base`."""
    sign_in(page.context, live_server.url, rep)
    page.base = live_server.url
    return page


def test_the_first_glance_fits_without_scrolling(signed_in: Any) -> None:
    signed_in.set_viewport_size({"width": 1280, "height": 800})
    signed_in.goto(signed_in.base)
    for selector in (".cards", "#h-stages", '[data-testid="attention"]', ".bars .closed"):
        box = signed_in.locator(selector).first.bounding_box()
        assert box["y"] + box["height"] <= 800, selector
    signed_in.wait_for_selector("table.deals")
    assert signed_in.evaluate(CUT_OFF) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_have_no_known_barrier(signed_in: Any, theme: str) -> None:
    signed_in.emulate_media(color_scheme=theme)
    found = {}
    for path in ("/", "/?territory=APAC", "/opportunities", "/password", "/gone"):
        signed_in.goto(signed_in.base + path)
        signed_in.wait_for_load_state("networkidle")
        found[path] = violations(signed_in)
    assert {path: barriers for path, barriers in found.items() if barriers} == {}


@pytest.mark.parametrize("state", ["down", "late", "first", "none", "running", "no worker"])
def test_no_state_of_the_mirror_brings_a_barrier(signed_in: Any, settings: Any, state: str) -> None:
    if state == "down":
        rows.refused("The CRM cannot be reached.")
    elif state == "late":
        rows.synced(minutes_ago=40)
    elif state == "none":
        settings.ZOHO = None
    elif state == "no worker":
        heartbeat.beat(timezone.now() - timedelta(minutes=10))
    else:
        if state == "first":
            MirrorState.objects.all().delete()
        SyncRun.objects.create(
            kind="full", trigger="startup", status="running", requested_at=timezone.now()
        )
    signed_in.goto(signed_in.base)
    signed_in.click('[data-testid="connection-status"]')
    assert violations(signed_in) == []


def test_nothing_is_cut_off_on_a_phone(signed_in: Any) -> None:
    signed_in.set_viewport_size({"width": 360, "height": 740})
    widths = {}
    for path in ("/", "/opportunities", "/password", "/gone"):
        signed_in.goto(signed_in.base + path)
        signed_in.wait_for_load_state("networkidle")
        widths[path] = signed_in.evaluate("document.documentElement.scrollWidth")
        assert signed_in.evaluate(CUT_OFF) == [], path
    assert {path: width for path, width in widths.items() if width > 360} == {}


@pytest.mark.parametrize("width", [640, 768, 834, 1024, 1100, 1280])
def test_no_page_scrolls_sideways_at_any_width(signed_in: Any, width: int) -> None:
    rows.deal(
        "A deal with everything",
        crm_stage="Identify Decision Makers",
        service_line="Cloud Migration and Modernisation",
        territory="Asia Pacific and Japan",
        amount_minor=123_456_789_00,
        currency="INR",
        account=rows.account("Meridian Bank and Sons Holding"),
        owner=rows.owner("Maximiliana Featherstonehaugh"),
    )
    rows.count()
    signed_in.set_viewport_size({"width": width, "height": 800})
    for path in ("/?list=recent", "/opportunities"):
        signed_in.goto(signed_in.base + path)
        signed_in.wait_for_load_state("networkidle")
        assert signed_in.evaluate("document.documentElement.scrollWidth") <= width, path
        assert signed_in.evaluate(CUT_OFF) == [], path


@pytest.mark.parametrize("width", [768, 1024])
def test_no_card_stands_alone_in_a_row(signed_in: Any, width: int) -> None:
    signed_in.set_viewport_size({"width": width, "height": 800})
    signed_in.goto(signed_in.base)
    tops = [card.bounding_box()["y"] for card in signed_in.locator(".card").all()]
    assert len(tops) == 5
    assert all(tops.count(top) > 1 for top in tops)


def test_on_a_phone_buttons_keep_their_names_and_a_sync_its_percentage(signed_in: Any) -> None:
    signed_in.set_viewport_size({"width": 360, "height": 740})
    signed_in.goto(signed_in.base)
    assert signed_in.get_by_role("button", name="Sync now").is_visible()
    assert signed_in.get_by_role("button", name="Connected").is_visible()
    run = SyncRun.objects.create(
        kind="delta", trigger="user", status="running", requested_at=timezone.now(), seen=300,
        created=300,
    )  # fmt: skip
    SyncRunModule.objects.create(
        run=run, module="Deals", position=1, state="reading", expected=1_200, seen=300
    )
    ask_again(signed_in)
    share = signed_in.get_by_text("25%", exact=False).first
    signed_in.wait_for_selector(".sync-bar")
    assert "25%" in share.inner_text()
    box = signed_in.locator(".sync-detail").bounding_box()
    assert box["width"] > 20 and box["x"] + box["width"] <= 360
    assert signed_in.evaluate("document.documentElement.scrollWidth") <= 360
    assert violations(signed_in) == []


def test_on_a_phone_filters_are_folded_and_values_have_their_names(signed_in: Any) -> None:
    signed_in.set_viewport_size({"width": 360, "height": 740})
    signed_in.goto(signed_in.base + "/opportunities")
    first = signed_in.locator('[data-testid="opportunity-row"]').first
    assert first.bounding_box()["y"] < 500
    assert not signed_in.get_by_label("Territory").is_visible()
    signed_in.get_by_text("More filters").click()
    signed_in.get_by_label("Territory").select_option("EMEA")
    signed_in.get_by_role("button", name="Filter", exact=True).click()
    signed_in.wait_for_url("**/opportunities?territory=EMEA")
    label = "getComputedStyle(document.querySelector('td[data-label=Closing]'), '::before').content"
    assert "Closing" in signed_in.evaluate(label)
    edges = {
        round(box["x"] + box["width"])
        for box in (cell.bounding_box() for cell in signed_in.locator("td.amount").all())
    }
    assert len(edges) == 1, "amounts are aligned on the right"


def test_j_and_k_move_along_the_rows_and_enter_opens_one(signed_in: Any) -> None:
    signed_in.goto(signed_in.base)
    signed_in.wait_for_selector("table.deals")
    names = signed_in.locator("[data-row] .deal-name").all_inner_texts()
    focused = "document.activeElement.querySelector('.deal-name').textContent"
    for key, place in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
        signed_in.keyboard.press(key)
        assert signed_in.evaluate(focused) == names[place]
    ask_again(signed_in)
    signed_in.wait_for_load_state("networkidle")
    assert signed_in.evaluate(focused) == names[1], "a refresh keeps the place"
    signed_in.keyboard.press("Enter")
    signed_in.wait_for_url("**/o2r/*")
    assert names[1] in signed_in.inner_text("h1")
    signed_in.keyboard.press("?")
    assert "Next and previous row" in signed_in.inner_text("dialog[open]")


def test_the_first_sync_fills_the_page_by_itself(signed_in: Any) -> None:
    for model in (Opportunity, PipelineCell, ClosedDay, RecomputeState):
        model.objects.all().delete()
    Deal.objects.all().delete()
    MirrorState.objects.all().delete()
    SyncRun.objects.all().delete()
    SyncRun.objects.create(
        kind="full", trigger="startup", status="running", requested_at=timezone.now()
    )
    signed_in.goto(signed_in.base)
    assert signed_in.inner_text("#lists").strip() == ""
    rows.deal("First to arrive", sgd=5_000_000)
    rows.count()
    signed_in.wait_for_selector('.deals:has-text("First to arrive")')
    signed_in.wait_for_selector('.card:has-text("SGD 50.0K")')


def test_the_navigation_folds_on_a_phone(signed_in: Any) -> None:
    signed_in.set_viewport_size({"width": 360, "height": 740})
    signed_in.goto(signed_in.base)
    assert not signed_in.locator("#nav").is_visible()
    signed_in.get_by_role("button", name="Menu", exact=True).click()
    signed_in.get_by_role("link", name="Opportunities", exact=True).click()
    signed_in.wait_for_url("**/opportunities")


def test_a_click_on_a_bar_filters_in_place_and_back_undoes_it(signed_in: Any) -> None:
    signed_in.goto(signed_in.base)
    signed_in.wait_for_selector("table.deals")
    signed_in.evaluate("window.same = true")
    signed_in.get_by_role("link", name="EMEA", exact=True).click()
    signed_in.wait_for_url("**/?territory=EMEA")
    signed_in.wait_for_selector(".chip")
    assert signed_in.evaluate("window.same"), "the page was not loaded anew"
    signed_in.wait_for_selector('#lists:not(:has-text("Deal 0"))')
    signed_in.wait_for_selector('a:focus:text-is("EMEA")')
    with signed_in.expect_event("load"):
        signed_in.go_back()
    signed_in.wait_for_load_state("networkidle")
    assert signed_in.url == f"{signed_in.base}/"
    assert signed_in.locator(".chip").count() == 0


def test_a_refresh_keeps_scroll_focus_and_open_panel(signed_in: Any) -> None:
    signed_in.goto(signed_in.base)
    signed_in.wait_for_selector("table.deals")
    signed_in.get_by_role("link", name="India", exact=True).focus()
    signed_in.evaluate("window.scrollTo(0, 250)")
    rows.deal("Just in", sgd=90_000_000, crm_modified_at=timezone.now(), territory="APAC")
    rows.count()
    ask_again(signed_in)
    signed_in.wait_for_selector('#lists:has-text("Just in")')
    assert signed_in.evaluate("document.activeElement.textContent") == "India"
    assert signed_in.evaluate("scrollY") == 250
    signed_in.click('[data-testid="connection-status"]')
    rows.refused("The CRM is away.")
    ask_again(signed_in)
    signed_in.wait_for_selector('[data-state="disconnected"]')
    assert signed_in.evaluate("document.querySelector('#sync-panel').matches(':popover-open')")


def test_text_typed_into_the_search_survives_refreshes(signed_in: Any) -> None:
    signed_in.goto(signed_in.base)
    signed_in.keyboard.press("/")
    signed_in.keyboard.type("Ac")
    CrmConnection.objects.update(error_code="away", error_message="The CRM is away.")
    ask_again(signed_in)
    signed_in.wait_for_selector('[data-notice="disconnected"]')
    signed_in.keyboard.type("me")
    assert signed_in.input_value("#search") == "Acme"
    signed_in.keyboard.press("Enter")
    signed_in.wait_for_url("**/opportunities?search=Acme")
    assert signed_in.locator('[data-testid="opportunity-row"]').count() == 13


def test_a_sync_is_started_watched_and_its_end_renews_the_figures(signed_in: Any) -> None:
    signed_in.goto(signed_in.base)
    signed_in.wait_for_selector("table.deals")
    signed_in.click('[data-testid="sync-button"]')
    signed_in.wait_for_selector(".toast:has-text('Sync Started')")
    assert "Syncing" in signed_in.inner_text('[data-testid="sync-indicator"]')
    signed_in.click('[data-testid="sync-button"]')
    signed_in.wait_for_selector(".toast:has-text('Sync already running')")
    Deal.objects.filter(name="Deal 5").update(name="Renamed", change_seq=10**9)
    rows.count()
    SyncRun.objects.filter(status="queued").update(
        status="succeeded", seen=1, updated=1, ended_at=timezone.now()
    )
    signed_in.wait_for_selector(".toast:has-text('Sync finished: 0 created, 1 updated')")
    signed_in.wait_for_selector('[data-testid="attention"]:has-text("Renamed")')


@pytest.mark.parametrize("width", [360, 1280])
def test_row_10_an_open_page_says_that_background_work_is_delayed(
    signed_in: Any, width: int
) -> None:
    signed_in.set_viewport_size({"width": width, "height": 800})
    signed_in.goto(signed_in.base)
    strip = signed_in.locator("#work")
    assert not strip.is_visible()
    heartbeat.beat(timezone.now() - timedelta(minutes=10))
    ask_again(signed_in)
    strip.wait_for(state="visible")
    assert "Background work is delayed." in strip.inner_text()
    assert signed_in.evaluate("document.documentElement.scrollWidth") == width
    sweep()
    ask_again(signed_in)
    strip.wait_for(state="hidden")
    assert signed_in.locator("#work").count() == 1


def test_a_lost_connection_is_said_and_found_again(
    context: Any, live_server: Any, rep: Any
) -> None:
    page = context.new_page()  # the errors of its console are what this test is about
    sign_in(context, live_server.url, rep)
    page.goto(live_server.url)
    context.set_offline(True)
    ask_again(page)
    page.wait_for_selector("#lost:not([hidden])")
    assert "No answer from Pipeline Pulse since" in page.inner_text("#lost")
    said = page.inner_text("#lost time")
    here = timezone.now().astimezone(ZoneInfo(django_settings.BUSINESS_TIME_ZONE))
    assert said in (f"{here - timedelta(minutes=m):%H:%M}" for m in (0, 1))
    assert page.locator(".toast").count() == 0, "what asks by itself is no news"
    page.click('[data-testid="sync-button"]')
    page.wait_for_selector(".toast.is-error:has-text('Not sent')")
    page.get_by_role("button", name="Close message").click()
    page.get_by_role("link", name="EMEA", exact=True).click()
    page.wait_for_selector(".toast.is-error:has-text('Not sent')")
    assert not SyncRun.objects.filter(status="queued").exists()
    context.set_offline(False)
    page.wait_for_selector("#lost", state="hidden")


def test_a_gone_session_leads_to_the_sign_in_and_back(signed_in: Any, rep: Any) -> None:
    signed_in.goto(f"{signed_in.base}/?territory=APAC")
    signed_in.wait_for_load_state("networkidle")
    Session.objects.all().delete()
    ask_again(signed_in)
    signed_in.wait_for_url("**/login?next=*")
    assert signed_in.locator("#live").count() == 0
    signed_in.fill('[name="username"]', rep.username)
    signed_in.fill('[name="password"]', "a password")
    signed_in.keyboard.press("Enter")
    signed_in.wait_for_url(f"{signed_in.base}/?territory=APAC")


def test_nothing_is_asked_while_nobody_looks(signed_in: Any) -> None:
    signed_in.goto(signed_in.base)
    signed_in.wait_for_load_state("networkidle")
    asked: list[str] = []
    signed_in.on("request", lambda request: asked.append(request.url))
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true})"
    signed_in.evaluate(hide % "true")
    poll = "htmx.process(Object.assign(document.querySelector('#sync')))"
    signed_in.evaluate(
        "document.querySelector('#sync').setAttribute('hx-trigger', 'every 100ms');" + poll
    )
    signed_in.wait_for_timeout(500)
    assert asked == []
    signed_in.evaluate(hide % "false")
    signed_in.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    signed_in.wait_for_timeout(500)
    assert any("/sync/indicator" in url for url in asked)


def test_the_theme_is_kept_in_this_browser(signed_in: Any) -> None:
    signed_in.goto(signed_in.base)
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    light = signed_in.evaluate(ground)
    signed_in.get_by_role("button", name="Your menu").click()
    signed_in.get_by_role("radio", name="Dark").check()
    dark = signed_in.evaluate(ground)
    assert dark != light
    signed_in.goto(signed_in.base + "/opportunities")
    assert signed_in.evaluate(ground) == dark


def test_keys_lead_to_pages_lists_and_commands(signed_in: Any) -> None:
    signed_in.goto(signed_in.base)
    signed_in.keyboard.press("?")
    assert "Command palette" in signed_in.inner_text("dialog[open]")
    assert violations(signed_in) == []
    signed_in.keyboard.press("Escape")
    assert signed_in.locator("dialog").count() == 0
    signed_in.keyboard.press("Control+k")
    signed_in.keyboard.type("opport")
    assert violations(signed_in) == []
    signed_in.keyboard.press("Enter")
    signed_in.wait_for_url("**/opportunities")
    signed_in.keyboard.press("g")
    signed_in.keyboard.press("d")
    signed_in.wait_for_url(f"{signed_in.base}/")


def test_single_keys_can_be_switched_off(signed_in: Any) -> None:
    signed_in.goto(signed_in.base)
    signed_in.get_by_role("button", name="Your menu").click()
    signed_in.get_by_role("checkbox", name="Single-key shortcuts").uncheck()
    signed_in.keyboard.press("Escape")
    signed_in.keyboard.press("?")
    assert signed_in.locator("dialog").count() == 0
    signed_in.keyboard.press("Control+k")
    assert signed_in.locator("dialog[open]").count() == 1


def test_without_javascript_pages_read_and_forms_post(
    browser: Any, live_server: Any, rep: Any
) -> None:
    context = browser.new_context(java_script_enabled=False)
    sign_in(context, live_server.url, rep)
    page = context.new_page()
    page.goto(live_server.url)
    page.get_by_role("link", name="Show what changed").click()
    assert "Nothing has changed" in page.inner_text("#lists")
    page.goto(live_server.url)
    assert page.locator(".is-skeleton").first.bounding_box()["height"] < 120
    page.get_by_role("link", name="Recent, top and closing deals").click()
    page.get_by_role("link", name="Top open").click()
    assert "Deal 11" in page.inner_text("table.deals")
    page.get_by_role("link", name="EMEA", exact=True).click()
    assert "territory=EMEA" in page.url
    page.click('[data-testid="sync-button"]')
    assert "territory=EMEA" in page.url
    assert "Sync Started" in page.inner_text(".toast")
    context.close()


def test_the_server_being_away_has_a_page_of_its_own(
    context: Any, live_server: Any, rep: Any
) -> None:
    sign_in(context, live_server.url, rep)
    page = context.new_page()
    page.goto(live_server.url)
    page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    context.set_offline(True)
    page.goto(live_server.url + "/opportunities")
    assert "cannot be reached" in page.inner_text("h1")
    context.set_offline(False)
