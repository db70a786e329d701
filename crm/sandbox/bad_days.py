"""Bad days by seed: a script of control commands for the rows of the reliability table.

`{"do": "bad_day", "seed": 7}` draws one thing for each row, at a moment of its own within the next
`spread` requests (default 40), and carries the script out: faults and hooks wait there for their
request. `rows` chooses (default: HEALING, the rows that a product gets over with no person's help
and little waiting); `run: false` only tells. Same seed, rows and data: same script.

  24 429, 25 429 with some Retry-After, 26 credits run out, 27 a burst of 5xx, 28 the token dies,
  29 no more tokens, 30 consent withdrawn, 31 no scope or no permission, 32 an empty answer,
  33 not JSON, 34 cut short, 35 reset or silence, 36 a drip, 37 too large, too deep or too many,
  38 pages without end, 39 page token expired, 40 redirect, 41 fields drift, 42 a field is gone,
  43 a record twice on a page, 44 edits, 45 deletions, 46 new records between pages, 47 many edits
  in one second, 48 late visibility, 49 to the recycle bin, 50 deleted for good, 51 restored,
  52 all gone from sight, 53 merged, 54 notices out of order, lost, repeated, 56 account renamed,
  57-66 values that hurt (57 no amount, 58 amounts, 59 currencies, 60 odd decimals, 61 percents,
  62 stages, 63 dates, 64 texts, 65 lookups and a person who left, 66 shapes)

Row 55 (a watermark of ours) is none of the CRM's.
"""

# Names in SQL come from the schema, never from a request; values are bound.
# ruff: noqa: S608

import datetime as dt
import random
from collections.abc import Callable
from typing import Any

from crm.sandbox.clock import text_of
from crm.sandbox.fragments import table_of
from crm.sandbox.store import Store

Command = dict[str, Any]
DEALS = "/crm/v8/Deals"
API = "/crm/v8/"
HEALING = (24, 27, 28, 33, 34, 35, 43, 44, 45, 46, 47, 48, 49, 50, 51, 53, 54, 56, *range(57, 67))
SPREAD = 40

VALUES: dict[int, tuple[str, tuple[Any, ...]]] = {
    57: ("Amount", (None, "")),
    58: ("Amount", (-5, 10**18, 0.005, "1,234.50", 1e3, float("nan"), float("inf"))),
    59: ("Currency", ("XYZ", None, "CHF")),
    60: ("Currency", ("JPY", "KWD")),
    61: ("Probability", (150, -5, "80%", None)),
    62: ("Stage", ("Verbal Agreement", "Negotiation / Review", None)),
    63: (
        "Closing_Date",
        ("2026-02-30", "0000-00-00", "9999-12-31", "0001-01-01T00:00:00+14:00", None),
    ),
    64: (
        "Deal_Name",
        ("n" * 300, "\U0001f680", "مشروع", "e\u0301\u200b", "nul \x00 here", "lone \ud800", "a\nb"),
    ),
    65: ("Account_Name", (None,)),
    66: ("Stage", (["Qualification"], {"name": "Qualification"}, 7, True)),
}


class Day:
    """What a row draws from: the seed's chances, the data, the moments of the day."""

    def __init__(self, store: Store, rng: random.Random, spread: int) -> None:
        self.store = store
        self.rng = rng
        self.spread = spread

    def moment(self) -> int:
        return self.rng.randint(1, self.spread)

    def some(self, module: str, count: int = 1) -> list[str]:
        """Ids from around random places of the module; maybe fewer, none twice."""
        with self.store.reader() as sql:
            low, high = sql.execute(f"select min(id), max(id) from {table_of(module)}").fetchone()
            if low is None:
                return []
            query = f"select id from {table_of(module)} where id >= ? order by id limit 1"
            found = [
                sql.execute(query, (self.rng.randint(low, high),)).fetchone()[0]
                for _ in range(count)
            ]
        return [str(i) for i in dict.fromkeys(found)]

    def fault(self, do: str, **options: Any) -> Command:
        rule = {"do": do, "path": API, "nth": self.moment(), **options}
        return {"do": "faults", "rules": [rule]}

    def later(self, at: int | None = None, **command: Any) -> Command:
        """A hook that carries out a command at a moment of the day."""
        return {"do": "hook", "after_requests": at or self.moment(), "run": command}

    def at(self, module: str, do: str, **more: Any) -> list[Command]:
        """One hook for a command on some record."""
        return [self.later(do=do, module=module, ids=[i], **more) for i in self.some(module)]

    def old(self, seconds: int) -> str:
        return text_of(self.store.clock.time() - seconds)


def script_of(store: Store, content: Command) -> list[dict[str, Any]]:
    """The steps: {"row", "what", "do": a control command}. ValueError if it is asked wrongly."""
    rows, spread = content.get("rows", HEALING), content.get("spread", SPREAD)
    if not isinstance(rows, list | tuple) or not set(rows) <= set(ROWS):
        raise ValueError(f"'rows' must be a list of some of {sorted(ROWS)}")
    if not isinstance(spread, int) or spread < 1:
        raise ValueError("'spread' must be a whole number of at least 1")
    script = []
    for row in sorted(rows):
        what, make = ROWS[row]
        day = Day(store, random.Random(f"bad day {content.get('seed', 1)} {row}"), spread)
        script += [{"row": row, "what": what, "do": command} for command in make(day)]
    return script


# -- rows that draw more than one thing -----------------------------------------------------


def _retry_after(day: Day) -> list[Command]:
    soon = dt.datetime.fromtimestamp(day.store.clock.time() + 2, dt.UTC)
    date = soon.strftime("%a, %d %b %Y %H:%M:%S GMT")
    value = day.rng.choice(("7", date, "-1", "1000000000", "abc"))
    return [day.fault("status", status=429, headers={"Retry-After": value})]


def _burst(day: Day) -> list[Command]:
    status = day.rng.choice((500, 502, 503, 504))
    body = "" if status == 500 else "<html><body>upstream</body></html>"
    return [day.fault("status", status=status, body=body, times=day.rng.randint(1, 4))]


def _not_json(day: Day) -> list[Command]:
    if day.rng.random() < 0.5:
        return [day.fault("html_200")]
    return [day.fault("content_type", value=day.rng.choice(("text/plain", "text/html")))]


def _cut(day: Day) -> list[Command]:
    at, consistent = day.rng.randint(0, 4_000), day.rng.random() < 0.5
    return [day.fault("truncate", at=at, consistent=consistent)]


def _broken_line(day: Day) -> list[Command]:
    when = day.rng.choice(("before", "after", "body", "silence"))
    if when == "silence":
        return [day.fault("black_hole", seconds=5)]
    return [day.fault("reset", when=when)]


def _too_much(day: Day) -> list[Command]:
    kind = day.rng.choice(("huge", "deep", "many"))
    options = {"huge": {"bytes": 50_000_000}, "deep": {"levels": 100_000}, "many": {"to": 10_000}}
    return [day.fault(kind, **options[kind])]


def _drift(day: Day) -> list[Command]:
    name = day.rng.choice(("Next_Step", "Description", "Lead_Source"))
    options: Command = day.rng.choice((
        {"api_name": name, "action": "relabel", "value": "Renamed by somebody"},
        {"api_name": "Stage", "action": "add_choice", "value": "Contract Signature"},
        {"api_name": "Amount", "action": "retype", "data_type": "text"},
    ))  # fmt: skip
    return [day.later(do="field", module="Deals", **options)]


def _no_field(day: Day) -> list[Command]:
    name = day.rng.choice(("Next_Step", "Territory", "Service_Line", "PO_Date", "Pulse_Id"))
    known = day.store.modules["Deals"].fields
    name = name if name in known else "Next_Step"
    return [day.later(do="field", module="Deals", api_name=name, action="remove")]


def _forbidden(day: Day) -> list[Command]:
    if day.rng.random() < 0.5:
        return [day.later(do="permission", module="Deals", read=False)]
    scopes = ["ZohoCRM.settings.ALL", "ZohoCRM.org.READ", "ZohoCRM.users.READ"]
    return [day.later(do="config", scopes=scopes)]


def _edits(day: Day) -> list[Command]:
    texts = ("Call them", "Send the order form", "Meet procurement")
    return [
        day.later(do="edit", module="Deals", id=i, values={"Next_Step": day.rng.choice(texts)})
        for i in day.some("Deals", 5)
    ]


def _same_second(day: Day) -> list[Command]:
    at = day.moment()
    return [
        day.later(at, do="edit", module="Deals", id=i, values={"Next_Step": "All at once"})
        for i in day.some("Deals", 50)
    ]


def _new_deal(day: Day, name: str, raw: bool = False, **stamps: str) -> Command:
    values = {"Deal_Name": name, "Stage": "Qualification", "Pipeline": "Standard", **stamps}
    return day.later(do="insert", module="Deals", values=values, raw=raw)


def _late(day: Day) -> list[Command]:
    old = day.old(day.rng.randint(30, 150))
    return [_new_deal(day, "Seen late", raw=True, Created_Time=old, Modified_Time=old)]


def _restored(day: Day) -> list[Command]:
    at = day.moment()
    return [
        command
        for i in day.some("Deals")
        for command in (
            day.later(at, do="delete", module="Deals", ids=[i]),
            day.later(at + day.moment(), do="restore", module="Deals", ids=[i]),
        )
    ]


def _merged(day: Day) -> list[Command]:
    pair = day.some("Deals", 2)
    if len(pair) < 2:
        return []
    return [day.later(do="merge", module="Deals", id=pair[0], ids=[pair[1]])]


def _notices(day: Day) -> list[Command]:
    return [{"do": "config", "notice_shuffle": 1, "notice_repeat": round(day.rng.random(), 2),
             "notice_lose": round(day.rng.random() / 2, 2)}]  # fmt: skip


def _renamed(day: Day) -> list[Command]:
    return [
        day.later(do="edit", module="Accounts", id=i, values={"Account_Name": "Renamed Holdings"})
        for i in day.some("Accounts")
    ]


def _value(row: int) -> Callable[[Day], list[Command]]:
    def make(day: Day) -> list[Command]:
        name, values = VALUES[row]
        value = day.rng.choice(values)
        commands = [
            day.later(do="edit", module="Deals", id=i, raw=True, values={name: value})
            for i in day.some("Deals")
        ]
        if row == 65:
            commands.append(day.later(do="user", email="liam.walker@example.com",
                                      status="inactive"))  # fmt: skip
        if row == 66:
            kind = day.rng.choice(({"with": "no object"}, {"drop": ["id"]}, {"twice": "Stage"}))
            commands.append(day.fault("rewrite", path=DEALS, **kind))
        return commands

    return make


EXPIRED = {"code": "EXPIRED_VALUE", "details": {"api_name": "page_token",
           "json_path": "$.query.page_token"}, "message": "the page token is expired",
           "status": "error"}  # fmt: skip

ROWS: dict[int, tuple[str, Callable[[Day], list[Command]]]] = {
    24: ("429", lambda d: [d.fault("status", status=429, times=d.rng.randint(1, 3))]),
    25: ("429 with Retry-After", _retry_after),
    26: ("credits run out", lambda d: [d.later(do="config", credits=0)]),
    27: ("5xx", _burst),
    28: ("token dies", lambda d: [d.fault("expire_token")]),
    29: ("no more tokens", lambda d: [{"do": "config", "mint_limit": 0}, d.fault("expire_token")]),
    30: ("consent withdrawn", lambda d: [d.later(do="revoke_refresh_token")]),
    31: ("no scope or permission", _forbidden),
    32: ("empty", lambda d: [d.fault("status", status=204, method="GET")]),
    33: ("not JSON", _not_json),
    34: ("cut short", _cut),
    35: ("reset or silence", _broken_line),
    36: ("drip", lambda d: [d.fault("drip", bytes=1, ms=1_000)]),
    37: ("too much", _too_much),
    38: ("no end", lambda d: [d.fault(d.rng.choice(("more_for_ever", "empty_page")), times=3)]),
    39: ("page token expired", lambda d: [d.fault("status", status=400, body=EXPIRED, path=DEALS,
                                                  param="page_token", nth=1)]),
    40: ("redirect", lambda d: [d.fault("redirect", location="http://198.51.100.1/")]),
    41: ("drift", _drift),
    42: ("field gone", _no_field),
    43: ("record twice", lambda d: [d.fault("double", path=DEALS, nth=1, times=3)]),
    44: ("edits", _edits),
    45: ("deletions", lambda d: [c for _ in range(3) for c in d.at("Deals", "delete")]),
    46: ("new records", lambda d: [_new_deal(d, f"New {n}") for n in range(3)]),
    47: ("same second", _same_second),
    48: ("late", _late),
    49: ("recycle bin", lambda d: d.at("Deals", "delete", type="recycle")),
    50: ("gone for good", lambda d: d.at("Deals", "delete", type="permanent")),
    51: ("restored", _restored),
    52: ("all gone", lambda d: [d.fault("status", status=204, method="GET", path=DEALS, nth=1,
                                        times=0)]),
    53: ("merged", _merged),
    54: ("notices", _notices),
    56: ("account renamed", _renamed),
    **{row: ("value", _value(row)) for row in VALUES},
}  # fmt: skip
