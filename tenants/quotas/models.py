"""Limits in a tree, the counters that hold them, and where each API key stands in the tree."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q


class ScopeKind(models.TextChoices):
    """Nodes of the tree, from wide to narrow."""

    TENANT = "tenant", "Organisation"
    PRODUCT = "product", "Product"
    TEAM = "team", "Team"
    PILOT = "pilot", "Pilot"
    KEY = "key", "API key"
    USER = "user", "End user"


class Limit(models.Model):
    """What one node of the tree may use. An empty figure means: not limited here (a wider node may limit it)."""

    scope_kind = models.CharField(max_length=8, choices=ScopeKind.choices)
    # Slug, name or id of the node; "" for the organisation, "*" for each node of the kind by itself.
    scope_id = models.CharField(max_length=80, blank=True, default="", db_collation="C")
    # Pattern with * and ? over `product` or `product@version`; "" is every model.
    model = models.CharField(max_length=160, blank=True, default="", db_collation="C")
    requests_per_minute = models.PositiveIntegerField(null=True, blank=True)
    tokens_in_per_minute = models.PositiveBigIntegerField(null=True, blank=True)
    tokens_out_per_minute = models.PositiveBigIntegerField(null=True, blank=True)
    concurrent = models.PositiveIntegerField(null=True, blank=True)
    # Input and output tokens per day (UTC).
    tokens_per_day = models.PositiveBigIntegerField(null=True, blank=True)
    # Hard ceilings in nano-USD (1e-9 USD) per day and per calendar month (UTC).
    cost_per_day_nano = models.PositiveBigIntegerField(null=True, blank=True)
    cost_per_month_nano = models.PositiveBigIntegerField(null=True, blank=True)
    # Share of a money ceiling at which people are told.
    alarm_share = models.FloatField(default=0.8, validators=[MinValueValidator(0.01), MaxValueValidator(1)])
    # Patterns like `model`; empty allows every model.
    allowed_models = ArrayField(models.CharField(max_length=160), default=list, blank=True)
    note = models.CharField(max_length=300, blank=True, default="")
    updated_by_label = models.CharField(max_length=120, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    # Day and month (see Counter) whose alarm has been raised, so that it is raised once.
    alarmed_day = models.IntegerField(default=0, editable=False)
    alarmed_month = models.IntegerField(default=0, editable=False)

    class Meta:
        ordering = ["scope_kind", "scope_id", "model"]
        constraints = [
            models.UniqueConstraint(
                fields=["scope_kind", "scope_id", "model"],
                name="limit_scope_once",
                violation_error_message="There is a limit for this scope and model already: change that one.",
            ),
            models.CheckConstraint(
                condition=Q(scope_kind="tenant", scope_id="") | (~Q(scope_kind="tenant") & ~Q(scope_id="")),
                name="limit_scope_named",
                violation_error_message="Name the node the limit is for; the organisation has no name.",
            ),
            models.CheckConstraint(
                condition=Q(alarm_share__gt=0, alarm_share__lte=1), name="limit_alarm_is_share"
            ),
        ]

    # The figures a limit has, in the order they are shown.
    FIGURES = (
        "requests_per_minute",
        "tokens_in_per_minute",
        "tokens_out_per_minute",
        "concurrent",
        "tokens_per_day",
        "cost_per_day_nano",
        "cost_per_month_nano",
    )

    def __str__(self) -> str:
        return f"limit of {self.label}"

    @property
    def label(self) -> str:
        """The scope in words, e.g. `the team research, models triage*`."""
        kind = str(ScopeKind(self.scope_kind).label)
        if self.scope_kind == ScopeKind.TENANT:
            words = "the organisation"
        elif self.scope_id == "*":
            words = f"each {kind if kind.startswith('API') else kind.lower()}"
        else:
            words = f"the {kind if kind.startswith('API') else kind.lower()} {self.scope_id}"
        return f"{words}, models {self.model}" if self.model else words


class Counter(models.Model):
    """What one node has used in the current minute, day and month, running calls' bounds included.

    Written by inference/ledger/lanes.py only, under a row lock. Windows are numbered from the epoch (UTC): minutes,
    days, and months as year * 12 + month - 1.
    """

    scope_kind = models.CharField(max_length=8, choices=ScopeKind.choices)
    scope_id = models.CharField(max_length=80, blank=True, default="", db_collation="C")
    model = models.CharField(max_length=160, blank=True, default="", db_collation="C")
    minute = models.IntegerField(default=0, db_default=0)
    requests_minute = models.BigIntegerField(default=0, db_default=0)
    tokens_in_minute = models.BigIntegerField(default=0, db_default=0)
    tokens_out_minute = models.BigIntegerField(default=0, db_default=0)
    day = models.IntegerField(default=0, db_default=0)
    tokens_day = models.BigIntegerField(default=0, db_default=0)
    cost_day_nano = models.BigIntegerField(default=0, db_default=0)
    month = models.IntegerField(default=0, db_default=0)
    cost_month_nano = models.BigIntegerField(default=0, db_default=0)
    open = models.IntegerField(default=0, db_default=0)
    open_cost_nano = models.BigIntegerField(default=0, db_default=0)
    # On the organisation's counter only, which every admission locks: raised with each change of a limit, so that
    # a changed limit holds from the next admission on, in every process.
    limits_version = models.BigIntegerField(default=0, db_default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["scope_kind", "scope_id", "model"], name="counter_scope_once"),
        ]

    def __str__(self) -> str:
        return f"{self.scope_kind}:{self.scope_id}:{self.model}"


class KeyPlacement(models.Model):
    """Where an API key stands in the tree, and attributes that policies read."""

    # accounts.ApiKey.key_id; not a foreign key, so that a key's rows can be removed without this app.
    key_id = models.CharField(max_length=16, unique=True, db_collation="C")
    product = models.SlugField(max_length=60, blank=True, default="", db_index=False)
    team = models.CharField(max_length=80, blank=True, default="")
    pilot = models.CharField(max_length=40, blank=True, default="")
    # Texts by name, e.g. {"classification": "internal"}.
    attributes = models.JSONField(default=dict, blank=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["key_id"]

    def __str__(self) -> str:
        return f"key {self.key_id}"
