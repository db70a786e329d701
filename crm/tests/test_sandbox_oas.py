"""The sandbox beside the vendor's own description (PULSE_ZOHO_OAS: its folder of OpenAPI files).

Each call is made for real; its path, method, query parameters and the names of the keys in its
answer must stand in the description: that of OpenAPI 3.1 first, that of 3.0 where it has more. The
description is not strict (it leaves out keys that its own examples have), so what differs on
purpose stands in the tables below, each with its reason; a reason that is no longer needed fails.
"""

import json
import os
import re
from pathlib import Path

import pytest

from crm.sandbox.bulk import BulkJobs
from crm.sandbox.channels import Channels
from crm.sandbox.clock import Clock
from crm.sandbox.routes import routes_of
from crm.sandbox.store import Store
from crm.tests.sandbox_calls import Crm
from crm.tests.sandbox_process import running_sandbox

pytestmark = pytest.mark.external

FOLDERS = ("oas31", "oas30-2025-06")

UNDESCRIBED_CALLS = {
    "GET settings/custom_views": "no file of it here; the SDK has it, and views need ids",
}

UNDESCRIBED_PARAMETERS = {
    "GET {module}/{id}/Stage_History: per_page": "3.1 says perPage here and per_page elsewhere",
    "GET {module}/{id}/__timeline: filters": "named so by the developer help; 3.1 says filter",
}

FLAT = "3.1 wraps the refusals of reads in data[]; real ones are flat, as developer help shows"
UNDESCRIBED_KEYS = {
    f"GET {{module}} 400: .{key}": FLAT for key in ("code", "details", "message", "status")
}


PLACE = r"(?!settings\b|org\b|users\b|actions\b|coql\b)[^/]+"


class Description:
    """All files of both versions, as (method, path pattern) to operation."""

    def __init__(self, folder: Path) -> None:
        self.operations = []
        for name in FOLDERS:
            for file in sorted((folder / name).glob("*.json")):
                document = json.loads(file.read_text())
                base = document["servers"][0]["url"].replace("{version}", "v8")
                base = re.sub(r"https?://[^/]+", "", base)
                for path, item in document["paths"].items():
                    self._take_up(document, base + path, item)

    def _take_up(self, document, path, item):
        shared = item.get("parameters", [])
        for method, operation in item.items():
            if method in ("get", "post", "put", "patch", "delete"):
                pattern = re.compile(re.sub(r"\{[^/]+?\}", lambda _: PLACE, path))
                literal = len(re.sub(r"\{[^/]+?\}", "", path))
                parameters = [
                    resolved(document, p) for p in [*shared, *operation.get("parameters", [])]
                ]
                names = {p["name"] for p in parameters if p.get("in") == "query"}
                self.operations.append(
                    (literal, method.upper(), pattern, names, document, operation)
                )

    def find(self, method, path):
        """The operations of that call: those with the most literal path of each version."""
        fits = [o for o in self.operations if o[1] == method and o[2].fullmatch(path)]
        most = max((o[0] for o in fits), default=0)
        return [o for o in fits if o[0] == most]


def resolved(document, node):
    for _ in range(20):
        if not isinstance(node, dict) or "$ref" not in node:
            return node
        target = document
        for step in node["$ref"].removeprefix("#/").split("/"):
            target = target.get(step, {}) if isinstance(target, dict) else {}
        node = target
    return node


def variants(document, schema):
    """The schema and all that it may be instead."""
    schema = resolved(document, schema)
    if not isinstance(schema, dict):
        return []
    found = [schema]
    for word in ("allOf", "oneOf", "anyOf"):
        for one in schema.get(word, []):
            found += variants(document, one)
    return found


def unknown_keys(document, schemas, value, place=""):
    """Paths of keys in `value` that none of these schemas names; [] marks a list's items."""
    if isinstance(value, list):
        items = [v for s in schemas for v in variants(document, s.get("items", {}))]
        return {k for one in value for k in unknown_keys(document, items, one, place + "[]")}
    if not isinstance(value, dict):
        return set()
    named = [s["properties"] for s in schemas if s.get("properties")]
    if not named or any(s.get("additionalProperties") is True for s in schemas):
        return set()  # nothing is said about its keys, or others are allowed
    found = set()
    for key, inner in value.items():
        below = [v for p in named if key in p for v in variants(document, p[key])]
        if any(key in p for p in named):
            found |= unknown_keys(document, below, inner, f"{place}.{key}")
        else:
            found.add(f"{place}.{key}")
    return found


def shapes(operation, status):
    _, _, _, _, document, content = operation
    answer = resolved(document, content["responses"].get(str(status), {}))
    kinds = answer.get("content", {}) if isinstance(answer, dict) else {}
    schema = kinds.get("application/json", {}).get("schema")
    return None if schema is None else (document, variants(document, schema))


def simple(path):
    """A path as the tables name it: no base, ids and modules as {id} and {module}."""
    path = re.sub(r"/crm/(bulk/)?v8/", r"\1", path)
    path = re.sub(r"/\d{6,}", "/{id}", path)
    return re.sub(
        r"^(Deals|Accounts|Contacts|Leads)\b(?!/\{id\}/(actions|__conv))", "{module}", path
    )


@pytest.fixture(scope="module")
def description():
    return Description(Path(os.environ["PULSE_ZOHO_OAS"]))


EXAMPLES = {
    r"(?P<module_name>(?!(?:org|users|settings|coql|actions)\b)[A-Za-z]\w*)": "Deals",
    r"(?P<record_id>\d{1,19})": "5725767000000000001",
    r"(?P<field_id>\d+)": "5725767000000000001",
    r"(?P<user_id>\d{1,19})": "5725767000000000001",
    r"(?P<job_id>\d{1,19})": "5725767000000000001",
    r"v[68]": "v8",
}


def example_of(pattern):
    for piece, text in EXAMPLES.items():
        pattern = pattern.replace(piece, text)
    return pattern


def test_every_call_and_parameter_is_the_vendors(description, tmp_path):
    store = Store(tmp_path / "empty.db", Clock())
    calls, parameters = set(), set()
    for route in routes_of(BulkJobs(store), Channels(store)):
        path = example_of(route.pattern.pattern)
        name = f"{route.method} {simple(path)}"
        operations = description.find(route.method, path)
        if not operations:
            calls.add(name)
            continue
        described = set().union(*(o[3] for o in operations))
        parameters |= {f"{name}: {p}" for p in route.params - described}
    store.close()
    assert calls == set(UNDESCRIBED_CALLS)
    assert parameters == set(UNDESCRIBED_PARAMETERS)


def session(crm):
    """Each call at least once; (answer, path)."""
    deal = crm.get("Deals", fields="Stage", per_page=1).json()["data"][0]["id"]
    fields = "Deal_Name,Stage,Account_Name,Owner,Modified_Time"
    layout = crm.get("settings/layouts", module="Deals").json()["layouts"][0]["id"]
    stage = next(f["id"] for f in crm.get("settings/fields", module="Deals").json()["fields"]
                 if f["api_name"] == "Stage")  # fmt: skip
    lead = crm.get("Leads", fields="Email", per_page=1).json()["data"][0]["id"]
    user = crm.get("users", type="CurrentUser").json()["users"][0]["id"]
    watch = {"channel_id": "1000", "events": ["Deals.all"], "token": "t",
             "notify_url": "https://example.com/hook"}  # fmt: skip
    new = {"Deal_Name": "New", "Stage": "Qualification", "Pipeline": "Standard"}
    yield from (
        crm.get(path, **params)
        for path, params in (
            ("Deals", {"fields": fields, "per_page": 2}), (f"Deals/{deal}", {}),
            ("Deals", {}), ("Deals", {"fields": fields, "page": 11}),
            ("Deals/actions/count", {}), ("org", {}), ("org/currencies", {}), ("users", {}),
            (f"users/{user}", {}), ("settings/modules", {}),
            ("settings/fields", {"module": "Deals"}),
            (f"settings/fields/{stage}", {"module": "Deals"}),
            (f"settings/fields/{stage}/pick_list_values", {"module": "Deals"}),
            ("settings/layouts", {"module": "Deals"}),
            ("settings/pipeline", {"layout_id": layout}),
            (f"Deals/{deal}/__timeline", {}), (f"Deals/{deal}/Stage_History", {"fields": "Stage"}),
            (f"Leads/{lead}/__conversion_options", {}),
            ("Deals/search", {"word": "e"}),
        )
    )  # fmt: skip
    yield crm.coql("select Stage from Deals where id is not null limit 2")
    yield crm.coql("select Stage from Deals")
    yield crm.write("POST", "Deals", [new])
    yield crm.write("PUT", "Deals", [{"id": deal, "Next_Step": "x"}, {"id": "1"}])
    yield crm.write("PUT", f"Deals/{deal}", [{"Next_Step": "x"}])
    old = {"If-Unmodified-Since": "2020-01-01T00:00:00+08:00"}
    yield crm.write("PUT", f"Deals/{deal}", [{"Next_Step": "y"}], headers=old)
    yield crm.write("POST", "Deals/upsert", [{**new, "Pulse_Id": "X"}])
    yield crm.write("POST", f"Leads/{lead}/actions/convert", [{"Deals": {**new,
                    "Closing_Date": "2026-12-01"}}])  # fmt: skip
    yield crm.call("DELETE", "/crm/v8/Deals", params={"ids": f"{deal},1"})
    yield crm.get("Deals/deleted", type="all")
    for method in ("POST", "GET", "PUT"):
        body = None if method == "GET" else {"watch": [watch]}
        yield crm.call(method, "/crm/v8/actions/watch", json=body)
    yield crm.call("DELETE", "/crm/v8/actions/watch", params={"channel_ids": "1000"})
    made = crm.call("POST", "/crm/v8/settings/fields", params={"module": "Deals"},
                    json={"fields": [{"field_label": "Extra", "data_type": "text"}]})  # fmt: skip
    yield made
    query = {"module": {"api_name": "Deals"}, "fields": ["Stage"]}
    job = crm.call("POST", "/crm/bulk/v8/read", json={"query": query})
    yield job
    yield crm.call("GET", f"/crm/bulk/v8/read/{job.json()['data'][0]['details']['id']}")


def test_every_key_of_every_answer_is_the_vendors(description, tmp_path):
    found = set()
    with running_sandbox(tmp_path, deals=20) as sandbox:
        for answer in session(Crm(sandbox)):
            path = answer.request.url.removeprefix(sandbox.url).partition("?")[0]
            method = answer.request.method
            described = [shapes(o, answer.status_code) for o in description.find(method, path)]
            described = [s for s in described if s is not None]
            if not described or not answer.content:
                continue  # that status is not described; ZOHO.md has it from elsewhere
            keys = [unknown_keys(document, s, answer.json()) for document, s in described]
            name = f"{method} {simple(path)} {answer.status_code}"
            found |= {f"{name}: {key}" for key in set.intersection(*keys)}
    fields = re.compile(r": \.data\[\]\.[A-Z$]\w*$")  # a record's own fields
    found = {k for k in found if not fields.search(k)}
    assert found == set(UNDESCRIBED_KEYS), "\n".join(sorted(found ^ set(UNDESCRIBED_KEYS)))
