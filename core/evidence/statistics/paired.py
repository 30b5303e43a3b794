"""Paired comparisons: the same items through baseline and candidate.

Three tests share one shape: ``estimate``, ``upper(alpha)``, ``lower(alpha)``, ``p_less(value)`` (evidence
that the truth is below ``value``) and ``p_greater(value)``. Throughout, a *worsening* is positive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.evidence.statistics.distributions import (
    binomial_cdf,
    normal_cdf,
    normal_quantile,
    t_cdf,
    t_quantile,
)
from core.evidence.statistics.resampling import Resampler, group_sums
from core.evidence.statistics.types import (
    InsufficientEvidence,
    Interval,
    check_alpha,
    check_count,
    check_finite,
    check_level,
)

__all__ = [
    "CONTINUITY",
    "BinaryTest",
    "MeanTest",
    "log_ratio_test",
    "mcnemar_exact",
    "mean_test",
    "non_inferiority_binary",
    "non_inferiority_continuous",
    "tango_bound",
    "tango_interval",
    "tango_score",
]

CONTINUITY = 0.5
"""Correction, in items, of the score test that decides a gate: without it the test passes up to 7% of damaged
candidates at a stated 5% when few items disagree; with it never more than 5% (enumerated;
docs/design/evidence.md)."""


def mcnemar_exact(b: int, c: int, *, alternative: str = "two-sided", mid_p: bool = False) -> float:
    """Exact McNemar test: are the items that changed split evenly between worse and better?

    Args:
        b: items right with the baseline and wrong with the candidate.
        c: items wrong with the baseline and right with the candidate.
        alternative: ``worse`` (b exceeds c), ``better`` or ``two-sided``.
        mid_p: count half of the probability of what was observed; nearer the level, but may exceed it.
    Returns: the p-value; 1.0 when no item changed, which is no evidence of a change.
    Raises: ValueError for negative counts or an unknown alternative.
    Source: McNemar (1947), Psychometrika 12, 153-157; Fagerland, Lydersen and Laake (2013), BMC Med. Res.
    Methodol.
    13:91; statsmodels ``mcnemar(exact=True)``.
    """
    for name, value in (("b", b), ("c", c)):
        if int(value) != value or value < 0:
            raise ValueError(f"{name} must be a whole number of at least 0, got {value!r}.")
    m = b + c
    if alternative not in ("two-sided", "worse", "better"):
        raise ValueError(f"alternative must be two-sided, worse or better, got {alternative!r}.")
    if m == 0:
        return 1.0
    k = {"worse": c, "better": b}.get(alternative, min(b, c))
    tail = binomial_cdf(k, m, 0.5)  # P(Bin(m, 1/2) <= k)
    point = math.exp(math.lgamma(m + 1) - math.lgamma(k + 1) - math.lgamma(m - k + 1) - m * math.log(2))
    if alternative == "two-sided":
        return min(1.0, 2 * tail - point) if mid_p else min(1.0, 2 * tail)
    return tail - 0.5 * point if mid_p else tail


def tango_score(b: int, c: int, n: int, difference: float, *, continuity: float = 0.0) -> float:
    """Tango's score statistic for the hypothesis that the share b/n - c/n is ``difference`` in truth.

    Standardised with the variance at the maximum-likelihood estimate *under the hypothesis*; about standard
    normal. ``continuity`` (items) is added to the numerator: positive values make small statistics, hence
    passing, rarer.

    Raises: InsufficientEvidence for n = 0; ValueError for impossible counts or a difference outside (-1, 1).
    Source: Tango (1998), Statistics in Medicine 17, 891-908.
    """
    check_count(b + c, n)
    if not -1 < difference < 1:
        raise ValueError(f"difference must lie strictly between -1 and 1, got {difference!r}.")
    linear = -(b + c) + difference * (2 * n - b + c)
    constant = -c * difference * (1 - difference)
    share = (-linear + math.sqrt(max(0.0, linear * linear - 8 * n * constant))) / (
        4 * n
    )  # P(better) under the hypothesis
    variance = n * (2 * share + difference - difference * difference)
    numerator = b - c - n * difference + continuity
    if variance <= 1e-12 * n:
        return 0.0 if abs(numerator) < 1e-12 else math.copysign(math.inf, numerator)
    return numerator / math.sqrt(variance)


def tango_bound(b: int, c: int, n: int, *, alpha: float, continuity: float = 0.0) -> float:
    """One-sided upper bound, at error alpha, of the worsening (b - c) / n: where the score equals -z.

    By bisection to 1e-12. Errors as :func:`tango_score`. The lower bound is ``-tango_bound(c, b, n, ...)``.
    """
    check_alpha(alpha)
    check_count(b + c, n)
    z = normal_quantile(alpha)
    low, high = (b - c) / n, 1.0
    if low >= 1:
        return 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if middle >= 1 or middle <= -1:
            break
        if tango_score(b, c, n, middle, continuity=continuity) <= z:
            high = middle
        else:
            low = middle
    return high


def tango_interval(b: int, c: int, n: int, *, level: float = 0.95, continuity: float = 0.0) -> Interval:
    """Score interval for the paired difference of shares b/n - c/n, in (-1, 1).

    Args:
        b, c: discordant counts as in :func:`mcnemar_exact`.  n: all pairs, agreeing ones included.
        continuity: 0 is Tango's interval; gates use :data:`CONTINUITY`.
    Raises: InsufficientEvidence for n = 0; ValueError for impossible counts or level.
    Source: Tango (1998).
    """
    error = check_level(level)
    return Interval(
        -tango_bound(c, b, n, alpha=error, continuity=continuity),
        tango_bound(b, c, n, alpha=error, continuity=continuity),
        level,
    )


@dataclass(frozen=True)
class BinaryTest:
    """Paired right/wrong items. ``estimate`` is the worsening of the share, (b - c) / n.

    Below a margin: Tango's score test with continuity correction. Above zero: exact McNemar. So that the two
    never contradict each other on the page, the lower bound is held at or below 0 unless McNemar rejects (and
    at or above 0 when it does).
    """

    b: int
    c: int
    n: int

    def __post_init__(self) -> None:
        check_count(self.b + self.c, self.n)

    @property
    def estimate(self) -> float:
        return (self.b - self.c) / self.n

    @property
    def sd(self) -> float:
        """Standard deviation of one item's difference, from the discordance with one item added so it is not
        0."""
        return math.sqrt((self.b + self.c + 1) / (self.n + 2))

    def upper(self, alpha: float) -> float:
        return -BinaryTest(self.c, self.b, self.n).lower(alpha)

    def lower(self, alpha: float) -> float:
        bound = -tango_bound(self.c, self.b, self.n, alpha=alpha, continuity=CONTINUITY)
        significant = mcnemar_exact(self.b, self.c, alternative="worse") <= alpha + 1e-12
        return max(bound, 0.0) if significant else min(bound, 0.0)

    def p_less(self, value: float) -> float:
        if value == 0:
            return mcnemar_exact(self.b, self.c, alternative="better")
        if not -1 < value < 1:  # a difference of shares cannot leave [-1, 1]
            return 0.0 if value >= 1 else 1.0
        return normal_cdf(tango_score(self.b, self.c, self.n, value, continuity=CONTINUITY))

    def p_greater(self, value: float) -> float:
        return BinaryTest(self.c, self.b, self.n).p_less(-value)


class MeanTest:
    """Studentised (cluster) bootstrap of a mean or log ratio of means, guarded by Student's t and by the
    worst item.

    Made by :func:`mean_test` and :func:`log_ratio_test`. ``upper`` is the largest of what the bootstrap-t and
    Student's t say, moved out by what one more item like the worst one seen would add when the sample is
    skewed towards worse; p-values are the larger of the two tests' with the same shift, so intervals and
    p-values agree.
    """

    def __init__(
        self,
        estimate: float,
        influence: NDArray[np.float64],
        draws: NDArray[np.float64],
        scale: float,
        n: int,
    ) -> None:
        """``influence``: per group, summing to 0, such that one more such group moves the estimate by about
        influence / groups; ``draws``: (theta* - theta) and se*, shape (resamples, 2), empty when nothing
        varies; ``scale``: what one unseen item might differ by, used when nothing varies."""
        self.estimate, self.n, self.groups = estimate, n, len(influence)
        self._scale = scale
        groups = self.groups
        self.standard_error = float(math.sqrt(float((influence**2).sum()) / (groups * (groups - 1))))
        self.sd = self.standard_error * math.sqrt(groups)
        self.degenerate = not len(draws)
        if self.degenerate:
            return
        floor = self.standard_error**2 / groups
        self._error = math.sqrt(self.standard_error**2 + floor)
        self._draws = np.sort(draws[:, 0] / np.sqrt(np.maximum(draws[:, 1], 0.0) + floor))
        spread = float((influence**2).mean())
        skew = float((influence**3).mean()) / spread**1.5
        self._up = min(max(2 * skew, 0.0), 1.0) * float(influence.max()) / groups
        self._down = min(max(-2 * skew, 0.0), 1.0) * -float(influence.min()) / groups

    def _rank(self, alpha: float) -> int:
        check_alpha(alpha)
        rank = int(alpha * (len(self._draws) + 1) + 1e-9)
        if rank < 1:
            raise ValueError(f"{len(self._draws)} resamples are too few for alpha = {alpha}.")
        return rank

    def _unseen(self, alpha: float) -> float:
        # At most this share of items can differ from what all n agree on, at error alpha (the "rule of
        # three").
        return (1 - alpha ** (1 / self.groups)) * self._scale

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at error alpha, in the unit of the estimate."""
        if self.degenerate:
            return self.estimate + self._unseen(alpha)
        quantile = min(float(self._draws[self._rank(alpha) - 1]), t_quantile(self.groups - 1, alpha))
        return self.estimate + self._up - quantile * self._error

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at error alpha, in the unit of the estimate."""
        if self.degenerate:
            return self.estimate - self._unseen(alpha)
        drawn = float(self._draws[len(self._draws) - self._rank(alpha)])
        quantile = max(drawn, -t_quantile(self.groups - 1, alpha))
        return self.estimate - self._down - quantile * self._error

    def p_less(self, value: float) -> float:
        """p-value of the hypothesis that the truth is ``value`` or more."""
        if self.degenerate:
            return min(1.0, max(0.0, 1 - (value - self.estimate) / self._scale)) ** self.groups
        t = (self.estimate + self._up - value) / self._error
        count = int(np.count_nonzero(self._draws <= t + 1e-9 * (1 + abs(t))))
        return max((1 + count) / (len(self._draws) + 1), t_cdf(self.groups - 1, t))

    def p_greater(self, value: float) -> float:
        """p-value of the hypothesis that the truth is ``value`` or less."""
        if self.degenerate:
            return min(1.0, max(0.0, 1 - (self.estimate - value) / self._scale)) ** self.groups
        t = (self.estimate - self._down - value) / self._error
        count = int(np.count_nonzero(self._draws >= t - 1e-9 * (1 + abs(t))))
        return max((1 + count) / (len(self._draws) + 1), t_cdf(self.groups - 1, -t))


def _checked(values: Sequence[float] | NDArray[np.float64], name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape (n,), got {array.shape}.")
    check_finite(array, name)
    return array


def _varies(influence: NDArray[np.float64], size: float) -> bool:
    return bool(np.abs(influence).max() > max(1e-12 * size, 1e-100))


def mean_test(
    values: Sequence[float] | NDArray[np.float64],
    *,
    resampler: Resampler,
    clusters: Sequence[object] | None = None,
    scale: float = 1.0,
) -> MeanTest:
    """Test and interval of the mean of ``values``: paired differences (positive = worse), or one sample.

    Args:
        values: shape (n,), any unit.
        clusters: n labels when items come in groups that resemble each other; the standard error and the
            resampling are then by cluster and the mean is still over items.
        scale: in the unit of the values, what an unseen item might plausibly differ by. Only used when all
            values are equal, where it keeps the interval from having width zero.
    Raises:
        InsufficientEvidence: fewer than two items or clusters.
        ValueError: a value is not finite, or shapes disagree.
    Source: Hall (1988), Ann. Statist. 16, 927-953 (bootstrap-t); Davison and Hinkley (1997), sections 3.8 and
    5.2. The skewness guard is ours; its level is measured in tests and stated in docs/design/evidence.md.
    """
    array = _checked(values, "values")
    if array.size == 0:
        raise InsufficientEvidence("There are no observations (n = 0), so there is no mean to give.")
    sums, sizes = group_sums(array, clusters)
    groups = len(sums)
    if groups < 2:
        raise InsufficientEvidence(f"A test of a mean needs at least two items or clusters, got {groups}.")
    total = float(sizes.sum())
    mean = float(sums.sum()) / total
    centred = sums - mean * sizes
    influence = centred * (groups / total)
    if not _varies(influence, float(np.abs(array).max())):
        return MeanTest(mean, np.zeros(groups), np.empty((0, 2)), scale, array.size)
    factor = groups / (groups - 1)
    plain = clusters is None
    square, cross, size_square = centred**2, centred * sizes, sizes**2
    parts: list[NDArray[np.float64]] = []
    for rows in resampler.chunks(groups):
        moved, squares = centred[rows].sum(axis=1), square[rows].sum(axis=1)
        if plain:
            delta = moved / groups
            residual, weight = squares - groups * delta**2, float(groups)
            parts.append(np.column_stack([delta, factor * residual / weight**2]))
        else:
            weights = sizes[rows].sum(axis=1)
            delta = moved / weights
            residual = (
                squares - 2 * delta * cross[rows].sum(axis=1) + delta**2 * size_square[rows].sum(axis=1)
            )
            parts.append(np.column_stack([delta, factor * residual / weights**2]))
    return MeanTest(mean, influence, np.concatenate(parts), scale, array.size)


def log_ratio_test(
    first: Sequence[float] | NDArray[np.float64],
    second: Sequence[float] | NDArray[np.float64],
    *,
    resampler: Resampler,
    clusters: Sequence[object] | None = None,
) -> MeanTest:
    """Test and interval of ``log(mean(first) / mean(second))`` over paired items; ``exp`` of it is the ratio.

    Args:
        first, second: shape (n,), the same items in the same order, all above 0 (ms, USD, tokens/s).
    Raises:
        InsufficientEvidence: fewer than two items or clusters.
        ValueError: shapes differ, or a value is not finite or not above 0.
    Source: bootstrap-t as in :func:`mean_test` with the delta-method standard error.
    """
    a, b = _checked(first, "first"), _checked(second, "second")
    if a.shape != b.shape:
        raise ValueError(f"first and second must have the same shape, got {a.shape} and {b.shape}.")
    if a.size == 0:
        raise InsufficientEvidence("There are no observations (n = 0), so there is no ratio to give.")
    if a.min() <= 0 or b.min() <= 0:
        raise ValueError("A ratio needs values above 0 throughout.")
    top, bottom = group_sums(a, clusters)[0], group_sums(b, clusters)[0]
    groups = len(top)
    if groups < 2:
        raise InsufficientEvidence(f"A test of a ratio needs at least two items or clusters, got {groups}.")
    mean_top, mean_bottom = float(top.mean()), float(bottom.mean())
    x, y = top / mean_top, bottom / mean_bottom
    influence = x - y
    estimate = math.log(mean_top / mean_bottom)
    if not _varies(influence, 1.0):
        return MeanTest(estimate, np.zeros(groups), np.empty((0, 2)), 1.0, a.size)
    factor = 1 / (groups * (groups - 1))
    xx, xy, yy = x * x, x * y, y * y
    parts: list[NDArray[np.float64]] = []
    for rows in resampler.chunks(groups):
        mx, my = x[rows].mean(axis=1), y[rows].mean(axis=1)
        squares = (
            xx[rows].sum(axis=1) / mx**2 - 2 * xy[rows].sum(axis=1) / (mx * my) + yy[rows].sum(axis=1) / my**2
        )
        parts.append(np.column_stack([np.log(mx / my), factor * squares]))
    return MeanTest(estimate, influence, np.concatenate(parts), 1.0, a.size)


def non_inferiority_binary(
    b: int, c: int, n: int, *, margin: float, alpha: float = 0.05
) -> tuple[float, float]:
    """``(p-value, upper bound)`` for "the candidate's share is worse by less than ``margin``".

    Args: counts as in :func:`tango_interval`; ``margin`` as a share in (0, 1); ``alpha`` one-sided.
    Raises: InsufficientEvidence for n = 0; ValueError otherwise.
    """
    check_alpha(alpha)
    if not 0 < margin < 1:
        raise ValueError(f"margin must lie strictly between 0 and 1, got {margin!r}.")
    test = BinaryTest(b, c, n)
    return test.p_less(margin), test.upper(alpha)


def non_inferiority_continuous(
    worsening: Sequence[float] | NDArray[np.float64],
    *,
    margin: float,
    seed: int,
    alpha: float = 0.05,
    clusters: Sequence[object] | None = None,
) -> tuple[float, float]:
    """``(p-value, upper bound)`` for "the mean worsening is below ``margin``" (same unit as ``worsening``).

    Raises: what :func:`mean_test` raises; ValueError for a margin not above 0.
    """
    if not margin > 0:
        raise ValueError(f"margin must be above 0, got {margin!r}.")
    test = mean_test(worsening, resampler=Resampler(seed), clusters=clusters, scale=margin)
    return test.p_less(margin), test.upper(alpha)
