"""The sandbox as a fork of the test process: its own process still, but there in a moment.

Starting an interpreter for each of two hundred tests would cost more than the tests.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from datetime import datetime
from pathlib import Path

import time_machine

from crm.sandbox import __main__ as program
from crm.tests.sandbox_process import Sandbox

START_S = 30.0


class ForkedProcess:
    """What `Sandbox` asks of a process, as `subprocess.Popen` has it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("sandbox", timeout)
            time.sleep(0.002)
        return self.returncode or 0

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def fork_sandbox(folder: Path, *, at: datetime | None = None) -> Sandbox:
    """A sandbox on `folder/sandbox.db`, which is there; RuntimeError with its log if it fails.

    `at`: its clock stands still there, and moves only as control says (`clock_offset_s`).
    """
    port_file, log = folder / "sandbox.port", folder / "sandbox.log"
    arguments = ["--db", str(folder / "sandbox.db"), "--port-file", str(port_file)]
    pid = os.fork()
    if pid == 0:
        _serve([*arguments, "--control", "--quiet"], log, at)
    process = ForkedProcess(pid)
    deadline = time.monotonic() + START_S
    while not port_file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the sandbox did not start: {log.read_text()[-2000:]}")
        time.sleep(0.002)
    port = int(port_file.read_text())
    return Sandbox(f"http://127.0.0.1:{port}", port, process, folder / "sandbox.db", log)  # type: ignore[arg-type]


def _serve(arguments: list[str], log: Path, at: datetime | None) -> None:
    """In the child; never comes back. Open connections of the test are left untouched."""
    status = 1
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout = sys.stderr = os.fdopen(out, "w", buffering=1)
        if at is not None:
            time_machine.travel(at, tick=False).start()
        status = program.main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
