"""Paired tests: against published examples, statsmodels, scipy and their definitions written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar

from core.evidence.statistics import (
    BinaryTest,
    InsufficientEvidence,
    Resampler,
    log_ratio_test,
    mcnemar_exact,
    mean_test,
    non_inferiority_binary,
    non_inferiority_continuous,
    tango_interval,
    tango_score,
)

FLIPS = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 200)).map(
    lambda t: (t[0], t[1], t[0] + t[1] + t[2])
)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 7), (25, 6), (5, 5), (0, 9), (300, 250)])
def test_mcnemar_agrees_with_statsmodels_and_the_binomial(b: int, c: int) -> None:
    assert mcnemar_exact(b, c) == pytest.approx(float(mcnemar([[0, b], [c, 0]], exact=True).pvalue))
    if b + c:
        expected = stats.binomtest(b, b + c, 0.5, alternative="greater").pvalue
        assert mcnemar_exact(b, c, alternative="worse") == pytest.approx(expected)


def test_mcnemar_published_example() -> None:
    # Airway hyper-responsiveness, 21 children: 1 and 7 changed. Fagerland et al. 2013: exact 0.070, mid-p 0.039.
    assert mcnemar_exact(1, 7) == pytest.approx(0.0703125)
    assert mcnemar_exact(1, 7, mid_p=True) == pytest.approx(0.0390625)


def test_mid_p_takes_half_of_what_was_observed() -> None:
    whole, half = (mcnemar_exact(6, 2, alternative="worse", mid_p=flag) for flag in (False, True))
    assert whole - half == pytest.approx(0.5 * math.comb(8, 2) / 2**8)


def test_tango_published_example() -> None:
    # The same children; Tango's 95% interval is given as -0.517 to -0.026.
    low, high, _ = tango_interval(1, 7, 21)
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)


@pytest.mark.parametrize(
    ("b", "c", "n", "delta"), [(9, 3, 60, 0.05), (0, 4, 30, 0.1), (5, 0, 40, -0.2), (0, 0, 25, 0.1)]
)
def test_tango_score_is_the_definition(b: int, c: int, n: int, delta: float) -> None:
    """Constrained likelihood maximised numerically, then the difference over its standard error."""

    def minus_log_likelihood(q: float) -> float:
        cells = ((b, q + delta), (c, q), (n - b - c, 1 - 2 * q - delta))
        return -sum(count * math.log(max(p, 1e-300)) for count, p in cells if count)

    start = max(0.0, -delta)
    best = optimize.minimize_scalar(
        minus_log_likelihood, bounds=(start, (1 - delta) / 2), method="bounded", options={"xatol": 1e-13}
    ).x
    se = math.sqrt((2 * best + delta - delta**2) / n)
    assert tango_score(b, c, n, delta) == pytest.approx(((b - c) / n - delta) / se, abs=1e-4)


@given(FLIPS, st.sampled_from([0.8, 0.9, 0.95]))
def test_tango_limits_are_where_the_score_is_z(flips: tuple[int, int, int], level: float) -> None:
    b, c, n = flips
    low, high, _ = tango_interval(b, c, n, level=level)
    assert low <= (b - c) / n <= high
    assert tango_interval(c, b, n, level=level).low == pytest.approx(-high, abs=1e-9)
    if high < 0.999:
        assert tango_score(b, c, n, high) == pytest.approx(stats.norm.ppf((1 - level) / 2), abs=1e-6)


@given(FLIPS, st.floats(0.01, 0.5), st.sampled_from([0.01, 0.05, 0.1]))
def test_binary_intervals_and_p_values_agree(
    flips: tuple[int, int, int], margin: float, alpha: float
) -> None:
    test = BinaryTest(*flips)
    if abs(test.upper(alpha) - margin) > 1e-9:
        assert (test.p_less(margin) <= alpha) == (test.upper(alpha) < margin)
    assert test.p_greater(0) <= alpha or test.lower(alpha) <= 0
    assert test.p_greater(0) > alpha or test.lower(alpha) >= 0
    assert test.lower(alpha) <= test.estimate <= test.upper(alpha)


@pytest.mark.parametrize("n", [20, 45, 100])
@pytest.mark.parametrize("margin", [0.03, 0.1])
@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_binary_non_inferiority_passes_a_candidate_at_the_margin_at_most_alpha(
    n: int, margin: float, alpha: float
) -> None:
    """Exact, by enumerating every outcome, for discordances from the smallest possible to 60%."""
    outcomes = [(b, c) for b in range(n + 1) for c in range(n + 1 - b)]
    passing = np.array([(b, c) for b, c in outcomes if BinaryTest(b, c, n).p_less(margin) <= alpha])
    if not len(passing):
        return
    for discordance in np.linspace(margin, 0.6, 9):
        worse, better = (discordance + margin) / 2, (discordance - margin) / 2
        cells = np.column_stack([passing, n - passing.sum(axis=1)])
        assert stats.multinomial.pmf(cells, n, [worse, better, 1 - discordance]).sum() <= alpha


def test_impossible_counts_are_refused_and_no_items_are_no_evidence() -> None:
    with pytest.raises(InsufficientEvidence):
        tango_interval(0, 0, 0)
    with pytest.raises(ValueError, match="successes"):
        tango_interval(5, 5, 9)
    with pytest.raises(ValueError, match="b must be"):
        mcnemar_exact(-1, 2)
    with pytest.raises(ValueError, match="alternative"):
        mcnemar_exact(1, 2, alternative="less")
    with pytest.raises(ValueError, match="margin"):
        non_inferiority_binary(1, 2, 9, margin=0)


# --- means -------------------------------------------------------------------------------------------------


@given(
    st.lists(st.floats(-5, 5).map(lambda x: round(x, 3)), min_size=2, max_size=25),
    st.floats(-2, 2),
    st.sampled_from([0.025, 0.05, 0.1]),
)
def test_mean_intervals_and_p_values_agree(values: list[float], point: float, alpha: float) -> None:
    test = mean_test(values, resampler=Resampler(3, 199))
    if abs(test.upper(alpha) - point) > 1e-6 and abs(test.lower(alpha) - point) > 1e-6:
        assert (test.p_less(point) <= alpha) == (test.upper(alpha) < point)
        assert (test.p_greater(point) <= alpha) == (test.lower(alpha) > point)
    assert test.lower(alpha) < test.estimate < test.upper(alpha)


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=15), st.floats(0.1, 100), st.floats(-50, 50))
def test_mean_test_follows_a_change_of_unit_and_origin(
    values: list[float], factor: float, shift: float
) -> None:
    array = np.round(np.array(values), 2)
    if np.ptp(array) < 0.01:
        return
    plain = mean_test(array, resampler=Resampler(3, 99))
    moved = mean_test(array * factor + shift, resampler=Resampler(3, 99))
    assert moved.upper(0.05) == pytest.approx(plain.upper(0.05) * factor + shift, rel=1e-6, abs=1e-6)


def test_mean_test_turned_round_is_mirrored() -> None:
    values = np.random.default_rng(2).lognormal(size=40)
    test, mirrored = (mean_test(sign * values, resampler=Resampler(4, 499)) for sign in (1, -1))
    assert test.upper(0.05) == pytest.approx(-mirrored.lower(0.05))
    assert test.p_greater(1.0) == pytest.approx(mirrored.p_less(-1.0))


def test_mean_test_is_never_less_careful_than_student() -> None:
    values = np.random.default_rng(5).normal(0.2, 1, 60)
    test = mean_test(values, resampler=Resampler(6))
    student = stats.ttest_1samp(values, -0.3, alternative="greater")
    assert test.p_greater(-0.3) >= student.pvalue
    assert test.upper(0.05) == pytest.approx(
        values.mean() + stats.t.ppf(0.95, 59) * stats.sem(values), rel=0.2
    )


def test_studentised_resamples_are_the_definition() -> None:
    """Each resample's t written out by hand for a small skewed sample."""
    values = np.array([0.1, 0.2, 0.25, 0.3, 2.0, 0.15])
    resampler = Resampler(9, 39)
    n, mean = len(values), values.mean()
    se = values.std(ddof=1) / math.sqrt(n)
    floor = se**2 / n
    drawn = []
    for row in np.concatenate(list(resampler.chunks(n))):
        resample = values[row]
        drawn.append((resample.mean() - mean) / math.sqrt(resample.var(ddof=1) / n + floor))
    guard = (values.max() - mean) / n  # skew above 0.5: the whole of it
    quantile = min(sorted(drawn)[2 - 1], stats.t.ppf(0.05, n - 1))  # rank 0.05 * 40 = 2
    assert mean_test(values, resampler=resampler).upper(0.05) == pytest.approx(
        mean + guard - quantile * math.sqrt(se**2 + floor)
    )


def test_identical_outputs_pass_with_an_interval_that_has_width() -> None:
    test = mean_test([0.0] * 200, resampler=Resampler(1), scale=2.0)
    assert test.upper(0.05) == pytest.approx((1 - 0.05 ** (1 / 200)) * 2.0)
    assert test.lower(0.05) < 0 < test.upper(0.05)
    assert test.p_less(test.upper(0.05)) == pytest.approx(0.05)


def test_one_cluster_per_item_is_the_same_as_no_clusters() -> None:
    values = np.random.default_rng(1).exponential(size=30)
    plain = mean_test(values, resampler=Resampler(2, 199))
    single = mean_test(values, resampler=Resampler(2, 199), clusters=list(range(30)))
    assert single.upper(0.05) == pytest.approx(plain.upper(0.05))


def test_clustered_standard_error_is_the_pairwise_definition() -> None:
    """Sum of products of residuals over all pairs of items in the same cluster."""
    rng = np.random.default_rng(3)
    clusters = [row // 4 for row in range(40)]
    values = rng.normal(size=10)[clusters] + rng.normal(size=40) * 0.3
    residual = values - values.mean()
    pairs = sum(residual[i] * residual[j] for i in range(40) for j in range(40) if clusters[i] == clusters[j])
    test = mean_test(values, resampler=Resampler(2, 99), clusters=clusters)
    assert test.standard_error == pytest.approx(math.sqrt(pairs * 10 / 9) / 40)
    assert test.standard_error > 1.5 * mean_test(values, resampler=Resampler(2, 99)).standard_error


def test_log_ratio_of_means() -> None:
    rng = np.random.default_rng(8)
    base = rng.lognormal(3, 0.4, 150)
    slower = base * 1.1 * rng.lognormal(0, 0.05, 150)
    test = log_ratio_test(slower, base, resampler=Resampler(1))
    assert test.estimate == pytest.approx(math.log(slower.mean() / base.mean()))
    assert math.log(1.08) < test.lower(0.05) < test.upper(0.05) < math.log(1.12)
    # Delta method written out: the influence of an item on log mean(a) - log mean(b).
    influence = slower / slower.mean() - base / base.mean()
    assert test.standard_error == pytest.approx(influence.std(ddof=1) / math.sqrt(150))


def test_means_of_too_little_or_of_no_numbers_are_refused() -> None:
    resampler = Resampler(1, 99)
    for values in ([], [1.0]):
        with pytest.raises(InsufficientEvidence):
            mean_test(values, resampler=resampler)
    with pytest.raises(ValueError, match="not finite"):
        mean_test([1.0, math.nan], resampler=resampler)
    with pytest.raises(ValueError, match="above 0"):
        log_ratio_test([1.0, 0.0], [1.0, 1.0], resampler=resampler)
    with pytest.raises(ValueError, match="one label per item"):
        mean_test([1.0, 2.0], resampler=resampler, clusters=["a"])
    with pytest.raises(ValueError, match="margin"):
        non_inferiority_continuous([1.0, 2.0], margin=0, seed=1)


def test_non_inferiority_shortcuts_give_p_and_bound() -> None:
    p, upper = non_inferiority_binary(10, 10, 400, margin=0.05)
    assert p < 0.05 and upper < 0.05
    p, upper = non_inferiority_continuous(np.random.default_rng(1).normal(0, 0.1, 50), margin=0.05, seed=1)
    assert p < 0.05 and upper < 0.05
