"""Forms of the operators' site. They collect text; the services decide what is valid."""

from __future__ import annotations

from django import forms
from django.conf import settings

from tenants.models import Plan


def _plan_choices() -> list[tuple[str, str]]:
    return [(plan.slug, plan.name) for plan in Plan.objects.all()]


class TenantForm(forms.Form):
    """A new tenant with its first admin."""

    name = forms.CharField(
        label="Name", max_length=120, help_text="As people read it, for example: Summit Assurance."
    )
    schema_name = forms.CharField(
        label="Short name", max_length=63,
        help_text="Small letters, digits and underscores. It becomes the schema and the beginning of the address, and "
        "cannot be changed later.",
        widget=forms.TextInput(attrs={"spellcheck": "false", "autocapitalize": "none", "autocomplete": "off"}),
    )  # fmt: skip
    plan = forms.ChoiceField(label="Plan", choices=_plan_choices)
    domain = forms.CharField(
        label="Domain", max_length=253, required=False,
        widget=forms.TextInput(attrs={"spellcheck": "false", "autocomplete": "off"}),
    )  # fmt: skip
    admin_email = forms.CharField(
        label="First admin's e-mail address", max_length=254,
        widget=forms.EmailInput(attrs={"spellcheck": "false", "autocomplete": "off"}),
        help_text="A password is made for them and shown once on the next page.",
    )  # fmt: skip
    admin_name = forms.CharField(label="First admin's name", max_length=120)

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.fields["domain"].help_text = f"Leave empty for short-name.{settings.BASE_DOMAIN}"


class TenantEditForm(forms.Form):
    """Name and plan."""

    name = forms.CharField(label="Name", max_length=120)
    plan = forms.ChoiceField(label="Plan", choices=_plan_choices)


class DeactivateForm(forms.Form):
    """Why a tenant is switched off."""

    reason = forms.CharField(
        label="Reason",
        max_length=300,
        required=False,
        help_text="For the operators; not shown to the tenant.",
    )
