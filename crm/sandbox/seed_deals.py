"""How the deals of the made-up consultancy go, day by day, and what of them is dirty.

About one record in a hundred is dirty in each of the ways real ones are.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from json.encoder import encode_basestring as q
from typing import Any

from crm.sandbox.picklists import SERVICE_LINES, STAGES
from crm.sandbox.schema import build_modules
from crm.sandbox.seed_org import (
    ACCOUNTS_AT,
    CONTACTS_AT,
    CURRENCIES,
    DEALS_AT,
    SPAN_DAYS,
    TERRITORY_CURRENCIES,
    Days,
    Plan,
    account_name,
    account_territory,
    deal_account,
    owners_by_weight,
    plain_number,
    some_owner,
    spread_id,
    stamped,
)
from crm.sandbox.seed_words import DESCRIPTIONS, NEXT_STEPS, ODD_NAMES, PROJECTS

GROWTH = 1.5  # the business grows: more of its deals are recent


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


def deals(plan: Plan, days: Days) -> Iterator[dict[str, Any]]:
    """Rows of the module, one after another, ids and creation rising."""
    rng = random.Random(f"deals {plan.seed}")
    owners = owners_by_weight()
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
        owner = some_owner(rng, owners)
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
            **stamped(owner, *times, f'"{code}"'),
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
