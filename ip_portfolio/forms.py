"""The form of a patent application."""

from __future__ import annotations

from typing import Any

from django import forms

from ip_portfolio.models import PatentApplication


class InventorsField(forms.CharField):
    """Names, one per line."""

    widget = forms.Textarea(attrs={"rows": 4})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, (list, tuple)) else value

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value) or ""
        return [line.strip() for line in text.splitlines() if line.strip()]

    def clean(self, value: Any) -> Any:
        names = super().clean(value)
        for name in names:
            if len(name) > 120:
                raise forms.ValidationError(f"{name[:40]}… is longer than 120 characters.")
        return names

    def has_changed(self, initial: Any, data: Any) -> bool:
        return list(initial or []) != self.to_python(data)


class ApplicationForm(forms.ModelForm):  # type: ignore[type-arg]
    """What is known of one application. The rules between fields are the service's."""

    inventors = InventorsField(label="Inventors", required=False, help_text="One name per line.")
    revision = forms.IntegerField(widget=forms.HiddenInput, required=False, min_value=0, max_value=2**31 - 1)

    class Meta:
        model = PatentApplication
        fields = [
            "docket_number", "title", "jurisdiction", "type", "status", "inventors", "made_in",
            "foreign_filing_licence", "priority_date", "filing_date", "notes",
        ]  # fmt: skip
        labels = {
            "docket_number": "Docket number",
            "type": "Type of application",
            "made_in": "Invention made in",
            "foreign_filing_licence": "Foreign filing licence granted",
            "priority_date": "Earliest date claimed",
            "filing_date": "Filing date",
        }
        help_texts = {
            "docket_number": "Your own number, for instance SGN-0012-US.",
            "made_in": "Country code of two letters. For US inventions the licence to file abroad matters.",
            "priority_date": "Filing date of the earliest application whose priority is claimed; empty when none is.",
        }
        widgets = {
            "title": forms.Textarea(attrs={"rows": 2}),
            "notes": forms.Textarea(attrs={"rows": 3}),
            "priority_date": forms.DateInput(attrs={"type": "date"}),
            "filing_date": forms.DateInput(attrs={"type": "date"}),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.fields["revision"].initial = self.instance.revision

    def _post_clean(self) -> None:
        """Leave the instance alone: the service locks the row, applies the details and checks them together."""

    def details(self) -> dict[str, Any]:
        """Valid values for the service."""
        return {
            name: self.cleaned_data[name] for name in self._meta.fields or [] if name in self.cleaned_data
        }
