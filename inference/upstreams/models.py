"""OpenAI-compatible engines behind the gateway: where they are, how patiently they are asked, how they are."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models


class Upstream(models.Model):
    """One engine that can answer for a model version. Times in seconds; limits per gateway process."""

    class Health(models.TextChoices):
        UNKNOWN = "unknown", "Not checked"
        HEALTHY = "healthy", "Healthy"
        FAILING = "failing", "Failing"

    name = models.CharField(max_length=80, unique=True)
    model_version = models.ForeignKey(
        "inference.ModelVersion", on_delete=models.PROTECT, related_name="upstreams"
    )
    # Up to and including /v1.
    url = models.CharField(max_length=500)
    # The engine's own name of the model.
    remote_model = models.CharField(max_length=200)
    # Share of the requests, relative to the model version's other upstreams.
    weight = models.PositiveIntegerField(
        default=1, validators=[MinValueValidator(1), MaxValueValidator(1000)]
    )
    max_concurrency = models.PositiveIntegerField(
        default=32, validators=[MinValueValidator(1), MaxValueValidator(1000)]
    )
    connect_timeout_s = models.FloatField(
        default=3.0, validators=[MinValueValidator(0.1), MaxValueValidator(60)]
    )
    first_byte_timeout_s = models.FloatField(
        default=120.0, validators=[MinValueValidator(0.1), MaxValueValidator(3600)]
    )
    # The longest silence between two pieces of an answer.
    chunk_timeout_s = models.FloatField(
        default=30.0, validators=[MinValueValidator(0.1), MaxValueValidator(3600)]
    )
    total_timeout_s = models.FloatField(
        default=600.0, validators=[MinValueValidator(0.1), MaxValueValidator(7200)]
    )
    # Sealed by core.security.fields; empty without a key. It is never shown again.
    api_key_sealed = models.BinaryField(blank=True, default=bytes)
    enabled = models.BooleanField(default=True)
    health = models.CharField(max_length=10, choices=Health.choices, default=Health.UNKNOWN)
    # What the last check found, in words; never the engine's own.
    health_detail = models.CharField(max_length=300, blank=True, default="")
    health_ms = models.FloatField(null=True, blank=True)
    checked_at = models.DateTimeField(null=True, blank=True)
    created_by_label = models.CharField(max_length=120, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        indexes = [models.Index(fields=["model_version", "enabled"], name="upstream_model_enabled")]

    def __str__(self) -> str:
        return self.name
