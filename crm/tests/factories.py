"""Records as the CRM sends them, and a store to put them through, without a CRM."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from crm.models import CrmConnection, ExchangeRate, MirrorState
from crm.sync.context import SyncContext
from crm.sync.modules import BY_NAME
from crm.sync.page import Counts
from crm.sync.store import Store
from crm.zoho.client import RawRecord
from crm.zoho.paging import parse_rows

NOON = datetime(2026, 3, 10, 4, 0, tzinfo=UTC)
_OWNER = {"id": "9001", "name": "Ann Lee", "email": "ann@example.com"}


def crm_time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def minutes(count: float) -> datetime:
    """NOON and so many minutes."""
    return NOON + timedelta(minutes=count)


def deal(
    zoho_id: int, *, modified: datetime = NOON, drop: Iterable[str] = (), **values: Any
) -> Any:
    """A deal by the standard profile; `values` are CRM fields, `drop` keys that it lacks."""
    record = {
        "id": str(zoho_id),
        "Deal_Name": f"Deal {zoho_id}",
        "Account_Name": {"id": "7001", "name": "Acme"},
        "Contact_Name": None,
        "Owner": _OWNER,
        "Pipeline": "Standard",
        "Stage": "Qualification",
        "Probability": 10,
        "Currency": "SGD",
        "Amount": 1000,
        "Closing_Date": "2026-06-30",
        "Type": "New Business",
        "Lead_Source": "Partner",
        "Next_Step": "Call",
        "Description": None,
        "Reason_For_Loss__s": None,
        "Pulse_Id": None,
        "Territory": "APAC",
        "Service_Line": "Gen AI",
        "AWS_Funded": False,
        "Strategic_Account": False,
        "Proposal_Date": None,
        "SOW_Date": None,
        "PO_Date": None,
        "Kickoff_Date": None,
        "Signoff_Date": None,
        "Invoice_Date": None,
        "Payment_Date": None,
        "Revenue_Date": None,
        "Created_Time": crm_time(NOON - timedelta(days=30)),
        "Modified_Time": crm_time(modified),
        "Modified_By": _OWNER,
    }
    record |= values
    for key in drop:
        record.pop(key)
    return record


def account(zoho_id: int, *, modified: datetime = NOON, **values: Any) -> Any:
    return {
        "id": str(zoho_id),
        "Account_Name": f"Account {zoho_id}",
        "Owner": _OWNER,
        "Industry": None,
        "Account_Type": None,
        "Billing_Country": "Singapore",
        "Website": None,
        "Phone": None,
        "Employees": 12,
        "Created_Time": crm_time(NOON - timedelta(days=60)),
        "Modified_Time": crm_time(modified),
        "Modified_By": _OWNER,
    } | values


def lead(zoho_id: int, *, modified: datetime = NOON, **values: Any) -> Any:
    return {
        "id": str(zoho_id),
        "First_Name": "Lea",
        "Last_Name": f"Lead {zoho_id}",
        "Company": "Newco",
        "Owner": _OWNER,
        "Email": "lea@example.com",
        "Phone": None,
        "Lead_Source": "Partner",
        "Lead_Status": "Contacted",
        "Converted__s": False,
        "Converted_Date_Time": None,
        "Converted_Account": None,
        "Converted_Contact": None,
        "Converted_Deal": None,
        "Created_Time": crm_time(NOON - timedelta(days=60)),
        "Modified_Time": crm_time(modified),
        "Modified_By": _OWNER,
    } | values


def raws(*records: Any) -> list[RawRecord]:
    """Parsed as the client parses them. A text is taken as the record's JSON, letter for letter."""
    texts = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in records]
    return parse_rows('{"data":[' + ",".join(texts) + "]}", "data")


def connect(*, home: str = "SGD", multi_currency: bool = True, **rates: str) -> None:
    """A connection as a metadata read leaves it; rates by code as the CRM writes them."""
    CrmConnection.objects.update_or_create(
        pk=1,
        defaults={"home_currency": home, "multi_currency": multi_currency, "profile": "standard"},
    )
    for code, rate in rates.items():
        whole, _, decimals = rate.partition(".")
        nano = int(whole) * 10**9 + int(decimals.ljust(9, "0") or 0)
        ExchangeRate.objects.create(iso_code=code, day=NOON.date(), rate_nano=nano)


def make_store(module: str = "Deals", *, source: str = "full", run_id: int | None = None) -> Store:
    context = SyncContext(NOON)
    return Store(
        BY_NAME[module],
        context.mapper(module),
        source=source,
        run_id=run_id,
        deriver=context.deriver,
    )


def store(*records: Any, module: str = "Deals", read_at: datetime = NOON, **options: Any) -> Counts:
    """Put one page through a fresh store."""
    span = options.pop("id_span", None)
    return make_store(module, **options).store(raws(*records), read_at=read_at, id_span=span)


def change_seq(module: str = "Deals") -> int:
    return MirrorState.objects.get(module=module).change_seq
