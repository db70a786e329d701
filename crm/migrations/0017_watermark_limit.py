"""A column that says how far a watermark may lie ahead; marks that no run can have set are dropped,
which has their modules read whole. The checks follow in a migration of their own."""

from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import migrations, models
from django.db.models import Q
from django.utils import timezone

EARLIEST, END = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
LEAD = timedelta(days=1)


def fill(apps: Any, schema_editor: Any) -> None:
    states = apps.get_model("crm", "MirrorState").objects
    far = Q(watermark__gte=END) | Q(watermark__gt=timezone.now() + LEAD)
    states.filter(far | Q(watermark__lt=EARLIEST)).update(watermark=None)
    states.filter(complete_s0__gt=timezone.now() + LEAD).update(complete_s0=None)
    states.update(watermark_limit=timezone.now() + 2 * LEAD)


class Migration(migrations.Migration):
    dependencies = [("crm", "0016_hold_without_run")]

    operations = [
        migrations.AddField(
            model_name="mirrorstate",
            name="watermark_limit",
            field=models.DateTimeField(
                blank=True,
                help_text="The latest that the watermark can be: a day after it was last moved.",
                null=True,
            ),
        ),
        migrations.RunPython(fill, migrations.RunPython.noop, elidable=True),
    ]
