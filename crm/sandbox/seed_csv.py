"""An org from a folder of CSV files: sales_pipeline, accounts, sales_teams, products.

The mapping is the specification's, to the letter: stages by name, `opportunity_id` as Pulse_Id,
engage date as creation, close date and value only where given, amounts in USD. Ids rise in the
order of the file. Zoho could not hold a deal without creation: Prospecting deals, which have no
engage date, get the earliest of the file.
"""

import csv
import datetime as dt
from collections.abc import Iterator
from json.encoder import encode_basestring as q
from pathlib import Path
from typing import Any

from crm.sandbox.picklists import STAGES
from crm.sandbox.schema import build_modules
from crm.sandbox.seed_org import (
    ACCOUNTS_AT,
    DEALS_AT,
    add_currencies,
    add_users,
    finish,
    insert_batches,
    org_of,
    plain_number,
    spread_id,
    user_id,
)
from crm.sandbox.store import Store

STAGE_OF = {
    "Prospecting": "Qualification",
    "Engaging": "Needs Analysis",
    "Won": "Closed Won",
    "Lost": "Closed Lost",
}
PRODUCT_OF = {"GTXPro": "GTX Pro"}
CURRENCIES = (
    ("USD", "US Dollar", "$", "1.000000000", 2),
    ("SGD", "Singapore Dollar", "S$", "1.341900000", 2),
)
MILLION = 1_000_000


class BadCsv(Exception):
    """The folder does not hold what is needed; says which file and line."""


def seed_from_csv(store: Store, folder: Path, today: dt.date, edition: str) -> None:
    """Fill an empty database from the folder."""
    pipeline, accounts = _rows(folder, "sales_pipeline.csv"), _rows(folder, "accounts.csv")
    teams = _rows(folder, "sales_teams.csv")
    sql = store._writer
    sql.execute("pragma synchronous=off")
    sql.execute("begin immediate")
    try:
        store.create_schema(
            build_modules("csv", ("USD", "SGD")), org_of(edition, "USD", len(teams) + 1)
        )
        add_currencies(store, CURRENCIES, "USD", today)
        people = _people(pipeline, teams)
        add_users(store, people, today)
        agents = {f"{first} {last}": user_id(n) for n, (first, last, *_) in enumerate(people)}
        first_day = min(_day(row["engage_date"]) for row in pipeline if row["engage_date"])
        insert_batches(store, "Accounts", _accounts(accounts, first_day))
        insert_batches(store, "Deals", _deals(pipeline, accounts, teams, agents, first_day))
    except BaseException:
        sql.execute("rollback")
        raise
    finish(store)


def _rows(folder: Path, name: str) -> list[dict[str, str]]:
    try:
        with (folder / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise BadCsv(f"{folder / name} cannot be read: {error.strerror}") from error


def _day(text: str) -> dt.date:
    month, day, year = (int(part) for part in text.split("/")) if "/" in text else _iso(text)
    return dt.date(year, month, day)


def _iso(text: str) -> tuple[int, int, int]:
    year, month, day = (int(part) for part in text.split("-"))
    return month, day, year


def _people(
    pipeline: list[dict[str, str]], teams: list[dict[str, str]]
) -> list[tuple[str, str, str, str, str]]:
    """The integration user, the agents in the file's order, then the managers."""
    names = [row["sales_agent"] for row in teams]
    names += [row["sales_agent"] for row in pipeline]
    names += [row["manager"] for row in teams]
    people = [("Pipeline", "Integration", "integration@example.com", "active", "Administrator")]
    for name in dict.fromkeys(n for n in names if n):
        first, _, last = name.rpartition(" ")
        mail = f"{name.lower().replace(' ', '.')}@example.com"
        people.append((first or last, last, mail, "active", "Standard"))
    return people


def _account_ids(accounts: list[dict[str, str]]) -> dict[str, int]:
    return {row["account"]: spread_id(ACCOUNTS_AT, n) for n, row in enumerate(accounts)}


def _stamps(owner: int, created: str, modified: str) -> dict[str, Any]:
    return {
        "Owner": owner,
        "Currency": '"USD"',
        "Exchange_Rate": "1",
        "Created_By": owner,
        "Modified_By": owner,
        "Created_Time": created,
        "Modified_Time": modified,
        "Last_Activity_Time": modified,
        "Tag": "[]",
        "Locked__s": "false",
        "Record_Status__s": '"Available"',
    }


def _moment(day: dt.date, hour: int, n: int) -> str:
    return f'"{day}T{hour:02}:{n // 60 % 60:02}:{n % 60:02}+08:00"'


def _accounts(rows: list[dict[str, str]], first_day: dt.date) -> Iterator[dict[str, Any]]:
    ids = _account_ids(rows)
    for n, row in enumerate(rows):
        moment = _moment(first_day, 8, n)
        yield {
            "id": ids[row["account"]],
            "Account_Name": q(row["account"]),
            "Industry": q(row["sector"]) if row["sector"] else None,
            "Annual_Revenue": plain_number(float(row["revenue"]) * MILLION, 2)
            if row["revenue"]
            else None,
            "Employees": row["employees"] or None,
            "Parent_Account": ids.get(row["subsidiary_of"]),
            "Billing_Country": q(row["office_location"]) if row["office_location"] else None,
            **_stamps(user_id(0), moment, moment),
        }


def _deals(
    rows: list[dict[str, str]],
    accounts: list[dict[str, str]],
    teams: list[dict[str, str]],
    agents: dict[str, int],
    first_day: dt.date,
) -> Iterator[dict[str, Any]]:
    ids = _account_ids(accounts)
    offices = {row["sales_agent"]: row["regional_office"] for row in teams}
    percents = {stage[0]: stage[2] for stage in STAGES}
    for n, row in enumerate(rows):
        stage = STAGE_OF.get(row["deal_stage"])
        if stage is None:
            raise BadCsv(f"sales_pipeline.csv line {n + 2}: unknown stage {row['deal_stage']!r}")
        product = PRODUCT_OF.get(row["product"], row["product"])
        created = _day(row["engage_date"]) if row["engage_date"] else first_day
        closed = _day(row["close_date"]) if row["close_date"] else None
        amount = plain_number(float(row["close_value"]), 2) if row["close_value"] else None
        percent = percents[stage]
        office = offices.get(row["sales_agent"])
        modified = _moment(closed, 18, n) if closed else _moment(created, 9, n)
        yield {
            "id": spread_id(DEALS_AT, n),
            "Deal_Name": q(f"{row['account'] or 'No account'} – {product}"),
            "Account_Name": ids.get(row["account"]),
            "Pipeline": '"Standard"',
            "Stage": q(stage),
            "Amount": amount,
            "Probability": str(percent),
            "Expected_Revenue": plain_number(float(amount) * percent / 100, 2) if amount else None,
            "Closing_Date": f'"{closed}"' if closed else None,
            "Territory": q(office) if office else None,
            "Pulse_Id": q(row["opportunity_id"]),
            **_stamps(agents[row["sales_agent"]], _moment(created, 9, n), modified),
        }
