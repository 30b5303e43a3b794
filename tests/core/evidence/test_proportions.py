"""Intervals of one share, Holm, and their refusals."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from core.evidence.statistics import InsufficientEvidence, clopper_pearson_interval, holm, wilson_interval

COUNTS = [(0, 1), (1, 1), (0, 20), (20, 20), (123, 200), (1, 3270), (3269, 3270)]


@pytest.mark.parametrize(("k", "n"), COUNTS)
@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
def test_intervals_agree_with_scipy_and_statsmodels(k: int, n: int, level: float) -> None:
    for ours, scipy_name, statsmodels_name in (
        (wilson_interval, "wilson", "wilson"),
        (clopper_pearson_interval, "exact", "beta"),
    ):
        interval = ours(k, n, level=level)
        expected = stats.binomtest(k, n).proportion_ci(level, scipy_name)
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
        second = proportion_confint(k, n, 1 - level, statsmodels_name)
        assert (interval.low, interval.high) == pytest.approx(second, abs=1e-9)
        assert interval.level == level


def test_wilson_is_where_the_score_test_turns() -> None:
    """The definition: the shares p for which |k/n - p| is within z standard errors under p."""
    interval = wilson_interval(7, 30, level=0.9)
    for p in (interval.low, interval.high):
        assert abs(7 / 30 - p) / math.sqrt(p * (1 - p) / 30) == pytest.approx(stats.norm.ppf(0.95))


def test_exact_interval_is_where_the_binomial_tail_is_alpha() -> None:
    low, high, _ = clopper_pearson_interval(7, 30, level=0.9)
    assert sum(math.comb(30, k) * low**k * (1 - low) ** (30 - k) for k in range(7, 31)) == pytest.approx(0.05)
    assert sum(math.comb(30, k) * high**k * (1 - high) ** (30 - k) for k in range(8)) == pytest.approx(0.05)


def test_rule_of_three_by_hand() -> None:
    assert clopper_pearson_interval(0, 59, level=0.9).high == pytest.approx(1 - 0.05 ** (1 / 59))


@given(n=st.integers(1, 500), data=st.data(), level=st.floats(0.5, 0.99))
def test_intervals_hold_the_share_and_are_never_of_width_zero(
    n: int, data: st.DataObject, level: float
) -> None:
    k = data.draw(st.integers(0, n))
    for interval in (wilson_interval(k, n, level=level), clopper_pearson_interval(k, n, level=level)):
        assert 0 <= interval.low <= k / n <= interval.high <= 1
        assert interval.high - interval.low > 0
        mirrored = wilson_interval(n - k, n, level=level)
        assert wilson_interval(k, n, level=level).low == pytest.approx(1 - mirrored.high)


@pytest.mark.parametrize("interval", [wilson_interval, clopper_pearson_interval])
def test_a_share_of_nothing_is_not_zero(interval: object) -> None:
    assert callable(interval)
    with pytest.raises(InsufficientEvidence, match="n = 0"):
        interval(0, 0)


@pytest.mark.parametrize(
    ("k", "n", "level"), [(-1, 5, 0.9), (6, 5, 0.9), (1.5, 5, 0.9), (1, 5, 0), (1, 5, 1)]
)
def test_counts_and_levels_that_cannot_be_are_refused(k: float, n: int, level: float) -> None:
    with pytest.raises(ValueError, match=r"successes|level"):
        wilson_interval(k, n, level=level)  # type: ignore[arg-type]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_agrees_with_statsmodels(values: list[float]) -> None:
    assert holm(values) == pytest.approx(list(multipletests(values, method="holm")[1]))


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 gives 0.04, 0.06, 0.06, 0.04, then never falling.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])


def test_holm_of_nothing_or_of_no_probability_is_refused() -> None:
    with pytest.raises(InsufficientEvidence):
        holm([])
    with pytest.raises(ValueError, match="p-value"):
        holm([0.1, math.nan])
