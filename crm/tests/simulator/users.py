"""People who work here: they edit, make and delete records, decide conflicts, undo, try again and
turn the switch. Each act is written down before and after, so that one that was killed in between
can be told to have happened or not (`settle_last`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

from django.utils import timezone

from crm import failpoints
from crm.errors import CrmError
from crm.models import ChangeEvent, CrmField, CrmUser, OutboxEntry, outbox
from crm.sync.modules import BY_NAME, DEALS
from crm.tests import oracle
from crm.tests.simulator.book import Book
from crm.tests.simulator.colleagues import MODULES_OFTEN, STAGES
from crm.tests.simulator.people import CURRENCIES
from crm.tests.simulator.terms import (
    AMOUNT,
    CURRENCY,
    MANDATORY,
    WRITABLE,
    column,
    is_lookup,
    name_of,
    plain,
)
from crm.writeback import decisions, switch
from crm.writeback.outbox import create, delete, edit

FIRST_DAY = date(2027, 1, 1)
PLACES = ("outbox.between_writes", "outbox.before_commit")
REFUSALS = (CrmError, BY_NAME["Deals"].model.DoesNotExist)


def row_of(module: str, pk: int) -> dict[str, Any] | None:
    """What our row says, in the oracle's words; None if there is none."""
    rows = oracle.MODELS[module].objects.select_related(*oracle.REFS[module])
    row = rows.filter(pk=pk).first()
    if row is None:
        return None
    found = oracle.actual_row(module, row)
    return {name: plain(found[name]) for name in WRITABLE[module]}


def in_oracle_words(module: str, name: str, value: Any) -> Any:
    """A canonical value of the outbox: references are our keys there."""
    if value is None or not is_lookup(module, name):
        return value
    model: Any = {"owner": CrmUser, "account": oracle.MODELS["Accounts"]}.get(
        name, oracle.MODELS["Contacts"]
    )
    return model.objects.values_list("zoho_id", flat=True).get(pk=value)


class Users:
    """`act` once. `hot` are the CRM's ids that both sides work at, by module."""

    def __init__(
        self, book: Book, seed: int, hot: dict[str, list[int]], authors: list[Any], ops: Any
    ) -> None:
        self.rng = random.Random(f"users {seed}")
        self.book, self.hot, self.authors, self.ops = book, hot, authors, ops
        self.acts_done = 0
        self._numbers = 0
        self._acts: list[tuple[int, Callable[[], None]]] = [
            (50, self._edit),
            (7, self._create),
            (6, self._delete),
            (12, self._decide),
            (6, self._undo),
            (6, self._try_again_or_dismiss),
            (3, self._edit_an_old_page),
            (2, self._turn_the_switch),
        ]

    def act(self, number: int = 1) -> None:
        for _ in range(number):
            acts, weights = [a for _, a in self._acts], [w for w, _ in self._acts]
            self.rng.choices(acts, weights)[0]()

    def begin_with(self, number: int) -> None:
        """Values from here on carry numbers from this one."""
        self._numbers = number

    # -- one act ----------------------------------------------------------------------------------

    def _do(self, kind: str, work: Callable[[Any], Any], **facts: Any) -> None:
        """Write down, do, write down what came of it; at times it dies half-way."""
        self.acts_done += 1
        number = self.acts_done
        author = self.rng.choice(self.authors)
        module, pk = facts["module"], facts.get("pk")
        before = row_of(module, pk) if pk else None
        self.book.add("act", n=number, kind=kind, row=before, told=_told(module, pk), **facts)
        if self.rng.random() < 0.05:
            failpoints.arm(f"{self.rng.choice(PLACES)}=die")
        try:
            work(author)
        except REFUSALS as refusal:
            self.book.add("void", n=number, why=type(refusal).__name__)
            return
        except failpoints.Died:
            pass
        finally:
            failpoints.arm("")
        self.settle_last()

    def settle_last(self) -> None:
        """Say of the last act whether it happened, from what is there now."""
        begun = None
        for line in self.book.lines():
            if line["what"] == "act":
                begun = line
            elif line["what"] in ("done", "void"):
                begun = None
        if begun is None:
            return
        self.acts_done = max(self.acts_done, begun["n"])
        happened = _what_happened(begun)
        if happened is None:
            self.book.add("void", n=begun["n"], why="died")
        else:
            self.book.add("done", n=begun["n"], **happened)

    # -- edits ------------------------------------------------------------------------------------

    def _edit(self) -> None:
        module = self.rng.choice(MODULES_OFTEN)
        record = self._pick(module)
        if record is None:
            return
        names = self.rng.sample(sorted(WRITABLE[module]), self.rng.choice([1, 1, 1, 2, 3]))
        if module == "Deals" and self.rng.random() < 0.25:
            names = ["crm_stage", AMOUNT, CURRENCY][: self.rng.randint(1, 3)]
        self._edit_fields(module, record, names)

    def _edit_fields(self, module: str, record: Any, names: list[str], **options: Any) -> None:
        row = row_of(module, record.pk) or {}
        currency = row.get(CURRENCY)
        wanted = {}
        for name in sorted(names, key=lambda each: each != CURRENCY):
            value, shown = self._value(module, name, row, currency)
            wanted[name] = (value, shown)
            if name == CURRENCY:
                currency = value
        changes = {column(module, name): value for name, (value, _) in wanted.items()}
        self._do(
            "edit",
            lambda author: edit(record, changes, author=author, now=timezone.now(), **options),
            module=module,
            pk=record.pk,
            wanted={name: plain(shown) for name, (_, shown) in wanted.items()},
        )

    def _edit_an_old_page(self) -> None:
        """Somebody has changed the record since: the edit is not kept."""
        record = self._pick("Deals")
        if record is not None:
            self._edit_fields(
                "Deals", record, ["next_step"], expected_version=record.change_seq - 1
            )

    def _value(self, module: str, name: str, row: dict[str, Any], currency: Any) -> tuple[Any, Any]:
        """A value for the field: as `edit` takes it, and as the row then shows it."""
        self._numbers += 1
        n = self._numbers
        if name not in MANDATORY and self.rng.random() < 0.08:
            return None, None
        if is_lookup(module, name):
            return self._reference(name)
        if name == AMOUNT:
            minor = (9_000 + n) * 10 ** oracle.DECIMALS.get(currency, 2)
            return minor, minor
        if name in oracle.DATES:
            day = FIRST_DAY + timedelta(days=n)
            return day, day
        value = self._plain_value(module, name, row, n)
        return value, value

    def _plain_value(self, module: str, name: str, row: dict[str, Any], n: int) -> Any:
        if name in ("aws_funded", "strategic_account"):
            return not row[name]
        if name == "crm_stage":
            return self.rng.choice([*STAGES, "Needs Analysis", "Value Proposition"])
        fixed = {
            "crm_probability": self.rng.randint(0, 100),
            "employees": 100_000 + n,
            CURRENCY: self.rng.choice(CURRENCIES),
            "email": f"ours{n}@example.com",
            "website": f"https://ours{n}.example.com",
            "phone": f"+44 {n:08d}",
        }
        if name in fixed:
            return fixed[name]
        field = CrmField.objects.filter(module=module, api_name=WRITABLE[module][name]).first()
        if field is not None and field.data_type == "picklist":
            shown = [item["display_value"] for item in field.picklist]
            return self.rng.choice([each for each in shown if each != "-None-"])
        return f"{self.rng.choice(['Alpha', 'Über', '東京', 'O’Brien & Sons'])} ours {n}"

    def _reference(self, name: str) -> tuple[int | None, int | None]:
        if name == "owner":
            found = CrmUser.objects.filter(status="active").order_by("zoho_id")
        else:
            model = oracle.MODELS["Accounts" if name == "account" else "Contacts"]
            found = model.objects.live().filter(zoho_id__isnull=False).order_by("zoho_id")
        keys = list(found.values_list("pk", "zoho_id"))
        return self.rng.choice(keys) if keys else (None, None)

    def _pick(self, module: str) -> Any:
        rows = oracle.MODELS[module].objects.live().order_by("pk")
        hot = list(rows.filter(zoho_id__in=self.hot[module]))
        hot += list(rows.filter(zoho_id__isnull=True))
        if hot and self.rng.random() < 0.8:
            return self.rng.choice(hot)
        found = list(rows)
        return self.rng.choice(found) if found else None

    # -- records ----------------------------------------------------------------------------------

    def _create(self) -> None:
        self._numbers += 1
        name = f"Made here {self._numbers}"
        account, _ = self._reference("account")
        values = {
            "name": name,
            "pipeline": "Standard",
            "crm_stage": self.rng.choice(STAGES),
            "closing_date": FIRST_DAY + timedelta(days=self._numbers),
            "currency": self.rng.choice(CURRENCIES),
            "account_id": account,
        }
        if self.rng.random() < 0.15:
            del values["crm_stage"]  # the CRM refuses it, until somebody adds the stage
        self._do(
            "create",
            lambda author: create(DEALS, values, author=author, now=timezone.now()),
            module="Deals",
            name=name,
        )

    def _delete(self) -> None:
        module = self.rng.choice(("Deals", "Deals", "Deals", "Contacts", "Leads"))
        record = self._pick(module)
        if record is not None:
            self._do(
                "delete",
                lambda author: delete(record, author=author, now=timezone.now()),
                module=module,
                pk=record.pk,
            )

    # -- decisions --------------------------------------------------------------------------------

    def _decide(self) -> None:
        self.decide(self._one(status=outbox.CONFLICT))

    def decide(self, entry: OutboxEntry | None) -> None:
        """A conflict: ours or theirs."""
        if entry is not None:
            keep = self.rng.choice([decisions.OURS, decisions.THEIRS])
            self._decided(
                keep,
                entry,
                lambda author: decisions.resolve(entry.pk, keep, by=author, now=timezone.now()),
            )

    def _undo(self) -> None:
        entry = self._one(kind=outbox.EDIT, sent_at__isnull=False)
        if entry is not None:
            self._decided(
                "undo",
                entry,
                lambda author: decisions.undo(entry.pk, by=author, now=timezone.now()),
            )

    def _try_again_or_dismiss(self) -> None:
        entry = self._one(status__in=(outbox.REFUSED, outbox.DEAD))
        if entry is None:
            return
        if self.rng.random() < 0.6:
            self.try_again(entry)
        else:
            self._decided(
                "dismiss",
                entry,
                lambda author: decisions.dismiss(entry.pk, by=author, now=timezone.now()),
            )

    def try_again(self, entry: OutboxEntry) -> None:
        self._decided(
            "again",
            entry,
            lambda author: decisions.try_again(entry.pk, by=author, now=timezone.now()),
        )

    def _decided(self, kind: str, entry: OutboxEntry, work: Callable[[Any], Any]) -> None:
        self._do(
            kind,
            work,
            module=entry.module,
            pk=entry.record_id,
            entry=entry.pk,
            entry_kind=entry.kind,
            status=entry.status,
            name=name_of(entry.module, entry.field) if entry.field else "",
            theirs=_theirs(entry),
        )

    def _one(self, **wanted: Any) -> OutboxEntry | None:
        found = list(OutboxEntry.objects.filter(**wanted).order_by("id"))
        return self.rng.choice(found) if found else None

    # -- the switch -------------------------------------------------------------------------------

    def _turn_the_switch(self) -> None:
        if self.rng.random() < 0.5:
            switch.kill(by=self.ops, now=timezone.now())
            self.book.add("switch", mode="killed")
        else:
            mode = self.rng.choice([switch.OFF, switch.PREVIEW])
            switch.set_mode(mode, by=self.ops, now=timezone.now())
            self.book.add("switch", mode=mode)

    def switch_on(self) -> None:
        switch.set_mode(switch.ON, by=self.ops, now=timezone.now())
        self.book.add("switch", mode=switch.ON)


def _theirs(entry: OutboxEntry) -> dict[str, Any]:
    """What the conflict shows as the CRM's, by the oracle's names."""
    told = json.loads(entry.theirs or "null")
    module = entry.module
    if entry.kind == outbox.EDIT:
        # An amount and its currency are in conflict together.
        told = {**entry.details.get("theirs_with", {}), entry.field: told}
    found = {name_of(module, each): value for each, value in (told or {}).items()}
    return {
        name: in_oracle_words(module, name, value)
        for name, value in found.items()
        if name in WRITABLE[module]
    }


def _told(module: str, pk: int | None) -> int:
    """How much people here have changed of the record so far."""
    return ChangeEvent.objects.filter(module=module, record_id=pk or 0, source="local").count()


def _what_happened(begun: dict[str, Any]) -> dict[str, Any] | None:
    """What the act came to, or None: it left nothing."""
    module, kind, pk = begun["module"], begun["kind"], begun.get("pk")
    if kind == "create":
        made = oracle.MODELS["Deals"].objects.filter(name=begun["name"], external_id__gt="")
        found = made.values_list("pk", "external_id").first()
        return found and {"pk": found[0], "key": found[1], "row": row_of(module, found[0])}
    if "entry" in begun:
        entry = OutboxEntry.objects.get(pk=begun["entry"])
        is_an_edit = kind == "undo" or (kind == "again" and begun["status"] == outbox.REFUSED)
        if not is_an_edit and entry.status == begun["status"]:
            return None
        if is_an_edit and _told(module, pk) == begun["told"]:
            # An edit to what the row shows already is none.
            return None
    elif _told(module, pk) == begun["told"]:
        return None
    return {"row": row_of(module, pk or 0)}
