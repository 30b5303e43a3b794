from django.apps import AppConfig


class GovernanceConfig(AppConfig):
    name = "governance"
    label = "governance"

    def ready(self) -> None:
        """Offer what governance puts on the home page, and be followed in the audit log."""
        from core.audit.registry import audited
        from governance import (  # noqa: F401 - register cards, tiles, timeline entries and search providers
            home,
            readiness,
            search,
        )
        from governance.models import ChecklistItem, Playbook, Rehearsal, Review, Signature, Waiver

        for model in (Playbook, Rehearsal, Review, ChecklistItem, Waiver, Signature):
            audited(model)
