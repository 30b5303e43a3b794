"""Forms of the protection page."""

from __future__ import annotations

from typing import Any

from django import forms

from inference.knobs.receipt_check import MAX_CHARS
from inference.models import ModelVersion, Release


class BodyField(forms.JSONField):
    """JSON in a box that is empty, not "null", before anything is typed."""

    def prepare_value(self, value: Any) -> Any:
        """What the box shows."""
        return "" if value is None else super().prepare_value(value)


class WatermarkForm(forms.Form):
    """A text that a model may have written."""

    model = forms.ChoiceField(label="Model", help_text="Whose tokenizer cuts the text.")
    text = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 6}),
        max_length=200_000,
        help_text="The answer alone, without the question. At least some forty words.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["model"].choices = [(m.digest, m.name) for m in ModelVersion.objects.all()[:200]]  # type: ignore[attr-defined]


class ReceiptForm(forms.Form):
    """A receipt, and the texts it may be about."""

    receipt = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 4}),
        max_length=MAX_CHARS,
        help_text="Value of the header x-signoff-receipt, or of signoff.receipt in a stream's last chunk.",
    )
    request_body = BodyField(
        required=False,
        label="Request",
        widget=forms.Textarea(attrs={"rows": 4}),
        help_text="The JSON body that was sent; empty to check the signature only.",
    )
    answer_body = BodyField(
        required=False,
        label="Answer",
        widget=forms.Textarea(attrs={"rows": 4}),
        help_text="The JSON body that came back.",
    )

    def clean(self) -> dict[str, Any]:
        """Bodies are objects."""
        data = super().clean() or {}
        for name in ("request_body", "answer_body"):
            if data.get(name) is not None and not isinstance(data[name], dict):
                self.add_error(name, "Give one JSON object.")
        return data


class CanaryForm(forms.Form):
    """A new canary."""

    label = forms.CharField(max_length=120, label="Name", help_text="Says nothing of the prompt.")
    release = forms.ChoiceField(label="Release")
    prompt = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 3}),
        max_length=2000,
        help_text="A question nobody asks by chance. It is not stored: keep it to ask foreign models.",
    )
    answer = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 3}),
        max_length=2000,
        label="Planted answer",
        help_text="A text no model would choose.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["release"].choices = [  # type: ignore[attr-defined]
            (r.digest, f"{r.product.slug} {r.version}")
            for r in Release.objects.select_related("product")[:500]
        ]


class CopyForm(forms.Form):
    """Answers of a foreign model."""

    answers = BodyField(
        widget=forms.Textarea(attrs={"rows": 5}),
        label="Prompts and answers",
        help_text='JSON: [{"prompt": "…", "answer": "…"}], with the prompts of your canaries.',
    )

    def clean_answers(self) -> list[dict[str, str]]:
        """A list of objects with two texts each."""
        value = self.cleaned_data["answers"]
        good = isinstance(value, list) and 0 < len(value) <= 1000
        if not good or any(
            not isinstance(one, dict)
            or not isinstance(one.get("prompt"), str)
            or not isinstance(one.get("answer"), str)
            for one in value
        ):
            raise forms.ValidationError("Give a list of 1 to 1,000 objects with prompt and answer as texts.")
        return list(value)


class RetireForm(forms.Form):
    """Which canary stops answering."""

    canary = forms.IntegerField(min_value=1, max_value=2**63 - 1)


class AlertForm(forms.Form):
    """What an alert was."""

    alert = forms.IntegerField(min_value=1, max_value=2**63 - 1)
    state = forms.ChoiceField(choices=[("confirmed", "Confirmed"), ("dismissed", "False alarm")])
    note = forms.CharField(max_length=500, required=False)
