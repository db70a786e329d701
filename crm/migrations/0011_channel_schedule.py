"""The schedule that keeps notification channels alive, as a row that ops edit in the admin."""

from django.db import migrations

TASK = "crm.tasks.keep_channels"


def add_schedule(apps, schema_editor):
    Interval = apps.get_model("django_celery_beat", "IntervalSchedule")
    Task = apps.get_model("django_celery_beat", "PeriodicTask")
    every, _ = Interval.objects.get_or_create(every=10, period="minutes")
    Task.objects.get_or_create(
        task=TASK, defaults={"name": "CRM: notification channels", "interval": every}
    )


def remove_schedule(apps, schema_editor):
    apps.get_model("django_celery_beat", "PeriodicTask").objects.filter(task=TASK).delete()


class Migration(migrations.Migration):
    dependencies = [
        ("crm", "0010_inbox"),
        ("django_celery_beat", "0019_alter_periodictasks_options"),
    ]
    operations = [migrations.RunPython(add_schedule, remove_schedule)]
