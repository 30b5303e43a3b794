"""Profiles of redaction and guards."""

from __future__ import annotations

from django.db import models
from django.db.models import Q


class GuardProfile(models.Model):
    """One version of a guard profile. Rows are only ever added; a release names one as ``name@version``."""

    name = models.CharField(max_length=40, db_collation="C")
    version = models.PositiveIntegerField()
    config = models.JSONField(help_text="Redaction and guards, complete and canonical.")
    digest = models.CharField(max_length=64, db_collation="C")
    note = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by_id = models.CharField(max_length=64, blank=True, db_collation="C")
    created_by_label = models.CharField(max_length=120, blank=True)

    class Meta:
        ordering = ["name", "-version"]
        constraints = [
            models.UniqueConstraint(fields=["name", "version"], name="guardprofile_one_per_version"),
            models.CheckConstraint(
                condition=Q(name__regex=r"^[a-z][a-z0-9-]{0,39}$"),
                name="guardprofile_name_form",
                violation_error_message="A name is 1 to 40 small letters, digits or -.",
            ),
            models.CheckConstraint(condition=Q(version__gte=1), name="guardprofile_version_from_one"),
        ]

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"
