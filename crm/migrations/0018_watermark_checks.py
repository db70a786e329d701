"""No watermark where no run can have set it, whoever writes it."""

from datetime import UTC, datetime

from django.db import migrations
from django.db.models import CheckConstraint, F, Q


class Migration(migrations.Migration):
    dependencies = [("crm", "0017_watermark_limit")]

    operations = [
        migrations.AddConstraint(
            model_name="mirrorstate",
            constraint=CheckConstraint(
                condition=Q(
                    watermark__gte=datetime(2000, 1, 1, tzinfo=UTC),
                    watermark__lt=datetime(2100, 1, 1, tzinfo=UTC),
                ),
                name="crm_watermark_is_a_time",
            ),
        ),
        migrations.AddConstraint(
            model_name="mirrorstate",
            constraint=CheckConstraint(
                condition=Q(watermark__lte=F("watermark_limit")), name="crm_watermark_not_ahead"
            ),
        ),
        migrations.AddConstraint(
            model_name="mirrorstate",
            constraint=CheckConstraint(
                condition=Q(complete_s0__lte=F("watermark_limit")), name="crm_complete_not_ahead"
            ),
        ),
    ]
