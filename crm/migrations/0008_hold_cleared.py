"""A hold may end by itself: a full sync met every record again."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("crm", "0007_stage_former_names")]

    operations = [
        migrations.AlterField(
            model_name="deletionhold",
            name="status",
            field=models.CharField(
                choices=[
                    ("held", "Held"),
                    ("applied", "Applied"),
                    ("dismissed", "Dismissed"),
                    ("cleared", "Cleared"),
                ],
                default="held",
                max_length=10,
            ),
        ),
    ]
