"""What the API remembers of a POST, so that repeating it changes nothing."""

from __future__ import annotations

from django.db import models


class IdempotencyKey(models.Model):
    """One answered POST. Written in the transaction of its effect: both are there, or neither."""

    # Kind and id of the caller: two callers may use the same key.
    actor = models.CharField(max_length=64, db_collation="C")
    key = models.CharField(max_length=128, db_collation="C")
    # SHA-256 of method, path and body.
    request_digest = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField(default=0)
    # The answer, or null where it showed a secret that is never stored.
    response = models.JSONField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["actor", "key"], name="idempotency_key_once")]

    def __str__(self) -> str:
        return f"{self.actor} {self.key}"
