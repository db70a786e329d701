"""New versions and copies of the database: migrations that expand only, killed ones, backups."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet, InvalidToken
from django.core.management import call_command
from django.db import connection, connections, migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation

from crm.models import ChangeEvent, Deal, SharedValue
from crm.tests.factories import connect, deal, make_store, minutes, raws
from crm.tests.processes import run_in_child
from crm.tests.synced import Crm
from crm.zoho.factory import FernetCipher

ROOT = Path(__file__).resolve().parents[2]
OURS = ("crm", "o2r", "health", "pipelinepulse")
NARROWING = (
    migrations.DeleteModel,
    migrations.RemoveField,
    migrations.RenameField,
    migrations.RenameModel,
    migrations.AlterModelTable,
)
KILLED = -signal.SIGKILL


# -- old code beside new code ---------------------------------------------------------------------


def objection(operation: Operation, *, is_released: bool) -> str:
    """Why the code of the version before could not go on beside this; empty if it could."""
    if isinstance(operation, NARROWING):
        return "takes away what the version before still reads"
    if isinstance(operation, migrations.AddField) and is_released:
        field = operation.field
        has_default = field.db_default is not models.NOT_PROVIDED
        if not (field.null or has_default or field.many_to_many):
            return "the version before inserts rows without it: give it null or a db_default"
    if isinstance(operation, migrations.SeparateDatabaseAndState):
        return next(filter(None, (objection(each, is_released=is_released)
                                  for each in operation.database_operations)), "")  # fmt: skip
    return ""


@pytest.mark.parametrize(
    ("operation", "is_fine"),
    [
        (migrations.RemoveField("deal", "name"), False),
        (migrations.RenameField("deal", "name", "title"), False),
        (migrations.DeleteModel("deal"), False),
        (migrations.AddField("deal", "a", models.BooleanField(default=False)), False),
        (migrations.AddField("deal", "a", models.BooleanField(db_default=False)), True),
        (migrations.AddField("deal", "a", models.DateField(null=True)), True),
        (migrations.SeparateDatabaseAndState([migrations.DeleteModel("deal")]), False),
        (migrations.SeparateDatabaseAndState([], [migrations.DeleteModel("deal")]), True),
        (migrations.CreateModel("new", []), True),
    ],
)
def test_row_21_what_the_version_before_could_not_live_with_is_found(
    operation: Operation, is_fine: bool
) -> None:
    assert bool(objection(operation, is_released=True)) is not is_fine


def test_row_21_no_migration_takes_away_what_the_version_before_uses() -> None:
    """In place of running an older release upon the newer schema: expand, release, contract.

    Until a version is released there is none that could insert rows without a new column. The way
    round, new code upon the old schema, is not served: /readyz says 503 while a migration is open.
    """
    is_released = bool(re.search(r"^## \[?v?\d", (ROOT / "CHANGELOG.md").read_text(), re.M))
    shipped = MigrationLoader(None, ignore_no_migrations=True).disk_migrations
    found = [
        f"{app} {name}: {operation.describe()} ({why})"
        for (app, name), migration in sorted(shipped.items())
        if app in OURS and not migration.initial
        for operation in migration.operations
        if (why := objection(operation, is_released=is_released))
    ]
    assert found == []


# -- a migration interrupted ----------------------------------------------------------------------


def test_row_22_every_migration_is_one_transaction() -> None:
    shipped = MigrationLoader(None, ignore_no_migrations=True).disk_migrations
    ours = {key: migration for key, migration in shipped.items() if key[0] in OURS}
    assert len(ours) > 10
    assert [key for key, migration in ours.items() if not migration.atomic] == []


def migrate(file: Path, *, killed_after: int = 0) -> None:
    """Migrate that file; die by SIGKILL before that many-th statement upon the schema."""
    kept = connections["default"]
    here = {**kept.settings_dict, "NAME": str(file)}
    connections["default"] = type(kept)(here, alias="default")
    execute, done = BaseDatabaseSchemaEditor.execute, 0

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal done
        done += 1
        if done == killed_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return execute(self, *args, **options)

    BaseDatabaseSchemaEditor.execute = counted  # type: ignore[method-assign]
    call_command("migrate", verbosity=0, interactive=False)


def schema_of(file: Path) -> dict[str, str]:
    with sqlite3.connect(file) as database:
        found = database.execute("select type || ' ' || name, sql from sqlite_master").fetchall()
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    return dict(found)


@pytest.mark.sqlite
@pytest.mark.processes
def test_row_22_migrations_killed_half_way_go_on_when_started_again(
    db: None, tmp_path: Path
) -> None:
    file, whole = tmp_path / "killed.sqlite3", tmp_path / "whole.sqlite3"
    deaths = 0
    for statement in (3, 60, 45, 90):
        status = run_in_child(lambda nth=statement: migrate(file, killed_after=nth))
        assert status in (KILLED, 0)
        deaths += status == KILLED
    assert deaths >= 3
    assert run_in_child(lambda: migrate(file)) == 0
    assert run_in_child(lambda: migrate(whole)) == 0
    assert schema_of(file) == schema_of(whole)


# -- a copy while it is written to ----------------------------------------------------------------


@pytest.fixture
def writing() -> Iterator[threading.Event]:
    """Pages of deals are stored, one after the other, until the test ends; set after the first."""
    connect()
    begun, over = threading.Event(), threading.Event()

    def write() -> None:
        try:
            number = 0
            while not over.is_set():
                number += 1
                page = raws(*[deal(number * 100 + n) for n in range(1, 41)])
                make_store().store(page, read_at=minutes(1))
                begun.set()
        finally:
            connections.close_all()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield begun
    finally:
        over.set()
        writer.join(30)


@pytest.mark.sqlite
@pytest.mark.django_db(transaction=True)
def test_row_23_a_copy_made_while_pages_are_stored_is_whole(
    writing: threading.Event, tmp_path: Path
) -> None:
    assert writing.wait(20)
    before = Deal.objects.count(), ChangeEvent.objects.count()
    elsewhere = tmp_path / "elsewhere.sqlite3"
    source = sqlite3.connect(connection.settings_dict["NAME"])
    with source, sqlite3.connect(elsewhere) as target:
        source.backup(target)
    source.close()
    with sqlite3.connect(elsewhere) as copy:
        assert copy.execute("pragma integrity_check").fetchone() == ("ok",)
        assert copy.execute("pragma foreign_key_check").fetchall() == []
        (deals,) = copy.execute("select count(*) from crm_deal").fetchone()
        (events,) = copy.execute("select count(*) from crm_changeevent").fetchone()
    assert deals >= before[0] and events >= before[1]
    # No page is there by half: each deal with its event, forty to a page.
    assert deals == events and deals % 40 == 0


def test_row_23_without_the_key_a_copy_opens_nothing(big_crm: Crm) -> None:
    big_crm.sync("delta", "Accounts")
    kept = [value.value for value in SharedValue.objects.all()]
    token = next(text for text in kept if text.startswith("gAAAA"))
    assert "1000." in FernetCipher(list(big_crm.settings.ENCRYPTION_KEYS)).decrypt(token)
    secrets = (big_crm.settings.ZOHO.client_secret, big_crm.settings.ZOHO.refresh_token)
    assert not [text for text in kept if "1000." in text or any(s in text for s in secrets)]
    with pytest.raises(InvalidToken):
        Fernet(Fernet.generate_key()).decrypt(token.encode())
