"""What a gate check needs before it is decided: evaluations, power stated in advance, runs to start."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import NormalDist
from typing import Any

from django.db import transaction
from django.db.models import Count
from django.utils import timezone

from core.audit.services import audit_record
from core.errors import Invalid
from core.evidence.models import Criterion, CriterionVerdict, Gate, GateVerdict, Run, RunItem
from core.evidence.statistics import (
    paired_binary_detectable,
    paired_binary_power,
    paired_continuous_detectable,
    paired_continuous_power,
    percentile_n_needed,
)
from core.evidence.verdicts import METHOD, CriterionSpec, criterion_plan_sentence
from core.security.canonical import digest
from core.security.permissions import require
from inference.comparison import BINARY_METRICS
from inference.errors import EvaluationInvalid
from inference.evaluations import LATENCY_ITEMS, EvaluationPlan, evaluation_plan, evaluation_request
from inference.models import DatasetVersion, Release


@dataclass(frozen=True, slots=True)
class PlannedEvaluation:
    """One evaluation a gate needs. `run` is the finished or live run that already has this plan, or None."""

    role: str  # "candidate" or "baseline"
    release: Release
    dataset_version: DatasetVersion
    # Items to score; 0 means all of the test split.
    sample_size: int
    n: int
    seed: int
    criteria: tuple[str, ...]
    # Items timed alone; 0 when no criterion is about time or cost.
    latency_items: int = 0
    # The strictest age limit of its criteria: an older run is repeated.
    max_age: timedelta = timedelta(days=30)
    run: Run | None = None


@dataclass(frozen=True, slots=True)
class CriterionPower:
    """What a criterion can detect with `n` pairs, stated before the run.

    `power`: chance to pass a candidate that is truly equal. `mde`: the smallest true loss that is noticed
    with the criterion's power, in the metric's unit. Both None when nothing can be said. `basis`: where the
    assumed spread comes from.
    """

    criterion: Criterion
    n: int
    power: float | None
    mde: float | None
    basis: str
    sentence: str


@dataclass(frozen=True, slots=True)
class GatePlan:
    """Everything a gate check will do, before it does it."""

    gate: Gate
    candidate: Release
    baseline: Release
    evaluations: tuple[PlannedEvaluation, ...]
    power: tuple[CriterionPower, ...]
    # Sentences about criteria that cannot be measured at all (a dataset without items, say).
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GateCheck:
    """A gate check as it stands: its plan, its runs, and the verdict once there is one."""

    plan: GatePlan
    runs: tuple[Run, ...]
    done_items: int
    total_items: int
    verdict: GateVerdict | None = None
    missing: tuple[PlannedEvaluation, ...] = field(default=())

    @property
    def active(self) -> bool:
        """Whether any of its runs may still change."""
        return any(run.is_active for run in self.runs)


# ------------------------------------------------------------------ before the run
# Declared assumptions of the power stated before there is any data on the pair: share of items that flip
# either way, and standard deviation of an item's change in nats per token.
ASSUMED_DISCORDANCE = 0.10
ASSUMED_SD = {"nll_gold": 0.20, "nll_text": 0.08}


def criterion_spec(criterion: Criterion) -> CriterionSpec:
    """The criterion as the pure rules take it."""
    return CriterionSpec(
        key=criterion.key,
        title=criterion.title,
        area=criterion.area,
        metric=criterion.metric,
        dataset=criterion.dataset,
        slice=criterion.slice,
        rule=criterion.rule,
        alpha=criterion.alpha,
        power=criterion.power,
        severity=criterion.severity,
        max_age_days=criterion.max_age_days,
        owner_role=criterion.owner_role,
        playbook=criterion.playbook,
    )


def criterion_power(criterion: Criterion, n: int, *, baseline_digest: str = "") -> CriterionPower:
    """What a criterion with `n` pairs can detect.

    The spread comes from the last verdict on the same metric and dataset with this baseline, if there is one,
    else from the declared assumptions.
    """
    spec = criterion_spec(criterion)
    plain = spec.comparative and spec.rule.get("scale", "difference") == "difference"
    statistic = str(spec.rule.get("statistic", "mean"))
    if n < 2:
        sentence = f"{n} items: nothing can be tested. Choose a larger dataset or sample."
        return CriterionPower(criterion, n, None, None, "no items", sentence)
    if not plain or statistic != "mean":
        return CriterionPower(criterion, n, None, None, "not planned", _unplanned_sentence(spec, n))
    margin = float(spec.rule["margin"])
    binary = criterion.metric in BINARY_METRICS
    earlier = _earlier_spread(criterion, baseline_digest)
    spread, basis = earlier or (
        (ASSUMED_DISCORDANCE, f"assumed: {ASSUMED_DISCORDANCE:.0%} of the items flip")
        if binary
        else (ASSUMED_SD.get(criterion.metric, margin), "assumed spread of an item's change")
    )
    if binary:
        power = paired_binary_power(n, discordance=spread, margin=margin, alpha=spec.alpha)
        mde = paired_binary_detectable(n, discordance=spread, alpha=spec.alpha, power=spec.power)
        sentence = criterion_plan_sentence(spec, n=n, discordance=spread)
    else:
        power = paired_continuous_power(n, sd=spread, margin=margin, alpha=spec.alpha)
        mde = paired_continuous_detectable(n, sd=spread, alpha=spec.alpha, power=spec.power)
        sentence = criterion_plan_sentence(spec, n=n, sd=spread)
    return CriterionPower(criterion, n, power, mde, basis, sentence)


def _unplanned_sentence(spec: CriterionSpec, n: int) -> str:
    statistic = str(spec.rule.get("statistic", "mean"))
    quantile = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}.get(statistic)
    if quantile is not None:
        needed = percentile_n_needed(quantile, alpha=spec.alpha)
        if n < needed:
            return f"{statistic} needs at least {needed} items for a bound; with {n} it stays inconclusive."
        return f"With {n} items {statistic} has a bound (it needs {needed}); its power depends on the tail."
    if not spec.comparative:
        return (
            f"With {n} items the interval decides; the power of a bound depends on how far off the value is."
        )
    return f"With {n} pairs the ratio is bounded by a paired bootstrap; its power depends on the spread."


def _earlier_spread(criterion: Criterion, baseline_digest: str) -> tuple[float, str] | None:
    """Spread of an item's change in the newest decided verdict on the same metric, dataset and slice."""
    rows = CriterionVerdict.objects.filter(
        criterion__metric=criterion.metric,
        criterion__dataset=criterion.dataset,
        criterion__slice=criterion.slice,
        criterion__rule__type="non_inferiority",
        n__gte=20,
        low__isnull=False,
        high__isnull=False,
    ).select_related("gate_verdict", "criterion")
    if baseline_digest:
        rows = rows.filter(gate_verdict__baseline_digest=baseline_digest)
    for row in rows.order_by("-gate_verdict__computed_at")[:5]:
        rule = row.criterion.rule
        if rule.get("scale", "difference") != "difference" or rule.get("statistic", "mean") != "mean":
            continue
        assert row.low is not None and row.high is not None
        if criterion.metric in BINARY_METRICS:
            flipped = (row.attribution.get("worse", 0) + row.attribution.get("better", 0) + 1) / (row.n + 2)
            spread = min(1.0, flipped)
        else:
            half = (row.high - row.low) / 2
            spread = half / NormalDist().inv_cdf(0.5 + row.level / 2) * math.sqrt(row.n)
        if math.isfinite(spread) and spread > 0:
            label = row.gate_verdict.candidate_label
            return spread, f"from the comparison of {label}, n = {row.n}"
    return None


# ------------------------------------------------------------------ the plan
# Every evaluation of a gate draws its items with this seed, so that releases meet the same items.
GATE_SEED = 0
TIMED_METRICS = ("latency_ms", "cost_usd", "tokens_per_s")
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


def gate_plan(gate: Gate, candidate: Release, baseline: Release) -> GatePlan:
    """What must be evaluated for this gate, and what each criterion can detect with it. Starts nothing."""
    ensure_comparable(candidate, baseline)
    criteria = list(gate.criteria.all())
    versions = dataset_versions_latest({criterion.dataset for criterion in criteria})
    evaluations: list[PlannedEvaluation] = []
    problems: list[str] = []
    sizes: dict[str, int] = {}
    for slug in sorted({criterion.dataset for criterion in criteria}):
        own = [criterion for criterion in criteria if criterion.dataset == slug]
        version = versions.get(slug)
        if version is None:
            problems.append(f"There is no dataset {slug}. Import it; until then its criteria are not run.")
            continue
        for role, release in (("candidate", candidate), ("baseline", baseline)):
            try:
                planned = _planned(role, release, version, own)
            except EvaluationInvalid as error:
                problems.append(f"{version} cannot be evaluated: {error.message}")
                break
            sizes[slug] = planned.n
            evaluations.append(planned)
    power = tuple(
        criterion_power(
            criterion,
            slice_size(versions.get(criterion.dataset), criterion.slice, sizes.get(criterion.dataset, 0)),
            baseline_digest=baseline.digest,
        )
        for criterion in criteria
    )
    return GatePlan(gate, candidate, baseline, tuple(evaluations), power, tuple(problems))


def ensure_comparable(candidate: Release, baseline: Release) -> None:
    """Refuse pairs that say nothing. Raises Invalid."""
    if candidate.pk == baseline.pk:
        raise Invalid(
            f"{candidate} is both candidate and baseline. Compare it with another release.",
            fields={"baseline": ["Choose a release other than the candidate."]},
        )
    if candidate.product_id != baseline.product_id:
        raise Invalid(
            f"{candidate} and {baseline} are releases of different products.",
            fields={"baseline": [f"Choose a release of {candidate.product.name}."]},
        )


def dataset_versions_latest(slugs: Iterable[str]) -> dict[str, DatasetVersion]:
    """The newest version of each dataset, by slug; datasets that do not exist are left out."""
    rows = (
        DatasetVersion.objects.filter(dataset__slug__in=set(slugs))
        .select_related("dataset")
        .order_by("dataset_id", "-version")
        .distinct("dataset_id")
    )
    return {row.dataset.slug: row for row in rows}


def slice_size(version: DatasetVersion | None, slice_name: str, n: int) -> int:
    """How many of `n` sampled items a slice is expected to have; `n` itself without a slice."""
    if not slice_name or version is None or not version.item_count:
        return n
    return round(n * int(version.slices.get(slice_name, 0)) / version.item_count)


def _planned(
    role: str, release: Release, version: DatasetVersion, criteria: Sequence[Criterion]
) -> PlannedEvaluation:
    """One evaluation big enough for all criteria on its dataset. Raises EvaluationInvalid."""
    sizes = [criterion.sample_size for criterion in criteria]
    size = 0 if 0 in sizes else max(sizes)
    plan = evaluation_plan(
        release=release,
        dataset_version=version,
        sample_size=size,
        seed=GATE_SEED,
        latency_items=_latency_items(criteria),
    )
    days = min(criterion.max_age_days for criterion in criteria)
    return PlannedEvaluation(
        role=role,
        release=release,
        dataset_version=version,
        sample_size=size,
        n=plan.total_items,
        seed=GATE_SEED,
        criteria=tuple(criterion.key for criterion in criteria),
        latency_items=_latency_items(criteria),
        max_age=timedelta(days=days),
        run=run_for_plan(plan),
    )


def _latency_items(criteria: Sequence[Criterion]) -> int:
    """Items to time alone: none when no criterion is about time or cost, enough to bound a percentile."""
    timed = [criterion for criterion in criteria if criterion.metric in TIMED_METRICS]
    needed = [
        percentile_n_needed(_QUANTILES[statistic], alpha=criterion.alpha)
        for criterion in timed
        if (statistic := str(criterion.rule.get("statistic", "mean"))) in _QUANTILES
    ]
    return max([LATENCY_ITEMS, *needed]) if timed else 0


def run_for_plan(wanted: EvaluationPlan) -> Run | None:
    """The live or succeeded run that measures what is wanted: newest finished first, then a live one.

    A run that also timed more items than wanted serves as well; anything else about the plan must be equal.
    """
    runs = Run.objects.filter(
        kind=Run.Kind.EVALUATION,
        subject_digest=wanted.release.digest,
        dataset_digest=wanted.dataset_version.digest,
        seed=wanted.seed,
        status__in=[Run.Status.SUCCEEDED, *Run.ACTIVE],
    )
    fitting = [run for run in runs if _serves(run.plan, wanted.plan)]
    if not fitting:
        return None
    return max(
        fitting, key=lambda run: (run.status == Run.Status.SUCCEEDED, run.finished_at or run.created_at)
    )


def _serves(plan: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    def rest(of: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in of.items() if name != "latency"}

    if rest(plan) != rest(wanted):
        return False
    have, need = plan.get("latency", {}), wanted["latency"]
    if not need["n"]:
        return True
    same = all(have.get(name) == need[name] for name in need if name != "n")
    return bool(same and int(have.get("n", 0)) >= int(need["n"]))


# ------------------------------------------------------------------ the check
def gate_check_view(*, gate: Gate, candidate: Release, baseline: Release) -> GateCheck:
    """The check as it stands, starting nothing; `verdict` is the stored one for exactly this evidence."""
    plan = gate_plan(gate, candidate, baseline)
    runs = {planned.run.pk: planned.run for planned in plan.evaluations if planned.run is not None}
    done = dict(
        RunItem.objects.filter(run_id__in=[run.pk for run in runs.values() if run.is_active])
        .values_list("run_id")
        .annotate(count=Count("pk"))
    )
    finished_items = sum(
        run.total_items if run.status == Run.Status.SUCCEEDED else int(done.get(run.pk, 0))
        for run in runs.values()
    )
    missing = tuple(planned for planned in plan.evaluations if planned.run is None)
    unique = {(planned.release.digest, planned.dataset_version.pk): planned.n for planned in missing}
    return GateCheck(
        plan=plan,
        runs=tuple(runs.values()),
        done_items=finished_items,
        total_items=sum(run.total_items for run in runs.values()) + sum(unique.values()),
        verdict=GateVerdict.objects.filter(gate=gate, inputs_digest=inputs_digest(plan))
        .order_by("-computed_at")
        .first(),
        missing=missing,
    )


def gate_check_start(*, gate: Gate, candidate: Release, baseline: Release) -> GateCheck:
    """Start the evaluations that are missing, too old or made under unlike conditions; reuse the rest.

    Harmless to repeat: a live run of the same plan is found, not doubled. Raises Forbidden, Invalid,
    RunLimitReached.
    """
    require("gate.check")
    plan = gate_plan(gate, candidate, baseline)
    if not plan.evaluations:
        raise Invalid(" ".join(plan.problems) or f"{gate} has no criterion that can be measured.")
    renewed = _to_renew(plan)
    with transaction.atomic():
        for planned in plan.evaluations:
            again = (planned.release.digest, planned.dataset_version.pk) in renewed
            if planned.run is not None and not again:
                continue
            evaluation_request(
                release=planned.release,
                dataset_version=planned.dataset_version,
                sample_size=planned.sample_size,
                seed=planned.seed,
                latency_items=planned.latency_items,
                force=again,
                permission="gate.check",
            )
        audit_record(
            "gate.check_started",
            target=gate,
            data={
                "gate": gate.slug,
                "version": gate.version,
                "candidate": candidate.digest,
                "baseline": baseline.digest,
                "started": len(renewed) + sum(planned.run is None for planned in plan.evaluations),
            },
        )
    return gate_check_view(gate=gate, candidate=candidate, baseline=baseline)


def _to_renew(plan: GatePlan) -> set[tuple[str, int]]:
    """Finished evaluations to repeat: older than a criterion allows, or made unlike their counterpart."""
    renew: set[tuple[str, int]] = set()
    now = timezone.now()
    pairs: dict[int, dict[str, PlannedEvaluation]] = {}
    for planned in plan.evaluations:
        pairs.setdefault(planned.dataset_version.pk, {})[planned.role] = planned
        run = planned.run
        if run is not None and run.finished_at is not None and now - run.finished_at > planned.max_age:
            renew.add((planned.release.digest, planned.dataset_version.pk))
    for version_pk, pair in pairs.items():
        if len(pair) < 2 or any(one.run is None or one.run.is_active for one in pair.values()):
            continue
        first, second = pair["baseline"].run, pair["candidate"].run
        assert first is not None and second is not None
        timed = any(one.latency_items for one in pair.values())
        if environment_difference(first, second, timed=timed):
            # The older one is repeated, under the conditions of today.
            older = min(
                pair.values(), key=lambda one: one.run.finished_at if one.run and one.run.finished_at else now
            )
            renew.add((older.release.digest, version_pk))
    return renew


# Facts of a run's environment that change scores, and those that change times as well.
_SCORING_FACTS = ("engine", "device", "dtype", "torch", "transformers")
_TIMING_FACTS = ("threads", "cpu_model", "cpu_cores")


def environment_difference(first: Run, second: Run, *, timed: bool) -> str:
    """In what the conditions of two runs differ, as words; empty when they agree where both say something."""
    facts = (*_SCORING_FACTS, *(_TIMING_FACTS if timed else ()))
    differences = [
        f"{name.replace('_', ' ')} {first.environment[name]} against {second.environment[name]}"
        for name in facts
        if name in first.environment
        and name in second.environment
        and first.environment[name] != second.environment[name]
    ]
    return ", ".join(differences)


def inputs_digest(plan: GatePlan) -> str:
    """What a verdict depends on: gate, subjects, rules and the finished runs behind it (not the time)."""
    runs = {
        f"{planned.role}:{planned.dataset_version.dataset.slug}": str(planned.run.pk)
        for planned in plan.evaluations
        if planned.run is not None and planned.run.status == Run.Status.SUCCEEDED
    }
    return digest(
        {
            "gate": plan.gate.digest,
            "gate_version": plan.gate.version,
            "candidate": plan.candidate.digest,
            "baseline": plan.baseline.digest,
            "method": METHOD,
            "runs": runs,
        }
    )
