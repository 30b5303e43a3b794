"""Forms of limits. They parse; services decide."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django import forms

from core.errors import DomainError
from tenants.quotas.accounting import NANO
from tenants.quotas.models import KeyPlacement, Limit, ScopeKind

# Field of the form -> argument of the service, where they differ.
NAMES = {
    "cost_per_day_nano": "cost_per_day",
    "cost_per_month_nano": "cost_per_month",
    "alarm_share": "alarm_percent",
}
_WHOLE = {"min_value": 0, "max_value": 2**63 - 1, "required": False}


def place_errors(form: forms.BaseForm, error: DomainError) -> None:
    """Put a service's messages at their fields; those without one go above the form."""
    placed = False
    for field, messages in error.fields.items():
        name = NAMES.get(field, field)
        for message in messages:
            form.add_error(name if name in form.fields else None, message)
            placed = True
    if not placed:
        form.add_error(None, error.message)


def _usd(label: str, help_text: str = "") -> forms.DecimalField:
    return forms.DecimalField(
        label=label, required=False, min_value=Decimal(0), max_value=Decimal(10**9), decimal_places=9, max_digits=18,
        help_text=help_text,
    )  # fmt: skip


class LimitForm(forms.Form):
    """A limit of one node of the tree. Empty figures are not limited here."""

    scope_kind = forms.ChoiceField(label="For", choices=ScopeKind.choices)
    scope_id = forms.CharField(
        label="Which one",
        required=False,
        max_length=80,
        help_text="Short name of the product, name of the team, number of the pilot, key ID, or the end user's 32 "
        "digits; * for each one by itself. Leave it empty for the organisation.",
    )
    model = forms.CharField(
        label="Only models",
        required=False,
        max_length=160,
        help_text="Such as triage, triage@1.* or *-large. Empty counts every model.",
    )
    requests_per_minute = forms.IntegerField(min_value=0, max_value=2**31 - 1, required=False)
    tokens_in_per_minute = forms.IntegerField(label="Input tokens per minute", **_WHOLE)  # type: ignore[arg-type]
    tokens_out_per_minute = forms.IntegerField(label="Output tokens per minute", **_WHOLE)  # type: ignore[arg-type]
    concurrent = forms.IntegerField(
        label="Requests running at once", min_value=0, max_value=2**31 - 1, required=False
    )
    tokens_per_day = forms.IntegerField(
        label="Tokens per day",
        help_text="Input and output, from midnight UTC.",
        **_WHOLE,  # type: ignore[arg-type]
    )
    cost_per_day = _usd("Money per day, USD", "A hard ceiling: no request that could pass it is served.")
    cost_per_month = _usd("Money per month, USD", "Per calendar month (UTC), as hard.")
    alarm_percent = forms.IntegerField(
        label="Tell people at, percent",
        min_value=1,
        max_value=100,
        initial=80,
        help_text="Of a money ceiling.",
    )
    allowed_models = forms.CharField(
        required=False,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text="Names or patterns, one a line or with commas. Empty allows every model.",
    )
    note = forms.CharField(required=False, max_length=300, help_text="Why, for whoever reads this later.")

    def __init__(self, *args: Any, limit: Limit | None = None, **kwargs: Any) -> None:
        if limit is not None:
            kwargs["initial"] = {
                **{name: getattr(limit, name) for name in self.base_fields if hasattr(limit, name)},
                "cost_per_day": _decimal(limit.cost_per_day_nano),
                "cost_per_month": _decimal(limit.cost_per_month_nano),
                "alarm_percent": round(limit.alarm_share * 100),
                "allowed_models": "\n".join(limit.allowed_models),
            }
        super().__init__(*args, **kwargs)
        if limit is not None:
            # What a limit is for does not change; another scope is another limit.
            for name in ("scope_kind", "scope_id", "model"):
                self.fields[name].disabled = True

    def values(self) -> dict[str, Any]:
        """Arguments of `limit_set`."""
        data = dict(self.cleaned_data)
        day, month = data.pop("cost_per_day"), data.pop("cost_per_month")
        data["alarm_share"] = data.pop("alarm_percent") / 100
        data["allowed_models"] = data["allowed_models"].replace(",", "\n").splitlines()
        return {**data, "cost_per_day_nano": _nano(day), "cost_per_month_nano": _nano(month)}


def _nano(usd: Decimal | None) -> int | None:
    return None if usd is None else int(usd * NANO)


def _decimal(nano: int | None) -> Decimal | None:
    return None if nano is None else (Decimal(nano) / NANO).normalize()


class PlacementForm(forms.Form):
    """Where a key stands."""

    product = forms.CharField(
        required=False, max_length=60, help_text="Short name. The key may then use this product only."
    )
    team = forms.CharField(required=False, max_length=80)
    pilot = forms.CharField(
        required=False, max_length=40, help_text="Number of the pilot, as in its address."
    )
    attributes = forms.CharField(
        required=False,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="What policies read, one a line: classification=internal",
    )

    def __init__(self, *args: Any, placement: KeyPlacement, **kwargs: Any) -> None:
        kwargs["initial"] = {
            "product": placement.product,
            "team": placement.team,
            "pilot": placement.pilot,
            "attributes": "\n".join(f"{name}={value}" for name, value in placement.attributes.items()),
        }
        super().__init__(*args, **kwargs)

    def clean_attributes(self) -> dict[str, str]:
        """Lines as names and values."""
        found: dict[str, str] = {}
        for line in self.cleaned_data["attributes"].splitlines():
            if line.strip():
                name, equals, value = line.partition("=")
                if not equals:
                    raise forms.ValidationError(
                        f"Write each attribute as name=value; {line.strip()[:60]!r} is not."
                    )
                found[name.strip()] = value.strip()
        return found
