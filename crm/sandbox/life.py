"""A life of its own: people work in the CRM while nobody from outside asks.

A thread that makes so many edits a minute, of the kinds and in the proportions of a sales team:
next steps, amounts, stages forward, closing dates slipping, milestones, new deals, now and then
a deletion, a restoration or a renamed account. Which record and what comes from a seed.
"""

# Names in SQL come from the schema, never from a request; values are bound.
# ruff: noqa: S608

import datetime as dt
import random
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from crm.sandbox.fragments import from_fragment, table_of, to_fragment
from crm.sandbox.picklists import LOSS_REASONS, STAGES
from crm.sandbox.schema import Module
from crm.sandbox.seed_words import NEXT_STEPS
from crm.sandbox.store import Store, Transaction
from crm.sandbox.writes import insert_row, update_row

OPEN_STAGES = tuple(s[0] for s in STAGES if s[3] == "Open")
MILESTONES = {
    "standard": ("PO_Date", "Kickoff_Date", "Signoff_Date", "Invoice_Date", "Payment_Date",
                 "Revenue_Date"),
    "och": ("PO_Generation_Date", "Kick_off_Date", "Signoff_Date", "Invoice_Date", "Received_On",
            "OB_Recognition_Date"),
}  # fmt: skip


class Life:
    """The thread and its pace. `edits_per_minute` may be changed at any time; 0 rests."""

    def __init__(self, store: Store, edits_per_minute: float, seed: int) -> None:
        self.store = store
        self.edits_per_minute = edits_per_minute
        self.rng = random.Random(f"life {seed}")
        self._acts: list[tuple[int, Callable[[Transaction, Module], None]]] = [
            (30, self._next_step),
            (18, self._amount),
            (20, self._advance),
            (12, self._slip),
            (12, self._milestone),
            (4, self._new_deal),
            (2, self._delete),
            (1, self._restore),
            (1, self._rename_account),
        ]

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True, name="life").start()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            rate = self.edits_per_minute
            pause.wait(min(0.5, 60 / rate) if rate > 0 else 0.5)
            if rate > 0 and (60 / rate <= 0.5 or self.rng.random() < 0.5 * rate / 60):
                self._live()

    def _live(self) -> None:
        try:
            self.act()
        except Exception:
            traceback.print_exc(file=sys.stderr)

    def act(self) -> None:
        """One thing that somebody does now."""
        acts, weights = [a for _, a in self._acts], [w for w, _ in self._acts]
        act = self.rng.choices(acts, weights)[0]
        with self.store.write() as tx:
            act(tx, self.store.modules["Deals"])

    # -- choosing ---------------------------------------------------------------------------

    def _some(self, tx: Transaction, module: str, where: str = "1") -> dict[str, Any] | None:
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

    def _open_deal(self, tx: Transaction) -> dict[str, Any] | None:
        stages = ",".join(f"'\"{stage}\"'" for stage in OPEN_STAGES)
        return self._some(tx, "Deals", f"Stage in ({stages})")

    def _change(self, tx: Transaction, row: dict[str, Any], columns: dict[str, Any]) -> None:
        module = self.store.modules["Deals"]
        known = {k: v for k, v in columns.items() if module.get(k) is not None}
        owner = row.get("Owner")
        user = owner if isinstance(owner, int) else int(self.store.org["current_user"])
        if known:
            update_row(tx, module, row, known, user, "crm_ui")

    def _today(self) -> dt.date:
        return dt.date.fromisoformat(self.store.clock.now_text()[:10])

    # -- what people do ---------------------------------------------------------------------

    def _next_step(self, tx: Transaction, _module: Module) -> None:
        if row := self._open_deal(tx):
            self._change(tx, row, {"Next_Step": self.rng.choice(NEXT_STEPS)})

    def _amount(self, tx: Transaction, _module: Module) -> None:
        row = self._open_deal(tx)
        amount = from_fragment(row["Amount"]) if row else None
        if row and isinstance(amount, int | float):
            new = max(100, round(amount * self.rng.choice((0.9, 0.95, 1.05, 1.1, 1.25)), -2))
            self._change(tx, row, {"Amount": str(int(new))})

    def _advance(self, tx: Transaction, _module: Module) -> None:
        row = self._open_deal(tx)
        if row is None:
            return
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
        self._change(tx, row, columns)

    def _slip(self, tx: Transaction, _module: Module) -> None:
        if row := self._open_deal(tx):
            later = self._today() + dt.timedelta(days=self.rng.randint(7, 90))
            self._change(tx, row, {"Closing_Date": f'"{later}"'})

    def _milestone(self, tx: Transaction, module: Module) -> None:
        row = self._some(tx, "Deals", "Stage='\"Closed Won\"'")
        names = MILESTONES["och" if "PO_Generation_Date" in module.fields else "standard"]
        missing = [n for n in names if row and module.get(n) and row.get(n) is None]
        if row and missing:
            self._change(tx, row, {missing[0]: f'"{self._today()}"'})

    def _new_deal(self, tx: Transaction, module: Module) -> None:
        account = self._some(tx, "Accounts")
        if account is None:
            return
        owner = account.get("Owner") or int(self.store.org["current_user"])
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
        insert_row(tx, module, columns, owner)

    def _delete(self, tx: Transaction, _module: Module) -> None:
        if row := self._open_deal(tx):
            kind = "recycle" if self.rng.random() < 0.8 else "permanent"
            tx.remove("Deals", row["id"], kind, row.get("Owner"))

    def _restore(self, tx: Transaction, _module: Module) -> None:
        found = tx.sql.execute(
            "select id from gone where module='Deals' and kind='recycle' "
            "order by deleted_time desc limit 1"
        ).fetchone()
        if found:
            tx.bring_back("Deals", found[0], ("recycle",))

    def _rename_account(self, tx: Transaction, _module: Module) -> None:
        row = self._some(tx, "Accounts")
        if row is None:
            return
        name = str(from_fragment(row["Account_Name"]))
        new = name.removesuffix(" Group") if name.endswith(" Group") else name + " Group"
        module = self.store.modules["Accounts"]
        update_row(tx, module, row, {"Account_Name": to_fragment(new)}, row["Owner"], "crm_ui")
