"""What the compare page shows, assembled from stored runs and verdicts. Tested without a browser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.evidence.models import CriterionVerdict, GateVerdict, Run
from core.ui.charts import Ecdf, Histogram, IntervalChart, IntervalRow, Provenance, Sample
from inference.comparison import (
    BINARY_METRICS,
    Flips,
    PairedItem,
    SliceEffect,
    flips,
    most_changed,
    paired_items,
    run_metrics,
    slice_effects,
    values_of,
)
from inference.gate_criteria import METRICS, Metric
from inference.gate_planning import CriterionPower, GateCheck
from inference.selectors import items_by_key

FLIPS_SHOWN = 6


@dataclass(frozen=True, slots=True)
class CriterionRow:
    """One line of the verdict table. Without a verdict only what is planned is known."""

    key: str
    title: str
    metric: Metric | None
    severity: str
    status: str
    sentence: str
    margin: float | None
    is_bound: bool
    unit: str
    power: CriterionPower
    verdict: CriterionVerdict | None = None
    owner: str = ""
    playbook: str = ""
    bound_words: str = ""

    @property
    def change_unit(self) -> str:
        """Unit of the observed worsening."""
        return self.unit


@dataclass(frozen=True, slots=True)
class DatasetTab:
    """One dataset of the comparison with its two runs."""

    slug: str
    label: str
    baseline: Run
    candidate: Run


@dataclass(frozen=True, slots=True)
class ItemDetail:
    """An item that changed, with its question and both answers."""

    pair: PairedItem
    question: str
    right: str


@dataclass(frozen=True, slots=True)
class DatasetView:
    """What happened on one dataset, item by item."""

    tab: DatasetTab
    metric: str
    flips: Flips | None
    worse: tuple[ItemDetail, ...]
    better: tuple[ItemDetail, ...]
    moved: tuple[ItemDetail, ...]
    slices: tuple[SliceEffect, ...]
    metrics: tuple[str, ...]
    n: int


def criterion_rows(check: GateCheck, verdict: GateVerdict | None) -> list[CriterionRow]:
    """The gate's criteria in their order, failing ones first once there is a verdict."""
    decided = (
        {row.criterion_id: row for row in verdict.criteria.select_related("criterion")} if verdict else {}
    )
    rows = []
    for power in check.plan.power:
        criterion = power.criterion
        found = decided.get(criterion.pk)
        bound = criterion.rule.get("type") == "bound"
        ratio = criterion.rule.get("scale") == "ratio"
        about = METRICS.get(criterion.metric)
        words = ""
        if bound:
            words = f"{'at least' if criterion.rule.get('op') == '>=' else 'at most'} {criterion.rule.get('bound'):g}"
        rows.append(
            CriterionRow(
                key=criterion.key,
                title=criterion.title,
                metric=about,
                severity=criterion.severity,
                status=found.status if found else "not_run",
                sentence=found.sentence if found else power.sentence,
                margin=criterion.rule.get("bound" if bound else "margin"),
                is_bound=bound,
                unit="ratio" if ratio else (about.unit if about else ""),
                power=power,
                verdict=found,
                owner=criterion.owner_role,
                playbook=criterion.playbook,
                bound_words=words,
            )
        )
    order = {"fail": 0, "stale": 1, "inconclusive": 2, "not_run": 3, "pass": 4}
    return sorted(rows, key=lambda row: order[row.status]) if decided else rows


def worst_slices(verdict: GateVerdict | None, *, limit: int = 8) -> list[dict[str, Any]]:
    """Slices that lost most, over all criteria that do not pass; each with its criterion."""
    if verdict is None:
        return []
    found = []
    for row in verdict.criteria.select_related("criterion"):
        ratio = row.criterion.rule.get("scale") == "ratio"
        if row.status == "pass" or row.criterion.rule.get("type") == "bound":
            continue
        about = METRICS.get(row.criterion.metric)
        for part in row.attribution.get("slices", []):
            if part["observed"] > 0:
                found.append(
                    {
                        **part,
                        "criterion": row.criterion,
                        "unit": about.unit if about else "",
                        "margin": None if ratio else row.criterion.rule.get("margin"),
                        "status": row.status,
                    }
                )
    # By how many margins it lost, so that metrics of different units can stand in one list.
    found.sort(key=lambda part: -(part["observed"] / (part["margin"] or part["observed"])))
    return found[:limit]


def dataset_tabs(check: GateCheck) -> list[DatasetTab]:
    """Datasets both releases have items on, finished or not."""
    pairs: dict[str, dict[str, Run]] = {}
    labels: dict[str, str] = {}
    for planned in check.plan.evaluations:
        if planned.run is not None:
            slug = planned.dataset_version.dataset.slug
            pairs.setdefault(slug, {})[planned.role] = planned.run
            labels[slug] = planned.dataset_version.dataset.name
    return [
        DatasetTab(slug, labels[slug], pair["baseline"], pair["candidate"])
        for slug, pair in pairs.items()
        if len(pair) == 2
    ]


def dataset_view(tab: DatasetTab, metric: str = "") -> DatasetView:
    """Flips, slices and most changed items of one dataset on one metric (the first that can flip by default)."""
    known = [name for name in run_metrics(tab.candidate) if name in METRICS]
    chosen = (
        metric
        if metric in known
        else next((n for n in known if n in BINARY_METRICS), known[0] if known else "")
    )
    if not chosen:
        return DatasetView(tab, "", None, (), (), (), (), (), 0)
    pairs = paired_items(baseline=tab.baseline, candidate=tab.candidate, metric=chosen)
    changed = flips(pairs, chosen) if chosen in BINARY_METRICS else None
    moved = [] if changed else most_changed(pairs, chosen, limit=FLIPS_SHOWN)
    worse = list(changed.worse[:FLIPS_SHOWN]) if changed else []
    better = list(changed.better[:FLIPS_SHOWN]) if changed else []
    shown = [*worse, *better, *moved]
    content = items_by_key(tab.candidate.dataset_digest, [pair.key for pair in shown])

    def detail(pair: PairedItem) -> ItemDetail:
        item = content.get(pair.key)
        return ItemDetail(pair, *(_question(item.content) if item is not None else ("", "")))

    return DatasetView(
        tab=tab,
        metric=chosen,
        flips=changed,
        worse=tuple(detail(pair) for pair in worse),
        better=tuple(detail(pair) for pair in better),
        moved=tuple(detail(pair) for pair in moved),
        slices=tuple(slice_effects(pairs, chosen)[:10]),
        metrics=tuple(known),
        n=len(pairs),
    )


def _question(content: Mapping[str, Any]) -> tuple[str, str]:
    """What the item asks and its right answer, as text."""
    asked = str(content.get("question") or content.get("prompt") or content.get("text") or "")
    choices, index = content.get("choices") or [], content.get("answer")
    right = ""
    if isinstance(index, int) and 0 <= index < len(choices):
        right = str(choices[index])
    elif content.get("answers"):
        right = ", ".join(map(str, content["answers"]))
    elif content.get("reference"):
        right = str(content["reference"])
    return asked[:600], right[:300]


def distributions(tabs: list[DatasetTab]) -> list[Ecdf | Histogram]:
    """Latency and cost of both releases over all datasets where they were measured."""
    charts: list[Ecdf | Histogram] = []
    for metric, title, unit in (
        ("latency_ms", "Latency of one query", "ms"),
        ("cost_usd", "Cost of one query", "USD"),
    ):
        samples = []
        for role in ("baseline", "candidate"):
            values: list[float] = []
            label = ""
            for tab in tabs:
                run = tab.baseline if role == "baseline" else tab.candidate
                values += values_of(run, metric)
                label = run.subject_label
            if len(values) >= 2:
                samples.append(Sample(f"{role}: {label}", values))
        if samples:
            provenance = Provenance(
                n=min(len(s.values) for s in samples), source="per-item results of both runs"
            )
            charts.append(Ecdf(title=title, samples=samples, unit=unit, provenance=provenance))
    return charts


def effects_chart(rows: list[CriterionRow]) -> IntervalChart | None:
    """All comparisons in one figure: worsening as a multiple of its own margin, so that 1 is the margin of each."""
    drawn = []
    for row in rows:
        found = row.verdict
        if found is None or row.is_bound or not row.margin or found.observed is None:
            continue
        scale = row.margin
        drawn.append(
            IntervalRow(
                row.title,
                found.observed / scale,
                found.low / scale if found.low is not None else None,
                found.high / scale if found.high is not None else None,
                verdict=row.status,
                n=found.n,
            )
        )
    if not drawn:
        return None
    return IntervalChart(
        title="Worsening of the candidate, in margins",
        rows=drawn,
        unit="margins (0: no difference, 1: all that is allowed)",
        reference=0.0,
        margin=1.0,
        provenance=Provenance(interval="90 % intervals (5 % on each side)", source="gate verdict"),
    )
