"""The sandbox's one clock: real time plus an offset that control can set, in the org's zone.

The org lives at a fixed offset (+08:00, no summer time), so the texts written here sort like
the instants they name; the store's queries rely on that.
"""

import datetime as dt
import re
import time
from email.utils import formatdate

ORG_ZONE = dt.timezone(dt.timedelta(hours=8))
ORG_ZONE_NAME = "Asia/Singapore"

_ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:?\d\d)$")


class Clock:
    """Real time shifted by `offset_s` seconds."""

    def __init__(self) -> None:
        self.offset_s: float = 0.0
        self._date_second = -1
        self._date_text = ""

    def time(self) -> float:
        """Seconds since 1970 as this sandbox sees them."""
        return time.time() + self.offset_s

    def now_text(self) -> str:
        """Now as the CRM writes it: org offset, whole seconds."""
        return text_of(self.time())

    def http_date(self) -> str:
        """The Date header of this second."""
        second = int(self.time())
        if second != self._date_second:
            self._date_text = formatdate(second, usegmt=True)
            self._date_second = second
        return self._date_text


def text_of(epoch_s: float) -> str:
    """Epoch seconds as `2026-11-01T10:00:00+08:00`."""
    return dt.datetime.fromtimestamp(int(epoch_s), ORG_ZONE).isoformat()


def parse_instant(text: str) -> float | None:
    """Epoch seconds of an ISO text with offset and without fractions; None if it is not one."""
    if not _ISO.match(text):
        return None
    try:
        return dt.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None
