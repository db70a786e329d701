"""The floor of the sync benchmarks: a bare loop that pages serially and writes the same rows.

No mapping rules, no checks, no history logic, no checkpoints: get a page, pick the values, write
deal, event and payload by COPY or executemany. Run as a script in its own process; prints JSON.
"""

import json
import os
import time

import django
import requests

django.setup()

from django.db import connection, transaction  # noqa: E402

from crm.models import ChangeEvent, CrmUser, Deal, ReceivedRecord  # noqa: E402
from crm.sync import bulk_write  # noqa: E402
from crm.sync.batch import EVENT_COLUMNS  # noqa: E402

FIELDS = (
    "Deal_Name,Stage,Probability,Currency,Amount,Closing_Date,Type,Lead_Source,Next_Step,"
    "Description,Reason_For_Loss__s,Pulse_Id,Territory,Service_Line,AWS_Funded,Strategic_Account,"
    "Proposal_Date,SOW_Date,PO_Date,Kickoff_Date,Signoff_Date,Invoice_Date,Payment_Date,"
    "Revenue_Date,Pipeline,Account_Name,Contact_Name,Owner,Created_Time,Modified_Time,Modified_By"
)
COLUMNS = (
    "id",
    "zoho_id",
    "owner_id",
    "modified_by_id",
    "crm_created_at",
    "crm_modified_at",
    "read_at",
    "content_hash",
    "change_seq",
    "is_stub",
    "deleted_source",
    "deleted_by",
    "first_seen_at",
    "updated_at",
    "name",
    "pipeline",
    "crm_stage",
    "crm_probability",
    "amount_minor",
    "currency",
    "closing_date",
    "deal_type",
    "lead_source",
    "next_step",
    "description",
    "loss_reason",
    "territory",
    "service_line",
    "aws_funded",
    "strategic_account",
    "external_id",
    "proposal_date",
    "sow_date",
    "po_date",
    "kickoff_date",
    "signoff_date",
    "invoice_date",
    "payment_date",
    "revenue_date",
    "stage",
    "stage_type",
    "probability",
    "amount_sgd_minor",
    "weighted_sgd_minor",
)
PAYLOAD = ("module", "record_id", "body", "received_at")


def token(base: str) -> str:
    answer = requests.post(
        f"{base}/oauth/v2/token",
        data={
            "grant_type": "refresh_token",
            "client_id": os.environ["ZOHO_CLIENT_ID"],
            "client_secret": os.environ["ZOHO_CLIENT_SECRET"],
            "refresh_token": os.environ["ZOHO_REFRESH_TOKEN"],
        },
        timeout=30,
    )
    return answer.json()["access_token"]


def main() -> None:
    base = os.environ["ZOHO_BASE_URL"]
    session = requests.Session()
    session.headers["Authorization"] = f"Zoho-oauthtoken {token(base)}"
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    if connection.vendor == "postgresql":
        now += "+00"
    user = CrmUser.objects.create(zoho_id=1, name="bench", updated_at=f"{now[:19]}+00:00")
    connection.ensure_connection()
    started, count, page_token = time.monotonic(), 0, None
    while True:
        parameters = {"fields": FIELDS, "per_page": 200, "sort_by": "id", "sort_order": "asc"}
        if page_token:
            parameters["page_token"] = page_token
        answer = session.get(f"{base}/crm/v8/Deals", params=parameters, timeout=60).json()
        count += write(answer["data"], count, user.pk, now)
        page_token = answer["info"]["next_page_token"]
        if not answer["info"]["more_records"]:
            break
    print(json.dumps({"seconds": time.monotonic() - started, "deals": count}))  # noqa: T201


def write(records: list[dict], at: int, user: int, now: str) -> int:
    deals, events, payloads = [], [], []
    for pk, r in enumerate(records, start=at + 1):
        get = r.get
        amount = get("Amount")
        minor = int(amount * 100) if amount is not None else None
        probability = get("Probability")
        weighted = minor * probability // 100 if minor and probability else None
        deals.append(
            (
                pk,
                int(r["id"]),
                user,
                user,
                get("Created_Time").replace("T", " ")[:19],
                get("Modified_Time").replace("T", " ")[:19],
                now,
                "0" * 32,
                pk,
                False,
                "",
                "",
                now,
                now,
                get("Deal_Name") or "",
                get("Pipeline"),
                get("Stage"),
                probability,
                minor,
                get("Currency") or "",
                get("Closing_Date"),
                get("Type"),
                get("Lead_Source"),
                get("Next_Step"),
                get("Description"),
                get("Reason_For_Loss__s"),
                get("Territory"),
                get("Service_Line"),
                get("AWS_Funded"),
                get("Strategic_Account"),
                get("Pulse_Id"),
                get("Proposal_Date"),
                get("SOW_Date"),
                get("PO_Date"),
                get("Kickoff_Date"),
                get("Signoff_Date"),
                get("Invoice_Date"),
                get("Payment_Date"),
                get("Revenue_Date"),
                "other",
                "open",
                probability,
                minor,
                weighted,
            )
        )
        body = json.dumps(r)
        events.append(("Deals", pk, "created", "", None, body, now, now, "full", 1))
        payloads.append(("Deals", pk, body, now))
    with transaction.atomic():
        bulk_write.insert(Deal, COLUMNS, deals)
        bulk_write.insert(ChangeEvent, EVENT_COLUMNS, events)
        bulk_write.insert(ReceivedRecord, PAYLOAD, payloads)
    return len(records)


main()
