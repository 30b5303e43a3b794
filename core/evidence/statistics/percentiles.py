"""Percentiles with intervals that assume nothing about the distribution, for latency and cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from core.evidence.statistics.distributions import binomial_cdf_all
from core.evidence.statistics.resampling import DEFAULT_RESAMPLES, Resampler
from core.evidence.statistics.types import (
    InsufficientEvidence,
    Interval,
    check_alpha,
    check_finite,
    check_level,
)

__all__ = [
    "PercentileTest",
    "paired_percentile_test",
    "percentile",
    "percentile_interval",
    "percentile_n_needed",
    "ratio_interval",
]


def _ordered(values: Sequence[float] | NDArray[np.float64], name: str = "values") -> NDArray[np.float64]:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape (n,), got {array.shape}.")
    if array.size == 0:
        raise InsufficientEvidence("There are no observations (n = 0), so there is no percentile to give.")
    check_finite(array, name)
    return np.sort(array)


def _rank(q: float, n: int) -> int:
    # The small term keeps 0.95 * 20 = 19.000000000000004 from becoming 20.
    return max(1, math.ceil(q * n - 1e-9))


def _check_q(q: float) -> None:
    if not 0 < q < 1:
        raise ValueError(f"q is a share strictly between 0 and 1 (0.95 for p95), got {q!r}.")


def percentile(values: Sequence[float] | NDArray[np.float64], q: float) -> float:
    """The smallest observed value that at least a share ``q`` of the observations do not exceed.

    Args:
        values: shape (n,), any unit.  q: in (0, 1); 0.95 is p95.
    Raises: InsufficientEvidence for no values; ValueError for q outside (0, 1) or a value that is not finite.
    Source: inverse of the empirical distribution, definition 1 of Hyndman and Fan (1996), numpy
    "inverted_cdf".
    """
    _check_q(q)
    ordered = _ordered(values)
    return float(ordered[_rank(q, len(ordered)) - 1])


def percentile_interval(
    values: Sequence[float] | NDArray[np.float64], q: float, *, level: float = 0.95
) -> Interval:
    """Distribution-free interval of a percentile between two order statistics.

    Each side's coverage is at least ``1 - (1 - level) / 2``. Where no observation is extreme enough the side
    is
    infinite: 20 observations cannot bound p99 from above (:func:`percentile_n_needed`).

    Arguments and errors as :func:`percentile`.
    Source: David and Nagaraja (2003), Order Statistics, section 7.1; ranks from the binomial distribution.
    """
    error = check_level(level)
    _check_q(q)
    ordered = _ordered(values)
    n = len(ordered)
    # P(X_(l) <= quantile) = P(Bin(n, q) >= l) and P(X_(u) >= quantile) >= P(Bin(n, q) <= u - 1).
    at_most = binomial_cdf_all(n, q)
    lower_ok = np.flatnonzero(at_most[:n] <= error + 1e-12) + 1  # l with P(Bin <= l - 1) <= error
    upper_ok = np.flatnonzero(at_most[:n] >= 1 - error - 1e-12) + 1
    low = float(ordered[lower_ok[-1] - 1]) if lower_ok.size else -math.inf
    high = float(ordered[upper_ok[0] - 1]) if upper_ok.size else math.inf
    return Interval(low, high, level)


def percentile_n_needed(q: float, *, alpha: float = 0.05) -> int:
    """Observations needed before the percentile has a one-sided upper bound at error alpha: p95 at 5% needs
    59."""
    _check_q(q)
    check_alpha(alpha)
    return math.ceil(math.log(alpha) / math.log(q) - 1e-9)


class PercentileTest:
    """Paired percentile bootstrap of a difference or log ratio of two percentiles (or means); see
    :func:`paired_percentile_test`. ``upper``, ``lower`` and the p-values are dual: they read the same
    resamples."""

    def __init__(self, estimate: float, draws: NDArray[np.float64], n: int) -> None:
        self.estimate = estimate
        self.n = n
        self._draws = np.sort(draws)

    def _ordered_draw(self, alpha: float) -> int:
        rank = int(alpha * (len(self._draws) + 1) + 1e-9)
        if rank < 1:
            raise ValueError(f"{len(self._draws)} resamples are too few for alpha = {alpha}.")
        return rank

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at error alpha."""
        return float(self._draws[len(self._draws) - self._ordered_draw(alpha)])

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at error alpha."""
        return float(self._draws[self._ordered_draw(alpha) - 1])

    def p_less(self, value: float) -> float:
        """p-value of the hypothesis that the statistic is ``value`` or more."""
        count = int(np.count_nonzero(self._draws >= value - 1e-9 * (1 + abs(value))))
        return (1 + count) / (len(self._draws) + 1)

    def p_greater(self, value: float) -> float:
        """p-value of the hypothesis that the statistic is ``value`` or less."""
        count = int(np.count_nonzero(self._draws <= value + 1e-9 * (1 + abs(value))))
        return (1 + count) / (len(self._draws) + 1)


def paired_percentile_test(
    first: Sequence[float] | NDArray[np.float64],
    second: Sequence[float] | NDArray[np.float64],
    *,
    resampler: Resampler,
    q: float | None,
    ratio: bool,
) -> PercentileTest:
    """Bootstrap of ``stat(first) - stat(second)``, or of ``log(stat(first) / stat(second))``, over paired
    items.

    Approximate: its level is good from about a hundred items for p95 (figures in docs/design/evidence.md).

    Args:
        first, second: shape (n,), the same items in the same order; positive when ``ratio``.
        q: the percentile as a share, or None for the mean.
    Raises:
        InsufficientEvidence: fewer than two items.
        ValueError: shapes differ, a value is not finite, or a ratio of values that are not positive.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"first and second must have the same shape (n,), got {a.shape} and {b.shape}.")
    if a.size < 2:
        raise InsufficientEvidence(f"A paired comparison needs at least two items, got {a.size}.")
    check_finite(a, "first")
    check_finite(b, "second")
    if ratio and (a.min() <= 0 or b.min() <= 0):
        raise ValueError("A ratio needs values above 0 throughout.")
    if q is not None:
        _check_q(q)

    def value(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        if q is None:
            return np.asarray(rows.mean(axis=-1))
        position = _rank(q, rows.shape[-1]) - 1
        return np.asarray(np.partition(rows, position, axis=-1)[..., position])

    def statistic(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.log(value(x) / value(y)) if ratio else value(x) - value(y)

    draws = np.concatenate([statistic(a[rows], b[rows]) for rows in resampler.chunks(len(a))])
    return PercentileTest(float(statistic(a, b)), draws, len(a))


def ratio_interval(
    candidate: Sequence[float] | NDArray[np.float64],
    baseline: Sequence[float] | NDArray[np.float64],
    *,
    seed: int,
    q: float | None = None,
    level: float = 0.95,
    resamples: int = DEFAULT_RESAMPLES,
) -> tuple[float, Interval]:
    """Ratio candidate / baseline of the mean (``q=None``) or of a percentile, with its paired bootstrap
    interval.

    For latency (ms) and cost (USD): 1.08 is 8% more than the baseline. Arguments and errors as
    :func:`paired_percentile_test`.
    """
    error = check_level(level)
    test = paired_percentile_test(candidate, baseline, resampler=Resampler(seed, resamples), q=q, ratio=True)
    return math.exp(test.estimate), Interval(math.exp(test.lower(error)), math.exp(test.upper(error)), level)
