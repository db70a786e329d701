"""A record of the CRM → canonical values of our columns and the problems found on the way. Pure.

A `Mapper` is compiled once per run from the field table, the picklists and the home currency, and
then applied to every record. Key missing in the record: `MISSING`, our value stays. `null`: our
value is cleared. A value that does not fit never loses the rest of the record.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple

from crm.mapping import convert, profiles
from crm.mapping.convert import Noted, Ref
from crm.mapping.profiles import FieldSpec


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Any = _Missing()


class Problem(NamedTuple):
    """A value that did not fit: our field, a code for machines, a sentence for people."""

    field: str
    code: str
    message: str


class Unusable(Exception):
    """The record cannot be stored at all; `code` and the message say why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class Mapped:
    """One record, mapped. `values` follow `Mapper.columns`; references are `Ref`."""

    zoho_id: int
    values: list[Any]
    modified_at: datetime | None
    created_at: datetime | None
    modified_by: Ref | None
    problems: list[Problem] = field(default_factory=list)
    has_missing: bool = False


class Mapper:
    """Maps the records of one module. `columns` are our fields in the order of `Mapped.values`.

    Of our columns, those that no CRM field feeds are absent from `columns`. Money needs the
    record's currency, so it is converted after the other fields.
    """

    def __init__(
        self,
        specs: Sequence[FieldSpec],
        *,
        home_currency: str,
        multi_currency: bool = True,
        picklists: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        picklists = picklists or {}
        self.home_currency = home_currency
        self.specs = list(specs)
        self.api_names = [spec.api for spec in specs]
        self.has_money = any(spec.kind == profiles.MONEY for spec in specs)
        self._fixed_currency = self.has_money and (
            not multi_currency or all(s.kind != profiles.CURRENCY for s in specs)
        )
        self._apis: list[str] = []
        self._converters: list[tuple[int, convert.Converter]] = []
        self._percents: list[int] = []
        self._money: list[tuple[int, str]] = []
        self.columns: list[str] = []
        self._tag_at: int | None = None
        for spec in specs:
            if spec.kind == profiles.CURRENCY and self._fixed_currency:
                continue
            if spec.kind == profiles.TAG:
                self._tag_at = len(self.columns)
            converter = converter_for(spec, dict(picklists.get(spec.api) or {}) or None)
            if spec.kind == profiles.MONEY:
                self._money.append((len(self.columns), spec.ours))
            if spec.kind == profiles.PERCENT:
                self._percents.append(len(self.columns))
            if converter is not None:
                self._converters.append((len(self.columns), converter))
            self._apis.append(spec.api)
            self.columns.append(spec.ours)
        self._currency_at = self._append_currency()
        # A tag says whether funding exists, unless the organisation has a field for that too.
        self._funded_from_tag = self._tag_at is not None and "aws_funded" not in self.columns
        if self._funded_from_tag:
            self.columns.append("aws_funded")
        # Amounts whose currency the CRM says with each record.
        self.money_columns = [] if self._fixed_currency else [name for _, name in self._money]
        self.index = {name: at for at, name in enumerate(self.columns)}
        self._all_of = _getter(self._apis)
        self._person_of = convert.reference_reader()
        self.has_moments = any(spec.kind == profiles.MOMENT for spec in specs)
        self.refs = [
            (self.index[s.ours], s.ours, s.target)
            for s in specs
            if s.kind == profiles.REF and s.ours in self.index
        ]

    def _append_currency(self) -> int:
        if not self.has_money:
            return -1
        if self._fixed_currency:
            self.columns.append("currency")
        return self.columns.index("currency")

    def apply(self, record: Any) -> Mapped:
        """Map one record. Raises `Unusable` for what has no id or is no object."""
        if record.__class__ is not dict:
            raise Unusable("not_an_object", "The CRM sent something that is not a record.")
        zoho_id = convert.record_id(record.get("id"))
        if zoho_id is None:
            raise Unusable("no_id", "The record has no id that could be read.")
        problems: list[Problem] = []
        get = record.get
        try:
            values, has_missing = list(self._all_of(record)), False
        except KeyError:
            values, has_missing = [get(api, MISSING) for api in self._apis], True
        for at, converter in self._converters:
            value = values[at]
            if value is None or value is MISSING:
                continue
            value = converter(value)
            if value.__class__ is Noted:
                problems.append(Problem(self.columns[at], value.code, value.message))
                value = value.value
            values[at] = value
        problems += [
            Problem(self.columns[at], "missing", "The stage's usual one is used.")
            for at in self._percents
            if get(self._apis[at], MISSING) is None
        ]
        mapped = Mapped(
            zoho_id,
            values,
            self._moment(record, "Modified_Time", problems),
            self._moment(record, "Created_Time", problems),
            self._person(get("Modified_By")),
            problems,
            has_missing,
        )
        if self.has_money:
            self._settle_money(mapped)
        if self._funded_from_tag:
            tag = values[self._tag_at]  # type: ignore[index]
            values.append(tag if tag is MISSING else _is_funded(tag))
        return mapped

    def plain_reader(self, name: str) -> tuple[str, convert.Converter] | None:
        """The CRM's name of a column and how one value of it is read; None where that takes more
        than the value: references, moments, amounts, what follows from another."""
        spec = next((spec for spec in self.specs if spec.ours == name), None)
        more = (profiles.REF, profiles.MOMENT, profiles.MONEY, profiles.CURRENCY)
        if spec is None or spec.kind in more:
            return None
        return spec.api, dict(self._converters)[self.index[name]]

    def told(self, values: Sequence[Any]) -> str:
        """The values that are there as a JSON object, in column order: what the *created* event
        keeps and what is hashed. ASCII; moments as ISO text. References are numbers by then."""
        return _encode(
            {
                name: value
                for name, value in zip(self.columns, values, strict=True)
                if value is not None and value is not MISSING
            }
        )

    def _settle_money(self, mapped: Mapped) -> None:
        values = mapped.values
        if self._fixed_currency:
            values.append(self.home_currency)
        if values[self._currency_at] is not MISSING:  # else our own decides: `fill_missing`
            self._convert_money(mapped, [at for at, _ in self._money if values[at] is not MISSING])

    def _convert_money(self, mapped: Mapped, places: Sequence[int]) -> None:
        values = mapped.values
        code = values[self._currency_at] = values[self._currency_at] or self.home_currency
        decimals = convert.decimals_of(code)
        for at in places:
            if values[at] is None:
                continue
            value = convert.minor_units(values[at], decimals)
            if value.__class__ is Noted:
                mapped.problems.append(Problem(self.columns[at], value.code, value.message))
                value = value.value
            values[at] = value

    def fill_missing(self, mapped: Mapped, stored: Mapping[str, Any]) -> None:
        """Our own values, by column, in the place of keys that the answer left out.

        An amount that came without its currency is in ours; one that is ours keeps its worth when
        the currency that came has other decimals.
        """
        values = mapped.values
        if not mapped.has_missing:
            return
        came = [at for at, _ in self._money if values[at] is not MISSING]
        has_currency = self.has_money and values[self._currency_at] is not MISSING
        for name, at in self.index.items():
            if values[at] is MISSING:
                values[at] = stored.get(name)
        if self.has_money and not has_currency:
            self._convert_money(mapped, came)
        elif self.has_money:
            was, now = stored.get("currency") or "", values[self._currency_at]
            for at in (at for at, _ in self._money if at not in came):
                values[at] = convert.rescaled(values[at], was, now)

    def lacks_currency(self, values: Sequence[Any], name: str) -> bool:
        """Whether this is an amount that came without saying in which currency."""
        at = self.index[name]
        return any(at == money for money, _ in self._money) and values[self._currency_at] is MISSING

    def overlay(self, values: list[Any], ours: Mapping[str, Any]) -> None:
        """Put our values in the place of those that came, and what follows from them: whether a
        tag means funding, and amounts in the decimals of another currency."""
        index = self.index
        if "currency" in ours and self.has_money:
            was, now = values[self._currency_at], ours["currency"]
            for at, name in self._money:
                if name not in ours and values[at].__class__ is int:
                    values[at] = convert.rescaled(values[at], was or "", now or "")
        for name, value in ours.items():
            values[index[name]] = value
        if self._funded_from_tag and self.columns[self._tag_at] in ours:  # type: ignore[index]
            values[index["aws_funded"]] = _is_funded(values[self._tag_at])  # type: ignore[index]

    @staticmethod
    def _moment(record: dict, key: str, problems: list[Problem]) -> datetime | None:
        value = record.get(key)
        if value is None:
            return None
        value = convert.moment(value)
        if value.__class__ is Noted:
            problems.append(Problem(key, value.code, value.message))
            return None
        return value

    def _person(self, value: Any) -> Ref | None:
        found = self._person_of(value) if value is not None else None
        return found if found.__class__ is Ref else None


def _getter(keys: Sequence[str]) -> Callable[[dict], Sequence[Any]]:
    """All values of these keys in one step; KeyError if one is missing."""
    if len(keys) > 1:
        return itemgetter(*keys)
    return lambda record: [record[key] for key in keys]


def _is_funded(tag: str | None) -> bool:
    return tag is not None and tag.strip().lower() not in {"none", "no", "-none-", ""}


def converter_for(spec: FieldSpec, labels: dict[str, str] | None) -> convert.Converter | None:
    if spec.kind in (profiles.TEXT, profiles.LONG_TEXT):
        return convert.text(spec.length)
    if spec.kind in (profiles.PICK, profiles.TAG):
        return convert.pick(spec.length, labels)
    if spec.kind == profiles.SGD:
        return lambda value: convert.minor_units(value, 2)
    if spec.kind == profiles.MONEY:
        return None  # settled after the currency is known
    return {
        profiles.DATE: convert.day,
        profiles.MOMENT: convert.moment,
        profiles.PERCENT: convert.percent,
        profiles.INTEGER: convert.whole_number,
        profiles.FLAG: convert.flag,
        profiles.CURRENCY: convert.currency_code,
        profiles.REF: convert.reference_reader(),
    }[spec.kind]


def canonical(value: Any) -> Any:
    """The JSON form of a canonical value: references by id, moments as UTC ISO text."""
    if value.__class__ is Ref:
        return value.id
    if value.__class__ is datetime:
        return value.isoformat()
    return None if value is MISSING else value


def _told_otherwise(value: Any) -> Any:
    """What JSON has no form for. An amount whose currency is not known yet is here as it came."""
    if value.__class__ is datetime:
        return value.isoformat()
    return repr(value)


_encode = json.JSONEncoder(separators=(",", ":"), default=_told_otherwise).encode


def content_hash(told: str) -> str:
    """Hash over what `Mapper.told` says. A quick look, not the judge: where it differs, the values
    themselves are compared."""
    return hashlib.blake2b(told.encode("ascii"), digest_size=16).hexdigest()
