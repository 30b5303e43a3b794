"""Stored answers of releases and the evidence about them. All of it in the tenant's own schema.

No column holds a prompt. Answers are sealed (core/security/fields.py); digests are keyed per tenant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import models

if TYPE_CHECKING:
    Field = models.Field[Any, Any]
else:
    Field = models.Field


class RealArrayField(Field):
    """``real[]``: a vector that exists with and without the pgvector extension, which reads it by a cast."""

    def db_type(self, connection: Any) -> str:
        """The column's type."""
        return "real[]"


class CacheEntry(models.Model):
    """One answer that may be given again, inside one partition."""

    # Keyed digest over (schema, release, policy, guards, scope); first in every index and every WHERE.
    partition = models.BinaryField(max_length=32)
    # Keyed digest of everything in the request that affects the answer.
    digest = models.BinaryField(max_length=32)
    # Keyed digest of all of that but the last user text, together with the text's numbers, names and negations.
    # Only entries of the same group are compared by meaning. Null: by digest only.
    group = models.BinaryField(max_length=32, null=True)
    # 384 numbers of length 1 (MiniLM).
    embedding = RealArrayField(null=True)
    release_digest = models.CharField(max_length=71, db_collation="C")
    policy_version = models.CharField(max_length=80)
    guard_version = models.CharField(max_length=80, blank=True, default="")
    scope = models.CharField(max_length=8)  # tenant, key or user
    route = models.CharField(max_length=24)
    answer = models.BinaryField()
    size_bytes = models.IntegerField()
    tokens_in = models.IntegerField(default=0)
    tokens_out = models.IntegerField(default=0)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    last_hit_at = models.DateTimeField(null=True)
    hits = models.IntegerField(default=0)

    class Meta:
        verbose_name = "cache entry"
        verbose_name_plural = "cache entries"
        constraints = [
            models.UniqueConstraint(fields=["partition", "digest"], name="cache_entry_once_per_partition")
        ]
        indexes = [
            models.Index(
                fields=["partition", "group"],
                name="cache_entry_group",
                condition=models.Q(group__isnull=False),
            ),
            models.Index(fields=["release_digest", "partition"], name="cache_entry_release"),
            models.Index(fields=["expires_at"], name="cache_entry_expiry"),
        ]

    def __str__(self) -> str:
        return f"{bytes(self.digest).hex()[:12]} of {self.release_digest[:19]}"


class CacheCounter(models.Model):
    """What the caches of one release did on one day (UTC). Counted in memory, added every few seconds."""

    release_digest = models.CharField(max_length=71, db_collation="C")
    day = models.DateField()
    exact_hits = models.BigIntegerField(default=0)
    semantic_hits = models.BigIntegerField(default=0)
    misses = models.BigIntegerField(default=0)
    stores = models.BigIntegerField(default=0)
    tokens_saved = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["release_digest", "day"], name="cache_counter_once")]

    def __str__(self) -> str:
        return f"{self.release_digest[:19]} on {self.day}"


class SemanticState(models.Model):
    """Whether the semantic cache of a release may answer. No row: it may."""

    release_digest = models.CharField(max_length=71, unique=True, db_collation="C")
    enabled = models.BooleanField(default=True)
    # Shadow asks before this do not count: a person has switched it on again.
    evidence_since = models.DateTimeField(null=True)
    reason = models.CharField(max_length=300, blank=True, default="")
    changed_at = models.DateTimeField()

    class Meta:
        verbose_name = "semantic cache"

    def __str__(self) -> str:
        return f"of {self.release_digest[:19]}"


class ShadowAsk(models.Model):
    """One semantic hit that was asked again. Holds no text."""

    release_digest = models.CharField(max_length=71, db_collation="C")
    entry_id = models.BigIntegerField(null=True)
    similarity = models.FloatField()
    # The two answers do not say the same.
    false_hit = models.BooleanField()
    # How it was judged: equal, meaning, differs.
    judged_by = models.CharField(max_length=12)
    answer_similarity = models.FloatField(null=True)
    at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["release_digest", "at"], name="shadow_ask_release")]

    def __str__(self) -> str:
        return f"{'false' if self.false_hit else 'true'} hit of {self.release_digest[:19]}"
