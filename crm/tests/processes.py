"""A second process on the same database, forked from the test: quick to start, really killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from django.db import connections

from crm import failpoints

WAIT_S = 30.0


class Child:
    """A running child; `wait` returns its exit status, negative for a signal."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None

    def poll(self) -> int | None:
        """Its exit status, or None while it runs."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def wait(self) -> int:
        deadline = time.monotonic() + WAIT_S
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.signal(signal.SIGKILL)
                raise TimeoutError("the child does not end")
            time.sleep(0.005)
        return self.status or 0

    def wait_until_stopped(self) -> None:
        """Until it has sent itself SIGSTOP."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if pid and os.WIFSTOPPED(status):
                return
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
                break
            time.sleep(0.005)
        raise TimeoutError(f"the child did not stop (status {self.status})")

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)


@contextmanager
def child(work: Callable[[], object], failing: str = "") -> Iterator[Child]:
    """Run `work` in a child process, with these failpoints. Exit status 0, or 1 if it raised."""
    connections.close_all()  # a connection shared by two processes belongs to neither
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            failpoints.arm(failing)
            work()
            status = 0
        finally:
            connections.close_all()
            os._exit(status)
    running = Child(pid)
    try:
        yield running
    finally:
        if running.status is None:
            with suppress(ProcessLookupError):
                running.signal(signal.SIGKILL)
            running.wait()


def run_in_child(work: Callable[[], object], failing: str = "") -> int:
    with child(work, failing) as running:
        return running.wait()
