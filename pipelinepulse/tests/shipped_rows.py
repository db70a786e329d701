"""Rows that migrations ship, for tests that empty every table.

Django's own way (serialized_rollback) leaves the tables empty for the test after, and takes a
second each time on PostgreSQL.
"""

from collections.abc import Iterator

from django.apps import apps
from django.core import serializers
from django.db import transaction
from django.db.models import Model

# Content types and permissions are made again by Django itself after it has emptied the tables,
# under other keys; groups hold permissions, so they come back by name.
MADE_AGAIN = {"contenttypes.contenttype", "auth.permission"}
BY_NAME = "auth.group"


def remember() -> tuple[list[str], str]:
    """Names of the groups, and every other row that is there, as JSON."""
    # At run time: this module is imported before Django is set up.
    group = apps.get_model(BY_NAME)
    return list(group.objects.values_list("name", flat=True)), serializers.serialize(
        "json", _rows()
    )


def _rows() -> Iterator[Model]:
    for model in apps.get_models():
        if model._meta.label_lower not in {*MADE_AGAIN, BY_NAME} and model._meta.managed:
            yield from model._base_manager.all()


def restore(shipped: tuple[list[str], str]) -> None:
    """Put them back into emptied tables."""
    groups, rows = shipped
    with transaction.atomic():
        for name in groups:
            apps.get_model(BY_NAME).objects.get_or_create(name=name)
        for row in serializers.deserialize("json", rows):
            row.save()
