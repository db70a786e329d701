"""Field mapping as ops edit it: rows here override the built-in profile, field by field."""

from django.db import models


class FieldMapping(models.Model):
    """`api_name` of the CRM feeds `our_field`; an empty api_name switches the field off."""

    module = models.CharField(max_length=16)
    our_field = models.CharField(max_length=64)
    api_name = models.CharField(max_length=100, blank=True, default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["module", "our_field"], name="crm_mapping_once")
        ]

    def __str__(self) -> str:
        return f"{self.module}.{self.our_field} ← {self.api_name or 'off'}"
