"""Percentiles, their distribution-free intervals and ratios."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from core.evidence.statistics import (
    InsufficientEvidence,
    Resampler,
    paired_percentile_test,
    percentile,
    percentile_interval,
    percentile_n_needed,
    ratio_interval,
)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_percentile_agrees_with_numpy(values: list[float], q: float) -> None:
    # numpy takes 0.95 * 20 as 19.000000000000004 in some versions; the definition decides there.
    expected = sorted(values)[math.ceil(round(q * len(values), 9)) - 1]
    assert percentile(values, q) == expected
    if abs(q * len(values) - round(q * len(values))) > 1e-6:
        assert expected == np.quantile(values, q, method="inverted_cdf")


@pytest.mark.parametrize(("n", "q"), [(30, 0.5), (100, 0.95), (200, 0.9), (500, 0.99)])
def test_order_statistics_cover_by_the_binomial(n: int, q: float) -> None:
    """The ranks taken cover with the level, and the next ones inwards would not."""
    interval = percentile_interval(np.arange(1, n + 1), q, level=0.9)
    if math.isfinite(interval.low):
        low = int(interval.low)
        assert stats.binom.sf(low - 1, n, q) >= 0.95 > stats.binom.sf(low, n, q)
    if math.isfinite(interval.high):
        high = int(interval.high)
        assert stats.binom.cdf(high - 1, n, q) >= 0.95 > stats.binom.cdf(high - 2, n, q)


def test_interval_covers_the_true_percentile_of_a_skewed_distribution() -> None:
    rng, q = np.random.default_rng(1), 0.9
    truth = float(np.exp(stats.norm.ppf(q)))
    hits = [percentile_interval(rng.lognormal(size=80), q, level=0.9) for _ in range(1000)]
    missed_low = sum(interval.low > truth for interval in hits)
    missed_high = sum(interval.high < truth for interval in hits)
    limit = stats.binom.ppf(0.9999, 1000, 0.05)
    assert missed_low <= limit and missed_high <= limit


def test_twenty_observations_do_not_bound_p99() -> None:
    assert percentile_interval(range(20), 0.99).high == math.inf
    assert percentile_n_needed(0.95) == 59
    assert percentile_interval(range(59), 0.95, level=0.9).high == 58
    assert percentile_interval(range(58), 0.95, level=0.9).high == math.inf


def test_ratio_of_latency() -> None:
    rng = np.random.default_rng(3)
    base = rng.lognormal(3, 0.3, 300)
    slower = base * 1.2 * rng.lognormal(0, 0.05, 300)
    for q in (None, 0.5, 0.95):
        ratio, interval = ratio_interval(slower, base, seed=5, q=q, level=0.999)
        assert interval.low < 1.2 < interval.high
        assert interval.low <= ratio <= interval.high
    back, _ = ratio_interval(base, slower, seed=5)
    assert back == pytest.approx(slower.mean() ** -1 * base.mean())


def test_percentile_bounds_and_p_values_agree() -> None:
    rng = np.random.default_rng(4)
    test = paired_percentile_test(
        rng.lognormal(size=90), rng.lognormal(size=90), resampler=Resampler(2, 499), q=0.9, ratio=True
    )
    for point in np.linspace(test.lower(0.01) - 0.1, test.upper(0.01) + 0.1, 41):
        assert (test.p_less(point) <= 0.05) == (test.upper(0.05) < point)
        assert (test.p_greater(point) <= 0.05) == (test.lower(0.05) > point)


@pytest.mark.parametrize("call", [lambda: percentile([], 0.5), lambda: percentile_interval([], 0.5)])
def test_percentile_of_nothing_is_no_evidence(call: object) -> None:
    assert callable(call)
    with pytest.raises(InsufficientEvidence):
        call()


def test_percentiles_refuse_what_they_cannot_mean() -> None:
    with pytest.raises(ValueError, match=r"0\.95 for p95"):
        percentile([1.0], 95)
    with pytest.raises(ValueError, match="not finite"):
        percentile([1.0, math.nan], 0.5)
    with pytest.raises(ValueError, match="above 0"):
        ratio_interval([0.0, 1.0], [1.0, 1.0], seed=1)
    with pytest.raises(ValueError, match="same shape"):
        ratio_interval([1.0], [1.0, 1.0], seed=1)
