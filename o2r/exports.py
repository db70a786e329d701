"""The filtered table as a file: the same selection as the list, with what a spreadsheet needs.

Decides which columns there are, how many rows an XLSX may have, and how many exports a person has
at a time. How a file is written is `o2r/spreadsheet.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import structlog
from django.core.cache import cache
from django.db.models import F, QuerySet
from django.http import StreamingHttpResponse

from crm import stages
from crm.api.paging import bounded_count
from crm.errors import CrmError
from crm.mapping.convert import decimals_of
from crm.models import Deal
from o2r import milestones
from o2r.filters import Selection
from o2r.health_signals import evidence, reasons_on
from o2r.models import Opportunity
from o2r.permissions import may_export
from o2r.services.entry import require
from o2r.spreadsheet import Cell, Sheet, csv_stream, xlsx_stream
from o2r.tracker_metrics import PHASE_LABELS, TrackerFigures, tracker_figures

log = structlog.get_logger(__name__)
CSV, XLSX = "csv", "xlsx"
CONTENT = {
    CSV: "text/csv; charset=utf-8",
    XLSX: "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
MOST_IN_XLSX = 100_000
AT_A_TIME, SLOT_S = 2, 900
_ROWS_A_QUERY = 2000


class TooManyRows(CrmError):
    """More than a spreadsheet is written for (409)."""

    code = "too_many_rows"


class TooManyExports(CrmError):
    """This person has two under way (409)."""

    code = "too_many_exports"


@dataclass(frozen=True)
class Line:
    """One deal with its opportunity, on the day of the export."""

    deal: Deal
    tracked: Opportunity
    today: date


def _money(minor: int | None, currency: str) -> Decimal | None:
    return None if minor is None else Decimal(minor).scaleb(-decimals_of(currency))


def _days(line: Line) -> int | None:
    entered_on = line.tracked.phase_entered_on
    return None if entered_on is None else (line.today - entered_on).days


def _reasons(line: Line) -> str:
    return "; ".join(evidence(each) for each in reasons_on(line.tracked.reasons, line.today))


def _yes_or_no(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


COLUMNS: dict[str, Callable[[Line], Cell]] = {
    "Id": lambda line: str(line.deal.pk),
    "CRM id": lambda line: None if line.deal.zoho_id is None else str(line.deal.zoho_id),
    "Name": lambda line: line.deal.name,
    "Account": lambda line: line.deal.account and str(line.deal.account),
    "Owner": lambda line: line.deal.owner and str(line.deal.owner),
    "Territory": lambda line: line.deal.territory,
    "Service line": lambda line: line.deal.service_line,
    "Stage": lambda line: stages.LABELS.get(line.deal.stage, line.deal.stage),
    "CRM stage": lambda line: line.deal.crm_stage,
    "Amount": lambda line: _money(line.deal.amount_minor, line.deal.currency),
    "Currency": lambda line: line.deal.currency,
    "Amount SGD": lambda line: _money(line.deal.amount_sgd_minor, "SGD"),
    "Probability %": lambda line: line.deal.probability,
    "Weighted SGD": lambda line: _money(line.deal.weighted_sgd_minor, "SGD"),
    "Closing date": lambda line: line.deal.closing_date,
    "Outcome": lambda line: line.tracked.get_outcome_display(),
    "Phase": lambda line: ("", "I", "II", "III", "IV")[line.tracked.current_phase],
    "Days in phase": _days,
    "Signal": lambda line: line.tracked.health_signal,
    "Reasons": _reasons,
    "Gets worse on": lambda line: line.tracked.worse_on,
    **{
        milestones.title_of(key): lambda line, column=column: getattr(line.deal, column)
        for key, column in milestones.MAPPED.items()
    },
    "SOW estimated": lambda line: (
        line.tracked.sow_estimated_on if line.deal.sow_date is None else None
    ),
    "AWS funded": lambda line: _yes_or_no(line.deal.aws_funded),
    "AWS funding": lambda line: line.deal.aws_funded_tag,
    "Alliance motion": lambda line: line.deal.alliance_motion,
    "Strategic account": lambda line: _yes_or_no(line.deal.strategic_account),
    "Next step": lambda line: line.deal.next_step,
}


def export(selection: Selection, kind: str, *, user: Any, today: date) -> StreamingHttpResponse:
    """The whole selection, streamed: largest value first. One query for all rows.

    Raises PermissionRefused, TooManyRows, TooManyExports.
    """
    require(may_export(user))
    rows = rows_of(selection)
    if kind == XLSX:
        count, is_exact = bounded_count(rows)
        if not is_exact or count > MOST_IN_XLSX:
            raise TooManyRows(
                f"An XLSX holds at most {MOST_IN_XLSX:,} opportunities, and this selection has "
                "more. Set a filter, or take the CSV: it holds any number."
            )
    slot = _take_slot(user)
    log.info("exported", user=user.pk, kind=kind, selection=selection.query())
    table = cells_of(rows, today)
    if kind == CSV:
        written = csv_stream(list(COLUMNS), table)
    else:
        figures = tracker_figures(selection, today=today)
        written = xlsx_stream(
            [
                Sheet("Opportunities", list(COLUMNS), table),
                Sheet("Figures", FIGURE_HEADS, figure_rows(figures)),
            ]
        )
    response = StreamingHttpResponse(_freeing(slot, written), content_type=CONTENT[kind])
    name = f"opportunities-{today.isoformat()}.{kind}"
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    response["X-Content-Type-Options"] = "nosniff"
    return response


def rows_of(selection: Selection) -> QuerySet:
    rows = selection.deals().select_related("account", "owner", "opportunity")
    return rows.order_by(F("amount_sgd_minor").desc(nulls_last=True), "-pk")


def cells_of(rows: QuerySet, today: date) -> Iterator[list[Cell]]:
    columns = list(COLUMNS.values())
    for deal in rows.iterator(chunk_size=_ROWS_A_QUERY):
        tracked = getattr(deal, "opportunity", None) or Opportunity(deal=deal)
        line = Line(deal, tracked, today)
        yield [column(line) for column in columns]


FIGURE_HEADS = ("Figure", "Of", "Count", "SGD", "Share or days")


def figure_rows(figures: TrackerFigures) -> Iterator[list[Cell]]:
    """The figures of the same selection, as page and API tell them (`docs/METRICS.md`)."""

    def row(figure: str, of: str = "", count: int | None = None, sgd: int | None = None,
            number: Decimal | None = None) -> list[Cell]:  # fmt: skip
        return [figure, of, count, _money(sgd, "SGD"), number]

    f = figures
    yield row("As of", f.as_of.isoformat() if f.as_of else "")
    yield row("Opportunities", "", f.total_opportunities, f.total_value_sgd_cents)
    yield row("Weighted", "", None, f.weighted_sgd_cents)
    for figure, buckets in (
        ("By phase", f.by_phase),
        ("By signal", f.by_signal),
        ("By territory", f.by_territory),
        ("By service line", f.by_service_line),
        ("By owner", f.by_owner),
    ):
        for each in buckets:
            yield row(figure, each.label, each.count, each.value_sgd_cents)
    yield row("At risk", "", f.at_risk.count, f.at_risk.value_sgd_cents)
    overdue = f.overdue_payments
    yield row("Overdue payments", "", overdue.count, overdue.value_sgd_cents)
    yield row("Cycle time, average", "", f.cycle.count, None, f.cycle.average)
    yield row("Cycle time, median", "", f.cycle.count, None, f.cycle.median)
    for phase, days in f.time_in_phase.items():
        yield row("Days in phase, average", PHASE_LABELS[phase], days.count, None, days.average)
        yield row("Days in phase, median", PHASE_LABELS[phase], days.count, None, days.median)
    for phase, found in f.conversion.items():
        yield row("Conversion", PHASE_LABELS[phase], found.reached, None, found.share)
    yield row("Left out: no amount", "", f.left_out.no_amount)
    yield row("Left out: no rate", "", f.left_out.no_rate)


def _take_slot(user: Any) -> str:
    """Each keeps a process busy: two at a time for a person. Raises TooManyExports."""
    for number in range(AT_A_TIME):
        slot = f"export.{user.pk}.{number}"
        if cache.add(slot, 1, timeout=SLOT_S):
            return slot
    raise TooManyExports("Two exports of yours are under way. Wait until one of them has ended.")


class _freeing:
    """The stream, and the slot given back when it ends or is left."""

    def __init__(self, slot: str, parts: Iterable[bytes]) -> None:
        self.slot, self.parts = slot, iter(parts)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self.parts)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Called by the server whether or not the reader stayed."""
        cache.delete(self.slot)
        stop = getattr(self.parts, "close", None)
        if stop is not None:
            stop()
