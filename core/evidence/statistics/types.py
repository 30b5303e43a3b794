"""What every statistic returns or raises."""

from __future__ import annotations

import math
from typing import NamedTuple


class InsufficientEvidence(ValueError):
    """There are too few observations to say anything. No cases is not a rate of zero."""


class Interval(NamedTuple):
    """A confidence interval in the unit of the statistic, unrounded.

    ``low`` or ``high`` is infinite where the data cannot bound that side. ``level`` is the two-sided
    coverage; each side alone is a one-sided bound at error ``(1 - level) / 2``.
    """

    low: float
    high: float
    level: float


def check_level(level: float) -> float:
    """The one-sided error ``(1 - level) / 2``. Raises ValueError unless level is strictly between 0 and 1."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level!r}.")
    return (1 - level) / 2


def check_alpha(alpha: float) -> None:
    """Raises ValueError unless the one-sided error lies strictly between 0 and 0.5."""
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha must lie strictly between 0 and 0.5, got {alpha!r}.")


def check_count(successes: int, n: int) -> None:
    """Raises InsufficientEvidence for n = 0, ValueError for counts that cannot be."""
    for name, value in (("successes", successes), ("n", n)):
        if isinstance(value, bool) or int(value) != value or value < 0:
            raise ValueError(f"{name} must be a whole number of at least 0, got {value!r}.")
    if n == 0:
        raise InsufficientEvidence("There are no observations (n = 0), so there is no rate to give.")
    if successes > n:
        raise ValueError(f"successes must be at most n = {n}, got {successes}.")


def check_finite(values: object, name: str) -> None:
    """Raises ValueError naming how many of the values are NaN or infinite."""
    import numpy as np

    bad = int(np.count_nonzero(~np.isfinite(np.asarray(values, dtype=float))))
    if bad:
        raise ValueError(f"{name} holds {bad} values that are not finite numbers.")


def finite_or_none(value: float | None) -> float | None:
    """None for None, NaN and infinity; JSON has no word for them."""
    return None if value is None or not math.isfinite(value) else float(value)
