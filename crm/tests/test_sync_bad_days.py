"""Bad days of the CRM: what is only a hiccup, what stops a run, and what concerns one record.

What stops a run leaves every watermark where it was and says one sentence; the next run on a good
day ends with the mirror equal to the CRM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from crm.freshness import freshness_seconds
from crm.models import (
    CrmConnection,
    CrmField,
    Deal,
    FailedRecord,
    Lead,
    MirrorState,
    ReceivedRecord,
    RecordProblem,
    SharedValue,
)
from crm.sync import reading
from crm.tests.synced import Crm
from crm.tests.test_delta_sync import without_coql

REFUSED = {
    "code": "NO_PERMISSION",
    "details": {"permissions": ["Crm_Implied_View_Leads"]},
    "message": "permission denied",
    "status": "error",
}


def rule(do: str, path: str = "/crm/v8/", **options: Any) -> dict[str, Any]:
    return {"do": do, "path": path, **options}


def error_body(code: str, **details: Any) -> dict[str, Any]:
    return {"code": code, "message": code.lower(), "details": details, "status": "error"}


# -- hiccups --------------------------------------------------------------------------------------

COQL, LIST = "/crm/v8/coql", "/crm/v8/Deals"
BOUNDED = "from Deals where (id"  # the query of a range that is not empty
HICCUPS = {
    "the token runs out between pages": rule("expire_token", LIST, nth=3),
    "too many calls, without Retry-After": rule("status", LIST, nth=3, times=2, status=429,
                                                body=error_body("TOO_MANY_REQUESTS")),
    "HTML with status 200": rule("html_200", LIST, nth=3),
    "a body cut off": rule("truncate", LIST, nth=3, at=5000),
    "a body cut off with a fitting length": rule("truncate", LIST, nth=3, at=5000,
                                                 consistent=True),
    "a reset before the answer": rule("reset", LIST, nth=3),
    "a reset within the body": rule("reset", LIST, nth=3, when="body", at=4000),
    "the wrong type": rule("content_type", LIST, nth=3, value="text/html"),
    "a fault of the server, as HTML": rule("status", LIST, nth=3, times=2, status=503,
                                           body="<html>busy</html>"),
    "a page token that is refused": rule("status", LIST, nth=4, status=400, body=error_body(
        "EXPIRED_VALUE", api_name="page_token", json_path="$.query.page_token")),
    "page tokens that reach no further": rule("status", LIST, nth=4, status=400,
                                              body=error_body("PAGINATION_LIMIT_EXCEEDED")),
}  # fmt: skip


@pytest.mark.parametrize("name", HICCUPS)
def test_after_a_hiccup_between_pages_the_mirror_is_whole(big_crm: Crm, name: str) -> None:
    big_crm.control("faults", rules=[HICCUPS[name]])
    run = big_crm.sync("full", "Deals", method="pages")
    assert (run.status, run.created, run.seen) == ("succeeded", 450, 450), run.message
    big_crm.assert_mirrored("Deals")


@pytest.mark.parametrize(
    "what",
    [
        rule("expire_token", COQL, nth=3),
        rule("truncate", COQL, nth=3, at=3000, consistent=True),
        rule("html_200", COQL, nth=3, times=2),
        rule("status", COQL, nth=3, times=2, status=429, body=error_body("TOO_MANY_REQUESTS")),
    ],
    ids=lambda what: what["do"],
)
def test_after_a_hiccup_between_ranges_the_mirror_is_whole(
    big_crm: Crm, what: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "RANGE_ROWS", 60)
    big_crm.control("faults", rules=[what])
    run = big_crm.sync("full", "Deals")
    assert (run.status, run.created, run.seen) == ("succeeded", 450, 450), run.message
    big_crm.assert_mirrored("Deals")


# -- what stops a run -----------------------------------------------------------------------------


def _settings(**changes: Any) -> Callable[[Crm], None]:
    def change(crm: Crm) -> None:
        crm.settings.ZOHO = replace(crm.settings.ZOHO, **changes)

    return change


def _faults(*rules: dict) -> Callable[[Crm], None]:
    return lambda crm: crm.control("faults", rules=list(rules))


def _mirror_of_another(crm: Crm) -> None:
    CrmConnection.objects.update(org_id="1", org_name="Somebody else")


def _wrong_secret(crm: Crm) -> None:
    _settings(client_secret="wrong")(crm)
    crm.control("expire_tokens")


def _revoke(crm: Crm) -> None:
    crm.control("revoke_refresh_token")
    crm.control("expire_tokens")


STOPS: dict[str, tuple[Callable[[Crm], None], str, str]] = {
    "HTML for ever": (_faults(rule("html_200", times=0)), "bad_payload", "not JSON"),
    "bodies cut off for ever": (
        _faults(rule("truncate", COQL, times=0, consistent=True)), "bad_payload", "JSON"),
    "faults of the server for ever": (
        _faults(rule("status", COQL, times=0, status=500, body="")), "http_500", "fault"),
    "a redirect": (
        _faults(rule("redirect", location="https://evil.example/")), "redirect_refused",
        "redirect"),
    "credits used up": (
        _faults(rule("status", times=0, status=429, body={
            **error_body("TOO_MANY_REQUESTS"), "message": "API credits exceeded"})),
        "TOO_MANY_REQUESTS", "credits"),
    "a revoked refresh token": (_revoke, "invalid_code", "onnect"),
    "a wrong secret": (_wrong_secret, "invalid_client_secret", "ZOHO_CLIENT_SECRET"),
    "a wrong data centre": (
        _settings(client_id="1000.ELSEWHERE"), "invalid_client", "data centre"),
    "an address where nothing answers": (
        _settings(base_url="http://127.0.0.1:9"), "unreachable", "ZOHO_BASE_URL"),
    "another organisation": (_mirror_of_another, "other_organisation", "Somebody else"),
}  # fmt: skip


FULL_ONLY = {"another organisation"}
CASES = [(name, kind) for name in STOPS for kind in ("full", "delta")
         if kind == "full" or name not in FULL_ONLY]  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_what_stops_a_run_loses_nothing_and_says_what_to_do(crm: Crm, name: str, kind: str) -> None:
    break_it, code, words = STOPS[name]
    crm.sync("full")
    marks = watermarks()
    good, connection = crm.settings.ZOHO, CrmConnection.objects.values().get()
    one = crm.ids()[0]
    crm.control("edit", module="Deals", id=one, values={"Next_Step": "on a bad day"})
    crm.control("delete", module="Deals", ids=crm.ids()[1:2])
    break_it(crm)

    run = crm.sync(kind)

    assert (run.status, run.error_code) == ("failed", code)
    assert words in run.message
    assert "sandbox-secret" not in run.message and "1000.sandbox.refresh" not in run.message
    assert run.ended_at is not None
    unread = run.parts.exclude(state="done").values_list("module", flat=True)
    assert unread and all(watermarks()[module] == marks[module] for module in unread)
    assert CrmConnection.objects.get().error_message == run.message
    assert Deal.objects.live().count() == 50

    crm.control("clear_faults")
    crm.control("restore_refresh_token")
    crm.settings.ZOHO = good
    CrmConnection.objects.update(org_id=connection["org_id"], org_name=connection["org_name"])
    _forget_refusals()
    assert crm.sync("delta").status == "succeeded"
    crm.assert_mirrored()
    assert CrmConnection.objects.get().error_code == ""


def watermarks() -> dict[str, Any]:
    return dict(MirrorState.objects.values_list("module", "watermark"))


def _forget_refusals() -> None:
    """As the passing of time, or a check of the connection, does."""
    SharedValue.objects.all().delete()


# -- what concerns records ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad", ["a text", 5, None, ["a list"], {}, {"id": None}, {"id": "x"}, {"Deal_Name": "no id"}]
)
def test_row_66_one_unreadable_record_makes_the_run_partial_and_is_kept(crm: Crm, bad: Any) -> None:
    what = {"path": COQL, "body_contains": BOUNDED, "do": "rewrite", "index": 3, "with": bad}
    crm.control("faults", rules=[what])
    run = crm.sync("full")
    assert run.status == "partial"
    assert (run.failed, run.seen) == (1, run.created + 1)
    assert run.message.startswith("1 record needs a look: it could not be stored.")
    failed = FailedRecord.objects.get()
    assert (failed.module, failed.run_id) == ("Deals", run.pk)
    assert Deal.objects.live().count() == 49
    assert MirrorState.objects.get(module="Deals").watermark == run.s0
    crm.sync("full")
    crm.assert_mirrored()


def test_a_record_that_stays_unreadable_is_never_taken_for_deleted(crm: Crm) -> None:
    crm.sync("full")
    what = {"do": "rewrite", "index": 3, "with": "a text", "times": 0}
    rules = [
        {**what, "path": COQL, "body_contains": BOUNDED},
        {**what, "path": "/crm/v8/Deals?", "index": 0},
        {**what, "path": "/crm/v8/Deals", "index": 0, "nth": 2},  # the first is the count
    ]
    crm.control("faults", rules=rules)
    run = crm.sync("full", "Deals")
    assert run.deleted == 0
    assert Deal.objects.live().count() == 50


@pytest.mark.parametrize(("rows", "failed", "status"), [(5, 10, "partial"), (4, 13, "failed")])
def test_more_than_ten_unreadable_records_fail_a_full_run(
    crm: Crm, rows: int, failed: int, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("Accounts", "Contacts", "Leads"):
        crm.sync("full", module)
    monkeypatch.setattr(reading, "RANGE_ROWS", rows)
    crm.settings.ZOHO = replace(crm.settings.ZOHO, concurrency=1)
    what = {"path": COQL, "body_contains": "id <=", "do": "rewrite", "with": {}, "times": 0}
    crm.control("faults", rules=[what])
    run = crm.sync("full", "Deals")
    assert (run.status, run.failed) == (status, failed)
    assert run.error_code == ("too_many_failed" if status == "failed" else "")
    marks = MirrorState.objects.filter(module="Deals", watermark__isnull=False)
    assert marks.exists() == (status == "partial")
    crm.control("clear_faults")
    assert crm.sync("full", "Deals").status == "succeeded"
    crm.assert_mirrored("Deals")


def test_a_record_of_a_foreign_id_moves_no_range(
    big_crm: Crm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "RANGE_ROWS", 60)
    foreign = {"id": "9000000000000000000", "Deal_Name": "Strange"}
    big_crm.settings.ZOHO = replace(big_crm.settings.ZOHO, concurrency=1)
    what = {"path": COQL, "body_contains": "id <=", "do": "rewrite", "index": 59, "nth": 2}
    big_crm.control("faults", rules=[{**what, "with": foreign}])
    big_crm.sync("full", "Deals")
    run = big_crm.sync("full", "Deals")
    assert run.deleted == 1  # the stranger, which the CRM does not know
    big_crm.assert_mirrored("Deals")


# -- what concerns fields -------------------------------------------------------------------------


@pytest.mark.breaks_rules  # it cannot know yet that the field is gone
def test_row_41_a_field_that_the_crm_lost_keeps_its_last_values_and_is_said_to_be_stale(
    crm: Crm, rep_client: Client
) -> None:
    crm.sync("full")
    before = dict(Deal.objects.values_list("zoho_id", "territory"))
    assert any(before.values())
    assert rep_client.get("/api/zoho/status").json()["stale_fields"] == []
    crm.control("field", module="Deals", api_name="Territory", action="remove")
    one = crm.ids()[0]
    crm.control("edit", module="Deals", id=one, values={"Next_Step": "goes on"})
    assert crm.sync("delta").status == "succeeded"  # it still asks for the field
    run = crm.sync("full")
    assert run.status == "succeeded"
    assert "Deals: the CRM has no field Territory any more; territory keeps" in run.message
    assert dict(Deal.objects.values_list("zoho_id", "territory")) == before
    assert Deal.objects.get(zoho_id=one).next_step == "goes on"
    assert not CrmField.objects.filter(module="Deals", api_name="Territory").exists()

    crm.sync("delta")
    (stale,) = rep_client.get("/api/zoho/status").json()["stale_fields"]
    assert (stale["module"], stale["field"], stale["crm_field"]) == (
        "Deals", "territory", "Territory")  # fmt: skip
    first = stale["since"]
    for path in ("/", "/opportunities"):
        assert "the CRM has no field Territory any more" in rep_client.get(path).content.decode()
    crm.sync("full")
    assert rep_client.get("/api/zoho/status").json()["stale_fields"][0]["since"] == first

    crm.control("field", module="Deals", api_name="Territory", action="restore")
    run = crm.sync("full")
    assert "Territory" not in run.message
    assert rep_client.get("/api/zoho/status").json()["stale_fields"] == []
    crm.assert_mirrored("Deals")


def test_row_42_a_field_that_the_crm_never_had_is_not_called_stale(
    crm: Crm, rep_client: Client
) -> None:
    crm.control("field", module="Deals", api_name="Territory", action="remove")
    run = crm.sync("full")
    assert (run.status, run.message) == ("succeeded", "")
    assert rep_client.get("/api/zoho/status").json()["stale_fields"] == []


def test_row_41_a_field_whose_type_changed_empties_only_itself_and_is_named(crm: Crm) -> None:
    crm.sync("full")
    crm.control("field", module="Deals", api_name="Amount", action="retype", data_type="text")
    run = crm.sync("full")
    assert (run.status, run.failed) == ("succeeded", 0)
    assert "Deals: Amount is of type text." in run.message
    assert not Deal.objects.filter(amount_minor__isnull=False).exists()
    problems = RecordProblem.objects.filter(field="amount_minor", code="not_a_number")
    assert problems.count() == sum(r["Amount"] is not None for r in _dump(crm))
    crm.control("field", module="Deals", api_name="Amount", action="retype", data_type="currency")


def _dump(crm: Crm) -> list[dict]:
    return crm.control("dump", module="Deals")["records"]


def test_rows_59_62_unknown_stages_and_currencies_are_shown_as_they_are(crm: Crm) -> None:
    ids = crm.ids()
    odd = {"Stage": "Verbal Yes", "Currency": "XBT", "Amount": 12.345, "Probability": None}
    crm.control("edit", module="Deals", id=ids[0], values=odd, raw=True)
    run = crm.sync("full")
    assert run.status == "succeeded"
    deal = Deal.objects.get(zoho_id=ids[0])
    assert (deal.crm_stage, deal.stage, deal.stage_type) == ("Verbal Yes", "other", "open")
    assert (deal.currency, deal.amount_minor, deal.amount_sgd_minor) == ("XBT", 1235, None)
    assert (deal.probability, deal.weighted_sgd_minor) == (None, None)
    crm.assert_mirrored()


def test_rows_58_61_63_66_values_of_every_wrong_type_lose_no_record(crm: Crm) -> None:
    ids = crm.ids()
    odd = {
        "Amount": "1,234.50", "Probability": "80%", "Closing_Date": "2026-02-30",
        "Deal_Name": ["list"], "Territory": {"a": 1}, "AWS_Funded": "perhaps",
        "PO_Date": 20260101, "Next_Step": True, "Stage": 7,
    }  # fmt: skip
    crm.control("edit", module="Deals", id=ids[0], values=odd, raw=True)
    run = crm.sync("full")
    assert (run.status, run.failed) == ("succeeded", 0)
    deal = Deal.objects.get(zoho_id=ids[0])
    assert (deal.name, deal.amount_minor, deal.crm_probability, deal.closing_date) == (
        "", None, None, None)  # fmt: skip
    listed = set(RecordProblem.objects.filter(record_id=deal.pk).values_list("field", flat=True))
    assert listed >= {"name", "amount_minor", "crm_probability", "closing_date", "territory",
                      "aws_funded", "po_date", "next_step"}  # fmt: skip
    assert '"1,234.50"' in ReceivedRecord.objects.get(module="Deals", record_id=deal.pk).body


# -- what we may not see --------------------------------------------------------------------------


def test_row_31_a_module_that_may_not_be_read_keeps_no_other_waiting(crm: Crm) -> None:
    crm.control("faults", rules=[
        rule("status", "/crm/v8/Leads", times=0, status=403, body=REFUSED)])  # fmt: skip
    run = crm.sync("full")
    assert run.status == "partial"
    assert {p.module: p.state for p in run.parts.all()} == {
        "Accounts": "done", "Contacts": "done", "Leads": "refused", "Deals": "done"}  # fmt: skip
    assert "Leads" in run.message and "Crm_Implied_View_Leads" in run.message
    crm.assert_mirrored("Accounts", "Contacts", "Deals")

    run = crm.sync("delta")
    assert (run.kind, run.status) == ("delta", "partial")
    assert freshness_seconds(timezone.now()) is not None

    crm.control("clear_faults")
    assert crm.sync("delta").status == "succeeded"
    crm.assert_mirrored()


@pytest.mark.parametrize("kind", ["full", "delta"])
def test_row_31_nothing_of_a_module_that_we_no_longer_see_is_taken_for_deleted(
    crm: Crm, kind: str
) -> None:
    crm.sync("full")
    crm.control("faults", rules=[
        rule("status", "/crm/v8/Deals", times=0, status=403, body=REFUSED),
        rule("status", COQL, times=0, status=403, body=REFUSED, body_contains="from Deals"),
        rule("status", "/crm/v8/Leads", times=0, status=403, body=REFUSED)])  # fmt: skip
    run = crm.sync(kind)
    assert (run.status, run.deleted) == ("partial", 0)
    assert Deal.objects.live().count() == 50 and Lead.objects.live().exists()
    late = timezone.now() + timedelta(hours=2)
    assert freshness_seconds(late) > 3600  # the module counts: it was read once


def test_where_every_module_is_refused_the_run_has_failed(crm: Crm) -> None:
    crm.control("faults", rules=[
        rule("status", path, times=0, status=403, body=REFUSED)
        for path in (COQL, "/crm/v8/Deals", "/crm/v8/Leads", "/crm/v8/Contacts",
                     "/crm/v8/Accounts")])  # fmt: skip
    run = crm.sync("full")
    assert (run.status, run.error_code) == ("failed", "not_permitted")
    assert freshness_seconds(timezone.now()) is None


def test_without_the_scope_for_queries_the_mirror_is_read_by_pages(crm: Crm) -> None:
    without_coql(crm)
    run = crm.sync("full")
    assert run.status == "succeeded"
    assert {p.method for p in run.parts.all()} == {"pages"}
    assert "ZohoCRM.coql.READ" in run.message
    crm.assert_mirrored()


def test_without_the_scope_for_settings_the_defaults_serve(crm: Crm) -> None:
    scopes = ["ZohoCRM.modules.ALL", "ZohoCRM.coql.READ", "ZohoCRM.org.READ"]
    crm.control("config", scopes=scopes)
    run = crm.sync("full")
    assert run.status == "succeeded"
    for part in ("users", "fields of Deals", "layouts", "currencies"):
        assert part in run.message
    won = [int(r["id"]) for r in _dump(crm) if r["Stage"] == "Closed Won"]
    assert sorted(Deal.objects.filter(stage_type="won").values_list("zoho_id", flat=True)) == won
    assert Deal.objects.filter(currency="SGD", amount_sgd_minor__isnull=False).exists()
