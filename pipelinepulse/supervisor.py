"""Keeps a set of processes running: starts them in order, restarts what dies, stops in reverse.

Decides how processes are watched and ended, not which ones: that is `run`'s. One thread: a
child's death signal (Linux) is tied to the thread that started it, and a fork among threads can
deadlock. Every wait goes through `wait_until`, which reads the children's output, restarts the
dead and ends with `Stopped` as soon as a signal asks for it.
"""

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import IO, TextIO

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
# A child that lived this long is healthy: its next death starts with the first pause again.
HEALTHY_AFTER = 60.0
TICK = 0.2
# A child that lives but does not answer is asked this often, and killed after so many silences.
ASK_EVERY = 30.0
SILENCES = 3
BIGGEST_LOG = 5_000_000

_PR_SET_PDEATHSIG = 1


class Stopped(Exception):
    """A signal asked the supervisor to stop; `signum` says which."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def die_with_parent() -> Callable[[], None] | None:
    """For Linux: what makes the kernel end a child when its supervisor is killed outright."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we could ask
            os._exit(1)

    return in_child


@dataclass
class Child:
    """A process to keep running, in a process group of its own.

    What a quiet one says goes into the log alone. `answers`, if given, tells whether it does its
    work; it must return within a few seconds, for everything waits while it is asked.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    stop_seconds: float = 5.0
    is_quiet: bool = False
    answers: Callable[[], bool] | None = None
    process: subprocess.Popen[bytes] | None = None
    output: IO[bytes] | None = None
    started_at: float = 0.0
    pause: float = FIRST_PAUSE
    start_again_at: float = 0.0
    ask_again_at: float = 0.0
    silences: int = 0
    deaths: int = 0
    unfinished: bytes = b""

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """Owns the children of one run. Use as a context manager: leaving it stops them all."""

    def __init__(self, *, out: TextIO, cwd: Path, log_path: Path | None = None) -> None:
        self._out = out
        self._cwd = cwd
        self._children: list[Child] = []
        self._selector = selectors.DefaultSelector()
        self._signum: int | None = None
        self._hurry = False
        self._log = _open_log(log_path) if log_path else None
        self._width = 8
        self._prepare_child = die_with_parent()

    # --- life ----------------------------------------------------------------------------
    def __enter__(self) -> "Supervisor":
        self._wakeup_read, self._wakeup_write = os.pipe()
        os.set_blocking(self._wakeup_write, False)
        os.set_blocking(self._wakeup_read, False)
        self._selector.register(self._wakeup_read, selectors.EVENT_READ, None)
        self._old_wakeup = signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)
        self._old_handlers = {
            signum: signal.signal(signum, self._on_signal)
            for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        return self

    def __exit__(self, *failure: object) -> None:
        if self._signum is not None:
            self.say(f"{signal.Signals(self._signum).name} received; stopping everything")
        self._stop_all()
        if self._signum is not None:
            self.say("stopped")
        signal.set_wakeup_fd(self._old_wakeup)
        for signum, handler in self._old_handlers.items():
            signal.signal(signum, handler)
        os.close(self._wakeup_read)
        os.close(self._wakeup_write)
        self._selector.close()
        if self._log:
            self._log.close()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._signum is None:
            self._signum = signum
        else:
            self._hurry = True

    def say(self, text: str) -> None:
        """A line of our own, among those of the children."""
        self._write("run", text)

    # --- starting and watching -----------------------------------------------------------
    def start(self, child: Child) -> None:
        """Start a child and keep it running from now on."""
        self.raise_if_stopped()
        self._children.append(child)
        self._spawn(child)

    def run_once(self, command: Sequence[str], env: Mapping[str, str]) -> int:
        """Run a command to its end on our own terminal while the children are kept.

        Returns its exit status (negative: the signal that ended it). A stop signal reaches it as
        SIGINT; it gets ten seconds to put its things in order.
        """
        self.raise_if_stopped()
        self._out.flush()
        process = subprocess.Popen(
            command,
            env=dict(env),
            cwd=self._cwd,
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=self._prepare_child,
        )
        try:
            self.wait_until(lambda: process.poll() is not None)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                _wait_or_kill(process, 10.0)
        return process.returncode

    def wait_until(self, is_done: Callable[[], bool], *, seconds: float | None = None) -> bool:
        """Watch over the children until something is so. False if the time ran out before.

        Raises Stopped when a signal came.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            self.raise_if_stopped()
            self._tick(TICK)
            for child in self._children:
                self._revive(child)
            if is_done():
                return True
            if end is not None and time.monotonic() > end:
                return False

    def run_for_ever(self) -> None:
        """Watch over the children until a signal comes; raises Stopped then."""
        self.wait_until(lambda: False)

    def raise_if_stopped(self) -> None:
        if self._signum is not None:
            raise Stopped(self._signum)

    def _spawn(self, child: Child) -> None:
        child.process = subprocess.Popen(
            child.command,
            env=dict(child.env),
            cwd=self._cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Its own group: the terminal's Ctrl-C must reach us alone, we stop in order.
            process_group=0,
            preexec_fn=self._prepare_child,
        )
        child.started_at = time.monotonic()
        child.ask_again_at = child.started_at + ASK_EVERY
        child.silences = 0
        child.output = child.process.stdout
        if child.output is not None:
            os.set_blocking(child.output.fileno(), False)
            self._selector.register(child.output, selectors.EVENT_READ, child)

    def _tick(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wakeup_read, 4096)
            else:
                self._read(key.data)

    def _revive(self, child: Child) -> None:
        now = time.monotonic()
        if child.process is None:
            if now >= child.start_again_at:
                self._spawn(child)
            return
        if child.is_alive:
            self._ask(child, child.process, now)
            return
        child.deaths += 1
        how = _how(child.process.returncode)
        self._bury(child, child.process)
        if now - child.started_at > HEALTHY_AFTER:
            child.pause = FIRST_PAUSE
        self.say(f"{child.name} has died ({how}); starting it again in {child.pause:g} s")
        child.start_again_at = now + child.pause
        child.pause = min(LONGEST_PAUSE, child.pause * 2)

    def _ask(self, child: Child, process: subprocess.Popen[bytes], now: float) -> None:
        """Kill a child that has been silent too often; the next look finds it dead."""
        if child.answers is None or now < child.ask_again_at:
            return
        child.silences = 0 if child.answers() else child.silences + 1
        child.ask_again_at = time.monotonic() + ASK_EVERY
        if child.silences >= SILENCES:
            self.say(f"{child.name} lives but has not answered {SILENCES} times; it is killed")
            process.kill()

    def _bury(self, child: Child, process: subprocess.Popen[bytes]) -> None:
        """End what a dead child left behind in its group, and read what it still said."""
        _kill_group(process)
        self._read(child)
        self._close_output(child)
        child.process = None

    # --- output --------------------------------------------------------------------------
    def _read(self, child: Child) -> None:
        while child.output is not None:
            try:
                chunk = os.read(child.output.fileno(), 65536)
            except BlockingIOError:
                return
            if not chunk:  # its end: nobody holds the pipe any more
                self._close_output(child)
                return
            *lines, child.unfinished = (child.unfinished + chunk).split(b"\n")
            for line in lines:
                self._pass_on(child, line)

    def _close_output(self, child: Child) -> None:
        if child.output is None:
            return
        self._selector.unregister(child.output)
        child.output.close()
        child.output = None
        if child.unfinished:
            self._pass_on(child, child.unfinished)
            child.unfinished = b""

    def _pass_on(self, child: Child, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        self._write(child.name, text, is_quiet=child.is_quiet)

    def _write(self, name: str, text: str, *, is_quiet: bool = False) -> None:
        line = f"{name:<{self._width}}| {text}"
        if self._log:
            self._log.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {line}\n")
            self._log.flush()
        if is_quiet:
            return
        # The terminal may be gone (its window closed); what we supervise must still end well.
        with contextlib.suppress(OSError, ValueError):
            self._out.write(line + "\n")
            self._out.flush()

    # --- stopping ------------------------------------------------------------------------
    def _stop_all(self) -> None:
        for child in reversed(self._children):
            self._stop(child)

    def _stop(self, child: Child) -> None:
        if child.process is None:
            return
        if child.is_alive:
            self._write("run", f"stopping {child.name}", is_quiet=True)
            child.process.terminate()
            end = time.monotonic() + child.stop_seconds
            while child.is_alive and time.monotonic() < end and not self._hurry:
                self._tick(0.05)
        if child.is_alive:
            self.say(f"{child.name} did not stop in time; it is killed")
        self._bury(child, child.process)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End every process of the child's group: a killed master leaves its workers behind."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_or_kill(process: subprocess.Popen[bytes], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    _kill_group(process)


def _how(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-status).name}"
    return f"killed by signal {-status}"


def _open_log(path: Path) -> TextIO:
    """The log of this run; the one before it is kept once when it has grown big."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > BIGGEST_LOG:
        path.replace(path.with_suffix(".1.log"))
    handle = path.open("a", encoding="utf-8", errors="replace")
    path.chmod(0o600)
    return handle
