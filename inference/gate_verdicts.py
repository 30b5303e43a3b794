"""Deciding a gate from finished runs, and whether a verdict still counts (rules: core.evidence.verdicts)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from core.audit.services import audit_record
from core.evidence.models import Criterion, CriterionVerdict, Gate, GateVerdict, Run, RunItem
from core.evidence.verdicts import (
    METHOD,
    CriterionReport,
    GateReport,
    PairedSample,
    UnpairedMeasurement,
    decide_gate,
)
from core.security.actor import SYSTEM, use_actor
from inference.comparison import BINARY_METRICS
from inference.evaluations import code_version
from inference.gate_planning import (
    TIMED_METRICS,
    GatePlan,
    criterion_spec,
    dataset_versions_latest,
    environment_difference,
    gate_check_view,
    gate_plan,
    inputs_digest,
)
from inference.models import Release


# ------------------------------------------------------------------ the verdict
def gate_verdict_compute(
    *, gate: Gate, candidate: Release, baseline: Release, now: datetime | None = None
) -> GateVerdict:
    """Judge the gate from finished runs and keep the verdict; the same inputs give the row that is there.

    A criterion whose evidence is missing is `not_run`; that is a verdict too, and it does not pass. Evidence
    that is too old, or made under unlike conditions, is `stale`.
    """
    now = now or timezone.now()
    plan = gate_plan(gate, candidate, baseline)
    inputs = inputs_digest(plan)
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
            unlike = environment_difference(before, after, timed=criterion.metric in TIMED_METRICS)
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
        if metric in TIMED_METRICS:
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
