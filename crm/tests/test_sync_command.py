"""`manage.py sync_zoho`: what it says and the exit codes that a scheduler acts on."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command

from crm.management.commands.sync_zoho import Progress
from crm.models import (
    ChangeEvent,
    CrmConnection,
    Deal,
    FailedRecord,
    MirrorState,
    ReceivedRecord,
    RecordProblem,
    SyncRun,
    SyncRunModule,
)
from crm.sync import lease, reading, runs
from crm.tests.sandbox_process import ROOT
from crm.tests.synced import Crm
from crm.tests.test_delta_sync import without_coql

DONE, FAILED, USAGE, UNDER_WAY, INTERRUPTED = 0, 1, 2, 3, 130
TABLES = (Deal, ChangeEvent, ReceivedRecord, RecordProblem, FailedRecord, SyncRun, SyncRunModule,
          MirrorState, CrmConnection)  # fmt: skip


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr, within this process."""
    out, err = io.StringIO(), io.StringIO()
    try:
        call_command("sync_zoho", *arguments, stdout=out, stderr=err)
    except CommandError as error:
        return error.returncode, out.getvalue(), err.getvalue() + str(error)
    except SystemExit as error:
        return int(error.code or 0), out.getvalue(), err.getvalue()
    return DONE, out.getvalue(), err.getvalue()


def counts() -> dict[str, int]:
    return {model.__name__: model.objects.count() for model in TABLES}


# -- done -----------------------------------------------------------------------------------------


def test_without_options_it_is_full_the_first_time_and_then_a_delta(crm: Crm) -> None:
    total = sum(len(crm.ids(m)) for m in ("Accounts", "Contacts", "Leads", "Deals"))
    code, out, err = run()
    assert (code, err) == (DONE, "")
    assert f"Full sync done. {total} read: {total} new, 0 changed, 0 unchanged" in out
    crm.assert_mirrored()
    one = crm.ids()[0]
    crm.control("edit", module="Deals", id=one, values={"Next_Step": "by command"})
    code, out, _ = run("--delta")
    assert code == DONE
    assert "Delta sync done. 1 read: 0 new, 1 changed" in out
    assert [r.trigger for r in SyncRun.objects.all()] == ["command"] * 2
    crm.assert_mirrored()


def test_only_the_modules_that_were_named_are_read(crm: Crm) -> None:
    assert run("--full", "--module", "Accounts", "--module", "Contacts")[0] == DONE
    assert SyncRun.objects.get().modules == ["Accounts", "Contacts"]
    assert not Deal.objects.exists()
    crm.assert_mirrored("Accounts", "Contacts")


def test_since_reads_from_that_moment(crm: Crm) -> None:
    crm.sync("full")
    code, out, _ = run("--since", "2001-01-01", "--module", "Deals")
    assert code == DONE
    assert "50 read: 0 new, 0 changed, 50 unchanged" in out


def test_plain_lines_of_progress_where_there_is_no_terminal(crm: Crm) -> None:
    """One for each module at least, however fast it was."""
    _, out, _ = run("--full")
    lines = out.splitlines()
    for number, name in enumerate(("Accounts", "Contacts", "Leads", "Deals")):
        total = len(crm.ids(name))
        assert lines[number].startswith(f"{name}: {total} of {total} (100%)")
    assert len(lines) == 5
    assert not {"\x1b", "\r", "█"}.intersection(out)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def write(self, text: str, ending: str = "\n") -> int:
        return super().write(text + ending)


class Pipe(Terminal):
    def isatty(self) -> bool:
        return False


def progress_of(out: Terminal, *pages: tuple[float, int], expected: int | None) -> str:
    """What is written while a module is read: (seconds, records so far) for each page."""
    part = SyncRunModule(pk=1, module="Deals", position=0, expected=expected)
    clock = {"now": 0.0}
    progress = Progress(out, clock=lambda: clock["now"])
    for clock["now"], part.seen in pages:
        progress.page(SyncRun(), part)
    progress.end()
    return out.getvalue()


def test_progress_tells_pace_and_time_left() -> None:
    pages = [(100.0, 200), (102.0, 600), (105.5, 1_300), (107.0, 1_600), (109.0, 2_000)]
    assert progress_of(Pipe(), *pages, expected=2_000).splitlines() == [
        "Deals: 1,300 of 2,000 (65%), 200 a second, 4 s left",
        "Deals: 2,000 of 2,000 (100%), 200 a second",
    ]
    assert progress_of(Pipe(), *pages, expected=None).splitlines() == [
        "Deals: 1,300 read, 200 a second",
        "Deals: 2,000 read, 200 a second",
    ]


def test_bar_on_a_terminal_tells_the_same_and_leaves_nothing_behind() -> None:
    written = progress_of(Terminal(), (100.0, 500), (101.0, 1_000), expected=2_000)
    first, second, last = written.split("\r\x1b[2K")[1:]
    assert first == f"Deals     {'█' * 8:<30} 500 of 2,000 (25%)"
    assert second == f"Deals     {'█' * 15:<30} 1,000 of 2,000 (50%), 500 a second, 2 s left"
    assert last == ""


def test_a_run_gone_on_with_measures_its_own_pace() -> None:
    written = progress_of(Pipe(), (100.0, 9_000), (106.0, 9_060), expected=10_000)
    assert written == "Deals: 9,060 of 10,000 (90%), 10 a second, 94 s left\n"


@pytest.mark.processes
def test_dry_run_writes_no_line_for_each_call(crm: Crm) -> None:
    crm.sync("full")
    process = start(crm, "--dry-run", LOG_LEVEL="INFO")
    out, err = process.communicate(timeout=60)
    assert process.returncode == DONE
    assert "Dry run: nothing was stored." in out
    assert "zoho GET" not in out + err and "INFO" not in out + err


@pytest.mark.parametrize(("rows", "failed", "code"), [(120, 4, DONE), (90, 8, FAILED)])
def test_up_to_one_percent_set_aside_is_done_with_a_line_on_stderr(
    big_crm: Crm, monkeypatch: pytest.MonkeyPatch, rows: int, failed: int, code: int
) -> None:
    """One record of each page, however often a page is asked for: a number of faults would be used
    up by a call that a slow machine makes twice."""
    monkeypatch.setattr(reading, "RANGE_ROWS", rows)
    what = {"path": "/crm/v8/coql", "body_contains": "id <=", "do": "rewrite", "with": {}}
    big_crm.control("faults", rules=[{**what, "times": 0}])
    found, out, err = run("--full", "--module", "Deals")
    assert (SyncRun.objects.get().failed, found) == (failed, code)
    assert "done in part" in out
    assert err.startswith(f"{failed} records need a look: they could not be stored.")


# -- usage and configuration ----------------------------------------------------------------------


ARGPARSE = {"not allowed with", "no ISO date", "Invoices", "nonsense"}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--full", "--since", "2026-01-01"], "--since goes with a delta"),
        (["--full", "--delta"], "not allowed with"),
        (["--since", "yesterday"], "no ISO date"),
        (["--module", "Invoices"], "Invoices"),
        (["--nonsense"], "nonsense"),
        ([], "No CRM is connected"),
        (["--dry-run"], "No CRM is connected"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_2(
    arguments: list[str], words: str, settings: Any
) -> None:
    settings.ZOHO = None
    code, _, err = run(*arguments)
    assert words in err
    # Called from Python, an argument that is not understood has no exit code of its own.
    assert code == (FAILED if words in ARGPARSE else USAGE)
    assert not SyncRun.objects.exists()


def test_another_organisation_is_a_matter_of_configuration(crm: Crm) -> None:
    crm.sync("full")
    CrmConnection.objects.update(org_id="1", org_name="Somebody else")
    code, _, err = run("--full")
    assert code == USAGE
    assert "Somebody else" in err


def _wrong_secret(crm: Crm) -> None:
    crm.settings.ZOHO = replace(crm.settings.ZOHO, client_secret="wrong")
    crm.control("expire_tokens")


def _revoked(crm: Crm) -> None:
    crm.control("revoke_refresh_token")
    crm.control("expire_tokens")


@pytest.mark.parametrize("refuse", [_wrong_secret, _revoked])
@pytest.mark.parametrize("arguments", [["--full"], ["--full", "--dry-run"]], ids=" ".join)
def test_credentials_that_are_refused_are_a_matter_of_configuration(
    crm: Crm, refuse: Callable[[Crm], None], arguments: list[str]
) -> None:
    refuse(crm)
    code, _, err = run(*arguments)
    assert code == USAGE
    assert "ZOHO_" in err and "Traceback" not in err


# -- failed, under way ----------------------------------------------------------------------------


def test_a_crm_that_does_not_answer_is_exit_1_and_says_where_to_look(crm: Crm) -> None:
    crm.settings.ZOHO = replace(crm.settings.ZOHO, base_url="http://127.0.0.1:9")
    code, _, err = run()
    assert code == FAILED
    assert "127.0.0.1:9" in err and "ZOHO_BASE_URL" in err and "Traceback" not in err


def _refuse_deals(crm: Crm) -> None:
    crm.sync("full")
    refusal = {"do": "status", "times": 0, "status": 403, "body": {
        "code": "NO_PERMISSION", "details": {}, "message": "permission denied",
        "status": "error"}}  # fmt: skip
    rules = [
        {**refusal, "path": "/crm/v8/Deals"},
        {**refusal, "path": "/crm/v8/coql", "body_contains": "from Deals"},
    ]
    crm.control("faults", rules=rules)


@pytest.mark.parametrize("arguments", [["--delta"], ["--full"]], ids=" ".join)
def test_a_module_that_was_not_read_is_a_failure_though_the_others_were(
    crm: Crm, arguments: list[str]
) -> None:
    _refuse_deals(crm)
    code, out, err = run(*arguments)
    assert (code, "done in part" in out) == (FAILED, True)
    assert err.startswith("Deals: ") and "permission" in err


def test_a_dry_run_that_may_not_read_a_module_is_a_failure(crm: Crm) -> None:
    _refuse_deals(crm)
    code, out, _ = run("--dry-run")
    assert (code, "Deals: would not be read" in out) == (FAILED, True)
    assert "Leads: " in out


def test_another_run_under_way_is_exit_3_and_named(crm: Crm) -> None:
    other = runs.request_run(kind="full", trigger="schedule", nudge=False)
    held = lease.acquire()
    assert held is not None
    assert runs.open_run(other, held.fence)
    code, _, err = run("--full")
    assert code == UNDER_WAY
    assert f"run {other.pk}" in err and "full sync is under way since" in err
    assert SyncRun.objects.count() == 1
    held.release()
    assert run("--full")[0] == DONE  # nobody holds it: the command takes it up
    assert SyncRun.objects.get().pk == other.pk
    crm.assert_mirrored()


def test_a_run_of_another_kind_that_was_left_over_is_ended_first(crm: Crm) -> None:
    crm.sync("full")
    left = runs.request_run(kind="full", trigger="schedule", nudge=False)
    code, out, err = run("--delta")
    assert (code, err.strip()) == (DONE, f"First the full sync {left.pk}, which was left over.")
    assert "Delta sync done." in out
    left.refresh_from_db()
    assert left.status == "succeeded"
    assert SyncRun.objects.filter(kind="delta", status="succeeded").count() == 1


# -- dry run --------------------------------------------------------------------------------------


def test_a_dry_run_of_an_empty_mirror_stores_nothing(crm: Crm) -> None:
    before = counts()
    code, out, _ = run("--full", "--dry-run")
    assert code == DONE
    assert "Deals: 50 read; would make 50 new" in out
    assert out.rstrip().endswith("Dry run: nothing was stored.")
    assert counts() == before
    assert crm.sync("full").created > 50
    crm.assert_mirrored()


@pytest.mark.parametrize("mode", ["--delta", "--full"])
@pytest.mark.parametrize("has_coql", [True, False])
def test_a_dry_run_says_what_would_change(crm: Crm, mode: str, has_coql: bool) -> None:
    crm.sync("full")
    ids = crm.ids()
    crm.control("edit", module="Deals", id=ids[0], values={"Next_Step": "would be"})
    crm.control("delete", module="Deals", ids=ids[1:3])
    crm.control("insert", module="Deals", values={"Deal_Name": "n", "Stage": "Qualification"})
    if not has_coql:
        without_coql(crm)
    before, rows = counts(), list(Deal.objects.order_by("id").values())
    mark = MirrorState.objects.get(module="Deals").watermark
    held = lease.acquire()  # it needs none
    code, out, _ = run(mode, "--dry-run", "--module", "Deals")
    assert code == DONE
    assert "would make 1 new, change 1" in out and "mark 2 deleted" in out
    assert "next_step" in out and "would be" in out
    assert counts() == before
    assert list(Deal.objects.order_by("id").values()) == rows
    assert MirrorState.objects.get(module="Deals").watermark == mark
    assert held is not None
    held.release()
    assert crm.sync("delta").status == "succeeded"
    crm.assert_mirrored()


# -- a process of its own -------------------------------------------------------------------------


def start(crm: Crm, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "manage.py", "sync_zoho", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment(crm), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def environment(crm: Crm) -> dict[str, str]:
    """The test's own database and CRM, for another process."""
    zoho, database = crm.settings.ZOHO, django_settings.DATABASES["default"]
    url = f"sqlite:///{database['NAME']}"
    if "postgres" in database["ENGINE"]:
        host, port = database["HOST"] or "127.0.0.1", database["PORT"] or 5432
        secret = f":{database['PASSWORD']}" if database["PASSWORD"] else ""
        url = f"postgres://{database['USER']}{secret}@{host}:{port}/{database['NAME']}"
    return {
        "DATABASE_URL": url,
        "ZOHO_BASE_URL": zoho.base_url,
        "ZOHO_ACCOUNTS_URL": zoho.accounts_url,
        "ZOHO_CLIENT_ID": zoho.client_id,
        "ZOHO_CLIENT_SECRET": zoho.client_secret,
        "ZOHO_REFRESH_TOKEN": zoho.refresh_token,
        "ZOHO_PATIENCE": "first_delay_s=0.01,last_delay_s=0.05,mint_interval_s=0",
        "RATE_LIMIT_CALLS_PER_MINUTE": "100000",
    }


def wait_for(condition: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_exits_130_and_goes_on_when_started_again(
    big_crm: Crm, number: signal.Signals
) -> None:
    big_crm.control("config", latency_ms=150)
    total = sum(len(big_crm.ids(m)) for m in ("Accounts", "Contacts", "Leads", "Deals"))
    process = start(big_crm, "--full", "--method", "pages")
    wait_for(lambda: SyncRun.objects.filter(pages__gte=3).exists())
    begun = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == INTERRUPTED, err
    assert time.monotonic() - begun < 15
    assert "goes on where it was" in err and "Traceback" not in err + out
    first = SyncRun.objects.get()
    assert (first.status, first.error_code) == ("aborted", "interrupted")
    assert 0 < first.created < total
    assert not lease.is_held()

    big_crm.control("config", latency_ms=0)
    process = start(big_crm, "--full", "--method", "pages")
    out, err = process.communicate(timeout=60)
    assert process.returncode == DONE, err
    assert f"{total} read: {total} new" in out
    assert SyncRun.objects.get().pk == first.pk
    big_crm.assert_mirrored()


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_dry_run_says_so_in_one_sentence(
    big_crm: Crm, number: signal.Signals
) -> None:
    big_crm.control("config", latency_ms=300)
    big_crm.control("reset_stats")
    process = start(big_crm, "--full", "--dry-run")
    wait_for(lambda: big_crm.requests() > 2)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == INTERRUPTED, err
    assert "Interrupted. Nothing was stored." in err and "Traceback" not in err
    assert not Deal.objects.exists()


@pytest.mark.processes
def test_killed_by_the_system_it_goes_on_when_started_again(big_crm: Crm) -> None:
    process = start(big_crm, "--full", PULSE_FAILPOINTS="store.before_commit:4=kill")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    process = start(big_crm, "--full")
    err = process.communicate(timeout=60)[1]
    assert process.returncode == DONE, err
    found = SyncRun.objects.get()
    assert (found.status, found.created, found.seen) == ("succeeded", found.seen, found.created)
    big_crm.assert_mirrored()


@pytest.mark.processes
def test_exit_codes_of_the_real_process(crm: Crm) -> None:
    codes = {}
    for name, arguments in {
        "usage": ["--full", "--since", "2026-01-01"],
        "argument": ["--since", "soon"],
        "module": ["--module", "Invoices"],
    }.items():
        process = start(crm, *arguments)
        _, err = process.communicate(timeout=60)
        codes[name] = process.returncode
        assert "Traceback" not in err and err.strip()
    assert set(codes.values()) == {USAGE}
    assert not SyncRun.objects.exists()
