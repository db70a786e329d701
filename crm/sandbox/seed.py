"""A made-up org: a cloud consultancy over two years, of any size, the same for the same seed.

Records are generated as finished column texts and inserted in batches, so memory stays flat.
Values that the CRM itself could not hold (text in a number, a date that does not exist) come
only by control.
"""

import random
from collections.abc import Callable, Iterator
from json.encoder import encode_basestring as q
from typing import Any

from crm.sandbox.schema import build_modules
from crm.sandbox.seed_deals import deals
from crm.sandbox.seed_org import (
    ACCOUNTS_AT,
    CONTACTS_AT,
    CURRENCIES,
    DEALS_AT,
    LEADS_AT,
    PEOPLE,
    SPAN_DAYS,
    Days,
    Plan,
    account_name,
    account_territory,
    add_currencies,
    add_users,
    deal_account,
    finish,
    insert_batches,
    org_of,
    owners_by_weight,
    some_owner,
    spread_id,
    stamped,
)
from crm.sandbox.seed_words import CITIES, FIRST_NAMES, LAST_NAMES, TITLES
from crm.sandbox.store import Store


def seed_store(store: Store, plan: Plan, progress: Callable[[str], None] = lambda _: None) -> None:
    """Fill an empty database. Interrupted, it is begun again from nothing at the next start."""
    sql = store._writer
    sql.execute("pragma synchronous=off")
    sql.execute("pragma temp_store=file")  # sorting a million keys in memory would not stay flat
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
        ("Deals", deals(plan, days)),
    ):
        insert_batches(store, module, rows)
        progress(module)
    finish(store)


def _accounts(plan: Plan, days: Days) -> Iterator[dict[str, Any]]:
    rng, owners = random.Random(f"accounts {plan.seed}"), owners_by_weight()
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
            **stamped(some_owner(rng, owners), *times),
        }


def _person(rng: random.Random) -> tuple[str, str]:
    return (
        FIRST_NAMES[int(rng.random() * len(FIRST_NAMES))],
        LAST_NAMES[int(rng.random() * len(LAST_NAMES))],
    )


def _contacts(plan: Plan, days: Days) -> Iterator[dict[str, Any]]:
    rng, owners = random.Random(f"contacts {plan.seed}"), owners_by_weight()
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
            **stamped(some_owner(rng, owners), *times),
        }


def contact_account(plan: Plan, n: int) -> int:
    """Which account the n-th contact belongs to: one each first, then a second for some."""
    return n if n < plan.accounts else (n - plan.accounts) * 2 % plan.accounts


def _leads(plan: Plan, days: Days) -> Iterator[dict[str, Any]]:
    rng, owners = random.Random(f"leads {plan.seed}"), owners_by_weight()
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
            **stamped(some_owner(rng, owners), *times),
        }
