"""What a gate decides from finished runs, and when its verdict stops counting."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from core.evidence.models import CriterionVerdict, GateVerdict
from core.evidence.verdicts import CriterionSpec, PairedSample, decide_gate
from core.security.actor import SYSTEM, use_actor
from inference import evaluations
from inference.gates import (
    gate_as_dict,
    gate_report_document,
    gate_revise,
    gate_verdict_compute,
    gate_verdict_current,
    gate_verdict_latest,
    gate_verdict_settle,
    raw_numbers,
)
from inference.models import Dataset
from tests.inference.gate_data import (
    ENVIRONMENT,
    World,
    damaged,
    finish_run,
    healthy,
    make_dataset,
    make_world,
)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _as_system() -> Any:
    with use_actor(SYSTEM):
        yield


def decide(world: World) -> GateVerdict:
    return gate_verdict_compute(gate=world.gate, candidate=world.candidate, baseline=world.baseline)


def run_both(world: World, candidate: Any, baseline: Any = healthy, **options: Any) -> None:
    version = world.versions["questions"]
    finish_run(world.baseline, version, baseline, **options)
    finish_run(world.candidate, version, candidate, **options)


def test_an_identical_candidate_passes() -> None:
    world = make_world()
    run_both(world, healthy)
    verdict = decide(world)
    assert verdict.status == "pass", [row.sentence for row in verdict.criteria.all()]
    assert {row.comparison for row in verdict.criteria.all()} <= {"non-inferior", "better"}


def test_damage_that_accuracy_misses_fails_and_names_metric_slice_items_and_playbook() -> None:
    world = make_world()
    run_both(world, damaged)
    verdict = decide(world)
    rows = {row.criterion.metric: row for row in verdict.criteria.all()}
    assert verdict.status == "fail"
    assert rows["accuracy"].status == "pass"
    failed = rows["nll_gold"]
    assert failed.status == "fail" and failed.comparison == "regression"
    assert failed.attribution["slices"][0]["slice"] == "length:long"
    named = failed.attribution["items"][0]["key"]
    for part in ("NLL of the gold answer", "length:long", named, "rollback"):
        assert part in verdict.sentence, verdict.sentence


def test_missing_evidence_is_not_run_and_not_a_pass() -> None:
    world = make_world()
    finish_run(world.baseline, world.versions["questions"], healthy)
    verdict = decide(world)
    assert verdict.status == "not_run"
    assert {row.status for row in verdict.criteria.all()} == {"not_run"}
    assert gate_verdict_current(verdict) == ("not_run", [])


def test_unfinished_runs_are_no_evidence() -> None:
    world = make_world()
    run_both(world, healthy, status="running", items=30)
    settled = gate_verdict_settle(gate=world.gate, candidate=world.candidate, baseline=world.baseline)
    assert settled is None
    assert decide(world).status == "not_run"


def test_nan_from_the_candidate_fails_and_says_so() -> None:
    world = make_world()
    run_both(world, lambda i: {**healthy(i), "nll_gold": None if i == 7 else 2.0})
    row = decide(world).criteria.get(criterion__metric="nll_gold")
    assert row.status == "fail"
    assert "no finite number" in row.sentence and "questions-0007" in row.sentence


def test_items_only_one_release_has_keep_a_pass_away() -> None:
    world = make_world()
    version = world.versions["questions"]
    finish_run(world.baseline, version, healthy)
    finish_run(world.candidate, version, healthy, items=100)
    assert decide(world).status == "inconclusive"


def test_the_same_evidence_gives_the_same_row() -> None:
    world = make_world()
    run_both(world, damaged)
    assert decide(world).pk == decide(world).pk
    assert GateVerdict.objects.count() == 1
    assert CriterionVerdict.objects.count() == 2


def test_advice_does_not_fail_the_gate() -> None:
    world = make_world(
        [
            {"metric": "accuracy", "dataset": "questions", "rule": {"margin": 0.05}},
            {"metric": "nll_gold", "dataset": "questions", "rule": {"margin": 0.05}, "severity": "advisory"},
        ]
    )
    run_both(world, damaged)
    verdict = decide(world)
    assert verdict.status == "pass"
    assert verdict.criteria.get(criterion__metric="nll_gold").status == "fail"


def test_twice_the_latency_stays_below_the_default_margin() -> None:
    rule = {"margin": 1.0, "scale": "ratio", "statistic": "p95"}
    world = make_world([{"metric": "latency_ms", "dataset": "questions", "rule": rule}])
    version = world.versions["questions"]
    for release, factor in ((world.baseline, 1.0), (world.candidate, 1.6)):
        finish_run(
            release, version, healthy, latency_items=60, latency_ms=lambda i, f=factor: f * (100 + i % 9)
        )
    row = decide(world).criteria.get()
    assert (row.status, row.n) == ("pass", 60), row.sentence


def test_a_slice_has_its_own_verdict() -> None:
    world = make_world(
        [
            {
                "metric": "nll_gold",
                "dataset": "questions",
                "slice": "length:long",
                "rule": {"margin": 0.2},
            }
        ]
    )
    run_both(world, damaged)
    row = decide(world).criteria.get()
    assert (row.status, row.n) == ("fail", 60)


def test_a_bound_needs_only_the_candidate() -> None:
    rule = {"type": "bound", "bound": 0.5, "op": ">="}
    world = make_world([{"metric": "accuracy", "dataset": "questions", "rule": rule}])
    finish_run(world.candidate, world.versions["questions"], healthy)
    row = decide(world).criteria.get()
    assert row.status == "pass", row.sentence
    assert row.baseline_value is None


# ------------------------------------------------------------------ staleness
def passed(world: World, **options: Any) -> GateVerdict:
    run_both(world, healthy, **options)
    verdict = decide(world)
    assert gate_verdict_current(verdict) == ("pass", [])
    return verdict


def test_stale_when_the_gate_changes() -> None:
    world = make_world()
    verdict = passed(world)
    changed = gate_as_dict(world.gate)
    changed["criteria"][0]["rule"]["margin"] = 0.04
    gate_revise(**changed)
    status, reasons = gate_verdict_current(verdict)
    assert status == "stale" and "version 2" in reasons[0]


def test_not_stale_when_only_the_title_of_the_gate_changes() -> None:
    world = make_world()
    verdict = passed(world)
    gate_revise(**{**gate_as_dict(world.gate), "title": "Better title"})
    assert gate_verdict_current(verdict) == ("pass", [])


def test_stale_when_the_dataset_has_a_newer_version() -> None:
    world = make_world()
    verdict = passed(world)
    make_dataset("questions", Dataset.Kind.MULTIPLE_CHOICE, 40, version=2)
    status, reasons = gate_verdict_current(verdict)
    assert status == "stale" and "questions has a newer version (2)" in reasons[0]


def test_stale_when_the_evidence_is_too_old() -> None:
    world = make_world()
    verdict = passed(world)
    status, reasons = gate_verdict_current(verdict, timezone.now() + timedelta(days=31))
    assert status == "stale" and "too old" in reasons[0] and "31 days" in reasons[0]


def test_evidence_too_old_when_decided_is_stale_at_once() -> None:
    world = make_world()
    run_both(world, healthy, days_ago=45)
    assert decide(world).status == "stale"


def test_stale_when_the_scoring_code_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    verdict = passed(world)
    monkeypatch.setattr("inference.gate_verdicts.code_version", lambda: "sha256:other")
    status, reasons = gate_verdict_current(verdict)
    assert status == "stale" and "scoring code" in reasons[0]
    assert evaluations.code_version() != "sha256:other"


def test_stale_when_the_releases_ran_under_unlike_conditions() -> None:
    world = make_world()
    version = world.versions["questions"]
    finish_run(world.baseline, version, healthy)
    finish_run(world.candidate, version, healthy, environment={**ENVIRONMENT, "dtype": "bfloat16"})
    verdict = decide(world)
    assert verdict.status == "stale"
    status, reasons = gate_verdict_current(verdict)
    assert status == "stale" and "float32" in " ".join(reasons) and "bfloat16" in " ".join(reasons)


# ------------------------------------------------------------------ dossier
def test_verdicts_can_be_recomputed_from_the_raw_numbers() -> None:
    world = make_world()
    run_both(world, damaged)
    verdict = decide(world)
    document = gate_report_document(verdict)
    raw = raw_numbers(verdict)
    assert set(raw) == {"questions-accuracy", "questions-nll_gold"}
    report = document["gate_report"]
    again = decide_gate(
        [CriterionSpec.from_dict(one) for one in document["gate"]["criteria"]],
        {key: PairedSample.from_raw(value) for key, value in raw.items()},
        now=verdict.computed_at,
        ages=report["ages"],
        seed=report["seed"],
        resamples=report["resamples"],
    )
    assert again.status == "fail"
    assert [one.p_adjusted for one in again.criteria] == [
        pytest.approx(one["p_adjusted"]) for one in report["criteria"]
    ]


def test_latest_verdict_is_of_this_pair_only() -> None:
    world = make_world()
    verdict = passed(world)
    found = gate_verdict_latest(
        gate_slug="assistant-quality",
        candidate_digest=world.candidate.digest,
        baseline_digest=world.baseline.digest,
    )
    assert found == verdict
    assert (
        gate_verdict_latest(
            gate_slug="assistant-quality",
            candidate_digest=world.baseline.digest,
            baseline_digest=world.candidate.digest,
        )
        is None
    )
