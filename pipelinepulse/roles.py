"""What the role ops may do in the admin, as permissions of its group; set after each migration.

The acts themselves ask the apps' permission functions as well. Other roles have no admin.
"""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Group, Permission
from django.db.models import Q

OPS = "ops"
# Apps whose every row ops may look at.
SEEN = ("crm", "o2r", "health", "django_celery_beat", "axes")
CHANGED: dict[str, dict[str, tuple[str, ...]]] = {
    # How far they reach there, `pipelinepulse/admin.py` decides.
    "auth": {"user": ("view", "add", "change")},
    "crm": {
        "crmstage": ("change",),
        "exchangerate": ("add", "change", "delete"),
        "fieldmapping": ("add", "change", "delete"),
        "writeback": ("add", "change"),
    },
    "o2r": {
        "signalrule": ("change",),
        "stagephase": ("add", "change", "delete"),
        "trackersettings": ("change",),
    },
    "django_celery_beat": {
        "periodictask": ("change",),
        "intervalschedule": ("add", "change"),
        "crontabschedule": ("add", "change"),
    },
}


def grant_ops(sender: AppConfig, **kwargs: Any) -> None:
    """Receiver of `post_migrate`, for the permissions of the app that was just migrated."""
    if sender.label not in {*SEEN, *CHANGED}:
        return
    create_permissions(sender, verbosity=0)  # whichever receiver comes first
    wanted = Q(codename__startswith="view_") if sender.label in SEEN else Q(pk=None)
    for model, acts in CHANGED.get(sender.label, {}).items():
        wanted |= Q(codename__in=[f"{act}_{model}" for act in acts])
    ops, _ = Group.objects.get_or_create(name=OPS)
    ops.permissions.add(*Permission.objects.filter(wanted, content_type__app_label=sender.label))
