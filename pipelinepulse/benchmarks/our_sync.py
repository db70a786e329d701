"""Our full sync of the deals as a script in its own process; prints JSON."""

import json
import time

import django

django.setup()

from crm.models import ChangeEvent, Deal, MirrorState, SyncRun  # noqa: E402
from crm.sync import runs  # noqa: E402
from crm.sync.execute import execute  # noqa: E402


def state() -> dict[str, int | None]:
    newest = Deal.objects.order_by("-change_seq").values_list("change_seq", flat=True).first()
    return {"deals": Deal.objects.count(), "events": ChangeEvent.objects.count(), "newest": newest}


def main() -> None:
    before = state() if MirrorState.objects.exists() else {}
    if not before:
        # What deals refer to is there already, as in any full sync.
        names = ["Accounts", "Contacts"]
        execute(
            runs.request_run(kind="full", trigger="command", module_names=names, nudge=False).pk
        )
    started = time.monotonic()
    run = runs.request_run(kind="full", trigger="command", module_names=["Deals"], nudge=False)
    execute(run.pk)
    seconds = time.monotonic() - started
    run = SyncRun.objects.get(pk=run.pk)
    if run.status != "succeeded":
        raise SystemExit(f"the run ended as {run.status}: {run.message}")
    print(  # noqa: T201
        json.dumps(
            {
                "seconds": seconds,
                "calls": run.api_calls,
                "seen": run.seen,
                "is_unchanged": bool(before) and before == state(),
            }
        )
    )


main()
