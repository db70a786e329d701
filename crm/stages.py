"""The CRM's stages and ours: which is which, won or lost, and the usual probability. Pure.

Won and lost follow from the CRM's forecast type, never from a name or a probability. Names are
matched on the actual and on the displayed value, which may differ after a rename.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

OPEN, WON, LOST = "open", "won", "lost"
OPEN_STAGES = ("qualification", "discovery", "proposal", "negotiation", "other")
STAGES = (*OPEN_STAGES, "closed_won", "closed_lost")
LABELS = {
    "qualification": "Qualification",
    "discovery": "Discovery",
    "proposal": "Proposal",
    "negotiation": "Negotiation",
    "other": "Other",
    "closed_won": "Closed won",
    "closed_lost": "Closed lost",
}
FORECAST_TYPES = {"open": OPEN, "closed won": WON, "closed lost": LOST}

# Default meaning of the CRM's own stage names: ours, probability in percent, forecast type.
DEFAULTS: dict[str, tuple[str, int, str]] = {
    "Qualification": ("qualification", 10, OPEN),
    "Needs Analysis": ("discovery", 20, OPEN),
    "Value Proposition": ("discovery", 40, OPEN),
    "Identify Decision Makers": ("discovery", 60, OPEN),
    "Id. Decision Makers": ("discovery", 60, OPEN),
    "Proposal/Price Quote": ("proposal", 75, OPEN),
    "Negotiation/Review": ("negotiation", 90, OPEN),
    "Closed Won": ("closed_won", 100, WON),
    "Closed Lost": ("closed_lost", 0, LOST),
    "Closed-Lost to Competition": ("closed_lost", 0, LOST),
    "Closed Lost to Competition": ("closed_lost", 0, LOST),
}


class StageMeaning(NamedTuple):
    """`ours` is one of STAGES, `type` open, won or lost, `probability` the usual percent."""

    ours: str
    type: str
    probability: int | None
    is_known: bool


UNKNOWN = StageMeaning("other", OPEN, None, False)


def default_meaning(
    actual: str, display: str, forecast_type: str | None, probability: int | None
) -> StageMeaning:
    """What a stage of the CRM means before ops say otherwise; metadata wins over the table."""
    ours, usual, kind = (
        DEFAULTS.get(display) or DEFAULTS.get(actual) or ("other", probability, OPEN)
    )
    kind = FORECAST_TYPES.get((forecast_type or "").strip().lower(), kind)
    if kind == WON:
        ours = "closed_won"
    elif kind == LOST:
        ours = "closed_lost"
    elif ours in ("closed_won", "closed_lost"):
        ours = "other"
    if kind != OPEN:
        usual = 100 if kind == WON else 0
    elif probability is not None:
        usual = probability
    return StageMeaning(ours, kind, usual, True)


class StageRow(NamedTuple):
    """A stage of the CRM with every name that a deal may still know it by."""

    actual: str
    display: str
    meaning: StageMeaning
    former: tuple[str, ...] = ()
    in_use: bool = True


class StageTable:
    """Looks a stage name up.

    Where two stages go by one name: the one in use before the one that is not, and of these the
    one that is shown so, then the one that is called so, then the one that once was shown so.
    """

    def __init__(self, rows: Iterable[StageRow]) -> None:
        self._by_name: dict[str, StageMeaning] = {}
        rows = list(rows)
        for some in ([r for r in rows if r.in_use], [r for r in rows if not r.in_use]):
            for names_of in (
                lambda row: (row.display,),
                lambda row: (row.actual,),
                lambda row: row.former,
            ):
                for row in some:
                    for name in names_of(row):
                        self._by_name.setdefault(name, row.meaning)

    def meaning(self, name: str | None) -> StageMeaning:
        """An unknown or empty name is *other*, which counts as open."""
        return self._by_name.get(name or "", UNKNOWN)


def default_table() -> StageTable:
    """The table for a CRM whose stage metadata could not be read."""
    return StageTable(
        StageRow(name, name, StageMeaning(ours, kind, usual, True))
        for name, (ours, usual, kind) in DEFAULTS.items()
    )
