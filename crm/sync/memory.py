"""Keeps a syncing process small and quick: few malloc arenas, a collector that looks less often."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_M_ARENA_MAX = -8
# Pages make millions of objects and hardly a cycle: looking every 700 allocations costs a tenth.
_THRESHOLDS = (50_000, 20, 20)


@contextmanager
def tuned() -> Iterator[None]:
    """For the length of a run; the collector's thresholds are put back, the arenas stay."""
    _use_few_arenas()
    before = gc.get_threshold()
    gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _use_few_arenas() -> None:
    """Bodies read by ten threads then share two arenas instead of filling ten. glibc alone."""
    if sys.platform != "linux":
        return
    try:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
    except (AttributeError, OSError):
        return  # another C library: nothing to set
