"""Forms of the inference pages. They parse; services decide, and `service_errors` places their refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django import forms

from core.errors import DomainError
from inference.gate_criteria import AREAS, METRICS, ROLES, SCALES, SEVERITIES, STATISTICS
from inference.models import Dataset, ModelVersion, Product

WORDS = {
    "pmo": "PMO",
    "security": "Security",
    "p50": "Median (p50)",
    "p95": "95th percentile (p95)",
    "p99": "99th percentile (p99)",
}


def words(values: Sequence[str]) -> list[tuple[str, str]]:
    """Choices with sentence-case labels."""
    return [(value, WORDS.get(value, value.replace("_", " ").capitalize())) for value in values]


def service_errors(
    form: forms.BaseForm, error: DomainError, *, names: Mapping[str, str] | None = None
) -> None:
    """Put a service's messages at their fields (renamed by `names`); those without one go above the form."""
    placed = False
    for field, messages in error.fields.items():
        name = (names or {}).get(field, field)
        target = name if name in form.fields else None
        for message in messages:
            form.add_error(target, message if target else f"{field}: {message}")
            placed = True
    if not placed:
        form.add_error(None, error.message)


class ProductForm(forms.Form):
    """A new product."""

    name = forms.CharField(max_length=120, help_text="As people call it, for example Document assistant.")
    slug = forms.SlugField(
        max_length=60,
        label="Short name",
        help_text="For addresses and commands: lower-case letters, digits and hyphens.",
    )
    description = forms.CharField(required=False, widget=forms.Textarea(attrs={"rows": 3}))


class ReleaseForm(forms.Form):
    """A new release of a product."""

    product = forms.ModelChoiceField(Product.objects.none(), to_field_name="slug")
    version = forms.CharField(
        max_length=60, help_text="Semantic version, for example 1.2.0. It cannot be changed later."
    )
    model_version = forms.ModelChoiceField(ModelVersion.objects.none(), label="Model version")
    prompt_template = forms.CharField(
        required=False,
        initial="{input}",
        widget=forms.Textarea(attrs={"rows": 4}),
        help_text="The text the model gets. {input} is the question, {context} its passage if there is one.",
        strip=False,
    )
    chat = forms.BooleanField(required=False, label="Use the model's chat template")
    system = forms.CharField(
        required=False,
        label="System text",
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text="Only with the chat template.",
    )
    max_tokens = forms.IntegerField(
        min_value=1, max_value=4096, initial=48, label="Most new tokens", help_text="1 to 4096 tokens."
    )
    temperature = forms.FloatField(
        min_value=0, max_value=5, initial=0.0, help_text="0 is greedy and repeatable; at most 5."
    )
    top_p = forms.FloatField(
        min_value=0.000001, max_value=1, initial=1.0, label="Top p", help_text="Above 0, at most 1."
    )
    notes = forms.CharField(required=False, widget=forms.Textarea(attrs={"rows": 3}))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["product"].queryset = Product.objects.all()  # type: ignore[attr-defined]
        self.fields["model_version"].queryset = ModelVersion.objects.all()  # type: ignore[attr-defined]

    def config(self) -> dict[str, Any]:
        """The release's configuration as `release_create` takes it."""
        data = self.cleaned_data
        return {
            "prompt": {
                "template": data["prompt_template"] or "{input}",
                "chat": data["chat"],
                "system": data["system"],
            },
            "decoding": {
                "max_tokens": data["max_tokens"],
                "temperature": data["temperature"],
                "top_p": data["top_p"],
            },
        }


class ModelRegisterForm(forms.Form):
    """A model version from a directory or file of the server, from an upload, or from the installed package."""

    action = forms.ChoiceField(
        label="Where it comes from",
        choices=[
            ("register", "Files: a path on the server, or an upload"),
            ("packaged", "The packaged model"),
        ],
        initial="register",
    )
    name = forms.CharField(
        max_length=120,
        required=False,
        help_text="For example SmolLM2-135M-Instruct, 4-bit. Empty for the file's.",
    )
    path = forms.CharField(
        required=False,
        label="Path on the server",
        max_length=1000,
        help_text="A directory with config.json, tokenizer and safetensors, or one GGUF file, below the "
        "directory named beside.",
    )
    file = forms.FileField(
        required=False,
        label="Or upload",
        help_text="One .gguf file, or a .zip of a directory with config.json, tokenizer and safetensors.",
    )
    licence = forms.CharField(required=False, max_length=80, help_text="SPDX name, for example Apache-2.0.")
    source = forms.CharField(required=False, max_length=300, help_text="Where the weights come from.")

    def clean(self) -> dict[str, Any]:
        """One of path and file, unless the packaged model is wanted."""
        data = super().clean() or {}
        if data.get("action") == "register" and bool(data.get("path")) == bool(data.get("file")):
            self.add_error("path", "Give either a path on the server or an upload, and not both.")
        return data


class DatasetImportForm(forms.Form):
    """A new dataset, or the next version of one."""

    slug = forms.SlugField(
        max_length=80,
        label="Short name",
        help_text="A new one makes a dataset; the name of an existing one adds its next version.",
    )
    name = forms.CharField(max_length=120, required=False, help_text="As people call it.")
    kind = forms.ChoiceField(
        choices=[("", "Tell from the file"), *Dataset.Kind.choices],
        required=False,
        help_text="What an item asks.",
    )
    file = forms.FileField(help_text="JSONL or CSV, UTF-8, at most 200 MB. The fields are listed beside.")
    licence = forms.CharField(required=False, max_length=80)
    source = forms.CharField(required=False, max_length=300)
    description = forms.CharField(required=False, widget=forms.Textarea(attrs={"rows": 2}))


class RunStartForm(forms.Form):
    """One evaluation of a release on a dataset."""

    release = forms.ChoiceField()
    dataset = forms.ChoiceField()
    sample_size = forms.IntegerField(
        min_value=0, initial=200, label="Items", help_text="0 for every item of the test split."
    )
    seed = forms.IntegerField(min_value=0, initial=0, help_text="Decides which items are drawn.")


class GateForm(forms.Form):
    """What a gate is called and its error rate as a whole."""

    title = forms.CharField(max_length=120)
    slug = forms.SlugField(max_length=80, label="Short name", help_text="For addresses and commands.")
    description = forms.CharField(required=False, widget=forms.Textarea(attrs={"rows": 2}))
    alpha = forms.FloatField(
        min_value=0.0005,
        max_value=0.25,
        initial=0.05,
        label="Alpha",
        help_text="For criteria that name none: the chance to pass a candidate that is worse by the whole margin, "
        "and, held by Holm's correction over the gate, to fail one that is no worse.",
    )


class CriterionForm(forms.Form):
    """One criterion. Every field of the JSON form is here."""

    title = forms.CharField(max_length=160, required=False, help_text="Empty for a title made from the rule.")
    metric = forms.ChoiceField(choices=[(m.name, m.label) for m in METRICS.values()])
    dataset = forms.ChoiceField(choices=())
    rule_type = forms.ChoiceField(
        label="Rule",
        choices=[
            ("non_inferiority", "Not worse than the baseline"),
            ("bound", "A bound on the value"),
        ],
    )
    threshold = forms.FloatField(
        label="Margin or bound",
        help_text="The loss still accepted, or the value to keep; in the metric's unit, for a ratio 0.1 is 10 %.",
    )
    scale = forms.ChoiceField(
        choices=words(SCALES), required=False, help_text="How candidate and baseline are compared."
    )
    op = forms.ChoiceField(
        choices=[("", "By the metric"), (">=", "At least"), ("<=", "At most")],
        required=False,
        label="Side of a bound",
    )
    statistic = forms.ChoiceField(choices=words(STATISTICS), required=False)
    direction = forms.ChoiceField(
        choices=[
            ("", "By the metric"),
            ("higher_is_better", "Higher is better"),
            ("lower_is_better", "Lower is better"),
        ],
        required=False,
    )
    severity = forms.ChoiceField(choices=words(SEVERITIES))
    sample_size = forms.IntegerField(
        min_value=0, initial=200, label="Items", help_text="0 for all items of the test split."
    )
    slice = forms.CharField(max_length=80, required=False, help_text="Empty for all items.")
    alpha = forms.FloatField(
        min_value=0.0005, max_value=0.25, required=False, help_text="Empty for the gate's."
    )
    power = forms.FloatField(min_value=0.01, max_value=0.9999, initial=0.8, label="Power wanted")
    area = forms.ChoiceField(choices=words(AREAS))
    max_age_days = forms.IntegerField(
        min_value=1, max_value=3650, initial=30, label="Evidence is good for", help_text="Days."
    )
    owner_role = forms.ChoiceField(choices=words(ROLES), initial="engineer", label="Owner")
    playbook = forms.SlugField(
        max_length=80, required=False, help_text="Short name of the playbook to follow when it fails."
    )
    key = forms.SlugField(
        max_length=80, required=False, help_text="Empty for a key made from dataset and metric."
    )

    def __init__(self, *args: Any, datasets: Sequence[tuple[str, str]] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["dataset"].choices = list(datasets)  # type: ignore[attr-defined]

    def as_criterion(self) -> dict[str, Any]:
        """The criterion as `gate_create` takes it."""
        data = self.cleaned_data
        rule: dict[str, Any] = {"type": data["rule_type"]}
        if data["rule_type"] == "bound":
            rule |= {"bound": data["threshold"], "op": data["op"]}
        else:
            rule |= {
                "margin": data["threshold"],
                "scale": data["scale"] or "difference",
                "direction": data["direction"],
            }
        if data["statistic"] and data["statistic"] != "mean":
            rule["statistic"] = data["statistic"]
        plain = (
            "title",
            "metric",
            "dataset",
            "severity",
            "sample_size",
            "slice",
            "alpha",
            "power",
            "area",
            "max_age_days",
            "owner_role",
            "playbook",
            "key",
        )
        return {name: data[name] for name in plain} | {"rule": rule}


def criterion_initial(criterion: Mapping[str, Any]) -> dict[str, Any]:
    """The form's initial values for a criterion as `criterion_as_dict` gives it."""
    rule = dict(criterion["rule"])
    return {
        **{name: criterion[name] for name in criterion if name != "rule"},
        "rule_type": rule.get("type", "non_inferiority"),
        "threshold": rule.get("bound") if rule.get("type") == "bound" else rule.get("margin"),
        "scale": rule.get("scale", "difference"),
        "op": rule.get("op", ""),
        "statistic": rule.get("statistic", "mean"),
        "direction": rule.get("direction", ""),
    }


# Message keys of the service (`criteria.3.rule.margin`) and the form fields they belong to.
RULE_FIELDS = {
    "rule.type": "rule_type",
    "rule.margin": "threshold",
    "rule.bound": "threshold",
    "rule.scale": "scale",
    "rule.op": "op",
    "rule.statistic": "statistic",
    "rule.direction": "direction",
    "rule": "threshold",
}
