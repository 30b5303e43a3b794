"""What several tests of the ledger use."""

from __future__ import annotations

from typing import Any

from django.db import transaction

from inference.ledger.lanes import Admission, Lane, NewEntry, Settlement
from inference.ledger.models import LedgerEntry
from tenants.quotas.accounting import Need
from tenants.quotas.models import Counter, Limit
from tenants.quotas.scopes import scopes_of
from tenants.quotas.services import limits_changed


def limit_write(kind: str, scope_id: str = "", model: str = "", **figures: Any) -> None:
    """Set a limit in the current tenant as the service does, without its audit event (which nobody could remove)."""
    with transaction.atomic():
        Limit.objects.update_or_create(scope_kind=kind, scope_id=scope_id, model=model, defaults=figures)
        limits_changed()


def admit(lane: Lane, *, key: str = "k1", team: str = "", user: str = "", **need: Any) -> Admission:
    """Admit one request of a key."""
    model = need.pop("model", "triage@1.0.0")
    return lane.admit(
        NewEntry(key_id=key, team=team, product="triage", end_user=user, model=model, request_id="r1"),
        Need(model=model, **need),
        scopes_of(key_id=key, product="triage", team=team, end_user=user),
    )


def settle(lane: Lane, admission: Admission, **values: Any) -> int:
    """Settle it."""
    return lane.settle(admission.entry_id, admission.created_at, Settlement(**values))


def row(entry_id: Any) -> LedgerEntry:
    """Its ledger row."""
    return LedgerEntry.objects.get(pk=entry_id)


def counter(kind: str, scope_id: str = "", model: str = "") -> Counter:
    """What a node has used."""
    return Counter.objects.get(scope_kind=kind, scope_id=scope_id, model=model)
