"""The floor of write-back: batches of 100 over as many connections as ours has, nothing else.

Arguments: a file of record ids, and a word that makes the values differ from those of another run.
Prints JSON.
"""

import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import django
import requests

django.setup()

from django.conf import settings  # noqa: E402

from crm.zoho.limits import HEAVY_AT_ONCE  # noqa: E402

ROWS_A_CALL = 100
_own = threading.local()


def token(base: str) -> str:
    answer = requests.post(
        f"{base}/oauth/v2/token",
        data={
            "grant_type": "refresh_token",
            "client_id": os.environ["ZOHO_CLIENT_ID"],
            "client_secret": os.environ["ZOHO_CLIENT_SECRET"],
            "refresh_token": os.environ["ZOHO_REFRESH_TOKEN"],
        },
        timeout=30,
    )
    return answer.json()["access_token"]


def main(ids: list[str], word: str) -> None:
    base = os.environ["ZOHO_BASE_URL"]
    authorization = f"Zoho-oauthtoken {token(base)}"

    def send(batch: list[str]) -> int:
        if not hasattr(_own, "session"):
            _own.session = requests.Session()
            _own.session.headers["Authorization"] = authorization
        rows = [{"id": record_id, "Next_Step": f"{word} {record_id}"} for record_id in batch]
        answer = _own.session.put(f"{base}/crm/v8/Deals", json={"data": rows}, timeout=60)
        return sum(result["status"] == "success" for result in answer.json()["data"])

    started = time.monotonic()
    batches = [ids[at : at + ROWS_A_CALL] for at in range(0, len(ids), ROWS_A_CALL)]
    with ThreadPoolExecutor(min(settings.ZOHO.concurrency, HEAVY_AT_ONCE)) as pool:
        taken = sum(pool.map(send, batches))
    seconds = time.monotonic() - started
    if taken != len(ids):
        raise SystemExit(f"{taken} of {len(ids)} were taken")
    print(json.dumps({"seconds": seconds, "taken": taken}))  # noqa: T201


main(Path(sys.argv[1]).read_text().split(), sys.argv[2])
