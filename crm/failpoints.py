"""Named places where a test may kill this process or fail it; nothing where none is named.

`PULSE_FAILPOINTS="store.after_rows:3=kill,execute.before_close=error"`: at the third, or first,
pass of the place. `kill` is SIGKILL, as from a power cut; `error` an exception; `stop` is SIGSTOP,
as from a frozen machine; `die` leaves this work as a kill does, and spares the process: hundreds of
deaths cost no hundred processes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable


class Failed(Exception):
    """A test asked for it."""


class Died(BaseException):
    """A test asked for a death of this work alone: what handles errors does not handle it."""


def _planned(text: str) -> dict[str, tuple[int, str]]:
    """name → (how many passes are left, what to do)."""
    plan = {}
    for item in filter(None, text.split(",")):
        place, _, what = item.partition("=")
        name, _, nth = place.partition(":")
        plan[name.strip()] = (int(nth or 1), what.strip())
    return plan


_plan = _planned(os.environ.get("PULSE_FAILPOINTS", ""))


def arm(text: str) -> None:
    """The same for a process that is running already."""
    _plan.clear()
    _plan.update(_planned(text))


def pass_by(name: str) -> None:
    """Mark a place. One look into an empty dict, unless a test has set something."""
    if _plan and name in _plan:
        _pass(name)


def pass_by_each(name: str, keys: Iterable[object]) -> None:
    """A place for each of these: `name.key`."""
    if _plan:
        for key in keys:
            pass_by(f"{name}.{key}")


def _pass(name: str) -> None:
    left, what = _plan[name]
    _plan[name] = (left - 1, what)
    if left != 1:
        return
    if what == "error":
        raise Failed(name)
    if what == "die":
        raise Died(name)
    os.kill(os.getpid(), signal.SIGSTOP if what == "stop" else signal.SIGKILL)
