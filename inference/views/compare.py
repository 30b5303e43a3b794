"""Compare: a candidate against its baseline, judged by a gate. The selection lives in the address."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from core.errors import DomainError, Invalid
from core.evidence.models import Gate
from core.evidence.selectors import run_progress
from core.security.permissions import requires
from core.ui.tables import Column, Table
from inference.comparison import PairedItem, paired_items
from inference.gates import (
    GateCheck,
    gate_check_start,
    gate_check_view,
    gate_for_product,
    gate_verdict_current,
    gate_verdict_latest,
    gate_verdict_settle,
)
from inference.models import Release
from inference.presentation import (
    criterion_rows,
    dataset_tabs,
    dataset_view,
    distributions,
    effects_chart,
    worst_slices,
)
from inference.readiness import baseline_default
from inference.selectors import release_list
from inference.views.shared import gates_latest, release_from


def _selection(request: HttpRequest) -> tuple[Release | None, Release | None, Gate | None]:
    """Candidate, baseline and gate as the address names them, each completed where it says nothing."""
    releases = release_list()
    candidate = release_from(request, "candidate", releases)
    baseline = release_from(request, "baseline", releases)
    if candidate is not None and baseline is None:
        baseline = baseline_default(candidate)
    slug = request.GET.get("gate", "") or request.POST.get("gate", "")
    gate = next((one for one in gates_latest() if one.slug == slug), None)
    if gate is None and candidate is not None and not slug:
        try:
            gate = gate_for_product(candidate.product)
        except DomainError:
            gate = None
    return candidate, baseline, gate


@requires("release.view")
@require_GET
def compare(request: HttpRequest) -> HttpResponseBase:
    """The whole comparison; without a selection the form that makes one."""
    candidate, baseline, gate = _selection(request)
    context: dict[str, Any] = {
        "releases": list(release_list()[:300]),
        "gates": gates_latest(),
        "candidate": candidate,
        "baseline": baseline,
        "gate": gate,
        "crumbs": [("Releases", reverse("inference:release_list"))],
    }
    if candidate is not None and baseline is not None and gate is not None:
        try:
            context |= _comparison(request, candidate, baseline, gate)
        except Invalid as error:
            context["problem"] = error.message
    if (table := context.get("item_table")) is not None and table.wants_csv:
        return table.csv_response(f"{candidate}-against-{baseline}-items.csv")
    return render(request, "inference/compare.html", context)


def _comparison(request: HttpRequest, candidate: Release, baseline: Release, gate: Gate) -> dict[str, Any]:
    verdict = gate_verdict_settle(gate=gate, candidate=candidate, baseline=baseline)
    check = gate_check_view(gate=gate, candidate=candidate, baseline=baseline)
    earlier = verdict or gate_verdict_latest(
        gate_slug=gate.slug, candidate_digest=candidate.digest, baseline_digest=baseline.digest
    )
    status, reasons = gate_verdict_current(earlier) if earlier is not None else ("not_run", [])
    rows = criterion_rows(check, verdict)
    tabs = dataset_tabs(check)
    wanted = request.GET.get("dataset", "")
    tab = next((one for one in tabs if one.slug == wanted), None) or _first_tab(tabs, rows)
    view = dataset_view(tab, request.GET.get("metric", "")) if tab is not None else None
    return {
        **_progress(check),
        "verdict": verdict,
        "earlier": earlier if verdict is None else None,
        "status": status,
        "reasons": reasons,
        "rows": rows,
        "worse": sum(row.status == "fail" for row in rows),
        "playbooks": sorted({row.playbook for row in rows if row.status == "fail" and row.playbook}),
        "effects": effects_chart(rows),
        "slices": worst_slices(verdict),
        "tabs": [
            {
                "label": one.label,
                "url": _url(candidate, baseline, gate, dataset=one.slug) + "#items",
                "active": one == tab,
            }
            for one in tabs
        ],
        "view": view,
        "metric_tabs": [
            {
                "label": name,
                "url": _url(candidate, baseline, gate, dataset=tab.slug, metric=name) + "#items",
                "active": view is not None and name == view.metric,
            }
            for name in (view.metrics if view is not None and tab is not None else ())
        ],
        "item_table": _item_table(request, view),
        "distributions": distributions(tabs),
        "selection": _url(candidate, baseline, gate),
        "progress_url": _url(candidate, baseline, gate, name="inference:compare_progress"),
    }


def _first_tab(tabs: list[Any], rows: list[Any]) -> Any:
    """The dataset of the first criterion that fails, else the first there is."""
    for row in rows:
        if row.status == "fail":
            for tab in tabs:
                if tab.slug == row.power.criterion.dataset:
                    return tab
    return tabs[0] if tabs else None


def _url(
    candidate: Release, baseline: Release, gate: Gate, *, name: str = "inference:compare", **more: str
) -> str:
    query = {"candidate": candidate.pk, "baseline": baseline.pk, "gate": gate.slug, **more}
    return f"{reverse(name)}?{urlencode(query)}"


def _progress(check: GateCheck) -> dict[str, Any]:
    return {
        "check": check,
        "runs": [(run, run_progress(run, provisional=False)) for run in check.runs if run.is_active],
    }


def _item_table(request: HttpRequest, view: Any) -> Table | None:
    """All items of the chosen dataset side by side, as a table that can be searched and exported."""
    if view is None or not view.metric:
        return None
    pairs = paired_items(baseline=view.tab.baseline, candidate=view.tab.candidate, metric=view.metric)
    return Table(
        request,
        pairs,
        [
            Column("key", "Item", lambda p: p.key, sort="key", header=True, main=True),
            Column(
                "baseline",
                "Baseline",
                lambda p: _short(p.baseline),
                sort="key",
                raw=lambda p: p.baseline,
                numeric=True,
            ),
            Column(
                "candidate",
                "Candidate",
                lambda p: _short(p.candidate),
                sort="key",
                raw=lambda p: p.candidate,
                numeric=True,
                main=True,
            ),
            Column(
                "effect",
                "Change",
                lambda p: _short(p.effect),
                sort="key",
                raw=lambda p: p.effect,
                numeric=True,
                main=True,
            ),
            Column("slices", "Slices", lambda p: ", ".join(p.slices)),
            Column("before", "Baseline's output", lambda p: p.baseline_output[:120], optional=True),
            Column("after", "Candidate's output", lambda p: p.candidate_output[:120], optional=True),
        ],
        name="items",
        search=_search,
        row_key=lambda p: p.key,
        per_page=10,
    )


def _search(rows: list[PairedItem], words: str) -> list[PairedItem]:
    return [p for p in rows if words.lower() in f"{p.key} {p.candidate_output} {p.baseline_output}".lower()]


def _short(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}".replace("-", "\u2212")


@requires("release.view")
@require_GET
def compare_progress(request: HttpRequest) -> HttpResponseBase:
    """The part that asks for itself while evaluations run; when they ended the page loads with the verdict."""
    candidate, baseline, gate = _selection(request)
    if candidate is None or baseline is None or gate is None:
        raise Invalid("Name a candidate, a baseline and a gate in the address.")
    check = gate_check_view(gate=gate, candidate=candidate, baseline=baseline)
    url = _url(candidate, baseline, gate, name="inference:compare_progress")
    context = {**_progress(check), "progress_url": url}
    response = render(request, "inference/parts/check_live.html", context)
    if not check.active:
        response["HX-Refresh"] = "true"
    return response


@requires("gate.check")
@require_POST
def compare_check(request: HttpRequest) -> HttpResponseBase:
    """Start (or reuse) the evaluations that the gate needs."""
    candidate, baseline, gate = _selection(request)
    if candidate is None or baseline is None or gate is None:
        raise Invalid("Choose a candidate, a baseline and a gate first.")
    check = gate_check_start(gate=gate, candidate=candidate, baseline=baseline)
    if check.active:
        messages.info(request, "The evaluations are under way. This page follows them.")
    else:
        messages.success(request, "Everything was measured already; the verdict stands on those runs.")
    return redirect(_url(candidate, baseline, gate))
