"""A made-up org: a cloud consultancy over two years, of any size, the same for the same seed.

People, accounts and the way a deal goes are decided here; `seed_words.py` has the vocabulary.
Records are generated as finished column texts and inserted in batches, so memory stays flat.
About one record in fifty is dirty in one of the ways real ones are. Values that the CRM itself
could not hold (text in a number, a date that does not exist) come only by control.
"""

# Names in SQL come from the schema, never from a request; values are bound.
# ruff: noqa: S608

import datetime as dt
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from json.encoder import encode_basestring as q
from typing import Any

from crm.sandbox.schema import SERVICE_LINES, STAGES, TERRITORIES, build_modules, zoho_id
from crm.sandbox.seed_words import (
    CITIES,
    COMPANY_FIRST,
    COMPANY_LAST,
    DESCRIPTIONS,
    FIRST_NAMES,
    LAST_NAMES,
    NEXT_STEPS,
    ODD_NAMES,
    PROJECTS,
    TITLES,
)
from crm.sandbox.store import Store, quoted, table_of

SPAN_DAYS = 730
BATCH = 2_000
GROWTH = 1.5  # the business grows: more of its deals are recent
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


def seed_store(store: Store, plan: Plan, progress: Callable[[str], None] = lambda _: None) -> None:
    """Fill an empty database. Interrupted, it is begun again from nothing at the next start."""
    sql = store._writer
    sql.execute("pragma synchronous=off")
    sql.execute("begin immediate")
    codes = tuple(c[0] for c in CURRENCIES)
    store.create_schema(build_modules(plan.profile, codes), org_of(plan.edition, "SGD", 15))
    add_currencies(store, CURRENCIES, "SGD", plan.today)
    add_users(store, PEOPLE, plan.today)
    days = Days(plan.today)
    for module, rows in (
        ("Accounts", _accounts(plan, days)),
        ("Contacts", _contacts(plan, days)),
        ("Leads", _leads(plan, days)),
        ("Deals", _deals(plan, days)),
    ):
        insert_batches(store, module, rows)
        progress(module)
    finish(store)


def finish(store: Store) -> None:
    """Index, mark the seeding as done and commit."""
    sql = store._writer
    store.index()
    store.write_meta(sql, "seeded", "yes")
    sql.execute("commit")
    sql.execute("pragma synchronous=normal")
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


# -- accounts, contacts, leads --------------------------------------------------------------


def account_name(n: int) -> str:
    """The n-th company: no two alike until words run out, then numbered."""
    first = COMPANY_FIRST[n % len(COMPANY_FIRST)]
    turn = n // len(COMPANY_FIRST)
    last = COMPANY_LAST[(turn + n) % len(COMPANY_LAST)]
    number = turn // len(COMPANY_LAST)
    return f"{first} {last}" + (f" {number + 1}" if number else "")


def account_territory(n: int) -> str:
    return TERRITORIES[(0, 0, 0, 1, 1, 2, 2, 3)[(n * 5 + n // 7) % 8]]


def _owner(rng: random.Random, owners: list[int]) -> int:
    return owners[int(rng.random() * len(owners))]


def _owners() -> list[int]:
    return [user_id(n) for n, weight in OWNER_WEIGHTS for _ in range(weight)]


def _stamped(owner: int, created: str, modified: str, currency: str = '"SGD"') -> dict[str, Any]:
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


def _accounts(plan: Plan, days: Days) -> Iterator[dict[str, Any]]:
    rng, owners = random.Random(f"accounts {plan.seed}"), _owners()
    industries = build_modules("standard", ())["Accounts"].fields["Industry"].choices[1:]
    for n in range(plan.accounts):
        name = account_name(n)
        city, country = CITIES[account_territory(n)][n % len(CITIES[account_territory(n)])]
        created = -SPAN_DAYS + n * SPAN_DAYS // (2 * plan.accounts)
        times = days.ordered(created, created + int(rng.random() * -created), n)
        site = name.lower().replace(" ", "").replace("&", "")
        yield {
            "id": spread_id(ACCOUNTS_AT, n),
            "Account_Name": q(name),
            "Phone": f'"+65 6{rng.randint(100, 999)} {rng.randint(1000, 9999)}"',
            "Website": q(f"https://{site}.example.com"),
            "Account_Type": '"Customer"' if rng.random() < 0.7 else '"Prospect"',
            "Industry": q(industries[n % len(industries)].display),
            "Annual_Revenue": str(int(rng.lognormvariate(17, 1.2)) // 1000 * 1000),
            "Employees": str(int(rng.lognormvariate(5.5, 1.3)) + 5),
            "Parent_Account": spread_id(ACCOUNTS_AT, n // 20) if n > 40 and n % 23 == 0 else None,
            "Billing_City": q(city),
            "Billing_Country": q(country),
            **_stamped(_owner(rng, owners), *times),
        }


def _person(rng: random.Random) -> tuple[str, str]:
    return (
        FIRST_NAMES[int(rng.random() * len(FIRST_NAMES))],
        LAST_NAMES[int(rng.random() * len(LAST_NAMES))],
    )


def _contacts(plan: Plan, days: Days) -> Iterator[dict[str, Any]]:
    rng, owners = random.Random(f"contacts {plan.seed}"), _owners()
    for n in range(plan.contacts):
        account = contact_account(plan, n)
        first, last = _person(rng)
        created = -SPAN_DAYS + n * SPAN_DAYS // (2 * plan.contacts)
        times = days.ordered(created, created + int(rng.random() * -created), n)
        site = account_name(account).lower().replace(" ", "").replace("&", "")
        yield {
            "id": spread_id(CONTACTS_AT, n),
            "First_Name": q(first),
            "Last_Name": q(last),
            "Full_Name": q(f"{first} {last}"),
            "Account_Name": spread_id(ACCOUNTS_AT, account),
            "Email": q(f"{first}.{last}{n}@{site}.example.com".lower()),
            "Phone": f'"+65 8{rng.randint(100, 999)} {rng.randint(1000, 9999)}"',
            "Title": q(TITLES[int(rng.random() * len(TITLES))]),
            **_stamped(_owner(rng, owners), *times),
        }


def contact_account(plan: Plan, n: int) -> int:
    """Which account the n-th contact belongs to: one each first, then a second for some."""
    return n if n < plan.accounts else (n - plan.accounts) * 2 % plan.accounts


def _leads(plan: Plan, days: Days) -> Iterator[dict[str, Any]]:
    rng, owners = random.Random(f"leads {plan.seed}"), _owners()
    module = build_modules("standard", ())["Leads"].fields
    statuses = [q(c.display) for c in module["Lead_Status"].choices[1:]]
    sources = [q(c.display) for c in module["Lead_Source"].choices[1:]]
    for n in range(plan.leads):
        first, last = _person(rng)
        created = -SPAN_DAYS + n * (SPAN_DAYS - 1) // max(1, plan.leads)
        times = days.ordered(created, created + int(rng.random() * min(60, -created)), n)
        converted = rng.random() < 0.22 and plan.deals > 0
        deal = n * 5 % max(1, plan.deals)
        account = deal_account(plan, deal)
        company = account_name(n * 3 + 17)
        yield {
            "id": spread_id(LEADS_AT, n),
            "First_Name": q(first),
            "Last_Name": q(last),
            "Full_Name": q(f"{first} {last}"),
            "Company": q(company),
            "Email": q(f"{first}.{last}@lead{n}.example.com".lower()),
            "Phone": f'"+1 555 {rng.randint(100, 999)} {rng.randint(1000, 9999)}"',
            "Designation": q(TITLES[int(rng.random() * len(TITLES))]),
            "Lead_Source": sources[int(rng.random() * len(sources))],
            "Lead_Status": '"Pre-Qualified"'
            if converted
            else statuses[int(rng.random() * len(statuses))],
            "Country": q(CITIES[account_territory(n)][0][1]),
            "Converted__s": "true" if converted else "false",
            "Converted_Date_Time": times[1] if converted else None,
            "Converted_Account": spread_id(ACCOUNTS_AT, account) if converted else None,
            "Converted_Contact": spread_id(CONTACTS_AT, account) if converted else None,
            "Converted_Deal": spread_id(DEALS_AT, deal) if converted else None,
            **_stamped(_owner(rng, owners), *times),
        }


# -- deals ----------------------------------------------------------------------------------


def deal_account(plan: Plan, n: int) -> int:
    """Which account the n-th deal is with; early ones get more."""
    spot = (n * 2_654_435_761) % 1_000_003 / 1_000_003
    return int(spot * spot * plan.accounts)


@dataclass
class Story:
    """How one deal went, in days relative to today; None is what has not happened."""

    created: int
    stage: int
    closing: int | None
    touched: int
    proposal: int | None = None
    sow: int | None = None
    po: int | None = None
    kickoff: int | None = None
    signoff: int | None = None
    invoice: int | None = None
    payment: int | None = None
    revenue: int | None = None


def tell(rng: random.Random, created: int) -> Story:
    """Let a deal created on that day run until yesterday."""
    chance, wait = rng.random, rng.expovariate
    proposal = created + 6 + int(wait(1 / 30))
    decision = proposal + 10 + int(wait(1 / 50))
    if proposal > -1:
        stage = min(3, max(0, (-created) // 12 + int(chance() * 2)))
        return Story(created, stage, created + 60 + int(chance() * 120), _touch(rng, created))
    if decision > -1 or chance() < 0.10:
        late = decision <= -1
        stage = 4 if chance() < 0.6 else 5
        closing = proposal + 30 + int(chance() * 90)
        touched = min(-1, proposal + int(wait(1 / 12))) if late else _touch(rng, proposal)
        story = Story(created, stage, closing, touched, proposal=proposal)
        if stage == 5 and chance() < 0.5:
            story.sow = min(-1, proposal + 6 + int(wait(1 / 10)))
        return story
    if chance() < 0.55:
        stage = 7 if chance() < 0.75 else 8
        return Story(created, stage, decision, min(-1, decision + int(wait(1 / 4))), proposal)
    return _won(rng, Story(created, 6, decision, decision, proposal))


def _won(rng: random.Random, story: Story) -> Story:
    """Delivery after the win: one step after another until one stalls or today is reached."""
    chance, wait = rng.random, rng.expovariate
    at = story.closing or story.created
    story.sow = max(story.proposal or at, at - 1 - int(wait(1 / 6)))
    steps = (("po", 0, 5, 0.05), ("kickoff", 3, 9, 0.07), ("signoff", 25, 30, 0.06),
             ("invoice", 1, 6, 0.03), ("payment", 14, 18, 0.06),
             ("revenue", 0, 8, 0.02))  # fmt: skip
    for name, least, mean, stalls in steps:
        if chance() < stalls:
            break
        at += least + int(wait(1 / mean))
        if at > -1:
            if name in ("kickoff", "invoice") and at < 60 and chance() < 0.5:
                setattr(story, name, at)
            break
        setattr(story, name, at)
        story.touched = at
    return story


def _touch(rng: random.Random, since: int) -> int:
    return min(-1, max(since, -1 - int(rng.expovariate(1 / 9))))


STAGE_TEXTS = tuple((q(stage[0]), stage[2]) for stage in STAGES)
UNKNOWN_STAGES = ('"Verbal Agreement"', '"On Hold"', '"Awaiting AWS funding"')
ODD_TERRITORIES = ('"LATAM"', '"Greater China"', '"apac"')
ODD_CURRENCIES = ('"CHF"', '"MYR"')


def _deals(plan: Plan, days: Days) -> Iterator[dict[str, Any]]:
    rng = random.Random(f"deals {plan.seed}")
    owners = _owners()
    fields = build_modules("standard", ())["Deals"].fields
    sources = [q(c.display) for c in fields["Lead_Source"].choices[1:]]
    losses = [q(c.display) for c in fields["Reason_For_Loss__s"].choices[1:]]
    rates = {c[0]: (float(c[3]), c[4], format(float(c[3]), "g")) for c in CURRENCIES}
    shape = _och if plan.profile == "och" else _standard
    before = ("", 0)
    for n in range(plan.deals):
        chance = rng.random
        created = -1 - int((SPAN_DAYS - 1) * (1 - n / plan.deals) ** GROWTH)
        story = tell(rng, created)
        account = deal_account(plan, n)
        territory = account_territory(account)
        line = SERVICE_LINES[int(chance() * 4)]
        codes = TERRITORY_CURRENCIES[territory]
        code = codes[int(chance() * len(codes))]
        rate, decimals, rate_text = rates[code]
        base = rng.lognormvariate(10.7, 0.9)
        amount = _round(base * rate, decimals, chance())
        projects = PROJECTS[line]
        name = f"{account_name(account)} – {projects[int(chance() * len(projects))]}"
        stage, percent = STAGE_TEXTS[story.stage]
        if story.stage < 6 and chance() < 0.12:
            percent = max(5, min(95, percent + (10 if chance() < 0.5 else -10)))
        if story.stage < 6 and story.closing is not None and story.closing < 0:
            story.closing = -1 - int(chance() * 60) if chance() < 0.2 else int(chance() * 90) + 1
        owner = _owner(rng, owners)
        times = days.ordered(created, max(created, story.touched), n)
        row: dict[str, Any] = {
            "id": spread_id(DEALS_AT, n),
            "Deal_Name": q(name),
            "Account_Name": spread_id(ACCOUNTS_AT, account),
            "Contact_Name": spread_id(CONTACTS_AT, account),
            "Pipeline": '"Standard"',
            "Stage": stage,
            "Amount": amount,
            "Probability": str(percent),
            "Expected_Revenue": None,
            "Closing_Date": days.date(story.closing),
            "Type": '"New Business"' if chance() < 0.6 else '"Existing Business"',
            "Lead_Source": sources[int(chance() * len(sources))],
            "Next_Step": NEXT_STEPS[int(chance() * len(NEXT_STEPS))] if story.stage < 6 else None,
            "Description": DESCRIPTIONS[int(chance() * len(DESCRIPTIONS))],
            "Reason_For_Loss__s": losses[int(chance() * len(losses))] if story.stage > 6 else None,
            "Pulse_Id": f'"SIM-{n + 1:07}"' if chance() < 0.3 else None,
            "Sales_Cycle_Duration": str(story.closing - created)
            if story.stage > 5 and story.closing is not None
            else None,
            **shape(days, story, territory, line, base, chance(), chance()),
            **_stamped(owner, *times, f'"{code}"'),
        }
        row["Exchange_Rate"] = rate_text
        if story.stage in (0, 4) and chance() < 0.08:
            row["Pipeline"] = '"Renewals"'
        spoil = chance()
        if spoil < SPOILED:
            _spoil(row, spoil / SPOILED, n, before, plan.profile)
        row["Expected_Revenue"] = _expected(row["Amount"], percent)
        before = (row["Deal_Name"], row["Account_Name"])
        yield row


def _round(amount: float, decimals: int, chance: float) -> str:
    """Mostly round sums, some to the last decimal of the currency."""
    if chance < 0.7:
        step = 1_000 if amount > 100_000 else 100 if amount > 5_000 else 10
        return str(max(step, int(amount) // step * step))
    return plain_number(amount, decimals)


def plain_number(amount: float, decimals: int) -> str:
    """A number's text without needless zeros."""
    text = f"{amount:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _expected(amount: str | None, percent: int) -> str | None:
    return None if amount is None else plain_number(float(amount) * percent / 100, 2)


def _standard(
    days: Days, story: Story, territory: str, line: str, _base: float, a: float, b: float
) -> dict[str, Any]:
    date = days.date
    return {
        "Territory": f'"{territory}"',
        "Service_Line": f'"{line}"',
        "AWS_Funded": "true" if a < 0.35 else "false",
        "Strategic_Account": "true" if b < 0.15 else "false",
        "Proposal_Date": date(story.proposal),
        "SOW_Date": date(story.sow),
        "PO_Date": date(story.po),
        "Kickoff_Date": date(story.kickoff),
        "Signoff_Date": date(story.signoff),
        "Invoice_Date": date(story.invoice),
        "Payment_Date": date(story.payment),
        "Revenue_Date": date(story.revenue),
    }


def _och(
    days: Days, story: Story, territory: str, line: str, base: float, a: float, b: float
) -> dict[str, Any]:
    date = days.date
    tags = ('"None"', '"None"', '"MAP"', '"POC Credits"', '"MDF"', '"Partner Funding"')
    segments = ('"AWS Originated"', '"Partner Originated"', '"Co-sell"', '"Self Sourced"')
    return {
        "Converted_OCH_Revenue": plain_number(base, 2) if a < 0.97 else None,
        "Business_Region": f'"{territory}"',
        "Solution_Type": f'"{line}"',
        "Type_of_Funding": tags[int(a * 6)],
        "Market_Segment": segments[int(b * 4)],
        "Strategic_Account": "true" if b < 0.15 else "false",
        "Proposal_Submission_date": date(story.proposal),
        "PO_Generation_Date": date(story.po),
        "Kick_off_Date": date(story.kickoff),
        "Signoff_Date": date(story.signoff),
        "Invoice_Date": date(story.invoice),
        "Received_On": date(story.payment),
        "OB_Recognition_Date": date(story.revenue),
    }


SPOILED = 0.12
"""Share of deals that are dirty in one way, spread over the ways below."""


def _spoil(
    row: dict[str, Any], which: float, n: int, before: tuple[str, int], profile: str
) -> None:
    """Make one record dirty in one way; `which` in 0..1 picks it."""
    och = profile == "och"
    territory = "Business_Region" if och else "Territory"
    line = "Solution_Type" if och else "Service_Line"
    proposal = "Proposal_Submission_date" if och else "Proposal_Date"
    order = "PO_Generation_Date" if och else "PO_Date"
    way = int(which * 12)
    if way == 0:
        row["Amount"] = None
    elif way == 1:
        row["Account_Name"] = row["Contact_Name"] = None
    elif way == 2:
        row[territory] = None
    elif way == 3:
        row["Closing_Date"] = None
    elif way == 4:
        row[line] = None
    elif way == 5:
        row["Stage"] = UNKNOWN_STAGES[n % 3]
    elif way == 6:
        row["Currency"] = ODD_CURRENCIES[n % 2]
    elif way == 7:
        row[territory] = ODD_TERRITORIES[n % 3]
    elif way == 8:
        row["Deal_Name"] = q("  " + json.loads(row["Deal_Name"]).replace(" – ", "  –  ") + " ")
    elif way == 9:
        row["Deal_Name"] = ODD_NAMES[n % len(ODD_NAMES)]
    elif way == 10 and before[0] and before[1]:
        row["Deal_Name"], row["Account_Name"] = before
    elif way == 11 and row[order] is not None:
        row[proposal], row[order] = row[order], row[proposal]
