"""Power and detectable differences, against simulation of the very tests that decide."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from core.evidence.statistics import (
    BinaryTest,
    InsufficientEvidence,
    mcnemar_exact,
    paired_binary_detectable,
    paired_binary_n_needed,
    paired_binary_power,
    paired_continuous_detectable,
    paired_continuous_n_needed,
    paired_continuous_power,
)


def outcomes(n: int, worse: float, better: float) -> list[tuple[float, int, int]]:
    """Every outcome that matters, with its probability."""
    discordant = stats.binom.pmf(range(n + 1), n, worse + better)
    return [
        (discordant[m] * stats.binom.pmf(b, m, worse / (worse + better)), b, m - b)
        for m in range(n + 1)
        if discordant[m] > 1e-9
        for b in range(m + 1)
    ]


@pytest.mark.parametrize(("n", "discordance", "margin"), [(50, 0.1, 0.1), (100, 0.2, 0.1), (150, 0.1, 0.05)])
def test_binary_power_agrees_with_enumeration(n: int, discordance: float, margin: float) -> None:
    exact = sum(
        p
        for p, b, c in outcomes(n, discordance / 2, discordance / 2)
        if BinaryTest(b, c, n).p_less(margin) <= 0.05
    )
    assert paired_binary_power(n, discordance=discordance, margin=margin) == pytest.approx(exact, abs=0.06)


@pytest.mark.parametrize(("n", "discordance"), [(100, 0.2), (200, 0.1), (150, 0.3)])
def test_detectable_worsening_is_detected_with_the_power(n: int, discordance: float) -> None:
    found = paired_binary_detectable(n, discordance=discordance)
    assert found is not None
    flips = max(discordance, found)
    exact = sum(
        p
        for p, b, c in outcomes(n, (flips + found) / 2, (flips - found) / 2 + 1e-12)
        if mcnemar_exact(b, c, alternative="worse") <= 0.05
    )
    assert exact == pytest.approx(0.8, abs=0.05)


def test_three_items_cannot_detect_anything() -> None:
    assert paired_binary_detectable(3, discordance=0.1) is None


def test_continuous_power_is_that_of_students_t() -> None:
    rng = np.random.default_rng(1)
    samples = rng.normal(0, 0.2, size=(20000, 40))
    t = (samples.mean(axis=1) - 0.08) / (samples.std(axis=1, ddof=1) / np.sqrt(40))
    simulated = float((t <= stats.t.ppf(0.05, 39)).mean())
    assert paired_continuous_power(40, sd=0.2, margin=0.08) == pytest.approx(simulated, abs=0.012)


def test_detectable_mean_is_detected_with_the_power() -> None:
    found = paired_continuous_detectable(40, sd=0.2)
    power = 1 - stats.nct.cdf(stats.t.ppf(0.95, 39), 39, found * np.sqrt(40) / 0.2)
    assert power == pytest.approx(0.8, abs=0.01)


def test_items_needed_is_the_smallest_n_that_is_enough() -> None:
    n = paired_binary_n_needed(discordance=0.1, margin=0.05)
    assert n is not None
    assert paired_binary_power(n, discordance=0.1, margin=0.05) >= 0.8
    assert paired_binary_power(n - 1, discordance=0.1, margin=0.05) < 0.8
    n = paired_continuous_n_needed(sd=0.2, margin=0.05)
    assert n is not None
    assert (
        paired_continuous_power(n, sd=0.2, margin=0.05)
        >= 0.8
        > paired_continuous_power(n - 1, sd=0.2, margin=0.05)
    )


def test_an_impossible_plan_has_no_number_of_items() -> None:
    assert paired_continuous_n_needed(sd=1000.0, margin=0.01) is None


def test_power_of_nothing_is_refused() -> None:
    with pytest.raises(InsufficientEvidence):
        paired_binary_power(0, discordance=0.1, margin=0.05)
    with pytest.raises(InsufficientEvidence):
        paired_continuous_power(1, sd=1, margin=1)
    with pytest.raises(ValueError, match="discordance"):
        paired_binary_power(10, discordance=0, margin=0.05)
    with pytest.raises(ValueError, match="sd"):
        paired_continuous_power(10, sd=0, margin=0.05)
