"""What follows from a change: the fields that the CRM fills itself."""

from decimal import Decimal
from typing import Any

from crm.sandbox.errors import ApiError
from crm.sandbox.fragments import from_fragment, to_fragment
from crm.sandbox.picklists import PIPELINES
from crm.sandbox.schema import Module
from crm.sandbox.store import Transaction
from crm.sandbox.values import number_fragment


def derive(
    tx: Transaction, module: Module, row: dict[str, Any], given: set[str], index: int
) -> None:
    """Fields the CRM fills itself, from those that were given."""
    if "Full_Name" in module.fields:
        parts = [from_fragment(row.get(n)) for n in ("First_Name", "Last_Name")]
        row["Full_Name"] = to_fragment(" ".join(str(p) for p in parts if p)) if any(parts) else None
    if "Currency" in given and "Exchange_Rate" in module.fields and "Exchange_Rate" not in given:
        _take_rate(tx, row)
    if module.api_name == "Deals":
        _derive_deal(module, row, given, index)


def _take_rate(tx: Transaction, row: dict[str, Any]) -> None:
    rate = tx.store.rate_of(str(from_fragment(row.get("Currency"))))
    if rate is not None:
        row["Exchange_Rate"] = number_fragment(Decimal(rate))


def _derive_deal(module: Module, row: dict[str, Any], given: set[str], index: int) -> None:
    stage = from_fragment(row.get("Stage"))
    if given & {"Stage", "Pipeline"}:
        _check_pipeline(module, row, stage, index)
    choice = module.fields["Stage"].choice(str(stage))
    if "Stage" in given and "Probability" not in given and choice is not None:
        row["Probability"] = str(choice.extra["probability"])
    if given & {"Stage", "Probability", "Amount"}:
        amount, percent = (from_fragment(row.get(n)) for n in ("Amount", "Probability"))
        known = all(
            isinstance(v, int | float) and not isinstance(v, bool) for v in (amount, percent)
        )
        row["Expected_Revenue"] = (
            number_fragment(
                (Decimal(str(amount)) * Decimal(str(percent)) / 100).quantize(Decimal("0.01"))
            )
            if known
            else None
        )


def _check_pipeline(module: Module, row: dict[str, Any], stage: Any, index: int) -> None:
    if module.get("Pipeline") is None:
        return  # an org without pipelines
    pipeline = from_fragment(row.get("Pipeline"))
    for display, actual, stages in PIPELINES:
        if pipeline in (display, actual) and stage not in stages:
            raise ApiError(
                400,
                "MAPPING_MISMATCH",
                "the stage does not belong to the pipeline",
                {
                    "mapped_field": "Pipeline",
                    "api_name": "Stage",
                    "json_path": f"$.data[{index}].Stage",
                },
                counts=False,
            )
