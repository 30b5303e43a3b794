"""One row per request of the gateway, its sealed prompt and output, the keys that seal them, and prices.

`LedgerEntry` is partitioned by month on `created_at` (migration 0001). Rows are written by inference/ledger/lanes.py
only; a trigger refuses changes of a row once it is final.
"""

from __future__ import annotations

import uuid

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q


class EntryStatus(models.TextChoices):
    OPEN = "open", "Running"
    OK = "ok", "Answered"
    REFUSED = "refused", "Refused"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled by the client"
    INTERRUPTED = "interrupted", "Interrupted"


class CacheResult(models.TextChoices):
    OFF = "off", "Off"
    MISS = "miss", "Miss"
    EXACT = "exact", "Exact hit"
    SEMANTIC = "semantic", "Semantic hit"


class LedgerEntry(models.Model):
    """One request. Open from admission to settlement; final afterwards.

    Units: tokens, nano-USD (1e-9 USD), milliseconds, bytes. Digests are HMAC-SHA256 under a key of the tenant.
    """

    # Ordered by time (UUID version 7 of created_at), so the primary key serves time ranges as well.
    id = models.UUIDField(primary_key=True, editable=False)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    request_id = models.CharField(max_length=64, default="")
    traceparent = models.CharField(max_length=64, default="")
    conversation = models.CharField(max_length=128, default="")
    key_id = models.CharField(max_length=16, default="")
    # Digest of the request's `user`; "" when there was none.
    end_user = models.CharField(max_length=32, default="")
    product = models.CharField(max_length=60, default="")
    team = models.CharField(max_length=80, default="")
    pilot = models.CharField(max_length=40, default="")
    release_id = models.BigIntegerField(null=True)
    release_version = models.CharField(max_length=60, default="")
    release_digest = models.CharField(max_length=71, default="")
    # What the client asked for as `model`.
    model = models.CharField(max_length=160, default="")
    channel = models.CharField(max_length=60, default="")
    route = models.CharField(max_length=24, default="")
    stream = models.BooleanField(default=False)
    status = models.CharField(max_length=12, choices=EntryStatus.choices, default=EntryStatus.OPEN)
    http_status = models.SmallIntegerField(default=0)
    error_code = models.CharField(max_length=60, default="")
    policy_version = models.CharField(max_length=80, default="")
    policy_reason = models.CharField(max_length=300, default="")
    # What the policy decided on (gateway.contract.policy_attributes), so that another policy can be asked the same.
    attributes = models.JSONField(default=dict)
    # {"input": {"guard": …, "allowed": true, …}, "output": {…}}
    guards = models.JSONField(default=dict)
    # {"prompt": {"EMAIL": 2}, "output": {}}
    redactions = models.JSONField(default=dict)
    cache = models.CharField(max_length=8, choices=CacheResult.choices, default=CacheResult.OFF)
    tokens_in = models.BigIntegerField(default=0)
    tokens_out = models.BigIntegerField(default=0)
    tokens_cached = models.BigIntegerField(default=0)
    cost_nano = models.BigIntegerField(default=0)
    reserved_in = models.BigIntegerField(default=0)
    reserved_out = models.BigIntegerField(default=0)
    reserved_nano = models.BigIntegerField(default=0)
    price_id = models.BigIntegerField(null=True)
    queue_ms = models.FloatField(default=0)
    first_token_ms = models.FloatField(default=0)
    total_ms = models.FloatField(default=0)
    overhead_ms = models.FloatField(default=0)
    upstream_ms = models.FloatField(default=0)
    upstream = models.CharField(max_length=120, default="")
    bytes_in = models.BigIntegerField(default=0)
    bytes_out = models.BigIntegerField(default=0)
    prompt_digest = models.CharField(max_length=64, default="")
    output_digest = models.CharField(max_length=64, default="")
    # Stages as [name, start ms, length ms], for the timeline.
    stages = models.JSONField(default=list)
    # The process that answers for an open row, and the counters its bound is booked on.
    worker = models.UUIDField(null=True)
    counters = ArrayField(models.BigIntegerField(), default=list)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "ledger entries"

    def __str__(self) -> str:
        return f"request {self.request_id or self.id}"


class LedgerWorker(models.Model):
    """The lease of one process: while it is renewed, the process's open rows are alive.

    One row per process instead of a date on each open row: renewing costs one statement however many calls run.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    lease_until = models.DateTimeField()
    # No open row of this process is older.
    oldest_at = models.DateTimeField()
    host = models.CharField(max_length=120, default="")
    pid = models.IntegerField(default=0)

    def __str__(self) -> str:
        return f"process {self.pid} of {self.host}"


class DataKey(models.Model):
    """A key of the tenant, wrapped by the installation's secret; destroying it erases what it sealed."""

    class Purpose(models.TextChoices):
        PAYLOAD = "payload", "Prompts and outputs"
        DIGEST = "digest", "Salted digests"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    purpose = models.CharField(max_length=8, choices=Purpose.choices)
    # AES-256-GCM under a key derived from SECRET_KEY (core/security/keys.py); "" when destroyed.
    wrapped = models.TextField(blank=True, default="")
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    retired_at = models.DateTimeField(null=True, blank=True)
    destroyed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["purpose"], condition=Q(is_active=True), name="data_key_one_active"
            ),
            models.CheckConstraint(
                condition=Q(destroyed_at__isnull=True) | Q(is_active=False, wrapped=""),
                name="data_key_destroyed_is_empty",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_purpose_display()} {str(self.id)[:8]}"


class LedgerPayload(models.Model):
    """Prompt and output of one request, sealed with a data key of the tenant. Only where the policy keeps them."""

    entry_id = models.UUIDField(primary_key=True, editable=False)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    key = models.ForeignKey(DataKey, on_delete=models.PROTECT, related_name="payloads")
    # Nonce (12 bytes) and AES-256-GCM ciphertext; the row's id and the field's name are bound in.
    prompt = models.BinaryField()
    output = models.BinaryField()

    class Meta:
        indexes = [models.Index(fields=["expires_at"], name="ledger_payload_expiry")]

    def __str__(self) -> str:
        return f"payload of {self.entry_id}"


class ModelPrice(models.Model):
    """What a model version costs from a date on. Rows are only added; the newest whose date has come holds.

    Units keep every published price a whole number: nano-USD per million tokens, per second, per request.
    """

    model_version = models.ForeignKey(
        "inference.ModelVersion", on_delete=models.CASCADE, related_name="prices"
    )
    valid_from = models.DateTimeField()
    input_nano_per_mtok = models.PositiveBigIntegerField(default=0)
    output_nano_per_mtok = models.PositiveBigIntegerField(default=0)
    # Input tokens the engine had in its cache; None: as other input.
    cached_nano_per_mtok = models.PositiveBigIntegerField(null=True, blank=True)
    compute_nano_per_s = models.PositiveBigIntegerField(default=0)
    request_nano = models.PositiveBigIntegerField(default=0)
    note = models.CharField(max_length=300, blank=True, default="")
    created_by_label = models.CharField(max_length=120, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["model_version", "-valid_from"]
        constraints = [
            models.UniqueConstraint(
                fields=["model_version", "valid_from"],
                name="model_price_date_once",
                violation_error_message="This model version has a price from that date already.",
            ),
        ]

    def __str__(self) -> str:
        return f"price of {self.model_version} from {self.valid_from:%Y-%m-%d}"
