"""Forms of the policy pages. JSON fields keep what was typed when it is not JSON."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.utils import timezone

from inference.gateway.contract import ENGINE_PATHS, Call, Caller, RouteTarget, policy_attributes
from inference.models import Release
from tenants.accounts.models import ApiKey
from tenants.quotas.models import KeyPlacement


class JSONText(forms.CharField):
    """A textarea whose text is JSON of one type; empty is that type's empty value."""

    def __init__(self, kind: type, **kwargs: Any) -> None:
        self.kind = kind
        rows = kwargs.pop("rows", 6)
        kwargs.setdefault("required", False)
        widget = forms.Textarea(attrs={"rows": rows, "spellcheck": "false", "data-code": "json"})
        super().__init__(widget=widget, strip=True, **kwargs)

    def to_python(self, value: Any) -> Any:
        """The parsed value. Raises ValidationError with the place of the mistake."""
        text = super().to_python(value)
        if not text:
            return self.kind()
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise forms.ValidationError(f"This is not JSON: {error}") from error
        if not isinstance(parsed, self.kind):
            wanted = "an object, as in {…}" if self.kind is dict else "a list, as in […]"
            raise forms.ValidationError(f"This must be {wanted}.")
        return parsed

    def validate(self, value: Any) -> None:
        """Empty values are fine."""

    def run_validators(self, value: Any) -> None:
        """Length and null characters are the service's business."""


def _code(rows: int, language: str) -> forms.Textarea:
    return forms.Textarea(
        attrs={"rows": rows, "spellcheck": "false", "autocomplete": "off", "data-code": language}
    )


class PolicyForm(forms.Form):
    """A version to save."""

    policy = forms.CharField(
        label="Policy",
        strip=False,
        widget=_code(22, "rego"),
        help_text="Rego of the package signoff.gateway. What it does not allow is denied.",
    )
    tests = forms.CharField(
        label="Tests",
        required=False,
        strip=False,
        widget=_code(12, "rego"),
        help_text="Rego of the package signoff.gateway_test: rules named test_…, each with one input.",
    )
    cases = JSONText(
        list,
        label="Table of cases",
        rows=6,
        help_text='A list of {"name": …, "attributes": {…}, "expect": {"allow": true}}.',
    )
    data = JSONText(  # type: ignore[assignment]
        dict, label="Data", rows=4, help_text="A JSON object that the policy reads as data.NAME."
    )
    note = forms.CharField(
        label="What changes", required=False, max_length=300, help_text="One line for the list of versions."
    )


class SimulatorForm(forms.Form):
    """One call, described by what a policy sees of it."""

    version = forms.ChoiceField(label="Policy", required=False)
    key = forms.ChoiceField(label="Key", required=False)
    release = forms.ChoiceField(label="Release", required=False)
    route = forms.ChoiceField(label="Route", required=False, choices=[(name, name) for name in ENGINE_PATHS])
    classification = forms.CharField(
        label="Classification", required=False, max_length=80, help_text="As metadata of the request."
    )
    metadata = forms.CharField(
        label="Other metadata",
        required=False,
        max_length=2000,
        help_text="NAME=value, separated by commas.",
    )
    ip = forms.CharField(label="Address of the caller", required=False, max_length=60)
    max_tokens = forms.IntegerField(required=False, min_value=1, max_value=10**6)
    body_bytes = forms.IntegerField(
        label="Size of the body", required=False, min_value=0, max_value=2**31, help_text="Bytes."
    )
    parameters = forms.CharField(
        label="Parameters given", required=False, max_length=1000, help_text="Names, separated by commas."
    )
    hour = forms.IntegerField(label="Hour", required=False, min_value=0, max_value=23, help_text="UTC.")
    weekday = forms.IntegerField(
        label="Weekday", required=False, min_value=1, max_value=7, help_text="1 is Monday."
    )
    stream = forms.BooleanField(label="Streamed", required=False)
    user_present = forms.BooleanField(label="Names its end user", required=False)
    attributes = JSONText(
        dict,
        label="Attributes as JSON",
        rows=8,
        help_text="When given, used instead of everything above. A request's own page shows what it had.",
    )

    def __init__(self, *args: Any, versions: list[tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["version"].choices = versions  # type: ignore[attr-defined]
        keys = ApiKey.objects.filter(revoked_at__isnull=True).order_by("name", "id")[:300]
        self.fields["key"].choices = [("", "no key"), *[(key.key_id, str(key)) for key in keys]]  # type: ignore[attr-defined]
        releases = Release.objects.select_related("product").order_by("-created_at")[:300]
        self.fields["release"].choices = [  # type: ignore[attr-defined]
            ("", "none"),
            *[(str(one.pk), f"{one.product.slug}@{one.version}") for one in releases],
        ]

    def document(self) -> dict[str, Any]:
        """The attributes of the call described. The form is valid."""
        data = self.cleaned_data
        if data["attributes"]:
            return dict(data["attributes"])
        key = ApiKey.objects.filter(key_id=data["key"]).first() if data["key"] else None
        placement = KeyPlacement.objects.filter(key_id=key.key_id).first() if key else None
        release = (
            Release.objects.select_related("product").filter(pk=data["release"]).first()
            if data["release"]
            else None
        )
        metadata = dict(
            [part.strip() for part in pair.split("=", 1)]
            for pair in data["metadata"].split(",")
            if "=" in pair
        )
        if data["classification"]:
            metadata["classification"] = data["classification"]
        caller = Caller(
            schema="",
            key_id=key.key_id if key else "",
            key_pk=key.pk if key else None,
            scopes=tuple(key.scopes) if key else (),
            product=placement.product if placement else "",
            team=placement.team if placement else "",
            pilot=placement.pilot if placement else "",
            attributes=dict(placement.attributes) if placement else {},
            ip=data["ip"],
        )
        target = RouteTarget(
            schema="",
            product=release.product.slug if release else "",
            release_id=release.pk if release else 0,
            release_version=release.version if release else "",
            release_digest=release.digest if release else "",
            model_version_id=0,
            model_digest="",
        )
        call = Call(
            route=data["route"] or "chat.completions",
            model=target.label if release else "",
            body={},
            body_bytes=data["body_bytes"] or 0,
            stream=data["stream"],
            max_tokens=data["max_tokens"],
            user="x" if data["user_present"] else "",
            metadata=metadata,
            parameters=tuple(part.strip() for part in data["parameters"].split(",") if part.strip()),
        )
        now = timezone.now()
        document = policy_attributes(call, caller, target, now=now)
        if data["hour"] is not None:
            document["hour"] = data["hour"]
        if data["weekday"] is not None:
            document["weekday"] = data["weekday"]
        return document
