"""What a run works with, read once from our tables: mappers, stage table, rates, business day."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings

from crm import stages
from crm.currency import RateBook
from crm.mapping.apply import Mapper
from crm.mapping.check import picklists_of, present_specs
from crm.mapping.profiles import AUTO, STANDARD, SYSTEM_FIELDS, FieldSpec, effective_mapping
from crm.models import CrmConnection, CrmField, CrmStage, ExchangeRate, FieldMapping
from crm.sync.derive import Deriver
from crm.sync.metadata import business_day


class SyncContext:
    """Mappers are compiled on first use. `api_names` is what to ask the CRM for."""

    def __init__(self, now: datetime, connection: CrmConnection | None = None) -> None:
        connection = connection or CrmConnection.objects.filter(pk=1).first() or CrmConnection()
        self.profile = connection.profile or configured_profile()
        self.home_currency = connection.home_currency
        self.multi_currency = connection.multi_currency
        self.deriver = Deriver(stage_table(), rate_book(self.home_currency), business_day(now))
        self._mappers: dict[str, Mapper] = {}

    def specs(self, module: str) -> list[FieldSpec]:
        """The mapping in force, without the fields that the CRM is known to lack."""
        return present_specs(mapping_of(module, self.profile), _fields_of(module))

    def mapper(self, module: str) -> Mapper:
        if module not in self._mappers:
            fields = _fields_of(module)
            self._mappers[module] = Mapper(
                present_specs(mapping_of(module, self.profile), fields),
                home_currency=self.home_currency,
                multi_currency=self.multi_currency,
                picklists=picklists_of(fields),
            )
        return self._mappers[module]

    def mapper_of(self, module: str, ours: set[str]) -> Mapper:
        """A mapper of these fields of ours alone."""
        return Mapper(
            [spec for spec in self.specs(module) if spec.ours in ours],
            home_currency=self.home_currency,
            multi_currency=self.multi_currency,
            picklists=picklists_of(_fields_of(module)),
        )

    def api_names(self, module: str) -> list[str]:
        names = [*self.mapper(module).api_names, *SYSTEM_FIELDS]
        return list(dict.fromkeys(names))


def mapping_of(module: str, profile: str) -> list[FieldSpec]:
    """The built-in table with the overrides that ops made in the admin."""
    overrides = dict(
        FieldMapping.objects.filter(module=module).values_list("our_field", "api_name")
    )
    return effective_mapping(module, profile, overrides)


def stage_table() -> stages.StageTable:
    """As mirrored and edited; the default table while the CRM's stages are unknown."""
    rows = [
        stages.StageRow(
            stage.actual_name,
            stage.display_name,
            stages.StageMeaning(stage.our_stage, stage.forecast_type, stage.probability, True),
            former=tuple(stage.former_names),
            in_use=stage.in_use,
        )
        for stage in CrmStage.objects.all()
    ]
    return stages.StageTable(rows) if rows else stages.default_table()


def rate_book(home: str) -> RateBook:
    return RateBook(
        home,
        (
            (rate.iso_code, rate.day, rate.rate_nano, rate.source == ExchangeRate.MANUAL)
            for rate in ExchangeRate.objects.all()
        ),
    )


def _fields_of(module: str) -> dict[str, dict]:
    return {
        api: {"data_type": data_type, "picklist": picklist}
        for api, data_type, picklist in CrmField.objects.filter(module=module).values_list(
            "api_name", "data_type", "picklist"
        )
    }


def configured_profile() -> str:
    profile = settings.ZOHO_FIELD_PROFILE
    return STANDARD if profile == AUTO else profile
