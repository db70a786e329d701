"""The page of the API and the admin in a browser: they work within the content security policy."""

from __future__ import annotations

import os
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.test import Client

# The driver keeps an event loop in this thread; database fixtures would take it for a coroutine.
os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "1")

AXE = django_settings.BASE_DIR / "pipelinepulse" / "tests" / "vendor" / "axe-4.14.1.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
]


@pytest.fixture(scope="session")
def base_url() -> str:
    """In place of the plugin's, which pytest 9 warns of; addresses here are always whole."""
    return ""


def sign_in(context: Any, address: str, user: Any) -> None:
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    name = django_settings.SESSION_COOKIE_NAME
    context.add_cookies([{"name": name, "value": client.cookies[name].value, "url": address}])


def test_docs_show_the_api_and_try_it_out(page: Any, live_server: Any, rep: Any) -> None:
    sign_in(page.context, live_server.url, rep)
    page.goto(f"{live_server.url}/docs")
    operation = page.locator("#operations-Sync-zoho_status")
    operation.locator("button").first.click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()
    operation.locator(".live-responses-table").wait_for()
    assert '"is_connected"' in operation.locator(".live-responses-table").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_docs_are_legible_in_both_themes_and_lead_back(
    page: Any, live_server: Any, rep: Any, scheme: str, width: int
) -> None:
    sign_in(page.context, live_server.url, rep)
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{live_server.url}/docs")
    page.locator("#operations-Sync-zoho_status").wait_for()
    chapters = page.locator(".opblock-tag").evaluate_all("all => all.map(a => a.dataset.tag)")
    assert chapters == ["Opportunities", "O2R", "Sync", "Mirror"]
    page.evaluate(AXE.read_text())
    found = page.evaluate("(rules) => axe.run({runOnly: rules})", RULES)["violations"]
    told = [(rule["id"], node["html"][:200]) for rule in found for node in rule["nodes"]]
    assert told == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dark = "rgb(14, 17, 22)"
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == dark) == (scheme == "dark")
    page.get_by_role("link", name="dashboard").click()
    assert page.url == f"{live_server.url}/"


def test_admin_works_within_the_policy(page: Any, live_server: Any, ops: Any) -> None:
    sign_in(page.context, live_server.url, ops)
    for path in ("", "crm/syncrun/", "crm/deal/", "crm/exchangerate/add/"):
        page.goto(f"{live_server.url}/admin/{path}")
        assert page.locator("#content").is_visible()
