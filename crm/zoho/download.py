"""A file that an answer of the CRM is written to, piece by piece: bounded in size and time.

Decides nothing about the file's content. `wire` writes it, whoever asked for it reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO


def _nothing() -> None:
    pass


class Download:
    """`file` is open for writing and can be begun anew: a repeated answer replaces the first.

    `whole_s` bounds the whole answer, `max_bytes` its size. `between` is called with each piece;
    what it raises ends the download (a process that is asked to stop waits for no file).
    """

    def __init__(
        self,
        file: BinaryIO,
        *,
        max_bytes: int,
        whole_s: float,
        between: Callable[[], None] = _nothing,
    ) -> None:
        self.file = file
        self.max_bytes = max_bytes
        self.whole_s = whole_s
        self.size = 0
        self._between = between

    def begin(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.size = 0

    def write(self, piece: bytes) -> None:
        self._between()
        self.file.write(piece)
        self.size += len(piece)
