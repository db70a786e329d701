"""What a reconcile found, what became of a failure, and a mapping that waits to be replayed."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("crm", "0012_outbox"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name="failedrecord",
            name="resolution",
            field=models.CharField(
                blank=True,
                default="",
                help_text="stored, gone or dismissed; empty where a later sync stored it.",
                max_length=10,
            ),
        ),
        migrations.AddField(
            model_name="failedrecord",
            name="resolved_by",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="mirrorstate",
            name="replay_needed",
            field=models.BooleanField(
                default=False,
                help_text="The mapping changed: the kept records are to be mapped again.",
            ),
        ),
        migrations.CreateModel(
            name="Reconciliation",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("ended_at", models.DateTimeField(blank=True, null=True)),
                (
                    "is_exact",
                    models.BooleanField(
                        default=False, help_text="Nothing differs, or what did was repaired."
                    ),
                ),
                ("differing", models.PositiveIntegerField(default=0)),
                ("repaired", models.PositiveIntegerField(default=0)),
                ("sentence", models.TextField(blank=True, default="")),
                ("modules", models.JSONField(default=dict)),
                (
                    "run",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="result",
                        to="crm.syncrun",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="MirrorDifference",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("module", models.CharField(max_length=16)),
                ("zoho_id", models.BigIntegerField()),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("missing", "not here"),
                            ("gone", "no longer in the CRM"),
                            ("stale", "a change was missed"),
                            ("drift", "changed there without a new time"),
                        ],
                        max_length=8,
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("found", "Found"),
                            ("repaired", "Repaired"),
                            ("held", "Held"),
                            ("left", "Left"),
                        ],
                        default="found",
                        max_length=8,
                    ),
                ),
                ("fields", models.JSONField(blank=True, default=dict)),
                ("note", models.CharField(blank=True, default="", max_length=255)),
                (
                    "reconciliation",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="differences",
                        to="crm.reconciliation",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("reconciliation", "module", "zoho_id"), name="crm_difference_once"
                    )
                ],
            },
        ),
    ]
