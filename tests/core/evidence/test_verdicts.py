"""What a gate says about evidence of every kind, and how it explains itself."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.evidence.verdicts import (
    CriterionSpec,
    PairedSample,
    UnpairedMeasurement,
    Waiver,
    apply_waivers,
    criterion_plan_sentence,
    decide_gate,
)
from tests.core.evidence.cast import NOW, binary, bound, continuous, decide, non_inferior, random_gate, spec

RNG = np.random.default_rng(12)
NLL = RNG.lognormal(0.5, 0.6, 200)


def only(
    criterion: CriterionSpec, evidence: PairedSample | UnpairedMeasurement | None, **more: object
) -> object:
    return decide([criterion], {criterion.key: evidence}, **more).criteria[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("worse", "better", "n", "status", "comparison"),
    [
        (2, 2, 200, "pass", "non-inferior"),
        (1, 20, 200, "pass", "better"),
        (30, 4, 200, "fail", "regression"),
        (12, 9, 200, "inconclusive", "inconclusive"),
        (0, 0, 200, "pass", "non-inferior"),
        (0, 0, 20, "inconclusive", "inconclusive"),
        (1, 1, 2, "inconclusive", "inconclusive"),
        (25, 2, 2000, "pass", "non-inferior"),  # measurably worse, within the margin
    ],
)
def test_accuracy_verdicts(worse: int, better: int, n: int, status: str, comparison: str) -> None:
    report = only(spec(), binary(worse, better, n))
    assert (report.status, report.comparison) == (status, comparison)
    assert report.observed == pytest.approx((worse - better) / n)
    assert report.low < report.high


def test_lower_is_better_turns_the_comparison_round() -> None:
    rule = non_inferior(0.05, "lower_is_better")
    assert only(spec(rule=rule), binary(30, 4, 200)).comparison == "better"
    assert only(spec(rule=rule), binary(4, 30, 200)).comparison == "regression"


@pytest.mark.parametrize(
    ("harm", "status"), [(0.0, "pass"), (0.2, "fail"), (-0.2, "pass")], ids=["equal", "damaged", "improved"]
)
def test_nll_verdicts(harm: float, status: str) -> None:
    candidate = NLL + harm + np.random.default_rng(1).normal(0, 0.1, 200)
    report = only(spec("nll", non_inferior(0.05), metric="nll_gold"), continuous(NLL, candidate))
    assert report.status == status
    assert report.unit == "nats/token"


@pytest.mark.parametrize(
    ("direction", "factor", "status"),
    [
        ("lower_is_better", 1.02, "pass"),
        ("lower_is_better", 1.3, "fail"),
        ("higher_is_better", 0.98, "pass"),
        ("higher_is_better", 0.7, "fail"),
    ],
)
def test_ratio_verdicts_are_in_shares_of_the_baseline(direction: str, factor: float, status: str) -> None:
    noise = np.random.default_rng(2).lognormal(0, 0.05, 200)
    report = only(
        spec("latency", non_inferior(0.1, direction, "ratio"), metric="latency_ms"),
        continuous(NLL, NLL * factor * noise),
    )
    assert report.status == status
    expected = abs(factor - 1)
    assert report.observed == pytest.approx(expected, abs=0.02)
    assert report.low < report.observed < report.high


def test_percentile_criterion_needs_enough_items() -> None:
    rule = non_inferior(0.2, scale="ratio", statistic="p95")
    report = only(spec("p95", rule, metric="latency_ms"), continuous(NLL[:58], NLL[:58]))
    assert report.status == "inconclusive" and "at least 59 items" in report.sentence
    assert only(spec("p95", rule, metric="latency_ms"), continuous(NLL, NLL * 1.01)).status == "pass"


@pytest.mark.parametrize(
    ("op", "value", "status"),
    [
        (">=", 0.4, "pass"),
        (">=", 0.5, "inconclusive"),
        (">=", 0.7, "fail"),
        ("<=", 0.7, "pass"),
        ("<=", 0.4, "fail"),
    ],
)
def test_bound_on_a_share_is_decided_by_the_exact_interval(op: str, value: float, status: str) -> None:
    report = only(spec(rule=bound(op, value)), binary(0, 0, 200))
    assert report.status == status and report.comparison == ""
    assert report.low < 0.5 < report.high
    assert report.p_value is None


def test_bound_on_a_percentile_that_cannot_be_bounded_is_inconclusive() -> None:
    report = only(spec("p99", bound("<=", 1e9, statistic="p99"), metric="latency_ms"), continuous(NLL, NLL))
    assert report.status == "inconclusive" and report.high is None and "unbounded" in report.sentence


@pytest.mark.parametrize(
    ("measured", "status", "says"),
    [
        (UnpairedMeasurement(80, 75, 85, n=50), "pass", "whole interval"),
        (UnpairedMeasurement(80, 75, 110, n=50), "inconclusive", "reaches over"),
        (UnpairedMeasurement(180, 150, 210, n=50), "fail", "above"),
        (UnpairedMeasurement(80), "inconclusive", "without an interval"),
        (UnpairedMeasurement(80, 75, 85, level=0.5), "inconclusive", "at 50%"),
        (
            UnpairedMeasurement(80, stated=True, source="SOW 4.2"),
            "pass",
            "Stated, not measured (source: SOW 4.2)",
        ),
        (UnpairedMeasurement(math.nan, stated=True), "fail", "not a finite number"),
    ],
)
def test_single_values_against_a_bound(measured: UnpairedMeasurement, status: str, says: str) -> None:
    report = only(spec("cost", bound("<=", 100), metric="latency_ms"), measured)
    assert report.status == status and says in report.sentence


def test_a_single_value_is_not_a_comparison() -> None:
    assert only(spec(), UnpairedMeasurement(0.6, 0.5, 0.7)).status == "not_run"


# --- evidence that is damaged, missing or old ----------------------------------------------------------------


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf, 1e200])
def test_a_model_that_cannot_be_scored_fails_and_the_items_are_named(broken: float) -> None:
    candidate = [*NLL[:-2], broken, broken]
    report = only(spec("nll", non_inferior(0.05), metric="nll_gold"), continuous(NLL, candidate))
    assert report.status == "fail" and report.comparison == "regression"
    assert "on 2 items of 200, first item-198, item-199" in report.sentence
    assert "rollback-model" in report.sentence


def test_all_nan_fails_for_bounds_too() -> None:
    report = only(spec("nll", bound("<=", 3), metric="nll_gold"), continuous(NLL, [math.nan] * 200))
    assert report.status == "fail" and "200 items of 200" in report.sentence


def test_a_damaged_baseline_is_nobodys_regression() -> None:
    report = only(spec("nll", non_inferior(0.05)), continuous([math.nan, *NLL[1:]], [math.nan, *NLL[1:]]))
    assert report.status == "inconclusive" and "baseline" in report.sentence


def test_missing_items_are_said_and_do_not_pass() -> None:
    report = only(spec("nll", non_inferior(0.05)), continuous(NLL, [None, *NLL[1:]]))
    assert report.status == "inconclusive" and "1 item of 200 has no result" in report.sentence


def test_an_unfinished_run_does_not_pass() -> None:
    report = only(spec(), binary(1, 1, 200, complete=False))
    assert report.status == "inconclusive" and "did not finish" in report.sentence
    assert only(spec(), binary(60, 1, 200, complete=False)).status == "fail"


@pytest.mark.parametrize("evidence", [None, binary(0, 0, 0)])
def test_no_evidence_is_not_run(evidence: PairedSample | None) -> None:
    report = only(spec(), evidence)
    assert report.status == "not_run" and report.observed is None


def test_only_items_of_the_criterions_slice_count() -> None:
    sample = binary(30, 0, 100, slices=["law"] * 30 + ["medicine"] * 70)
    report = only(spec(slice="medicine"), sample)
    assert (report.n, report.status) == (70, "pass")
    assert only(spec(slice="law"), sample).status == "fail"
    assert only(spec(slice="poetry"), sample).status == "not_run"


@pytest.mark.parametrize(
    ("age", "status"),
    [(6.9, "pass"), (7.1, "stale"), (None, "stale"), (math.nan, "stale"), (NOW - timedelta(days=8), "stale")],
)
def test_evidence_expires(age: float | datetime | None, status: str) -> None:
    report = only(spec(max_age_days=7), binary(1, 1, 200), ages={"accuracy": age})
    assert report.status == status
    if status == "stale":
        assert report.n == 200  # the numbers stay visible


def test_changed_inputs_make_evidence_stale_and_say_why() -> None:
    report = only(spec(), binary(1, 1, 200), stale={"accuracy": "the dataset changed"})
    assert report.status == "stale" and "the dataset changed" in report.sentence


# --- the gate ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ({"good": "blocking"}, "pass"),
        ({"good": "blocking", "bad": "advisory"}, "pass"),
        ({"good": "blocking", "bad": "blocking", "none": "blocking"}, "fail"),
        ({"good": "blocking", "unclear": "blocking", "none": "blocking"}, "inconclusive"),
        ({"good": "blocking", "none": "blocking"}, "not_run"),
        ({"good": "advisory"}, "not_run"),
        ({}, "not_run"),
    ],
)
def test_gate_passes_only_when_every_blocking_criterion_passes(parts: dict[str, str], status: str) -> None:
    evidence = {
        "good": binary(1, 1, 200),
        "bad": binary(50, 1, 200),
        "unclear": binary(12, 9, 200),
        "none": None,
    }
    report = decide([spec(key, severity=severity) for key, severity in parts.items()], evidence)
    assert report.status == status
    assert all(
        key.capitalize() in report.sentence for key in parts if key in ("bad", "none") and status == "fail"
    )


def test_holm_spares_a_gate_one_unlucky_criterion() -> None:
    borderline = binary(13, 4, 120)  # p = 0.025 by itself
    alone = only(spec(), borderline)
    assert alone.status == "fail"
    crowd = {"accuracy": borderline, **{f"c{n}": binary(5, 5, 400) for n in range(5)}}
    report = decide([spec(key) for key in crowd], crowd).criterion("accuracy")
    assert report.status == "inconclusive"
    assert report.p_value == alone.p_value and report.p_adjusted == pytest.approx(6 * report.p_value)


def test_a_regression_explains_itself() -> None:
    slices = ["law"] * 30 + ["medicine"] * 170
    report = only(spec(owner_role="engineer"), binary(30, 4, 200, slices=slices))
    for words in (
        "regression",
        "on piqa",
        "against",
        "200 paired items",
        "13.0 points worse",
        "90% interval",
        "margin of 5.0 points",
        "after Holm",
        "Power at the margin",
        "planned 80%",
        "Worst slice: law (100.0 points worse, n=30",
        "30 items turned worse and 4 better",
        "item-0",
        "“rollback-model”",
        "engineer",
    ):
        assert words in report.sentence
    assert report.attribution["slices"][0]["slice"] == "law"
    assert len(report.attribution["items"]) == 10


def test_an_inconclusive_verdict_says_how_many_items_would_settle_it() -> None:
    report = only(spec(), binary(12, 9, 200))
    assert report.n_needed > 200 and f"{report.n_needed:,} items would settle it" in report.sentence


def test_same_seed_same_numbers() -> None:
    specs, samples, report = random_gate(4)
    again = decide_gate(specs, samples, now=NOW, ages=report.ages, seed=4, stale=report.stale)
    assert again == report


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6))
def test_any_gate_gets_words_and_json(seed: int) -> None:
    _, _, report = random_gate(seed, largest=40)
    json.dumps(report.to_dict(), allow_nan=False)
    for one in report.criteria:
        assert len(one.sentence) > 20 and one.sentence.endswith((".", "%"))
        assert "nan" not in one.sentence.replace("NaN", "") and "None" not in one.sentence


VALUES = st.one_of(st.none(), st.floats(), st.sampled_from([0.0, 1.0, 5e-324, 1e308, -1e100]))


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(VALUES, VALUES), max_size=8),
    st.sampled_from(
        [
            non_inferior(0.1),
            non_inferior(0.1, scale="ratio"),
            non_inferior(0.5, "higher_is_better", "ratio"),
            bound("<=", 1),
            bound(">=", 0, statistic="p50"),
            non_inferior(1e-9, statistic="p50"),
        ]
    ),
    st.booleans(),
)
def test_no_evidence_whatever_crashes_a_gate(pairs: list, rule: dict, clustered: bool) -> None:
    sample = continuous(
        [a for a, _ in pairs],
        [b for _, b in pairs],
        clusters=[str(i // 2) for i in range(len(pairs))] if clustered else None,
    )
    report = decide([spec(rule=rule, metric="nll_gold")], {"accuracy": sample}, resamples=199)
    json.dumps(report.to_dict(), allow_nan=False)
    if any(b is not None and not math.isfinite(b) for _, b in pairs):
        assert report.status != "pass"


# --- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"rule": {"type": "burn"}}, "rule type"),
        ({"rule": non_inferior(0)}, "margin"),
        ({"rule": non_inferior(math.nan)}, "margin"),
        ({"rule": non_inferior(1.5, "higher_is_better", "ratio")}, "below 1"),
        ({"rule": non_inferior(0.1, "up")}, "direction"),
        ({"rule": bound("==", 1)}, "op must"),
        ({"rule": bound("<=", math.inf)}, "bound"),
        ({"rule": bound("<=", 1, statistic="p42")}, "statistic"),
        ({"alpha": 0}, "alpha"),
        ({"power": 1}, "power"),
        ({"severity": "nice"}, "severity"),
        ({"max_age_days": -1}, "max_age_days"),
    ],
)
def test_a_criterion_that_makes_no_sense_is_refused_by_name(fields: dict, says: str) -> None:
    with pytest.raises(ValueError, match=f"Criterion 'accuracy'.*{says}"):
        spec(**fields)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PairedSample(["a"], [1.0], [1.0, 2.0]), "candidate must have one value per key"),
        (lambda: PairedSample(["a", "a"], [1.0, 1.0], [1.0, 1.0]), "distinct"),
        (lambda: PairedSample(["a"], [0.5], [1.0], kind="binary"), "0 or 1"),
        (lambda: PairedSample(["a"], [1.0], [1.0], slices=[["x"], ["y"]]), "slices"),
        (lambda: PairedSample(["a"], [1.0], [1.0], clusters=[]), "clusters"),
        (lambda: PairedSample(["a"], [1.0], [1.0], kind="odd"), "kind"),
        (lambda: decide([spec(), spec()], {}), "share a key"),
        (lambda: decide_gate([], {}, now=datetime(2026, 1, 1), ages={}, seed=1), "time zone"),
    ],
)
def test_programmers_mistakes_are_refused(make: object, says: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize("seed", range(6))
def test_specs_and_samples_survive_json(seed: int) -> None:
    specs, samples, _ = random_gate(seed)
    for one in specs:
        assert CriterionSpec.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    for evidence in samples.values():
        if evidence is not None:
            text = json.dumps(evidence.to_raw(), allow_nan=False)
            assert type(evidence).from_raw(json.loads(text)).to_raw() == evidence.to_raw()


# --- waivers and plans ---------------------------------------------------------------------------------------


def waiver(criterion: str = "bad", **more: object) -> Waiver:
    fields = {
        "reason": "Known, fixed in 1.3",
        "expires_at": NOW + timedelta(days=3),
        "approved_by": "bob",
        "requested_by": "alice",
    }
    return Waiver(criterion=criterion, **{**fields, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("waivers", "status_with", "refused"),
    [
        ([waiver()], "pass", ""),
        ([], "fail", ""),
        ([waiver(expires_at=NOW)], "fail", "expired 2026-03-01 12:00 UTC"),
        ([waiver(reason=" ")], "fail", "no reason"),
        ([waiver(approved_by="alice")], "fail", "requested it"),
        ([waiver("good")], "fail", "passes without it"),
        ([waiver("gone")], "fail", "no such criterion"),
    ],
)
def test_waivers_are_shown_beside_the_verdict_they_do_not_change(
    waivers: list[Waiver], status_with: str, refused: str
) -> None:
    report = decide([spec("good"), spec("bad")], {"good": binary(1, 1, 200), "bad": binary(50, 1, 200)})
    result = apply_waivers(report, waivers, NOW)
    assert (result.status, result.status_with_waivers) == ("fail", status_with)
    assert report.criterion("bad").status == "fail"
    assert refused in " ".join(why for _, why in result.refused)
    assert result.sentence.startswith("Without waivers: fail.")


def test_the_plan_says_before_the_run_what_it_can_show() -> None:
    text = criterion_plan_sentence(spec(), n=200, discordance=0.1)
    assert "200 paired items" in text and "plan more items" in text
    assert "plan more" not in criterion_plan_sentence(spec("nll", non_inferior(0.05)), n=200, sd=0.1)
    with pytest.raises(ValueError, match="either"):
        criterion_plan_sentence(spec(), n=200)
