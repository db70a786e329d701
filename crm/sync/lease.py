"""One run at a time: a lease in the database with a fencing number.

Times come from the database's clock alone. Every page transaction renews the lease and proves its
fence in the same statement; a process that was paused past its lease therefore writes nothing.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import structlog
from django.conf import settings
from django.db import DatabaseError, connection, connections, transaction

from crm.errors import LeaseLost
from crm.models import SyncLease

log = structlog.get_logger(__name__)
NAME = "sync"


def now_ms() -> int:
    """The database's clock in milliseconds."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {_now_sql()}")
        return int(cursor.fetchone()[0])


def _now_sql() -> str:
    if connection.vendor == "postgresql":
        return "(extract(epoch from clock_timestamp()) * 1000)::bigint"
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


def _update(assignments: str, condition: str, params: list) -> int:
    sql = f"UPDATE {SyncLease._meta.db_table} SET {assignments} WHERE {condition}"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.rowcount


class Lease:
    """A held lease. `fence` proves it; `renew()` raises LeaseLost once another holder came."""

    def __init__(self, holder: str, fence: int) -> None:
        self.holder = holder
        self.fence = fence

    def renew(self) -> None:
        """Prolong, and lock the lease row until the surrounding transaction ends."""
        changed = _update(
            f"expires_ms = {_now_sql()} + %s",
            "name = %s AND fence = %s",
            [settings.SYNC_LEASE_SECONDS * 1000, NAME, self.fence],
        )
        if changed != 1:
            raise LeaseLost

    def release(self) -> None:
        """Give it back at once; harmless if somebody else holds it by now."""
        _update("expires_ms = 0, holder = ''", "name = %s AND fence = %s", [NAME, self.fence])

    @contextmanager
    def kept_alive(self) -> Iterator[None]:
        """Renew in the background, so that one slow call does not cost the lease."""
        stop = threading.Event()
        thread = threading.Thread(target=self._beat, args=(stop,), name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=settings.SYNC_HEARTBEAT_SECONDS + 1)

    def _beat(self, stop: threading.Event) -> None:
        try:
            while not stop.wait(settings.SYNC_HEARTBEAT_SECONDS):
                try:
                    self.renew()
                except LeaseLost:
                    return
                except DatabaseError as error:
                    # The next beat tries again; the lease outlives several of them.
                    log.warning("lease_not_renewed", reason=type(error).__name__)
        finally:
            connections.close_all()


def acquire() -> Lease | None:
    """Take the lease if it is free or has run out; None if somebody holds it."""
    SyncLease.objects.get_or_create(name=NAME)
    _free_if_orphaned()
    holder = f"{_machine()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    with transaction.atomic():  # the fence read is the fence taken
        taken = _update(
            f"holder = %s, fence = fence + 1, expires_ms = {_now_sql()} + %s",
            f"name = %s AND expires_ms <= {_now_sql()}",
            [holder, settings.SYNC_LEASE_SECONDS * 1000, NAME],
        )
        if taken != 1:
            return None
        fence = SyncLease.objects.values_list("fence", flat=True).get(name=NAME)
    return Lease(holder, fence)


def lock_row() -> None:
    """Hold everybody else who wants the row until the surrounding transaction ends."""
    SyncLease.objects.get_or_create(name=NAME)
    SyncLease.objects.select_for_update().get(name=NAME)


def is_held() -> bool:
    """Whether somebody holds the lease at this moment, by the database's clock."""
    lease = SyncLease.objects.filter(name=NAME).first()
    return lease is not None and lease.expires_ms > now_ms()


def is_free_or_orphaned() -> bool:
    """Nobody holds it, or its holder was a process of this machine that is gone."""
    _free_if_orphaned()
    return not is_held()


def _free_if_orphaned() -> None:
    """A killed process of this machine need not be waited for: its number tells that it is gone."""
    lease = SyncLease.objects.filter(name=NAME).first()
    if lease is None or not lease.holder:
        return
    host, _, rest = lease.holder.partition(":")
    pid = rest.partition(":")[0]
    if host != _machine() or not pid.isdigit() or _is_alive(int(pid)):
        return
    SyncLease.objects.filter(name=NAME, fence=lease.fence, holder=lease.holder).update(
        expires_ms=0, holder=""
    )


@cache
def _machine() -> str:
    """This machine and its process numbers: containers share a kernel, pods a long name."""
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            is_link = Path(path).is_symlink()
            parts.append(str(Path(path).readlink()) if is_link else Path(path).read_text())
        except OSError:
            parts.append("")  # no Linux: the host's name has to do
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=12).hexdigest()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
