"""Forms of the caches' page."""

from __future__ import annotations

from django import forms


class PurgeForm(forms.Form):
    """What is removed: one release's answers, or all of them."""

    release = forms.CharField(max_length=71, required=False)
    confirm = forms.CharField(max_length=200, required=False)


class SemanticForm(forms.Form):
    """Switch comparing by meaning of a release."""

    release = forms.CharField(max_length=71)
    enabled = forms.ChoiceField(choices=[("yes", "On"), ("no", "Off")])
    reason = forms.CharField(max_length=300, required=False)
