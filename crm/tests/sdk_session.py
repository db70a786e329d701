"""A session of the official SDK with the sandbox, run by an interpreter that has it."""
# ruff: noqa: T201

import sys
from datetime import UTC, datetime, timedelta

from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.api.authenticator.store import FileStore
from zohocrmsdk.src.com.zoho.crm.api import HeaderMap, ParameterMap
from zohocrmsdk.src.com.zoho.crm.api.dc import DataCenter
from zohocrmsdk.src.com.zoho.crm.api.initializer import Initializer
from zohocrmsdk.src.com.zoho.crm.api.record import (
    BodyWrapper,
    DeleteRecordsParam,
    Field,
    GetDeletedRecordsParam,
    GetRecordsHeader,
    GetRecordsParam,
    Record,
    RecordOperations,
)
from zohocrmsdk.src.com.zoho.crm.api.sdk_config import SDKConfig
from zohocrmsdk.src.com.zoho.crm.api.util import Choice

base, folder = sys.argv[1:]
environment = DataCenter.Environment(base, base + "/oauth/v2/token", base)
token = OAuthToken(
    client_id="1000.SANDBOX",
    client_secret="sandbox-secret",
    refresh_token="1000.sandbox.refresh",
    find_user=True,
)
config = SDKConfig(
    auto_refresh_fields=False, pick_list_validation=False, update_api_domain=False,
    connect_timeout=3, read_timeout=5,
)  # fmt: skip
Initializer.initialize(
    environment, token, store=FileStore(f"{folder}/tokens.txt"), sdk_config=config,
    resource_path=folder,
)  # fmt: skip
parameters = ParameterMap()
parameters.add(GetRecordsParam.fields, "Deal_Name,Amount,Stage,Modified_Time,Owner")
parameters.add(GetRecordsParam.per_page, 5)
deals = RecordOperations("Deals")
listed = deals.get_records(parameters, HeaderMap()).get_object().get_data()


def body_of(**values):
    """A body with one record of these fields."""
    record = Record()
    for name, value in values.items():
        record.add_key_value(name, Choice(value) if name in CHOICES else value)
    body = BodyWrapper()
    body.set_data([record])
    return body, record


def ids_of(answer):
    """The ids that a write's answer names."""
    return [item.get_details()["id"] for item in answer.get_object().get_data()]


CHOICES = {"Stage", "Pipeline"}

# Update.
body, change = body_of()
change.set_id(listed[0].get_id())
change.add_field_value(Field.Deals.deal_name(), "New name")
body.set_trigger([])
updated = deals.update_records(body, HeaderMap()).get_status_code() == 200
again = deals.get_record(listed[0].get_id(), ParameterMap(), HeaderMap()).get_object().get_data()
print(
    f"listed {len(listed)}, {'updated' if updated else 'refused'}, read back as "
    f"{again[0].get_key_value('Deal_Name')}"
)

# Insert, upsert, delete.
body, _ = body_of(Deal_Name="Made by the SDK", Stage="Qualification", Pipeline="Standard",
                  Pulse_Id="SDK-1")  # fmt: skip
made = ids_of(deals.create_records(body, HeaderMap()))
body, _ = body_of(Deal_Name="Made again", Stage="Qualification", Pipeline="Standard",
                  Pulse_Id="SDK-1")  # fmt: skip
body.set_duplicate_check_fields(["Pulse_Id"])
found = ids_of(deals.upsert_records(body, HeaderMap()))
gone = ParameterMap()
gone.add(DeleteRecordsParam.ids, str(made[0]))
removed = ids_of(deals.delete_records(gone, HeaderMap()))
bin_of = ParameterMap()
bin_of.add(GetDeletedRecordsParam.type, "recycle")
listed_as_gone = deals.get_deleted_records(bin_of, HeaderMap()).get_object().get_data()
print(
    f"upsert found it: {found == made}, removed it: {removed == made}, listed as gone: "
    f"{[str(r.get_id()) for r in listed_as_gone] == [str(made[0])]}"
)

# What changed since: nothing.
since = HeaderMap()
since.add(GetRecordsHeader.if_modified_since, datetime.now(UTC) + timedelta(hours=1))
unchanged = deals.get_records(parameters, since)
print(f"changed since: {unchanged.get_status_code()}, object {unchanged.get_object()}")
