"""The key pairs with which a tenant signs its dossiers and the heads of its audit log."""

from __future__ import annotations

from django.db import models
from django.db.models import Q


class TenantSigningKey(models.Model):
    """One Ed25519 key pair of this schema. Retired keys stay, because what they signed must still verify."""

    # SHA-256 of the 32-byte public key, in hex.
    keyid = models.CharField(max_length=64, primary_key=True, db_collation="C")
    public_pem = models.TextField()
    # AES-256-GCM under a key derived from SECRET_KEY (core/security/keys.py).
    private_encrypted = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)
    retired_at = models.DateTimeField(null=True, blank=True)
    is_active = models.BooleanField(default=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            # Two processes that make the first key at once end up with one.
            models.UniqueConstraint(
                fields=["is_active"], condition=Q(is_active=True), name="signing_key_one_active"
            ),
            models.CheckConstraint(
                condition=Q(is_active=True, retired_at__isnull=True)
                | Q(is_active=False, retired_at__isnull=False),
                name="signing_key_retired_has_time",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.keyid[:12]} ({'active' if self.is_active else 'retired'})"
