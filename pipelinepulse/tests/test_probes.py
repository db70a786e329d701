"""The probes: what a load balancer hears, by the state of database, migrations and broker."""

import socket
import time
from pathlib import Path

import pytest
from django.db import connection, connections
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client


def test_healthz_answers_without_touching_the_database(client: Client) -> None:
    # no `db` mark: any query would fail this test
    response = client.get("/healthz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok"}


@pytest.mark.django_db
def test_readyz_is_degraded_without_broker_and_still_serves(client: Client) -> None:
    response = client.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {"status": "degraded", "database": "ok", "broker": "not configured"}
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.django_db
def test_row_21_readyz_is_503_while_a_migration_is_open(client: Client) -> None:
    MigrationRecorder(connection).record_unapplied("pipelinepulse", "0001_roles")
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["database"] == "1 migrations open"


@pytest.mark.django_db
def test_row_10_readyz_says_quickly_that_the_broker_is_down(client: Client, settings) -> None:
    with socket.socket() as listener:  # bound, never accepting: nobody answers there
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        port = listener.getsockname()[1]
        settings.REDIS_URL = settings.REDIS_CLIENT_URL = f"redis://127.0.0.1:{port}/0"
        begun = time.monotonic()
        response = client.get("/readyz")
    assert time.monotonic() - begun < 2
    assert response.status_code == 200
    assert response.json()["status"] == "degraded"
    assert response.json()["broker"] == "unreachable"


def test_row_13_readyz_is_503_without_database(
    client: Client, django_db_blocker, tmp_path: Path
) -> None:
    kept = connections["default"]
    nowhere = {**kept.settings_dict, "NAME": f"{tmp_path}/gone/x"[-60:], "PORT": 1}
    connections["default"] = type(kept)(nowhere, alias="default")
    try:
        with django_db_blocker.unblock():
            response = client.get("/readyz")
    finally:
        connections["default"] = kept
    assert response.status_code == 503
    assert response.json()["status"] == "unavailable"
    assert response.json()["database"] == "unreachable"


@pytest.mark.django_db
def test_probes_answer_a_host_name_that_pages_refuse(client: Client) -> None:
    assert client.get("/readyz", headers={"host": "10.1.2.3:8000"}).status_code == 200
    assert client.get("/login", headers={"host": "10.1.2.3:8000"}).status_code == 400


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_take_no_post(client: Client, path: str) -> None:
    assert client.post(path).status_code == 405
