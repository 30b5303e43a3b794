"""The ledger writes through connections of its own, so these tests commit, and clean up what they wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection
from django_tenants.utils import schema_context

from inference.ledger import lanes, prices
from tenants import resolver
from tests.inference.ledger.helpers import limit_write

_TABLES = (
    "ledger_ledgerentry", "ledger_ledgerworker", "ledger_ledgerpayload", "ledger_datakey", "ledger_modelprice",
    "quotas_limit", "quotas_counter", "quotas_keyplacement",
)  # fmt: skip


@pytest.fixture
def ledger(django_db_setup: None, django_db_blocker: Any) -> Iterator[lanes.Lane]:
    """The lane of tenant alpha, whose plan limits nothing. Committed for real; copying the database would be slow."""
    from tenants.models import Plan, Tenant

    with django_db_blocker.unblock():
        connection.set_schema_to_public()
        plans = list(Plan.objects.all())
        alpha = Tenant.objects.get(schema_name="alpha")
        Plan.objects.update(requests_per_minute=None, tokens_per_day=None)
        resolver.forget()
        cache.clear()
        lanes.forget()
        prices.forget()
        connection.set_tenant(alpha)
        try:
            yield lanes.lane("alpha")
        finally:
            lanes.forget()
            connection.set_schema_to_public()
            for plan in plans:
                plan.save()
            for schema in ("alpha", "beta"):
                with schema_context(schema), connection.cursor() as cursor:
                    cursor.execute("TRUNCATE " + ", ".join(_TABLES) + " RESTART IDENTITY")
            connection.set_schema_to_public()
            resolver.forget()
            connection.close()


@pytest.fixture
def limit(ledger: lanes.Lane) -> Callable[..., None]:
    """Write a limit: `limit("key", "k1", cost_per_day_nano=100)`."""

    def write(kind: str, scope_id: str = "", model: str = "", **figures: Any) -> None:
        limit_write(kind, scope_id, model, **figures)

    return write
