"""Maintenance over all tenants: each part finds who has something to do and enters only those."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django_tenants.utils import schema_context

from workers.scan import schemas_where

logger = logging.getLogger("signoff.workers")


def requeue_expired_everywhere() -> int:
    """Bring back runs whose worker or message got lost, in every active tenant. Returns how many."""
    from core.evidence.services import MESSAGE_LOST_AFTER_S, run_requeue_expired

    schemas = schemas_where(
        table="evidence_run",
        condition=(
            "(status = 'running' AND (lease_expires_at IS NULL OR lease_expires_at < now())) OR "
            "(status = 'queued' AND (enqueued_at IS NULL OR enqueued_at < now() - make_interval(secs => %s)))"
        ),
        parameters=[float(MESSAGE_LOST_AFTER_S)],
        active_only=True,
    )
    return _in_each(schemas, lambda: len(run_requeue_expired()))


def registrations_requeue_everywhere() -> int:
    """Fail or restart registrations whose worker is gone, in every active tenant. Returns how many."""
    from inference.registration import ABANDONED_AFTER_S, LOST_AFTER_S, registration_requeue_stale

    schemas = schemas_where(
        table="inference_registration",
        condition="(status = 'queued' AND enqueued_at < now() - make_interval(secs => %s)) OR "
        "(status = 'running' AND started_at < now() - make_interval(secs => %s))",
        parameters=[float(LOST_AFTER_S), float(ABANDONED_AFTER_S)],
        active_only=True,
    )
    return _in_each(schemas, registration_requeue_stale)


def audit_sequence_everywhere(*, heads: bool = True) -> int:
    """Extend the audit log of each schema that has events waiting or an end not signed yet, the operators'
    too.

    Returns how many events were added. heads: also look for logs that have grown since their last signed head and
    are quiet now (it costs as much again, and can be looked at less often). Deactivated tenants are included:
    their log must stay whole.
    """
    from core.audit.services import audit_sequence

    waiting = schemas_where(table="audit_auditpending", condition="true", active_only=False, public=True)
    unsigned: list[str] = []
    if heads:
        unsigned = schemas_where(
            table="audit_auditlink",
            condition="seq > (SELECT coalesce(max(h.seq), 0) FROM {schema}.audit_audithead h)",
            active_only=False,
            public=True,
        )
    return _in_each(sorted({*waiting, *unsigned}), audit_sequence)


def batches_requeue_everywhere() -> int:
    """Bring back batches whose worker or message got lost, in every active tenant. Returns how many."""
    from inference.gateway.batches import MESSAGE_LOST_AFTER_S, batches_requeue_stale

    schemas = schemas_where(
        table="gateway_batch",
        condition=(
            "status IN ('validating', 'in_progress', 'finalizing', 'cancelling') AND (lease_expires_at < now() OR "
            "(lease_expires_at IS NULL AND (enqueued_at IS NULL OR "
            "enqueued_at < now() - make_interval(secs => %s))))"
        ),
        parameters=[float(MESSAGE_LOST_AFTER_S)],
        active_only=True,
    )
    return _in_each(schemas, batches_requeue_stale)


def gateway_files_expire_everywhere() -> int:
    """Delete files of the gateway whose time is over, in every tenant. Returns how many."""
    from inference.gateway.files import files_remove_expired

    schemas = schemas_where(table="gateway_gatewayfile", condition="expires_at <= now()", active_only=False)
    return _in_each(schemas, files_remove_expired)


def upstreams_check_everywhere() -> int:
    """Check enabled upstreams whose last check is old, in every active tenant. Returns how many."""
    from inference.upstreams.services import CHECK_EVERY_S, upstreams_check_due

    schemas = schemas_where(
        table="upstreams_upstream",
        condition="enabled AND (checked_at IS NULL OR checked_at < now() - make_interval(secs => %s))",
        parameters=[float(CHECK_EVERY_S)],
        active_only=True,
    )
    return _in_each(schemas, upstreams_check_due)


def _in_each(schemas: list[str], work: Callable[[], int]) -> int:
    """Sum of `work()` over the schemas; one tenant's trouble is logged and does not stop the others."""
    total = 0
    for schema in schemas:
        try:
            with schema_context(schema):
                total += work()
        except Exception:
            logger.exception("maintenance failed for one tenant", extra={"tenant": schema})
    return total


def ledger_sweep_everywhere() -> int:
    """Close requests whose process ended, in every tenant that has an expired lease. Returns how many."""
    from inference.ledger.maintenance import ledger_sweep

    schemas = schemas_where(
        table="ledger_ledgerworker", condition="lease_until < clock_timestamp()", active_only=False
    )
    return _in_each(schemas, ledger_sweep)


def ledger_maintain_everywhere() -> int:
    """Partitions, expired prompts and alarms, in every tenant whose gateway is or was used. Returns how many."""
    from inference.ledger.maintenance import ledger_maintain

    schemas = schemas_where(table="quotas_counter", condition="true", active_only=False)
    return _in_each(schemas, ledger_maintain)
