"""The calls there are: method, path, what runs, scopes, when a call is heavy, known parameters.

Query parameters that a call does not know are passed over, as the CRM does; `app.py` counts them
as broken rules, so that a client cannot lean on a parameter that does nothing.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from crm.sandbox import (
    convert,
    coql,
    field_setup,
    metadata,
    records,
    search,
    timeline,
    views,
    writes,
)
from crm.sandbox.bulk import BulkJobs
from crm.sandbox.channels import Channels
from crm.sandbox.server import Request, Response

Handler = Callable[..., Response]
Heavy = Callable[[Request], bool]


@dataclass(frozen=True)
class Route:
    """One call. `scopes` may hold {module} and {verb}; `params` are the query keys it reads."""

    method: str
    pattern: re.Pattern[str]
    handler: Handler
    scopes: tuple[str, ...]
    heavy: Heavy
    params: frozenset[str]


def _never(_request: Request) -> bool:
    return False


def _always(_request: Request) -> bool:
    return True


def _sorted_list(request: Request) -> bool:
    return "sort_by" in request.query or "cvid" in request.query


def _many_records(request: Request) -> bool:
    try:
        data = request.json.get("data")
    except (ValueError, AttributeError):
        return False
    return isinstance(data, list) and len(data) > 10


MODULE = r"(?P<module_name>(?!(?:org|users|settings|coql|actions)\b)[A-Za-z]\w*)"
RECORD = r"(?P<record_id>\d{1,19})"
FIELD_ID = r"(?P<field_id>\d+)"

READING = "ZohoCRM.modules.{module}.READ"
CREATING = "ZohoCRM.modules.{module}.CREATE"
UPDATING = "ZohoCRM.modules.{module}.UPDATE"
DELETING = "ZohoCRM.modules.{module}.DELETE"
FIELDS = "ZohoCRM.settings.fields.{verb}"
WATCHING = "ZohoCRM.notifications.{verb}"
SEARCHING = "ZohoSearch.securesearch.READ"

PAGED = "page per_page"
ONE_RECORD = "fields approved converted cvid territory_id include_child"
LIST = f"{ONE_RECORD} ids {PAGED} page_token sort_by sort_order"

Row = tuple[str, str, Handler, str, Heavy, str]


def _records_rows() -> list[Row]:
    return [
        ("GET", rf"Deals/{RECORD}/Stage_History", timeline.get_stage_history,
         "ZohoCRM.modules.deals.READ", _never, f"fields {PAGED} page_token sort_by sort_order"),
        ("GET", rf"{MODULE}/{RECORD}/__timeline", timeline.get_timeline, READING, _never,
         f"{PAGED} page_token filters filter sort_by sort_order include include_inner_details "
         "include_timeline_type"),
        ("GET", rf"{MODULE}/deleted", records.list_deleted, READING, _never, f"type {PAGED}"),
        ("GET", rf"{MODULE}/actions/count", search.count_records, READING, _never,
         "cvid criteria email phone word converted approved"),
        ("GET", rf"{MODULE}/search", search.search_records, f"{READING} {SEARCHING}", _always,
         f"criteria email phone word converted approved fields cvid type {PAGED}"),
        ("POST", rf"{MODULE}/upsert", writes.upsert_records, CREATING, _many_records, ""),
        ("GET", MODULE, records.list_records, READING, _sorted_list, LIST),
        ("POST", MODULE, writes.insert_records, CREATING, _many_records, ""),
        ("PUT", MODULE, writes.update_records, UPDATING, _many_records, ""),
        ("DELETE", MODULE, writes.delete_records, DELETING, _never, "ids wf_trigger"),
        ("GET", rf"{MODULE}/{RECORD}", records.get_record, READING, _never, ONE_RECORD),
        ("PUT", rf"{MODULE}/{RECORD}", writes.update_records, UPDATING, _never, ""),
        ("DELETE", rf"{MODULE}/{RECORD}", writes.delete_records, DELETING, _never, "wf_trigger"),
    ]  # fmt: skip


def _settings_rows() -> list[Row]:
    return [
        ("GET", r"org", metadata.get_org, "ZohoCRM.org.READ", _never, ""),
        ("GET", r"org/currencies", metadata.get_currencies, "ZohoCRM.settings.currencies.READ",
         _never, ""),
        ("GET", r"users", metadata.get_users, "ZohoCRM.users.READ", _never,
         f"type type__s {PAGED}"),
        ("GET", r"users/(?P<user_id>\d{1,19})", metadata.get_user, "ZohoCRM.users.READ", _never,
         ""),
        ("GET", r"settings/modules", metadata.get_modules, "ZohoCRM.settings.modules.READ",
         _never, "status include feature_name"),
        ("GET", r"settings/custom_views", views.get_custom_views,
         "ZohoCRM.settings.custom_views.READ", _never, f"module {PAGED}"),
        ("GET", r"settings/fields", metadata.get_fields, FIELDS, _never, "module type include"),
        ("POST", r"settings/fields", field_setup.create_fields, FIELDS, _never, "module"),
        ("GET", rf"settings/fields/{FIELD_ID}", metadata.get_field, FIELDS, _never,
         "module type include"),
        ("PATCH", rf"settings/fields/{FIELD_ID}", field_setup.update_field, FIELDS, _never,
         "module"),
        ("DELETE", rf"settings/fields/{FIELD_ID}", field_setup.delete_field, FIELDS, _never,
         "module"),
        ("GET", rf"settings/fields/{FIELD_ID}/pick_list_values", metadata.get_pick_list_values,
         FIELDS, _never, "module"),
        ("GET", r"settings/layouts", metadata.get_layouts, "ZohoCRM.settings.layouts.READ",
         _never, "module mode include include_inner_details"),
        ("GET", r"settings/pipeline", metadata.get_pipelines, "ZohoCRM.settings.pipeline.READ",
         _never, "layout_id"),
    ]  # fmt: skip


def routes_of(bulk: BulkJobs, channels: Channels) -> list[Route]:
    """The whole table; the first route that fits a path is meant."""
    rows: list[Row] = [
        ("POST", r"coql", coql.run_coql, "ZohoCRM.coql.READ ZohoCRM.modules.READ", _always, ""),
        *_settings_rows(),
        ("GET", r"actions/watch", channels.show, WATCHING, _never, f"channel_id module {PAGED}"),
        ("POST", r"actions/watch", channels.register, WATCHING, _never, ""),
        ("PUT", r"actions/watch", channels.replace, WATCHING, _never, ""),
        ("PATCH", r"actions/watch", channels.change, WATCHING, _never, "channel_id"),
        ("DELETE", r"actions/watch", channels.remove, WATCHING, _never, "channel_ids"),
        ("POST", rf"Leads/{RECORD}/actions/convert", convert.convert_lead,
         "ZohoCRM.modules.leads.CREATE", _always, ""),
        ("GET", rf"Leads/{RECORD}/__conversion_options", convert.conversion_options,
         "ZohoCRM.modules.leads.READ", _never, ""),
        *_records_rows(),
    ]  # fmt: skip
    job = r"read/(?P<job_id>\d{1,19})"
    bulk_scopes = "ZohoCRM.bulk.READ ZohoCRM.modules.READ"
    bulk_rows: list[Row] = [
        ("POST", r"read", bulk.create, bulk_scopes, _never, ""),
        ("GET", job, bulk.status, bulk_scopes, _never, ""),
        ("GET", rf"{job}/result", bulk.result, bulk_scopes, _never, ""),
    ]
    return [_route("/crm/v[68]/", row) for row in rows] + [
        _route("/crm/bulk/v[68]/", row) for row in bulk_rows
    ]


def _route(base: str, row: Row) -> Route:
    method, path, handler, scopes, heavy, params = row
    return Route(
        method,
        re.compile(base + path),
        handler,
        tuple(scopes.split()),
        heavy,
        frozenset(params.split()),
    )
