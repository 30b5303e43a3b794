"""The audit log of one schema: events, the chain over them, its signed heads, and the salts of personal data.

Triggers in the database refuse UPDATE, DELETE and TRUNCATE on events, links and heads (migration 0001).
"""

from __future__ import annotations

from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone


class AppendOnlyError(RuntimeError):
    """Code tried to change or remove a row of the audit log."""


class AppendOnly(models.Model):
    """Rows are only ever added; the database refuses the rest, this says so earlier and more clearly."""

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise AppendOnlyError(f"{self._meta.verbose_name} rows are never edited.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        raise AppendOnlyError(f"{self._meta.verbose_name} rows are never deleted.")


class PersonalDataSalt(models.Model):
    """The secret that ties one person (or key, or customer) to its commitments. Deleting the row erases the tie."""

    # "user", "operator", "api_key", "customer".
    kind = models.CharField(max_length=20)
    # Primary key of the row that holds the personal data, as text.
    ref = models.CharField(max_length=64)
    salt = models.BinaryField(max_length=32)
    # HMAC-SHA256(salt, identity), in hex: what events name the subject by.
    commitment = models.CharField(max_length=64, unique=True, db_collation="C")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["kind", "ref"], name="personal_data_salt_once")]

    def __str__(self) -> str:
        return f"{self.kind} {self.commitment[:12]}"


class AuditEvent(AppendOnly):
    """One thing that somebody did. Written in the transaction of the thing itself."""

    class Source(models.TextChoices):
        ACTION = "action", "Action"  # a service said what was done
        ROW = "row", "Row change"  # django-auditlog saw a row change

    at = models.DateTimeField(default=timezone.now)
    source = models.CharField(max_length=6, choices=Source.choices, default=Source.ACTION)
    actor_kind = models.CharField(max_length=12)
    # Commitment to kind and id; empty for `system` and `anonymous`.
    actor = models.CharField(max_length=64, blank=True, default="", db_collation="C")
    # Commitment to the name the actor had at that moment: whoever knows name and salt can prove it.
    actor_label = models.CharField(max_length=64, blank=True, default="", db_collation="C")
    actor_roles = ArrayField(models.CharField(max_length=20), default=list, blank=True)
    # "review.signed"
    action = models.CharField(max_length=80, db_collation="C")
    # "governance.review"; empty when nothing was acted on.
    target_type = models.CharField(max_length=80, blank=True, default="", db_collation="C")
    # Primary key as text, or the commitment when the target is a subject (then the label is empty).
    target_id = models.CharField(max_length=64, blank=True, default="", db_collation="C")
    target_is_subject = models.BooleanField(default=False)
    target_label = models.CharField(max_length=240, blank=True, default="")
    # What follows the actor's name: "signed the review of Document assistant 1.1.0: go". May hold {target}.
    sentence = models.CharField(max_length=600)
    data = models.JSONField(default=dict, blank=True)
    correlation_id = models.CharField(max_length=64, blank=True, default="", db_collation="C")

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["-at"], name="audit_event_at"),
            models.Index(fields=["actor", "-id"], name="audit_event_actor"),
            models.Index(fields=["action", "-id"], name="audit_event_action"),
            models.Index(fields=["target_type", "target_id", "-id"], name="audit_event_target"),
        ]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.actor_kind} {self.action} {self.target_label}".rstrip()


class AuditPending(models.Model):
    """An event that waits for its place in the chain. Inserted with the event, removed by the sequencer."""

    event = models.OneToOneField(
        AuditEvent, primary_key=True, on_delete=models.DO_NOTHING, db_constraint=False, related_name="pending"
    )

    def __str__(self) -> str:
        return f"event {self.event_id}"


class AuditLink(AppendOnly):
    """The place of one event in the tamper-evident chain. Written by the sequencer only, without gaps from 1."""

    seq = models.BigIntegerField(primary_key=True)
    # No constraint in the database: nothing could remove the event but somebody who also removes constraints,
    # and it would cost every insert a lock.
    event = models.OneToOneField(
        AuditEvent, on_delete=models.DO_NOTHING, db_constraint=False, related_name="link"
    )
    # SHA-256 of the event's canonical JSON, in hex.
    event_digest = models.CharField(max_length=64, db_collation="C")
    prev_hash = models.CharField(max_length=64, db_collation="C")
    # SHA-256 over domain, seq, previous hash and event digest (core/audit/chain.py).
    hash = models.CharField(max_length=64, db_collation="C")

    class Meta:
        ordering = ["seq"]

    def __str__(self) -> str:
        return f"{self.seq} {self.hash[:12]}"


class AuditHead(AppendOnly):
    """A signed statement of how long the chain was and how it ended, at one moment."""

    # 1, 2, 3, …: a removed head leaves a gap.
    number = models.BigIntegerField(primary_key=True)
    seq = models.BigIntegerField()
    hash = models.CharField(max_length=64, db_collation="C")
    signed_at = models.DateTimeField()
    # DSSE, Ed25519 by the schema's signing key.
    envelope = models.JSONField()

    class Meta:
        ordering = ["-number"]

    def __str__(self) -> str:
        return f"head {self.number} at {self.seq}"


class RowChangeManager(models.Manager["RowChange"]):
    """Receives what django-auditlog would store in its own table, and writes an audit event instead."""

    def log_create(self, instance: models.Model, force_log: bool = False, **kwargs: Any) -> None:
        """Called for each created, changed or removed row of an audited model."""
        from core.audit.changes import row_change_record

        row_change_record(instance, action=kwargs.get("action"), changes=kwargs.get("changes"))

    def log_m2m_changes(
        self, changed_queryset: Any, instance: models.Model, operation: str, field_name: str, **kwargs: Any
    ) -> None:
        """Called when rows are added to or removed from a many-to-many relation of an audited model."""
        from core.audit.changes import relation_change_record

        relation_change_record(instance, field_name=field_name, operation=operation, changed=changed_queryset)


class RowChange(models.Model):
    """What django-auditlog takes for its log entry. It has no table: a second, editable log would hold names in
    clear and could be altered, so its manager passes each change on to the append-only log."""

    class Action:
        """The numbers django-auditlog uses."""

        CREATE = 0
        UPDATE = 1
        DELETE = 2
        ACCESS = 3

    objects = RowChangeManager()

    class Meta:
        managed = False

    def __str__(self) -> str:
        return "row change"
