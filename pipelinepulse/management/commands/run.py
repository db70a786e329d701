"""`manage.py run`: from an empty folder to the running product, and back to nothing on Ctrl-C.

Decides which processes make up the product on one machine, in which order they start, and what
is prepared before. How they are kept running is decided in `supervisor.py`.
"""

import http.client
import os
import shlex
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import DatabaseError, connection

from crm.models import SyncRun
from pipelinepulse import broker, static_files
from pipelinepulse import home as pulse_home
from pipelinepulse.env import CRM_SETTINGS
from pipelinepulse.management.commands.alive import own_node, worker_problem
from pipelinepulse.people import DemoPeople, ensure_demo_people, retire_demo_people
from pipelinepulse.supervisor import Child, Stopped, Supervisor

HOST = "127.0.0.1"
SANDBOX_CREDENTIALS = {
    "ZOHO_CLIENT_ID": "1000.SANDBOX",
    "ZOHO_CLIENT_SECRET": "sandbox-secret",
    "ZOHO_REFRESH_TOKEN": "1000.sandbox.refresh",
}
# Generous: a slow machine that makes a million deals is not a broken one.
SEED_SECONDS = 900
COME_UP_SECONDS = 60
INTERRUPTED = 130


class CannotRun(Exception):
    """Something is missing or in the way; the message is one sentence that says what to do."""


class Command(BaseCommand):
    help = "Start the whole product on this machine: broker, sandbox CRM, web, worker, beat."
    # The children run them; here nothing may stand between Ctrl-C and the end.
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        home = settings.PULSE_HOME
        os.umask(0o077)  # what a run writes is the CRM's data and its keys
        try:
            with pulse_home.lock(home):
                require_free_port(settings.PORT)
                self._run(home)
        except Stopped as stopped:
            raise SystemExit(INTERRUPTED if stopped.signum == 2 else 0) from None
        except (CannotRun, pulse_home.HomeInUse, broker.NoBroker) as reason:
            self.stderr.write(f"Pipeline Pulse cannot start: {reason}")
            raise SystemExit(2) from None

    def _run(self, home: Path) -> None:
        is_sandbox = not is_real_crm()
        with Supervisor(
            out=sys.stdout, cwd=settings.BASE_DIR, log_path=home / "logs" / "run.log"
        ) as supervisor:
            run = Run(home, supervisor)
            run.start_broker()
            run.prepare_database()
            if is_sandbox:
                run.start_sandbox()
            run.prepare_static_files()
            people = run.prepare_people(is_sandbox=is_sandbox)
            run.sync_first_time()
            run.start_product()
            self.stdout.write(welcome(people, home=home, is_sandbox=is_sandbox))
            self.stdout.flush()
            supervisor.run_for_ever()


class Run:
    """The steps of one start, in the order in which they need each other."""

    def __init__(self, home: Path, supervisor: Supervisor) -> None:
        self.home = home
        self.supervisor = supervisor
        self.connections: dict[str, str] = {}
        self.env = {
            **os.environ,
            "PULSE_HOME": str(home),
            "PULSE_EMBEDDED": "1",
            "PORT": str(settings.PORT),
            "PYTHONUNBUFFERED": "1",
        }

    def start_broker(self) -> None:
        given = "" if "REDIS_URL" in settings.ENVIRONMENT.joined else settings.REDIS_URL
        chosen = broker.choose_broker(self.home, given_url=given)
        self._connect(REDIS_URL=chosen.url)
        self.supervisor.say(f"broker: {chosen.origin}")
        if chosen.command:
            server = Child("broker", chosen.command, self.env, is_quiet=True)
            self._start_first(server, lambda: broker.answers(chosen.url), seconds=10)
        elif not broker.answers(chosen.url):
            self.supervisor.say("REDIS_URL does not answer; background work waits until it does")

    def _start_first(self, child: Child, is_up: Callable[[], bool], *, seconds: float) -> None:
        """Start what the rest cannot do without. Raises CannotRun when it does not come up."""
        self.supervisor.start(child)
        self.supervisor.wait_until(lambda: child.deaths > 0 or is_up(), seconds=seconds)
        if child.deaths > 0 or not is_up():
            log = self.home / "logs" / "run.log"
            raise CannotRun(f"{child.name} did not come up; what it said stands in {log}.")

    def prepare_database(self) -> None:
        self.supervisor.say(f"database: {connection.display_name}; applying open migrations")
        try:
            call_command("migrate", interactive=False, verbosity=0)
        except DatabaseError as error:
            where = connection.settings_dict["NAME"] if connection.vendor == "sqlite" else "server"
            raise CannotRun(
                f"the database cannot be used ({one_line(error)}); check DATABASE_URL and its "
                f"{where}."
            ) from None
        finally:
            connection.close()

    def start_sandbox(self) -> None:
        port = self._sandbox_port()
        address = f"http://{HOST}:{port}"
        options = shlex.split(settings.ENVIRONMENT.sandbox_options)
        command = [sys.executable, "-m", "crm.sandbox", "--host", HOST, "--port", str(port)]
        command += ["--db", str(self.home / "sandbox.sqlite3"), "--quiet", *options]
        self.supervisor.say(f"sandbox CRM: {address}")
        sandbox = Child("sandbox", command, self.env)
        self._start_first(sandbox, lambda: listens(port), seconds=SEED_SECONDS)
        self._connect(
            **SANDBOX_CREDENTIALS, ZOHO_BASE_URL=address, ZOHO_ACCOUNTS_URL=address, SANDBOX="1"
        )

    def _sandbox_port(self) -> int:
        """The port of the last start, so that the configuration stays the same; else a free one."""
        known = pulse_home.read_private(self.home, pulse_home.CONNECTIONS).get("ZOHO_BASE_URL", "")
        port = urlsplit(known).port
        return port if port and is_free(port) else free_port()

    def prepare_static_files(self) -> None:
        if settings.ENVIRONMENT.static_hashed and static_files.collect_if_changed(
            Path(settings.STATIC_ROOT)
        ):
            self.supervisor.say("static files collected")

    def prepare_people(self, *, is_sandbox: bool) -> DemoPeople | None:
        try:
            if is_sandbox:
                return ensure_demo_people(self.home)
            if retired := retire_demo_people(self.home):
                self.supervisor.say(f"a real CRM: {retired} sign-ins of the demo are locked")
            return None
        finally:
            connection.close()

    def sync_first_time(self) -> None:
        """A full sync in sight of whoever started us, unless the mirror was complete once."""
        try:
            was_complete = SyncRun.objects.filter(
                kind="full", status__in=["succeeded", "partial"]
            ).exists()
        finally:
            connection.close()
        if was_complete or not (is_real_crm() or "ZOHO_BASE_URL" in self.connections):
            return
        self.supervisor.say("first full sync")
        command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "sync_zoho", "--full"]
        # Its progress bar tells enough; a line per call would cut through it.
        status = self.supervisor.run_once(command, {"LOG_LEVEL": "WARNING", **self.env})
        if status != 0:
            self.supervisor.say(
                f"the first sync did not finish (exit {status}); what it stored is kept, the "
                "worker goes on with it"
            )

    def start_product(self) -> None:
        python = sys.executable
        celery = [python, "-m", "celery", "-A", "pipelinepulse", "--quiet"]
        web = Child(
            "web",
            [python, "-m", "gunicorn", "pipelinepulse.wsgi"],
            {**self.env, "WEB_HOST": HOST},
            stop_seconds=8,
            answers=lambda: status_of("/healthz", settings.PORT) == 200,
        )
        worker = [*celery, "worker", "--concurrency", "5", "--without-mingle", "--without-gossip"]
        self.supervisor.start(web)
        # In a container everybody is root, and the warning about it fills half a screen.
        calm = {**self.env, "PYTHONWARNINGS": "ignore:You're running the worker"}
        self.supervisor.start(
            Child("worker", worker, calm, stop_seconds=15, answers=self._worker_answers)
        )
        self.supervisor.start(Child("beat", [*celery, "beat", "--pidfile="], self.env))
        if not self.supervisor.wait_until(is_ready, seconds=COME_UP_SECONDS):
            self.supervisor.say("web does not answer yet; its reason stands above")

    def _worker_answers(self) -> bool:
        """Known to happen: a worker that is connected again and hears nothing any more."""
        url = self.connections["REDIS_URL"]
        return not broker.answers(url) or not worker_problem(own_node(), broker_url=url)

    def _connect(self, **connections: str) -> None:
        """Note what was started, for our children and for commands in another terminal."""
        self.connections.update(connections)
        kept = pulse_home.read_private(self.home, pulse_home.CONNECTIONS)
        crm = {} if is_real_crm() else {k: v for k, v in kept.items() if k in CRM_KEPT}
        pulse_home.write_private(self.home, pulse_home.CONNECTIONS, {**crm, **self.connections})


CRM_KEPT = {*CRM_SETTINGS, "SANDBOX"}


def is_real_crm() -> bool:
    """Whether CRM settings were given, rather than left by the sandbox of an earlier start."""
    return settings.ZOHO is not None and "ZOHO_BASE_URL" not in settings.ENVIRONMENT.joined


def require_free_port(port: int) -> None:
    """Raises CannotRun when something listens there already."""
    if not is_free(port):
        raise CannotRun(f"port {port} is taken; choose another one: make run PORT={port + 1}")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As gunicorn binds: a connection that is just closing is no reason to refuse.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection((HOST, port), timeout=0.5):
        return True
    return False


def is_ready() -> bool:
    """Whether our web process can serve."""
    return status_of("/readyz", settings.PORT) == 200


def status_of(path: str, port: int) -> int:
    """What our web process answers there; 0 without an answer."""
    ask = http.client.HTTPConnection(HOST, port, timeout=3)
    try:
        ask.request("GET", path)
        return ask.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        ask.close()


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def welcome(people: DemoPeople | None, *, home: Path, is_sandbox: bool) -> str:
    """What the person at the terminal needs: where, as whom, with which token."""
    address = settings.APP_BASE_URL
    lines = ["", f"  Pipeline Pulse runs at  {address}/", ""]
    if people is None:
        lines += ["  Make the first person:  .venv/bin/python manage.py createsuperuser", ""]
    else:
        for person in people.sign_ins:
            password = person.password or "(their own password)"
            lines.append(f"    {person.username:<8} {password:<22} {person.role}")
        header = f"Authorization: Token {people.api_token}"
        lines += ["", f"  API token  {people.api_token}"]
        lines += [f'    curl -H "{header}" {address}/api/zoho/status']
    crm = "the sandbox (nothing leaves this machine)"
    if not is_sandbox and settings.ZOHO is not None:
        crm = settings.ZOHO.base_url
    lines += ["", f"  CRM   {crm}", f"  Data  {home}", "  Stop  Ctrl-C", ""]
    return "\n".join(lines)
