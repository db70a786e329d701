"""What happened, line by line, in one order: what people here wished, what the sender read and
sent. In memory, or in a file as well, which survives the process that writes it.
"""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Book:
    """`add` a line; `lines` are all of them, those of earlier processes included."""

    def __init__(self, sandbox_db: Path, path: Path | None = None) -> None:
        self._lines: list[Line] = []
        self._path = path
        self._sandbox_db = sandbox_db

    def add(self, what: str, **facts: Any) -> None:
        """One line, with the place in the CRM's history that it stands at."""
        line = {"what": what, "at": facts.pop("at", None) or self.place(), **facts}
        if self._path is None:
            self._lines.append(line)
            return
        text = json.dumps(line, default=str) + "\n"
        # One call for each line: a killed process leaves it whole or not at all.
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, text.encode())
        os.close(file)

    def lines(self) -> list[Line]:
        if self._path is None:
            return self._lines
        if not self._path.exists():
            return []
        return [json.loads(text) for text in self._path.read_text().splitlines()]

    def place(self) -> int:
        """The newest line of the CRM's own history."""
        with sqlite3.connect(f"file:{self._sandbox_db}?mode=ro", uri=True) as sql:
            (newest,) = sql.execute("select max(id) from history").fetchone()
        sql.close()
        return newest or 0
