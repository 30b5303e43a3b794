"""The evaluation executor: a release answers a dataset's items, in the worker.

Batches of items are scored by `inference.evaluation`; the first items of the plan's order are also answered
alone, one at a time, which gives latency and cost per query. Torch is imported when the first run opens,
never before, so that a worker's parent process stays small.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.conf import settings

from core.evidence.errors import ExecutorFailure
from core.evidence.executors import ItemResult, MeasurementDraft, RunView, Summary, register
from core.evidence.models import Run
from core.evidence.statistics import percentile, percentile_interval, wilson_interval
from inference.data.schema import Item, item_from_dict
from inference.engines.base import Engine, EngineOptions
from inference.engines.errors import EngineNotAble, EngineUnavailable
from inference.engines.factory import open_engine
from inference.evaluation.config import ConfigInvalid, LatencyParams, ScoringParams
from inference.evaluations import code_version, machine_class, sample_keys
from inference.model_store import ModelCorrupt, ModelMissing
from inference.models import Dataset, DatasetVersion, ModelVersion
from inference.registration import tenant_store

if TYPE_CHECKING:
    from inference.evaluation.outcomes import ItemOutcome, LatencySample

logger = logging.getLogger("signoff.evaluation")

# Items per stored batch: a second or two of work, so that progress moves, and little is repeated after a
# kill.
SCORED_PER_BATCH = 32
GENERATED_PER_BATCH = 16
TIMED_PER_BATCH = 4
_LEVEL = 0.95
# Metrics whose items are 0 or 1.
SHARES = frozenset({"accuracy", "accuracy_norm", "exact_match"})
UNITS = {
    "accuracy": "share",
    "accuracy_norm": "share",
    "exact_match": "share",
    "token_f1": "share",
    "nll_gold": "nats/token",
    "nll_text": "nats/token",
    "latency_ms": "ms",
    "cost_usd": "USD",
    "tokens_per_s": "tokens/s",
}


class EvaluationExecutor:
    """Runs of kind `evaluation`; the plan is that of `inference.evaluations.evaluation_plan`."""

    def open(self, run: RunView) -> EvaluationSession:
        """Load model and items. Raises ExecutorFailure with a sentence for people."""
        plan = run.plan
        if plan.get("code_version") != code_version():
            raise ExecutorFailure(
                "This run was planned under another version of the scoring code than this worker has, so "
                "its numbers "
                "would not be what the plan says. Start a new run."
            )
        try:
            params = ScoringParams.from_dict(plan["config"])
        except (ConfigInvalid, KeyError, TypeError) as error:
            raise ExecutorFailure(
                "The release's configuration cannot be read. Create the release again."
            ) from error
        version = (
            DatasetVersion.objects.select_related("dataset")
            .filter(digest=run.dataset_digest, dataset__slug=run.dataset_slug)
            .first()
        )
        if version is None:
            raise ExecutorFailure(
                "The dataset version of this run is gone. Import it again, then start a new run."
            )
        engine = _engine(plan)
        return EvaluationSession(run, engine, params, version)

    def summarise(
        self, run: RunView, items: Sequence[ItemResult], *, by_slice: bool = True, quick: bool = False
    ) -> Summary:
        """Quality metrics over all items and per slice; latency, cost and throughput over the timed ones."""
        kind = str(run.plan["dataset"]["kind"])
        return summarise(
            items,
            metrics=quality_metrics(kind),
            timed=int(run.plan["latency"]["n"]) > 0,
            price_usd_per_compute_s=float(run.plan["price_usd_per_compute_s"]),
            by_slice=by_slice,
            seed=run.seed,
            quick=quick,
        )


class EvaluationSession:
    """One attempt at an evaluation in this worker."""

    def __init__(self, run: RunView, engine: Engine, params: ScoringParams, version: DatasetVersion) -> None:
        self._run, self._engine, self._params, self._version = run, engine, params, version
        sample = run.plan["sample"]
        self._keys = sample_keys(version, split=sample["split"], n=int(sample["n"]), seed=int(sample["seed"]))
        if len(self._keys) != run.total_items:
            raise ExecutorFailure(
                f"The dataset holds {len(self._keys)} of the {run.total_items} items this run was planned "
                f"over."
            )
        self._kind = version.dataset.kind

    def environment(self) -> Mapping[str, Any]:
        """What the engine says, and the kind of machine this really is."""
        return {**self._engine.environment(), "machine": machine_class(), "code_version": code_version()}

    def execute(self, done: frozenset[str]) -> Iterator[Sequence[ItemResult]]:
        """Batches in the plan's order: first the timed items, then the rest. Raises ExecutorFailure."""
        latency = self._run.plan["latency"]
        timed_keys = frozenset(self._keys[: int(latency["n"])])
        order = {key: number for number, key in enumerate(self._keys)}
        waiting = [key for key in self._keys if key not in done]
        size = GENERATED_PER_BATCH if self._kind == Dataset.Kind.GENERATION else SCORED_PER_BATCH
        timed = [key for key in waiting if key in timed_keys]
        rest = [key for key in waiting if key not in timed_keys]
        # The warm-up of an attempt: the first timed answers pay for caches and lazy loading otherwise.
        warmup = int(latency["warmup"])
        try:
            for keys in _chunks(timed, TIMED_PER_BATCH):
                yield self._batch(
                    keys, order, LatencyParams(max_tokens=int(latency["max_tokens"]), warmup=warmup)
                )
                warmup = 0
            for keys in _chunks(rest, size):
                yield self._batch(keys, order, None)
        except (EngineNotAble, EngineUnavailable) as error:
            raise ExecutorFailure(str(error)) from error

    def _batch(
        self, keys: Sequence[str], order: Mapping[str, int], latency: LatencyParams | None
    ) -> list[ItemResult]:
        from inference.evaluation.scoring import measure_latency, score_batch

        rows = {row.key: row for row in self._version.items.filter(key__in=keys)}
        items: list[Item] = [item_from_dict(self._kind, rows[key].content) for key in keys]
        samples: dict[str, LatencySample] = {}
        if latency is not None:
            samples = {
                sample.key: sample for sample in measure_latency(self._engine, items, self._params, latency)
            }
        price = float(self._run.plan["price_usd_per_compute_s"])
        return [
            _result(outcome, rows[outcome.key].slices, order[outcome.key], samples.get(outcome.key), price)
            for outcome in score_batch(self._engine, self._kind, items, self._params)
        ]

    def close(self) -> None:
        """The engine stays in the worker's cache for the next run."""


def _chunks(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def _result(
    outcome: ItemOutcome, slices: Sequence[str], ordinal: int, sample: LatencySample | None, price: float
) -> ItemResult:
    metrics: dict[str, float | None] = {name: _finite(value) for name, value in outcome.metrics.items()}
    if sample is not None:
        if price > 0:
            metrics["cost_usd"] = _finite(sample.compute_s * price)
        if sample.tokens_out and sample.latency_ms > 0:
            metrics["tokens_per_s"] = _finite(sample.tokens_out / (sample.latency_ms / 1000))
    return ItemResult(
        key=outcome.key,
        ordinal=ordinal,
        metrics=metrics,
        slices=tuple(slices),
        output=outcome.output,
        notes=outcome.note,
        latency_ms=sample.latency_ms if sample is not None else None,
        tokens_in=outcome.tokens_in,
        tokens_out=outcome.tokens_out,
        compute_s=outcome.compute_s,
    )


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


# ------------------------------------------------------------------ engines
def _engine(plan: Mapping[str, Any]) -> Engine:
    """The loaded model of a plan, from the worker's cache. Raises ExecutorFailure."""
    digest = str(plan["model"])
    url = str(plan["engine"]["url"])
    options = EngineOptions(dtype=_dtype(plan), threads=settings.ENGINE_THREADS)  # type: ignore[arg-type]
    name = ModelVersion.objects.filter(digest=digest).values_list("name", flat=True).first()
    try:
        # At ENGINE_URL the model is asked for by the name it was registered under.
        return open_engine(
            tenant_store(),
            digest,
            options=options,
            engine_url=url,
            engine_model=name or "",
            api_key=settings.ENGINE_API_KEY,
        )
    except (ModelMissing, ModelCorrupt, EngineUnavailable, EngineNotAble) as error:
        raise ExecutorFailure(str(error)) from error


def _dtype(plan: Mapping[str, Any]) -> str:
    """The number format to run in. `auto` is settled by the first run on a kind of machine and then kept.

    A calibration that came out differently in another process would make two releases incomparable.
    """
    wanted = str(plan["engine"]["dtype"])
    if wanted != "auto":
        return wanted
    before = (
        Run.objects.filter(
            kind=Run.Kind.EVALUATION,
            status=Run.Status.SUCCEEDED,
            plan__machine=plan["machine"],
            plan__engine=plan["engine"],
            plan__code_version=plan["code_version"],
            environment__machine=machine_class(),
        )
        .order_by("-finished_at")
        .values_list("environment", flat=True)
        .first()
    )
    known = str((before or {}).get("dtype", ""))
    return known if known in {"float32", "bfloat16", "float16"} else "auto"


# ------------------------------------------------------------------ summary
def quality_metrics(kind: str) -> tuple[str, ...]:
    """Metrics that items of this kind yield, whether or not an item has a value."""
    from inference.data.schema import ItemKind
    from inference.evaluation.scoring import METRICS

    return METRICS[ItemKind(kind)]


def summarise(
    items: Sequence[ItemResult],
    *,
    metrics: Sequence[str],
    timed: bool,
    price_usd_per_compute_s: float,
    by_slice: bool = True,
    seed: int = 0,
    quick: bool = False,
) -> Summary:
    """Measurements and totals over scored items: pure, and the same in whatever order the items come.

    Args:
        metrics: quality metrics to report, each with n = 0 and no value when no item has one.
        timed: whether latency, cost and throughput were to be measured.
        by_slice: also report the quality metrics per slice.
        quick: no bootstrap.
    """
    ordered = sorted(items, key=lambda item: (item.ordinal, item.key))
    drafts = [_quality(name, ordered, seed=seed, quick=quick) for name in metrics]
    if timed:
        drafts += _timings(ordered, price=price_usd_per_compute_s)
    if by_slice:
        groups: dict[str, list[ItemResult]] = {}
        for item in ordered:
            for name in item.slices:
                groups.setdefault(name, []).append(item)
        for slice_name in sorted(groups):
            drafts += [
                _quality(name, groups[slice_name], seed=seed, quick=True, slice_name=slice_name)
                for name in metrics
            ]
    compute_s = math.fsum(item.compute_s for item in ordered)
    totals: dict[str, Any] = {
        "items": len(ordered),
        "timed_items": sum(item.latency_ms is not None for item in ordered),
        "items_without_finite_value": sum(
            any(item.metrics.get(name) is None for name in metrics) for item in ordered
        ),
        "compute_s": round(compute_s, 4),
        "tokens_in": sum(item.tokens_in for item in ordered),
        "tokens_out": sum(item.tokens_out for item in ordered),
        "cost_usd": compute_s * price_usd_per_compute_s if price_usd_per_compute_s > 0 else None,
    }
    return Summary(drafts, totals)


def _quality(
    name: str, items: Sequence[ItemResult], *, seed: int, quick: bool, slice_name: str = ""
) -> MeasurementDraft:
    values = [value for item in items if (value := item.metrics.get(name)) is not None]
    left_out = len(items) - len(values)
    unit = UNITS.get(name, "")
    if name in SHARES and all(value in (0.0, 1.0) for value in values):
        return _share(name, values, unit=unit, left_out=left_out, slice_name=slice_name)
    return _mean(name, values, unit=unit, left_out=left_out, slice_name=slice_name, seed=seed, quick=quick)


def _method(text: str, left_out: int) -> str:
    return f"{text}; {left_out} without a finite value left out" if left_out else text


def _share(
    name: str, values: Sequence[float], *, unit: str, left_out: int, slice_name: str
) -> MeasurementDraft:
    n = len(values)
    if not n:
        return MeasurementDraft(name, None, unit, 0, method=_method("no items", left_out), slice=slice_name)
    hits = round(sum(values))
    interval = wilson_interval(hits, n, level=_LEVEL)
    return MeasurementDraft(
        name, hits / n, unit, n, interval.low, interval.high, _LEVEL, _method("Wilson", left_out), slice_name
    )


def _mean(
    name: str,
    values: Sequence[float],
    *,
    unit: str,
    left_out: int = 0,
    slice_name: str = "",
    seed: int = 0,
    quick: bool = True,
) -> MeasurementDraft:
    """Mean with a bootstrap interval (quick: Student's t). Equal values or one value give no interval."""
    n = len(values)
    if not n:
        return MeasurementDraft(name, None, unit, 0, method=_method("no items", left_out), slice=slice_name)
    mean = math.fsum(values) / n
    if n == 1 or max(values) == min(values):
        reason = "one item, no interval" if n == 1 else "all values equal, no interval"
        return MeasurementDraft(name, mean, unit, n, method=_method(reason, left_out), slice=slice_name)
    if quick:
        from scipy import stats

        error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
        half = float(stats.t.ppf(1 - (1 - _LEVEL) / 2, n - 1)) * error
        low, high, how = mean - half, mean + half, "Student's t"
    else:
        from core.evidence.statistics import bootstrap_interval

        interval = bootstrap_interval(values, seed=seed, level=_LEVEL)
        low, high, how = interval.low, interval.high, "percentile bootstrap"
    return MeasurementDraft(name, mean, unit, n, low, high, _LEVEL, _method(how, left_out), slice_name)


def _timings(items: Sequence[ItemResult], *, price: float) -> list[MeasurementDraft]:
    latencies = [item.latency_ms for item in items if item.latency_ms is not None]
    drafts = [_mean("latency_ms", latencies, unit="ms")]
    drafts += [_percentile(f"latency_ms_p{round(q * 100)}", latencies, q) for q in (0.5, 0.95)]
    names = (["cost_usd"] if price > 0 else []) + ["tokens_per_s"]
    for name in names:
        values = [value for item in items if (value := item.metrics.get(name)) is not None]
        drafts.append(_mean(name, values, unit=UNITS[name]))
    return drafts


def _percentile(name: str, values: Sequence[float], q: float) -> MeasurementDraft:
    if not values:
        return MeasurementDraft(name, None, "ms", 0, method="no items")
    interval = percentile_interval(values, q, level=_LEVEL)
    low, high = _finite(interval.low), _finite(interval.high)
    method = "order statistics"
    if low is None or high is None:
        method += ", too few items to bound " + " and ".join(
            side for side, value in (("below", low), ("above", high)) if value is None
        )
    return MeasurementDraft(name, percentile(values, q), "ms", len(values), low, high, _LEVEL, method)


def register_executors() -> None:
    """Called when the app is ready."""
    register(Run.Kind.EVALUATION, EvaluationExecutor())
