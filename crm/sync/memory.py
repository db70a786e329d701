"""Keeps a syncing process small: glibc gives each reading thread its own arena otherwise."""

from __future__ import annotations

import ctypes
import sys

_M_ARENA_MAX = -8


def use_few_arenas() -> None:
    """Bodies read by ten threads then share two arenas instead of filling ten. Linux alone."""
    if sys.platform != "linux":
        return
    try:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
    except (AttributeError, OSError):
        return  # another C library: nothing to set
