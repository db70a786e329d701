"""A record that kills the worker which stores it: found by halving, set aside, and the run goes on.

After three deaths in a row a page is stored in halves. What is about to be stored is written down
first; a process that finds such a note knows where the one before it died, and halves that. Once a
record is alone with its death it is condemned: it goes to quarantine, with its text. Nothing of
this is looked at while workers live.

Deaths may have another cause: memory, the disk, a fault of ours. Then nothing can be stored, and
one record after the other would be condemned. So each is in doubt until something was stored after
it, and with `MOST_IN_DOUBT` of them the run ends instead.

The note is `SyncRunModule.isolation`: `trial` (in hand), `suspects` (the killer is among them),
`stored` (done of a page that is not done as a whole), `condemned`, `in_doubt` (condemned since
something was stored); records go by `key_of`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from crm.errors import CrmError
from crm.models import SyncRunModule
from crm.sync.reading import id_of
from crm.zoho.client import RawRecord

CODE = "poison"
MESSAGE = (
    "Storing this record ended the worker again and again, so it was set aside. It is tried again "
    "when it changes in the CRM, or once this entry is marked as resolved."
)
# More in a row than may lie at the very places of a page where the search looks first.
MOST_IN_DOUBT = 3


class NoRecordKills(CrmError):
    """Workers die whatever they store: no record is to blame."""

    code = "workers_died"

    def __init__(self, module: str) -> None:
        super().__init__(
            f"Workers died whatever they stored of {module}: it is not the records. Look at the "
            "workers' logs, their memory and the disk, then start it again."
        )


def key_of(record: RawRecord) -> str:
    """What tells a record from others, in JSON: its id, or a digest where none can be read."""
    found = id_of(record)
    if found is not None:
        return str(found)
    return "text:" + hashlib.blake2b(record.text.encode("utf-8", "replace")).hexdigest()


@dataclass
class Piece:
    """Records to store at once, and those to set aside with them. The last one ends its page."""

    records: list[RawRecord]
    keys: list[str]
    condemned: list[RawRecord] = field(default_factory=list)
    is_last: bool = False


class Isolation:
    """The note of one module's part, as it was found; `after` a piece there is another one."""

    def __init__(self, part: SyncRunModule) -> None:
        note: dict[str, Any] = part.isolation
        trial = note.get("trial", [])
        self.condemned = set(note.get("condemned", []))
        self.in_doubt = set(note.get("in_doubt", []))
        self.stored = set(note.get("stored", []))
        # None: nothing is known, all of the next page is suspected.
        self.suspects: set[str] | None = None
        if len(trial) == 1:
            self.condemned.update(trial)
            self.in_doubt.update(trial)
            self.suspects = set()
        elif trial or "suspects" in note:
            self.suspects = set(trial or note["suspects"])

    def note(self, trial: Sequence[str] = ()) -> dict[str, Any]:
        """As it is to be kept; empty once there is nothing left to find."""
        lists = {
            "stored": self.stored,
            "condemned": self.condemned,
            "in_doubt": self.in_doubt,
        }
        note: dict[str, Any] = {name: sorted(keys) for name, keys in lists.items() if keys}
        if self.suspects:
            note["suspects"] = sorted(self.suspects)
        if trial:
            note["trial"] = list(trial)
        return note

    @property
    def is_hopeless(self) -> bool:
        return len(self.in_doubt) >= MOST_IN_DOUBT

    def pieces(self, records: Sequence[RawRecord]) -> Iterator[Piece]:
        """A page, less what is stored already: the suspects in halves, then the others at once."""
        by_key: dict[str, list[RawRecord]] = {}
        for record in records:
            by_key.setdefault(key_of(record), []).append(record)

        def of(keys: Sequence[str]) -> list[RawRecord]:
            return [record for key in keys for record in by_key[key]]

        condemned = [key for key in by_key if key in self.condemned]
        todo = [key for key in by_key if key not in self.stored and key not in self.condemned]
        suspects = set(todo) if self.suspects is None else self.suspects
        half = max(1, -(-len(suspects) // 2))
        suspected = [key for key in todo if key in suspects]
        rest = [key for key in todo if key not in suspects]
        groups = [suspected[at : at + half] for at in range(0, len(suspected), half)]
        # Behind them: a second killer there must not draw the suspicion away before its time.
        if self.in_doubt and not suspected and len(rest) > 1:
            # The half further from the condemned first: the sooner something is stored, the better.
            groups = [rest[len(rest) // 2 :], rest[: len(rest) // 2]]
        else:
            groups += [rest] if rest or not suspected else []
        for keys in groups[:-1]:
            yield Piece(of(keys), keys)
        yield Piece(of(groups[-1]), groups[-1], of(condemned), is_last=True)

    def after(self, piece: Piece, page: Sequence[RawRecord]) -> Isolation:
        """It was stored and nobody died; with its last piece a page is forgotten."""
        done = copy(self)
        # With the last piece of a page nothing of it is left to remember.
        forgotten = {key_of(record) for record in page} if piece.is_last else set()
        done.suspects = (self.suspects or set()) - set(piece.keys) - forgotten
        done.stored = (self.stored | set(piece.keys)) - forgotten
        done.condemned = self.condemned - forgotten
        # The page of a single condemned record is stored without any: that proves nothing.
        done.in_doubt = set() if piece.keys else self.in_doubt
        return done
