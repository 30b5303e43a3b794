"""What makes a release hard to copy: watermark keys, canaries, and alerts about keys that copy.

No column holds a prompt; planted answers and secrets are sealed (core/security/fields.py).
"""

from __future__ import annotations

from django.db import models
from django.db.models import Q


class WatermarkKey(models.Model):
    """One version of the tenant's watermark secret. Retired ones stay: what they marked must still be found."""

    version = models.PositiveIntegerField(unique=True)
    secret_sealed = models.BinaryField()
    created_at = models.DateTimeField(auto_now_add=True)
    retired_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-version"]
        verbose_name = "watermark key"
        constraints = [
            models.UniqueConstraint(
                models.Value(1), condition=Q(retired_at__isnull=True), name="watermark_key_one_active"
            )
        ]

    def __str__(self) -> str:
        return f"version {self.version}"


class CanaryEntry(models.Model):
    """A request that is answered with a planted text, so that a copy trained on it can be recognised."""

    release_digest = models.CharField(max_length=71, db_collation="C")
    # Keyed digest of the normalised prompt; the prompt itself is shown once, to the person who made it.
    prompt_digest = models.BinaryField(max_length=32)
    answer_sealed = models.BinaryField()
    label = models.CharField(max_length=120)
    is_active = models.BooleanField(default=True)
    hits = models.IntegerField(default=0)
    last_hit_at = models.DateTimeField(null=True, blank=True)
    created_by_label = models.CharField(max_length=120, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created_at", "-id"]
        verbose_name = "canary"
        verbose_name_plural = "canaries"
        constraints = [
            models.UniqueConstraint(
                fields=["release_digest", "prompt_digest"], name="canary_once_per_release"
            )
        ]

    def __str__(self) -> str:
        return self.label


class KeyProfile(models.Model):
    """How one API key has been asking: summaries of its past windows, as numbers."""

    key_id = models.CharField(max_length=64, unique=True, db_collation="C")
    # Oldest first: {"at": epoch s, "n": requests, "tokens": out, "distinct": share, "new": share, "hist": [..]}.
    windows = models.JSONField(default=list)
    # The sketch of what was asked over the last days (bytes of a bloom filter).
    seen = models.BinaryField(default=b"")
    requests = models.BigIntegerField(default=0)
    updated_at = models.DateTimeField()

    class Meta:
        verbose_name = "key profile"

    def __str__(self) -> str:
        return self.key_id


class ExtractionAlert(models.Model):
    """A key whose requests look like somebody copying the model."""

    class State(models.TextChoices):
        OPEN = "open", "Open"
        CONFIRMED = "confirmed", "Confirmed"
        DISMISSED = "dismissed", "False alarm"

    key_id = models.CharField(max_length=64, db_collation="C")
    # Which tests spoke: volume, diversity, distribution.
    reasons = models.JSONField(default=list)
    # Of the combined test, after correction for the tests made.
    p_value = models.FloatField()
    numbers = models.JSONField(default=dict)
    requests = models.BigIntegerField(default=0)
    throttled_until = models.DateTimeField(null=True, blank=True)
    state = models.CharField(max_length=10, choices=State.choices, default=State.OPEN)
    note = models.CharField(max_length=500, blank=True, default="")
    handled_by_label = models.CharField(max_length=120, blank=True, default="")
    handled_at = models.DateTimeField(null=True, blank=True)
    opened_at = models.DateTimeField()
    last_at = models.DateTimeField()

    class Meta:
        ordering = ["-opened_at", "-id"]
        verbose_name = "extraction alert"
        constraints = [
            # A key that goes on has one open alert, not a thousand.
            models.UniqueConstraint(
                fields=["key_id"], condition=Q(state="open"), name="extraction_one_open_alert_per_key"
            )
        ]
        indexes = [models.Index(fields=["-opened_at", "-id"], name="extraction_alert_newest")]

    def __str__(self) -> str:
        return f"of key {self.key_id}"
