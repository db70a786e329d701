"""Mirror, then recompute everything: timed, killed half-way, turned; and a session for `/o2r`.

A script in its own process; prints JSON. With `whole` or `half` it does one full recompute (and is
killed in the middle of it, by a failpoint) of a mirror that is there already.
"""

import hashlib
import json
import sys
import time

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.auth.models import Group, User  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402
from django.urls import NoReverseMatch, reverse  # noqa: E402
from django.utils import timezone  # noqa: E402

from crm.models import Deal  # noqa: E402
from crm.sync import runs  # noqa: E402
from crm.sync.execute import execute  # noqa: E402
from o2r import models, recompute  # noqa: E402
from pipelinepulse.benchmarks.kit import require  # noqa: E402

KEPT = (
    models.Opportunity,
    models.PhaseChange,
    models.SignalChange,
    models.ActionItem,
    models.PipelineCell,
    models.TrackerCell,
    models.TrackerMargin,
    models.DayCount,
)


def main(what: str) -> None:
    if what == "mirror":
        execute(runs.request_run(kind="full", trigger="command", nudge=False).pk)
        print(json.dumps({"deals": Deal.objects.live().count()}))  # noqa: T201
        return
    started = time.monotonic()
    recompute.catch_up()
    seconds = time.monotonic() - started
    recompute.turn(timezone.now())
    print(json.dumps({"seconds": seconds, "state": state(), **page()}))  # noqa: T201


def state() -> str:
    """A mark of all that a recompute writes, but keys and times."""
    mark = hashlib.blake2b(digest_size=16)
    for model in KEPT:
        names = [
            field.attname
            for field in model._meta.concrete_fields
            if field.attname not in ("id", "learnt_at", "created_at", "updated_at")
            and not field.attname.startswith("opportunity")
        ]
        rows = sorted(repr(row) for row in model.objects.values_list(*names).iterator())
        mark.update("\n".join(rows).encode())
    return mark.hexdigest()


def page() -> dict:
    """A signed-in session, and how many queries the tracker's page costs once it is warm."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
    manager, _ = User.objects.get_or_create(username="bench", email="bench@example.com")
    manager.groups.add(Group.objects.get(name="sales manager"))
    client = Client(headers={"host": "127.0.0.1"})
    client.force_login(manager, backend="django.contrib.auth.backends.ModelBackend")
    try:
        path = reverse("o2r:tracker")
    except NoReverseMatch:
        return {"path": ""}
    client.get(path)
    with CaptureQueriesContext(connection) as queries:
        answer = client.get(path)
    require(answer.status_code == 200, f"{path} answered {answer.status_code}")
    return {
        "path": path,
        "queries": len(queries),
        "cookie": settings.SESSION_COOKIE_NAME,
        "session": client.cookies[settings.SESSION_COOKIE_NAME].value,
    }


main(sys.argv[1])
