"""Forms of people and keys. They collect text; the services decide what is valid."""

from __future__ import annotations

import zoneinfo
from datetime import timedelta
from typing import Any

from django import forms
from django.utils import timezone
from django_tenants.utils import get_public_schema_name

from core.errors import DomainError
from tenants.accounts.models import TENANT_ROLES, Role
from tenants.accounts.services import scope_choices
from tenants.db import connection

ROLE_HELP = {
    Role.ADMIN: "manages users, keys and settings",
    Role.PMO: "runs reviews, decides and signs",
    Role.ENGINEER: "makes releases and runs evaluations",
    Role.SECURITY: "reviews security, approves waivers",
    Role.LEGAL: "reviews claims and IP",
    Role.AUDITOR: "reads everything, changes nothing",
    Role.CUSTOMER: "sees their own pilot only",
    Role.OPERATOR: "runs this installation",
}


def role_choices() -> list[tuple[str, str]]:
    """Roles that exist where the connection stands, each with what it is for."""
    public = connection.schema_name == get_public_schema_name()
    roles = [Role.OPERATOR] if public else [Role(role) for role in TENANT_ROLES]
    return [(role.value, f"{role.label}: {ROLE_HELP[role]}") for role in roles]


def add_errors(form: forms.Form, error: DomainError) -> None:
    """Put a service's refusal beside the fields it names; what has no field goes above the form."""
    placed = False
    for name, messages in error.fields.items():
        if name in form.fields:
            placed = True
            for message in messages:
                form.add_error(name, message)
    if not placed:
        form.add_error(None, error.message)


class SignInForm(forms.Form):
    """E-mail address and password."""

    # Named as django-axes reads it.
    username = forms.CharField(
        label="E-mail address", max_length=254,
        widget=forms.EmailInput(attrs={"autocomplete": "username", "autofocus": True, "spellcheck": "false"}),
    )  # fmt: skip
    password = forms.CharField(
        label="Password", max_length=4096, strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )  # fmt: skip

    def clean_username(self) -> str:
        return str(self.cleaned_data["username"]).strip().lower()


class PasswordChangeForm(forms.Form):
    """Current password, and the new one twice."""

    current = forms.CharField(
        label="Current password", max_length=4096, strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )  # fmt: skip
    new = forms.CharField(
        label="New password", max_length=4096, strip=False,
        help_text="At least 12 characters; not a common password, and not like your name or address.",
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )  # fmt: skip
    repeat = forms.CharField(
        label="New password again", max_length=4096, strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )  # fmt: skip

    def clean(self) -> dict[str, Any] | None:
        data = super().clean()
        if data and data.get("new") and data.get("repeat") is not None and data["new"] != data["repeat"]:
            self.add_error("repeat", "The two new passwords differ. Type the same one twice.")
        return data


def time_zone_choices() -> list[tuple[str, str]]:
    """Time zones with a place in their name, and UTC first."""
    names = sorted(
        name
        for name in zoneinfo.available_timezones()
        if "/" in name and not name.startswith(("Etc/", "posix", "right"))
    )
    return [("UTC", "UTC"), *((name, name.replace("_", " ")) for name in names)]


class ProfileForm(forms.Form):
    """One's own name and time zone."""

    name = forms.CharField(
        label="Name", max_length=120, widget=forms.TextInput(attrs={"autocomplete": "name"})
    )
    time_zone = forms.ChoiceField(
        label="Time zone", choices=time_zone_choices, help_text="Times on every page are shown in it."
    )


class UserForm(forms.Form):
    """A person as an admin edits them."""

    name = forms.CharField(label="Name", max_length=120)
    roles = forms.MultipleChoiceField(
        label="Roles", choices=role_choices, widget=forms.CheckboxSelectMultiple
    )
    is_active = forms.BooleanField(
        label="May sign in",
        required=False,
        help_text="Switched off, the person is signed out everywhere at once.",
    )


class UserCreateForm(forms.Form):
    """A new person. The password is made for them."""

    email = forms.CharField(
        label="E-mail address", max_length=254,
        widget=forms.EmailInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )  # fmt: skip
    name = forms.CharField(label="Name", max_length=120)
    roles = forms.MultipleChoiceField(
        label="Roles", choices=role_choices, widget=forms.CheckboxSelectMultiple
    )


_EXPIRY = [("30", "30 days"), ("90", "90 days"), ("365", "1 year"), ("", "Never")]


class KeyForm(forms.Form):
    """A new API key."""

    name = forms.CharField(
        label="Name", max_length=80, help_text="What uses it, for example: release pipeline."
    )
    scopes = forms.MultipleChoiceField(
        label="Scopes", widget=forms.CheckboxSelectMultiple,
        choices=lambda: [(scope, scope) for scope in scope_choices()],
        help_text="What the key may do. run.* means everything on runs; *.view means reading everything.",
    )  # fmt: skip
    expires_in = forms.ChoiceField(label="Expires after", choices=_EXPIRY, required=False, initial="90")

    def expires_at(self) -> Any:
        """Moment of expiry, or None for never. Call it on a valid form."""
        days = self.cleaned_data["expires_in"]
        return timezone.now() + timedelta(days=int(days)) if days else None
