"""The dashboard: its figures, the lists behind them, its states, its live parts."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from crm.models import Deal, SyncRun, SyncRunModule
from o2r.models import RecomputeState
from o2r.tests import mirror_rows as rows
from o2r.views.shell import business_today
from o2r.written import day_words, moment_words, short_day

pytestmark = pytest.mark.django_db

HTMX = {"HX-Request": "true"}
LISTS = {**HTMX, "X-Part": "lists"}


@pytest.fixture(autouse=True)
def configured(settings: Any) -> None:
    settings.ZOHO = rows.ZOHO


@pytest.fixture
def pipeline() -> dict[str, Any]:
    """Deals of two owners in two territories, one without an amount, one without a rate."""
    today = business_today(timezone.now())
    rows.synced()
    people = {"ann": rows.owner("Ann Lee", "rep@example.com"), "bob": rows.owner("Bob Tan")}
    acme = rows.account("Acme")
    ann, bob = people["ann"], people["bob"]
    apac = {"territory": "APAC", "owner": ann, "account": acme}
    emea = {"territory": "EMEA", "owner": bob}
    late = today - timedelta(days=12)
    rows.deal("Landing zone", sgd=10_000_050, closing_date=late, **apac)
    rows.deal("Data platform", sgd=4_000_000, stage="negotiation", **emea)
    rows.deal("Pilot", sgd=2_500_000, stage="qualification", service_line="Gen AI", **apac)
    rows.deal("Unpriced", sgd=None, closing_date=today + timedelta(days=400), **emea)
    rows.deal("No rate", sgd=None, amount_minor=500_000, currency="XXX", owner=None)
    closed = {"closing_date": today - timedelta(days=30)}
    rows.deal("Won one", stage="closed_won", sgd=6_000_000, **apac, **closed)
    rows.deal("Won two", stage="closed_won", sgd=2_000_000, **emea, **closed)
    rows.deal("Lost one", stage="closed_lost", sgd=8_000_000, **emea, **closed)
    long_ago = {"closing_date": today - timedelta(days=800)}
    rows.deal("Lost long ago", stage="closed_lost", sgd=1_000_000, **apac, **long_ago)
    rows.count()
    return people


def page_of(client: Client, path: str = "/", **headers: str) -> str:
    response = client.get(path, headers=headers)
    assert response.status_code == 200
    return response.content.decode()


def card(page: str, metric: str) -> str:
    """The text of a metric card."""
    found = re.search(rf'data-metric="{metric}".*?</a>', page, re.S)
    assert found, metric
    return plain(found[0])


def plain(markup: str) -> str:
    """The words of a piece of a page, exact amounts in place of short ones."""
    exact = re.sub(r'<data value="([-\d.]+)"[^>]*>[^<]*</data>', r"\1", markup)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", f"<{exact}")).split())


def revision(page: str, part: str = "live") -> str:
    found = re.search(rf'id="{part}".*?"X-Revision": "(\w+)"', page, re.S)
    assert found
    return found[1]


def links_behind_numbers(page: str) -> list[tuple[str, int]]:
    """(address, count shown) of each link that reads as a count of deals."""
    found = re.findall(
        r'<a href="(/opportunities[^"]*)"(?: tabindex="-1")?>([\d,]+)(?: open deals?)?</a>', page
    )
    return [(html.unescape(address), int(count.replace(",", ""))) for address, count in found]


def rows_in_list(client: Client, address: str) -> int:
    totals = page_of(client, address, **HTMX, **{"X-Part": "totals"})
    shown = re.search(r"<strong>([\d,]+)</strong> opportunit", totals)
    assert shown
    return int(shown[1].replace(",", ""))


# --- figures -------------------------------------------------------------------------------------


def test_cards_show_the_sums_of_the_deals(rep_client: Client, pipeline: Any) -> None:
    page = page_of(rep_client)
    assert "165000.50 5 open deals" in card(page, "total-pipeline")
    assert "82500.25" in card(page, "weighted")
    assert "66.7% 2 won, 1 lost, 12 months; 50% by value" in card(page, "win-rate")
    assert "40000.00 of 2 won" in card(page, "average-deal")


def test_all_time_counts_older_closed_deals_too(rep_client: Client, pipeline: Any) -> None:
    assert "50% 2 won, 2 lost, all time" in card(page_of(rep_client, "/?period=all"), "win-rate")


def test_without_closed_deals_the_win_rate_is_unknown_and_not_nought(rep_client: Client) -> None:
    rows.synced()
    rows.deal()
    rows.count()
    assert "1 min old – 0 won, 0 lost" in card(page_of(rep_client), "win-rate")


def test_every_number_opens_a_list_of_as_many(rep_client: Client, pipeline: Any) -> None:
    for path in ("/?list=recent", "/?territory=APAC&list=top", "/?mine=1&list=closing"):
        page = page_of(rep_client, path)
        links = links_behind_numbers(page)
        assert len(links) > 8
        wrong = [
            (address, count, rows_in_list(rep_client, address))
            for address, count in links
            if rows_in_list(rep_client, address) != count
        ]
        assert wrong == []


def test_cards_open_lists_of_what_they_count(rep_client: Client, pipeline: Any) -> None:
    page = page_of(rep_client)
    for metric, count in (("total-pipeline", 5), ("win-rate", 3), ("average-deal", 2)):
        address = re.search(
            rf'href="([^"]+)" data-testid="metric-card" data-metric="{metric}"', page
        )
        assert address
        assert rows_in_list(rep_client, html.unescape(address[1])) == count


def test_rows_57_59_what_the_values_leave_out_is_said_with_its_reason(
    rep_client: Client, pipeline: Any
) -> None:
    words = plain(re.search(r'class="left-out">.*?</p>', page_of(rep_client), re.S)[0])
    assert "1 open deal without an amount, 1 open deal without a rate to SGD" in words


def test_closing_dates_gone_by_need_attention_largest_first(rep_client: Client) -> None:
    today = business_today(timezone.now())
    rows.synced()
    rows.deal("Small and late", sgd=100, closing_date=today - timedelta(days=1))
    rows.deal("Large and late", sgd=900, closing_date=today - timedelta(days=3))
    rows.deal("Due today", closing_date=today)
    rows.deal("Won late", stage="closed_won", closing_date=today - timedelta(days=3))
    found = re.findall(
        r'data-testid="attention-row".*?class="deal-name"[^>]*>(.*?)</.*?<span>(.*?)</span>',
        page_of(rep_client),
        re.S,
    )
    assert found == [
        ("Large and late", "Closing date passed 3 days ago"),
        ("Small and late", "Closing date passed 1 day ago"),
    ]


def test_what_is_red_or_blocked_comes_before_closing_dates_gone_by(rep_client: Client) -> None:
    today = business_today(timezone.now())
    rows.synced()
    rows.deal("Large and late", sgd=900, closing_date=today - timedelta(days=3))
    rows.deal("Red", sgd=100, proposal_date=today - timedelta(days=31), closing_date=today)
    rows.deal("Yellow", sgd=800, proposal_date=today - timedelta(days=30), closing_date=today)
    rows.count()
    page = page_of(rep_client)
    attention = page[page.index('data-testid="attention"') :]
    assert re.findall(r'class="deal-name"[^>]*>(.*?)</a>', attention) == ["Red", "Large and late"]
    sent = today - timedelta(days=31)
    words = plain(attention)
    assert f"At Risk: Proposal sent {short_day(sent, today)}, 31 days, no PO" in words
    address = html.unescape(re.search(r'href="([^"]+)">All of them', attention)[1])
    behind = page_of(rep_client, address)
    assert "Red</a>" in behind and "Yellow</a>" not in behind


def test_phases_and_health_follow_by_themselves_for_the_same_filters(
    rep_client: Client, pipeline: Any
) -> None:
    page = page_of(rep_client, "/?territory=APAC")
    address = html.unescape(re.search(r'id="summary".*?hx-get="([^"]+)"', page, re.S)[1])
    assert address == "/o2r?territory=APAC"
    part = page_of(rep_client, address, **HTMX, **{"X-Part": "summary"})
    words = plain(part)
    assert "On Track 3 185000.50" in words and "Average cycle time –" in words
    known = {**HTMX, "X-Part": "summary", "X-Revision": revision(part, "summary")}
    assert rep_client.get(address, headers=known).status_code == 204


def test_changes_since_yesterday_and_of_the_last_week_are_counted_apart(
    rep_client: Client,
) -> None:
    rows.synced()
    now = timezone.now()
    moved, priced = rows.deal("Moved"), rows.deal("Priced")
    rows.changed(moved, "crm_stage", now - timedelta(hours=1))
    rows.changed(priced, "amount_minor", now - timedelta(days=5))
    rows.deal("New", crm_created_at=now - timedelta(hours=2))
    day = plain(page_of(rep_client, "/?since=day", **LISTS))
    week = plain(page_of(rep_client, "/?since=week", **LISTS))
    assert "New 1 1000.00 Stage moved 1 1000.00" in day
    assert "Amount changed" not in day
    assert "Amount changed 1 1000.00" in week


def test_a_name_from_the_crm_cannot_write_markup(rep_client: Client) -> None:
    rows.synced()
    rows.deal("<script>alert(1)</script>", closing_date=business_today(timezone.now()))
    page = page_of(rep_client, "/?list=recent")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


# --- cards: what they were ------------------------------------------------------------------


def test_cards_tell_how_they_moved_and_how_old_they_are(rep_client: Client, pipeline: Any) -> None:
    today = business_today(timezone.now())
    RecomputeState.objects.update(moves_from=today - timedelta(days=40))
    rows.deal("More", sgd=1_650_001, territory="APAC", owner=pipeline["bob"])
    rows.count()
    page = page_of(rep_client)
    assert "1 min old 181500.51 6 open deals +10.0% in 30 days" in card(page, "total-pipeline")
    assert f"SGD 165,000.50 on {day_words(today - timedelta(days=30))}" in page
    assert page.count('<svg class="trend"') == 4
    assert "No past is kept for these filters together" in card(
        page_of(rep_client, "/?territory=APAC&service_line=-"), "total-pipeline"
    )


def test_the_win_rate_of_before_follows_from_closing_dates(rep_client: Client) -> None:
    today = business_today(timezone.now())
    rows.synced()
    for number in range(3):
        day = today - timedelta(days=100)
        rows.deal(f"Lost {number}", stage="closed_lost", closing_date=day)
        rows.deal(f"Won {number}", stage="closed_won", closing_date=day, sgd=100_000)
    for number in range(2):
        day = today - timedelta(days=number + 3)
        rows.deal(f"Lately {number}", stage="closed_won", closing_date=day, sgd=200_000)
    rows.count()
    page = page_of(rep_client)
    assert "+12.5 points in 30 days" in card(page, "win-rate")
    assert "+40.0% in 30 days" in card(page, "average-deal")


def test_before_there_is_history_the_card_says_since_when_it_is_kept(rep_client: Client) -> None:
    rows.deal()
    rows.count()
    waiting = card(page_of(rep_client), "total-pipeline")
    assert "Its past is kept from the end of the first sync on" in waiting
    rows.synced()
    rows.count()
    page = page_of(rep_client)
    today = day_words(business_today(timezone.now()))
    assert f"Its past is kept since {today}" in card(page, "total-pipeline")
    assert '<svg class="trend"' not in page


def test_under_a_stage_the_closed_figures_say_that_they_are_of_all(
    rep_client: Client, pipeline: Any
) -> None:
    page = page_of(rep_client, "/?stage=qualification")
    assert "2 won, 1 lost, 12 months, all stages" in card(page, "win-rate")
    assert "of 2 won, 12 months, all stages" in card(page, "average-deal")
    assert "all stages" not in page_of(rep_client)


def test_the_head_dates_what_is_seen_by_the_crm_and_not_by_the_count(
    rep_client: Client, pipeline: Any
) -> None:
    rows.synced(minutes_ago=90)
    rows.refused("Away.")
    page = page_of(rep_client)
    head = re.search(r"State of the CRM at <time[^>]*>([^<]+)</time>", page)
    seen = re.search(r"You see the state of (.+?)[.;]", page)
    assert head and seen
    assert head[1] == seen[1]
    assert "Figures as of" not in page


# --- filters -------------------------------------------------------------------------------------


def test_a_filter_narrows_figures_and_lists_and_can_be_taken_away(
    rep_client: Client, pipeline: Any
) -> None:
    page = page_of(rep_client, "/?territory=APAC&list=recent")
    assert "125000.50 2 open deals" in card(page, "total-pipeline")
    assert "Data platform" not in page
    assert re.search(r'class="chip" href="/\?list=recent"[^>]*>Territory: APAC', page)


def test_any_filter_of_the_list_narrows_the_dashboard_too(
    rep_client: Client, pipeline: Any
) -> None:
    page = page_of(rep_client, "/?search=zone&amount_min=1000")
    assert "100000.50 1 open deal" in card(page, "total-pipeline")
    assert all(
        rows_in_list(rep_client, address) == count for address, count in links_behind_numbers(page)
    )


def test_deals_without_a_territory_can_be_chosen(rep_client: Client, pipeline: Any) -> None:
    assert "1 open deal" in card(page_of(rep_client, "/?territory=-"), "total-pipeline")


def test_a_filter_that_is_not_known_is_named_and_not_applied(
    rep_client: Client, pipeline: Any
) -> None:
    page = page_of(rep_client, "/?stage=nonsense&colour=red")
    assert "165000.50" in card(page, "total-pipeline")
    banner = re.search(r"Not known here, so not applied: (.*?)\.", page)
    assert banner
    assert sorted(banner[1].split(", ")) == ["colour", "stage"]


def test_mine_are_the_deals_of_the_crm_user_with_my_address(
    rep_client: Client, manager_client: Client, pipeline: Any
) -> None:
    assert "2 open deals" in card(page_of(rep_client, "/?mine=1"), "total-pipeline")
    assert 'data-testid="nobody"' in page_of(manager_client, "/?mine=1")


def test_mine_is_remembered_until_all_is_chosen(rep_client: Client, pipeline: Any) -> None:
    page_of(rep_client, "/?mine=1")
    assert rep_client.get("/").headers["Location"] == "/?mine=1"
    assert rep_client.get("/?territory=APAC").status_code == 200
    page_of(rep_client, "/?mine=0")
    assert rep_client.get("/").status_code == 200


def test_mine_is_remembered_of_the_person_wherever_they_sign_in(
    rep_client: Client, rep: Any, manager_client: Client, pipeline: Any
) -> None:
    page_of(rep_client, "/?mine=1")
    elsewhere = Client()
    elsewhere.force_login(rep, backend="django.contrib.auth.backends.ModelBackend")
    assert elsewhere.get("/").headers["Location"] == "/?mine=1"
    assert manager_client.get("/").status_code == 200


def test_a_part_that_refreshes_itself_chooses_nothing(rep_client: Client, pipeline: Any) -> None:
    page_of(rep_client, "/?mine=0")
    page_of(rep_client, "/?mine=1", **HTMX)
    assert rep_client.get("/").status_code == 200
    page_of(rep_client, "/?mine=1", **HTMX, **{"X-Chosen": "1"})
    assert rep_client.get("/").headers["Location"] == "/?mine=1"


# --- live parts ----------------------------------------------------------------------------------


def test_htmx_gets_the_live_part_alone(rep_client: Client, pipeline: Any) -> None:
    part = page_of(rep_client, **HTMX)
    assert part.strip().startswith('<div class="page" id="live"')
    assert "<html" not in part
    assert 'id="lists"' not in part


def test_a_restored_history_entry_is_a_whole_page(rep_client: Client, pipeline: Any) -> None:
    assert "<html" in page_of(rep_client, **HTMX, **{"HX-History-Restore-Request": "true"})


def test_lists_follow_the_page_unless_the_address_names_one(
    rep_client: Client, pipeline: Any
) -> None:
    first = page_of(rep_client)
    assert 'hx-trigger="load' in first
    assert "Data platform" not in first
    assert "Data platform" in page_of(rep_client, "/?list=recent")
    assert "Data platform" in page_of(rep_client, **LISTS)


@pytest.mark.parametrize(("part", "headers"), [("live", HTMX), ("lists", LISTS)])
def test_a_part_that_would_look_the_same_is_not_sent_again(
    rep_client: Client, pipeline: Any, part: str, headers: dict[str, str]
) -> None:
    known = {**headers, "X-Revision": revision(page_of(rep_client, **headers), part)}
    assert rep_client.get("/", headers=known).status_code == 204
    assert rep_client.get("/?territory=APAC", headers=known).status_code == 200
    late = business_today(timezone.now()) - timedelta(days=2)
    rows.deal("Just in", sgd=99_000_000, closing_date=late, crm_modified_at=timezone.now())
    rows.count()
    assert "Just in" in page_of(rep_client, **known)


def test_changes_not_counted_yet_are_announced_and_asked_for_soon(
    rep_client: Client, pipeline: Any
) -> None:
    assert 'hx-trigger="every 240s' in page_of(rep_client)
    rows.deal("Not counted yet")
    page = page_of(rep_client)
    assert "newer changes are being counted" in page
    assert 'hx-trigger="every 2s' in page


# --- states --------------------------------------------------------------------------------------


def notice(page: str) -> str:
    found = re.search(r'data-notice="(\w+)"', page)
    return found[1] if found else ""


def test_all_is_well_after_a_sync(rep_client: Client, pipeline: Any) -> None:
    page = page_of(rep_client)
    assert notice(page) == ""
    assert 'data-state="connected"' in page
    assert "Freshness 1 min behind" in card(page, "freshness")


def test_without_settings_the_page_says_how_to_connect(rep_client: Client, settings: Any) -> None:
    settings.ZOHO = None
    page = page_of(rep_client)
    assert notice(page) == "not_configured"
    assert ".env.example" in page
    assert 'data-testid="metric-card"' not in page
    assert 'data-testid="sync-button"' not in page


def test_before_the_first_sync_there_are_no_figures(rep_client: Client) -> None:
    page = page_of(rep_client)
    assert notice(page) == "never_synced"
    assert 'data-testid="metric-card"' not in page
    assert "Nothing has changed" not in page
    assert "No deals." not in page
    assert 'hx-trigger="every 10s' in page


def test_what_changed_says_since_when_it_can_know(rep_client: Client, pipeline: Any) -> None:
    known = timezone.now() - timedelta(days=3)
    rows.changed(Deal.objects.get(name="Pilot"), "crm_stage", known)
    week = plain(page_of(rep_client, "/?since=week", **LISTS))
    assert f"Changes other than new deals are known since {moment_words(known)}." in week
    assert "known since" not in plain(page_of(rep_client, "/?since=day", **LISTS))


def test_the_first_sync_shows_how_far_it_is(rep_client: Client) -> None:
    now = timezone.now()
    run = SyncRun.objects.create(
        kind="full",
        trigger="startup",
        status="running",
        requested_at=now,
        started_at=now - timedelta(seconds=10),
        seen=2_200,
        created=2_200,
    )
    SyncRunModule.objects.create(
        run=run, module="Deals", position=1, state="reading", expected=8_800, seen=2_200
    )
    page = page_of(rep_client)
    assert notice(page) == "first_sync"
    assert '<progress aria-label="Progress of the first sync" max="8800" value="2200">' in page
    assert "2,200 of 8,800 (25%), now Deals" in page
    assert 'hx-trigger="every 2s' in page
    assert "No deals." not in page
    rows.deal("First to arrive")
    lists = page_of(rep_client, **LISTS)
    assert "First to arrive" in lists
    assert "Known from the end of the first sync on." in lists
    assert 'hx-trigger="every 2s' in lists


def test_a_crm_that_is_down_leaves_the_dated_figures(rep_client: Client, pipeline: Any) -> None:
    rows.refused("Nimbus CRM cannot be reached: connection refused.")
    page = page_of(rep_client)
    assert notice(page) == "disconnected"
    assert re.search(
        r"The CRM does not answer\.</strong> You see the state of \d+ \w+ \d{4}, \d\d:\d\d\. "
        r"It catches up by itself\.</span>",
        page,
    )
    assert "connection refused" not in page, "the cause is for ops"
    assert "165000.50" in card(page, "total-pipeline")


def test_ops_are_told_the_cause_as_well(ops_client: Client, pipeline: Any) -> None:
    rows.refused("Nimbus CRM cannot be reached: connection refused.")
    page = page_of(ops_client)
    assert re.search(r"It catches up by itself\.<br>Nimbus CRM cannot be reached: c", page)


def test_an_old_mirror_is_said_to_be_late(rep_client: Client) -> None:
    rows.synced(minutes_ago=30)
    page = page_of(rep_client)
    assert notice(page) == "delayed"
    assert "Freshness 30 min behind" in card(page, "freshness")


# --- who, and at what cost -----------------------------------------------------------------------


def test_nobody_sees_it_without_signing_in(client: Client) -> None:
    assert client.get("/?territory=APAC").headers["Location"].startswith("/login?next=/")


def test_an_account_without_a_role_is_told_whom_to_ask(
    client: Client, django_user_model: Any
) -> None:
    client.force_login(
        django_user_model.objects.create_user("new"),
        backend="django.contrib.auth.backends.ModelBackend",
    )
    response = client.get("/")
    assert response.status_code == 403
    assert "Ask ops to give you one" in response.content.decode()


def queries_of(client: Client, path: str, django_assert_max_num_queries: Any) -> int:
    client.get(path)
    with django_assert_max_num_queries(1000) as captured:
        assert client.get(path).status_code == 200
    return len(captured)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/?list=top",
        "/?mine=1",
        "/?territory=APAC&owner=-",
        "/?mine=1&territory=APAC&list=top",
        "/?owner=ann&stage=proposal&list=closing&since=week",
        "/?search=zone&list=recent",
        "/?search=zone&owner=ann&list=recent",
        "/?period=all&list=recent",
    ],
)
def test_the_dashboard_asks_at_most_ten_questions(
    rep_client: Client, pipeline: Any, django_assert_max_num_queries: Any, path: str
) -> None:
    path = path.replace("owner=ann", f"owner={pipeline['ann'].pk}")
    rep_client.get(path)
    with django_assert_max_num_queries(10):
        assert rep_client.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/", "/?list=recent", "/opportunities"])
def test_the_number_of_queries_does_not_grow_with_the_deals(
    rep_client: Client, pipeline: Any, django_assert_max_num_queries: Any, path: str
) -> None:
    few = queries_of(rep_client, path, django_assert_max_num_queries)
    acme = rows.account("Another")
    for number in range(60):
        person = rows.owner(f"Owner {number}")
        rows.deal(f"Deal {number}", account=acme, owner=person, territory=f"T{number % 7}")
    rows.count()
    assert Deal.objects.count() > 60
    assert queries_of(rep_client, path, django_assert_max_num_queries) == few
