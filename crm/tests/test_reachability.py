"""A person's sync is refused while the CRM is known to be down; a scheduled one is not."""

import json
import time
from types import SimpleNamespace

import pytest

from crm import shared_state
from crm.errors import CrmUnreachable
from crm.models import SyncRun
from crm.sync.runs import request_run
from crm.zoho.auth import Credentials

pytestmark = pytest.mark.django_db
HOST = "127.0.0.1:9"


@pytest.fixture(autouse=True)
def configured(settings) -> None:
    settings.ZOHO = SimpleNamespace(
        base_url=f"http://{HOST}",
        accounts_url=f"http://{HOST}",
        api_version="v8",
        client_id="id",
        client_secret="secret",
        refresh_token="refresh",
        rate_limit_per_minute=100,
        concurrency=2,
        patience={},
    )


def put_breaker(open_until: float) -> None:
    weather = {"failures": 5, "failed_at": 1.0, "open_until": open_until, "probe_until": 0.0}
    shared_state.durable().put(f"zoho:breaker:{HOST}", json.dumps(weather), 300)


def test_sync_is_refused_while_the_crm_is_left_alone() -> None:
    put_breaker(time.time() + 40)
    with pytest.raises(CrmUnreachable) as refused:
        request_run(kind="delta", trigger="api", nudge=False)
    assert "left alone until" in refused.value.message
    assert 30 < refused.value.retry_after_s <= 40
    assert not SyncRun.objects.exists()


def test_sync_is_queued_once_the_rest_is_over() -> None:
    put_breaker(time.time() - 1)
    assert request_run(kind="delta", trigger="api", nudge=False).status == "queued"


def test_refused_credentials_refuse_a_sync_and_waiting_does_not_help() -> None:
    credentials = Credentials(f"http://{HOST}", "id", "secret", "refresh")
    refusal = {"message": "Connect the CRM again.", "code": "invalid_code", "status": 200}
    name = f"zoho:refused:{credentials.full_fingerprint}"
    shared_state.durable().put(name, json.dumps(refusal), 300)
    with pytest.raises(CrmUnreachable, match="Connect the CRM again") as refused:
        request_run(kind="full", trigger="user", nudge=False)
    assert refused.value.retry_after_s is None


def test_schedule_asks_anyway() -> None:
    put_breaker(time.time() + 40)
    assert request_run(kind="delta", trigger="schedule", nudge=False).status == "queued"
