"""The schedules of the sync as rows that ops edit in the admin: delta every 15 minutes, full weekly."""

from django.conf import settings
from django.db import migrations


def add_schedules(apps, schema_editor):
    Interval = apps.get_model("django_celery_beat", "IntervalSchedule")
    Crontab = apps.get_model("django_celery_beat", "CrontabSchedule")
    Task = apps.get_model("django_celery_beat", "PeriodicTask")
    every, _ = Interval.objects.get_or_create(every=settings.DELTA_MINUTES, period="minutes")
    Task.objects.get_or_create(
        task="crm.tasks.scheduled_delta",
        defaults={"name": "CRM: delta sync", "interval": every},
    )
    sunday, _ = Crontab.objects.get_or_create(
        minute="0", hour="3", day_of_week="0", timezone=settings.BUSINESS_TIME_ZONE
    )
    Task.objects.get_or_create(
        task="crm.tasks.scheduled_full",
        defaults={"name": "CRM: full sync", "crontab": sunday},
    )
    midnight, _ = Crontab.objects.get_or_create(
        minute="1", hour="0", timezone=settings.BUSINESS_TIME_ZONE
    )
    Task.objects.get_or_create(
        task="crm.tasks.turn_of_the_day",
        defaults={"name": "CRM: rates of the new day", "crontab": midnight},
    )


def remove_schedules(apps, schema_editor):
    Task = apps.get_model("django_celery_beat", "PeriodicTask")
    Task.objects.filter(task__startswith="crm.tasks.").delete()


class Migration(migrations.Migration):
    dependencies = [
        ("crm", "0001_initial"),
        ("django_celery_beat", "0019_alter_periodictasks_options"),
    ]
    operations = [migrations.RunPython(add_schedules, remove_schedules)]
