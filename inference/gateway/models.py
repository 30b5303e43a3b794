"""Files and batches of the gateway: what OpenAI's /v1/files and /v1/batches keep.

Contents hold prompts and answers, so they are stored sealed, in pieces, under the tenant's data key.
"""

from __future__ import annotations

import secrets

from django.db import models
from django.db.models import Q
from django.utils import timezone


def _file_id() -> str:
    return f"file-{secrets.token_hex(12)}"


def _batch_id() -> str:
    return f"batch_{secrets.token_hex(12)}"


class GatewayFile(models.Model):
    """An uploaded or produced JSONL file. It belongs to the API key that uploaded it."""

    class Purpose(models.TextChoices):
        BATCH = "batch", "Batch input"
        BATCH_OUTPUT = "batch_output", "Batch output"

    public_id = models.CharField(
        max_length=40, unique=True, default=_file_id, db_collation="C", editable=False
    )
    # accounts.ApiKey.key_id.
    key_id = models.CharField(max_length=16, db_collation="C")
    purpose = models.CharField(max_length=16, choices=Purpose.choices)
    filename = models.CharField(max_length=200)
    bytes = models.BigIntegerField(default=0)
    # ledger.DataKey that seals the pieces; destroying it erases them.
    data_key = models.UUIDField()
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField()

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index(fields=["key_id", "-id"], name="gateway_file_key"),
            models.Index(fields=["expires_at"], name="gateway_file_expiry"),
        ]

    def __str__(self) -> str:
        return self.public_id


class GatewayFileChunk(models.Model):
    """A sealed piece of a file's content; pieces are in order and cut anywhere."""

    file = models.ForeignKey(GatewayFile, on_delete=models.CASCADE, related_name="chunks")
    position = models.PositiveIntegerField()
    sealed = models.BinaryField()

    class Meta:
        ordering = ["position"]
        constraints = [models.UniqueConstraint(fields=["file", "position"], name="gateway_file_chunk_once")]

    def __str__(self) -> str:
        return f"{self.file_id}/{self.position}"


class Batch(models.Model):
    """Requests of a file, carried out one by one by workers. States are OpenAI's."""

    class Status(models.TextChoices):
        VALIDATING = "validating", "Checking the file"
        FAILED = "failed", "Not started: the file is wrong"
        IN_PROGRESS = "in_progress", "In progress"
        FINALIZING = "finalizing", "Writing results"
        COMPLETED = "completed", "Completed"
        EXPIRED = "expired", "Expired"
        CANCELLING = "cancelling", "Being cancelled"
        CANCELLED = "cancelled", "Cancelled"

    ACTIVE = (Status.VALIDATING, Status.IN_PROGRESS, Status.FINALIZING, Status.CANCELLING)

    public_id = models.CharField(
        max_length=40, unique=True, default=_batch_id, db_collation="C", editable=False
    )
    # accounts.ApiKey.key_id of who asked; its limits and its place in the tree count.
    key_id = models.CharField(max_length=16, db_collation="C")
    ip = models.CharField(max_length=45, blank=True, default="")
    endpoint = models.CharField(max_length=40)
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.VALIDATING)
    input_file = models.ForeignKey(GatewayFile, null=True, on_delete=models.SET_NULL, related_name="batches")
    # Kept when the file is gone.
    input_file_public_id = models.CharField(max_length=40)
    output_file = models.ForeignKey(GatewayFile, null=True, on_delete=models.SET_NULL, related_name="+")
    error_file = models.ForeignKey(GatewayFile, null=True, on_delete=models.SET_NULL, related_name="+")
    output_retention_s = models.PositiveIntegerField(null=True, blank=True)
    # Up to 16 short texts by name, the caller's own.
    metadata = models.JSONField(default=dict, blank=True)
    # What is wrong with the file, first hundred: {"code", "message", "param", "line"}.
    errors = models.JSONField(default=list, blank=True)
    total = models.PositiveIntegerField(default=0)
    completed = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    tokens_in = models.BigIntegerField(default=0)
    tokens_out = models.BigIntegerField(default=0)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField()
    in_progress_at = models.DateTimeField(null=True, blank=True)
    finalizing_at = models.DateTimeField(null=True, blank=True)
    cancelling_at = models.DateTimeField(null=True, blank=True)
    # When it reached its last state.
    ended_at = models.DateTimeField(null=True, blank=True)
    lease_owner = models.CharField(max_length=80, blank=True, default="")
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    # When its message is due; the scheduler sends it again when nobody took it.
    enqueued_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at", "-id"]
        verbose_name_plural = "batches"
        indexes = [
            models.Index(fields=["key_id", "-id"], name="gateway_batch_key"),
            models.Index(
                fields=["enqueued_at"],
                condition=Q(status__in=["validating", "in_progress", "finalizing", "cancelling"]),
                name="gateway_batch_active",
            ),
        ]

    def __str__(self) -> str:
        return self.public_id

    @property
    def is_active(self) -> bool:
        return self.status in self.ACTIVE

    @property
    def done(self) -> int:
        """Items that have a result, good or bad."""
        return self.completed + self.failed


class BatchItem(models.Model):
    """The result of one line; there is one at most, whoever works and however often it is killed."""

    batch = models.ForeignKey(Batch, on_delete=models.CASCADE, related_name="items")
    # From 1, as in the input file.
    line = models.PositiveIntegerField()
    public_id = models.CharField(max_length=40, db_collation="C")
    # HTTP status of the answer; 0 when the line was never sent.
    status = models.PositiveSmallIntegerField()
    # Stable word of what went wrong; "" for an answer.
    code = models.CharField(max_length=60, blank=True, default="")
    request_id = models.CharField(max_length=60, blank=True, default="")
    data_key = models.UUIDField()
    # {"custom_id", "body"} or {"custom_id", "error"}, sealed.
    sealed = models.BinaryField()
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["line"]
        constraints = [models.UniqueConstraint(fields=["batch", "line"], name="gateway_batch_item_once")]

    def __str__(self) -> str:
        return f"{self.batch_id}/{self.line}"
