"""App configuration of crm: teaches SQLite to compare text without case beyond ASCII."""

import sqlite3
from typing import Any

from django.apps import AppConfig
from django.db.backends.signals import connection_created


class CrmConfig(AppConfig):
    name = "crm"
    verbose_name = "CRM mirror"

    def ready(self) -> None:
        connection_created.connect(_add_casefold, dispatch_uid="crm-casefold")


def _add_casefold(connection: Any, **kwargs: Any) -> None:
    if isinstance(connection.connection, sqlite3.Connection):
        connection.connection.create_function("CASEFOLD", 1, _casefold, deterministic=True)


def _casefold(text: Any) -> Any:
    return text.casefold() if isinstance(text, str) else text
