"""The four roles as groups. What each may do is decided by the apps' permission functions."""

from django.db import migrations

ROLES = ["sales rep", "sales manager", "ops", "integrator"]


def make_groups(apps, schema_editor):
    group = apps.get_model("auth", "Group")
    for name in ROLES:
        group.objects.get_or_create(name=name)


class Migration(migrations.Migration):
    initial = True
    dependencies = [("auth", "0012_alter_user_first_name_max_length")]
    # Going back keeps the groups: people are in them.
    operations = [migrations.RunPython(make_groups, migrations.RunPython.noop)]
