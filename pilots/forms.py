"""Forms of pilots."""

from __future__ import annotations

from typing import Any

from django import forms

from core.evidence.models import Gate
from inference.models import Product, Release
from pilots.models import Customer, Pilot
from pilots.selectors import customers_available


def _gates() -> list[tuple[str, str]]:
    newest: dict[str, str] = {}
    for slug, title in Gate.objects.order_by("slug", "-version").values_list("slug", "title"):
        newest.setdefault(slug, title)
    return [("", "None agreed yet"), *newest.items()]


class _Dates(forms.Form):
    starts_on = forms.DateField(label="Starts on", widget=forms.DateInput(attrs={"type": "date"}))
    ends_on = forms.DateField(label="Ends on", required=False, widget=forms.DateInput(attrs={"type": "date"}))


class PilotForm(_Dates):
    """What a pilot is: customer, product, release and the gate that judges it."""

    customer = forms.CharField(
        label="Customer", max_length=120, help_text="Name of the company. A new name adds a new customer."
    )
    product = forms.ModelChoiceField(label="Product", queryset=Product.objects.none())
    release = forms.ModelChoiceField(
        label="Release under pilot",
        queryset=Release.objects.none(),
        help_text="A release of the product chosen above.",
    )
    gate = forms.ChoiceField(
        label="Success criteria", required=False, help_text="The criteria of this gate's newest version."
    )
    goal = forms.CharField(
        label="Goal",
        required=False,
        max_length=300,
        help_text="What the customer wants to know, in one sentence. The customer reads it on the scorecard.",
    )
    status = forms.ChoiceField(label="Status", choices=Pilot.Status.choices, initial=Pilot.Status.PLANNED)
    field_order = ["customer", "product", "release", "gate", "goal", "status", "starts_on", "ends_on"]

    def __init__(self, *args: Any, pilot: Pilot | None = None, **kwargs: Any) -> None:
        if pilot is not None:
            kwargs.setdefault(
                "initial",
                {
                    "release": pilot.release,
                    "gate": pilot.gate_slug,
                    "goal": pilot.goal,
                    "status": pilot.status,
                    "starts_on": pilot.starts_on,
                    "ends_on": pilot.ends_on,
                },
            )
        super().__init__(*args, **kwargs)
        releases = Release.objects.select_related("product").order_by("product__name", "-created_at")
        if pilot is not None:
            # Customer and product are what the pilot is; another pair is another pilot.
            del self.fields["customer"], self.fields["product"]
            releases = releases.filter(product=pilot.product)
        else:
            self.fields["product"].queryset = Product.objects.all()  # type: ignore[attr-defined]
            names = list(Customer.objects.values_list("name", flat=True)[:50])
            if names:
                self.fields["customer"].help_text += f" Known: {', '.join(names[:8])}."
        self.fields["release"].queryset = releases  # type: ignore[attr-defined]
        self.fields["gate"].choices = _gates()  # type: ignore[attr-defined]


class MemberForm(forms.Form):
    """A person of the customer who is to see the scorecard."""

    user: forms.ModelChoiceField[Any] = forms.ModelChoiceField(
        label="Person",
        queryset=None,
        empty_label="Choose a person",
        help_text="People with the role customer who are not members yet.",
    )

    def __init__(self, *args: Any, pilot: Pilot, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["user"].queryset = customers_available(pilot)  # type: ignore[attr-defined]
