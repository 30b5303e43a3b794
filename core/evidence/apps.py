from django.apps import AppConfig


class EvidenceConfig(AppConfig):
    name = "core.evidence"
    label = "evidence"

    def ready(self) -> None:
        """Follow gates, criteria, verdicts and stated numbers in the audit log; a run has events of its own."""
        from core.audit.registry import audited
        from core.evidence.models import Criterion, Gate, GateVerdict

        for model in (Gate, Criterion, GateVerdict):
            audited(model)
