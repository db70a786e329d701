"""What the group of ops may do in the admin."""

import pytest
from django.apps import apps
from django.contrib.auth.models import Group

from pipelinepulse.roles import grant_ops

pytestmark = pytest.mark.django_db


def test_ops_see_every_row_and_change_configuration_alone(ops) -> None:
    seen = {f"{m._meta.app_label}.view_{m._meta.model_name}" for m in models_of("crm", "o2r")}
    assert ops.has_perms(seen)
    changing = {name for name in ops.get_all_permissions() if ".view_" not in name}
    assert changing == {
        "auth.add_user",
        "auth.change_user",
        "crm.change_crmstage",
        *(f"crm.{act}_exchangerate" for act in ("add", "change", "delete")),
        *(f"crm.{act}_fieldmapping" for act in ("add", "change", "delete")),
        *(f"crm.{act}_writeback" for act in ("add", "change")),
        "o2r.change_signalrule",
        "o2r.change_trackersettings",
        *(f"o2r.{act}_stagephase" for act in ("add", "change", "delete")),
        "django_celery_beat.change_periodictask",
        *(f"django_celery_beat.{act}_intervalschedule" for act in ("add", "change")),
        *(f"django_celery_beat.{act}_crontabschedule" for act in ("add", "change")),
    }


def test_other_roles_have_nothing_in_the_admin(rep, manager, integrator) -> None:
    assert not any(user.get_all_permissions() for user in (rep, manager, integrator))


def test_granting_again_changes_nothing() -> None:
    ops = Group.objects.get(name="ops")
    before = set(ops.permissions.values_list("pk", flat=True))
    grant_ops(apps.get_app_config("crm"))
    assert set(ops.permissions.values_list("pk", flat=True)) == before


def models_of(*labels: str) -> list:
    return [model for label in labels for model in apps.get_app_config(label).get_models()]
