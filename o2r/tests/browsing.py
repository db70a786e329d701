"""What tests in a browser share: signing in, asking again, known barriers, what is cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.test import Client

AXE = settings.BASE_DIR / "pipelinepulse" / "tests" / "vendor" / "axe-4.14.1.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
CUT_OFF = """() => [...document.querySelectorAll('.panel, .card, .top, .opp-card')]
    .filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.innerText.slice(0, 60))"""


def sign_in(context: Any, address: str, user: Any) -> None:
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    name = settings.SESSION_COOKIE_NAME
    context.add_cookies([{"name": name, "value": client.cookies[name].value, "url": address}])


def violations(page: Any) -> list[str]:
    page.evaluate(Path(AXE).read_text())
    found = page.evaluate("(rules) => axe.run({runOnly: rules})", RULES)["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html'][:120]}" for each in found]


def ask_again(page: Any) -> None:
    """What the timers do, now."""
    page.evaluate(
        "document.querySelectorAll('[data-live]').forEach((e) => htmx.trigger(e, 'pulse:refresh'))"
    )
