"""Mirror and recompute for the dashboard's benchmark, and hold its figures against a GROUP BY.

A script in its own process; prints JSON with a session that is signed in.
"""

import json

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.auth.models import Group, User  # noqa: E402
from django.db import connection  # noqa: E402
from django.db.models import Count, Sum  # noqa: E402
from django.http import QueryDict  # noqa: E402
from django.test import Client  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402
from django.utils import timezone  # noqa: E402

from crm.models import Deal  # noqa: E402
from crm.sync import runs  # noqa: E402
from crm.sync.execute import execute  # noqa: E402
from crm.sync.metadata import business_day  # noqa: E402
from o2r import recompute  # noqa: E402
from o2r.filters import Selection  # noqa: E402
from o2r.metrics import pipeline_figures  # noqa: E402
from pipelinepulse.benchmarks.kit import require  # noqa: E402


def main() -> None:
    execute(runs.request_run(kind="full", trigger="command", nudge=False).pk)
    recompute.catch_up()
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
    manager = User.objects.create_user("bench", "bench@example.com")
    manager.groups.add(Group.objects.get(name="sales manager"))
    client = Client(headers={"host": "127.0.0.1"})
    client.force_login(manager, backend="django.contrib.auth.backends.ModelBackend")
    client.get("/")
    with CaptureQueriesContext(connection) as queries:
        answer = client.get("/")
    require(answer.status_code == 200, f"the dashboard answered {answer.status_code}")
    session = client.cookies[settings.SESSION_COOKIE_NAME].value
    print(  # noqa: T201
        json.dumps(
            {
                "session": session,
                "cookie": settings.SESSION_COOKIE_NAME,
                "queries": len(queries),
                "is_equal": is_equal(),
                "deals": Deal.objects.live().count(),
            }
        )
    )


def is_equal() -> bool:
    """Every figure by stage, territory, service line and owner against the deals themselves."""
    nobody = User(username="nobody")
    figures = pipeline_figures(
        Selection.from_query(QueryDict(), nobody), today=business_day(timezone.now())
    )
    live = Deal.objects.live().order_by()
    open_deals = live.filter(stage_type="open")

    def grouped(rows, name):
        return {
            (key if key not in (None, "") else "-"): (count, value or 0, weighted or 0)
            for key, count, value, weighted in rows.values_list(name).annotate(
                Count("pk"), Sum("amount_sgd_minor"), Sum("weighted_sgd_minor")
            )
        }

    def shown(buckets):
        return {
            b.key: (b.count, b.value_sgd_cents, b.weighted_sgd_cents) for b in buckets if b.count
        }

    owners = {str(key): value for key, value in grouped(open_deals, "owner").items()}
    return (
        shown(figures.by_stage) == grouped(live, "stage")
        and shown(figures.by_territory) == grouped(open_deals, "territory")
        and shown(figures.by_service_line) == grouped(open_deals, "service_line")
        and shown(figures.by_owner) == owners
    )


main()
