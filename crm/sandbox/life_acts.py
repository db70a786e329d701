"""What people do in the CRM, and how often, as a sales team does: in parts of a thousand acts.

Each act happens within one transaction and names the record it was about. Who leaves is never
one of the first four users: the token's own and those who sign in for a demo.
"""

# Names in SQL come from the schema, never from a request; values are bound.
# ruff: noqa: S608

import datetime as dt
import random
from collections.abc import Callable
from typing import Any

from crm.sandbox.clock import text_of
from crm.sandbox.convert import convert_in
from crm.sandbox.errors import ApiError
from crm.sandbox.fragments import from_fragment, table_of, to_fragment
from crm.sandbox.merging import merge_records
from crm.sandbox.people import set_status
from crm.sandbox.picklists import LOSS_REASONS, STAGES
from crm.sandbox.rows import insert_row, update_row
from crm.sandbox.seed_words import NEXT_STEPS
from crm.sandbox.store import Store, Transaction

OPEN_STAGES = tuple(s[0] for s in STAGES if s[3] == "Open")
MILESTONES = {
    "standard": ("PO_Date", "Kickoff_Date", "Signoff_Date", "Invoice_Date", "Payment_Date",
                 "Revenue_Date"),
    "och": ("PO_Generation_Date", "Kick_off_Date", "Signoff_Date", "Invoice_Date", "Received_On",
            "OB_Recognition_Date"),
}  # fmt: skip
STAYING_USERS = 4
MOST_LATE_S = 150

Row = dict[str, Any]
Act = Callable[[Transaction], Row | None]


class Acts:
    """The acts and the chances that choose among them and among records."""

    def __init__(self, store: Store, rng: random.Random) -> None:
        self.store = store
        self.rng = rng
        self._table: tuple[tuple[int, str, str, Act], ...] = (
            (295, "next_step", "Deals", self._next_step),
            (175, "amount", "Deals", self._amount),
            (195, "advance", "Deals", self._advance),
            (120, "slip", "Deals", self._slip),
            (120, "milestone", "Deals", self._milestone),
            (38, "new_deal", "Deals", self._new_deal),
            (4, "late_deal", "Deals", self._late_deal),
            (20, "delete", "Deals", self._delete),
            (10, "restore", "Deals", self._restore),
            (4, "merge", "Deals", self._merge),
            (10, "rename_account", "Accounts", self._rename_account),
            (8, "convert_lead", "Leads", self._convert_lead),
            (1, "person_leaves_or_returns", "Users", self._person),
        )
        self._weights = [row[0] for row in self._table]

    def one(self, tx: Transaction) -> dict[str, Any]:
        """Do one: {"act", "module", "id"}; the id is None where nothing could be done."""
        _, name, module, act = self.rng.choices(self._table, self._weights)[0]
        row = act(tx)
        return {"act": name, "module": module, "id": str(row["id"]) if row else None}

    # -- choosing ---------------------------------------------------------------------------

    def _some(self, tx: Transaction, module: str, where: str = "1") -> Row | None:
        """A record from around a random place in the id range."""
        low, high = tx.sql.execute(f"select min(id), max(id) from {table_of(module)}").fetchone()
        if low is None:
            return None
        spot = self.rng.randint(low, high)
        found = tx.sql.execute(
            f"select id from {table_of(module)} where id >= ? and {where} order by id limit 1",
            (spot,),
        ).fetchone()
        return tx.row(module, found[0]) if found else None

    def _open_deal(self, tx: Transaction) -> Row | None:
        stages = ",".join(f"'\"{stage}\"'" for stage in OPEN_STAGES)
        return self._some(tx, "Deals", f"Stage in ({stages})")

    def _change(self, tx: Transaction, row: Row, columns: dict[str, Any]) -> Row:
        module = self.store.modules["Deals"]
        known = {k: v for k, v in columns.items() if module.get(k) is not None}
        return update_row(tx, module, row, known, self._owner(row), "crm_ui") if known else row

    def _owner(self, row: Row) -> int:
        owner = row.get("Owner")
        return owner if isinstance(owner, int) else int(self.store.org["current_user"])

    def _today(self) -> dt.date:
        return dt.date.fromisoformat(self.store.clock.now_text()[:10])

    # -- deals ------------------------------------------------------------------------------

    def _next_step(self, tx: Transaction) -> Row | None:
        row = self._open_deal(tx)
        return row and self._change(tx, row, {"Next_Step": self.rng.choice(NEXT_STEPS)})

    def _amount(self, tx: Transaction) -> Row | None:
        row = self._open_deal(tx)
        amount = from_fragment(row["Amount"]) if row else None
        if row is None or isinstance(amount, bool) or not isinstance(amount, int | float):
            return None
        new = max(100, round(amount * self.rng.choice((0.9, 0.95, 1.05, 1.1, 1.25)), -2))
        return self._change(tx, row, {"Amount": str(int(new))})

    def _advance(self, tx: Transaction) -> Row | None:
        row = self._open_deal(tx)
        if row is None:
            return None
        at = OPEN_STAGES.index(from_fragment(row["Stage"]))
        today = f'"{self._today()}"'
        if self.rng.random() < 0.12:
            reason = to_fragment(self.rng.choice(LOSS_REASONS))
            columns = {"Stage": '"Closed Lost"', "Closing_Date": today,
                       "Reason_For_Loss__s": reason}  # fmt: skip
        elif at + 1 < len(OPEN_STAGES):
            columns = {"Stage": to_fragment(OPEN_STAGES[at + 1])}
            if OPEN_STAGES[at + 1] == "Proposal/Price Quote":
                columns |= {"Proposal_Date": today, "Proposal_Submission_date": today}
        else:
            columns = {"Stage": '"Closed Won"', "Closing_Date": today}
        if row.get("Pipeline") == '"Renewals"':
            columns["Pipeline"] = '"Standard"'
        return self._change(tx, row, columns)

    def _slip(self, tx: Transaction) -> Row | None:
        row = self._open_deal(tx)
        later = self._today() + dt.timedelta(days=self.rng.randint(7, 90))
        return row and self._change(tx, row, {"Closing_Date": f'"{later}"'})

    def _milestone(self, tx: Transaction) -> Row | None:
        fields = self.store.modules["Deals"]
        row = self._some(tx, "Deals", "Stage='\"Closed Won\"'")
        names = MILESTONES["och" if "PO_Generation_Date" in fields.fields else "standard"]
        missing = [n for n in names if row and fields.get(n) and row.get(n) is None]
        if row is None or not missing:
            return None
        return self._change(tx, row, {missing[0]: f'"{self._today()}"'})

    def _new_deal(self, tx: Transaction, at: str | None = None) -> Row | None:
        account = self._some(tx, "Accounts")
        if account is None:
            return None
        owner = self._owner(account)
        closing = self._today() + dt.timedelta(days=self.rng.randint(30, 150))
        columns = {
            "Deal_Name": to_fragment(f"{from_fragment(account['Account_Name'])} – New workload"),
            "Account_Name": account["id"],
            "Owner": owner,
            "Pipeline": '"Standard"',
            "Stage": '"Qualification"',
            "Amount": str(self.rng.randint(50, 2_000) * 100),
            "Closing_Date": f'"{closing}"',
            "Currency": to_fragment(self.store.org["home_currency"]),
        }
        known = {k: v for k, v in columns.items() if k in self.store.modules["Deals"].fields}
        return insert_row(tx, self.store.modules["Deals"], known, owner, at=at)

    def _late_deal(self, tx: Transaction) -> Row | None:
        """A slow commit: the record is seen now, its times are of a little while ago."""
        lag = self.rng.randint(30, MOST_LATE_S)
        return self._new_deal(tx, text_of(self.store.clock.time() - lag))

    def _delete(self, tx: Transaction) -> Row | None:
        row = self._open_deal(tx)
        if row:
            kind = "recycle" if self.rng.random() < 0.8 else "permanent"
            tx.remove("Deals", row["id"], kind, self._owner(row))
        return row

    def _restore(self, tx: Transaction) -> Row | None:
        found = tx.sql.execute(
            "select id from gone where module='Deals' and kind='recycle' "
            "order by deleted_time desc, id desc limit 1"
        ).fetchone()
        if found is None or not tx.bring_back("Deals", found[0], ("recycle",)):
            return None
        return {"id": found[0]}

    def _merge(self, tx: Transaction) -> Row | None:
        """Two deals of one account turn out to be the same."""
        row = self._open_deal(tx)
        if row is None or row.get("Account_Name") is None:
            return None
        twin = tx.sql.execute(
            "select id from m_Deals where Account_Name=? and id<>? order by id limit 1",
            (row["Account_Name"], row["id"]),
        ).fetchone()
        if twin is None:
            return None
        module = self.store.modules["Deals"]
        merge_records(tx, module, row["id"], [twin[0]], self._owner(row))
        return row

    # -- others -----------------------------------------------------------------------------

    def _rename_account(self, tx: Transaction) -> Row | None:
        row = self._some(tx, "Accounts")
        if row is None:
            return None
        name = str(from_fragment(row["Account_Name"]))
        new = name.removesuffix(" Group") if name.endswith(" Group") else name + " Group"
        columns = {"Account_Name": to_fragment(new)}
        module = self.store.modules["Accounts"]
        return update_row(tx, module, row, columns, self._owner(row), "crm_ui")

    def _convert_lead(self, tx: Transaction) -> Row | None:
        row = self._some(tx, "Leads", "Converted__s is not 'true'")
        if row is None:
            return None
        closing = self._today() + dt.timedelta(days=60)
        deal = {
            "Deal_Name": f"{from_fragment(row['Company'])} – First project",
            "Stage": "Qualification",
            "Pipeline": "Standard",
            "Closing_Date": str(closing),
        }
        tx.sql.execute("savepoint conversion")
        try:
            convert_in(tx, row["id"], {"add_to_existing_record": True, "Deals": deal})
        except ApiError:  # an administrator has changed the fields under us
            tx.sql.execute("rollback to conversion")
            row = None
        tx.sql.execute("release conversion")
        return row

    def _person(self, tx: Transaction) -> Row | None:
        """Somebody leaves; or, when half are gone, somebody comes back."""
        people = tx.sql.execute(
            "select id, status from users where status<>'deleted' order by id"
        ).fetchall()[STAYING_USERS:]
        there = [i for i, status in people if status == "active"]
        away = [i for i, status in people if status != "active"]
        leaves = len(there) > len(away)
        if not (there if leaves else away):
            return None
        who = self.rng.choice(there if leaves else away)
        set_status(tx, str(who), "inactive" if leaves else "active")
        return {"id": who}
