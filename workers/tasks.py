"""The tasks: doorbells. Each enters the tenant (its base class does), loads by id and calls one service.

Each names its queue and declares its scope: "tenant" (the default) or "public". Services are imported inside
the functions, because services import tasks to queue them, and because a worker's parent process must not
load a model library before it forks.
"""

from __future__ import annotations

import logging

from celery import shared_task
from celery.signals import worker_shutting_down

from core.celery import Queues, app
from core.schema import current_schema
from tenants.celery import TenantTask
from workers.schedule import SCHEDULE

logger = logging.getLogger("signoff.workers")

# Here and not when Django starts: only processes that load the tasks need Celery, which takes a while to load.
app.conf.beat_schedule = {**(app.conf.beat_schedule or {}), **SCHEDULE}


@worker_shutting_down.connect(dispatch_uid="workers.hand-runs-back")
def _hand_runs_back(**_: object) -> None:
    """A worker told to stop gives its run back after the present batch, so that another goes on at once."""
    from core.evidence import services

    services.stopping.set()


class WrongTenant(RuntimeError):
    """A message's argument and its header name different tenants. Nothing was done."""


def _check_schema(schema_name: str) -> None:
    if current_schema() != schema_name:
        raise WrongTenant(f"The message is for {schema_name!r} but the task stands in {current_schema()!r}.")


@shared_task(base=TenantTask, runs_on=Queues.INFERENCE, tenant_scope="tenant")
def run_execute(schema_name: str, run_id: str) -> str:
    """Carry out a run.

    Runs twice: only the holder of the run's lease works; a finished run is left alone. Row gone: logged, no
    error, not repeated. Worker dies: the lease runs out and `requeue_expired` sends the message again; stored
    items are kept and not repeated.
    """
    from core.evidence.errors import RunNotFound
    from core.evidence.services import run_execute as execute

    _check_schema(schema_name)
    try:
        outcome = execute(run_id=run_id)
    except RunNotFound:
        logger.warning("message for a run that is gone", extra={"run": run_id})
        return "gone"
    logger.info("run: %s", outcome, extra={"run": run_id})
    return outcome


@shared_task(base=TenantTask, runs_on=Queues.DEFAULT, tenant_scope="tenant")
def model_registration(schema_name: str, registration_id: str) -> str:
    """Carry out a registration of a model version that was asked for in the browser or by REST.

    Runs twice: a registration that has begun or ended is left alone; the same files give the same model
    version. Row gone: logged, no error. Worker dies: `requeue_expired` queues it again after a while; the
    store drops what was half written.
    """
    from inference.errors import RegistrationNotFound
    from inference.registration import registration_execute

    _check_schema(schema_name)
    try:
        return registration_execute(registration_id=registration_id)
    except RegistrationNotFound:
        logger.warning("message for a registration that is gone", extra={"registration": registration_id})
        return "gone"


@shared_task(base=TenantTask, runs_on=Queues.INFERENCE, tenant_scope="tenant")
def batch_execute(schema_name: str, batch_id: str) -> str:
    """Work on a batch of gateway requests for a slice of time.

    Runs twice: only the holder of the batch's lease works; an ended batch is left alone. Row gone: logged, no
    error, not repeated. Worker dies: the lease runs out and `batches_requeue` sends the message again; stored
    results are kept and not repeated.
    """
    from core.errors import NotFound
    from inference.gateway.batches import batch_execute as execute

    _check_schema(schema_name)
    try:
        outcome = execute(public_id=batch_id)
    except NotFound:
        logger.warning("message for a batch that is gone", extra={"batch": batch_id})
        return "gone"
    logger.info("batch: %s", outcome, extra={"batch": batch_id})
    return outcome


@shared_task(base=TenantTask, runs_on=Queues.DEFAULT, tenant_scope="public")
def batches_requeue() -> int:
    """Bring back batches that lost their worker or their message, and delete expired files, in every tenant.

    Runs twice: rows are locked, the second finds nothing. A tenant gone meanwhile is skipped. Worker dies:
    the next tick does it.
    """
    from workers.services import batches_requeue_everywhere, gateway_files_expire_everywhere

    return batches_requeue_everywhere() + gateway_files_expire_everywhere()


@shared_task(base=TenantTask, runs_on=Queues.DEFAULT, tenant_scope="public")
def upstreams_check() -> int:
    """Ask every enabled upstream that was not checked lately whether it is well, in every active tenant.

    Runs twice: the second finds them checked. A tenant gone meanwhile is skipped. Worker dies: the next tick
    does it.
    """
    from workers.services import upstreams_check_everywhere

    return upstreams_check_everywhere()


@shared_task(base=TenantTask, runs_on=Queues.DEFAULT, tenant_scope="public")
def requeue_expired() -> int:
    """Bring back runs and registrations that lost their worker or their message, in every active tenant.

    Runs twice: rows are locked, the second finds nothing. A tenant gone meanwhile is skipped. Worker dies:
    the next tick does it.
    """
    from workers.services import registrations_requeue_everywhere, requeue_expired_everywhere

    return requeue_expired_everywhere() + registrations_requeue_everywhere()


@shared_task(base=TenantTask, runs_on=Queues.DEFAULT, tenant_scope="public")
def audit_sequence(heads: bool = False) -> int:
    """Extend the audit log of every schema that has events waiting; `heads`: and sign the ends of quiet ones.

    Runs twice: an advisory lock lets one work, the other finds nothing. Tenant gone: skipped. Worker dies:
    its transaction is rolled back and the next tick does it.
    """
    from workers.services import audit_sequence_everywhere

    return audit_sequence_everywhere(heads=heads)


@shared_task(base=TenantTask, runs_on=Queues.DEFAULT, tenant_scope="public")
def ledger_sweep() -> int:
    """Close and charge requests of the gateway whose process ended, in every tenant.

    Runs twice: a lease's row is locked by one, the other finds nothing. Tenant gone: skipped. Worker dies: its
    transaction is rolled back and the next tick does it; gateways sweep as well.
    """
    from workers.services import ledger_sweep_everywhere

    return ledger_sweep_everywhere()


@shared_task(base=TenantTask, runs_on=Queues.DEFAULT, tenant_scope="public")
def ledger_maintain() -> int:
    """Make the ledger's partitions ahead, remove expired prompts, tell of budgets past their alarm; every tenant.

    Runs twice: each part finds nothing left to do. Tenant gone: skipped. Worker dies: the next tick does it.
    """
    from workers.services import ledger_maintain_everywhere

    return ledger_maintain_everywhere()
