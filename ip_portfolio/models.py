"""Patent applications of the tenant."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import F, Q


class PatentApplication(models.Model):
    """One application, planned or filed, with the dates its deadlines follow from."""

    class Jurisdiction(models.TextChoices):
        US = "US", "United States"
        EP = "EP", "European Patent Office"
        PCT = "PCT", "International (PCT)"

    class Type(models.TextChoices):
        PROVISIONAL = "provisional", "Provisional"
        NONPROVISIONAL = "nonprovisional", "Non-provisional"
        INTERNATIONAL = "international", "International"
        REGIONAL = "regional", "Regional"

    class Status(models.TextChoices):
        DRAFTING = "drafting", "Drafting"
        FILED = "filed", "Filed"
        PENDING = "pending", "Under examination"
        GRANTED = "granted", "Granted"
        ABANDONED = "abandoned", "Abandoned"

    docket_number = models.CharField(
        max_length=40,
        db_collation="C",
        validators=[
            RegexValidator(
                r"^[A-Za-z0-9][A-Za-z0-9._/\-]*$",
                "Use letters, digits, dots, slashes and hyphens, for instance SGN-0012-US.",
            )
        ],
    )
    # 37 CFR 1.72(a): at most 500 characters.
    title = models.CharField(max_length=500)
    jurisdiction = models.CharField(max_length=3, choices=Jurisdiction.choices)
    type = models.CharField(max_length=14, choices=Type.choices)
    status = models.CharField(max_length=9, choices=Status.choices, default=Status.DRAFTING)
    inventors = ArrayField(models.CharField(max_length=120), default=list, blank=True)
    # Country in which the invention was made (ISO 3166-1 alpha-2); "US" brings the foreign filing licence in.
    made_in = models.CharField(
        max_length=2,
        blank=True,
        default="US",
        validators=[RegexValidator(r"^[A-Z]{2}$", "Use two capital letters, for instance US.")],
    )
    # A foreign filing licence was granted (35 USC 184), so the six months need not be waited for.
    foreign_filing_licence = models.BooleanField(default=False)
    # Earliest date claimed; empty when this is the first filing.
    priority_date = models.DateField(null=True, blank=True)
    filing_date = models.DateField(null=True, blank=True)
    notes = models.TextField(blank=True, default="")
    revision = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["docket_number"]
        constraints = [
            models.UniqueConstraint(
                fields=["docket_number"],
                name="patent_docket_once",
                violation_error_message="There is an application with this docket number already.",
            ),
            models.CheckConstraint(
                condition=Q(priority_date__isnull=True)
                | Q(filing_date__isnull=True)
                | Q(filing_date__gte=F("priority_date")),
                name="patent_filed_after_priority",
                violation_error_message="An application cannot be filed before the date it claims priority from.",
            ),
            models.CheckConstraint(
                condition=Q(status__in=["drafting", "abandoned"]) | Q(filing_date__isnull=False),
                name="patent_filed_has_date",
                violation_error_message="A filed application needs its filing date.",
            ),
        ]

    def __str__(self) -> str:
        return self.docket_number
