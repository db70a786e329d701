"""The product on servers: the compose file's shape, and the Procfile's processes for real."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from cryptography.fernet import Fernet

from pipelinepulse import env
from pipelinepulse.tests.servers import free_port

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def procfile() -> dict[str, str]:
    lines = (ROOT / "Procfile").read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines if line and not line.startswith("#"))


def test_compose_has_five_services_each_with_a_health_check(compose) -> None:
    assert set(compose["services"]) == {"web", "worker", "beat", "postgres", "redis"}
    for name, service in compose["services"].items():
        assert service["healthcheck"]["test"], name


def test_compose_runs_the_processes_of_the_procfile(compose, procfile) -> None:
    for name in ("worker", "beat"):
        assert compose["services"][name]["command"] == procfile[name]
    web = compose["services"]["web"]["command"]
    assert procfile["web"] in web
    assert procfile["release"] in web


def test_compose_gives_settings_that_are_read(compose) -> None:
    for name in ("web", "worker", "beat"):
        given = compose["services"][name]["environment"]
        assert set(given) <= set(env.SETTING_NAMES)
        assert given["DATABASE_URL"].startswith("postgres://")
        assert given["REDIS_URL"].startswith("redis://")


def test_compose_takes_the_password_from_outside(compose) -> None:
    wanted = "${POSTGRES_PASSWORD:?"
    assert compose["services"]["postgres"]["environment"]["POSTGRES_PASSWORD"].startswith(wanted)
    assert f"//pulse:{wanted}" in compose["services"]["web"]["environment"]["DATABASE_URL"]


def test_image_is_small_and_its_user_is_not_root() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert text.count("FROM python:3.11-slim") == 2
    assert re.findall(r"^USER (\w+)$", text, re.M) == ["pulse"]
    assert "embedded" not in text
    assert "--require-hashes" in text


def test_docker_itself_accepts_the_compose_file() -> None:
    """Where Docker Compose is not installed, the structure above must do."""
    is_there = shutil.which("docker") and not _compose("version").returncode
    if is_there:
        checked = _compose("config", "--quiet")
        assert checked.returncode == 0, checked.stderr


def _compose(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", "compose", *words],
        cwd=ROOT,
        env={**os.environ, "POSTGRES_PASSWORD": "x"},
        capture_output=True,
        text=True,
    )


# --- the processes of the Procfile on real servers -------------------------------------------
@pytest.fixture
def database(postgres_url: str) -> Iterator[str]:
    """An empty database of the test's own; gives its address."""
    name = f"procfile_{os.getpid()}"
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(f"create database {name}")
        yield postgres_url.rsplit("/", 1)[0] + f"/{name}"
        server.execute(f"drop database {name} with (force)")


class Processes:
    """The Procfile's programs, started as a platform would start them."""

    def __init__(self, procfile: dict[str, str], environment: dict[str, str], log: Path) -> None:
        self.procfile = procfile
        self.environment = environment
        self.log = log
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def command(self, name: str) -> list[str]:
        program, *rest = shlex.split(self.procfile[name])
        return [str(Path(sys.executable).parent / program), *rest]

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=120
        )

    def start(self, name: str) -> None:
        with self.log.open("ab") as log:
            self.running[name] = subprocess.Popen(
                self.command(name), cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )

    def stop(self) -> dict[str, int]:
        """Ask each to end in order, as a deployment does; their exit statuses."""
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        try:
            return {name: process.wait(30) for name, process in self.running.items()}
        finally:
            for process in self.running.values():
                process.kill()


def eventually(is_so: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_so():
            return True
        time.sleep(0.2)
    return False


def readiness(port: int) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()
    except OSError:
        return 0, ""


SEND_OFTEN = """
from django_celery_beat.models import IntervalSchedule, PeriodicTask
every, _ = IntervalSchedule.objects.get_or_create(every=1, period="seconds")
PeriodicTask.objects.create(name="tick", task="celery.backend_cleanup", interval=every)
"""


@pytest.mark.processes
@pytest.mark.postgres
@pytest.mark.redis
@pytest.mark.timeout(240)
def test_procfile_serves_on_real_servers(
    procfile, database: str, redis_url: str, tmp_path: Path
) -> None:
    port = free_port()
    environment = {
        **os.environ,
        **dict.fromkeys(env.SETTING_NAMES, ""),
        "DATABASE_URL": database,
        "REDIS_URL": redis_url,
        "SECRET_KEY": "a long random text that nobody guesses",
        "ENCRYPTION_KEYS": Fernet.generate_key().decode(),
        "ALLOWED_HOSTS": "pulse.example.com",
        "PULSE_HOME": str(tmp_path),
        "PORT": str(port),
    }
    processes = Processes(procfile, environment, tmp_path / "log")
    manage = [sys.executable, "manage.py"]
    try:
        processes.start("web")
        assert eventually(lambda: readiness(port)[0] == 503), processes.log.read_text()
        released = processes.run([sys.executable, *shlex.split(procfile["release"])[1:]])
        assert released.returncode == 0, released.stderr
        assert eventually(lambda: readiness(port)[0] == 200), processes.log.read_text()
        assert '"status": "ok"' in readiness(port)[1]

        assert processes.run([*manage, "alive", "worker"]).returncode == 1
        assert processes.run([*manage, "alive", "beat"]).returncode == 1
        processes.run([*manage, "shell", "-c", SEND_OFTEN])
        processes.start("worker")
        processes.start("beat")
        for name in ("worker", "beat"):
            is_alive = eventually(
                lambda name=name: processes.run([*manage, "alive", name]).returncode == 0
            )
            assert is_alive, f"{name}: {processes.log.read_text()}"
        assert readiness(port)[0] == 200
    finally:
        statuses = processes.stop()
    assert statuses == {"web": 0, "worker": 0, "beat": 0}
    assert "Traceback" not in processes.log.read_text()
