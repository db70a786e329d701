"""The mapping held against the CRM's field metadata: what is missing, and how to mend it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crm.mapping import convert, profiles
from crm.mapping.profiles import FieldSpec

PICK_LENGTH = 255
FITTING_TYPES: dict[str, frozenset[str]] = {
    profiles.DATE: frozenset({"date"}),
    profiles.MOMENT: frozenset({"datetime"}),
    profiles.MONEY: frozenset({"currency", "double", "integer", "bigint"}),
    profiles.SGD: frozenset({"currency", "double", "integer", "bigint", "formula"}),
    profiles.PERCENT: frozenset({"integer", "percent", "double"}),
    profiles.INTEGER: frozenset({"integer", "bigint", "double"}),
    profiles.FLAG: frozenset({"boolean", "picklist", "text"}),
    profiles.REF: frozenset({"lookup", "ownerlookup", "userlookup"}),
}


@dataclass(frozen=True)
class Finding:
    """One mapped field that is not as it should be; `advice` is the step that mends it."""

    module: str
    ours: str
    api: str
    code: str  # missing | wrong_type
    is_optional: bool
    message: str
    advice: str


def present_specs(specs: Sequence[FieldSpec], fields: Mapping[str, Any]) -> list[FieldSpec]:
    """The rows whose CRM field exists; all of them when the metadata could not be read."""
    return [spec for spec in specs if spec.api in fields] if fields else list(specs)


def findings(module: str, specs: Sequence[FieldSpec], types: Mapping[str, str]) -> list[Finding]:
    """Missing fields and fields of a type that cannot feed ours. `types`: api name → data_type."""
    found = []
    for spec in specs:
        data_type = types.get(spec.api)
        fitting = FITTING_TYPES.get(spec.kind)
        if data_type is None:
            found.append(_missing(module, spec))
        elif fitting and data_type not in fitting:
            found.append(
                Finding(
                    module,
                    spec.ours,
                    spec.api,
                    "wrong_type",
                    spec.optional,
                    f"{spec.api} is of type {data_type}.",
                    f"Map {spec.ours} to a field of type {' or '.join(sorted(fitting))}.",
                )
            )
    return found


def _missing(module: str, spec: FieldSpec) -> Finding:
    return Finding(
        module,
        spec.ours,
        spec.api,
        "missing",
        spec.optional,
        f"{module} has no field {spec.api}.",
        f"In the CRM: Setup → Modules and Fields → {module}, add a field with the API name "
        f"{spec.api}; or map {spec.ours} to another field in the admin.",
    )


def picklists_of(fields: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """`{api name: {actual or display value: display value}}` of the picklist fields.

    `fields`: api name → its metadata with `data_type` and `picklist` (the CRM's items).
    """
    found = {}
    for api, meta in fields.items():
        if meta["data_type"] == "picklist" and meta["picklist"]:
            labels: dict[str, str] = {}
            for item in meta["picklist"]:
                told = str(item.get("display_value") or item.get("actual_value") or "")
                label = convert.clean_text(told)[:PICK_LENGTH].rstrip()
                if label:
                    labels.setdefault(str(item.get("actual_value") or told), label)
                    labels[told] = labels[label] = label
            found[api] = labels
    return found
