"""What a tenant ships and measures with: products, model versions, datasets, releases and channels."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from inference.errors import ReleaseImmutable

# Semantic Versioning 2.0.0, section "Is there a suggested regular expression".
SEMVER = (
    r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?$"
)
validate_semver = RegexValidator(SEMVER, "Use a semantic version such as 1.2.0 or 1.2.0-rc.1.")


class Product(models.Model):
    """An AI capability the tenant ships."""

    slug = models.SlugField(max_length=60, unique=True, db_collation="C")
    name = models.CharField(max_length=120)
    description = models.TextField(blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class ModelVersion(models.Model):
    """Weights, tokenizer and quantisation, addressed by the digest of their content."""

    name = models.CharField(max_length=120)
    digest = models.CharField(max_length=71, unique=True, db_collation="C")
    architecture = models.CharField(max_length=80, blank=True, default="")
    parameters = models.BigIntegerField(default=0)
    size_bytes = models.BigIntegerField(default=0)
    quantisation = models.CharField(max_length=120, blank=True, default="")
    source_format = models.CharField(max_length=20, default="safetensors")
    licence = models.CharField(max_length=80, blank=True, default="")
    source = models.CharField(max_length=300, blank=True, default="")
    # Made from another version by a documented transform: {"name": "quantize_rtn", "params": {...}}.
    parent = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.PROTECT, related_name="variants"
    )
    transform = models.JSONField(default=dict, blank=True)
    # Price of a second of compute, in USD; cost per query is measured seconds times this.
    price_usd_per_compute_s = models.FloatField(default=0.00002, validators=[MinValueValidator(0)])
    created_by_label = models.CharField(max_length=120, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.name


class Dataset(models.Model):
    """A named collection of evaluation items; its versions hold them."""

    class Kind(models.TextChoices):
        MULTIPLE_CHOICE = "multiple_choice", "Multiple choice"
        GENERATION = "generation", "Generation with exact match"
        TEXT = "text", "Plain text"
        REFERENCE = "reference", "Reference answer"

    slug = models.SlugField(max_length=80, unique=True, db_collation="C")
    name = models.CharField(max_length=120)
    kind = models.CharField(max_length=16, choices=Kind.choices)
    description = models.TextField(blank=True, default="")
    licence = models.CharField(max_length=80, blank=True, default="")
    source = models.CharField(max_length=300, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["slug"]

    def __str__(self) -> str:
        return self.name


class Registration(models.Model):
    """One request from the browser or REST to register a model version, carried out by a worker.

    Rows exist so that whoever asked sees it working, done or failed; what it made is the model version.
    """

    class Status(models.TextChoices):
        QUEUED = "queued", "Queued"
        RUNNING = "running", "Running"
        SUCCEEDED = "succeeded", "Succeeded"
        FAILED = "failed", "Failed"

    class Action(models.TextChoices):
        REGISTER = "register", "Register files"
        PACKAGED = "packaged", "Register the packaged model"
        TRANSFORM = "transform", "Make a variant"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    action = models.CharField(max_length=12, choices=Action.choices)
    # Arguments of the service: name, licence, source, price, path below an import root, parent, transform.
    arguments = models.JSONField(default=dict)
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.QUEUED)
    message = models.CharField(max_length=500, blank=True, default="")
    model_version = models.ForeignKey(ModelVersion, null=True, blank=True, on_delete=models.SET_NULL)
    # Whether the same content was registered before, so that nothing new was made.
    existing = models.BooleanField(default=False)
    requested_by_kind = models.CharField(max_length=12, default="system")
    requested_by_id = models.CharField(max_length=40, blank=True, default="")
    requested_by_label = models.CharField(max_length=120, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)
    # When the message to the worker was last sent.
    enqueued_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.get_action_display()}: {self.arguments.get('name', '')}"


class DatasetVersion(models.Model):
    """One immutable import of a dataset, addressed by the digest of its items."""

    dataset = models.ForeignKey(Dataset, on_delete=models.PROTECT, related_name="versions")
    version = models.PositiveIntegerField()
    digest = models.CharField(max_length=71, db_collation="C")
    item_count = models.PositiveIntegerField()
    # {"test": 1500}, {"length:short": 500, ...}
    splits = models.JSONField(default=dict)
    slices = models.JSONField(default=dict)
    file_name = models.CharField(max_length=200, blank=True, default="")
    created_by_label = models.CharField(max_length=120, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["dataset", "-version"]
        constraints = [
            models.UniqueConstraint(fields=["dataset", "version"], name="dataset_version_once"),
            models.UniqueConstraint(fields=["dataset", "digest"], name="dataset_version_content_once"),
        ]

    def __str__(self) -> str:
        return f"{self.dataset.name} v{self.version}"


class DatasetItem(models.Model):
    """One item of a dataset version; `content` has the fields of its dataset's kind (docs/datasets.md)."""

    dataset_version = models.ForeignKey(DatasetVersion, on_delete=models.CASCADE, related_name="items")
    key = models.CharField(max_length=120, db_collation="C")
    ordinal = models.PositiveIntegerField()
    split = models.CharField(max_length=40, default="test")
    slices = ArrayField(models.CharField(max_length=80), default=list, blank=True)
    content = models.JSONField()

    class Meta:
        ordering = ["ordinal"]
        constraints = [
            models.UniqueConstraint(fields=["dataset_version", "key"], name="dataset_item_once"),
        ]

    def __str__(self) -> str:
        return self.key


class Release(models.Model):
    """An immutable, content-addressed configuration of a product. Rows are only ever added."""

    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="releases")
    version = models.CharField(max_length=60, validators=[validate_semver], db_collation="C")
    model_version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="releases")
    # Prompt template, decoding, guard and policy bundle versions, cache policy
    # (inference/evaluation/config.py).
    config = models.JSONField(default=dict)
    # Digest of product, model digest and configuration (not of the version, which is a name for it).
    digest = models.CharField(max_length=71, db_collation="C")
    notes = models.TextField(blank=True, default="")
    created_by_id_text = models.CharField(max_length=40, blank=True, default="")
    created_by_label = models.CharField(max_length=120, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["product", "version"],
                name="release_version_once",
                violation_error_message="This product already has a release with this version. Releases are "
                "immutable: choose the next version.",
            ),
        ]
        indexes = [models.Index(fields=["digest"], name="release_digest")]

    def __str__(self) -> str:
        return f"{self.product.name} {self.version}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Add the release. A stored one is refused (ReleaseImmutable), here and by a database trigger."""
        if not self._state.adding:
            raise ReleaseImmutable(
                f"{self} is stored and releases are immutable. Create the next version with the change "
                f"instead."
            )
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        """Refused: what was once measured and signed stays."""
        raise ReleaseImmutable(f"{self} cannot be deleted: runs, verdicts and signatures refer to it.")


class Channel(models.Model):
    """A named pointer at a release in an environment: what is live."""

    class Environment(models.TextChoices):
        STAGING = "staging", "Staging"
        PRODUCTION = "production", "Production"

    product = models.ForeignKey(Product, on_delete=models.CASCADE, related_name="channels")
    environment = models.CharField(max_length=12, choices=Environment.choices, default=Environment.PRODUCTION)
    name = models.SlugField(max_length=40, default="stable", db_index=False)
    release = models.ForeignKey(Release, on_delete=models.PROTECT, related_name="channels")
    # Share of traffic in percent; the weights of a product's channels in an environment add up to 100.
    weight = models.PositiveSmallIntegerField(default=100)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["product", "environment", "name"]
        constraints = [
            models.UniqueConstraint(fields=["product", "environment", "name"], name="channel_once"),
            models.CheckConstraint(condition=Q(weight__lte=100), name="channel_weight_is_percent"),
        ]

    def __str__(self) -> str:
        return f"{self.product.name} {self.environment}/{self.name}"
