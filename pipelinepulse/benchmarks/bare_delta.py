"""The floor of a delta: page what changed since a moment, newest first, and upsert it as it comes.

No mapping rules, no comparison, no deletions, no watermark; of a record the deal, its payload and
one event are written. Arguments: the moment, ISO, in the CRM's words; `endless` has it begin again
at the end. Prints JSON.
"""

import json
import os
import sys
import time
from datetime import UTC, datetime

import django
import requests

django.setup()

from django.db import connection, transaction  # noqa: E402

from crm.models import ChangeEvent, Deal, ReceivedRecord  # noqa: E402
from crm.sync import bulk_write  # noqa: E402
from crm.sync.batch import EVENT_COLUMNS  # noqa: E402

FIELDS = (
    "Deal_Name,Stage,Probability,Currency,Amount,Closing_Date,Type,Lead_Source,Next_Step,"
    "Description,Reason_For_Loss__s,Pulse_Id,Territory,Service_Line,AWS_Funded,Strategic_Account,"
    "Proposal_Date,SOW_Date,PO_Date,Kickoff_Date,Signoff_Date,Invoice_Date,Payment_Date,"
    "Revenue_Date,Pipeline,Account_Name,Contact_Name,Owner,Created_Time,Modified_Time,Modified_By"
)
COLUMNS = {
    "name": "Deal_Name",
    "pipeline": "Pipeline",
    "crm_stage": "Stage",
    "crm_probability": "Probability",
    "closing_date": "Closing_Date",
    "deal_type": "Type",
    "lead_source": "Lead_Source",
    "next_step": "Next_Step",
    "description": "Description",
    "loss_reason": "Reason_For_Loss__s",
    "territory": "Territory",
    "service_line": "Service_Line",
    "aws_funded": "AWS_Funded",
    "strategic_account": "Strategic_Account",
    "external_id": "Pulse_Id",
    "proposal_date": "Proposal_Date",
    "sow_date": "SOW_Date",
    "po_date": "PO_Date",
    "kickoff_date": "Kickoff_Date",
    "signoff_date": "Signoff_Date",
    "invoice_date": "Invoice_Date",
    "payment_date": "Payment_Date",
    "revenue_date": "Revenue_Date",
}


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


def main(since: str) -> None:
    base = os.environ["ZOHO_BASE_URL"]
    session = requests.Session()
    session.headers["Authorization"] = f"Zoho-oauthtoken {token(base)}"
    session.headers["If-Modified-Since"] = since
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    if connection.vendor == "postgresql":
        now += "+00"
    connection.ensure_connection()
    started, changed, page_token = time.monotonic(), 0, None
    while True:
        parameters = {"fields": FIELDS, "per_page": 200}
        parameters |= {"sort_by": "Modified_Time", "sort_order": "desc"}
        if page_token:
            parameters["page_token"] = page_token
        answer = session.get(f"{base}/crm/v8/Deals", params=parameters, timeout=60).json()
        changed += upsert(answer["data"], now)
        page_token = answer["info"]["next_page_token"]
        if not answer["info"]["more_records"]:
            break
    print(json.dumps({"seconds": time.monotonic() - started, "changed": changed}))  # noqa: T201


def upsert(records: list[dict], now: str) -> int:
    to_db = bulk_write.moment_writer()
    with transaction.atomic():
        ids = [int(record["id"]) for record in records]
        ours = dict(Deal.objects.filter(zoho_id__in=ids).values_list("zoho_id", "pk"))
        deals, events, payloads = [], [], []
        for record in records:
            pk, amount, body = ours[int(record["id"])], record["Amount"], json.dumps(record)
            deals.append(
                (
                    *(record.get(api) for api in COLUMNS.values()),
                    int(amount * 100) if amount is not None else None,
                    to_db(datetime.fromisoformat(record["Modified_Time"]).astimezone(UTC)),
                    now,
                    pk,
                )
            )
            events.append(("Deals", pk, "changed", "", None, body, now, now, "delta", None))
            payloads.append((body, now, "Deals", pk))
        bulk_write.update(Deal, (*COLUMNS, "amount_minor", "crm_modified_at", "updated_at"), deals)
        bulk_write.insert(ChangeEvent, EVENT_COLUMNS, events)
        with connection.cursor() as cursor:
            cursor.executemany(
                f"UPDATE {ReceivedRecord._meta.db_table} SET body = %s, "  # noqa: S608
                "received_at = %s WHERE module = %s AND record_id = %s",
                payloads,
            )
    return len(records)


main(sys.argv[1])
while "endless" in sys.argv:
    main(sys.argv[1])
