"""What people do in the CRM, as control commands, and what of it no delta can learn.

A model of ids and references only: values live in the CRM. Commands may be carried out at once or
hung between two requests of a sync (`hooks`); either way in the order in which they were drawn.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from crm.sandbox.schema import zoho_id
from crm.tests.sandbox_process import Sandbox

MODULES = ("Accounts", "Contacts", "Leads", "Deals")
NEW_IDS_FROM = 600_000_000_000
# Below the guard that holds implausibly many deletions, whatever a run misses at once.
MOST_TAKEN = 35
LATE_S = 540  # how late a record may become visible: within the overlap of ten minutes
STAGES = (
    "Qualification", "Needs Analysis", "Value Proposition", "Proposal/Price Quote",
    "Negotiation/Review", "Closed Won", "Closed Lost", "On Hold",
)  # fmt: skip
WORDS = (
    "Alpha",
    "Über",
    "東京",
    "O'Brien & Sons",
    '"quoted"',
    "línea\nnueva",
    "👩‍💻",
    "e\u0301té",
    "  ",
)
CURRENCIES = ("SGD", "USD", "JPY", "KWD", "EUR")
REFERENCES = {
    "Contacts": ("Account_Name",),
    "Deals": ("Account_Name", "Contact_Name"),
    "Leads": ("Converted_Account", "Converted_Contact", "Converted_Deal"),
}
TARGET = {
    "Account_Name": "Accounts",
    "Contact_Name": "Contacts",
    "Converted_Account": "Accounts",
    "Converted_Contact": "Contacts",
    "Converted_Deal": "Deals",
}
Command = dict[str, Any]
Key = tuple[str, int]


class People:
    """`draw` the next thing somebody does: its commands, for `at_once` or `between_requests`."""

    def __init__(self, sandbox: Sandbox, seed: int, start: datetime) -> None:
        self.sandbox = sandbox
        self.rng = random.Random(f"people {seed}")
        self.start = start
        self.offset_s = 0
        self.edits = 0
        self.alive: dict[str, list[int]] = {}
        self.binned: list[Key] = []
        self.hidden: list[Key] = []
        self.late: list[tuple[int, Key]] = []  # visible at the latest then
        self.refs: dict[Key, dict[str, int | None]] = {}
        self.taken: dict[str, int] = defaultdict(int)
        self.users: list[str] = []
        self._new = 0
        # What only a full run can learn.
        self.unseen: set[Key] = set()
        self.unseen_fields: dict[Key, set[str]] = defaultdict(set)
        self.forgotten: set[Key] = set()
        self.ever_gone: set[int] = set()
        self._look_around()
        self._acts: list[tuple[int, Callable[[], list[Command]]]] = [
            (30, self._edit_deal),
            (12, self._edit_account),
            (8, self._edit_contact),
            (8, self._edit_lead),
            (8, self._insert),
            (12, self._delete),
            (4, self._restore),
            (3, self._merge),
            (3, self._convert),
            (3, self._vanish),
            (3, self._appear),
            (5, self._late_insert),
            (3, self._late_edit),
            (3, self._edit_unnoticed),
            (3, self._user_changes),
            (3, self._flap),
        ]

    def _look_around(self) -> None:
        for module in MODULES:
            records = self.sandbox.control("dump", module=module)["records"]
            self.alive[module] = [int(record["id"]) for record in records]
            for record in records:
                self.users.append(record["Owner"]["id"])
                self.refs[module, int(record["id"])] = {
                    name: int(record[name]["id"]) if record[name] else None
                    for name in REFERENCES.get(module, ())
                }
        self.users = sorted({*self.users})

    # -- when ------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The CRM's clock."""
        return self.start + timedelta(seconds=self.offset_s)

    def pass_time(self, seconds: int) -> list[Command]:
        """The CRM's clock moves on; who is late becomes visible before it is too late."""
        due = [key for limit, key in self.late if limit <= self.offset_s + seconds]
        commands = [command for key in due for command in self._show(key)]
        self.offset_s += seconds
        return [*commands, {"do": "config", "clock_offset_s": self.offset_s}]

    def at_once(self, number: int) -> None:
        for _ in range(number):
            for command in self.draw():
                self.carry_out(command)

    def carry_out(self, command: Command) -> None:
        self.sandbox.control(**command)

    def draw(self) -> list[Command]:
        """The next act: a moment passes, then it is done."""
        self.edits += 1
        acts, weights = [a for _, a in self._acts], [w for w, _ in self._acts]
        act = self.rng.choices(acts, weights)[0]
        return [*self.pass_time(self.rng.choice([0, 0, 1, 1, 3, 20])), *act()]

    # -- what ------------------------------------------------------------------------------------

    def _one(self, module: str) -> int:
        return self.rng.choice(self.alive[module])

    def _text(self) -> str:
        return f"{self.rng.choice(WORDS)} {self.rng.randrange(1000)}"

    def _owner(self) -> dict[str, str]:
        return {"id": self.rng.choice(self.users)}

    def _edit(self, module: str, record: int, values: dict[str, Any], **more: Any) -> list[Command]:
        """Raw: owners who left and unknown stages are as possible as any."""
        key = (module, record)
        self._refer(key, values)
        if more.get("touch", True):
            self.unseen.discard(key)
            self.unseen_fields.pop(key, None)
        else:
            self.unseen_fields[key] |= set(values)
        return [{"do": "edit", "module": module, "id": str(record), "values": values,
                 "raw": True, **more}]  # fmt: skip

    def _refer(self, key: Key, values: dict[str, Any]) -> None:
        for name in REFERENCES.get(key[0], ()):
            if name in values:
                found = values[name]
                self.refs[key][name] = int(found["id"]) if found else None

    def _edit_deal(self) -> list[Command]:
        day = f"2026-0{self.rng.randint(1, 9)}-1{self.rng.randint(0, 9)}"
        choices: list[Callable[[], dict[str, Any]]] = [
            lambda: {"Amount": self.rng.choice([0, 100, 1234.5, 0.005, 99999.99])},
            lambda: {"Amount": None, "Next_Step": self._text()},
            lambda: {"Stage": self.rng.choice(STAGES), "Probability": self.rng.randint(0, 100)},
            lambda: {"Closing_Date": self.rng.choice([None, day])},
            lambda: {"Proposal_Date": day, "PO_Date": self.rng.choice([None, day])},
            lambda: {"Deal_Name": self._text(), "Description": self._text()},
            lambda: {"Owner": self._owner()},
            lambda: {"Account_Name": self._reference("Accounts")},
            lambda: {"Contact_Name": self._reference("Contacts")},
            lambda: {"Currency": self.rng.choice(CURRENCIES), "Strategic_Account": True},
        ]
        return self._edit("Deals", self._one("Deals"), self.rng.choice(choices)())

    def _reference(self, module: str) -> dict[str, str] | None:
        return None if self.rng.random() < 0.2 else {"id": str(self._one(module))}

    def _edit_account(self) -> list[Command]:
        values = self.rng.choice(
            [
                {"Account_Name": f"{self._text()} Ltd"},
                {"Industry": self._text(), "Employees": self.rng.randrange(10_000)},
                {"Owner": self._owner()},
            ]
        )
        return self._edit("Accounts", self._one("Accounts"), values)

    def _edit_contact(self) -> list[Command]:
        values = self.rng.choice(
            [
                {"Last_Name": self._text(), "Email": None},
                {"Account_Name": self._reference("Accounts")},
                {"Title": self._text(), "Owner": self._owner()},
            ]
        )
        return self._edit("Contacts", self._one("Contacts"), values)

    def _edit_lead(self) -> list[Command]:
        values = {"Company": self._text(), "Lead_Status": self.rng.choice(["Contacted", None])}
        return self._edit("Leads", self._one("Leads"), values)

    def _insert(self) -> list[Command]:
        return self._insert_into(self.rng.choice(MODULES))[1]

    def _insert_into(self, module: str, **values: Any) -> tuple[int, list[Command]]:
        self._new += 1
        record = int(zoho_id(NEW_IDS_FROM + 1_003 * self._new))
        values = {**self._newborn(module), **values}
        self.alive[module].append(record)
        self.refs[module, record] = dict.fromkeys(REFERENCES.get(module, ()))
        self._refer((module, record), values)
        return record, [{"do": "insert", "module": module, "id": str(record), "values": values,
                         "raw": True}]  # fmt: skip

    def _newborn(self, module: str) -> dict[str, Any]:
        if module == "Accounts":
            return {"Account_Name": self._text(), "Owner": self._owner()}
        if module == "Contacts":
            return {"Last_Name": self._text(), "Account_Name": self._reference("Accounts")}
        if module == "Leads":
            return {"Last_Name": self._text(), "Company": self._text(), "Owner": self._owner()}
        return {
            "Deal_Name": self._text(),
            "Stage": self.rng.choice(STAGES),
            "Amount": self.rng.randrange(100_000),
            "Currency": self.rng.choice(CURRENCIES),
            "Account_Name": self._reference("Accounts"),
            "Owner": self._owner(),
        }

    # -- who goes and comes ----------------------------------------------------------------------

    def _may_take(self, module: str) -> bool:
        return self.taken[module] < MOST_TAKEN and len(self.alive[module]) > 5

    def _delete(self) -> list[Command]:
        module = self.rng.choice(("Deals", "Deals", "Deals", *MODULES))
        if not self._may_take(module):
            return []
        kind = self.rng.choice(["recycle", "recycle", "permanent"])
        return self._take(module, self._one(module), kind)

    def _take(self, module: str, record: int, kind: str) -> list[Command]:
        self.alive[module].remove(record)
        self.taken[module] += 1
        self.ever_gone.add(record)
        if kind == "recycle":
            self.binned.append((module, record))
        for key, refs in self.refs.items():
            # The CRM empties lookups to it; a record that is itself away keeps them.
            for name, value in refs.items():
                if value == record and TARGET[name] == module and key[1] in self.alive[key[0]]:
                    refs[name] = None
        return [{"do": "delete", "module": module, "ids": [str(record)], "type": kind}]

    def _restore(self) -> list[Command]:
        found = [key for key in self.binned if self._is_whole(key)]
        if not found:
            return []
        key = self.rng.choice(found)
        self.binned.remove(key)
        self._is_back(key)
        return [{"do": "restore", "module": key[0], "ids": [str(key[1])]}]

    def _is_whole(self, key: Key) -> bool:
        """What it points to is there: a lookup into nothing reads differently by each call."""
        return all(
            value is None or value in self.alive[TARGET[name]]
            for name, value in self.refs[key].items()
        )

    def _is_back(self, key: Key) -> None:
        """As old as it was: no window need hold it."""
        self.alive[key[0]].append(key[1])
        self.alive[key[0]].sort()
        self.unseen.add(key)
        self.forgotten.discard(key)

    def _flap(self) -> list[Command]:
        """Deleted by mistake, and at once back again."""
        record = self._one("Deals")
        if not self._may_take("Deals"):
            return []
        commands = self._take("Deals", record, "recycle")
        self.binned.remove(("Deals", record))
        self._is_back(("Deals", record))
        return [*commands, {"do": "restore", "module": "Deals", "ids": [str(record)]}]

    def _merge(self) -> list[Command]:
        """One of two stays; what pointed to the other follows it, noticed or not."""
        module = self.rng.choice(["Accounts", "Contacts"])
        if not self._may_take(module):
            return []
        stays, goes = self.rng.sample(self.alive[module], 2)
        commands: list[Command] = []
        for key, refs in sorted(self.refs.items()):
            for name, value in sorted(refs.items()):
                if value == goes and TARGET[name] == module and key[1] in self.alive[key[0]]:
                    commands += self._edit(
                        *key, {name: {"id": str(stays)}}, touch=self.rng.random() < 0.7
                    )
        return [*commands, *self._take(module, goes, "permanent")]

    def _convert(self) -> list[Command]:
        lead = self._one("Leads")
        if any(self.refs["Leads", lead].values()):
            return []
        account, made = self._insert_into("Accounts")
        at = {"Account_Name": {"id": str(account)}}
        contact, more = self._insert_into("Contacts", **at)
        deal, most = self._insert_into("Deals", **at, Contact_Name={"id": str(contact)})
        values = {
            "Converted__s": True,
            "Converted_Date_Time": (self.now + timedelta(hours=8)).strftime(
                "%Y-%m-%dT%H:%M:%S+08:00"
            ),
            "Converted_Account": {"id": str(account)},
            "Converted_Contact": {"id": str(contact)},
            "Converted_Deal": {"id": str(deal)},
        }
        return [*made, *more, *most, *self._edit("Leads", lead, values)]

    # -- what is there and not seen --------------------------------------------------------------

    def _hide(self, module: str, record: int) -> list[Command]:
        self.alive[module].remove(record)
        self.hidden.append((module, record))
        self.ever_gone.add(record)
        return [{"do": "vanish", "module": module, "ids": [str(record)]}]

    def _vanish(self) -> list[Command]:
        """We lose the right to see it. Nothing points to it that would be read differently."""
        module = self.rng.choice(["Deals", "Leads"])
        if not self._may_take(module):
            return []
        self.taken[module] += 1
        record = self._one(module)
        self.unseen.add((module, record))
        return self._hide(module, record)

    def _appear(self) -> list[Command]:
        found = [key for key in self.hidden if key in self.unseen and self._is_whole(key)]
        return self._show(self.rng.choice(found)) if found else []

    def _show(self, key: Key) -> list[Command]:
        self.hidden.remove(key)
        self.alive[key[0]].append(key[1])
        self.alive[key[0]].sort()
        self.late = [item for item in self.late if item[1] != key]
        return [{"do": "appear", "module": key[0], "ids": [str(key[1])]}]

    def _late_insert(self) -> list[Command]:
        """Written now, to be seen by us in some minutes: the CRM is many machines."""
        module = self.rng.choice(["Deals", "Leads"])
        record, commands = self._insert_into(module)
        self.refs[module, record] = dict.fromkeys(REFERENCES.get(module, ()))
        commands[0]["values"] = {
            name: value
            for name, value in commands[0]["values"].items()
            if name not in REFERENCES.get(module, ())
        }
        return [*commands, *self._delay(module, record)]

    def _late_edit(self) -> list[Command]:
        record = self._one("Deals")
        if not self._may_take("Deals") or any(self.refs["Deals", record].values()):
            return []
        commands = self._edit("Deals", record, {"Next_Step": self._text()})
        return [*commands, *self._delay("Deals", record)]

    def _delay(self, module: str, record: int) -> list[Command]:
        limit = self.offset_s + self.rng.choice([1, 60, LATE_S])
        self.late.append((limit, (module, record)))
        return self._hide(module, record)

    def _edit_unnoticed(self) -> list[Command]:
        """As a formula does: the value moves, Modified_Time does not."""
        return self._edit("Deals", self._one("Deals"), {"Next_Step": self._text()}, touch=False)

    def _user_changes(self) -> list[Command]:
        status = self.rng.choice(["inactive", "deleted", "active"])
        return [{"do": "user", "id": self.rng.choice(self.users), "status": status}]

    # -- the whole of it -------------------------------------------------------------------------

    def black_out(self) -> tuple[list[Command], list[Command]]:
        """All deals out of sight at once, as by a changed profile; and back."""
        ids = [str(record) for record in self.alive["Deals"]]
        self.unseen |= {("Deals", int(record)) for record in ids}
        self.ever_gone |= {*self.alive["Deals"]}
        there = {"module": "Deals", "ids": ids}
        return [{"do": "vanish", **there}], [{"do": "appear", **there}]

    def forget_deletions(self) -> None:
        """What went so far is named by no list any more, or was left out of one."""
        self.forgotten |= {key for key in self.refs if key[1] not in self.alive[key[0]]}

    def settle(self) -> None:
        """Who is late arrives; then a moment passes and nothing more happens."""
        for _, key in list(self.late):
            for command in self._show(key):
                self.carry_out(command)
        for command in self.pass_time(5):
            self.carry_out(command)
