"""What the benchmarks share: a CRM of a chosen size, fresh databases, child processes, figures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from django.conf import settings

ROOT = Path(settings.BASE_DIR)
CREDENTIALS = {
    "ZOHO_CLIENT_ID": "1000.SANDBOX",
    "ZOHO_CLIENT_SECRET": "sandbox-secret",
    "ZOHO_REFRESH_TOKEN": "1000.sandbox.refresh",
}
CALLS_AT_ONCE = 10
START_SECONDS = 600


@dataclass(frozen=True)
class Figure:
    """One measured ratio and what it should be. `is_minimum`: at least the goal, else at most."""

    name: str
    value: float
    goal: float
    is_minimum: bool
    detail: str

    @property
    def is_met(self) -> bool:
        return self.value >= self.goal if self.is_minimum else self.value <= self.goal


@dataclass
class Child:
    """A finished process: its wall seconds, peak memory in MB, and the JSON it printed last."""

    seconds: float
    peak_mb: float
    said: dict[str, Any]


@dataclass
class Bench:
    """One run of the benchmarks in a folder of its own."""

    folder: Path
    deals: int
    postgres_url: str
    databases: list[str] = field(default_factory=list)

    @property
    def is_postgres(self) -> bool:
        return bool(self.postgres_url)

    @contextmanager
    def crm(self, deals: int, *, latency_ms: int = 0) -> Iterator[str]:
        """A sandbox with that many deals; its address. The data is made once and kept."""
        seeded = self.folder / f"crm-{deals}.sqlite3"
        command = [
            sys.executable,
            *("-m", "crm.sandbox", "--port", "0", "--db", str(seeded), "--seed", "7"),
            *("--deals", str(deals), "--latency-ms", str(latency_ms), "--quiet"),
            *("--credits", "1000000000", "--concurrency", str(CALLS_AT_ONCE), "--control"),
        ]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            yield _address(process)
        finally:
            process.terminate()
            process.wait(20)

    def fresh_database(self) -> str:
        """An empty, migrated database; its address."""
        name = f"bench_{uuid.uuid4().hex[:10]}"
        if self.is_postgres:
            self._psql(f'CREATE DATABASE "{name}"')
            self.databases.append(name)
            url = f"{self.postgres_url.rsplit('/', 1)[0]}/{name}"
        else:
            url = f"sqlite:///{self.folder / name}.sqlite3"
        self.manage(url, "", "migrate", "--verbosity", "0")
        return url

    def manage(self, database: str, crm: str, *arguments: str) -> Child:
        return self.child(database, crm, ROOT / "manage.py", *arguments)

    def child(self, database: str, crm: str, script: Path, *arguments: str) -> Child:
        """Run a Python script of ours against a database and a CRM; raises if it fails."""
        out = self.folder / f"out-{uuid.uuid4().hex[:8]}"
        with out.open("w") as sink:
            started = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, str(script), *arguments],
                cwd=ROOT,
                env=self.environment(database, crm),
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - started
        text = out.read_text()
        if process.returncode:
            raise RuntimeError(f"{script.name} {' '.join(arguments)} failed:\n{text[-3000:]}")
        return Child(seconds, usage.ru_maxrss / 1024, _last_json(text))

    def environment(self, database: str, crm: str) -> dict[str, str]:
        """A production-like process on that database; no setting of this shell leaks in."""
        kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
        home = self.folder / "home"
        return {
            **kept,
            "PULSE_HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "DJANGO_SETTINGS_MODULE": "pipelinepulse.settings",
            "DATABASE_URL": database,
            "SECRET_KEY": "bench-" + "x" * 60,
            "ENCRYPTION_KEYS": "YmVuY2htYXJrLWtleS1vZi0zMi1ieXRlcy0hISEhISE=",
            "ALLOWED_HOSTS": "127.0.0.1",
            "LOG_LEVEL": "ERROR",
            "STATIC_HASHED": "0",
            "RATE_LIMIT_CALLS_PER_MINUTE": "6000000",
            **(
                {"ZOHO_BASE_URL": crm, "ZOHO_ACCOUNTS_URL": crm, "SANDBOX": "1", **CREDENTIALS}
                if crm
                else {}
            ),
        }

    def some_ids(self, database: str, number: int) -> list[str]:
        """CRM ids of so many mirrored deals, evenly spread."""
        script = Path(__file__).parent / "mirrored_ids.py"
        return self.child(database, "", script, str(number)).said["ids"]

    def _psql(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.postgres_url, autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    def clean(self) -> None:
        for name in self.databases:
            with suppress(Exception):
                self._psql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        shutil.rmtree(self.folder, ignore_errors=True)


def require(is_true: bool, otherwise: str) -> None:
    """A benchmark of something wrong measures nothing: stop with the reason."""
    if not is_true:
        raise RuntimeError(otherwise)


def ask_control(crm: str, do: str, **command: Any) -> dict[str, Any]:
    """Ask the sandbox's hidden hand (`crm/sandbox/control.py`); its JSON."""
    answer = requests.post(f"{crm}/_control", json={"do": do, **command}, timeout=120)
    require(answer.ok, f"the sandbox refused {do}: {answer.text[:500]}")
    return answer.json()


def new_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="pulse-bench-"))


def _address(process: subprocess.Popen) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.stdout is not None:
        line = process.stdout.readline()
        if line.startswith("sandbox ready "):
            return line.split()[-1]
        if not line and process.poll() is not None:
            break
    raise RuntimeError("the sandbox did not start")


def _last_json(text: str) -> dict[str, Any]:
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    return {}
