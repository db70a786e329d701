"""Fields that a CRM has lost, each with the moment we learnt of it."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("crm", "0018_watermark_checks")]

    operations = [
        migrations.AddField(
            model_name="mirrorstate",
            name="lost_fields",
            field=models.JSONField(
                blank=True,
                help_text="Fields that the CRM had and has no more: name → since when.",
                null=True,
            ),
        ),
    ]
