"""Our own changes told back by the CRM's notices: no news, no work."""

from __future__ import annotations

from django.db.models import Max

from crm.models import ChangeEvent, Deal, Notice, OutboxEntry, outbox
from crm.tests.notices import LIVE, known_channels, tell
from crm.tests.synced import Crm
from crm.tests.writing import change, send_now


def test_row_85_a_notice_of_our_own_change_is_no_news_and_no_work(crm: Crm) -> None:
    crm.sync("full")
    known_channels()
    crm.settings.WEBHOOK_TOKENS = [LIVE]
    deals = list(Deal.objects.live().order_by("pk")[:20])
    for deal in deals:
        change(deal, next_step=f"Step {deal.pk}")
    assert send_now().sent == 20
    told = ChangeEvent.objects.aggregate(Max("pk"))
    for deal in deals:
        tell(deal.zoho_id)
    assert set(Notice.objects.values_list("status", flat=True)) == {Notice.DONE}
    assert ChangeEvent.objects.aggregate(Max("pk")) == told
    assert OutboxEntry.objects.count() == 20
    assert set(OutboxEntry.objects.values_list("status", flat=True)) == {outbox.DONE}
    run = crm.sync("delta")
    assert (run.created, run.updated) == (0, 0)
    crm.assert_mirrored()
