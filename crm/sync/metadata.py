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

from crm import failpoints
from crm.currency import NANO
from crm.errors import OtherOrganisation
from crm.mapping import convert
from crm.mapping.profiles import AUTO, MODULES, pick_profile
from crm.models import (
    CrmConnection,
    CrmField,
    CrmUser,
    Currency,
    Deal,
    ExchangeRate,
    MirrorState,
)
from crm.sync import stage_metadata
from crm.sync.said import cut, jsonable, objects, small
from crm.zoho.client import ZohoClient
from crm.zoho.errors import FixFields, FixRequest, ScopeMissing


@dataclass
class MetadataNews:
    """What a refresh found: the parts that could not be read, and why."""

    refused: list[str] = field(default_factory=list)


def business_day(now: datetime) -> date:
    """The calendar day of the business time zone."""
    return now.astimezone(ZoneInfo(settings.BUSINESS_TIME_ZONE)).date()


def credentials_fingerprint() -> str:
    """Changes when the configured CRM changes; tells nothing about the secrets."""
    zoho = settings.ZOHO
    text = "\n".join([zoho.base_url, zoho.client_id, zoho.refresh_token])
    return hashlib.blake2b(text.encode(), digest_size=8, key=b"pipeline pulse").hexdigest()


def refresh(
    client: ZohoClient, now: datetime, *, between: Callable[[], None] = lambda: None
) -> MetadataNews:
    """Read all metadata. Raises OtherOrganisation, and the client's errors for the organisation.

    `between` is called between two parts and may stop the refresh: what was kept until then holds,
    and deals that must be derived anew because of it are queued in the same transaction.
    """
    news = MetadataNews()
    connection = _read_organisation(client)
    for kind in ("AllUsers", "DeletedUsers"):
        between()
        _attempt(news, f"users ({kind})", lambda kind=kind: _read_users(client, kind, now))
    for module in MODULES:
        between()
        _attempt(
            news, f"fields of {module}", lambda module=module: _read_fields(client, module, now)
        )
    between()
    layouts = _attempt(news, "layouts", lambda: client.layouts("Deals"))
    pipelines = None
    if layouts is not None:  # else nothing is said of pipelines: they stay
        pipelines = _attempt(
            news, "pipelines", lambda: stage_metadata.read_pipelines(client, layouts)
        )
    with transaction.atomic():
        if stage_metadata.keep(layouts or [], pipelines):
            failpoints.pass_by("metadata.after_stages")
            _derive_again()
    between()
    items = _attempt(news, "currencies", lambda: client.currencies())
    with transaction.atomic():
        if items is not None and _keep_currencies(items, connection, business_day(now)):
            failpoints.pass_by("metadata.after_rates")
            _derive_again()
    _choose_profile()
    CrmConnection.objects.filter(pk=1).update(metadata_read_at=now)
    return news


def _derive_again() -> None:
    """In the transaction that keeps the changed meaning: whoever is killed between the two leaves
    deals behind that nobody derives again."""
    if Deal.objects.exists():
        queue_derive()


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


def check_organisation(client: ZohoClient) -> None:
    """Raises OtherOrganisation, and the client's errors; stores nothing."""
    _organisation(client, CrmConnection.objects.filter(pk=1).first() or CrmConnection())


def _organisation(client: ZohoClient, connection: CrmConnection) -> tuple[dict[str, Any], str]:
    """What the CRM says of itself, with the id; the one that is mirrored where it says none."""
    org = client.org()
    org_id = cut(org.get("zgid") or org.get("id"), 32)
    if connection.org_id and org_id and connection.org_id != org_id:
        name = cut(org.get("company_name"))
        raise OtherOrganisation(
            f"{connection.org_name} ({connection.org_id})", f"{name} ({org_id})"
        )
    return org, org_id or connection.org_id


def _read_organisation(client: ZohoClient) -> CrmConnection:
    connection, _ = CrmConnection.objects.get_or_create(pk=1)
    org, connection.org_id = _organisation(client, connection)
    license_details = org.get("license_details")
    paid_type = license_details.get("paid_type") if isinstance(license_details, dict) else None
    connection.org_name = cut(org.get("company_name"))
    connection.domain_name = cut(org.get("domain_name"), 64)
    connection.edition = cut(paid_type, 64)
    connection.time_zone = cut(org.get("time_zone"), 64)
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
        return cut(found, length)

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
        api_name = cut(item.get("api_name"), 100) if isinstance(item, dict) else ""
        if not api_name:
            continue
        rows.append(
            CrmField(
                module=module,
                api_name=api_name,
                label=cut(item.get("display_label") or item.get("field_label")),
                data_type=cut(item.get("data_type"), 40),
                json_type=cut(item.get("json_type"), 40),
                length=small(item.get("length")),
                decimal_place=small(item.get("decimal_place")),
                is_unique=bool(item.get("unique")),
                is_read_only=bool(item.get("read_only") or item.get("field_read_only")),
                picklist=_picklist(item.get("pick_list_values")),
                read_at=now,
            )
        )
    if not rows:
        return  # no module is without fields: nothing was said, and what is known stays
    with transaction.atomic():
        _note_lost(module, {row.api_name for row in rows}, now)
        CrmField.objects.filter(module=module).delete()
        CrmField.objects.bulk_create(rows, ignore_conflicts=True)


def _note_lost(module: str, there: set[str], now: datetime) -> None:
    """Fields that were there until now; see `drift`. One that is back is forgotten."""
    MirrorState.objects.get_or_create(module=module)
    state = MirrorState.objects.select_for_update().get(module=module)
    known = CrmField.objects.filter(module=module).values_list("api_name", flat=True)
    lost = {**dict.fromkeys(known, now.isoformat()), **(state.lost_fields or {})}
    lost = {name: since for name, since in lost.items() if name not in there}
    if lost != (state.lost_fields or {}):
        state.lost_fields = lost or None
        state.save(update_fields=["lost_fields"])


def _picklist(items: Any) -> list[dict]:
    keys = ("display_value", "actual_value", "probability", "forecast_type", "sequence_number")
    return [{key: jsonable(item[key]) for key in keys if key in item} for item in objects(items)]


# -- currencies ---------------------------------------------------------------------------------


def _keep_currencies(answer: list[Any], connection: CrmConnection, today: date) -> bool:
    """Currencies and today's rates; True if a rate moved. A rate row is added only then."""
    items = objects(answer)
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
                "name": cut(item.get("name"), 100),
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


def _choose_profile() -> None:
    profile = settings.ZOHO_FIELD_PROFILE
    if profile == AUTO:
        names: Iterable[str] = CrmField.objects.filter(module="Deals").values_list(
            "api_name", flat=True
        )
        profile = pick_profile(names)
    before = CrmConnection.objects.filter(pk=1).values_list("profile", flat=True).first()
    CrmConnection.objects.filter(pk=1).update(profile=profile)
    if before and before != profile:
        # Other fields feed our columns: what is kept is mapped again (`crm.sync.replay`).
        MirrorState.objects.filter(module="Deals").update(replay_needed=True)
