"""Intervals for one share: k successes out of n independent items."""

from __future__ import annotations

import math

from core.evidence.statistics.distributions import beta_quantile, normal_quantile
from core.evidence.statistics.types import Interval, check_count, check_level

__all__ = ["clopper_pearson_interval", "wilson_interval"]


def wilson_interval(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Wilson score interval for a share; the one to show.

    Args:
        successes, n: counts of items (not of attempts).
        level: two-sided coverage, in the open interval (0, 1).
    Returns:
        Interval in [0, 1]. Coverage is close to the level on average, and may fall below it for single
        shares.
    Raises:
        InsufficientEvidence: n is 0.
        ValueError: successes outside 0..n, or level outside (0, 1).
    Source: Wilson (1927), J. Amer. Stat. Assoc. 22, 209-212; scipy
    ``binomtest(...).proportion_ci("wilson")``.
    """
    error = check_level(level)
    check_count(successes, n)
    z = normal_quantile(1 - error)
    share, z2 = successes / n, z * z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(low, high, level)


def clopper_pearson_interval(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Exact binomial interval for a share; the one that decides, because its coverage never falls below the
    level.

    Arguments, units and errors as :func:`wilson_interval`.
    Source: Clopper and Pearson (1934), Biometrika 26, 404-413; scipy ``proportion_ci("exact")``.
    """
    error = check_level(level)
    check_count(successes, n)
    low = 0.0 if successes == 0 else beta_quantile(successes, n - successes + 1, error)
    high = 1.0 if successes == n else beta_quantile(successes + 1, n - successes, 1 - error)
    return Interval(low, high, level)
