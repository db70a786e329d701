"""Our own side: the order in which parallel reads end, deaths of a worker, clocks, empty tables."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, ClassVar

from django.apps import apps
from django.db import transaction

from crm import failpoints, tasks
from crm.models import SyncLease
from crm.sync import lease, reading

# Where a worker may die, and how often a short run passes there at most.
PLACES = (
    ("store.after_rows", 8),
    ("store.before_commit", 8),
    ("store.after_commit", 8),
    ("store.after_commit", 3),
    ("tombstones.before_commit", 1),
    ("tombstones.after_commit", 1),
    ("full.before_sweep", 4),
    ("full.before_watermark", 4),
    ("full.after_watermark", 4),
    ("execute.before_parts", 1),
    ("execute.before_close", 1),
    ("execute.after_close", 1),
)
WRITES = "_ask_and_call"  # what the sender does in a thread that changes something
NOBODY = 2**22 + 1  # beyond the largest number of a process


class Read(Future):
    """A call that is made when somebody wants it."""

    number = 0

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__()
        self._work = work

    def make(self) -> None:
        try:
            self.set_result(self._work())
        except Exception as error:
            self.set_exception(error)


class DrawnPool:
    """Stands where the reader has its threads: a read is made at once or when it is waited for,
    as drawn, so that many orders occur and each can be had again."""

    rng = random.Random(0)

    def __init__(self, workers: int, thread_name_prefix: str = "") -> None:
        pass

    def submit(self, work: Callable[..., Any], *args: Any) -> Read:
        read = Read(lambda: work(*args))
        if self.rng.random() < 0.5:
            read.make()
        return read

    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None:
        pass


def wait_for_one(reads: Iterable[Read], return_when: str) -> tuple[set[Read], set[Read]]:
    """Like `concurrent.futures.wait` for the first: the one that is drawn."""
    chosen = DrawnPool.rng.choice(list(reads))
    if not chosen.done():
        chosen.make()
    return {chosen}, {*reads} - {chosen}


@contextmanager
def drawn_reads(monkeypatch: Any, seed: object) -> Iterator[None]:
    """The reader's parallel calls end in an order drawn from this seed."""
    DrawnPool.rng = random.Random(f"reads {seed}")
    with monkeypatch.context() as patched:
        patched.setattr(reading, "ThreadPoolExecutor", DrawnPool)
        patched.setattr(reading, "wait", wait_for_one)
        yield


class SendingPool(DrawnPool):
    """The same where the sender has its threads: calls that write wait until they are waited for,
    or go at once."""

    made = 0
    writings: ClassVar[list[Read]] = []

    def __init__(self, max_workers: int, initializer: object = None) -> None:
        SendingPool.writings = []

    def submit(self, work: Callable[..., Any], *args: Any) -> Read:
        SendingPool.made += 1
        number = SendingPool.made
        read = super().submit(work, *args)
        read.number = number
        if work.__name__ == WRITES:
            SendingPool.writings.append(read)
        return read

    @classmethod
    def is_writing(cls) -> bool:
        """Whether a call waits to leave that writes: nothing can call that back any more."""
        return any(not writing.done() for writing in cls.writings)


def wait_for_next(reads: Iterable[Read], return_when: str) -> tuple[set[Read], set[Read]]:
    """`wait_for_one` for a set, which has no order of its own."""
    return wait_for_one(sorted(reads, key=lambda read: read.number), return_when)


def draw_place(rng: random.Random) -> str:
    """One of them, and at which pass."""
    name, most = rng.choice(PLACES)
    return f"{name}:{rng.randint(1, most)}"


def dies(work: Callable[[], object], place: str) -> bool:
    """Do it, with a death at that place (`name:nth`); whether it was reached.

    What is left is what a kill leaves: a lease held by a process that is gone.
    """
    failpoints.arm(f"{place}=die" if place else "")
    try:
        work()
        return False
    except failpoints.Died:
        SyncLease.objects.update(
            holder=f"{lease._machine()}:{NOBODY}:dead", expires_ms=lease.now_ms() + 60_000
        )
        return True
    finally:
        failpoints.arm("")


def dies_quietly(work: Callable[[], object], place: str) -> bool:
    """The same for work that holds no lease; no place: it does not die."""
    failpoints.arm(f"{place}=die" if place else "")
    try:
        work()
        return False
    except failpoints.Died:
        return True
    finally:
        failpoints.arm("")


def let_lease_run_out() -> None:
    SyncLease.objects.update(expires_ms=0)


def sweep_until_idle(is_active: Callable[[], bool]) -> None:
    """What the sweeper does every 15 seconds, until nothing is left to be gone on with."""
    for _ in range(6):
        if not is_active():
            return
        tasks.sweep()
    assert not is_active(), "a run is left that nobody ends"


def empty_the_mirror() -> None:
    """As on a new installation; quicker than emptying every table of the project."""
    with transaction.atomic():
        for model in apps.get_app_config("crm").get_models():
            rows = model._base_manager.all()
            rows._raw_delete(rows.db)
