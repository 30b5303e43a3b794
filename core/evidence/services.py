"""Runs: creating, executing, cancelling, retrying and recovering them. How it fits: docs/design/runs.md."""

from __future__ import annotations

import logging
import os
import socket
import threading
import traceback
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from django.conf import settings
from django.db import IntegrityError, InterfaceError, OperationalError, connection, transaction
from django.db.models import DateTimeField, DurationField, ExpressionWrapper, F, Q, Value
from django.db.models.functions import Now
from django.utils import timezone
from django_tenants.utils import schema_context

from core.errors import DomainError
from core.evidence import executors
from core.evidence.errors import (
    ExecutorFailure,
    LeaseLost,
    RunLimitReached,
    RunNotFound,
    RunPlanInvalid,
    RunStateRefuses,
)
from core.evidence.executors import ItemResult, RunView, Summary
from core.evidence.models import Measurement, Run, RunEvent, RunItem
from core.schema import current_schema
from core.security.actor import current_actor
from core.security.canonical import CanonicalError, digest
from core.security.permissions import require

logger = logging.getLogger("signoff.runs")

# Workers that may die on one run before it is called failed: a run that kills its worker must not loop.
MAX_ATTEMPTS = 5
# Seconds after which the message of a queued run counts as lost; doubles with every delivery, because a run
# may also wait honestly behind others. A message too many changes nothing.
MESSAGE_LOST_AFTER_S = 60
MESSAGE_LOST_AFTER_MAX_S = 3600
# Characters kept of a technical detail.
_DETAIL_CHARS = 8000


# Set when this process is told to stop: runs go back to the queue after their present batch.
stopping = threading.Event()


class _Stopping(BaseException):
    """This process is being stopped."""


class RunCreated(NamedTuple):
    """The run, and whether this call made it (False: a live or finished run of the same plan was there)."""

    run: Run
    created: bool


# ------------------------------------------------------------------ creating
def run_create(
    *,
    kind: str,
    subject_digest: str,
    subject_label: str,
    plan: Mapping[str, Any],
    total_items: int,
    dataset_slug: str = "",
    dataset_digest: str = "",
    dataset_label: str = "",
    seed: int = 0,
    force: bool = False,
    reuse_within: timedelta | None = None,
    daily_limit: int | None = None,
    permission: str = "run.start",
) -> RunCreated:
    """Freeze a plan as a run and queue it, or return the run that already measures the same.

    A live run of the same plan is always returned. A succeeded one is returned unless `force`, or it is older
    than `reuse_within` (None: any age). `daily_limit`: runs of the tenant per 24 hours (None: no limit); runs
    that are reused do not count. `permission`: the action the actor needs ("gate.check" for a gate).

    Raises Forbidden, RunKindUnknown, RunPlanInvalid, RunLimitReached.
    """
    require(permission)
    executors.executor_for(kind)
    if total_items < 1:
        raise RunPlanInvalid("This run would measure nothing: its plan selects no items.")
    plan_digest = run_plan_digest(kind=kind, subject_digest=subject_digest, seed=seed, plan=plan)
    with transaction.atomic():
        if daily_limit is not None:
            _serialise("run_create")
        found = _run_to_reuse(plan_digest, force=force, reuse_within=reuse_within)
        if found is not None:
            return RunCreated(found, False)
        if daily_limit is not None:
            _ensure_below_limit(daily_limit)
        actor = current_actor()
        try:
            with transaction.atomic():
                run = Run.objects.create(
                    kind=kind,
                    subject_digest=subject_digest,
                    subject_label=subject_label,
                    dataset_slug=dataset_slug,
                    dataset_digest=dataset_digest,
                    dataset_label=dataset_label,
                    plan=dict(plan),
                    plan_digest=plan_digest,
                    seed=seed,
                    total_items=total_items,
                    requested_by_kind=actor.kind,
                    requested_by_id=actor.id,
                    requested_by_label=actor.label,
                    enqueued_at=timezone.now(),
                    deliveries=1,
                )
        except IntegrityError:
            # Somebody created the same run a moment ago (constraint run_one_live_per_plan): theirs is ours.
            found = Run.objects.filter(plan_digest=plan_digest).order_by("-created_at").first()
            if found is None:
                raise
            return RunCreated(found, False)
        _event(run.pk, f"Queued with {total_items} items.")
        _audit("run.created", run, {"kind": str(kind), "plan_digest": plan_digest, "items": total_items})
        transaction.on_commit(partial(_send, current_schema(), str(run.pk)))
    return RunCreated(run, True)


def run_plan_digest(*, kind: str, subject_digest: str, seed: int, plan: Mapping[str, Any]) -> str:
    """What tells two plans apart: runs with the same digest measure the same thing. Raises RunPlanInvalid."""
    try:
        return digest({"kind": str(kind), "subject": subject_digest, "seed": seed, "plan": dict(plan)})
    except CanonicalError as error:
        raise RunPlanInvalid(f"The plan cannot be frozen: {error}") from error


def _serialise(name: str) -> None:
    """Let one transaction of this tenant at a time pass (until it ends)."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"{current_schema()}:{name}"]
        )


def _run_to_reuse(plan_digest: str, *, force: bool, reuse_within: timedelta | None) -> Run | None:
    same = Run.objects.filter(plan_digest=plan_digest)
    live = same.filter(status__in=Run.ACTIVE).first()
    if live is not None or force:
        return live
    finished = same.filter(status=Run.Status.SUCCEEDED)
    if reuse_within is not None:
        finished = finished.filter(finished_at__gte=timezone.now() - reuse_within)
    return finished.order_by("-finished_at").first()


def _ensure_below_limit(daily_limit: int) -> None:
    used = Run.objects.filter(created_at__gte=timezone.now() - timedelta(days=1)).count()
    if used >= daily_limit:
        raise RunLimitReached(
            f"Your plan allows {daily_limit} runs in 24 hours and {used} were started. Wait until the oldest "
            "is a day old, or ask your operator for a larger plan."
        )


def _send(schema_name: str, run_id: str) -> None:
    """Queue the message. A broker that is away is no error here: the scheduler sends it again."""
    from workers.tasks import run_execute as task  # here, because the task calls this module

    try:
        task.apply_async(args=[schema_name, run_id], headers={"tenant_schema": schema_name}, retry=False)
    except Exception:
        # kombu's errors differ by transport; eager execution (tests) reports its own failures on the run.
        logger.exception("message of a run could not be queued", extra={"run": run_id})


# ------------------------------------------------------------------ executing
@dataclass(frozen=True)
class _Lease:
    """A worker's hold on a run. `owner` is what the row must still say when something is written."""

    run: Run
    owner: str


def _lease_end() -> ExpressionWrapper:
    # The database's clock, so that machines with different clocks agree.
    return ExpressionWrapper(
        Now() + Value(timedelta(seconds=settings.RUN_LEASE_S), output_field=DurationField()),
        output_field=DateTimeField(),
    )


def run_execute(*, run_id: str | uuid.UUID) -> str:
    """Carry out a run in this process, until it ends or is taken away. Returns what happened, for the log.

    Safe to call any number of times, at the same time, anywhere: only the holder of the lease works, items
    already stored are skipped, and a finished run is left alone. Answers: "succeeded", "failed", "cancelled",
    "nothing to do" (finished, or another worker has it), "lease lost", "handed back" (this process is stopping).

    Raises RunNotFound; and OperationalError or InterfaceError when the database goes away, in which case the
    lease runs out and the scheduler queues the run again.
    """
    lease = _lease_take(run_id)
    if lease is None:
        return "nothing to do"
    heartbeat = _Heartbeat(lease.run.pk, lease.owner, current_schema())
    heartbeat.start()
    try:
        return _execute(lease, heartbeat)
    except LeaseLost:
        logger.warning("lease lost, nothing more is written", extra={"run": str(lease.run.pk)})
        return "lease lost"
    except (OperationalError, InterfaceError):
        raise
    except Exception as error:
        return _fail(lease, error)
    except _Stopping:
        _lease_release(lease)
        return "handed back"
    except BaseException:
        # The process is told to stop: hand the run back now instead of letting the lease run out.
        _lease_release(lease)
        raise
    finally:
        heartbeat.stop()


def _lease_take(run_id: str | uuid.UUID) -> _Lease | None:
    try:
        key = uuid.UUID(str(run_id))
    except ValueError:
        raise RunNotFound(f"“{run_id}” is not the id of a run.") from None
    owner = f"{socket.gethostname()[:20]}:{os.getpid()}:{uuid.uuid4().hex[:24]}"
    with transaction.atomic():
        run = Run.objects.select_for_update(of=("self",)).filter(pk=key).annotate(now=Now()).first()
        if run is None:
            raise RunNotFound("There is no such run in this tenant.")
        held = run.lease_expires_at is not None and run.lease_expires_at > run.now
        if not run.is_active or (run.status == Run.Status.RUNNING and held):
            return None
        if run.cancel_requested_at is not None:
            _end(run, Run.Status.CANCELLED, "Cancelled before a worker took it.")
            return None
        if run.attempts >= MAX_ATTEMPTS:
            _end_exhausted(run)
            return None
        run.status = Run.Status.RUNNING
        run.lease_owner = owner
        run.attempts += 1
        run.started_at = run.started_at or run.now
        run.attempt_started_at = run.now
        run.save(update_fields=["status", "lease_owner", "attempts", "started_at", "attempt_started_at"])
        Run.objects.filter(pk=run.pk).update(lease_expires_at=_lease_end())
        stored = run.items.count()
        _event(
            run.pk,
            f"Attempt {run.attempts} started by {owner.rsplit(':', 1)[0]}"
            + (f"; {stored} of {run.total_items} items are already stored." if stored else "."),
        )
    return _Lease(run, owner)


def _lease_release(lease: _Lease) -> None:
    """Put a run back in the queue; the scheduler's next tick sends its message."""
    changed = Run.objects.filter(pk=lease.run.pk, lease_owner=lease.owner, status=Run.Status.RUNNING).update(
        status=Run.Status.QUEUED,
        lease_owner="",
        lease_expires_at=None,
        enqueued_at=None,
        # Being told to stop is not the run's fault.
        attempts=F("attempts") - 1,
    )
    if changed:
        _event(lease.run.pk, "The worker was stopped; the run waits for another.", level="warning")


def _owned(lease: _Lease) -> Run:
    """The run's row, locked, if this worker still holds it. Call inside a transaction. Raises LeaseLost.

    An expired lease that nobody took over still counts: the row lock keeps others out until we commit.
    """
    run = (
        Run.objects.select_for_update(of=("self",))
        .filter(pk=lease.run.pk, lease_owner=lease.owner, status=Run.Status.RUNNING)
        .first()
    )
    if run is None:
        raise LeaseLost(str(lease.run.pk))
    return run


class _Heartbeat(threading.Thread):
    """Renews the lease on a connection of its own until stopped; sets `lost` when it is no longer ours."""

    def __init__(self, run_id: uuid.UUID, owner: str, schema_name: str) -> None:
        super().__init__(name=f"lease-{run_id}", daemon=True)
        self._run_id, self._owner, self._schema = run_id, owner, schema_name
        self._stopped = threading.Event()
        self.lost = False

    def run(self) -> None:
        interval_s = settings.RUN_LEASE_S / 4
        while not self._stopped.wait(interval_s):
            try:
                with schema_context(self._schema):
                    renewed = Run.objects.filter(
                        pk=self._run_id, lease_owner=self._owner, status=Run.Status.RUNNING
                    ).update(lease_expires_at=_lease_end())
                self.lost = not renewed
            except Exception:
                # The next beat tries again; if the database stays away the lease runs out, as it should.
                logger.exception("lease could not be renewed", extra={"run": str(self._run_id)})
            finally:
                connection.close()

    def stop(self) -> None:
        self._stopped.set()
        self.join(timeout=5)


def run_view(run: Run) -> RunView:
    """The frozen facts of a run, as an executor takes them."""
    return RunView(
        id=str(run.pk),
        kind=run.kind,
        subject_digest=run.subject_digest,
        subject_label=run.subject_label,
        dataset_slug=run.dataset_slug,
        dataset_digest=run.dataset_digest,
        plan=run.plan,
        seed=run.seed,
        total_items=run.total_items,
    )


def stored_results(run: Run) -> list[ItemResult]:
    """The stored items of a run as values, in the plan's order."""
    fields = list(ItemResult.__dataclass_fields__)
    return [ItemResult(**row) for row in run.items.order_by("ordinal").values(*fields)]


def _execute(lease: _Lease, heartbeat: _Heartbeat) -> str:
    run, view = lease.run, run_view(lease.run)
    executor = executors.executor_for(run.kind)
    session = executor.open(view)
    try:
        with transaction.atomic():
            owned = _owned(lease)
            owned.environment = dict(session.environment())
            owned.save(update_fields=["environment"])
        done = frozenset(run.items.values_list("key", flat=True))
        for batch in session.execute(done):
            if _batch_store(lease, batch) or (heartbeat.lost and _is_lost(lease)):
                return _cancelled(lease)
            if stopping.is_set():
                raise _Stopping
        stored = stored_results(run)
        if len(stored) != run.total_items:
            raise ExecutorFailure(
                f"{len(stored)} of {run.total_items} planned items have a result, and no more were found. "
                "Was the dataset changed? Start a new run."
            )
        summary = executor.summarise(view, stored)
    finally:
        session.close()
    return _succeed(lease, summary)


def _batch_store(lease: _Lease, batch: Sequence[ItemResult]) -> bool:
    """Store a batch in one transaction with the check that the run is still ours.

    Returns whether the run is to be cancelled (the batch is stored all the same). An item that is there
    already (it cannot be, short of an executor repeating itself) is kept as it is. Raises LeaseLost.
    """
    with transaction.atomic():
        run = _owned(lease)
        RunItem.objects.bulk_create(
            [
                RunItem(
                    run_id=run.pk,
                    key=item.key,
                    ordinal=item.ordinal,
                    slices=list(item.slices),
                    metrics=dict(item.metrics),
                    output=item.output.replace("\x00", "\ufffd"),
                    notes=item.notes[:300],
                    latency_ms=item.latency_ms,
                    tokens_in=item.tokens_in,
                    tokens_out=item.tokens_out,
                    compute_s=item.compute_s,
                )
                for item in batch
            ],
            ignore_conflicts=True,
        )
        return run.cancel_requested_at is not None


def _is_lost(lease: _Lease) -> bool:
    """Ask the row itself: raises LeaseLost when the run is another's; otherwise it is not lost (False)."""
    with transaction.atomic():
        _owned(lease)
    return False


# ------------------------------------------------------------------ ending
def _end(
    run: Run,
    status: str,
    message: str,
    *,
    error: str = "",
    detail: str = "",
    summary: Mapping[str, Any] | None = None,
) -> None:
    """Write the terminal state of a locked, active run, with its log line and audit row."""
    run.status = status
    run.finished_at = timezone.now()
    run.lease_owner = ""
    run.lease_expires_at = None
    run.error = error[:500]
    run.error_detail = detail[:_DETAIL_CHARS]
    run.summary = dict(summary or {})
    run.save(
        update_fields=[
            "status",
            "finished_at",
            "lease_owner",
            "lease_expires_at",
            "error",
            "error_detail",
            "summary",
        ]
    )
    level = "error" if status == Run.Status.FAILED else "info"
    _event(run.pk, message, level=level)
    _audit(f"run.{status}", run, {"plan_digest": run.plan_digest, "attempts": run.attempts})


def _succeed(lease: _Lease, summary: Summary) -> str:
    with transaction.atomic():
        run = _owned(lease)
        Measurement.objects.bulk_create(
            [
                Measurement(
                    run=run,
                    subject_digest=run.subject_digest,
                    dataset=run.dataset_slug,
                    metric=draft.metric,
                    slice=draft.slice,
                    value=draft.value,
                    unit=draft.unit,
                    n=draft.n,
                    low=draft.low,
                    high=draft.high,
                    level=draft.level,
                    method=draft.method,
                )
                for draft in summary.measurements
            ]
        )
        _end(
            run,
            Run.Status.SUCCEEDED,
            f"Succeeded: {run.total_items} items, {len(summary.measurements)} measurements.",
            summary=summary.totals,
        )
    return "succeeded"


def _cancelled(lease: _Lease) -> str:
    with transaction.atomic():
        run = _owned(lease)
        stored = run.items.count()
        _end(run, Run.Status.CANCELLED, f"Cancelled with {stored} of {run.total_items} items stored.")
    return "cancelled"


def _fail(lease: _Lease, error: Exception) -> str:
    sentence = failure_sentence(error)
    logger.warning("run failed", extra={"run": str(lease.run.pk), "error": type(error).__name__})
    try:
        with transaction.atomic():
            _end(
                _owned(lease),
                Run.Status.FAILED,
                f"Failed: {sentence}",
                error=sentence,
                detail=failure_detail(error),
            )
    except LeaseLost:
        return "lease lost"
    return "failed"


def _end_exhausted(run: Run) -> None:
    sentence = (
        f"The worker stopped {run.attempts} times while it carried out this run, perhaps for lack of memory. "
        "Look at the worker's log, then retry: the items stored so far are kept."
    )
    _end(run, Run.Status.FAILED, f"Failed: {sentence}", error=sentence)


def failure_sentence(error: BaseException) -> str:
    """What to tell the person who started the run. Never a prompt or an output."""
    if isinstance(error, DomainError):
        return error.message
    if isinstance(error, ExecutorFailure):
        return str(error)
    if isinstance(error, MemoryError):
        return "The worker ran out of memory. Use a smaller model or a machine with more memory, then retry."
    return (
        f"The run stopped on an unexpected error ({type(error).__name__}). The technical detail is below; "
        "retry, and the items stored so far are kept."
    )


def failure_detail(error: BaseException) -> str:
    """Where it happened. Messages of arbitrary exceptions may quote a prompt, so only the known kinds keep
    theirs."""
    lines: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        speaks = isinstance(seen, DomainError | ExecutorFailure | OSError | RuntimeError | MemoryError)
        message = str(seen)[:500] if speaks else "(message withheld: it may quote an item)"
        name = f"{type(seen).__module__}.{type(seen).__qualname__}"
        lines.append(f"{name}: {message}")
        frames = traceback.extract_tb(seen.__traceback__)[-12:]
        lines += [f"  {os.path.relpath(f.filename)}:{f.lineno} {f.name}" for f in frames]
        seen = seen.__cause__
    return "\n".join(lines)


# ------------------------------------------------------------------ people
def run_get_locked(run_id: str | uuid.UUID) -> Run:
    """The run's row, locked until the transaction ends. Raises RunNotFound."""
    try:
        return Run.objects.select_for_update(of=("self",)).get(pk=uuid.UUID(str(run_id)))
    except (Run.DoesNotExist, ValueError):
        raise RunNotFound("There is no such run in this tenant.") from None


@transaction.atomic
def run_cancel(*, run_id: str | uuid.UUID) -> Run:
    """Stop a run: at once when no worker has it, otherwise after its present batch. Items stored are kept.

    Asking twice changes nothing. Raises Forbidden, RunNotFound, RunStateRefuses (it already ended otherwise).
    """
    require("run.cancel")
    run = run_get_locked(run_id)
    if run.status == Run.Status.CANCELLED or (run.is_active and run.cancel_requested_at is not None):
        return run
    if not run.is_active:
        raise RunStateRefuses(
            f"This run already ended: it {run.get_status_display().lower()}. Nothing to cancel."
        )
    run.cancel_requested_at = timezone.now()
    run.save(update_fields=["cancel_requested_at"])
    _audit("run.cancel_requested", run, {})
    if run.status == Run.Status.QUEUED:
        _end(run, Run.Status.CANCELLED, "Cancelled before a worker took it.")
    else:
        _event(run.pk, f"Cancellation asked for by {current_actor().label or 'Signoff'}.")
    return run


@transaction.atomic
def run_retry(*, run_id: str | uuid.UUID) -> Run:
    """Resume a failed or cancelled run. It is the same run of the same plan: items already stored are kept.

    Raises Forbidden, RunNotFound, RunStateRefuses (it is live or succeeded, or another run of its plan is
    live).
    """
    require("run.start")
    run = run_get_locked(run_id)
    if run.status not in {Run.Status.FAILED, Run.Status.CANCELLED}:
        raise RunStateRefuses(
            f"Only a failed or cancelled run can be retried; this one is {run.get_status_display().lower()}."
        )
    executors.executor_for(run.kind)
    if Run.objects.filter(plan_digest=run.plan_digest, status__in=Run.ACTIVE).exists():
        raise RunStateRefuses("Another run of the same plan is already under way. Follow that one instead.")
    run.status = Run.Status.QUEUED
    run.finished_at = None
    run.cancel_requested_at = None
    run.attempts = 0
    run.error = ""
    run.error_detail = ""
    run.enqueued_at = timezone.now()
    run.deliveries = 1
    try:
        with transaction.atomic():
            run.save(
                update_fields=[
                    "status",
                    "finished_at",
                    "cancel_requested_at",
                    "attempts",
                    "error",
                    "error_detail",
                    "enqueued_at",
                    "deliveries",
                ]
            )
    except IntegrityError as error:
        raise RunStateRefuses(
            "Another run of the same plan is already under way. Follow that one instead."
        ) from error
    _event(run.pk, f"Retried by {current_actor().label or 'Signoff'}; {run.items.count()} items are kept.")
    _audit("run.retried", run, {"plan_digest": run.plan_digest})
    transaction.on_commit(partial(_send, current_schema(), str(run.pk)))
    return run


# ------------------------------------------------------------------ recovering
def run_requeue_expired() -> list[uuid.UUID]:
    """Bring back what got lost in this tenant; called by the scheduler every few seconds. Returns the run
    ids.

    A running run whose lease ran out goes back to the queue (or ends, when it was being cancelled or has had
    its attempts); the message of a run queued for too long is sent again. Two schedulers at once do no harm.
    """
    lost = Q(status=Run.Status.RUNNING) & (Q(lease_expires_at__lt=Now()) | Q(lease_expires_at__isnull=True))
    requeued: list[uuid.UUID] = []
    with transaction.atomic():
        candidates = (
            Run.objects.select_for_update(of=("self",), skip_locked=True)
            .filter(lost | Q(status=Run.Status.QUEUED))
            .order_by("created_at")
        )
        for run in candidates:
            if run.status == Run.Status.RUNNING:
                if run.cancel_requested_at is not None:
                    _end(run, Run.Status.CANCELLED, "Cancelled; the worker that had it is gone.")
                    continue
                if run.attempts >= MAX_ATTEMPTS:
                    _end_exhausted(run)
                    continue
                run.status = Run.Status.QUEUED
                run.lease_owner = ""
                run.lease_expires_at = None
                _event(run.pk, "The worker stopped answering; the run is queued again.", level="warning")
            elif not _message_is_lost(run):
                continue
            run.enqueued_at = timezone.now()
            run.deliveries = min(run.deliveries + 1, 1000)
            run.save(update_fields=["status", "lease_owner", "lease_expires_at", "enqueued_at", "deliveries"])
            requeued.append(run.pk)
            transaction.on_commit(partial(_send, current_schema(), str(run.pk)))
    return requeued


def _message_is_lost(run: Run) -> bool:
    if run.enqueued_at is None:
        return True
    patience_s = min(MESSAGE_LOST_AFTER_S * 2 ** max(run.deliveries - 1, 0), MESSAGE_LOST_AFTER_MAX_S)
    return timezone.now() - run.enqueued_at > timedelta(seconds=patience_s)


# ------------------------------------------------------------------ notes
def run_event(*, run_id: uuid.UUID, message: str, level: str = "info") -> None:
    """Add a line to a run's log. No prompts, no outputs."""
    _event(run_id, message, level=level)


def _event(run_id: uuid.UUID, message: str, *, level: str = "info") -> None:
    RunEvent.objects.create(run_id=run_id, message=message[:500], level=level)


def _audit(action: str, run: Run, data: Mapping[str, Any]) -> None:
    from core.audit.services import audit_record

    audit_record(action, target=run, data=dict(data))
