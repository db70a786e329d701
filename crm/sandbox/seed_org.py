"""The org the data stands in: people, currencies, ids, days, and putting rows into tables.

Shared by the made-up consultancy (`seed.py`, `seed_deals.py`) and the CSV loader.
"""

# Names in SQL come from the schema, never from a request; values are bound.
# ruff: noqa: S608

import datetime as dt
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from crm.sandbox.fragments import quoted, table_of
from crm.sandbox.picklists import TERRITORIES
from crm.sandbox.schema import zoho_id
from crm.sandbox.seed_words import COMPANY_FIRST, COMPANY_LAST
from crm.sandbox.store import Store

SPAN_DAYS = 730
BATCH = 2_000
USERS_AT = 300_001
ACCOUNTS_AT = 1_000_000_000
CONTACTS_AT = 3_000_000_000
LEADS_AT = 5_000_000_000
DEALS_AT = 10_000_000_000

CURRENCIES: tuple[tuple[str, str, str, str, int], ...] = (
    ("SGD", "Singapore Dollar", "S$", "1.000000000", 2),
    ("USD", "US Dollar", "$", "0.745210000", 2),
    ("EUR", "Euro", "€", "0.685430000", 2),
    ("INR", "Indian Rupee", "₹", "64.213500000", 2),
    ("JPY", "Japanese Yen", "¥", "114.872000000", 0),
    ("AUD", "Australian Dollar", "A$", "1.144960000", 2),
    ("GBP", "British Pound", "£", "0.585120000", 2),
    ("KWD", "Kuwaiti Dinar", "KD", "0.229140000", 3),
)
"""ISO code, name, symbol, units for one unit of the home currency, decimals."""

TERRITORY_CURRENCIES = {
    "APAC": ("SGD", "SGD", "SGD", "USD", "AUD", "JPY"),
    "Americas": ("USD",),
    "EMEA": ("EUR", "EUR", "GBP", "USD", "KWD"),
    "India": ("INR", "INR", "INR", "USD"),
}

PEOPLE: tuple[tuple[str, str, str, str, str], ...] = (
    ("Pipeline", "Integration", "integration@example.com", "active", "Administrator"),
    ("Mei", "Tan", "rep@example.com", "active", "Standard"),
    ("Daniel", "Koh", "manager@example.com", "active", "Standard"),
    ("Asha", "Menon", "ops@example.com", "active", "Administrator"),
    ("Rohan", "Iyer", "rohan.iyer@example.com", "active", "Standard"),
    ("Sofia", "Marin", "sofia.marin@example.com", "active", "Standard"),
    ("Liam", "Walker", "liam.walker@example.com", "active", "Standard"),
    ("Yuki", "Sato", "yuki.sato@example.com", "active", "Standard"),
    ("Grace", "Lim", "grace.lim@example.com", "active", "Standard"),
    ("Omar", "Haddad", "omar.haddad@example.com", "active", "Standard"),
    ("Priya", "Nair", "priya.nair@example.com", "active", "Standard"),
    ("Tom", "Becker", "tom.becker@example.com", "active", "Standard"),
    ("Carla", "Reyes", "carla.reyes@example.com", "inactive", "Standard"),
    ("Wei", "Zhang", "wei.zhang@example.com", "inactive", "Standard"),
    ("Nadia", "Petrov", "nadia.petrov@example.com", "deleted", "Standard"),
)
OWNER_WEIGHTS = ((1, 24), (2, 5), (4, 10), (5, 9), (6, 9), (7, 8), (8, 8), (9, 7), (10, 7),
                 (11, 6), (12, 4), (13, 2), (14, 1))  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What to make: how many deals, from which seed, up to which day, by which field names."""

    deals: int
    seed: int
    today: dt.date
    profile: str = "standard"
    edition: str = "enterprise"

    @property
    def accounts(self) -> int:
        return max(40, self.deals // 12)

    @property
    def contacts(self) -> int:
        return self.accounts * 3 // 2

    @property
    def leads(self) -> int:
        return self.deals // 5


def spread_id(base: int, n: int) -> int:
    """The id of the n-th record of a module: rising, with uneven steps, as in a shared org."""
    return int(zoho_id(base)) + n * 1_000 + (n * 7_919) % 997


def user_id(n: int) -> int:
    return int(zoho_id(USERS_AT)) + n * 2_000


def finish(store: Store) -> None:
    """Index, mark the seeding as done and commit."""
    sql = store._writer
    store.index()
    store.write_meta(sql, "seeded", "yes")
    sql.execute("commit")
    sql.execute("pragma synchronous=normal")
    sql.execute("pragma temp_store=memory")
    sql.execute("pragma wal_checkpoint(truncate)")


def org_of(edition: str, home: str, licences: int) -> dict[str, Any]:
    """The org's own facts."""
    return {
        "zgid": "772345678",
        "company_name": "Stratus Cloud Partners",
        "home_currency": home,
        "mc_status": True,
        "edition": edition,
        "licences": licences,
        "current_user": str(user_id(0)),
    }


def add_currencies(
    store: Store, currencies: tuple[tuple[str, str, str, str, int], ...], home: str, today: dt.date
) -> None:
    """The org's active currencies."""
    stamp = f"{today - dt.timedelta(days=1)}T08:00:00+08:00"
    admin = {"name": "Pipeline Integration", "id": str(user_id(0))}
    rows = []
    for n, (code, name, symbol, rate, decimals) in enumerate(currencies):
        definition = {
            "id": zoho_id(400_001 + 2 * n),
            "name": name,
            "iso_code": code,
            "symbol": symbol,
            "exchange_rate": rate,
            "is_base": code == home,
            "is_active": True,
            "prefix_symbol": True,
            "format": {
                "decimal_separator": "Period",
                "thousand_separator": "Comma",
                "decimal_places": str(decimals),
            },
            "exchange_rate_auto_update": False,
            "exchange_rate_updated_time": stamp,
            "created_time": stamp,
            "modified_time": stamp,
            "created_by": admin,
            "modified_by": admin,
        }
        rows.append((code, json.dumps(definition, ensure_ascii=False)))
    store._writer.executemany("insert into currency values (?,?)", rows)


def add_users(
    store: Store, people: Iterable[tuple[str, str, str, str, str]], today: dt.date
) -> None:
    """First name, last name, mail, status, profile; the first is the token's own user."""
    stamp = f"{today - dt.timedelta(days=SPAN_DAYS + 60)}T09:00:00+08:00"
    rows = []
    for n, (first, last, email, status, profile) in enumerate(people):
        uid = user_id(n)
        full = f"{first} {last}"
        definition = {
            "id": str(uid),
            "full_name": full,
            "first_name": first,
            "last_name": last,
            "email": email,
            "status": status,
            "confirm": status == "active",
            "role": {"name": "CEO" if n == 0 else "Sales", "id": zoho_id(26_005 + 3 * (n > 0))},
            "profile": {
                "name": profile,
                "id": zoho_id(26_011 if profile == "Administrator" else 26_014),
            },
            "Reporting_To": None,
            "time_zone": "Asia/Singapore",
            "locale": "en_SG",
            "country": "SG",
            "zuid": str(772_300_001 + n),
            "type__s": "Regular User",
            "created_time": stamp,
            "Modified_Time": stamp,
        }
        fragment = json.dumps({"name": full, "id": str(uid), "email": email}, ensure_ascii=False)
        rows.append((uid, status, json.dumps(definition, ensure_ascii=False), fragment, stamp))
    store._writer.executemany("insert into users values (?,?,?,?,?)", rows)


def insert_batches(store: Store, module: str, rows: Iterator[dict[str, Any]]) -> None:
    """Insert rows of one shape (the first row's keys), a batch at a time."""
    first = next(rows, None)
    if first is None:
        return
    names = list(first)
    statement = (
        f"insert into {table_of(module)} ({','.join(map(quoted, names))}) "
        f"values ({','.join('?' * len(names))})"
    )
    batch = [tuple(first.values()), *(tuple(row.values()) for row in islice(rows, BATCH - 1))]
    while batch:
        store._writer.executemany(statement, batch)
        batch = [tuple(row.values()) for row in islice(rows, BATCH)]


class Days:
    """Dates and times as ready JSON texts, by the number of days before (-) or after today."""

    def __init__(self, today: dt.date) -> None:
        self.today = today
        self._dates = {n: f'"{today + dt.timedelta(days=n)}"' for n in range(-1_000, 700)}
        rng = random.Random(97)
        self._times = [
            f"T{rng.randint(8, 19):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}+08:00"
            for _ in range(4_096)
        ]

    def date(self, n: int | None) -> str | None:
        return None if n is None else self._dates[n]

    def moment(self, n: int, salt: int) -> str:
        """A moment of that day, within working hours."""
        return self._dates[n][:-1] + self._times[salt % 4_096] + '"'

    def ordered(self, created: int, modified: int, salt: int) -> tuple[str, str]:
        """Creation and last change, the latter not before the former."""
        first, last = self.moment(created, salt), self.moment(modified, salt * 31 + 7)
        return first, max(first, last)


def account_name(n: int) -> str:
    """The n-th company: no two alike until words run out, then numbered."""
    first = COMPANY_FIRST[n % len(COMPANY_FIRST)]
    turn = n // len(COMPANY_FIRST)
    last = COMPANY_LAST[(turn + n) % len(COMPANY_LAST)]
    number = turn // len(COMPANY_LAST)
    return f"{first} {last}" + (f" {number + 1}" if number else "")


def account_territory(n: int) -> str:
    return TERRITORIES[(0, 0, 0, 1, 1, 2, 2, 3)[(n * 5 + n // 7) % 8]]


def some_owner(rng: random.Random, owners: list[int]) -> int:
    """One of the owners by their share."""
    return owners[int(rng.random() * len(owners))]


def owners_by_weight() -> list[int]:
    """User ids, each as often as the share of records that user owns."""
    return [user_id(n) for n, weight in OWNER_WEIGHTS for _ in range(weight)]


def stamped(owner: int, created: str, modified: str, currency: str = '"SGD"') -> dict[str, Any]:
    """The system columns of a record that its owner made and last changed."""
    return {
        "Owner": owner,
        "Currency": currency,
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


def deal_account(plan: Plan, n: int) -> int:
    """Which account the n-th deal is with; early ones get more."""
    spot = (n * 2_654_435_761) % 1_000_003 / 1_000_003
    return int(spot * spot * plan.accounts)


def plain_number(amount: float, decimals: int) -> str:
    """A number's text without needless zeros."""
    text = f"{amount:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
