"""CRM ids of mirrored deals, evenly spread, as a script in its own process; prints JSON.

The planner's statistics are made anew first, as they are in any mirror that is not just made.
"""

import json
import sys

import django

django.setup()

from django.db import connection  # noqa: E402

from crm.models import Deal  # noqa: E402


def main(number: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    ids = list(Deal.objects.order_by("zoho_id").values_list("zoho_id", flat=True))
    chosen = ids[:: max(1, len(ids) // number)][:number]
    print(json.dumps({"ids": [str(each) for each in chosen]}))  # noqa: T201


main(int(sys.argv[1]))
