"""What follows from a deal's mapped columns: our stage, its type, probability, SGD values. Pure."""

from __future__ import annotations

from datetime import date
from typing import NamedTuple

from crm.currency import RateBook, weighted
from crm.stages import OPEN, StageTable


class Derived(NamedTuple):
    """Column values; money in cents of SGD, probability in percent."""

    stage: str
    stage_type: str
    probability: int | None
    amount_sgd_minor: int | None
    weighted_sgd_minor: int | None


COLUMNS = Derived._fields
INPUTS = (
    "crm_stage",
    "crm_probability",
    "amount_minor",
    "currency",
    "given_sgd_minor",
    "closing_date",
)


class Deriver:
    """Holds the stage table, the rates and the business day that a run works with."""

    def __init__(self, stages: StageTable, rates: RateBook, today: date) -> None:
        self.stages = stages
        self.rates = rates
        self.today = today

    def derive(
        self,
        crm_stage: str | None,
        crm_probability: int | None,
        amount_minor: int | None,
        currency: str | None,
        given_sgd_minor: int | None,
        closing_date: str | date | None,
    ) -> Derived:
        """Open deals use today's rate, won and lost ones that of their closing day."""
        meaning = self.stages.meaning(crm_stage)
        probability = meaning.probability if crm_probability is None else crm_probability
        sgd = given_sgd_minor
        if sgd is None and amount_minor is not None and currency:
            is_closed = meaning.type != OPEN and closing_date is not None
            sgd = self.rates.to_sgd(
                amount_minor,
                currency,
                _as_date(closing_date) if is_closed else self.today,
                or_oldest=is_closed,
            )
        return Derived(meaning.ours, meaning.type, probability, sgd, weighted(sgd, probability))


def _as_date(value: str | date | None) -> date:
    return date.fromisoformat(value) if isinstance(value, str) else value  # type: ignore[return-value]
