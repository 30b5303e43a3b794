"""The filters of the explorer, as they stand in the address."""

from __future__ import annotations

from typing import Any

from django import forms

from core.audit.selectors import EventFilter


class EventFilterForm(forms.Form):
    """Filters of the audit log. A value that makes no sense is named beside its field and does not narrow."""

    text = forms.CharField(label="Find", required=False, max_length=200)
    actor = forms.CharField(label="Actor", required=False, max_length=64)
    action = forms.CharField(label="Action", required=False, max_length=80)
    target = forms.CharField(label="Object", required=False, max_length=160)
    source = forms.ChoiceField(
        label="Kind",
        required=False,
        choices=[("", "Everything"), ("action", "What people did"), ("row", "Changes of rows")],
    )
    since = forms.DateField(label="From", required=False, widget=forms.DateInput(attrs={"type": "date"}))
    until = forms.DateField(label="To", required=False, widget=forms.DateInput(attrs={"type": "date"}))

    def __init__(
        self, *args: Any, choices: dict[str, list[tuple[str, str]]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        words = {"actor": "Anybody", "action": "Any action", "target": "Any object"}
        for name, options in (choices or {}).items():
            listed = [("", words[name]), *options]
            chosen = self.data.get(name, "")
            if chosen and chosen not in {value for value, _ in options}:
                listed.append((chosen, chosen[:60]))
            self.fields[name].widget = forms.Select(choices=listed)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        since, until = cleaned.get("since"), cleaned.get("until")
        if since and until and since > until:
            self.add_error("until", "This day lies before the first one.")
        return cleaned

    def wanted(self) -> EventFilter:
        """The valid part of what was asked for."""
        self.is_valid()
        found = self.cleaned_data
        return EventFilter(**{name: found[name] for name in self.fields if found.get(name)})
