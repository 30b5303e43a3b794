"""Baseline against candidate, item by item: what flipped, what moved, and how latency and cost are spread.

Reads stored run items and the stored verdict; computes no verdict of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from core.evidence.models import Run, RunItem
from inference.gate_criteria import METRICS

# Metrics that are 0 or 1 for an item, so that an item can flip.
BINARY_METRICS = ("accuracy", "accuracy_norm", "exact_match")


@dataclass(frozen=True, slots=True)
class PairedItem:
    """One item through both releases. `effect` is candidate minus baseline, None where either is missing."""

    key: str
    slices: tuple[str, ...]
    baseline: float | None
    candidate: float | None
    baseline_output: str
    candidate_output: str
    baseline_note: str = ""
    candidate_note: str = ""

    @property
    def effect(self) -> float | None:
        if self.baseline is None or self.candidate is None:
            return None
        return self.candidate - self.baseline


@dataclass(frozen=True, slots=True)
class Flips:
    """Items that changed sides on a metric of 0 and 1. `n`: items that both releases answered.

    worse: right with the baseline and wrong with the candidate (or without a finite value there); better:
    the other way round.
    """

    metric: str
    n: int
    worse: tuple[PairedItem, ...]
    better: tuple[PairedItem, ...]


@dataclass(frozen=True, slots=True)
class SliceEffect:
    """Mean of a metric on one slice of the paired items; None over no items."""

    name: str
    n: int
    baseline: float | None
    candidate: float | None

    @property
    def effect(self) -> float | None:
        if self.baseline is None or self.candidate is None:
            return None
        return self.candidate - self.baseline


def _value(metrics: object, metric: str) -> float | None:
    value = metrics.get(metric) if isinstance(metrics, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def item_value(item: RunItem, metric: str) -> float | None:
    """A metric of a stored item; latency and the derived metrics come from the row's own columns."""
    value = _value(item.metrics, metric)
    if value is None and metric == "latency_ms":
        return item.latency_ms if item.latency_ms is not None and math.isfinite(item.latency_ms) else None
    return value


def run_metrics(run: Run) -> list[str]:
    """Metrics that occur in a run's items, known ones first in their usual order."""
    first = run.items.order_by("ordinal").values_list("metrics", "latency_ms").first()
    if first is None:
        return []
    names = set(first[0] or {})
    if first[1] is not None:
        names.add("latency_ms")
    return [name for name in METRICS if name in names] + sorted(names - set(METRICS))


def paired_items(*, baseline: Run, candidate: Run, metric: str) -> list[PairedItem]:
    """Items both runs hold, in the plan's order. Two queries, whatever the number of items."""
    before = {item.key: item for item in baseline.items.all()}
    pairs = []
    for item in candidate.items.order_by("ordinal"):
        other = before.get(item.key)
        if other is None:
            continue
        pairs.append(
            PairedItem(
                key=item.key,
                slices=tuple(item.slices),
                baseline=item_value(other, metric),
                candidate=item_value(item, metric),
                baseline_output=other.output,
                candidate_output=item.output,
                baseline_note=other.notes,
                candidate_note=item.notes,
            )
        )
    return pairs


def flips(pairs: Iterable[PairedItem], metric: str) -> Flips:
    """Which items changed sides; the input's order is kept."""
    if metric not in BINARY_METRICS:
        raise ValueError(f"metric must be one of {', '.join(BINARY_METRICS)}, got {metric!r}.")
    known = list(pairs)
    worse = [pair for pair in known if pair.baseline == 1 and pair.candidate != 1]
    better = [pair for pair in known if pair.candidate == 1 and pair.baseline != 1]
    return Flips(metric, len(known), tuple(worse), tuple(better))


def most_changed(pairs: Iterable[PairedItem], metric: str, *, limit: int = 20) -> list[PairedItem]:
    """Items that lost most on a metric, worst first; those without a value for the candidate before all."""
    higher = METRICS[metric].higher_is_better if metric in METRICS else False
    sign = -1.0 if higher else 1.0

    def loss(pair: PairedItem) -> float:
        if pair.candidate is None:
            return math.inf if pair.baseline is not None else 0.0
        return sign * pair.effect if pair.effect is not None else 0.0

    worst = [pair for pair in pairs if loss(pair) > 0]
    return sorted(worst, key=lambda pair: (-loss(pair), pair.key))[:limit]


def slice_effects(pairs: Sequence[PairedItem], metric: str) -> list[SliceEffect]:
    """Every slice with its means, worst effect first. Items without a value on either side are left out."""
    higher = METRICS[metric].higher_is_better if metric in METRICS else False
    groups: dict[str, list[PairedItem]] = {}
    for pair in pairs:
        if pair.effect is not None:
            for name in pair.slices:
                groups.setdefault(name, []).append(pair)
    effects = [
        SliceEffect(
            name,
            len(group),
            sum(pair.baseline or 0.0 for pair in group) / len(group),
            sum(pair.candidate or 0.0 for pair in group) / len(group),
        )
        for name, group in groups.items()
    ]
    return sorted(effects, key=lambda row: (row.effect or 0.0) if higher else -(row.effect or 0.0))


def values_of(run: Run, metric: str) -> list[float]:
    """All finite values of a metric in a run, in the plan's order."""
    found = (item_value(item, metric) for item in run.items.only("metrics", "latency_ms", "ordinal"))
    return [value for value in found if value is not None]
