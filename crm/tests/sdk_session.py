"""A session of the official SDK with the sandbox, run by an interpreter that has it."""
# ruff: noqa: T201

import sys

from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.api.authenticator.store import FileStore
from zohocrmsdk.src.com.zoho.crm.api import HeaderMap, ParameterMap
from zohocrmsdk.src.com.zoho.crm.api.dc import DataCenter
from zohocrmsdk.src.com.zoho.crm.api.initializer import Initializer
from zohocrmsdk.src.com.zoho.crm.api.record import (
    BodyWrapper,
    Field,
    GetRecordsParam,
    Record,
    RecordOperations,
)
from zohocrmsdk.src.com.zoho.crm.api.sdk_config import SDKConfig

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
change = Record()
change.set_id(listed[0].get_id())
change.add_field_value(Field.Deals.deal_name(), "New name")
body = BodyWrapper()
body.set_data([change])
body.set_trigger([])
updated = deals.update_records(body, HeaderMap()).get_status_code() == 200
again = deals.get_record(listed[0].get_id(), ParameterMap(), HeaderMap()).get_object().get_data()
name = again[0].get_key_value("Deal_Name")
print(f"listed {len(listed)}, {'updated' if updated else 'refused'}, read back as {name}")
