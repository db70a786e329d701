"""A stage remembers how it was shown before."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("crm", "0006_no_index_by_contact")]

    operations = [
        migrations.AddField(
            model_name="crmstage",
            name="former_names",
            field=models.JSONField(
                blank=True,
                default=list,
                editable=False,
                help_text="How it was shown before: deals that were not read since still say so.",
            ),
        ),
    ]
