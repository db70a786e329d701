"""PostgreSQL stopped at once and back, or out of connections: what a web process answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
import requests
from cryptography.fernet import Fernet

from crm.tests.notices import ADDRESS, LIVE, body_of
from pipelinepulse import env
from pipelinepulse.tests import servers

ROOT = Path(__file__).resolve().parents[2]
HOST = "pulse.example.com"
MOST_SECONDS = 3
PREPARE = """
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.test import Client
from rest_framework.authtoken.models import Token
from crm.tests.notices import known_channels
known_channels()
user = get_user_model().objects.create_user("ann")
user.groups.add(Group.objects.get(name="ops"))
client = Client()
client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
cookie = next(iter(client.cookies.values()))
print(cookie.key, cookie.value, Token.objects.create(user=user).key)
"""

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]


class Cluster:
    """A PostgreSQL server that can be stopped as by a power cut, and started again as it was."""

    def __init__(self, url: str) -> None:
        self.url = url
        with psycopg.connect(url) as server:
            folder = server.execute("show data_directory").fetchone()[0]
            # As everywhere but in tests: what was committed outlives a stop at once.
            server.execute("alter role postgres set synchronous_commit = on")
        self.pid = int((Path(folder) / "postmaster.pid").read_text().split()[0])
        self.command = Path(f"/proc/{self.pid}/cmdline").read_text().rstrip("\0").split("\0")
        self.owner = Path(folder).stat().st_uid
        self.restarted: subprocess.Popen[bytes] | None = None

    def stop_at_once(self) -> None:
        """As `pg_ctl stop -m immediate` does."""
        os.kill(self.pid, signal.SIGQUIT)
        if self.restarted is not None:
            self.restarted.wait(20)
        assert eventually(lambda: not self.answers())

    def start(self, *options: str) -> None:
        self.restarted = subprocess.Popen(
            [*self.command, *options],
            user=self.owner if os.getuid() == 0 else None,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.pid = self.restarted.pid
        assert eventually(self.answers)

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def end(self) -> None:
        if self.restarted is not None:
            self.restarted.send_signal(signal.SIGINT)
            self.restarted.wait(20)


class Web:
    """Gunicorn as it is deployed, and somebody who is signed in."""

    def __init__(self, port: int, cookie: tuple[str, str], key: str) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.cookie, self.key = dict([cookie]), key

    def get(self, path: str) -> requests.Response:
        head = {"Host": HOST, "Authorization": f"Token {self.key}"}
        cookies = {} if path.startswith("/api/") else self.cookie
        return requests.get(
            self.address + path, headers=head, cookies=cookies, timeout=20, allow_redirects=False
        )

    def notify(self, zoho_id: int) -> requests.Response:
        head = {"Host": HOST}
        return requests.post(
            self.address + ADDRESS, json=body_of([zoho_id]), headers=head, timeout=20
        )

    def is_up(self) -> bool:
        try:
            return self.get("/readyz").status_code == 200
        except requests.RequestException:
            return False


def eventually(is_so, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_so():
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    try:
        with servers.private_postgres() as url:
            cluster = Cluster(url)
            yield cluster
            cluster.end()
    except servers.NotInstalled as missing:
        pytest.skip(f"{missing} is not installed")


@pytest.fixture(scope="module")
def web(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    port, home = servers.free_port(), tmp_path_factory.mktemp("home")
    environment = {
        **os.environ,
        **dict.fromkeys(env.SETTING_NAMES, ""),
        "DATABASE_URL": cluster.url,
        "SECRET_KEY": "a long random text that nobody guesses",
        "ENCRYPTION_KEYS": Fernet.generate_key().decode(),
        "ALLOWED_HOSTS": HOST,
        "WEBHOOK_TOKEN": LIVE,
        "PULSE_HOME": str(home),
        "PORT": str(port),
        "STATIC_HASHED": "0",
        "WEB_CONCURRENCY": "2",
    }
    manage = [sys.executable, "manage.py"]
    run = {"cwd": ROOT, "env": environment}
    subprocess.run([*manage, "migrate", "--verbosity", "0"], check=True, **run)
    made = subprocess.run(
        [*manage, "shell", "--verbosity", "0", "-c", PREPARE],
        check=True, capture_output=True, text=True, **run,
    )  # fmt: skip
    name, value, key = made.stdout.split()[-3:]
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "pipelinepulse.wsgi"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **run,
    )  # fmt: skip
    web = Web(port, (name, value), key)
    try:
        assert eventually(web.is_up)
        yield web
    finally:
        process.terminate()
        process.wait(20)


def assert_away(web: Web) -> None:
    """Each of several askings: 503 in time, with when to ask again and no word of the code."""
    for path in ("/", "/opportunities", "/api/opportunities", "/readyz") * 3:
        begun = time.monotonic()
        answer = web.get(path)
        assert time.monotonic() - begun <= MOST_SECONDS, path
        assert answer.status_code == 503, (path, answer.text[:300])
        assert "Traceback" not in answer.text and "psycopg" not in answer.text
        if path != "/readyz":
            assert answer.headers["Retry-After"]
            assert "The database cannot be reached" in answer.text
    assert web.get("/healthz").status_code == 200


def stored(cluster: Cluster) -> set[int]:
    with psycopg.connect(cluster.url) as database:
        return {row[0] for row in database.execute("select zoho_id from crm_notice").fetchall()}


def test_row_13_a_database_stopped_at_once_is_said_and_found_again(
    cluster: Cluster, web: Web
) -> None:
    for path in ("/", "/opportunities", "/api/opportunities"):
        assert web.get(path).status_code == 200
    assert web.notify(1).status_code == 202
    cluster.stop_at_once()
    assert_away(web)
    refused = web.notify(2)
    assert (refused.status_code, refused.content) == (503, b"")
    cluster.start()
    assert eventually(web.is_up, 10)
    for _ in range(8):  # every thread of both processes finds its way back
        for path in ("/", "/opportunities", "/api/opportunities"):
            assert web.get(path).status_code == 200
    assert web.notify(3).status_code == 202
    assert stored(cluster) == {1, 3}


def test_row_14_without_a_free_connection_nobody_hangs(cluster: Cluster, web: Web) -> None:
    cluster.stop_at_once()
    cluster.start("-cmax_connections=10")
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(psycopg.connect(cluster.url, connect_timeout=2))
            except psycopg.OperationalError:
                break
        assert_away(web)
    assert eventually(web.is_up, 10)
    assert web.get("/opportunities").status_code == 200
