"""People who work in the CRM itself while others change the same records here.

They edit as a person there does, so the CRM's history holds every change; what they make known by
notices is for the postman to bring: late, twice, in another order, or never.
"""

from __future__ import annotations

import json
import random
import sqlite3
from datetime import date, datetime, timedelta
from typing import Any

from crm.tests.sandbox_process import ControlRefused, Sandbox
from crm.tests.simulator.people import CURRENCIES, REFERENCES, TARGET, Command, Key, People
from crm.tests.simulator.terms import WRITABLE

MODULES_OFTEN = ("Deals", "Deals", "Deals", "Deals", "Accounts", "Contacts", "Leads")
# Stages that every pipeline knows.
STAGES = (
    "Qualification", "Proposal/Price Quote", "Negotiation/Review", "Closed Won", "Closed Lost",
)  # fmt: skip
HOLDS = ("lock", "approval", "review", "blueprint", "access")
FIRST_DAY = date(2026, 1, 1)


class Postman:
    """Notices on their way. `bring` gives those that arrive now."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"postman {seed}")
        self.waiting: list[tuple[str, int, str]] = []

    def take(self, module: str, record: int, operation: str) -> None:
        copies = self.rng.choice([0, 1, 1, 1, 2])  # lost, told, told twice
        self.waiting += [(module, record, operation)] * copies

    def bring(self) -> list[tuple[str, int, str]]:
        self.rng.shuffle(self.waiting)
        number = self.rng.randint(0, len(self.waiting))
        arriving, self.waiting = self.waiting[:number], self.waiting[number:]
        return arriving


class Colleagues(People):
    """`hot`: the records that both sides work at."""

    def __init__(self, sandbox: Sandbox, seed: int, start: datetime) -> None:
        super().__init__(sandbox, seed, start)
        self.postman = Postman(seed)
        self.held: set[Key] = set()
        self.refused = 0
        self.deleted: set[Key] = set()
        self._numbers = 0
        self.hot: dict[str, list[int]] = {
            module: self.rng.sample(ids, min(len(ids), 4 if module == "Deals" else 1))
            for module, ids in self.alive.items()
        }
        self._acts = [
            (60, self._edit_any),
            (10, self._put_back),
            (4, self._insert),
            (5, self._delete_one),
            (4, self._restore_one),
            (5, self._hold_or_let_go),
            (3, self._automate),
        ]

    # -- as it is ---------------------------------------------------------------------------------

    def carry_out(self, command: Command) -> None:
        try:
            self.sandbox.control(**command)
        except ControlRefused:
            self.refused += 1  # gone meanwhile, or pointing to what is gone
            return
        ids = command.get("ids", [command["id"]] if "id" in command else [])
        for each in ids:
            if command["do"] in ("edit", "insert", "delete", "restore"):
                self.postman.take(command["module"], int(each), command["do"])

    def look_again(self) -> None:
        """Who is there: people here delete and make records too."""
        with sqlite3.connect(f"file:{self.sandbox.db}?mode=ro", uri=True) as sql:
            for module in self.alive:
                found = sql.execute(f"select id from m_{module} order by id").fetchall()
                self.alive[module] = [row[0] for row in found]
        sql.close()

    def _pick(self, module: str) -> int | None:
        hot = [each for each in self.hot[module] if each in self.alive[module]]
        if hot and self.rng.random() < 0.75:
            return self.rng.choice(hot)
        return self.rng.choice(self.alive[module]) if self.alive[module] else None

    # -- edits ------------------------------------------------------------------------------------

    def _edit_any(self) -> list[Command]:
        module = self.rng.choice(MODULES_OFTEN)
        record = self._pick(module)
        if record is None:
            return []
        names = self.rng.sample(sorted(WRITABLE[module].values()), self.rng.choice([1, 1, 2]))
        if module == "Deals" and self.rng.random() < 0.3:
            names = [self.rng.choice(["Amount", "Currency", "Stage"])]
        values = {api: self._value(module, api) for api in names}
        return self._change(module, record, values)

    def _change(self, module: str, record: int, values: dict[str, Any]) -> list[Command]:
        return [{"do": "edit", "module": module, "id": str(record), "values": values}]

    def _value(self, module: str, api: str) -> Any:
        self._numbers += 1
        if api == "Amount":
            return None if self.rng.random() < 0.1 else 5_000 + self._numbers
        if api in ("AWS_Funded", "Strategic_Account"):
            return self.rng.random() < 0.5
        fixed: dict[str, Any] = {
            "Probability": self.rng.randint(0, 100),
            "Employees": self._numbers,
            "Stage": self.rng.choice(STAGES),
            "Pipeline": "Standard",
            "Currency": self.rng.choice(CURRENCIES),
            "Owner": self._owner(),
            "Email": f"theirs{self._numbers}@example.com",
            "Website": f"https://theirs{self._numbers}.example.com",
            "Phone": f"+65 {self._numbers:08d}",
        }
        if api in fixed:
            return fixed[api]
        if api == "Account_Name" and module != "Accounts":
            return self._reference("Accounts")
        if api == "Contact_Name":
            return self._reference("Contacts")
        if api.endswith("_Date"):
            return (FIRST_DAY + timedelta(days=self._numbers)).isoformat()
        choices = self._choices(module, api)
        if choices:
            return self.rng.choice(choices)
        return f"{self._text()} theirs {self._numbers}"

    def _choices(self, module: str, api: str) -> list[str]:
        with sqlite3.connect(f"file:{self.sandbox.db}?mode=ro", uri=True) as sql:
            found = sql.execute(
                "select definition from field where module=? and api_name=?", (module, api)
            ).fetchone()
        sql.close()
        field = json.loads(found[0])
        if field.get("data_type") != "picklist":
            return []
        return [display for display, *_ in field["choices"] if display != "-None-"]

    def _put_back(self) -> list[Command]:
        """Somebody there takes a change back, ours or another's: the value is as it was before."""
        with sqlite3.connect(f"file:{self.sandbox.db}?mode=ro", uri=True) as sql:
            rows = sql.execute(
                "select module, record, content from history order by id desc limit 6"
            ).fetchall()
        sql.close()
        if not rows:
            return []
        module, record, content = self.rng.choice(rows)
        known = WRITABLE[module].values()
        changes = [c for c in json.loads(content) if c[0] in known and isinstance(c[1], str)]
        if record not in self.alive[module] or not changes:
            return []
        name, old, _ = self.rng.choice(changes)
        return self._change(module, record, {name: json.loads(old)})

    def _insert(self) -> list[Command]:
        module = self.rng.choice(MODULES_OFTEN)
        record, commands = self._insert_into(module)
        commands[0]["values"].update(
            {"Pipeline": "Standard", "Stage": "Qualification"} if module == "Deals" else {}
        )
        self.refs[module, record] = dict.fromkeys(self.refs.get((module, record), {}))
        return commands

    # -- who goes and comes -----------------------------------------------------------------------

    def _delete_one(self) -> list[Command]:
        module = self.rng.choice(("Deals", "Deals", "Deals", "Contacts", "Leads"))
        record = self._pick(module)
        if record is None or not self._may_take(module):
            return []
        self.taken[module] += 1
        self.ever_gone.add(record)
        self.deleted.add((module, record))
        kind = self.rng.choice(["recycle", "recycle", "permanent"])
        if kind == "recycle":
            self.binned.append((module, record))
        self.alive[module].remove(record)
        return [{"do": "delete", "module": module, "ids": [str(record)], "type": kind}]

    def _restore_one(self) -> list[Command]:
        if not self.binned:
            return []
        key = self.binned.pop(self.rng.randrange(len(self.binned)))
        if not self._points_to_what_is_there(key):
            return []
        self.unseen.add(key)
        self.alive[key[0]].append(key[1])
        self.alive[key[0]].sort()
        return [{"do": "restore", "module": key[0], "ids": [str(key[1])]}]

    def _points_to_what_is_there(self, key: Key) -> bool:
        """Of a record in the bin; a lookup into nothing reads differently by each call."""
        with sqlite3.connect(f"file:{self.sandbox.db}?mode=ro", uri=True) as sql:
            found = sql.execute("select content from gone where module=? and id=?", key).fetchone()
            row = json.loads(found[0]) if found else {}
            targets = [(TARGET[name], row[name]) for name in REFERENCES.get(key[0], ())
                       if row.get(name) is not None]  # fmt: skip
            there = [
                sql.execute(f"select 1 from m_{module} where id=?", (target,)).fetchone()
                for module, target in targets
            ]
        sql.close()
        return all(there)

    # -- what stands in the way -------------------------------------------------------------------

    def _hold_or_let_go(self) -> list[Command]:
        """A record is locked, waits for approval, …; and at last it is let go."""
        if self.held and self.rng.random() < 0.5:
            key = self.rng.choice(sorted(self.held))
            self.held.discard(key)
            return [{"do": "release", "module": key[0], "ids": [str(key[1])]}]
        record = self._pick("Deals")
        if record is None:
            return []
        kind = self.rng.choice(HOLDS)
        self.held.add(("Deals", record))
        if kind == "approval":
            self.unseen.add(
                ("Deals", record)
            )  # no list shows it, and no time tells that it is back
        return [{"do": "hold", "module": "Deals", "ids": [str(record)], "as": kind}]

    def _automate(self) -> list[Command]:
        """A rule of the CRM rewrites what comes in through the API; or the rules go."""
        if self.rng.random() < 0.5:
            return [{"do": "clear_workflows"}]
        name = self.rng.choice(["Next_Step", "Service_Line", "Closing_Date"])
        rule = (
            {"revert": [name]} if self.rng.random() < 0.5 else {"set": {"Description": "By rule"}}
        )
        return [{"do": "workflow", "module": "Deals", "when": [name], **rule}]

    def settle(self) -> None:
        """Nothing stands in the way any more."""
        for module, record in sorted(self.held):
            self.carry_out({"do": "release", "module": module, "ids": [str(record)]})
        self.held.clear()
        self.carry_out({"do": "clear_workflows"})
        super().settle()
