"""The nightly proof that the mirror is the CRM, and the repair of what is not.

Every record of the CRM is read by id ranges with the few fields that tell a difference (times,
amount, stage, formulas: as cheap as ids alone), and held against our row; a sample, drawn by the
run's number, is compared in every field. What differs is asked for by id before anything is done.
Records that changed after the mirror's mark are due with the next delta and count as waiting.

A reconcile has the lease like a full sync, and a due delta goes in between its pages (decision 8).
Deleted ones become tombstones of source *reconcile*, more than is plausible are held.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from crm import failpoints
from crm.mapping.profiles import MONEY, SGD
from crm.models import (
    CrmField,
    MirrorDifference,
    Reconciliation,
    SweepCandidate,
    SyncRun,
    SyncRunModule,
)
from crm.sync import deletions, repairs, runs, watermark
from crm.sync.compare import Fields, Tally
from crm.sync.differences import (
    FIRST,
    difference,
    held_by_us,
    is_younger,
    judge,
    leaving,
    mapped_of,
    money_of,
    rows_of,
)
from crm.sync.modules import Module
from crm.sync.page import Counts
from crm.sync.reading import NO_QUERIES, Batch, RangeReader, read_by_id
from crm.sync.session import Session

KIND = "reconcile"
REPAIR = "repair"  # as a run's method: only what an earlier reconcile left
SAMPLE = 200  # records of a module that are compared in every field: four calls
_TELLING = {"currency", "crm_stage", "is_converted"}
_COMPUTED = {"formula", "rollup_summary"}


def prove_module(session: Session, part: SyncRunModule) -> None:
    """Compare, then repair. Resumable at any page. Raises the client's errors and LeaseLost."""
    module = session.module_of(part)
    result, _ = Reconciliation.objects.get_or_create(run=session.run)
    if part.state != SyncRunModule.SWEEPING:
        if session.run.method == REPAIR:
            repairs.take_over(result, module)
        else:
            _compare_all(session, part, module, result)
            failpoints.pass_by("reconcile.before_sample")
            _compare_sample(session, part, module, result)
        session.mark(part, state=SyncRunModule.SWEEPING)
    failpoints.pass_by("reconcile.before_repair")
    repairs.repair(session, part, module, result)
    _sum_up(part, module, result)
    session.mark(part, state=SyncRunModule.DONE)


def conclude(session: Session) -> None:
    """The sentence of the result, once all modules are through."""
    result = Reconciliation.objects.filter(run=session.run).first()
    if result is None:
        return
    checked = sum(told["checked"] for told in result.modules.values())
    left = sum(told["left"] for told in result.modules.values())
    found: Counter[str] = Counter()
    for told in result.modules.values():
        found.update(told["found"])
    unread = session.run.parts.exclude(state=SyncRunModule.DONE).exists()
    result.differing, result.repaired = found.total(), found.total() - left
    result.is_exact = not left and not unread
    result.sentence = sentence(checked, found, left)
    result.ended_at = timezone.now()
    result.save()
    SyncRun.objects.filter(pk=session.run.pk).update(message=result.sentence)


def sentence(checked: int, found: Counter[str], left: int) -> str:
    """What ops read: “Mirror 100 %, 0 of 450 differ.”, or what differed and what became of it."""
    if not found.total():
        return f"Mirror 100 %, 0 of {checked:,} differ."
    kinds = dict(MirrorDifference.KINDS)
    listed = ", ".join(f"{number} {kinds[kind]}" for kind, number in sorted(found.items()))
    done = "all repaired" if not left else f"{found.total() - left} repaired, {left} left"
    # Rounded down: 100 % is said only where nothing is left.
    share = 100 if not left else min(99.99, int(10_000 * (1 - left / max(checked, 1))) / 100)
    return f"Mirror {share:g} %: {found.total()} of {checked:,} differed ({listed}); {done}."


# -- comparing ------------------------------------------------------------------------------------


def _compare_all(
    session: Session, part: SyncRunModule, module: Module, result: Reconciliation
) -> None:
    if not part.watermark_before:
        mark = watermark.watermark_of(module.name)
        rows = module.model.objects.live().filter(is_stub=False).count()
        session.mark(part, watermark_before=mark, expected=rows)
    fields = Fields.of(module, session.context.mapper_of(module.name, telling(session, module)))
    tally = Tally(**part.cursor.get("tally", {}))
    for batch in _batches(session, part, module, fields):
        _compare_page(session, part, module, result, fields, tally, batch)
        failpoints.pass_by("reconcile.after_page")
        session.breathe()


def telling(session: Session, module: Module) -> set[str]:
    """Our fields that are compared for every record: amounts, stage, and what the CRM computes,
    because it changes without a new Modified_Time."""
    computed = set(
        CrmField.objects.filter(module=module.name, data_type__in=_COMPUTED).values_list(
            "api_name", flat=True
        )
    )
    return {
        spec.ours
        for spec in session.context.specs(module.name)
        if spec.ours in _TELLING or spec.kind in (MONEY, SGD) or spec.api in computed
    }


def _batches(
    session: Session, part: SyncRunModule, module: Module, fields: Fields
) -> Iterator[Batch]:
    """By id ranges; by pages where queries may not be used or converted records are hidden."""
    names = [*fields.mapper.api_names, "Created_Time", "Modified_Time"]
    if not module.converted and module.name not in session.coql_refused and not _paged(part):
        workers = settings.ZOHO.concurrency if settings.ZOHO else 1
        reader = RangeReader(
            session.client, module, names, workers=workers, clock=timezone.now,
            cursor=part.cursor, expected=part.expected,
        )  # fmt: skip
        try:
            yield from reader.batches()
            return
        except NO_QUERIES:
            if part.cursor:
                raise
            session.coql_refused.add(module.name)
    yield from read_by_id(session.client, module, names, clock=timezone.now, cursor=part.cursor)


def _paged(part: SyncRunModule) -> bool:
    return "after" in part.cursor


def _compare_page(
    session: Session,
    part: SyncRunModule,
    module: Module,
    result: Reconciliation,
    fields: Fields,
    tally: Tally,
    batch: Batch,
) -> None:
    """One page, its differences and the cursor in one transaction."""
    span = batch.id_span
    if span is None:
        raise AssertionError("a reconcile reads by spans of ids")
    theirs = mapped_of(fields, batch.records)
    rows = rows_of(module, fields, span)
    ours = held_by_us(module, rows)
    deleted_here = leaving(module)
    found: list[MirrorDifference] = []
    mark = part.watermark_before
    for zoho_id, mapped in theirs.items():
        row = rows.get(zoho_id)
        tally.theirs += 1
        is_waiting = mark is not None and mapped.modified_at is not None and (
            mapped.modified_at > mark)  # fmt: skip
        is_waiting = is_waiting or (row is None and zoho_id in deleted_here)
        if is_waiting or (row is not None and is_younger(row, batch.read_at)):
            tally.waiting += is_waiting
            tally.ours += row is not None
            rows.pop(zoho_id, None)
            continue
        tally.checked += 1
        tally.add(1, mapped.created_at, *money_of(fields, mapped.values))
        if row is None:
            found.append(difference(result, module, zoho_id, MirrorDifference.MISSING, {}))
            continue
        kind, told = judge(fields, mapped, row, ours[zoho_id])
        if kind:
            found.append(difference(result, module, zoho_id, kind, told))
    for row in rows.values():
        tally.ours += 1
        tally.add(0, row[0], *money_of(fields, row[FIRST:]))
    gone = [z for z in rows if z not in theirs]
    cursor = {**batch.cursor, "tally": asdict(tally)}
    agreeing = len(batch.records) - len(found)
    with transaction.atomic():
        session.lease.renew()
        counts = Counts(seen=agreeing, unchanged=agreeing)
        runs.advance(session.run, part, counts, cursor=cursor, api={})
        MirrorDifference.objects.bulk_create(found, ignore_conflicts=True)
        SweepCandidate.objects.bulk_create(
            [SweepCandidate(part=part, zoho_id=zoho_id) for zoho_id in gone], ignore_conflicts=True
        )
    session.save_spent()
    part.cursor, part.seen = cursor, part.seen + agreeing
    session.on_page(session.run, part)


def _compare_sample(
    session: Session, part: SyncRunModule, module: Module, result: Reconciliation
) -> None:
    """A few records in every field: what no single field tells."""
    fields = Fields.of(module, session.context.mapper(module.name))
    names = session.context.api_names(module.name)
    mark = part.watermark_before
    found = []
    sampled = sample_of(module, session.run.pk)
    for verdict in deletions.verify(session.client, module, names, sampled):
        theirs = mapped_of(fields, verdict.alive)
        rows = rows_of(module, fields, list(theirs))
        ours = held_by_us(module, rows)
        for zoho_id, mapped in theirs.items():
            row = rows.get(zoho_id)
            if row is None or is_younger(row, verdict.read_at):
                continue
            if mark is not None and mapped.modified_at is not None and mapped.modified_at > mark:
                continue
            kind, told = judge(fields, mapped, row, ours[zoho_id])
            if kind:
                found.append(difference(result, module, zoho_id, kind, told))
        session.breathe()
    cursor = {**part.cursor, "sampled": len(sampled)}
    with transaction.atomic():
        session.lease.renew()
        MirrorDifference.objects.bulk_create(found, ignore_conflicts=True)
        SyncRunModule.objects.filter(pk=part.pk).update(cursor=cursor)
    part.cursor = cursor


def sample_of(module: Module, seed: int) -> list[int]:
    """Ids of live rows, each as likely as any other, the same for the same seed and rows."""
    chosen: list[int] = []
    dice = random.Random(f"{module.name} {seed}")  # noqa: S311 a sample, no secret
    rows = module.model.objects.live().filter(is_stub=False, zoho_id__isnull=False)
    ids = rows.order_by("zoho_id").values_list("zoho_id", flat=True)
    for number, zoho_id in enumerate(ids.iterator(10_000)):
        if number < SAMPLE:
            chosen.append(zoho_id)
        elif (place := dice.randrange(number + 1)) < SAMPLE:
            chosen[place] = zoho_id
    return sorted(chosen)


def _sum_up(part: SyncRunModule, module: Module, result: Reconciliation) -> None:
    mine = MirrorDifference.objects.filter(reconciliation=result, module=module.name)
    kinds = Counter(mine.values_list("kind", flat=True))
    repaired = mine.filter(state=MirrorDifference.REPAIRED).count()
    tally = Tally(**part.cursor.get("tally", {}))
    told = {
        "checked": tally.checked,
        "ours": tally.ours,
        "theirs": tally.theirs,
        "waiting": tally.waiting,
        "sampled": part.cursor.get("sampled", 0),
        "months": tally.differing_months()[:200],
        "found": dict(kinds),
        "repaired": repaired,
        "left": mine.count() - repaired,
    }
    with transaction.atomic():
        held = Reconciliation.objects.select_for_update().get(pk=result.pk)
        held.modules = {**held.modules, module.name: told}
        held.save(update_fields=["modules"])
