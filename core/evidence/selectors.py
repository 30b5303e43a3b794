"""Reading runs: lists, one run, its progress. Counts come from stored rows, never from the broker."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, QuerySet
from django.utils import timezone

from core.evidence import executors
from core.evidence.errors import RunKindUnknown, RunNotFound
from core.evidence.executors import MeasurementDraft
from core.evidence.models import Measurement, Run, RunEvent, RunItem
from core.evidence.services import run_view, stored_results

# Seconds over which the rate of a running run is taken.
RATE_WINDOW_S = 60


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    done, total: items stored and planned. rate_per_s: items per second over the last minute of the present
    attempt; None before the first item or when the run is not running. eta_s: seconds left at that rate; None
    when unknown. provisional: measurements over the items stored so far, to be shown as provisional; empty
    when the run ended (its Measurement rows count then) or has no item yet.
    """

    run_id: uuid.UUID
    status: str
    done: int
    total: int
    rate_per_s: float | None
    eta_s: float | None
    elapsed_s: float | None
    cancelling: bool
    waiting_before: int
    provisional: Sequence[MeasurementDraft]

    @property
    def share(self) -> float:
        """Of the items, in [0, 1]."""
        return self.done / self.total if self.total else 0.0

    @property
    def is_active(self) -> bool:
        return self.status in Run.ACTIVE


def run_get(run_id: str | uuid.UUID) -> Run:
    """One run. Raises RunNotFound, also for text that is no id."""
    try:
        return Run.objects.get(pk=uuid.UUID(str(run_id)))
    except (Run.DoesNotExist, ValueError):
        raise RunNotFound("There is no such run in this tenant.") from None


def run_for_plan(plan_digest: str) -> Run | None:
    """The run of a plan that counts: the live one, else the newest succeeded one, else None."""
    same = Run.objects.filter(plan_digest=plan_digest)
    live = same.filter(status__in=Run.ACTIVE).first()
    return live or same.filter(status=Run.Status.SUCCEEDED).order_by("-finished_at").first()


def run_list(
    *, kind: str = "", status: str = "", subject_digest: str = "", dataset_slug: str = ""
) -> QuerySet[Run]:
    """Runs, newest first, with `done` (items stored). Empty text means no filter."""
    filters = {
        "kind": kind,
        "status": status,
        "subject_digest": subject_digest,
        "dataset_slug": dataset_slug,
    }
    wanted = {name: value for name, value in filters.items() if value}
    return Run.objects.filter(**wanted).annotate(done=Count("items"))


def runs_active() -> QuerySet[Run]:
    """Queued and running runs, oldest first."""
    return Run.objects.filter(status__in=Run.ACTIVE).order_by("created_at")


def run_items(run: Run, *, slice_name: str = "") -> QuerySet[RunItem]:
    """A run's stored items in the plan's order, of one slice if named."""
    items = run.items.order_by("ordinal")
    return items.filter(slices__contains=[slice_name]) if slice_name else items


def run_events(run: Run) -> QuerySet[RunEvent]:
    """A run's log, oldest first."""
    return run.events.order_by("id")


def run_measurements(run: Run, *, slices: bool = True) -> QuerySet[Measurement]:
    """What a succeeded run measured; empty for any other run."""
    found = run.measurements.order_by("metric", "slice")
    return found if slices else found.filter(slice="")


def run_latest(*, subject_digest: str, kind: str = "", dataset_digest: str = "") -> Run | None:
    """The newest succeeded run on a subject, or None."""
    runs = Run.objects.filter(subject_digest=subject_digest, status=Run.Status.SUCCEEDED)
    if kind:
        runs = runs.filter(kind=kind)
    if dataset_digest:
        runs = runs.filter(dataset_digest=dataset_digest)
    return runs.order_by("-finished_at").first()


def run_progress(run: Run, *, provisional: bool = True) -> Progress:
    """How far a run is, counted from its stored rows. `provisional=False` leaves out the numbers
    (cheaper)."""
    now = timezone.now()
    done = run.items.count()
    running = run.status == Run.Status.RUNNING
    rate = _rate_per_s(run, now) if running else None
    drafts: Sequence[MeasurementDraft] = ()
    if provisional and run.is_active and done:
        try:
            executor = executors.executor_for(run.kind)
        except RunKindUnknown:
            pass
        else:
            drafts = executor.summarise(
                run_view(run), stored_results(run), by_slice=False, quick=True
            ).measurements
    end = run.finished_at or now
    return Progress(
        run_id=run.pk,
        status=run.status,
        done=done,
        total=run.total_items,
        rate_per_s=rate,
        eta_s=(run.total_items - done) / rate if rate else None,
        elapsed_s=(end - run.started_at).total_seconds() if run.started_at else None,
        cancelling=run.is_active and run.cancel_requested_at is not None,
        waiting_before=_waiting_before(run),
        provisional=drafts,
    )


def _rate_per_s(run: Run, now: datetime) -> float | None:
    since = now - timedelta(seconds=RATE_WINDOW_S)
    if run.attempt_started_at is not None:
        since = max(since, run.attempt_started_at)
    recent = run.items.filter(created_at__gte=since).count()
    seconds = (now - since).total_seconds()
    return recent / seconds if recent and seconds > 0 else None


def _waiting_before(run: Run) -> int:
    """Runs of this tenant that are before a queued one; 0 for any other."""
    if run.status != Run.Status.QUEUED:
        return 0
    return Run.objects.filter(status__in=Run.ACTIVE, created_at__lt=run.created_at).count()
