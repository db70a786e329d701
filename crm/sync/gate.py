"""The gate of a module: writers pass one by one, so change numbers appear in commit order."""

from __future__ import annotations

from django.db import connection

from crm.models import MirrorState


def pass_gate(module: str, count: int) -> int:
    """Lock the module's gate until commit; returns the last number given out before ours.

    `count` numbers after it belong to the caller. Inside a transaction.
    """
    table = MirrorState._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {table} SET change_seq = change_seq + %s "  # noqa: S608
            "WHERE module = %s RETURNING change_seq",
            [count, module],
        )
        found = cursor.fetchone()
    if found is None:
        MirrorState.objects.get_or_create(module=module)
        return pass_gate(module, count)
    return found[0] - count
