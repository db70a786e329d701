"""Base, theirs, ours → keep ours, settle, ask a person, or take theirs. Pure.

Decided by value alone, never by time or author: a person may use the API's user. Of a change that
the CRM has taken already only the order of two events is asked, the answer and the reading.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from crm.models import outbox


class Verdict(NamedTuple):
    """`status`: of the entry from now on. `shown`: what the row holds after this entry.

    `has_theirs`: the CRM's value is kept beside ours. `was_overwritten`: the CRM had taken ours
    and holds something else since.
    """

    status: str
    shown: Any
    has_theirs: bool = False
    was_overwritten: bool = False


def same(one: Any, other: Any) -> bool:
    """Equal in canonical form: nothing and an empty text are the same."""
    return (None if one == "" else one) == (None if other == "" else other)


def judge(
    status: str,
    base: Any,
    ours: Any,
    theirs: Any,
    *,
    is_after_answer: bool,
    has_moved: bool = False,
) -> Verdict:
    """What an open entry comes to, now that the CRM's value is `theirs`.

    `is_after_answer`: of an entry that was sent: this was read after the CRM had answered, so it
    cannot be a value from before. `has_moved`: what belongs to the value (`money`) is another
    there by now, so that equal values are not the same.
    """
    if same(theirs, ours) and not has_moved:
        return Verdict(outbox.DONE, ours)
    if status == outbox.SENT:
        if is_after_answer:
            return Verdict(outbox.DONE, theirs, has_theirs=True, was_overwritten=True)
        return Verdict(status, ours)
    if same(theirs, base) and not has_moved:
        return Verdict(outbox.PENDING if status == outbox.CONFLICT else status, ours)
    if status == outbox.SENDING:
        # Its outcome is on the way, and this may come from before or after it: read again then.
        return Verdict(status, ours, has_theirs=True)
    return Verdict(outbox.CONFLICT, ours, has_theirs=True)
