"""Whatever JSON the CRM sends in whatever field: the page is stored, alike on both databases."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crm.mapping.profiles import builtin_mapping
from crm.models import Account, ChangeEvent, Deal, Lead, ReceivedRecord
from crm.sync.modules import BY_NAME
from crm.tests.factories import connect, make_store, raws
from crm.tests.replay import live_values, replayed

texts = st.text(st.characters(codec=None), max_size=300)
numbers = st.one_of(
    st.integers(-(10**22), 10**22),
    st.integers(-200, 200),
    st.floats(allow_nan=True, allow_infinity=True),
)
ids = st.sampled_from(["7001", "7002", "9001", 5, "0", "x", None, "9223372036854775808"])
references = st.fixed_dictionaries({"id": ids}, optional={"name": texts, "email": texts})
awkward = st.sampled_from(
    ["", " ", "-None-", "2026-02-30", "2026-03-01", "9999-12-31", "2026-03-01T10:00:00+05:30",
     "0001-01-01T00:00:00+14:00", "1,234.50", "80%", "true", "x" * 70_000, "👍" * 300, "\x00"]
)  # fmt: skip
values = st.one_of(
    st.none(), st.booleans(), numbers, texts, references, awkward,
    st.lists(st.none() | texts, max_size=3),
)  # fmt: skip
serial = itertools.count(1)
ANY = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def names_of(module: str) -> list[str]:
    specs = builtin_mapping(module, "standard")
    return [s.api for s in specs] + ["Created_Time", "Modified_Time", "Modified_By"]


def records(module: str) -> Any:
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names_of(module), values))


def put(module: str, *found: dict, later: int = 0) -> Any:
    page = raws(*[json.dumps(record) for record in found])
    return make_store(module).store(page, read_at=timezone.now() + timedelta(minutes=later))


@pytest.mark.django_db
@pytest.mark.parametrize("module", ["Deals", "Accounts", "Contacts", "Leads"])
def test_rows_57_58_61_63_64_65_any_value_in_any_field_is_stored_and_told(module: str) -> None:
    connect(USD="0.75")
    model = BY_NAME[module].model

    @ANY
    @given(records(module), records(module))
    def store_twice(first: dict, second: dict) -> None:
        zoho_id = next(serial) + 10**6
        counts = put(module, {**first, "id": str(zoho_id)})
        assert (counts.created, counts.failed) == (1, 0)
        again = put(module, {**first, "id": str(zoho_id)}, later=1)
        assert again.unchanged == 1
        counts = put(module, {**second, "id": str(zoho_id)}, later=2)
        assert counts.seen == counts.updated + counts.unchanged == 1
        row = model.objects.get(zoho_id=zoho_id)
        body = ReceivedRecord.objects.get(module=module, record_id=row.pk).body
        assert json.loads(body)["id"] == str(zoho_id)

    store_twice()
    assert replayed(module) == live_values(module)
    assert ChangeEvent.objects.filter(module=module, kind="created").count() >= 60


@pytest.mark.django_db
def test_row_66_pages_of_odd_records_lose_none_and_keep_their_sums() -> None:
    connect()

    @ANY
    @given(st.lists(records("Deals"), min_size=1, max_size=6))
    def store_page(page: list[dict]) -> None:
        numbered = [{**record, "id": str(next(serial) + 10**9)} for record in page]
        counts = put("Deals", *numbered, {"Deal_Name": "no id"}, "nothing")
        assert (counts.created, counts.failed) == (len(page), 2)
        assert counts.seen == len(page) + 2

    store_page()
    for deal in Deal.objects.live():
        assert deal.amount_minor is None or abs(deal.amount_minor) <= 10**15
        assert deal.probability is None or 0 <= deal.probability <= 100
        assert len(deal.name) <= 255 and "\x00" not in deal.name
    assert not Account.objects.live().exists() and not Lead.objects.exists()
