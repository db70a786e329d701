"""Bad days of the CRM, drawn from a seed: rules of crm/sandbox/faults.py that cost no waiting."""

from __future__ import annotations

import random
from typing import Any

PATHS = (
    "/crm/v8/", "/crm/v8/coql", "/crm/v8/coql", "/crm/v8/Deals", "/crm/v8/Deals/deleted",
    "/crm/v8/Leads", "/crm/v8/Accounts", "/crm/v8/Contacts", "/oauth/v2/token",
)  # fmt: skip
TOO_MANY = {"code": "TOO_MANY_REQUESTS", "details": {}, "message": "wait", "status": "error"}
HTML = "<html><body>Bad gateway</body></html>"
KINDS: tuple[dict[str, Any], ...] = (
    {"do": "status", "status": 429, "body": TOO_MANY},
    {"do": "status", "status": 500, "body": ""},
    {"do": "status", "status": 503, "body": HTML},
    {"do": "html_200"},
    {"do": "reset", "when": "before"},
    {"do": "reset", "when": "after"},
    {"do": "reset", "when": "body"},
    {"do": "truncate"},
    {"do": "truncate", "consistent": True},
    {"do": "truncate", "at": 1, "consistent": True},
    {"do": "content_type", "value": "text/plain"},
    {"do": "expire_token"},
    {"do": "more_for_ever"},
)
LISTS = ("/crm/v8/Deals", "/crm/v8/Leads")


def rules(rng: random.Random, number: int) -> list[dict[str, Any]]:
    """So many rules; one in six outlasts the client's tries, and the run fails over it."""
    found = []
    for _ in range(number):
        kind = rng.choice(KINDS)
        path = rng.choice(LISTS) if kind["do"] == "more_for_ever" else rng.choice(PATHS)
        if path.startswith("/oauth") and kind["do"] not in ("status", "reset"):
            path = "/crm/v8/"
        times = 6 if rng.random() < 0.16 else rng.choice([1, 1, 2])
        found.append({**kind, "path": path, "nth": rng.randint(1, 12), "times": times})
    return found


def lagging_list(module: str) -> dict[str, Any]:
    """The next list of deletions does not know the newest yet: it knows none."""
    path = f"/crm/v8/{module}/deleted"
    return {"do": "status", "path": path, "status": 204, "body": ""}


# Of calls that change something: lost before and after they were carried out, refused as a whole.
WRITES = (("PUT", "/crm/v8/"), ("POST", "/crm/v8/Deals/upsert"), ("DELETE", "/crm/v8/"))
OF_WRITING: tuple[dict[str, Any], ...] = (
    {"do": "reset", "when": "after"},
    {"do": "reset", "when": "after"},
    {"do": "reset", "when": "body", "at": 10},
    {"do": "reset", "when": "before"},
    {"do": "truncate", "consistent": True},
    {"do": "html_200"},
    {"do": "status", "status": 500, "body": ""},
    {"do": "status", "status": 503, "body": HTML},
    {"do": "status", "status": 429, "body": TOO_MANY},
    {"do": "content_type", "value": "text/plain"},
    {"do": "expire_token"},
)


def of_writing(rng: random.Random, number: int) -> list[dict[str, Any]]:
    """So many rules for a sending: of its writes mostly, of its readings at times."""
    found = []
    for _ in range(number):
        if rng.random() < 0.25:
            found += rules(rng, 1)
            continue
        method, path = rng.choice(WRITES)
        rule = {**rng.choice(OF_WRITING), "method": method, "path": path}
        found.append({**rule, "nth": rng.choice([1, 1, 2]), "times": rng.choice([1, 1, 1, 5])})
    return found
