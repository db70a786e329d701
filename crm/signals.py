"""The one signal that news of the mirror travels upward by.

`deals_changed` is sent after commit, once per stored batch, with `pks: list[int]` of the deals
whose row changed, and `is_awaited: bool`: one of a few that somebody has just changed, rather than
a page of many. It is a nudge: the truth is `Deal.change_seq`, over which readers keep their own
watermark.
"""

from django.dispatch import Signal

deals_changed = Signal()
