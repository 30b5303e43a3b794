"""The evidence kernel's rows: runs, what they measured, the gates over it and their verdicts."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models import Q


class Run(models.Model):
    """One execution of a measuring job on a release. Its plan is frozen when the row is created."""

    class Kind(models.TextChoices):
        EVALUATION = "evaluation", "Evaluation"
        LOAD = "load", "Load test"
        SOAK = "soak", "Soak test"
        FAULT = "fault", "Fault test"
        RED_TEAM = "red_team", "Red team"
        DRIFT = "drift", "Drift detection"
        SMOKE = "smoke", "Smoke test"

    class Status(models.TextChoices):
        QUEUED = "queued", "Queued"
        RUNNING = "running", "Running"
        SUCCEEDED = "succeeded", "Succeeded"
        FAILED = "failed", "Failed"
        CANCELLED = "cancelled", "Cancelled"

    ACTIVE = (Status.QUEUED, Status.RUNNING)
    # What the plan says and what follows from it; the trigger run_plan_is_frozen lists the same columns.
    FROZEN = ("kind", "subject_digest", "dataset_digest", "plan", "plan_digest", "seed", "total_items")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=20, choices=Kind.choices)
    # What is measured: the digest of a release, and how people call it ("Document assistant 1.1.0").
    subject_digest = models.CharField(max_length=71, db_collation="C")
    subject_label = models.CharField(max_length=200)
    dataset_slug = models.CharField(max_length=80, blank=True, default="")
    dataset_digest = models.CharField(max_length=71, blank=True, default="", db_collation="C")
    dataset_label = models.CharField(max_length=200, blank=True, default="")
    # Release digest, dataset digest, item keys or their sample rule, parameters, seed, code version, machine.
    plan = models.JSONField()
    # Digest of the plan: two runs with the same one measure the same thing, so a finished one is reused.
    plan_digest = models.CharField(max_length=71, db_collation="C")
    seed = models.BigIntegerField(default=0)
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.QUEUED)
    total_items = models.PositiveIntegerField(default=0)
    requested_by_kind = models.CharField(max_length=12, default="system")
    requested_by_id = models.CharField(max_length=40, blank=True, default="")
    requested_by_label = models.CharField(max_length=120, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    # Only the worker holding the lease writes results; an expired lease is taken over by the scheduler.
    lease_owner = models.CharField(max_length=64, blank=True, default="")
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    # How often a worker took the run, and when the present one did (what the rate is counted from).
    attempts = models.PositiveSmallIntegerField(default=0)
    attempt_started_at = models.DateTimeField(null=True, blank=True)
    # When the message to the workers was last sent, and how often; empty sends it at the next tick.
    enqueued_at = models.DateTimeField(null=True, blank=True)
    deliveries = models.PositiveSmallIntegerField(default=0)
    error = models.CharField(max_length=500, blank=True, default="")
    error_detail = models.TextField(blank=True, default="")
    # Engine, dtype, CPU, threads and library versions, as the worker found them.
    environment = models.JSONField(default=dict, blank=True)
    # Totals the executor reports: compute_s, tokens_in, tokens_out, cost_usd, phase timings.
    summary = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="run_newest"),
            models.Index(fields=["subject_digest", "kind"], name="run_subject"),
            models.Index(fields=["plan_digest"], name="run_plan"),
            models.Index(fields=["status"], name="run_active", condition=Q(status__in=["queued", "running"])),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=["queued", "running"]) | Q(finished_at__isnull=False),
                name="run_finished_has_time",
            ),
            # One live execution of one plan: a double click finds the run that is there.
            models.UniqueConstraint(
                fields=["plan_digest"],
                condition=Q(status__in=["queued", "running"]),
                name="run_one_live_per_plan",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} of {self.subject_label} on {self.dataset_label or 'no dataset'}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """As usual, except that a stored run is saved field by field: its plan is frozen.

        Raises TypeError for a whole-row save of a stored run, or one that names a frozen field. The database
        refuses such a change as well (trigger run_plan_is_frozen), whichever way it comes.
        """
        if not self._state.adding:
            named = kwargs.get("update_fields")
            if named is None:
                raise TypeError("A stored run is saved with update_fields; its plan is frozen.")
            frozen = sorted(set(named) & set(self.FROZEN))
            if frozen:
                raise TypeError(f"{', '.join(frozen)} of a run cannot change: its plan is frozen.")
        super().save(*args, **kwargs)

    @property
    def is_active(self) -> bool:
        """Whether it may still change."""
        return self.status in self.ACTIVE


class RunItem(models.Model):
    """What a run found on one item. At most one row per run and item, however often it is tried."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="items")
    key = models.CharField(max_length=120, db_collation="C")
    ordinal = models.PositiveIntegerField()
    slices = ArrayField(models.CharField(max_length=80), default=list, blank=True)
    # Metric name -> number, or null where the model gave no finite number (see `notes`).
    metrics = models.JSONField(default=dict)
    output = models.TextField(blank=True, default="")
    notes = models.CharField(max_length=300, blank=True, default="")
    latency_ms = models.FloatField(null=True, blank=True)
    tokens_in = models.PositiveIntegerField(default=0)
    tokens_out = models.PositiveIntegerField(default=0)
    compute_s = models.FloatField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["ordinal"]
        constraints = [models.UniqueConstraint(fields=["run", "key"], name="run_item_once")]
        indexes = [models.Index(fields=["run", "ordinal"], name="run_item_order")]

    def __str__(self) -> str:
        return f"{self.key} of run {self.run_id}"


class RunEvent(models.Model):
    """One line of a run's log. No prompts, no outputs."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField(auto_now_add=True)
    level = models.CharField(max_length=8, default="info")
    message = models.CharField(max_length=500)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return self.message


class Measurement(models.Model):
    """One number with its unit, n, interval and provenance: measured by a run, or stated by a named
    person."""

    class Provenance(models.TextChoices):
        MEASURED = "measured", "Measured"
        STATED = "stated", "Stated"

    run = models.ForeignKey(Run, null=True, blank=True, on_delete=models.PROTECT, related_name="measurements")
    subject_digest = models.CharField(max_length=71, db_collation="C")
    metric = models.CharField(max_length=60)
    dataset = models.CharField(max_length=80, blank=True, default="")
    # "" is the whole; otherwise the name of one slice.
    slice = models.CharField(max_length=80, blank=True, default="")
    value = models.FloatField(null=True, blank=True)
    unit = models.CharField(max_length=20, blank=True, default="")
    n = models.PositiveIntegerField(default=0)
    low = models.FloatField(null=True, blank=True)
    high = models.FloatField(null=True, blank=True)
    level = models.FloatField(default=0.95)
    method = models.CharField(max_length=80, blank=True, default="")
    provenance = models.CharField(max_length=8, choices=Provenance.choices, default=Provenance.MEASURED)
    stated_by = models.CharField(max_length=120, blank=True, default="")
    source = models.CharField(max_length=300, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["metric", "dataset", "slice"]
        indexes = [models.Index(fields=["subject_digest", "metric", "dataset"], name="measurement_subject")]
        constraints = [
            models.UniqueConstraint(
                fields=["run", "metric", "slice"],
                condition=Q(run__isnull=False),
                name="measurement_once_per_run",
            ),
            models.CheckConstraint(
                condition=Q(provenance="measured", run__isnull=False)
                | (Q(provenance="stated") & ~Q(stated_by="") & ~Q(source="")),
                name="measurement_has_provenance",
                violation_error_message="A stated number needs the person who states it and a source "
                "document.",
            ),
            models.CheckConstraint(
                condition=~Q(n=0) | Q(value__isnull=True) | Q(provenance="stated"),
                name="measurement_over_nothing_has_no_value",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.metric} = {self.value} {self.unit} (n = {self.n})"


class Gate(models.Model):
    """One version of a set of criteria. A version is never edited; a change makes the next version."""

    slug = models.SlugField(max_length=80, db_collation="C", db_index=False)
    version = models.PositiveIntegerField(default=1)
    title = models.CharField(max_length=120)
    description = models.TextField(blank=True, default="")
    # Digest of the canonical list of criteria.
    digest = models.CharField(max_length=71, db_collation="C")
    alpha = models.FloatField(default=0.05)
    created_by_label = models.CharField(max_length=120, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["slug", "-version"]
        constraints = [models.UniqueConstraint(fields=["slug", "version"], name="gate_version_once")]

    def __str__(self) -> str:
        return f"{self.title} v{self.version}"


class Criterion(models.Model):
    """One rule over one metric, with its error rates, age limit, owner and severity."""

    class Area(models.TextChoices):
        QUALITY = "quality", "Quality"
        RELIABILITY = "reliability", "Reliability"
        COST = "cost", "Cost"
        SECURITY = "security", "Security and privacy"
        PILOT = "pilot", "Pilot ROI"
        ROLLBACK = "rollback", "Rollback readiness"

    class Severity(models.TextChoices):
        BLOCKING = "blocking", "Blocking"
        ADVISORY = "advisory", "Advisory"

    gate = models.ForeignKey(Gate, on_delete=models.CASCADE, related_name="criteria")
    key = models.SlugField(max_length=80, db_collation="C", db_index=False)
    title = models.CharField(max_length=160)
    area = models.CharField(max_length=12, choices=Area.choices, default=Area.QUALITY)
    metric = models.CharField(max_length=60)
    dataset = models.CharField(max_length=80, blank=True, default="")
    slice = models.CharField(max_length=80, blank=True, default="")
    # {"type": "bound", "op": ">=", "bound": x} or
    # {"type": "non_inferiority", "margin": m, "direction": "lower_is_better", "scale": "difference"}
    rule = models.JSONField()
    alpha = models.FloatField(default=0.05)
    power = models.FloatField(default=0.8)
    severity = models.CharField(max_length=8, choices=Severity.choices, default=Severity.BLOCKING)
    max_age_days = models.PositiveIntegerField(default=30)
    owner_role = models.CharField(max_length=12, default="engineer")
    playbook = models.SlugField(max_length=80, blank=True, default="", db_index=False)
    # How many items an evaluation for this criterion uses; 0 means all of the dataset's test split.
    sample_size = models.PositiveIntegerField(default=0)
    ordinal = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ["ordinal", "key"]
        verbose_name_plural = "criteria"
        constraints = [
            models.UniqueConstraint(fields=["gate", "key"], name="criterion_key_once_per_gate"),
            models.CheckConstraint(
                condition=Q(alpha__gt=0, alpha__lt=0.5),
                name="criterion_alpha_in_range",
                violation_error_message="Alpha must lie between 0 and 0.5.",
            ),
            models.CheckConstraint(
                condition=Q(power__gt=0, power__lt=1),
                name="criterion_power_in_range",
                violation_error_message="Power must lie between 0 and 1.",
            ),
        ]

    def __str__(self) -> str:
        return self.title


class VerdictStatus(models.TextChoices):
    """Only `pass` passes."""

    PASS = "pass", "Pass"
    FAIL = "fail", "Fail"
    INCONCLUSIVE = "inconclusive", "Inconclusive"
    NOT_RUN = "not_run", "Not run"
    STALE = "stale", "Stale"


class GateVerdict(models.Model):
    """The verdict of one gate on one candidate against one baseline, computed from named runs. Never
    edited."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    gate = models.ForeignKey(Gate, on_delete=models.PROTECT, related_name="verdicts")
    candidate_digest = models.CharField(max_length=71, db_collation="C")
    candidate_label = models.CharField(max_length=200)
    baseline_digest = models.CharField(max_length=71, db_collation="C", blank=True, default="")
    baseline_label = models.CharField(max_length=200, blank=True, default="")
    status = models.CharField(max_length=12, choices=VerdictStatus.choices)
    sentence = models.TextField()
    # Digest over gate digest, subject digests, and the ids and digests of the runs used.
    inputs_digest = models.CharField(max_length=71, db_collation="C")
    run_ids = ArrayField(models.UUIDField(), default=list, blank=True)
    # The report as core.evidence.verdicts gave it (GateReport.to_dict): what a dossier freezes and verifies.
    report = models.JSONField(default=dict, blank=True)
    computed_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-computed_at"]
        indexes = [
            models.Index(
                fields=["candidate_digest", "baseline_digest", "-computed_at"], name="gate_verdict_pair"
            )
        ]
        constraints = [
            models.UniqueConstraint(fields=["gate", "inputs_digest"], name="gate_verdict_once_per_inputs"),
        ]

    def __str__(self) -> str:
        return f"{self.gate}: {self.status} for {self.candidate_label}"


class CriterionVerdict(models.Model):
    """The verdict on one criterion within a gate verdict, with the sentence that explains it."""

    gate_verdict = models.ForeignKey(GateVerdict, on_delete=models.CASCADE, related_name="criteria")
    criterion = models.ForeignKey(Criterion, on_delete=models.PROTECT, related_name="verdicts")
    status = models.CharField(max_length=12, choices=VerdictStatus.choices)
    comparison = models.CharField(max_length=16, blank=True, default="")
    sentence = models.TextField()
    baseline_value = models.FloatField(null=True, blank=True)
    candidate_value = models.FloatField(null=True, blank=True)
    # Observed effect (difference or ratio, candidate over baseline; or the value, for a bound) and interval.
    observed = models.FloatField(null=True, blank=True)
    low = models.FloatField(null=True, blank=True)
    high = models.FloatField(null=True, blank=True)
    level = models.FloatField(default=0.95)
    n = models.PositiveIntegerField(default=0)
    p_value = models.FloatField(null=True, blank=True)
    p_adjusted = models.FloatField(null=True, blank=True)
    power = models.FloatField(null=True, blank=True)
    mde = models.FloatField(null=True, blank=True)
    method = models.CharField(max_length=120, blank=True, default="")
    # {"slices": [{name, n, baseline, candidate, effect, low, high}], "items": [{key, baseline, candidate}]}
    attribution = models.JSONField(default=dict, blank=True)
    run_ids = ArrayField(models.UUIDField(), default=list, blank=True)
    # When the oldest run behind it finished: the age that the criterion's limit is about.
    evidence_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["criterion__ordinal"]
        indexes = [GinIndex(fields=["run_ids"], name="criterion_verdict_runs")]
        constraints = [
            models.UniqueConstraint(fields=["gate_verdict", "criterion"], name="criterion_verdict_once"),
        ]

    def __str__(self) -> str:
        return f"{self.criterion}: {self.status}"
