"""People and API keys. The tables exist in the public schema (operators) and in each tenant's schema."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower
from django.utils import timezone


class Role(models.TextChoices):
    """What a person may be in a tenant; `operator` exists in the public schema only."""

    ADMIN = "admin", "Admin"
    PMO = "pmo", "PMO"
    ENGINEER = "engineer", "Engineer"
    SECURITY = "security", "Security"
    LEGAL = "legal", "Legal"
    AUDITOR = "auditor", "Auditor"
    CUSTOMER = "customer", "Customer"
    OPERATOR = "operator", "Operator"


TENANT_ROLES = tuple(role.value for role in Role if role is not Role.OPERATOR)


class UserManager(BaseUserManager["User"]):
    """Finds people by e-mail address without regard to case."""

    def get_by_natural_key(self, username: str | None) -> User:
        return self.get(email=(username or "").strip().lower())

    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:
        """A stored user. Prefer tenants.accounts.services.user_create, which checks and audits."""
        user = self.model(email=email, **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user


class User(AbstractBaseUser):
    """A person who signs in to one tenant, or an operator (public schema)."""

    # Stored in lower case (a constraint holds it), so that plain equality finds it.
    email = models.EmailField(max_length=254)
    name = models.CharField(max_length=120)
    roles = ArrayField(models.CharField(max_length=20, choices=Role.choices), default=list, blank=True)
    is_active = models.BooleanField(default=True)
    # IANA name; times on pages are shown in it.
    time_zone = models.CharField(max_length=64, default="UTC")
    must_change_password = models.BooleanField(default=False)
    # Written by ActorMiddleware at most once a minute.
    last_seen_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = UserManager()

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS = ["name"]

    class Meta:
        ordering = ["name", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["email"],
                name="user_email_once",
                violation_error_message="There is a user with this e-mail address already.",
            ),
            models.CheckConstraint(
                condition=Q(email=Lower("email")),
                name="user_email_lower",
                violation_error_message="An e-mail address is stored in lower case.",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.email = self.email.strip().lower()
        super().save(*args, **kwargs)

    def clean(self) -> None:
        super().clean()
        self.email = self.email.strip().lower()

    def get_full_name(self) -> str:
        return self.name

    def get_short_name(self) -> str:
        return self.name.split(" ")[0]

    def role_labels(self) -> list[str]:
        """Names of the roles, in the order of `Role`."""
        return [role.label for role in Role if role.value in self.roles]


class ApiKey(models.Model):
    """A credential of a program. The secret is shown once; the row holds its digest.

    The secret has 256 random bits, so a plain SHA-256 is the right digest: there is no dictionary to try it
    against, and a slow password hash would only cost every request milliseconds.
    """

    name = models.CharField(max_length=80)
    # Public half: finds the row, and names the key in logs.
    key_id = models.CharField(max_length=16)
    secret_sha256 = models.CharField(max_length=64)
    # Actions ("release.view"), nouns ("release.*") or verbs ("*.view").
    scopes = ArrayField(models.CharField(max_length=40), default=list)
    created_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    # Written at most once a minute.
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [models.UniqueConstraint(fields=["key_id"], name="api_key_id_once")]

    def __str__(self) -> str:
        return f"{self.name} ({self.key_id})"

    @property
    def state(self) -> str:
        """`active`, `expired`, `revoked`, or `suspended` while who issued it is deactivated; now."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= timezone.now():
            return "expired"
        # Somebody who left must not keep a way in; keys of the command line have nobody behind them.
        if self.created_by is not None and not self.created_by.is_active:
            return "suspended"
        return "active"
