"""The pilots app: what it puts on home pages, and how customers are named in the audit log."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from django.apps import AppConfig


def _customer_names(refs: Collection[str]) -> Mapping[str, str]:
    """Names of customers by primary key as text."""
    from pilots.models import Customer

    known = [int(ref) for ref in refs if ref.isdecimal() and len(ref) < 19]
    return {str(pk): name for pk, name in Customer.objects.filter(pk__in=known).values_list("pk", "name")}


class PilotsConfig(AppConfig):
    name = "pilots"
    label = "pilots"

    def ready(self) -> None:
        """Register home cards, and follow pilots in the audit log, where a customer is a commitment."""
        from core.audit.registry import audited, subject_names
        from pilots import home  # noqa: F401 - registers its cards
        from pilots.models import Customer, Pilot, PilotMember

        audited(Customer, subject="customer", mask=["name"])
        audited(Pilot)
        audited(PilotMember)
        subject_names("customer", _customer_names)
