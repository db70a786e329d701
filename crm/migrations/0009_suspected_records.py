"""Which records of a module are suspected of killing the workers that store them."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("crm", "0008_hold_cleared")]

    operations = [
        migrations.AddField(
            model_name="syncrunmodule",
            name="isolation",
            field=models.JSONField(
                default=dict,
                editable=False,
                help_text="Which records are suspected of killing workers.",
            ),
        ),
    ]
