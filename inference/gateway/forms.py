"""Form of the playground."""

from __future__ import annotations

from typing import Any

from django import forms


class PlaygroundForm(forms.Form):
    """One question for one release, or for two side by side."""

    model = forms.ChoiceField(label="Release")
    other = forms.ChoiceField(label="Compare with", required=False)
    system = forms.CharField(
        label="System text",
        required=False,
        max_length=20_000,
        widget=forms.Textarea(attrs={"rows": 2}),
    )
    prompt = forms.CharField(
        label="Message", max_length=100_000, widget=forms.Textarea(attrs={"rows": 5, "autofocus": True})
    )
    temperature = forms.FloatField(
        label="Temperature",
        min_value=0,
        max_value=2,
        required=False,
        help_text="Empty: as the release says",
    )
    max_tokens = forms.IntegerField(
        label="Longest answer",
        min_value=1,
        max_value=100_000,
        required=False,
        help_text="Empty: as the release says",
    )
    skip_cache = forms.BooleanField(label="Do not use caches", required=False)

    def __init__(self, *args: Any, models: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choices = [(name, name) for name in models]
        self.fields["model"].choices = choices  # type: ignore[attr-defined]
        self.fields["other"].choices = [("", "Nothing"), *choices]  # type: ignore[attr-defined]

    def request_body(self, *, model: str, stream: bool) -> dict[str, Any]:
        """The chat request these fields stand for."""
        data = self.cleaned_data
        messages = [{"role": "user", "content": data["prompt"]}]
        if data["system"]:
            messages.insert(0, {"role": "system", "content": data["system"]})
        body: dict[str, Any] = {"model": model, "messages": messages}
        for name in ("temperature", "max_tokens"):
            if data[name] is not None:
                body[name] = data[name]
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body
