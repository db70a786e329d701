"""The colours of `static/css/tokens.css`: readable in both themes, and used by name alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CSS = Path(__file__).resolve().parents[2] / "static" / "css"
TOKEN = re.compile(r"--([\w-]+):\s*light-dark\((#[0-9a-f]{6}),\s*(#[0-9a-f]{6})\)")
THEMES = ("light", "dark")
TEXT, GRAPHIC = 4.5, 3.0  # WCAG 2.2 AA: 1.4.3 and 1.4.11

ROLES = [
    "revenue-green",
    "success",
    "pipeline-blue",
    "info",
    "opportunity-amber",
    "warning",
    "risk-red",
    "destructive",
    "forecast-purple",
]
STAGES = [
    "qualification",
    "discovery",
    "proposal",
    "negotiation",
    "closed_won",
    "closed_lost",
    "other",
]
SIGNALS = ["green", "yellow", "red", "blocked"]
NEUTRAL_GROUNDS = ["surface", "raised", "sunken"]

# What DESIGN §1 fixes for the light theme.
FIXED = {
    "revenue-green": "#16a34a",
    "revenue-green-light": "#22c55e",
    "success": "#10b981",
    "success-light": "#34d399",
    "pipeline-blue": "#2563eb",
    "pipeline-blue-light": "#3b82f6",
    "info": "#0ea5e9",
    "info-light": "#38bdf8",
    "opportunity-amber": "#d97706",
    "opportunity-amber-light": "#f59e0b",
    "warning": "#eab308",
    "warning-light": "#facc15",
    "risk-red": "#dc2626",
    "risk-red-light": "#ef4444",
    "destructive": "#f87171",
    "forecast-purple": "#7c3aed",
    "forecast-purple-light": "#8b5cf6",
}


def pairs() -> list[tuple[str, str, float]]:
    """(foreground, ground, least contrast) of everything that is ever put on something."""
    text_on_neutral = [
        (ink, ground, TEXT)
        for ink in ["text", "muted", "link", *[f"{role}-text" for role in ROLES]]
        for ground in NEUTRAL_GROUNDS
    ]
    fills = [(f"on-{role}", role, TEXT) for role in ROLES]
    softs = [(ink, f"{role}-soft", TEXT) for role in ROLES for ink in (f"{role}-text", "text")]
    navigation = [
        ("nav-text", "nav", TEXT),
        ("nav-strong", "nav", TEXT),
        ("nav-strong", "nav-active", TEXT),
    ]
    graphics = [(f"stage-{stage}", "raised", GRAPHIC) for stage in STAGES]
    graphics += [(f"phase-{number}", "raised", GRAPHIC) for number in (1, 2, 3, 4)]
    graphics += [(f"signal-{signal}", "raised", GRAPHIC) for signal in SIGNALS]
    lines = [
        (line, ground, GRAPHIC) for line in ("border-strong", "focus") for ground in NEUTRAL_GROUNDS
    ]
    return text_on_neutral + fills + softs + navigation + graphics + lines


def tokens() -> dict[str, dict[str, str]]:
    """theme → token → colour."""
    found = TOKEN.findall((CSS / "tokens.css").read_text())
    return {
        "light": {name: light for name, light, _ in found},
        "dark": {name: dark for name, _, dark in found},
    }


def luminance(colour: str) -> float:
    """Relative luminance as WCAG defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_computed_as_wcag_does() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("theme", THEMES)
def test_every_pair_of_tokens_is_readable(theme: str) -> None:
    colours = tokens()[theme]
    too_faint = [
        f"{ink} on {ground}: {contrast(colours[ink], colours[ground]):.2f} < {least}"
        for ink, ground, least in pairs()
        if contrast(colours[ink], colours[ground]) < least
    ]
    assert too_faint == []


def test_light_theme_has_the_colours_of_the_design() -> None:
    light = tokens()["light"]
    assert {name: light[name] for name in FIXED} == FIXED


def test_style_sheets_name_tokens_and_no_colour_of_their_own() -> None:
    literal = re.compile(r"#[0-9a-fA-F]{3,8}\b|\b(?:rgb|hsl|oklch)a?\(")
    for sheet in CSS.glob("*.css"):
        if sheet.name == "tokens.css":
            continue
        rules = re.sub(r"/\*.*?\*/", "", sheet.read_text(), flags=re.S)
        assert literal.findall(rules) == [], sheet.name


def test_style_sheets_use_only_tokens_that_exist() -> None:
    defined = set(re.findall(r"--([\w-]+):", (CSS / "tokens.css").read_text()))
    for sheet in CSS.glob("*.css"):
        text = sheet.read_text()
        used = set(re.findall(r"var\(--([\w-]+)", text))
        own = set(re.findall(r"--([\w-]+):", text))
        assert used - defined - own == set(), sheet.name
