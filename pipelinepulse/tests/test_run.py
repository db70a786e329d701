"""`manage.py run` for real: from an empty folder to the running product, and back to nothing."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from pipelinepulse import env, home
from pipelinepulse.tests.servers import free_port

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]


class Running:
    """A run in a home of its own, with what it has said so far."""

    def __init__(self, folder: Path, port: int, **settings: str) -> None:
        self.folder = folder
        self.port = port
        self.said = ""
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "run"],
            env={
                **os.environ,
                **dict.fromkeys(env.SETTING_NAMES, ""),
                "PULSE_HOME": str(folder),
                "PORT": str(port),
                "SANDBOX_OPTIONS": "--seed 7 --deals 40",
                # Without an installed server: what a fresh machine has.
                "PATH": str(Path(sys.executable).parent),
                **settings,
            },
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line

    def says(self, words: str, seconds: float = 90) -> bool:
        """Whether it has said so, in time and while it lived."""
        return eventually(lambda: words in self.said, seconds, unless=self.is_over)

    def is_over(self) -> bool:
        return self.process.poll() is not None

    def get(self, path: str, **headers: str) -> int:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own
                return answer.status
        except urllib.error.HTTPError as refused:
            refused.close()
            return refused.code
        except OSError:
            return 0

    def end(self, signum: int = signal.SIGINT) -> int:
        self.process.send_signal(signum)
        return self.process.wait(60)

    def dashboard_of(self, name: str, password: str) -> int:
        """Sign in as a person does; the status of the first page, 0 for a refusal."""
        address = f"http://127.0.0.1:{self.port}"
        with requests.Session() as browser:
            form = browser.get(f"{address}/login", timeout=30).text
            csrf = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)[1]
            filled = {"username": name, "password": password, "csrfmiddlewaretoken": csrf}
            page = browser.post(f"{address}/login", filled, timeout=30)
            return page.status_code if page.url == f"{address}/" else 0

    def alive(self, name: str) -> bool:
        """What `manage.py alive` says in another terminal."""
        here = {
            **os.environ,
            **dict.fromkeys(env.SETTING_NAMES, ""),
            "PULSE_HOME": str(self.folder),
        }
        command = [sys.executable, "manage.py", "alive", name]
        return subprocess.run(command, cwd=ROOT, env=here, capture_output=True).returncode == 0

    def kill(self, word: str) -> None:
        """End the first process with that word in its command, as a power cut would."""
        pid = next(pid for pid, words in sorted(self.processes().items()) if word in words)
        os.kill(pid, signal.SIGKILL)

    def processes(self) -> dict[int, str]:
        """Every process of this home, by its environment or (the broker, which writes its title
        over the place where that stands) by its title."""
        mark = f"PULSE_HOME={self.folder}".encode()
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().decode().replace("\0", " ")
                environment = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue  # it ended while we looked
            if mark in environment or f"{self.folder}/" in words:
                found[int(folder.name)] = words
        return found


def eventually(
    is_so: Callable[[], bool], seconds: float = 30, unless: Callable[[], bool] = lambda: False
) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_so():
            return True
        if unless():
            return is_so()
        time.sleep(0.1)
    return False


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start_one(folder: Path | None = None, port: int | None = None, **settings: str) -> Running:
        started.append(Running(folder or tmp_path / "home", port or free_port(), **settings))
        return started[-1]

    yield start_one
    for one in started:
        if not one.is_over():
            one.process.terminate()
            one.process.wait(60)


@pytest.mark.broker
def test_from_an_empty_folder_to_the_product_and_back(start, tmp_path) -> None:
    run = start()
    assert run.says("Pipeline Pulse runs at"), run.said
    assert "broker: the bundled valkey-server" in run.said
    assert "first full sync" in run.said
    for name in ("rep", "manager", "ops"):
        assert re.search(rf"^ +{name} +\S{{12}} +\w", run.said, re.M), run.said
    assert re.search(r"API token +[0-9a-f]{40}", run.said)
    assert run.get("/readyz") == 200
    others_may_read = [
        path.name for path in (tmp_path / "home").iterdir() if path.stat().st_mode & 0o077
    ]
    assert others_may_read == []

    # a second one in the same home is refused, side by side in another one it is not
    second = start()
    assert second.process.wait(60) == 2
    assert re.search(r"in use by another run \(process \d+\)", second.said)

    # what was printed opens the door
    assert run.dashboard_of("rep", re.search(r"^ +rep +(\S+)", run.said, re.M)[1]) == 200
    token = re.search(r"API token +(\w+)", run.said)[1]
    assert run.get("/api/zoho/status", Authorization=f"Token {token}") == 200
    assert run.get("/api/zoho/status") == 401

    # a child that is killed comes back, and it is said
    run.kill("gunicorn")
    assert run.says("web has died (killed by SIGKILL)")
    assert eventually(lambda: run.get("/readyz") == 200)
    run.kill("valkey-server")
    assert run.says("broker has died (killed by SIGKILL)")
    assert eventually(lambda: run.alive("worker"), 60), run.said
    assert eventually(lambda: run.alive("beat"), 60), run.said

    begun = time.monotonic()
    assert run.end(signal.SIGINT) == 130
    assert time.monotonic() - begun < 20
    assert eventually(lambda: run.said.rstrip().endswith("| stopped"), 5), run.said
    assert eventually(lambda: not run.processes(), 5), run.processes()

    # again: it goes on where it was
    again = start(port=run.port)
    assert again.says("Pipeline Pulse runs at"), again.said
    assert "first full sync" not in again.said
    assert sign_ins(again.said) == sign_ins(run.said)
    assert address_of_sandbox(again.said) == address_of_sandbox(run.said)
    assert again.end(signal.SIGTERM) == 0
    assert eventually(lambda: not again.processes(), 5), again.processes()


def sign_ins(said: str) -> list[str]:
    return re.findall(r"^ +(?:rep|manager|ops|API token) .*$", said, re.M)


def address_of_sandbox(said: str) -> str:
    found = re.search(r"sandbox CRM: (\S+)", said)
    assert found
    return found[1]


def test_two_runs_side_by_side(start, tmp_path) -> None:
    runs = [start(tmp_path / name) for name in ("one", "two")]
    for run in runs:
        assert run.says("Pipeline Pulse runs at"), run.said
    assert [run.get("/readyz") for run in runs] == [200, 200]
    assert address_of_sandbox(runs[0].said) != address_of_sandbox(runs[1].said)


def test_killed_outright_it_leaves_nothing_and_starts_again(start) -> None:
    run = start()
    assert run.says("Pipeline Pulse runs at"), run.said
    run.process.kill()
    assert eventually(lambda: not run.processes(), 20), run.processes()
    again = start(port=run.port)
    assert again.says("Pipeline Pulse runs at"), again.said
    assert "first full sync" not in again.said


def test_taken_port_is_one_sentence(start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run = start(port=port)
        assert run.process.wait(60) == 2
    assert eventually(lambda: bool(run.said))
    assert run.said.strip() == (
        f"Pipeline Pulse cannot start: port {port} is taken; choose another one: "
        f"make run PORT={port + 1}"
    )


def test_sandbox_that_cannot_start_ends_the_run(start) -> None:
    run = start(SANDBOX_OPTIONS="--deals many")
    assert run.process.wait(60) == 2
    assert eventually(lambda: "cannot start" in run.said)
    assert "sandbox did not come up" in run.said
    assert "invalid int value: 'many'" in run.said
    assert eventually(lambda: not run.processes(), 5), run.processes()


def test_unreachable_database_is_one_sentence(start) -> None:
    run = start(DATABASE_URL=f"postgres://nobody:hush@127.0.0.1:{free_port()}/nothing")
    assert run.process.wait(60) == 2
    assert eventually(lambda: "cannot start" in run.said)
    assert "check DATABASE_URL" in run.said
    assert "Traceback" not in run.said
    assert "hush" not in run.said


def test_real_crm_gets_no_sandbox_and_no_demo_people(start, tmp_path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    run = start(
        ZOHO_CLIENT_ID="1000.REAL",
        ZOHO_CLIENT_SECRET="hush-hush-hush",
        ZOHO_REFRESH_TOKEN="1000.real.refresh",
        ZOHO_BASE_URL=nowhere,
        ZOHO_ACCOUNTS_URL=nowhere,
        ZOHO_PATIENCE="tries=1",
    )
    assert run.says("Pipeline Pulse runs at"), run.said
    assert "the first sync did not finish" in run.said
    assert "createsuperuser" in run.said
    assert "sandbox CRM" not in run.said
    assert "hush" not in run.said
    assert not (tmp_path / "home" / home.SIGN_INS).exists()
    left = json.loads((tmp_path / "home" / home.CONNECTIONS).read_text())
    assert set(left) == {"REDIS_URL"}


@pytest.mark.postgres
@pytest.mark.redis
def test_given_servers_are_used(start, postgres_url: str, redis_url: str, tmp_path) -> None:
    import psycopg

    name = f"run_{os.getpid()}"
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(f"create database {name}")
        try:
            url = postgres_url.rsplit("/", 1)[0] + f"/{name}"
            run = start(DATABASE_URL=url, REDIS_URL=redis_url)
            assert run.says("Pipeline Pulse runs at"), run.said
            assert "database: PostgreSQL" in run.said
            assert "broker: REDIS_URL" in run.said
            assert not (tmp_path / "home" / "pulse.sqlite3").exists()
            with psycopg.connect(url) as mirror:
                assert mirror.execute("select count(*) from crm_deal").fetchone()[0] >= 40
            assert run.end() == 130
        finally:
            server.execute(f"drop database {name} with (force)")
