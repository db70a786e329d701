"""What was asked of the sandbox and which rules were broken in asking. Thread-safe.

A broken rule is anything a careful client never does: a request the CRM refuses because of how it
is made (a missing or wrong parameter, header or body, a limit passed, no token at all), and what
the CRM passes over in silence although it cannot be meant (unknown query parameters, unknown or
read-only fields in a write, a channel's expiry beyond a week). Bad luck is none: stale tokens,
429, records that are gone, values that a field does not take, locks and conflicts.

Each is counted under `METHOD path: CODE (what)`; what was passed over has the code IGNORED.
"""

import re
import threading
from collections import Counter

from crm.sandbox.errors import ApiError
from crm.sandbox.server import Request


class Stats:
    """Counters since the last reset; `breaks_ever` since the start, whatever is reset."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.breaks_ever: Counter[str] = Counter()
        self.reset()

    def reset(self) -> None:
        with self._lock:
            self.requests = 0
            self.by_path: Counter[str] = Counter()
            self.by_status: Counter[int] = Counter()
            self.rule_breaks: Counter[str] = Counter()

    def saw(self, request: Request, status: int) -> None:
        with self._lock:
            self.requests += 1
            self.by_path[_place(request)] += 1
            self.by_status[status] += 1

    def broke(self, request: Request, error: ApiError) -> None:
        """A refusal that the request itself earned."""
        about = error.details.get("param_name") or error.details.get("api_name") or error.message
        self._count(f"{_place(request)}: {error.code} ({about})")

    def ignored(self, request: Request, what: str) -> None:
        """Something in the request was passed over in silence."""
        self._count(f"{_place(request)}: IGNORED ({what})")

    def _count(self, rule: str) -> None:
        with self._lock:
            self.rule_breaks[rule] += 1
            self.breaks_ever[rule] += 1


def _place(request: Request) -> str:
    return f"{request.method} {re.sub(r'/[0-9]{6,}', '/{id}', request.path)}"
