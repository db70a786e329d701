"""The nightly proof of the mirror as a schedule that ops edit in the admin."""

from django.conf import settings
from django.db import migrations

TASK = "crm.tasks.scheduled_reconcile"


def add_schedule(apps, schema_editor):
    Crontab = apps.get_model("django_celery_beat", "CrontabSchedule")
    Task = apps.get_model("django_celery_beat", "PeriodicTask")
    # Not at the hour of the weekly full sync, which it would have to wait for.
    night, _ = Crontab.objects.get_or_create(
        minute="30", hour="1", timezone=settings.BUSINESS_TIME_ZONE
    )
    Task.objects.get_or_create(
        task=TASK, defaults={"name": "CRM: nightly reconcile", "crontab": night}
    )


def remove_schedule(apps, schema_editor):
    apps.get_model("django_celery_beat", "PeriodicTask").objects.filter(task=TASK).delete()


class Migration(migrations.Migration):
    dependencies = [("crm", "0013_reconciliation")]

    operations = [migrations.RunPython(add_schedule, remove_schedule)]
