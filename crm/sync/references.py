"""The CRM's references → our primary keys. A record that we do not hold yet becomes a stub."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from crm.mapping.convert import Ref
from crm.models import CrmUser
from crm.sync.modules import BY_NAME
from crm.sync.page import Incoming

USERS = "Users"
# Emptied when it would grow past this, so that memory stays flat.
CACHE_SIZE = 20_000


class References:
    """Resolves page by page and remembers. `refs`: (position, column, target) of a `Mapper`;
    a reference without a target keeps the CRM's id."""

    def __init__(self, refs: Sequence[tuple[int, str, str]]) -> None:
        self._refs = refs
        self._known: dict[str, dict[int, int]] = {}

    def forget(self) -> None:
        """After a rolled-back page: what was learnt may name rows that do not exist."""
        self._known.clear()

    def user_pk(self, ref: Ref | None) -> int | None:
        return self._known[USERS].get(ref.id) if ref is not None else None

    def resolve(self, incoming: Sequence[Incoming], now: datetime) -> None:
        """Put primary keys in the place of references, in `Mapped.values`."""
        for target, refs in self._wanted(incoming).items():
            self._learn(target, refs, now)
        for at, _, target in self._refs:
            known = self._known.get(target, {})
            for item in incoming:
                ref = item.mapped.values[at]
                if ref.__class__ is Ref:
                    item.mapped.values[at] = known[ref.id] if target else ref.id

    def _wanted(self, incoming: Sequence[Incoming]) -> dict[str, dict[int, Ref]]:
        wanted: dict[str, dict[int, Ref]] = {USERS: {}}
        for item in incoming:
            if item.mapped.modified_by is not None:
                wanted[USERS][item.mapped.modified_by.id] = item.mapped.modified_by
        for at, _, target in self._refs:
            if target:
                found = wanted.setdefault(target, {})
                for item in incoming:
                    ref = item.mapped.values[at]
                    if ref.__class__ is Ref:
                        found.setdefault(ref.id, ref)
        return wanted

    def _learn(self, target: str, refs: dict[int, Ref], now: datetime) -> None:
        known = self._known.setdefault(target, {})
        if len(known) > CACHE_SIZE:
            known.clear()
        unknown = [zoho_id for zoho_id in refs if zoho_id not in known]
        if not unknown:
            return
        model: Any = CrmUser if target == USERS else BY_NAME[target].model
        _look_up(model, unknown, known)
        # In one order everywhere: two writers that wait for each other's stubs would never end.
        missing = [refs[zoho_id] for zoho_id in sorted(unknown) if zoho_id not in known]
        if missing:
            # Another writer may add the same stub: whoever is first wins, both read it back.
            model.objects.bulk_create(
                [_stub(target, model, ref, now) for ref in missing], ignore_conflicts=True
            )
            _look_up(model, [ref.id for ref in missing], known)


def _look_up(model: Any, zoho_ids: Sequence[int], known: dict[int, int]) -> None:
    rows = model.objects.filter(zoho_id__in=zoho_ids).values_list("zoho_id", "pk")
    known.update(rows.iterator())


def _stub(target: str, model: Any, ref: Ref, now: datetime) -> Any:
    if target == USERS:
        return CrmUser(zoho_id=ref.id, name=ref.name, email=ref.email, updated_at=now)
    row = model(zoho_id=ref.id, is_stub=True, first_seen_at=now, updated_at=now)
    setattr(row, "last_name" if target == "Contacts" else "name", ref.name)
    return row
