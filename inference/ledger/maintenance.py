"""What the scheduler does for the ledger of the tenant it stands in."""

from __future__ import annotations

import psycopg

from core.schema import current_schema
from inference.ledger.partitions import partitions_ensure
from inference.ledger.services import payloads_purge
from inference.ledger.sweeping import sweep
from tenants.quotas.services import limit_alarms_raise


def ledger_sweep() -> int:
    """Close what processes that ended left open. Returns how many rows."""
    return sweep(current_schema())


def ledger_maintain() -> int:
    """Make partitions ahead, remove prompts whose days are over, tell of budgets past their alarm.

    Returns how many things were done.
    """
    try:
        made = len(partitions_ensure(current_schema()))
    except psycopg.errors.LockNotAvailable:
        made = 0  # busy; the next tick tries again
    return made + payloads_purge() + limit_alarms_raise()
