"""Runs: list, page with live progress, items, cancelling, resuming, starting."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from core.errors import DomainError
from core.evidence.models import Measurement, Run, RunItem
from core.evidence.selectors import (
    run_events,
    run_get,
    run_items,
    run_measurements,
    run_progress,
    runs_active,
)
from core.evidence.selectors import (
    run_list as runs_visible,
)
from core.evidence.services import run_cancel as cancel
from core.evidence.services import run_retry as retry
from core.security.permissions import requires
from core.ui.charts import Ecdf, IntervalChart, IntervalRow, Provenance, Sample
from core.ui.components import component
from core.ui.numbers import format_plain
from core.ui.tables import Column, Filter, Table
from core.ui.templatetags.ui import ago, duration
from inference.comparison import run_metrics, values_of
from inference.forms import RunStartForm, service_errors
from inference.gate_criteria import METRICS, metric_named
from inference.models import Dataset, Release
from inference.selectors import dataset_list, dataset_version_get, release_get, release_list
from inference.services import evaluation_start

STATUS_VARIANTS = {
    "queued": "neutral",
    "running": "accent",
    "succeeded": "pass",
    "failed": "fail",
    "cancelled": "outline",
}
# Facts of the environment shown first.
FACTS = (
    ("engine", "Engine"),
    ("dtype", "Numbers"),
    ("device", "Device"),
    ("cpu_model", "Processor"),
    ("threads", "Threads"),
    ("torch", "torch"),
    ("transformers", "transformers"),
)
STATUS_ICONS = {
    "queued": "clock",
    "running": "loader",
    "succeeded": "check",
    "failed": "x",
    "cancelled": "ban",
}


def status_badge(run: Run) -> Any:
    """The state of a run as a badge: colour, icon and word."""
    return component(
        "badge",
        label=run.get_status_display(),
        variant=STATUS_VARIANTS[run.status],
        icon=STATUS_ICONS[run.status],
    )


@requires("run.view")
@require_GET
def run_list(request: HttpRequest) -> HttpResponseBase:
    """All runs, newest first."""
    table = Table(
        request,
        runs_visible().order_by("-created_at", "-pk"),
        [
            Column(
                "subject", "Subject", lambda r: r.subject_label, sort="subject_label", main=True, header=True
            ),
            Column("kind", "Kind", lambda r: r.get_kind_display(), sort="kind", optional=True),
            Column("dataset", "Dataset", lambda r: r.dataset_label, sort="dataset_label", main=True),
            Column("status", "State", status_badge, sort="status", raw=lambda r: r.status, main=True),
            Column(
                "items",
                "Items",
                lambda r: f"{format_plain(r.done)} of {format_plain(r.total_items)}",
                raw=lambda r: r.done,
                numeric=True,
            ),
            Column(
                "took",
                "Took",
                lambda r: duration(
                    (r.finished_at - r.started_at) if r.finished_at and r.started_at else None
                ),
                raw=lambda r: (
                    (r.finished_at - r.started_at).total_seconds() if r.finished_at and r.started_at else None
                ),
                numeric=True,
            ),
            Column("by", "Started by", lambda r: r.requested_by_label),
            Column(
                "created",
                "Started",
                lambda r: ago(r.created_at),
                sort="created_at",
                raw=lambda r: r.created_at,
            ),
        ],
        filters=[
            Filter(
                "status", "State", list(Run.Status.choices), lambda rows, value: rows.filter(status=value)
            ),
            Filter("kind", "Kind", list(Run.Kind.choices), lambda rows, value: rows.filter(kind=value)),
            Filter(
                "dataset",
                "Dataset",
                list(Dataset.objects.values_list("slug", "name")),
                lambda rows, value: rows.filter(dataset_slug=value),
            ),
        ],
        search=lambda rows, words: rows.filter(
            Q(subject_label__icontains=words) | Q(dataset_label__icontains=words)
        ),
        row_url=lambda r: reverse("inference:run_detail", args=[r.pk]),
    )
    if table.wants_csv:
        return table.csv_response("runs.csv")
    active = runs_active().count()
    return render(request, "inference/run_list.html", {"table": table, "active": active})


@requires("run.view")
@require_GET
def run_detail(request: HttpRequest, pk: uuid.UUID) -> HttpResponseBase:
    """Plan, progress, measurements, environment, log and items of one run."""
    run = run_get(pk)
    table = _items_table(request, run)
    if table.wants_csv:
        return table.csv_response(f"run-{str(run.pk)[:8]}-items.csv")
    context = {
        "run": run,
        "items": table,
        "release": Release.objects.filter(digest=run.subject_digest).order_by("-created_at").first(),
        "environment": [(words, run.environment[name]) for name, words in FACTS if run.environment.get(name)],
        "crumbs": [("Runs", reverse("inference:run_list"))],
        **_live(run),
    }
    return render(request, "inference/run_detail.html", context)


@requires("run.view")
@require_GET
def run_progress_fragment(request: HttpRequest, pk: uuid.UUID) -> HttpResponseBase:
    """What changes while a run is under way. When it ended, the page is asked to load itself once more."""
    run = run_get(pk)
    response = render(request, "inference/parts/run_live.html", {"run": run, **_live(run)})
    if not run.is_active:
        # The rest of the page (measurements, items, actions) follows from the end of the run.
        response["HX-Refresh"] = "true"
    return response


def _live(run: Run) -> dict[str, Any]:
    progress = run_progress(run)
    measured = list(run_measurements(run))
    whole = [row for row in measured if not row.slice]
    return {
        "progress": progress,
        "provisional": [
            {"row": draft, "about": metric_named(draft.metric)} for draft in progress.provisional
        ],
        "events": list(run_events(run))[-200:],
        "measurements": [{"row": row, "about": metric_named(row.metric)} for row in whole],
        "slices": [row for row in measured if row.slice],
        "slice_charts": _slice_charts(run, measured),
        "latency_chart": _latency_chart(run) if run.status == Run.Status.SUCCEEDED else None,
        "badge": status_badge(run),
    }


def _slice_charts(run: Run, measured: list[Measurement]) -> list[IntervalChart]:
    """One chart per metric that was measured by slice, the whole first."""
    charts = []
    for metric in dict.fromkeys(row.metric for row in measured if row.slice):
        rows = [row for row in measured if row.metric == metric and row.value is not None]
        rows.sort(key=lambda row: (row.slice != "", row.slice))
        about = METRICS.get(metric)
        charts.append(
            IntervalChart(
                title=f"{about.label if about else metric} by slice",
                rows=[
                    IntervalRow(row.slice or "all items", row.value, row.low, row.high, n=row.n)
                    for row in rows[:16]
                ],
                unit=rows[0].unit if rows else "",
                reference=None,
                provenance=Provenance(
                    n=run.total_items, interval="95 % intervals", source=f"run {str(run.pk)[:8]}"
                ),
            )
        )
    return charts


def _latency_chart(run: Run) -> Ecdf | None:
    values = values_of(run, "latency_ms")
    if len(values) < 2:
        return None
    return Ecdf(
        title="Latency of one query at a time",
        samples=[Sample(run.subject_label, values)],
        unit="ms",
        provenance=Provenance(n=len(values), source=f"run {str(run.pk)[:8]}"),
    )


def _items_table(request: HttpRequest, run: Run) -> Table:
    metrics = run_metrics(run)

    def metric_column(name: str) -> Column:
        about = METRICS.get(name)
        head = (about.label if about else name) + (
            f" ({about.unit})" if about and about.unit not in ("share", "") else ""
        )
        return Column(
            name,
            head,
            lambda item: format_plain(_metric(item, name)),
            raw=lambda item: _metric(item, name),
            numeric=True,
            main=True,
        )

    slices = sorted({name for item in run.items.only("slices")[:5000] for name in item.slices})
    return Table(
        request,
        run_items(run),
        [
            Column("key", "Item", lambda item: item.key, sort="key", header=True, main=True),
            *[metric_column(name) for name in metrics],
            Column("output", "Output", lambda item: item.output[:160]),
            Column("slices", "Slices", lambda item: ", ".join(item.slices)),
            Column("notes", "Note", lambda item: item.notes, optional=True),
            Column("tokens", "Tokens out", lambda item: item.tokens_out, numeric=True, optional=True),
        ],
        name="items",
        filters=[
            Filter(
                "slice",
                "Slice",
                [(name, name) for name in slices[:60]],
                lambda rows, value: rows.filter(slices__contains=[value]),
            ),
            Filter(
                "right",
                "Answer",
                [("1", "Right"), ("0", "Wrong")] if {"accuracy", "exact_match"} & set(metrics) else [],
                lambda rows, value: rows.filter(
                    Q(metrics__accuracy=float(value)) | Q(metrics__exact_match=float(value))
                ),
            ),
        ],
        search=lambda rows, words: rows.filter(Q(key__icontains=words) | Q(output__icontains=words)),
        per_page=20,
    )


def _metric(item: RunItem, name: str) -> Any:
    value = item.metrics.get(name)
    return item.latency_ms if value is None and name == "latency_ms" else value


@requires("run.start")
@require_http_methods(["GET", "POST"])
def run_create(request: HttpRequest) -> HttpResponseBase:
    """Start one evaluation of a release on a dataset."""
    form = RunStartForm(request.POST or None, initial={k: v for k, v in request.GET.items() if v})
    form.fields["release"].choices = [(r.pk, str(r)) for r in release_list()[:500]]  # type: ignore[attr-defined]
    form.fields["dataset"].choices = [  # type: ignore[attr-defined]
        (d.slug, f"{d.name} ({d.get_kind_display().lower()})")
        for d in dataset_list().filter(version_count__gt=0)  # type: ignore[misc]  # an annotation
    ]
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        try:
            run = evaluation_start(
                release=release_get(data["release"]),
                dataset_version=dataset_version_get(data["dataset"]),
                sample_size=data["sample_size"],
                seed=data["seed"],
            )
        except DomainError as error:
            service_errors(form, error)
        else:
            if not run.is_active:
                messages.info(request, "This was measured before with the same plan; here is that run.")
            return redirect("inference:run_detail", pk=run.pk)
    context = {"form": form, "crumbs": [("Runs", reverse("inference:run_list"))]}
    return render(request, "inference/run_form.html", context, status=422 if form.errors else 200)


@requires("run.cancel")
@require_http_methods(["GET", "POST"])
def run_cancel(request: HttpRequest, pk: uuid.UUID) -> HttpResponseBase:
    """Ask whether to cancel, then do it. Items stored so far are kept."""
    run = run_get(pk)
    if request.method == "GET":
        context = {"run": run, "progress": run_progress(run, provisional=False), "crumbs": _run_crumbs(run)}
        return render(request, "inference/run_cancel.html", context)
    cancel(run_id=run.pk)
    messages.info(request, "The run stops after its present batch; the items stored so far are kept.")
    return redirect("inference:run_detail", pk=run.pk)


@requires("run.start")
@require_POST
def run_retry(request: HttpRequest, pk: uuid.UUID) -> HttpResponseBase:
    """Resume a failed or cancelled run where it stopped."""
    run = retry(run_id=pk)
    messages.success(request, "The run goes on with the items that are missing.")
    return redirect("inference:run_detail", pk=run.pk)


def _run_crumbs(run: Run) -> list[tuple[str, str]]:
    return [
        ("Runs", reverse("inference:run_list")),
        (str(run), reverse("inference:run_detail", args=[run.pk])),
    ]


@requires("run.view")
@require_GET
def running_jobs(request: HttpRequest) -> HttpResponse:
    """Runs under way, for the top bar."""
    runs = list(runs_active()[:6])
    jobs = [(run, run_progress(run, provisional=False)) for run in runs]
    return render(request, "inference/parts/running_jobs.html", {"jobs": jobs})
