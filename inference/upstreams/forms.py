"""The form of an upstream. It parses; the service decides."""

from __future__ import annotations

from django import forms

from inference.models import ModelVersion

# Seconds.
_LEAST_S = 0.1


class UpstreamForm(forms.Form):
    """A new or changed upstream."""

    name = forms.CharField(max_length=80, help_text="As people call it, for example vLLM in rack 3.")
    model_version = forms.ModelChoiceField(
        ModelVersion.objects.none(),
        help_text="Releases of this model version are answered here instead of by the embedded engine.",
    )
    url = forms.CharField(
        max_length=500,
        label="URL",
        help_text="Up to and including /v1, for example https://engine.example:8000/v1.",
    )
    remote_model = forms.CharField(
        max_length=200, label="Model name there", help_text="As the engine's own /v1/models lists it."
    )
    api_key = forms.CharField(
        required=False,
        max_length=500,
        label="API key",
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        help_text="Stored encrypted and never shown again. Empty when the engine asks for none.",
    )
    weight = forms.IntegerField(
        min_value=1,
        max_value=1000,
        initial=1,
        help_text="Share of the requests beside the model's other upstreams.",
    )
    max_concurrency = forms.IntegerField(
        min_value=1,
        max_value=1000,
        initial=32,
        label="Requests at once",
        help_text="Per gateway process; more wait in a queue that is fair between tenants.",
    )
    connect_timeout_s = forms.FloatField(
        min_value=_LEAST_S, max_value=60, initial=3, label="Connect within, seconds"
    )
    first_byte_timeout_s = forms.FloatField(
        min_value=_LEAST_S,
        max_value=3600,
        initial=120,
        label="Begin to answer within, seconds",
        help_text="An answer that is not streamed begins when all of it is there.",
    )
    chunk_timeout_s = forms.FloatField(
        min_value=_LEAST_S, max_value=3600, initial=30, label="Longest silence within an answer, seconds"
    )
    total_timeout_s = forms.FloatField(
        min_value=_LEAST_S, max_value=7200, initial=600, label="Whole answer within, seconds"
    )
    enabled = forms.BooleanField(required=False, initial=True, help_text="Off: it gets no requests.")


class UpstreamEditForm(UpstreamForm):
    """As above, for one that may have a key already."""

    remove_key = forms.BooleanField(required=False, label="Remove the stored API key")

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.fields[
            "api_key"
        ].help_text = "Empty keeps the stored key. When the host changes, it must be given again."
