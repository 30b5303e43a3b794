"""What a comparison can show, before it is run: power, smallest detectable worsening, items needed.

All errors are one-sided. "Power" is the probability that a candidate which is truly no worse is shown
non-inferior; "detectable" is the smallest true worsening that is reported as a regression with that
probability. Multiplicity across a gate makes detection somewhat harder than stated here for one criterion.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from core.evidence.statistics.distributions import noncentral_t_cdf, normal_cdf, normal_quantile, t_quantile
from core.evidence.statistics.paired import CONTINUITY
from core.evidence.statistics.types import InsufficientEvidence, check_alpha

__all__ = [
    "N_LIMIT",
    "paired_binary_detectable",
    "paired_binary_n_needed",
    "paired_binary_power",
    "paired_continuous_detectable",
    "paired_continuous_n_needed",
    "paired_continuous_power",
]

N_LIMIT = 10_000_000
"""Beyond this many items the answer is "not practicable" (None)."""


def _check(n: int, alpha: float, power: float = 0.5) -> None:
    check_alpha(alpha)
    if not 0 < power < 1:
        raise ValueError(f"power must lie strictly between 0 and 1, got {power!r}.")
    if n <= 0:
        raise InsufficientEvidence("There are no items (n = 0), so there is no power.")


def _check_discordance(discordance: float) -> None:
    if not 0 < discordance <= 1:
        raise ValueError(
            f"discordance is the share of items that change, above 0 and at most 1, got {discordance!r}."
        )


def _check_positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}.")


def paired_binary_power(n: int, *, discordance: float, margin: float, alpha: float = 0.05) -> float:
    """Probability of showing non-inferiority of a share when candidate and baseline are truly equal.

    Args:
        n: paired items.  discordance: share of items expected to flip either way, in (0, 1].
        margin: share, in (0, 1).
    Raises: InsufficientEvidence for n = 0; ValueError otherwise.
    Source: normal approximation of the score test of Tango (1998) with the gate's continuity correction;
    agrees with enumeration to about 0.02 from n = 50.
    """
    _check(n, alpha)
    _check_discordance(discordance)
    if not 0 < margin < 1:
        raise ValueError(f"margin must lie strictly between 0 and 1, got {margin!r}.")
    linear = -discordance + 2 * margin
    constant = -0.5 * discordance * margin * (1 - margin)
    share = (-linear + math.sqrt(linear * linear - 8 * constant)) / 4
    null_sd = math.sqrt(2 * share + margin - margin * margin)
    reach = n * margin - CONTINUITY + normal_quantile(alpha) * math.sqrt(n) * null_sd
    return normal_cdf(reach / math.sqrt(n * discordance))


def paired_binary_detectable(
    n: int, *, discordance: float, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """Smallest true worsening of a share (in (0, 1]) that McNemar's test reports with the power; None if
    none.

    ``discordance`` is the share of items that flip either way; it is raised to the worsening where it is
    smaller, since a worsening of x takes at least a share x of flips. Errors as :func:`paired_binary_power`.
    """
    _check(n, alpha, power)
    _check_discordance(discordance)
    za, zb = -normal_quantile(alpha), normal_quantile(power)

    def seen(worsening: float) -> bool:
        flips = max(discordance, worsening)
        needed = za * math.sqrt(n * flips) + zb * math.sqrt(n * max(0.0, flips - worsening**2)) + 1
        return n * worsening >= needed

    if not seen(1.0):
        return None
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if seen(middle) else (middle, high)
    return high


def _smallest_n(enough: Callable[[int], bool]) -> int | None:
    high = 2
    while not enough(high):
        high *= 2
        if high > N_LIMIT:
            return None
    low = max(2, high // 2)
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return high


def paired_binary_n_needed(
    *, discordance: float, margin: float, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """Items needed for :func:`paired_binary_power` to reach ``power``; None above :data:`N_LIMIT`."""
    _check(1, alpha, power)
    return _smallest_n(
        lambda n: paired_binary_power(n, discordance=discordance, margin=margin, alpha=alpha) >= power
    )


def paired_continuous_power(n: int, *, sd: float, margin: float, alpha: float = 0.05) -> float:
    """Probability of showing non-inferiority of a mean when candidate and baseline are truly equal.

    Args:
        n: paired items (clusters, when items come in clusters), at least 2.
        sd: standard deviation of the paired differences; margin: both in the metric's unit, above 0.
    Raises: InsufficientEvidence for n below 2; ValueError otherwise.
    Source: Student's t with n - 1 degrees of freedom, noncentral distribution (Julious 2004, Stat. Med. 23,
    1921-1986, equation for paired non-inferiority).
    """
    _check(n, alpha)
    _check_positive("sd", sd)
    _check_positive("margin", margin)
    if n < 2:
        raise InsufficientEvidence("A test of a mean needs at least two items.")
    shift = margin * math.sqrt(n) / sd
    quantile = -t_quantile(n - 1, alpha)
    if shift > 37:  # far in the tail, where the noncentral distribution loses its footing
        return 1.0
    return 1 - noncentral_t_cdf(n - 1, shift, quantile)


def paired_continuous_detectable(n: int, *, sd: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest true mean worsening (unit of ``sd``) reported as a regression with the power.

    Source and errors as :func:`paired_continuous_power`; the sum of two t quantiles.
    """
    _check(n, alpha, power)
    _check_positive("sd", sd)
    if n < 2:
        raise InsufficientEvidence("A test of a mean needs at least two items.")
    quantiles = t_quantile(n - 1, 1 - alpha) + t_quantile(n - 1, power)
    return quantiles * sd / math.sqrt(n)


def paired_continuous_n_needed(
    *, sd: float, margin: float, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """Items needed for :func:`paired_continuous_power` to reach ``power``; None above :data:`N_LIMIT`."""
    _check(2, alpha, power)
    return _smallest_n(lambda n: paired_continuous_power(n, sd=sd, margin=margin, alpha=alpha) >= power)
