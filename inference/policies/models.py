"""Versions of a tenant's gateway policy."""

from __future__ import annotations

from django.db import models
from django.db.models import Q


class PolicyBundle(models.Model):
    """One version: Rego, data and tests never change once saved; only whether it is in force does.

    The database refuses changes of content (migration 0002) and a second active version.
    """

    class Status(models.TextChoices):
        DRAFT = "draft", "Draft"
        ACTIVE = "active", "Active"
        RETIRED = "retired", "Retired"

    version = models.PositiveIntegerField(unique=True)
    # Rego, package signoff.gateway.
    policy = models.TextField()
    # What the policy reads below `data`.
    data = models.JSONField(default=dict)
    # Rego, package signoff.gateway_test: rules named test_*.
    tests = models.TextField(blank=True, default="")
    # [{"name", "attributes", "expect": {"allow": bool, "reason"?: text, ...}}]
    cases = models.JSONField(default=list)
    note = models.CharField(max_length=300, blank=True, default="")
    digest = models.CharField(max_length=71, db_collation="C")
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.DRAFT)
    # What the tests gave when this version was last activated or tried.
    results = models.JSONField(default=dict)
    created_by_label = models.CharField(max_length=120, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)
    activated_by_label = models.CharField(max_length=120, blank=True, default="")
    activated_at = models.DateTimeField(null=True, blank=True)
    retired_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-version"]
        constraints = [
            models.UniqueConstraint(
                fields=["status"],
                condition=Q(status="active"),
                name="policy_one_active",
                violation_error_message="Another version is active already.",
            ),
        ]

    def __str__(self) -> str:
        return f"policy v{self.version}"

    @property
    def label(self) -> str:
        """How decisions name this version."""
        return f"v{self.version}"
