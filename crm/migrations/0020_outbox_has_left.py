from django.db import migrations, models


def say_of_earlier_creations(apps, schema_editor):
    """Whether one was sent was not kept until now: each that was tried may have been."""
    entries = apps.get_model("crm", "OutboxEntry").objects
    entries.filter(kind="create", attempts__gt=0).update(has_left=True)
    entries.filter(kind="create", status__in=("sending", "unknown", "dead")).update(has_left=True)


class Migration(migrations.Migration):
    dependencies = [
        ("crm", "0019_lost_fields"),
    ]

    operations = [
        migrations.AddField(
            model_name="outboxentry",
            name="has_left",
            field=models.BooleanField(
                default=False,
                editable=False,
                help_text="It was sent at least once: whatever the answer, the CRM may have it.",
            ),
        ),
        migrations.RunPython(say_of_earlier_creations, migrations.RunPython.noop),
    ]
