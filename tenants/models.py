"""Rows of the public schema: plans, tenants and the hosts they answer at."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django_tenants.models import DomainMixin, TenantMixin
from django_tenants.utils import get_public_schema_name


class Plan(models.Model):  # type: ignore[django-manager-missing]  # the tenants' base class is untyped
    """A tier that tenants buy, with the limits that features read. An empty limit means: not limited."""

    slug = models.SlugField(max_length=40, primary_key=True)
    name = models.CharField(max_length=80)
    position = models.PositiveSmallIntegerField(default=0)
    # Counts of rows in the tenant's schema.
    max_users = models.PositiveIntegerField(null=True, blank=True)
    max_api_keys = models.PositiveIntegerField(null=True, blank=True)
    max_products = models.PositiveIntegerField(null=True, blank=True)
    max_releases = models.PositiveIntegerField(null=True, blank=True)
    # Runs started per day (UTC).
    max_runs_per_day = models.PositiveIntegerField(null=True, blank=True)
    # Items of one dataset version.
    max_dataset_items = models.PositiveIntegerField(null=True, blank=True)
    # Per API key on /api and /v1.
    requests_per_minute = models.PositiveIntegerField(null=True, blank=True)
    # Prompt and output tokens of the gateway per day (UTC).
    tokens_per_day = models.PositiveBigIntegerField(null=True, blank=True)
    # Bytes of the schema and of the tenant's files together.
    storage_bytes = models.PositiveBigIntegerField(null=True, blank=True)
    # Days a share link, an audit export or a run's per-item output is kept at least.
    retention_days = models.PositiveIntegerField(null=True, blank=True)

    class Meta:
        ordering = ["position", "slug"]

    # Every limit with the words a page shows; features read limits by these names.
    LIMITS = {
        "max_users": "users",
        "max_api_keys": "API keys",
        "max_products": "products",
        "max_releases": "releases",
        "max_runs_per_day": "runs per day",
        "max_dataset_items": "items in a dataset",
        "requests_per_minute": "API requests per minute",
        "tokens_per_day": "gateway tokens per day",
        "storage_bytes": "bytes of storage",
        "retention_days": "days of retention",
    }

    def __str__(self) -> str:
        return self.name

    def limits(self) -> dict[str, int | None]:
        """Every limit by name; None is unlimited."""
        return {name: getattr(self, name) for name in self.LIMITS}


class Tenant(TenantMixin):
    """An organisation with its own schema. The row of the public schema is the operators' own site."""

    class Status(models.TextChoices):
        ACTIVE = "active", "Active"
        DEACTIVATED = "deactivated", "Deactivated"

    # Schemas are made by tenants.services.tenant_provision, and dropped by tenant_delete; never by saving.
    auto_create_schema = False
    auto_drop_schema = False

    name = models.CharField(max_length=120)
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="tenants")
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.ACTIVE)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    deactivated_at = models.DateTimeField(null=True, blank=True)
    deactivated_reason = models.CharField(max_length=300, blank=True, default="")

    class Meta:
        ordering = ["name", "id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(status="deactivated") | Q(deactivated_at__isnull=True),
                name="tenant_active_has_no_end",
                violation_error_message="An active tenant has no time of deactivation.",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_public(self) -> bool:
        """Whether this row stands for the operators' site."""
        return bool(self.schema_name == get_public_schema_name())

    @property
    def is_active(self) -> bool:
        """Whether people and keys of the tenant are let in."""
        return self.status == self.Status.ACTIVE

    def url(self, path: str = "/") -> str:
        """Absolute address of a page of this tenant, by its primary domain."""
        domain = self.domains.filter(is_primary=True).values_list("domain", flat=True).first()
        scheme = "https" if settings.HTTPS else "http"
        port = "" if settings.HTTPS or settings.PORT == 80 else f":{settings.PORT}"
        return f"{scheme}://{domain or settings.BASE_DOMAIN}{port}{path}"


class Domain(DomainMixin):
    """A host name at which a tenant answers."""

    class Meta:
        ordering = ["domain"]


class SchemaTemplate(models.Model):
    """The SQL that builds a tenant's schema at one set of migrations: what provisioning replays.

    Kept in the database so that every web process and replica has it, and a restored backup too. Written by
    tenants.provisioning only; safe to delete, it is built again.
    """

    # Digest of the migrations on disk and of this machinery's version.
    digest = models.CharField(max_length=64, primary_key=True)
    schema_name = models.CharField(max_length=63)
    sql = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.digest[:12]
