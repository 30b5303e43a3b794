"""Customers and their pilots of the tenant's products. Success criteria are the criteria of a gate."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from inference.models import Product, Release


class Customer(models.Model):
    """A company that runs a pilot of one of the tenant's products."""

    name = models.CharField(max_length=120)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(
                fields=["name"],
                name="customer_name_once",
                violation_error_message="There is a customer of this name already.",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Pilot(models.Model):
    """One customer's trial of one product, judged by the criteria of one gate."""

    class Status(models.TextChoices):
        PLANNED = "planned", "Planned"
        RUNNING = "running", "Running"
        ENDED = "ended", "Ended"

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="pilots")
    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="pilots")
    # The release the customer works with.
    release = models.ForeignKey(Release, on_delete=models.PROTECT, related_name="pilots")
    # The gate by its name: its newest version holds the success criteria. Empty: none agreed yet.
    gate_slug = models.SlugField(max_length=80, blank=True, default="", db_collation="C", db_index=False)
    goal = models.CharField(max_length=300, blank=True, default="")
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.PLANNED)
    starts_on = models.DateField()
    ends_on = models.DateField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-starts_on", "-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(ends_on__isnull=True) | Q(ends_on__gte=F("starts_on")),
                name="pilot_ends_after_start",
                violation_error_message="A pilot ends on or after the day it starts.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.customer} pilots {self.product}"

    def audit_label(self) -> str:
        """Name in the audit log, where customers are not named in clear."""
        return f"pilot {self.pk} of {self.product}"


class PilotMember(models.Model):
    """A person of the customer who may see this pilot's scorecard, and nothing else."""

    pilot = models.ForeignKey(Pilot, on_delete=models.CASCADE, related_name="members")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="pilot_memberships"
    )
    added_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["added_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["pilot", "user"],
                name="pilot_member_once",
                violation_error_message="This person is a member of the pilot already.",
            ),
        ]

    def __str__(self) -> str:
        return f"member {self.user_id} of pilot {self.pilot_id}"

    def audit_label(self) -> str:
        """Name in the audit log: the person is a commitment there."""
        return f"member of pilot {self.pilot_id}"
