"""The shipped rules as rows that ops can edit; every opportunity is looked at anew."""

from django.db import migrations

# key, on, yellow, red: as the specification has them.
RULES = [
    ("proposal_no_po", True, 14, 30),
    ("po_no_kickoff", True, 14, None),
    ("kickoff_no_invoice", True, 60, None),
    ("invoice_no_payment", True, None, 45),
    ("milestone_blocked", True, None, None),
    ("blocked_by_person", True, None, None),
    ("won_no_po", False, 14, 30),
    ("signoff_no_invoice", False, 14, None),
    ("paid_no_revenue", False, 30, None),
    ("milestone_delayed", False, 0, None),
    ("closing_date_past", False, 0, None),
    ("unchanged", False, 30, None),
]


def add(apps, schema_editor):
    rules = apps.get_model("o2r", "SignalRule")
    for key, is_on, yellow, red in RULES:
        rules.objects.get_or_create(
            key=key, defaults={"is_on": is_on, "yellow_days": yellow, "red_days": red}
        )
    apps.get_model("o2r", "TrackerSettings").objects.get_or_create(pk=1)
    # Whatever was followed before had no phase and no signal.
    apps.get_model("o2r", "RecomputeState").objects.update(deal_seq=0)


class Migration(migrations.Migration):
    dependencies = [("o2r", "0005_tracker_rollups")]

    operations = [migrations.RunPython(add, migrations.RunPython.noop)]
