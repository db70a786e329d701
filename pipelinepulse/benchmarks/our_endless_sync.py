"""Our full sync again and again, as a script in its own process, until it is ended.

Argument: `empty` has each begin with an empty mirror, `rewrite` with a complete one of which every
deal differs from the CRM's, so that all rows are written each time and pages stay as they are.
"""

import sys
import time

import django

django.setup()

from django.db import OperationalError, connection  # noqa: E402

from crm.errors import SyncUnderWay  # noqa: E402
from crm.sync import runs  # noqa: E402
from crm.sync.execute import execute  # noqa: E402

PREPARE = {
    "empty": "TRUNCATE crm_deal, crm_account, crm_contact, crm_lead, crm_changeevent, "
    "crm_receivedrecord, crm_mirrorstate, crm_syncrun CASCADE",
    "rewrite": "UPDATE crm_deal SET next_step = coalesce(next_step, '') || '.', content_hash = ''",
}


def main(what: str) -> None:
    names = ["Deals"] if what == "rewrite" else []
    while True:
        try:
            with connection.cursor() as cursor:
                cursor.execute(PREPARE[what])
            run = runs.request_run(kind="full", trigger="command", module_names=names, nudge=False)
            execute(run.pk)
        except (SyncUnderWay, OperationalError):  # a worker is at it: it took the run, or notices
            time.sleep(0.1)


main(sys.argv[1])
