"""Forms of governance. They check shape; the services decide."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django import forms
from django.utils import timezone

from core.evidence.models import Criterion, Gate
from governance.models import ChecklistItem, Playbook, Rehearsal, Review, Signature
from governance.services import SIGNING_ROLES, WAIVER_MAX_DAYS
from inference.models import Release
from tenants.accounts.models import User

ROLE_LABELS = {"pmo": "PMO", "engineer": "Engineer", "security": "Security", "legal": "Legal"}
ROLE_CHOICES = [(role, ROLE_LABELS[role]) for role in SIGNING_ROLES]


class ReviewForm(forms.Form):
    """Opens a review."""

    candidate = forms.ModelChoiceField(
        Release.objects.select_related("product"), help_text="The release that asks to go live."
    )
    baseline = forms.ModelChoiceField(
        Release.objects.select_related("product"),
        help_text="The release it is compared with, usually the live one.",
    )
    gate = forms.ChoiceField(help_text="Its newest version counts.")
    title = forms.CharField(max_length=160, required=False, help_text="Left empty: Go/no-go for the release.")
    required_roles = forms.MultipleChoiceField(
        choices=ROLE_CHOICES,
        initial=["pmo"],
        widget=forms.CheckboxSelectMultiple,
        help_text="A go needs a signature of each.",
    )
    due_on = forms.DateField(required=False, widget=forms.DateInput(attrs={"type": "date"}), label="Due on")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        newest: dict[str, Gate] = {}
        for gate in Gate.objects.order_by("slug", "-version"):
            newest.setdefault(gate.slug, gate)
        choices: Any = self.fields["gate"]
        choices.choices = [(gate.slug, f"{gate.title} (v{gate.version})") for gate in newest.values()]


class SignForm(forms.Form):
    """Records a position."""

    role = forms.ChoiceField(choices=ROLE_CHOICES, label="Sign as")
    position = forms.ChoiceField(choices=Signature.Position.choices, widget=forms.RadioSelect)
    comment = forms.CharField(
        required=False,
        max_length=4000,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="Needed when you are against it.",
    )
    conditions = forms.CharField(
        required=False,
        max_length=4000,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text="Needed for go with conditions.",
    )
    password = forms.CharField(
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
        strip=False,
        help_text="Re-enter your password: it shows that it is you who signs.",
    )
    digest = forms.CharField(widget=forms.HiddenInput)

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        held = [(role, label) for role, label in ROLE_CHOICES if role in user.roles]
        self.fields["role"].choices = held  # type: ignore[attr-defined]
        if held:
            self.fields["role"].initial = held[0][0]


class DecideForm(forms.Form):
    """Closes a review."""

    decision = forms.ChoiceField(choices=Review.Decision.choices, widget=forms.RadioSelect)
    reason = forms.CharField(required=False, max_length=4000, widget=forms.Textarea(attrs={"rows": 2}))
    conditions = forms.CharField(required=False, max_length=4000, widget=forms.Textarea(attrs={"rows": 2}))
    digest = forms.CharField(widget=forms.HiddenInput)


class WithdrawForm(forms.Form):
    """Closes a review without a decision."""

    reason = forms.CharField(max_length=4000, widget=forms.Textarea(attrs={"rows": 2}))


class ChecklistItemForm(forms.Form):
    """Adds an item."""

    title = forms.CharField(max_length=200, label="What has to be confirmed")
    kind = forms.ChoiceField(choices=ChecklistItem.Kind.choices, initial="checklist")
    area = forms.ChoiceField(choices=[("", "No area"), *Criterion.Area.choices], required=False)
    owner_role = forms.ChoiceField(choices=ROLE_CHOICES, label="Owner")
    evidence_url = forms.CharField(max_length=500, required=False, label="Evidence link")


class ChecklistSetForm(forms.Form):
    """Confirms an item."""

    status = forms.ChoiceField(choices=ChecklistItem.Status.choices)
    note = forms.CharField(max_length=500, required=False)
    evidence_url = forms.CharField(max_length=500, required=False)


class WaiverForm(forms.Form):
    """Asks for an exception."""

    criterion_key = forms.ChoiceField(label="Criterion")
    reason = forms.CharField(max_length=4000, widget=forms.Textarea(attrs={"rows": 3}))
    expires_on = forms.DateField(
        widget=forms.DateInput(attrs={"type": "date"}),
        label="Expires on",
        help_text=f"At the end of that day; at most {WAIVER_MAX_DAYS} days ahead.",
    )

    def __init__(self, *args: Any, criteria: list[tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["criterion_key"].choices = criteria  # type: ignore[attr-defined]

    def expires_at(self) -> dt.datetime:
        """End of the chosen day in the person's time zone."""
        day = self.cleaned_data["expires_on"]
        return timezone.make_aware(dt.datetime.combine(day, dt.time(23, 59, 59)))


class PlaybookForm(forms.Form):
    """Writes the next version of a playbook."""

    slug = forms.SlugField(
        max_length=80, label="Short name", help_text="Such as rollback-assistant; criteria link to it."
    )
    title = forms.CharField(max_length=120)
    kind = forms.ChoiceField(choices=Playbook.Kind.choices)
    on_call_role = forms.ChoiceField(choices=ROLE_CHOICES, label="Role on call")
    on_call = forms.ModelChoiceField(
        User.objects.filter(is_active=True),
        required=False,
        label="Person on call",
        empty_label="Nobody named",
    )
    body = forms.CharField(widget=forms.Textarea(attrs={"rows": 16}), label="Steps (Markdown)")


class RehearsalForm(forms.Form):
    """Records a rehearsal."""

    outcome = forms.ChoiceField(choices=Rehearsal.Outcome.choices)
    duration_min = forms.IntegerField(min_value=0, max_value=10_000, label="Duration in minutes", initial=0)
    notes = forms.CharField(max_length=4000, required=False, widget=forms.Textarea(attrs={"rows": 2}))
