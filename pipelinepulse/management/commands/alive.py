"""`manage.py alive worker|beat`: whether that process does its work; for health checks.

Decides what alive means beyond having a process: a worker answers its control channel, beat has
sent something lately. Exit 0 alive, 1 not.
"""

import socket
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand
from django.db.models import Max
from django.utils import timezone
from django_celery_beat.models import PeriodicTask
from kombu.pidbox import Mailbox

from pipelinepulse.celery import app

# Beat sends the sweeper every few seconds; after this long something holds it.
BEAT_SILENCE = timedelta(minutes=2)
PING_SECONDS = 3.0


class Command(BaseCommand):
    help = "Exit 0 if the worker on this machine answers, or beat has sent something lately."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("process", choices=["worker", "beat"])
        parser.add_argument("--node", help="the worker's name (default: celery@ this machine)")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["process"] == "worker":
            problem = worker_problem(options["node"] or own_node())
        else:
            problem = beat_problem()
        if problem:
            self.stderr.write(problem)
            raise SystemExit(1)
        self.stdout.write(f"{options['process']} is alive")


def own_node() -> str:
    """The name that a worker on this machine has unless it was given another one."""
    return f"celery@{socket.gethostname()}"


def worker_problem(node: str, *, broker_url: str | None = None) -> str:
    """Why the worker is not alive, or an empty text. Asks at the broker of the settings unless
    another one is named."""
    # Not `app.control`: it sends through the application's own pool whatever connection it is
    # given, and so to the broker of the settings. On the first start of a run that is none at all.
    try:
        with app.connection_for_write(broker_url) as connection:
            mailbox = Mailbox(
                app.conf.control_exchange,
                type="fanout",
                accept=app.conf.accept_content,
                connection=connection,
            )
            replies = mailbox.call([node], "ping", timeout=PING_SECONDS)
    except Exception as error:  # the broker library raises its transports' own errors
        return f"the broker does not answer ({type(error).__name__})"
    return "" if replies else f"{node} does not answer"


def beat_problem() -> str:
    """Why beat is not alive, or an empty text."""
    last_run_at = PeriodicTask.objects.aggregate(Max("last_run_at"))["last_run_at__max"]
    if last_run_at is None:
        return "beat has never sent anything"
    if timezone.now() - last_run_at > BEAT_SILENCE:
        return f"beat has sent nothing since {last_run_at:%Y-%m-%d %H:%M:%S} UTC"
    return ""
