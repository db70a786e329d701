"""The metric cards of the dashboard: figure, note, trend line, and change along that line.

Decides how a change is said. What a figure is and was, `o2r/metrics.py` knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from o2r.metrics import PipelineFigures
from o2r.trends import Trend
from o2r.views.links import Links
from o2r.written import day_words

PERIODS = {"12m": "12 months", "all": "all time"}
TONES = {"connected": "good", "delayed": "late", "disconnected": "gone"}
WIDTH, HEIGHT, PAD = 100, 24, 2


@dataclass(frozen=True)
class Line:
    """A trend line for an SVG of 100 × 24: its path, and the area under it."""

    path: str
    area: str


@dataclass(frozen=True)
class Told:
    """How a figure moved along its line; `before` is what it was `then`."""

    words: str
    direction: str  # up | down | level
    since: str
    before: Any
    then: str
    line: Line


@dataclass(frozen=True)
class Card:
    metric: str
    label: str
    figure: Any
    kind: str  # sgd | percent
    note: str
    link: str
    title: str
    told: Told | None
    untold: str  # why nothing is told of the past


def metric_cards(figures: PipelineFigures, links: Links) -> list[Card]:
    """The four figures. All of them are as old as the mirror is."""
    closed = f"{PERIODS[links.selection.period]}{closed_scope(links)}"
    open_deals = f"{figures.open_count:,} open deal{'s' * (figures.open_count != 1)}"
    by_value = ""
    if figures.win_rate_value is not None:
        by_value = f"; {percent_words(figures.win_rate_value)} by value"
    share = ""
    if figures.total_pipeline_cents > 0:
        share = f", {figures.weighted_cents * 100 // figures.total_pipeline_cents}% of it"
    past = pipeline_untold(figures)
    trends = figures.trends
    # While the mirror is being filled a line of the deals that happen to be here would be false.
    is_whole = figures.moves_from is not None
    closed_past = "" if is_whole else past
    return [
        Card(
            "total-pipeline",
            "Total pipeline",
            figures.total_pipeline_cents,
            "sgd",
            open_deals,
            links.open_records(),
            "",
            told(trends.total_pipeline, relative_words),
            past,
        ),
        Card(
            "weighted",
            "Weighted",
            figures.weighted_cents,
            "sgd",
            f"amount × probability{share}",
            links.open_records(),
            "",
            told(trends.weighted, relative_words),
            past,
        ),
        Card(
            "win-rate",
            "Win rate",
            figures.win_rate,
            "percent",
            f"{figures.won_count:,} won, {figures.lost_count:,} lost, {closed}{by_value}",
            links.closed_records("closed_won", "closed_lost"),
            "Won ÷ (won + lost) of deals closed in the period, by their closing date",
            told(trends.win_rate, point_words) if is_whole else None,
            closed_past,
        ),
        Card(
            "average-deal",
            "Average deal",
            figures.average_deal_size_cents,
            "sgd",
            f"of {figures.won_count:,} won, {closed}",
            links.closed_records("closed_won"),
            "",
            told(trends.average_deal_size, relative_words) if is_whole else None,
            closed_past,
        ),
    ]


def closed_scope(links: Links) -> str:
    """The stage filter is about open deals: won and lost are of all stages, and say so."""
    return ", all stages" if links.selection.stage else ""


def pipeline_untold(figures: PipelineFigures) -> str:
    """Why nothing is told of the pipeline's past."""
    if figures.moves_from is None:
        return "Its past is kept from the end of the first sync on"
    if figures.trends.total_pipeline is None:
        return "No past is kept for these filters together"
    return f"Its past is kept since {day_words(figures.moves_from)}"


def told(trend: Trend | None, words: Callable[[Any, Any], tuple[str, str]]) -> Told | None:
    """The change between the ends of the line; nothing with fewer than two of them."""
    if trend is None or len(trend.values) < 2 or trend.values[-1] is None:
        return None
    before, now = trend.values[0], trend.values[-1]
    said, direction = words(before, now)
    return Told(
        said,
        direction,
        since_words(trend),
        before,
        f"on {day_words(trend.start)}",
        line_of(trend.values),
    )


def since_words(trend: Trend) -> str:
    days = len(trend.values) - 1
    return f"in {days} day{'s' * (days != 1)}"


def relative_words(before: int, now: int) -> tuple[str, str]:
    """`+4.2%`; what cannot be a share of before is said in words."""
    if before == now:
        return "No change", "level"
    direction = "up" if now > before else "down"
    if before <= 0:
        return ("More" if now > before else "Less"), direction
    percent = (Decimal(now - before) * 100 / before).quantize(Decimal("0.1"), ROUND_HALF_UP)
    if not percent:
        return ("Slightly more" if now > before else "Slightly less"), direction
    return signed(f"{percent:+,.0f}%" if abs(percent) >= 1000 else f"{percent:+.1f}%"), direction


def point_words(before: Decimal, now: Decimal) -> tuple[str, str]:
    """`+1.2 points` between two shares."""
    points = ((now - before) * 100).quantize(Decimal("0.1"), ROUND_HALF_UP)
    if not points:
        return "No change", "level"
    return signed(f"{points:+.1f} points"), "up" if points > 0 else "down"


def signed(words: str) -> str:
    """With a minus sign that is as wide as the plus."""
    return words.replace("-", "−")


def percent_words(share: Decimal) -> str:
    return f"{(share * 100).quantize(Decimal('0.1'), ROUND_HALF_UP).normalize():f}%"


def line_of(values: tuple[Any, ...]) -> Line:
    """From the least to the greatest value over the whole height; a level one in the middle."""
    known = [float(value) for value in values if value is not None]
    low, high = min(known), max(known)
    step = WIDTH / (len(values) - 1)
    points = []
    for place, value in enumerate(values):
        if value is None:
            continue
        share = (float(value) - low) / (high - low) if high > low else 0.5
        points.append(f"{place * step:.1f} {HEIGHT - PAD - share * (HEIGHT - 2 * PAD):.1f}")
    path = "M" + "L".join(points)
    first, last = points[0].split()[0], points[-1].split()[0]
    return Line(path, f"{path}L{last} {HEIGHT}L{first} {HEIGHT}Z")
