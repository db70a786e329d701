"""The CRM's description of itself → our tables: organisation, users, fields, stages, rates.

Read at each full sync, once a day, and when the credentials change. What may not be read (a scope
is missing) is named and left as it was; only the organisation itself is needed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import transaction

from crm import stages
from crm.currency import NANO
from crm.errors import OtherOrganisation
from crm.mapping import convert
from crm.mapping.profiles import AUTO, MODULES, pick_profile
from crm.models import (
    CrmConnection,
    CrmField,
    CrmStage,
    CrmUser,
    Currency,
    Deal,
    ExchangeRate,
    MirrorState,
    Pipeline,
    PipelineStage,
)
from crm.zoho.client import ZohoClient
from crm.zoho.errors import FixFields, FixRequest, ScopeMissing


@dataclass
class MetadataNews:
    """What a refresh found: parts that could not be read, and whether deals must be re-derived."""

    refused: list[str] = field(default_factory=list)
    rates_changed: bool = False
    stages_changed: bool = False


def business_day(now: datetime) -> date:
    """The calendar day of the business time zone."""
    return now.astimezone(ZoneInfo(settings.BUSINESS_TIME_ZONE)).date()


def credentials_fingerprint() -> str:
    """Changes when the configured CRM changes; tells nothing about the secrets."""
    zoho = settings.ZOHO
    text = "\n".join([zoho.base_url, zoho.client_id, zoho.refresh_token])
    return hashlib.blake2b(text.encode(), digest_size=8, key=b"pipeline pulse").hexdigest()


def refresh(client: ZohoClient, now: datetime) -> MetadataNews:
    """Read all metadata. Raises OtherOrganisation, and the client's errors for the organisation."""
    news = MetadataNews()
    connection = _read_organisation(client, now)
    for kind in ("AllUsers", "DeletedUsers"):
        _attempt(news, f"users ({kind})", lambda kind=kind: _read_users(client, kind, now))
    for module in MODULES:
        _attempt(
            news, f"fields of {module}", lambda module=module: _read_fields(client, module, now)
        )
    layouts = _attempt(news, "layouts", lambda: client.layouts("Deals")) or []
    pipelines = _attempt(news, "pipelines", lambda: _pipelines(client, layouts))
    news.stages_changed = _keep_stages(layouts, pipelines)
    news.rates_changed = bool(
        _attempt(news, "currencies", lambda: _read_currencies(client, connection, now))
    )
    _choose_profile(connection)
    if (news.rates_changed or news.stages_changed) and Deal.objects.exists():
        queue_derive()  # what is stored from now on is derived with what holds now
    CrmConnection.objects.filter(pk=1).update(metadata_read_at=now)
    return news


def queue_derive() -> None:
    """Have every deal's derived columns computed anew, from the first row (resumable)."""
    MirrorState.objects.update_or_create(
        module="Deals", defaults={"derive_needed": True, "derive_cursor": 0}
    )


def _attempt(news: MetadataNews, part: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (ScopeMissing, FixRequest, FixFields) as error:
        news.refused.append(f"{part}: {error.message}")
        return None


def _read_organisation(client: ZohoClient, now: datetime) -> CrmConnection:
    org = client.org()
    org_id = str(org.get("zgid") or org.get("id") or "")
    name = convert.clean_text(str(org.get("company_name") or ""))[:255]
    connection, _ = CrmConnection.objects.get_or_create(pk=1)
    if connection.org_id and org_id and connection.org_id != org_id:
        raise OtherOrganisation(
            f"{connection.org_name} ({connection.org_id})", f"{name} ({org_id})"
        )
    license_details = org.get("license_details") or {}
    connection.org_id = org_id
    connection.org_name = name
    connection.domain_name = str(org.get("domain_name") or "")[:64]
    connection.edition = str(license_details.get("paid_type") or "")[:64]
    connection.time_zone = str(org.get("time_zone") or "")[:64]
    if isinstance(org.get("mc_status"), bool):
        connection.multi_currency = org["mc_status"]
    connection.home_currency = _home_currency(org)
    connection.fingerprint = credentials_fingerprint()
    connection.save(
        update_fields=[
            "org_id",
            "org_name",
            "domain_name",
            "edition",
            "time_zone",
            "multi_currency",
            "home_currency",
            "fingerprint",
        ]
    )
    return connection


def _home_currency(org: dict[str, Any]) -> str:
    """Its ISO code; without one the last word of a text like `US Dollar - USD`; or unknown."""
    code = convert.currency_code(org.get("iso_code"))
    if isinstance(code, str):
        return code
    words = re.findall(r"[A-Z]{3}(?![A-Za-z])", str(org.get("currency") or ""))
    return words[-1] if words else ""


def _read_users(client: ZohoClient, kind: str, now: datetime) -> None:
    rows: list[CrmUser] = []
    for page in client.users(kind):
        rows += [user for record in page.records if (user := _user(record.value, now))]
    unique = list({user.zoho_id: user for user in rows}.values())
    CrmUser.objects.bulk_create(
        unique,
        update_conflicts=True,
        unique_fields=["zoho_id"],
        update_fields=["name", "email", "status", "role", "profile", "updated_at"],
    )


def _user(value: Any, now: datetime) -> CrmUser | None:
    zoho_id = convert.record_id(value.get("id")) if isinstance(value, dict) else None
    if zoho_id is None:
        return None

    def text_of(key: str, length: int = 255) -> str:
        found = value.get(key)
        found = found.get("name") if isinstance(found, dict) else found
        return convert.clean_text(str(found or ""))[:length]

    name = text_of("full_name") or f"{text_of('first_name')} {text_of('last_name')}".strip()
    return CrmUser(
        zoho_id=zoho_id,
        name=name,
        email=text_of("email", 320),
        status=text_of("status", 16) or "unknown",
        role=text_of("role"),
        profile=text_of("profile"),
        updated_at=now,
    )


def _read_fields(client: ZohoClient, module: str, now: datetime) -> None:
    rows = []
    for item in client.fields(module):
        if not isinstance(item, dict) or not item.get("api_name"):
            continue
        unique = item.get("unique")
        rows.append(
            CrmField(
                module=module,
                api_name=str(item["api_name"])[:100],
                label=str(item.get("display_label") or item.get("field_label") or "")[:255],
                data_type=str(item.get("data_type") or "")[:40],
                json_type=str(item.get("json_type") or "")[:40],
                length=_small(item.get("length")),
                decimal_place=_small(item.get("decimal_place")),
                is_unique=bool(unique),
                is_read_only=bool(item.get("read_only") or item.get("field_read_only")),
                picklist=_picklist(item.get("pick_list_values")),
                read_at=now,
            )
        )
    with transaction.atomic():
        CrmField.objects.filter(module=module).delete()
        CrmField.objects.bulk_create(rows, ignore_conflicts=True)


def _picklist(items: Any) -> list[dict]:
    if not isinstance(items, list):
        return []
    keys = ("display_value", "actual_value", "probability", "forecast_type", "sequence_number")
    return [
        {key: _jsonable(item[key]) for key in keys if key in item}
        for item in items
        if isinstance(item, dict)
    ]


def _jsonable(value: Any) -> Any:
    return str(value) if isinstance(value, Decimal) else value


def _small(value: Any) -> int | None:
    return value if isinstance(value, int) and abs(value) < 2**31 else None


# -- stages -------------------------------------------------------------------------------------


@dataclass
class _StageFacts:
    """What the CRM says of a stage, gathered from wherever it says it; the first word counts."""

    display: str
    sequence: int
    forecast_type: str | None = None
    probability: int | None = None

    def complete(self, forecast_type: Any, probability: Any) -> None:
        self.forecast_type = self.forecast_type or _name_of(forecast_type)
        if self.probability is None:
            self.probability = _small(probability)


def _keep_stages(layouts: list[dict], pipelines: list[dict] | None) -> bool:
    """Stages from the field's picklist, then the layouts', then the pipelines; the default table
    has the last word. True if a meaning changed."""
    found: dict[str, _StageFacts] = {}
    picklist = (
        CrmField.objects.filter(module="Deals", api_name="Stage")
        .values_list("picklist", flat=True)
        .first()
    )
    for items in (picklist or [], *_layout_picklists(layouts)):
        for at, item in enumerate(items):
            display = _cut(item.get("display_value") or item.get("actual_value"))
            actual = _cut(item.get("actual_value") or display)
            if actual and actual != "-None-":
                sequence = _small(item.get("sequence_number")) or at
                facts = found.setdefault(actual, _StageFacts(display, sequence))
                facts.complete(item.get("forecast_type"), item.get("probability"))
    for pipeline in pipelines or []:
        for at, item in enumerate(pipeline["maps"]):
            facts = found.setdefault(item["actual"], _StageFacts(item["display"], at))
            facts.complete(item["forecast_type"], None)
    changed = _save_stages(found)
    if pipelines is not None:
        _save_pipelines(pipelines)
    return changed


def _layout_picklists(layouts: list[dict]) -> Iterable[list[dict]]:
    """The Stage field's items of each layout."""
    for layout in layouts:
        for section in layout.get("sections") or []:
            for item in (section.get("fields") or []) if isinstance(section, dict) else []:
                if isinstance(item, dict) and item.get("api_name") == "Stage":
                    yield [v for v in item.get("pick_list_values") or [] if isinstance(v, dict)]


def _cut(value: Any) -> str:
    return convert.clean_text(str(value or ""))[:255]


def _name_of(value: Any) -> str | None:
    return value.get("name") if isinstance(value, dict) else value


def _pipelines(client: ZohoClient, layouts: list[dict]) -> list[dict]:
    found = []
    for layout in layouts:
        layout_id = layout.get("id")
        if layout_id is None:
            continue
        for pipeline in client.pipelines(str(layout_id)):
            zoho_id = convert.record_id(pipeline.get("id"))
            if zoho_id is None:
                continue
            found.append(
                {
                    "zoho_id": zoho_id,
                    "name": _cut(pipeline.get("display_value") or pipeline.get("actual_value")),
                    "is_default": bool(pipeline.get("default")),
                    "maps": [
                        {
                            "display": _cut(item.get("display_value") or item.get("actual_value")),
                            "actual": _cut(item.get("actual_value") or item.get("display_value")),
                            "forecast_type": _name_of(item.get("forecast_type")),
                        }
                        for item in pipeline.get("maps") or []
                        if isinstance(item, dict)
                    ],
                }
            )
    return found


def _save_stages(found: dict[str, _StageFacts]) -> bool:
    known = {stage.actual_name: stage for stage in CrmStage.objects.all()}
    changed = False
    for actual, facts in found.items():
        meaning = stages.default_meaning(
            actual, facts.display, facts.forecast_type, facts.probability
        )
        stage = known.get(actual) or CrmStage(actual_name=actual)
        before = (stage.pk, stage.forecast_type, stage.our_stage, stage.probability)
        stage.display_name, stage.sequence, stage.in_use = facts.display, facts.sequence, True
        stage.forecast_type = meaning.type
        if not stage.is_edited:
            stage.our_stage, stage.probability = meaning.ours, meaning.probability
        stage.save()
        changed |= before != (stage.pk, stage.forecast_type, stage.our_stage, stage.probability)
    if found:
        CrmStage.objects.exclude(actual_name__in=found).update(in_use=False)
    return changed


def _save_pipelines(pipelines: list[dict]) -> None:
    by_name = {stage.actual_name: stage for stage in CrmStage.objects.all()}
    with transaction.atomic():
        Pipeline.objects.exclude(zoho_id__in=[p["zoho_id"] for p in pipelines]).delete()
        for item in pipelines:
            pipeline, _ = Pipeline.objects.update_or_create(
                zoho_id=item["zoho_id"],
                defaults={"name": item["name"][:255], "is_default": item["is_default"]},
            )
            pipeline.stages.all().delete()
            PipelineStage.objects.bulk_create(
                [
                    PipelineStage(pipeline=pipeline, stage=by_name[m["actual"]], sequence=at)
                    for at, m in enumerate(item["maps"])
                    if m["actual"] in by_name
                ],
                ignore_conflicts=True,
            )


# -- currencies ---------------------------------------------------------------------------------


def _read_currencies(client: ZohoClient, connection: CrmConnection, now: datetime) -> bool:
    """Currencies and today's rates. A rate row is added only when the rate moved."""
    today = business_day(now)
    items = [item for item in client.currencies() if isinstance(item, dict)]
    changed = False
    if len(items) > 1 and not connection.multi_currency:
        # Some organisations do not say that it is on; several currencies say it for them.
        CrmConnection.objects.filter(pk=1).update(multi_currency=True)
        connection.multi_currency = True
    for item in items:
        code = convert.currency_code(item.get("iso_code"))
        if not isinstance(code, str):
            continue
        is_home = bool(item.get("is_base"))
        Currency.objects.update_or_create(
            iso_code=code,
            defaults={
                "name": str(item.get("name") or "")[:100],
                "is_home": is_home,
                "is_active": item.get("is_active") is not False,
                "decimals": convert.decimals_of(code),
            },
        )
        if is_home and connection.home_currency != code:
            CrmConnection.objects.filter(pk=1).update(home_currency=code)
            connection.home_currency = code
        nano = _nano(item.get("exchange_rate"))
        if nano:
            changed |= keep_rate(code, today, nano)
    return changed


def _nano(value: Any) -> int | None:
    try:
        nano = int((Decimal(str(value)) * NANO).to_integral_value())
    except (InvalidOperation, ValueError, OverflowError):
        return None
    return nano if 0 < nano < 2**62 else None


def keep_rate(code: str, day: date, nano: int) -> bool:
    """Keep the CRM's rate from `day` on, unless it is the one that already holds."""
    newest = (
        ExchangeRate.objects.filter(iso_code=code, source=ExchangeRate.CRM, day__lte=day)
        .order_by("-day")
        .first()
    )
    if newest is not None and newest.rate_nano == nano:
        return False
    ExchangeRate.objects.update_or_create(
        iso_code=code, day=day, source=ExchangeRate.CRM, defaults={"rate_nano": nano}
    )
    return True


# -- the profile --------------------------------------------------------------------------------


def _choose_profile(connection: CrmConnection) -> None:
    profile = settings.ZOHO_FIELD_PROFILE
    if profile == AUTO:
        names: Iterable[str] = CrmField.objects.filter(module="Deals").values_list(
            "api_name", flat=True
        )
        profile = pick_profile(names)
    CrmConnection.objects.filter(pk=1).update(profile=profile)
