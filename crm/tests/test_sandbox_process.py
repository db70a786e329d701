"""The sandbox as a process: its command line, its start, its end, the official SDK."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crm.tests.sandbox_calls import Crm
from crm.tests.sandbox_process import ROOT, running_sandbox, start_sandbox


def command(*options):
    return [sys.executable, "-m", "crm.sandbox", *map(str, options)]


def test_ready_line_and_port_file_name_the_address(tmp_path):
    port_file = tmp_path / "port"
    process = subprocess.Popen(
        command("--db", tmp_path / "s.db", "--deals", 3, "--port-file", port_file, "--quiet"),
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = process.stdout.readline().strip()
        assert line == f"sandbox ready http://127.0.0.1:{int(port_file.read_text())}"
    finally:
        process.terminate()
        assert process.wait(10) == 0
        process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_quickly_even_with_open_connections(tmp_path, number):
    sandbox = start_sandbox(tmp_path, deals=3)
    crm = Crm(sandbox)
    assert crm.get("org").ok
    start = time.monotonic()
    sandbox.process.send_signal(number)
    assert sandbox.process.wait(5) == 0
    assert time.monotonic() - start < 3


def test_seeding_that_was_killed_begins_again_and_ends_whole(tmp_path):
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command("--db", tmp_path / "sandbox.db", "--deals", 20_000),
            cwd=ROOT, stdout=out, stderr=out,
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while b"seeded Contacts" not in log.read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        process.wait()
    assert b"ready" not in log.read_bytes()
    with running_sandbox(tmp_path, deals=120) as sandbox:
        crm = Crm(sandbox)
        assert crm.get("Deals/actions/count").json() == {"count": 120}
        assert crm.get("Contacts/actions/count").json() == {"count": 60}


@pytest.mark.parametrize(
    "options",
    [
        ("--deals", "5"),
        ("--db", "x.db", "--deals", "-1"),
        ("--db", "x.db", "--today", "yesterday"),
        ("--db", "x.db", "--deals", "5", "--csv", "folder"),
        ("--db", "no/such/folder/x.db"),
        ("--db", "x.db", "--csv", "no-such-folder"),
    ],
)
def test_wrong_usage_ends_with_status_2_and_no_trace(tmp_path, options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command(*options), cwd=tmp_path, env=environment, capture_output=True,
                          text=True, timeout=30)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_sandbox_needs_nothing_but_python(tmp_path):
    code = (
        "import sys, crm.sandbox.__main__;"
        "print([m for m in sys.modules if m.split('.')[0] in ('django', 'requests', 'urllib3')"
        " or (m.startswith('crm.') and not m.startswith('crm.sandbox'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          check=True, timeout=30)  # fmt: skip
    assert done.stdout.strip() == "[]"


@pytest.mark.external
def test_the_vendors_sdk_reads_and_writes(tmp_path):
    """PULSE_SDK_PYTHON names an interpreter that has zohocrmsdk8_0 installed."""
    with running_sandbox(tmp_path, deals=10) as sandbox:
        done = subprocess.run(
            [os.environ["PULSE_SDK_PYTHON"], str(Path(__file__).with_name("sdk_session.py")),
             sandbox.url, str(tmp_path)],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        stats = sandbox.control("stats")
    assert done.stdout.splitlines()[-3:] == [
        "listed 5, updated, read back as New name",
        "upsert found it: True, removed it: True, listed as gone: True",
        "changed since: 304, object None",
    ], done.stderr
    assert stats["rule_breaks"] == {}
