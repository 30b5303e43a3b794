"""Gates over evaluations: versions of criteria, the plan of a check, its runs and its verdict.

The path is always the same, from the page, REST and the command line: `gate_plan` says what has to be
measured and what that can detect, `gate_check_start` starts or reuses the runs, `gate_verdict_compute` pairs
their items and asks the pure rules of `core.evidence.verdicts`. Documented in docs/design/gates.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import NormalDist
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Count
from django.utils import timezone

from core.audit.services import audit_record
from core.errors import Conflict, Invalid, NotFound
from core.evidence.models import Criterion, CriterionVerdict, Gate, GateVerdict, Run, RunItem
from core.evidence.statistics import (
    paired_binary_detectable,
    paired_binary_power,
    paired_continuous_detectable,
    paired_continuous_power,
    percentile_n_needed,
)
from core.evidence.verdicts import (
    METHOD,
    CriterionReport,
    CriterionSpec,
    GateReport,
    PairedSample,
    UnpairedMeasurement,
    criterion_plan_sentence,
    decide_gate,
)
from core.security.actor import SYSTEM, current_actor, use_actor
from core.security.canonical import digest
from core.security.permissions import require
from inference.comparison import BINARY_METRICS
from inference.errors import EvaluationInvalid
from inference.evaluations import (
    LATENCY_ITEMS,
    EvaluationPlan,
    code_version,
    evaluation_plan,
    evaluation_request,
)
from inference.gate_criteria import FIELDS, SLUG, criteria_clean
from inference.models import Dataset, DatasetVersion, Product, Release


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


def gate_create(
    *,
    slug: str,
    title: str,
    criteria: Sequence[Mapping[str, Any]],
    description: str = "",
    alpha: float = 0.05,
) -> Gate:
    """The first version of a gate. Raises Invalid (messages by field) or Conflict when the slug is taken."""
    require("gate.edit")
    content = _content_clean(slug=slug, title=title, criteria=criteria, description=description, alpha=alpha)
    if Gate.objects.filter(slug=content.slug).exists():
        raise Conflict(
            f"There is already a gate {content.slug}. Edit it (that makes its next version) or choose "
            "another short name.",
            fields={"slug": ["This short name is taken."]},
        )
    return _version_add(content, version=1, action="gate.created")


def gate_revise(
    *,
    slug: str,
    title: str,
    criteria: Sequence[Mapping[str, Any]],
    description: str = "",
    alpha: float = 0.05,
) -> Gate:
    """The next version of a gate, or the current one when nothing changed. Raises Invalid or NotFound.

    Verdicts of the version before go stale when the rules differ, not when only words do.
    """
    require("gate.edit")
    content = _content_clean(slug=slug, title=title, criteria=criteria, description=description, alpha=alpha)
    current = gate_get(slug)
    if (current.digest, current.title, current.description) == (
        content.digest,
        content.title,
        content.description,
    ):
        return current
    return _version_add(content, version=current.version + 1, action="gate.revised")


def gate_get(slug: str, *, version: int | None = None) -> Gate:
    """The newest version of a gate, or the one asked for. Raises NotFound naming what exists."""
    versions = Gate.objects.filter(slug=slug)
    found = (
        (versions.filter(version=version) if version is not None else versions).order_by("-version").first()
    )
    if found is None:
        known = sorted(set(Gate.objects.values_list("slug", flat=True)))
        wanted = slug if version is None else f"{slug} version {version}"
        raise NotFound(f"There is no gate {wanted}. There are: {', '.join(known) or 'none yet'}.")
    return found


def gate_as_dict(gate: Gate) -> dict[str, Any]:
    """The gate as `--gate file.json`, REST and the edit form take it."""
    return {
        "slug": gate.slug,
        "title": gate.title,
        "description": gate.description,
        "alpha": gate.alpha,
        "criteria": [criterion_as_dict(criterion) for criterion in gate.criteria.all()],
    }


def criterion_as_dict(criterion: Criterion) -> dict[str, Any]:
    """Every field a criterion is written with."""
    return {name: getattr(criterion, name) for name in FIELDS}


@dataclass(frozen=True, slots=True)
class _Content:
    slug: str
    title: str
    description: str
    alpha: float
    criteria: list[dict[str, Any]]
    digest: str


def _content_clean(*, slug: str, title: str, criteria: Any, description: str, alpha: Any) -> _Content:
    """Everything a version holds, checked. Raises Invalid with a message per field."""
    errors: dict[str, list[str]] = {}
    slug, title, description = str(slug).strip(), str(title).strip(), str(description).strip()
    if not SLUG.match(slug):
        errors["slug"] = [f"{slug!r} is not a short name: lower-case letters, digits, - and _, at most 80."]
    if not 1 <= len(title) <= 120:
        errors["title"] = [f"Give a title of 1 to 120 characters, got {len(title)}."]
    if len(description) > 4000:
        errors["description"] = [f"At most 4,000 characters, got {len(description):,}."]
    try:
        level = float(alpha)
    except (TypeError, ValueError):
        level = math.nan
    if not 0 < level < 0.5:
        errors["alpha"] = [f"Must lie between 0 and 0.5, got {alpha!r}."]
    datasets = dict(Dataset.objects.values_list("slug", "kind"))
    cleaned, criterion_errors = criteria_clean(
        list(criteria) if isinstance(criteria, Sequence) and not isinstance(criteria, str) else criteria,
        datasets=datasets,
    )
    errors.update(criterion_errors)
    if errors:
        count = sum(len(messages) for messages in errors.values())
        first = next(iter(errors.items()))
        raise Invalid(
            f"The gate was not saved: {count} {'field is' if count == 1 else 'fields are'} not valid. "
            f"First, {first[0]}: {first[1][0]}",
            fields=errors,
        )
    return _Content(
        slug=slug,
        title=title,
        description=description,
        alpha=level,
        criteria=cleaned,
        digest=digest({"alpha": level, "criteria": cleaned}),
    )


def _version_add(content: _Content, *, version: int, action: str) -> Gate:
    try:
        with transaction.atomic():
            gate = Gate.objects.create(
                slug=content.slug,
                version=version,
                title=content.title,
                description=content.description,
                digest=content.digest,
                alpha=content.alpha,
                created_by_label=current_actor().label,
            )
            Criterion.objects.bulk_create(
                Criterion(gate=gate, ordinal=ordinal, **fields)
                for ordinal, fields in enumerate(content.criteria)
            )
            audit_record(
                action,
                target=gate,
                data={
                    "slug": gate.slug,
                    "version": version,
                    "digest": gate.digest,
                    "criteria": [fields["key"] for fields in content.criteria],
                },
            )
    except IntegrityError as error:
        raise Conflict(
            f"Somebody saved version {version} of {content.slug} a moment ago. Look at it, then save again."
        ) from error
    return gate


# ------------------------------------------------------------------ the default gate
# Declared margins of the default gate. NLL margins are small because NLL is measured to a few thousandths
# where accuracy is known to a few hundredths (docs/design/gates.md gives the figures behind each).
ACCURACY_MARGIN = 0.05
NLL_MARGIN = 0.05
# Latency and cost are measured on shared machines: the margin of 100 % leaves room for noisy neighbours, and
# both are advisory.
LATENCY_MARGIN = 1.0
COST_MARGIN = 1.0


def default_criteria(
    datasets: Iterable[Dataset], *, sample_size: int = 200, playbook: str = ""
) -> list[dict[str, Any]]:
    """Criteria that catch a damaged model on these datasets: accuracy or exact match beside NLL canaries."""
    ordered = sorted(datasets, key=lambda dataset: dataset.slug)
    criteria: list[dict[str, Any]] = []

    def compare(dataset: Dataset, metric: str, margin: float, **more: Any) -> None:
        rule = {"type": "non_inferiority", "margin": margin, **more.pop("rule", {})}
        criteria.append(
            {
                "metric": metric,
                "dataset": dataset.slug,
                "rule": rule,
                "sample_size": sample_size,
                "playbook": playbook,
                **more,
            }
        )

    for dataset in ordered:
        if dataset.kind == Dataset.Kind.MULTIPLE_CHOICE:
            compare(dataset, "accuracy", ACCURACY_MARGIN)
            compare(dataset, "nll_gold", NLL_MARGIN)
        elif dataset.kind == Dataset.Kind.GENERATION:
            compare(dataset, "exact_match", ACCURACY_MARGIN)
        elif dataset.kind == Dataset.Kind.REFERENCE:
            compare(dataset, "nll_gold", NLL_MARGIN)
        else:
            compare(dataset, "nll_text", NLL_MARGIN)
    timed = next((d for d in ordered if d.kind == Dataset.Kind.GENERATION), ordered[0] if ordered else None)
    if timed is not None:
        compare(
            timed,
            "latency_ms",
            LATENCY_MARGIN,
            rule={"scale": "ratio", "statistic": "p95"},
            severity="advisory",
        )
        compare(timed, "cost_usd", COST_MARGIN, rule={"scale": "ratio"}, severity="advisory")
    return criteria


def gate_default(
    *, product: Product, datasets: Iterable[Dataset], sample_size: int = 200, playbook: str = ""
) -> Gate:
    """Create (or bring up to date) the quality gate `<product>-quality` over these datasets."""
    slug = f"{product.slug}-quality"
    content = {
        "slug": slug,
        "title": f"Quality of {product.name}"[:120],
        "criteria": default_criteria(datasets, sample_size=sample_size, playbook=playbook),
        "description": "Accuracy beside its NLL canaries on every dataset; latency and cost as advice.",
    }
    if Gate.objects.filter(slug=slug).exists():
        return gate_revise(**content)
    return gate_create(**content)


def gate_for_product(product: Product) -> Gate:
    """The product's own gate: `<product>-quality`, else the only gate there is. Raises NotFound."""
    own = Gate.objects.filter(slug=f"{product.slug}-quality").order_by("-version").first()
    if own is not None:
        return own
    slugs = sorted(set(Gate.objects.values_list("slug", flat=True)))
    if len(slugs) == 1:
        return gate_get(slugs[0])
    raise NotFound(
        f"{product.name} has no gate {product.slug}-quality. Name one of: {', '.join(slugs) or 'none yet'}."
    )


# ------------------------------------------------------------------ before the run
# Declared assumptions of the power stated before there is any data on the pair: share of items that flip
# either way, and standard deviation of an item's change in nats per token.
ASSUMED_DISCORDANCE = 0.10
ASSUMED_SD = {"nll_gold": 0.20, "nll_text": 0.05}


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
    """What a criterion with `n` pairs can detect: from the last verdict on the same metric and dataset if there is
    one (of this baseline, if it has one), else from the declared assumptions.
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
_TIMED = ("latency_ms", "cost_usd", "tokens_per_s")
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
    timed = [criterion for criterion in criteria if criterion.metric in _TIMED]
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
        verdict=GateVerdict.objects.filter(gate=gate, inputs_digest=_inputs_digest(plan))
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


# ------------------------------------------------------------------ the verdict
def _inputs_digest(plan: GatePlan) -> str:
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


def gate_verdict_compute(
    *, gate: Gate, candidate: Release, baseline: Release, now: datetime | None = None
) -> GateVerdict:
    """Judge the gate from finished runs and keep the verdict; the same inputs give the row that is there.

    A criterion whose evidence is missing is `not_run`; that is a verdict too, and it does not pass. Evidence
    that is too old, or made under unlike conditions, is `stale`.
    """
    now = now or timezone.now()
    plan = gate_plan(gate, candidate, baseline)
    inputs = _inputs_digest(plan)
    found = GateVerdict.objects.filter(gate=gate, inputs_digest=inputs).first()
    if found is not None:
        return found
    pairs = _run_pairs(plan)
    criteria = list(gate.criteria.all())
    evidence = _Evidence()
    samples: dict[str, PairedSample | UnpairedMeasurement | None] = {}
    ages: dict[str, float | datetime | None] = {}
    stale: dict[str, str] = {}
    for criterion in criteria:
        before, after = pairs.get(criterion.dataset, (None, None))
        samples[criterion.key] = evidence.sample(criterion, before, after)
        ages[criterion.key] = _evidence_at(criterion, before, after)
        if before is not None and after is not None and criterion.rule.get("type") == "non_inferiority":
            unlike = environment_difference(before, after, timed=criterion.metric in _TIMED)
            if unlike:
                stale[criterion.key] = f"baseline and candidate ran under unlike conditions ({unlike})"
    report = decide_gate(
        [criterion_spec(criterion) for criterion in criteria],
        samples,
        now=now,
        ages=ages,
        # From the inputs, so that nobody can try seeds until one pleases.
        seed=int(inputs.rpartition(":")[2][:8], 16),
        stale=stale,
    )
    return _verdict_store(plan, report, inputs=inputs, pairs=pairs, ages=ages)


def _run_pairs(plan: GatePlan) -> dict[str, tuple[Run | None, Run | None]]:
    """Dataset slug to (baseline run, candidate run), succeeded ones only."""
    pairs: dict[str, tuple[Run | None, Run | None]] = {}
    for planned in plan.evaluations:
        slug = planned.dataset_version.dataset.slug
        before, after = pairs.get(slug, (None, None))
        run = planned.run if planned.run is not None and planned.run.status == Run.Status.SUCCEEDED else None
        pairs[slug] = (run, after) if planned.role == "baseline" else (before, run)
    return pairs


def _evidence_at(criterion: Criterion, before: Run | None, after: Run | None) -> datetime | None:
    """When the oldest run behind a criterion finished; a bound rests on the candidate alone."""
    needed = [after] if criterion.rule.get("type") == "bound" else [before, after]
    times = [run.finished_at for run in needed if run is not None and run.finished_at is not None]
    return min(times) if times else None


class _Evidence:
    """Builds the samples of a gate; the items of a run are read once for all its criteria."""

    def __init__(self) -> None:
        self._rows: dict[Any, dict[str, RunItem]] = {}

    def _items(self, run: Run) -> dict[str, RunItem]:
        if run.pk not in self._rows:
            items = run.items.defer("output").order_by("ordinal")
            self._rows[run.pk] = {item.key: item for item in items}
        return self._rows[run.pk]

    def sample(self, criterion: Criterion, before: Run | None, after: Run | None) -> PairedSample | None:
        """The items behind a criterion through both runs; None when a run it needs is not there."""
        bound = criterion.rule.get("type") == "bound"
        if after is None or (before is None and not bound):
            return None
        candidate = self._items(after)
        baseline = self._items(before) if before is not None else {}
        keys = list(candidate)
        if not bound:
            # An item only one run has is "not measured" in the other, which keeps a pass from being given.
            keys += [key for key in baseline if key not in candidate]
        metric = criterion.metric
        if metric in _TIMED:
            # Only some items are timed; those are compared.
            keys = [
                key
                for key in keys
                if key in candidate
                and _has(candidate[key], metric)
                and (bound or (key in baseline and _has(baseline[key], metric)))
            ]
        return PairedSample(
            keys=keys,
            baseline=[raw_value(baseline.get(key), metric) for key in keys],
            candidate=[raw_value(candidate.get(key), metric) for key in keys],
            slices=[tuple((candidate.get(key) or baseline[key]).slices) for key in keys],
            kind="binary" if metric in BINARY_METRICS else "continuous",
        )


def _has(item: RunItem, metric: str) -> bool:
    return raw_value(item, metric) is not None


def raw_value(item: RunItem | None, metric: str) -> float | None:
    """An item's value for the rules: None is "not measured", NaN is "the model gave no finite number"."""
    if item is None:
        return None
    if metric == "latency_ms" and metric not in item.metrics:
        return item.latency_ms
    if metric not in item.metrics:
        return None
    value = item.metrics[metric]
    return math.nan if value is None else float(value)


def _verdict_store(
    plan: GatePlan,
    report: GateReport,
    *,
    inputs: str,
    pairs: Mapping[str, tuple[Run | None, Run | None]],
    ages: Mapping[str, float | datetime | None],
) -> GateVerdict:
    criteria = {criterion.key: criterion for criterion in plan.gate.criteria.all()}
    used = sorted({run.pk for pair in pairs.values() for run in pair if run is not None}, key=str)
    try:
        with transaction.atomic():
            verdict = GateVerdict.objects.create(
                gate=plan.gate,
                candidate_digest=plan.candidate.digest,
                candidate_label=str(plan.candidate),
                baseline_digest=plan.baseline.digest,
                baseline_label=str(plan.baseline),
                status=report.status,
                sentence=verdict_sentence(report),
                inputs_digest=inputs,
                run_ids=used,
                report=report.to_dict(),
            )
            CriterionVerdict.objects.bulk_create(
                _criterion_row(verdict, criteria[one.key], one, report, pairs, ages)
                for one in report.criteria
            )
            audit_record(
                "gate.decided",
                target=verdict,
                data={
                    "gate": plan.gate.slug,
                    "version": plan.gate.version,
                    "candidate": plan.candidate.digest,
                    "baseline": plan.baseline.digest,
                    "status": report.status,
                    "inputs_digest": inputs,
                },
            )
    except IntegrityError:
        # Somebody decided the same a moment ago (constraint gate_verdict_once_per_inputs).
        return GateVerdict.objects.get(gate=plan.gate, inputs_digest=inputs)
    return verdict


def _criterion_row(
    verdict: GateVerdict,
    criterion: Criterion,
    one: CriterionReport,
    report: GateReport,
    pairs: Mapping[str, tuple[Run | None, Run | None]],
    ages: Mapping[str, float | datetime | None],
) -> CriterionVerdict:
    before, after = pairs.get(criterion.dataset, (None, None))
    at = ages.get(criterion.key)
    return CriterionVerdict(
        gate_verdict=verdict,
        criterion=criterion,
        status=one.status,
        comparison=one.comparison,
        sentence=one.sentence,
        baseline_value=one.baseline,
        candidate_value=one.candidate,
        observed=one.observed,
        low=one.low,
        high=one.high,
        level=one.level if one.level is not None else 1 - 2 * criterion.alpha,
        n=one.n,
        p_value=one.p_value,
        p_adjusted=one.p_adjusted,
        power=one.power_at_margin,
        mde=one.detectable,
        method=one.method[:120],
        attribution=dict(one.attribution),
        # Baseline first; one entry for a bound without a baseline.
        run_ids=[run.pk for run in (before, after) if run is not None],
        evidence_at=at if isinstance(at, datetime) else None,
    )


def verdict_sentence(report: GateReport) -> str:
    """The gate's sentence; a failing one adds metric, slice and items that lost most, and the playbook."""
    if report.status != "fail":
        return report.sentence
    failed = [one for one in report.criteria if one.status == "fail" and one.severity == "blocking"]
    worst = min(failed, key=lambda one: (1.0 if one.p_adjusted is None else one.p_adjusted, one.key))
    # Broken numbers have no p-value and are worse than any regression.
    worst = next((one for one in failed if one.attribution.get("not_finite")), worst)
    slices = worst.attribution.get("slices") or []
    items = worst.attribution.get("not_finite") or [
        row["key"] for row in worst.attribution.get("items") or []
    ]
    parts = [f"Worst: {worst.title}"]
    if slices:
        parts.append(f"slice {slices[0]['slice']}")
    if items:
        parts.append("items " + ", ".join(str(key) for key in items[:3]))
    playbooks = sorted({one.playbook for one in failed if one.playbook})
    follow = f" Follow the playbook {', '.join(playbooks)}." if playbooks else ""
    return f"{report.sentence} {'; '.join(parts)}.{follow}"


def gate_verdict_settle(*, gate: Gate, candidate: Release, baseline: Release) -> GateVerdict | None:
    """Decide once all evidence is there; None while runs are missing or under way.

    A verdict follows from the evidence alone, so whoever looks first may cause it: it is recorded as
    Signoff's.
    """
    check = gate_check_view(gate=gate, candidate=candidate, baseline=baseline)
    if check.verdict is not None:
        return check.verdict
    if check.missing or check.active or not check.runs:
        return None
    with use_actor(SYSTEM):
        return gate_verdict_compute(gate=gate, candidate=candidate, baseline=baseline)


def gate_verdict_latest(
    *, gate_slug: str, candidate_digest: str, baseline_digest: str = ""
) -> GateVerdict | None:
    """The newest stored verdict of any version of the gate on this pair; None when there is none."""
    verdicts = GateVerdict.objects.filter(gate__slug=gate_slug, candidate_digest=candidate_digest)
    if baseline_digest:
        verdicts = verdicts.filter(baseline_digest=baseline_digest)
    return verdicts.select_related("gate").order_by("-computed_at").first()


def gate_verdict_current(gate_verdict: GateVerdict, now: datetime | None = None) -> tuple[str, list[str]]:
    """The verdict as it counts today: its own status, or `stale` with every reason as a sentence.

    Only evidence behind blocking criteria makes a gate stale. What was never run is not stale.
    """
    if gate_verdict.status == "not_run":
        return "not_run", []
    now = now or timezone.now()
    reasons = [
        *_stale_gate(gate_verdict),
        *_stale_evidence(gate_verdict, now),
    ]
    if gate_verdict.status == "stale" and not reasons:
        reasons = [f"{key}: {why}." for key, why in gate_verdict.report.get("stale", {}).items()]
    return ("stale", reasons) if reasons or gate_verdict.status == "stale" else (gate_verdict.status, [])


def _stale_gate(gate_verdict: GateVerdict) -> list[str]:
    reasons = []
    gate = gate_verdict.gate
    newest = Gate.objects.filter(slug=gate.slug).order_by("-version").first()
    if newest is not None and newest.digest != gate.digest:
        reasons.append(
            f"The gate {gate.slug} changed: version {newest.version} is in force and the verdict used "
            f"version {gate.version}."
        )
    if gate_verdict.report.get("method", METHOD) != METHOD:
        reasons.append("The rules that decide verdicts changed since.")
    return reasons


def _stale_evidence(gate_verdict: GateVerdict, now: datetime) -> list[str]:
    rows = [
        row
        for row in gate_verdict.criteria.select_related("criterion")
        if row.criterion.severity == Criterion.Severity.BLOCKING and row.status != "not_run"
    ]
    reasons = []
    versions = dataset_versions_latest({row.criterion.dataset for row in rows})
    runs = Run.objects.in_bulk(list(gate_verdict.run_ids))
    used = [run for row in rows for run_id in row.run_ids if (run := runs.get(run_id)) is not None]
    for slug in sorted({run.dataset_slug for run in used}):
        newest = versions.get(slug)
        if newest is not None and any(
            run.dataset_slug == slug and run.dataset_digest != newest.digest for run in used
        ):
            reasons.append(
                f"The dataset {slug} has a newer version ({newest.version}) than the one measured on."
            )
    if any(run.plan.get("code_version") not in (None, code_version()) for run in used):
        reasons.append("The scoring code changed since the evaluations ran.")
    expired = [
        row
        for row in rows
        if row.evidence_at is not None and now - row.evidence_at > timedelta(days=row.criterion.max_age_days)
    ]
    if expired:
        first = min(expired, key=lambda row: row.evidence_at or now)
        assert first.evidence_at is not None
        age = (now - first.evidence_at).days
        reasons.append(
            f"The evidence of {len(expired)} {'criterion' if len(expired) == 1 else 'criteria'} is too old: "
            f"{first.criterion.title} rests on a run of {age} days ago and allows "
            f"{first.criterion.max_age_days}."
        )
    return reasons


# ------------------------------------------------------------------ for the dossier
def raw_numbers(gate_verdict: GateVerdict) -> dict[str, dict[str, Any]]:
    """Criterion key to the raw document its verdict was computed from, for the dossier."""
    runs = Run.objects.in_bulk(list(gate_verdict.run_ids))
    evidence = _Evidence()
    raw: dict[str, dict[str, Any]] = {}
    for row in gate_verdict.criteria.select_related("criterion"):
        own = [runs[run_id] for run_id in row.run_ids if run_id in runs]
        after = next((run for run in own if run.subject_digest == gate_verdict.candidate_digest), None)
        before = next((run for run in own if run.subject_digest == gate_verdict.baseline_digest), None)
        sample = evidence.sample(row.criterion, before, after)
        if sample is not None:
            raw[row.criterion.key] = sample.to_raw()
    return raw


def gate_report_document(gate_verdict: GateVerdict) -> dict[str, Any]:
    """`gate` and `gate_report` of a dossier, as docs/design/dossier.md lays them out."""
    gate = gate_verdict.gate
    return {
        "gate": {
            "slug": gate.slug,
            "version": gate.version,
            "title": gate.title,
            "digest": gate.digest,
            "criteria": [criterion_spec(criterion).to_dict() for criterion in gate.criteria.all()],
        },
        "gate_report": gate_verdict.report,
    }
