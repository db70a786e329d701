"""The weekly review: the list, the walk along it, last week's decisions, what turns red next."""

from __future__ import annotations

import html
import re
from datetime import date, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from crm.models import Deal
from o2r.models import ActionItem, Review
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
def deals(rep: Any, today: date) -> dict[str, Deal]:
    """Large and small red, yellow, turning in three days, and two that nobody looks at."""
    ann = rows.owner("Ann Lee", "rep@example.com")

    def sent(days: int, sgd: int, name: str) -> Deal:
        on = today - timedelta(days=days)
        return rows.deal(name, sgd=sgd, proposal_date=on, owner=ann, territory="APAC")

    made = {
        "small": sent(50, 100_000, "Small red"),
        "large": sent(40, 900_000, "Large red"),
        "yellow": sent(20, 9_000_000, "Yellow"),
        "soon": sent(12, 9_000_000, "Turning soon"),
        "green": sent(1, 9_000_000, "Green"),
        "lost": rows.deal("Lost", stage="closed_lost"),
    }
    rows.count()
    return made


def page_of(client: Client, path: str, status: int = 200, **headers: str) -> str:
    response = client.get(path, headers=headers)
    assert response.status_code == status
    return response.content.decode()


def plain(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def section(page: str, mark: str) -> str:
    return re.search(rf'data-testid="{mark}".*?</section>', page, re.S)[0]


def listed(page: str) -> list[str]:
    return re.findall(r'class="deal-name"[^>]*>(.*?)</a>', section(page, "review-queue"))


def step(page: str, which: str) -> str:
    found = re.search(rf'href="([^"]+)" data-step="{which}"', page)
    return html.unescape(found[1]) if found else ""


def test_strangers_sign_in_first(client: Client) -> None:
    assert client.get("/reviews").headers["Location"].startswith("/login")


def test_the_list_holds_what_is_red_yellow_or_turns_within_a_week(
    rep_client: Client, deals: Any
) -> None:
    page = page_of(rep_client, "/reviews")
    assert listed(page) == ["Large red", "Small red", "Yellow", "Turning soon"]
    assert "Start: 1 of 4" in plain(page)


def test_filters_narrow_the_list_and_stay_along_the_walk(rep_client: Client, deals: Any) -> None:
    rows.deal("Elsewhere", proposal_date=deals["large"].proposal_date, territory="EMEA")
    rows.count()
    page = page_of(rep_client, "/reviews?territory=APAC")
    assert "Elsewhere" not in listed(page)
    one = page_of(rep_client, f"/reviews?territory=APAC&at={deals['large'].pk}")
    assert "1 of 4" in plain(one)
    assert step(one, "next").startswith("/reviews?territory=APAC&at=")


def test_links_alone_walk_along_the_list_and_back(rep_client: Client, deals: Any) -> None:
    page = page_of(rep_client, f"/reviews?at={deals['large'].pk}")
    seen = []
    for _ in range(4):
        seen.append(re.search(r"<h1>.*?>([^<]+)</a>", page)[1])
        back, page = step(page, "previous"), page_of(rep_client, step(page, "next"))
    assert seen == ["Large red", "Small red", "Yellow", "Turning soon"]
    assert 'data-testid="review-queue"' in page, "at its end, the overview"
    assert "Yellow" in page_of(rep_client, back)


def test_a_decision_is_kept_and_the_next_one_comes(
    rep_client: Client, deals: Any, rep: Any
) -> None:
    address = f"/reviews?at={deals['large'].pk}"
    response = rep_client.post(address, {"decision": "Call the buyer", "note": "by Friday"})
    assert response.status_code == 302
    following = page_of(rep_client, response.headers["Location"])
    assert "Small red" in following and "2 of 4" in plain(following)
    review = Review.objects.get()
    assert (review.decision, review.note, review.reviewer) == ("Call the buyer", "by Friday", rep)
    assert (review.health_signal, review.current_phase) == ("red", 2)


def test_an_empty_decision_is_refused_beside_its_field(rep_client: Client, deals: Any) -> None:
    address = f"/reviews?at={deals['large'].pk}"
    response = rep_client.post(address, {"decision": " ", "note": ""})
    assert response.status_code == 422
    assert "Say what was decided" in response.content.decode()
    long = rep_client.post(address, {"decision": "x" * 501, "note": "typed with care"})
    assert long.status_code == 422 and "typed with care" in long.content.decode()
    assert not Review.objects.exists()


def test_one_that_left_the_list_is_shown_and_the_walk_goes_on(
    rep_client: Client, deals: Any, today: date
) -> None:
    address = f"/reviews?at={deals['large'].pk}&n=0"
    Deal.objects.filter(pk=deals["large"].pk).update(po_date=today, change_seq=10**9)
    rows.count()
    page = page_of(rep_client, address)
    assert "no longer on the list of 3" in plain(page) and "On Track" in plain(page)
    assert "Small red" in page_of(rep_client, step(page, "next"))


def test_nonsense_is_not_found_and_a_post_to_nobody_neither(rep_client: Client, deals: Any) -> None:
    page_of(rep_client, "/reviews?at=99999", 404)
    page_of(rep_client, "/reviews?at=" + "9" * 18, 404)
    assert rep_client.post("/reviews", {"decision": "x"}).status_code == 404
    assert page_of(rep_client, "/reviews?at=x")
    Deal.objects.filter(pk=deals["large"].pk).update(deleted_at=timezone.now())
    page_of(rep_client, f"/reviews?at={deals['large'].pk}", 404)


def test_last_weeks_decisions_open_it_with_what_became_of_them(
    rep_client: Client, deals: Any, rep: Any, today: date
) -> None:
    for name in ("large", "small"):
        rep_client.post(f"/reviews?at={deals[name].pk}", {"decision": f"Push {name}"})
    then = timezone.now() - timedelta(days=6)
    Review.objects.update(reviewed_on=today - timedelta(days=6), created_at=then)
    Deal.objects.filter(pk=deals["large"].pk).update(po_date=today, change_seq=10**9)
    rows.count()
    item = ActionItem.objects.filter(opportunity__deal=deals["small"]).first()
    rep_client.post(f"/o2r/{deals['small'].pk}?do=tick&id={item.pk}")
    words = plain(section(page_of(rep_client, "/reviews"), "last-week"))
    assert "Push large PO received recorded" in words
    assert "At Risk → On Track better" in words
    assert "Push small 1 action item done At Risk → At Risk" in words


def test_the_calendar_says_what_turns_red_on_which_day(
    rep_client: Client, deals: Any, today: date
) -> None:
    calendar = plain(section(page_of(rep_client, "/reviews"), "red-calendar"))
    assert day_words(today + timedelta(days=11)) in calendar, "the yellow one"
    assert day_words(today + timedelta(days=19)) in calendar, "green, then yellow, then red"
    assert "Turning soon SGD 90.0K if no PO arrives" in calendar.replace("\xa0", " ")
    assert "Green" not in calendar, "beyond four weeks"


def test_the_live_part_comes_alone_and_only_when_it_differs(rep_client: Client, deals: Any) -> None:
    live = page_of(rep_client, "/reviews", **HTMX)
    assert "<html" not in live
    revision = re.search(r'"X-Revision": "(\w+)"', live)[1]
    known = {**HTMX, "X-Revision": revision}
    assert rep_client.get("/reviews", headers=known).status_code == 204
    part = page_of(rep_client, f"/reviews?at={deals['large'].pk}", **HTMX)
    assert "review-form" not in part, "what refreshes itself holds no input"


def test_integrators_read_it_and_write_none(client: Client, integrator: Any, deals: Any) -> None:
    client.force_login(integrator, backend="django.contrib.auth.backends.ModelBackend")
    address = f"/reviews?at={deals['large'].pk}"
    page = page_of(client, address)
    assert "Reviews are written by" in page and "review-form" not in page
    assert client.post(address, {"decision": "x"}).status_code == 403
    assert not Review.objects.exists()


def test_nothing_to_look_at_says_so(rep_client: Client) -> None:
    words = plain(page_of(rep_client, "/reviews"))
    assert "Nothing is red, yellow or blocked" in words
    assert "Nothing turns red by time alone" in words


@pytest.mark.parametrize("path", ["/reviews", "/reviews?at={pk}"])
def test_the_number_of_queries_does_not_grow(
    rep_client: Client, deals: Any, today: date, django_assert_max_num_queries: Any, path: str
) -> None:
    address = path.format(pk=deals["large"].pk)

    def queries() -> int:
        with django_assert_max_num_queries(30) as captured:
            page_of(rep_client, address)
        return len(captured)

    queries()
    few = queries()
    for number in range(30):
        on = today - timedelta(days=15 + number)
        rows.deal(f"More {number}", proposal_date=on, owner=rows.owner(f"P {number}"))
    rows.count()
    assert queries() == few
