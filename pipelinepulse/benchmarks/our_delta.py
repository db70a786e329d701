"""Our sync in its own process, of all modules or of those named: `full` or `delta`; prints JSON."""

import json
import sys
import time

import django

django.setup()

from crm.models import SyncRun  # noqa: E402
from crm.sync import runs  # noqa: E402
from crm.sync.execute import execute  # noqa: E402


def main(kind: str, names: list[str]) -> None:
    started = time.monotonic()
    run = runs.request_run(kind=kind, trigger="command", module_names=names, nudge=False)
    execute(run.pk)
    seconds = time.monotonic() - started
    run = SyncRun.objects.get(pk=run.pk)
    if (run.kind, run.status) != (kind, "succeeded"):
        raise SystemExit(f"the {run.kind} run ended as {run.status}: {run.message}")
    changed = run.created + run.updated + run.deleted + run.restored
    print(json.dumps({"seconds": seconds, "calls": run.api_calls, "changed": changed}))  # noqa: T201


main(sys.argv[1], sys.argv[2:])
