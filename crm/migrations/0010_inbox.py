"""The inbox of the CRM's notices, and the channels through which they come."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("crm", "0009_suspected_records")]

    operations = [
        migrations.CreateModel(
            name="Notice",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("module", models.CharField(max_length=64)),
                ("zoho_id", models.BigIntegerField(blank=True, null=True)),
                ("channel_id", models.CharField(max_length=40)),
                ("operation", models.CharField(blank=True, default="", max_length=16)),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("waiting", "Waiting"),
                            ("taken", "Taken"),
                            ("done", "Done"),
                            ("dead", "Dead"),
                            ("ignored", "Ignored"),
                        ],
                        default="waiting",
                        max_length=8,
                    ),
                ),
                ("times", models.PositiveIntegerField(default=1)),
                ("taken_times", models.PositiveIntegerField(default=0)),
                (
                    "first_received_at",
                    models.DateTimeField(help_text="The oldest that is not settled."),
                ),
                ("received_at", models.DateTimeField(help_text="The newest.")),
                ("attempts", models.PositiveSmallIntegerField(default=0)),
                ("next_attempt_at", models.DateTimeField()),
                ("taken_until", models.DateTimeField(blank=True, null=True)),
                ("settled_at", models.DateTimeField(blank=True, null=True)),
                ("run_id", models.BigIntegerField(blank=True, null=True)),
                ("error_code", models.CharField(blank=True, default="", max_length=64)),
                ("message", models.TextField(blank=True, default="")),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("status", "waiting")),
                        fields=["next_attempt_at"],
                        name="crm_notice_due",
                    ),
                    models.Index(
                        condition=models.Q(("status", "taken")),
                        fields=["taken_until"],
                        name="crm_notice_taken",
                    ),
                    models.Index(
                        condition=models.Q(("status", "dead")),
                        fields=["-received_at"],
                        name="crm_notice_dead",
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("module", "zoho_id"), name="crm_notice_record_once"
                    ),
                    models.UniqueConstraint(
                        condition=models.Q(("zoho_id__isnull", True)),
                        fields=("channel_id", "module"),
                        name="crm_notice_ignored_once",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("status", "ignored"), ("zoho_id__isnull", False), _connector="OR"
                        ),
                        name="crm_notice_names_a_record",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="NotificationChannel",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("module", models.CharField(max_length=16, unique=True)),
                ("channel_id", models.CharField(max_length=20, unique=True)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("pending", "Pending"),
                            ("active", "Active"),
                            ("refused", "Refused"),
                        ],
                        default="pending",
                        max_length=8,
                    ),
                ),
                ("notify_url", models.CharField(max_length=255)),
                ("token_mark", models.CharField(blank=True, default="", max_length=32)),
                ("created_at", models.DateTimeField()),
                (
                    "registered_at",
                    models.DateTimeField(
                        blank=True, help_text="When the CRM last accepted it.", null=True
                    ),
                ),
                (
                    "expires_at",
                    models.DateTimeField(blank=True, help_text="As the CRM said.", null=True),
                ),
                (
                    "checked_at",
                    models.DateTimeField(
                        blank=True, help_text="When the CRM last said that it exists.", null=True
                    ),
                ),
                ("last_event_at", models.DateTimeField(blank=True, null=True)),
                (
                    "events",
                    models.BigIntegerField(default=0, help_text="Notices that came through it."),
                ),
                (
                    "silent_since",
                    models.DateTimeField(
                        blank=True,
                        help_text="Delta syncs find changes of which it did not tell.",
                        null=True,
                    ),
                ),
                ("error_code", models.CharField(blank=True, default="", max_length=64)),
                ("message", models.TextField(blank=True, default="")),
            ],
            options={
                "indexes": [],
                "constraints": [],
            },
        ),
    ]
