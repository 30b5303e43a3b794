"""What the API shows and takes of inference: one serializer out, one in, not shared."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from core.api.serializers import Body
from core.evidence.models import (
    Criterion,
    CriterionVerdict,
    Gate,
    GateVerdict,
    Measurement,
    Run,
    RunEvent,
    RunItem,
)
from inference.models import (
    Channel,
    Dataset,
    DatasetItem,
    DatasetVersion,
    ModelVersion,
    Product,
    Registration,
    Release,
)

# Fits a PostgreSQL bigint.
MAX_ID = 2**63 - 1


class ProductOut(serializers.ModelSerializer[Product]):
    """An AI capability the tenant ships."""

    class Meta:
        model = Product
        fields = ["slug", "name", "description", "created_at"]


class ProductIn(Body):
    """A new product."""

    slug = serializers.CharField(max_length=60, help_text="Short name, such as document-assistant.")
    name = serializers.CharField(max_length=120)
    description = serializers.CharField(max_length=4000, required=False, allow_blank=True, default="")


class ProductEdit(Body):
    """What can change of a product."""

    name = serializers.CharField(max_length=120, required=False)
    description = serializers.CharField(max_length=4000, required=False, allow_blank=True)


class ModelVersionOut(serializers.ModelSerializer[ModelVersion]):
    """Weights, tokenizer and quantisation, addressed by digest."""

    parent = serializers.PrimaryKeyRelatedField(read_only=True, allow_null=True)

    class Meta:
        model = ModelVersion
        fields = [
            "id", "name", "digest", "architecture", "parameters", "size_bytes", "quantisation", "source_format",
            "licence", "source", "parent", "transform", "price_usd_per_compute_s", "created_at",
        ]  # fmt: skip


class RegistrationIn(Body):
    """Ask a worker to register a model version: a path below an import root, the packaged model, or a variant."""

    action = serializers.ChoiceField(choices=Registration.Action.choices, default="register")
    path = serializers.CharField(
        max_length=1000,
        required=False,
        help_text="Directory of safetensors or .gguf file below an import root.",
    )
    name = serializers.CharField(max_length=120, required=False, allow_blank=True)
    licence = serializers.CharField(max_length=80, required=False, allow_blank=True)
    source = serializers.CharField(max_length=300, required=False, allow_blank=True)
    price_usd_per_compute_s = serializers.FloatField(min_value=0, max_value=1e6, required=False)
    parent = serializers.IntegerField(
        min_value=1, max_value=MAX_ID, required=False, help_text="For a variant."
    )
    transform = serializers.CharField(
        max_length=80, required=False, help_text="For a variant: docs/models.md."
    )
    params = serializers.DictField(required=False, help_text="Parameters of the transform.")


class RegistrationOut(serializers.ModelSerializer[Registration]):
    """A registration and how far it is."""

    model_version = serializers.PrimaryKeyRelatedField(read_only=True, allow_null=True)

    class Meta:
        model = Registration
        fields = [
            "id",
            "action",
            "status",
            "message",
            "model_version",
            "existing",
            "created_at",
            "finished_at",
        ]


class DatasetVersionOut(serializers.ModelSerializer[DatasetVersion]):
    """One immutable import of a dataset."""

    dataset = serializers.SlugRelatedField(slug_field="slug", read_only=True)

    class Meta:
        model = DatasetVersion
        fields = ["dataset", "version", "digest", "item_count", "splits", "slices", "file_name", "created_at"]


class DatasetOut(serializers.ModelSerializer[Dataset]):
    """A named collection of evaluation items."""

    version_count = serializers.IntegerField(read_only=True)
    latest_version = serializers.IntegerField(read_only=True, allow_null=True)

    class Meta:
        model = Dataset
        fields = [
            "slug", "name", "kind", "description", "licence", "source", "version_count", "latest_version",
            "created_at",
        ]  # fmt: skip


class DatasetImportIn(Body):
    """A dataset version from a file (multipart `file`) or from text in `content`. All rows or none."""

    slug = serializers.CharField(max_length=80)
    file = serializers.FileField(required=False, help_text="JSONL or CSV.")
    content = serializers.CharField(
        required=False,
        trim_whitespace=False,
        max_length=20_000_000,
        help_text="The file's text, instead of file.",
    )
    kind = serializers.ChoiceField(choices=Dataset.Kind.choices, required=False)
    format = serializers.ChoiceField(choices=["jsonl", "csv"], required=False)
    name = serializers.CharField(max_length=120, required=False, allow_blank=True)
    licence = serializers.CharField(max_length=80, required=False, allow_blank=True)
    source = serializers.CharField(max_length=300, required=False, allow_blank=True)
    description = serializers.CharField(max_length=4000, required=False, allow_blank=True)

    def validate(self, attrs: Any) -> Any:
        if ("file" in attrs) == ("content" in attrs):
            raise serializers.ValidationError({"file": ["Send either a file or its text in content."]})
        return attrs


class DatasetItemOut(serializers.ModelSerializer[DatasetItem]):
    """One item of a dataset version."""

    class Meta:
        model = DatasetItem
        fields = ["key", "ordinal", "split", "slices", "content"]


class ReleaseOut(serializers.ModelSerializer[Release]):
    """An immutable configuration of a product."""

    product = serializers.SlugRelatedField(slug_field="slug", read_only=True)
    model_version = serializers.PrimaryKeyRelatedField(read_only=True)

    class Meta:
        model = Release
        fields = ["id", "product", "version", "digest", "model_version", "config", "notes", "created_at"]


class ReleaseIn(Body):
    """A new release."""

    product = serializers.CharField(max_length=60, help_text="Slug of the product.")
    version = serializers.CharField(max_length=60, help_text="Semantic version.")
    model_version = serializers.CharField(max_length=120, help_text="Id, digest or name of a model version.")
    config = serializers.DictField(required=False, default=dict)
    notes = serializers.CharField(max_length=10_000, required=False, allow_blank=True, default="")


class ChannelOut(serializers.ModelSerializer[Channel]):
    """A named pointer at a release."""

    product = serializers.SlugRelatedField(slug_field="slug", read_only=True)
    release = serializers.PrimaryKeyRelatedField(read_only=True)
    version = serializers.CharField(source="release.version", read_only=True)

    class Meta:
        model = Channel
        fields = ["product", "environment", "name", "release", "version", "weight", "updated_at"]


class ChannelIn(Body):
    """Point a channel at a release."""

    product = serializers.CharField(max_length=60)
    environment = serializers.ChoiceField(choices=Channel.Environment.choices)
    name = serializers.CharField(max_length=40, default="stable")
    release = serializers.CharField(max_length=120, help_text="Id, digest or product/version of the release.")
    weight = serializers.IntegerField(min_value=0, max_value=100, default=100)


class RunOut(serializers.ModelSerializer[Run]):
    """One execution of a measuring job."""

    done = serializers.SerializerMethodField(help_text="Items stored so far.")

    class Meta:
        model = Run
        fields = [
            "id", "kind", "status", "subject_digest", "subject_label", "dataset_slug", "dataset_digest", "plan",
            "plan_digest", "seed", "total_items", "done", "attempts", "error", "environment", "summary",
            "created_at", "started_at", "finished_at",
        ]  # fmt: skip

    def get_done(self, run: Run) -> int:
        """Counted from stored rows."""
        counted = getattr(run, "done", None)
        return int(counted if counted is not None else run.items.count())


class EvaluationIn(Body):
    """Evaluate a release on a dataset. The same plan finds the run that is there."""

    release = serializers.CharField(max_length=120, help_text="Id, digest or product/version of the release.")
    dataset = serializers.CharField(max_length=80)
    dataset_version = serializers.IntegerField(min_value=1, max_value=2**31 - 1, required=False)
    sample_size = serializers.IntegerField(
        min_value=0, max_value=10_000_000, default=0, help_text="0: all items."
    )
    seed = serializers.IntegerField(min_value=0, max_value=MAX_ID, default=0)
    force = serializers.BooleanField(
        default=False, help_text="Measure again although a run of this plan exists."
    )


class RunItemOut(serializers.ModelSerializer[RunItem]):
    """What a run found on one item."""

    class Meta:
        model = RunItem
        fields = [
            "key", "ordinal", "slices", "metrics", "output", "notes", "latency_ms", "tokens_in", "tokens_out",
            "compute_s",
        ]  # fmt: skip


class RunEventOut(serializers.ModelSerializer[RunEvent]):
    """One line of a run's log."""

    class Meta:
        model = RunEvent
        fields = ["id", "at", "level", "message"]


class MeasurementOut(serializers.ModelSerializer[Measurement]):
    """One number with unit, n, interval and provenance."""

    run = serializers.PrimaryKeyRelatedField(read_only=True, allow_null=True)

    class Meta:
        model = Measurement
        fields = [
            "id", "run", "subject_digest", "metric", "dataset", "slice", "value", "unit", "n", "low", "high",
            "level", "method", "provenance", "stated_by", "source", "created_at",
        ]  # fmt: skip


class MeasurementIn(Body):
    """A stated number: entered by a person or program, with its source, and shown as stated."""

    release = serializers.CharField(max_length=120, help_text="Id, digest or product/version of the release.")
    metric = serializers.CharField(max_length=60)
    value = serializers.FloatField()
    source = serializers.CharField(max_length=300, help_text="The document the number comes from.")
    unit = serializers.CharField(max_length=20, required=False, allow_blank=True, default="")
    dataset = serializers.CharField(max_length=80, required=False, allow_blank=True, default="")
    slice = serializers.CharField(max_length=80, required=False, allow_blank=True, default="")
    n = serializers.IntegerField(min_value=0, max_value=2**31 - 1, default=0)
    low = serializers.FloatField(required=False, allow_null=True, default=None)
    high = serializers.FloatField(required=False, allow_null=True, default=None)


class CriterionOut(serializers.ModelSerializer[Criterion]):
    """One rule over one metric."""

    class Meta:
        model = Criterion
        fields = [
            "key", "title", "area", "metric", "dataset", "slice", "rule", "alpha", "power", "severity",
            "max_age_days", "owner_role", "playbook", "sample_size",
        ]  # fmt: skip


class GateOut(serializers.ModelSerializer[Gate]):
    """One version of a set of criteria."""

    criteria = CriterionOut(many=True, read_only=True)

    class Meta:
        model = Gate
        fields = ["slug", "version", "title", "description", "digest", "alpha", "criteria", "created_at"]


class GateIn(Body):
    """A gate, or its next version."""

    slug = serializers.CharField(max_length=80)
    title = serializers.CharField(max_length=120)
    description = serializers.CharField(max_length=4000, required=False, allow_blank=True, default="")
    alpha = serializers.FloatField(default=0.05)
    criteria = serializers.ListField(child=serializers.DictField(), max_length=200)


class GateEdit(Body):
    """The next version of a gate."""

    title = serializers.CharField(max_length=120)
    description = serializers.CharField(max_length=4000, required=False, allow_blank=True, default="")
    alpha = serializers.FloatField(default=0.05)
    criteria = serializers.ListField(child=serializers.DictField(), max_length=200)


class CriterionVerdictOut(serializers.ModelSerializer[CriterionVerdict]):
    """The verdict on one criterion."""

    criterion = serializers.CharField(source="criterion.key", read_only=True)

    class Meta:
        model = CriterionVerdict
        fields = [
            "criterion", "status", "comparison", "sentence", "baseline_value", "candidate_value", "observed", "low",
            "high", "level", "n", "p_value", "p_adjusted", "power", "mde", "method", "attribution", "run_ids",
            "evidence_at",
        ]  # fmt: skip


class GateVerdictOut(serializers.ModelSerializer[GateVerdict]):
    """The verdict of a gate on a candidate and its baseline; `current` is how it counts today."""

    gate = serializers.CharField(source="gate.slug", read_only=True)
    gate_version = serializers.IntegerField(source="gate.version", read_only=True)
    criteria = CriterionVerdictOut(many=True, read_only=True)
    current = serializers.SerializerMethodField()
    stale_because = serializers.SerializerMethodField()

    class Meta:
        model = GateVerdict
        fields = [
            "id", "gate", "gate_version", "candidate_digest", "candidate_label", "baseline_digest",
            "baseline_label", "status", "current", "stale_because", "sentence", "run_ids", "criteria",
            "computed_at",
        ]  # fmt: skip

    def _now(self, verdict: GateVerdict) -> tuple[str, list[str]]:
        from inference.gates import gate_verdict_current

        return gate_verdict_current(verdict)

    def get_current(self, verdict: GateVerdict) -> str:
        """pass, fail, inconclusive, not_run or stale."""
        return self._now(verdict)[0]

    def get_stale_because(self, verdict: GateVerdict) -> list[str]:
        """Every reason why it no longer counts."""
        return self._now(verdict)[1]


class GateCheckIn(Body):
    """Run a gate on a candidate against a baseline: evaluations are started or reused."""

    gate = serializers.CharField(max_length=80)
    candidate = serializers.CharField(max_length=120, help_text="Id, digest or product/version.")
    baseline = serializers.CharField(max_length=120, help_text="Id, digest or product/version.")


class PowerOut(serializers.Serializer[Any]):
    """What a criterion can detect, stated before the run."""

    criterion = serializers.CharField(source="criterion.key")
    n = serializers.IntegerField()
    power = serializers.FloatField(allow_null=True)
    mde = serializers.FloatField(allow_null=True)
    sentence = serializers.CharField()


class GateCheckOut(serializers.Serializer[Any]):
    """A gate check as it stands. `verdict` is null until all its evidence is there."""

    done_items = serializers.IntegerField()
    total_items = serializers.IntegerField()
    active = serializers.BooleanField()
    runs = serializers.SerializerMethodField()
    power = PowerOut(source="plan.power", many=True)
    problems = serializers.ListField(source="plan.problems", child=serializers.CharField())
    verdict = GateVerdictOut(allow_null=True)

    def get_runs(self, check: Any) -> list[str]:
        """Ids of its runs."""
        return [str(run.pk) for run in check.runs]
