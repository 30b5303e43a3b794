"""Forms of the guard pages."""

from __future__ import annotations

import json
from typing import Any

from django import forms

from inference.guards.services import MAX_CONFIG_BYTES, MAX_TRY_CHARS


class ProfileForm(forms.Form):
    """The next version of a profile, and a text to try it on."""

    name = forms.CharField(
        label="Name",
        max_length=40,
        help_text="Small letters, digits and -. Releases name it as name@version.",
    )
    config = forms.CharField(
        label="Configuration",
        max_length=MAX_CONFIG_BYTES,
        strip=True,
        widget=forms.Textarea(
            attrs={"rows": 20, "spellcheck": "false", "autocomplete": "off", "data-code": "json"}
        ),
        help_text="JSON with redaction and guards. What it leaves out does what the default does.",
    )
    note = forms.CharField(label="What changed", max_length=300, required=False)
    direction = forms.ChoiceField(
        label="Direction",
        choices=[("input", "Prompt"), ("output", "Answer")],
        required=False,
        initial="input",
    )
    text = forms.CharField(
        label="Text",
        max_length=MAX_TRY_CHARS,
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 6, "autocomplete": "off"}),
        help_text="It is redacted on the server and stored nowhere.",
    )

    def clean_config(self) -> Any:
        """The parsed JSON."""
        try:
            parsed = json.loads(self.cleaned_data["config"])
        except (ValueError, RecursionError) as error:
            raise forms.ValidationError(f"This is not JSON: {error}") from error
        if not isinstance(parsed, dict):
            raise forms.ValidationError("This must be an object, as in {…}.")
        return parsed


class TryForm(forms.Form):
    """A text for a saved profile."""

    text = ProfileForm.base_fields["text"]
    direction = ProfileForm.base_fields["direction"]
