"""Evidence about false hits that may be looked at after every sample. Pure.

An ordinary interval holds for one look at a size fixed before; the cache looks after each shadow ask and would
sooner or later be unlucky. So both functions use mixtures of likelihood ratios, which are valid at every time at
once (Ville's inequality): the chance that a cache whose true rate is within the bound is *ever* switched off is at
most ALPHA, and the interval holds at all sizes together.

Source: Robbins (1970), Ann. Math. Stat. 41, 1397-1409; Howard et al. (2021), Ann. Stat. 49, 1055-1080.
"""

from __future__ import annotations

import math
from typing import Final

from scipy.special import betainc, betaln

# Chance that a good cache is ever switched off, per release and since a person last switched it on.
ALPHA: Final = 0.05
# Prior of the interval's mixture: most weight near small rates, where caches live.
_A, _B = 0.5, 5.0


def log_evidence_above(false_hits: int, n: int, bound: float) -> float:
    """Natural logarithm of the e-value against "the false-hit rate is at most ``bound``".

    The mixture is a Beta(1, 1/(3 bound)) over rates above the bound. Under any true rate up to the bound it is a
    supermartingale of expectation at most 1, so reaching ``log(1 / ALPHA)`` at any time has probability at most
    ALPHA.

    Raises ValueError: counts or bound that cannot be.
    """
    _checked(false_hits, n)
    if not 0 <= bound <= 1:
        raise ValueError(f"A bound is a share from 0 to 1, got {bound!r}.")
    if bound == 0:
        return math.inf if false_hits else 0.0
    if bound == 1 or n == 0:
        return 0.0
    a, b = 1.0, max(1.0, 1 / (3 * bound))
    above = 1 - float(betainc(a + false_hits, b + n - false_hits, bound))
    before = 1 - float(betainc(a, b, bound))
    if above <= 0:
        return -math.inf
    null = false_hits * math.log(bound) + (n - false_hits) * math.log1p(-bound)
    return (
        float(betaln(a + false_hits, b + n - false_hits))
        + math.log(above)
        - float(betaln(a, b))
        - math.log(before)
        - null
    )


def proven_above(false_hits: int, n: int, bound: float, *, alpha: float = ALPHA) -> bool:
    """Whether the rate is above the bound beyond doubt: the moment to switch off."""
    return log_evidence_above(false_hits, n, bound) >= math.log(1 / alpha)


def interval_anytime(false_hits: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Bounds (low, high) on the false-hit rate that hold at every n together with probability ``level``.

    Wider than an interval for one look; (0, 1) without samples. Raises ValueError for counts that cannot be.
    """
    _checked(false_hits, n)
    if n == 0:
        return 0.0, 1.0
    limit = math.log(1 / (1 - level))
    top = float(betaln(_A + false_hits, _B + n - false_hits)) - float(betaln(_A, _B))

    def refused(rate: float) -> bool:
        if (rate <= 0 and false_hits) or (rate >= 1 and false_hits < n):
            return True
        null = (false_hits * math.log(rate) if false_hits else 0.0) + (
            (n - false_hits) * math.log1p(-rate) if false_hits < n else 0.0
        )
        return top - null >= limit

    share = false_hits / n
    low = 0.0 if not refused(0.0) else _edge(refused, 0.0, share)
    high = 1.0 if not refused(1.0) else _edge(refused, 1.0, share)
    return low, high


def _edge(refused: object, outside: float, inside: float) -> float:
    assert callable(refused)
    for _ in range(60):
        middle = (outside + inside) / 2
        if refused(middle):
            outside = middle
        else:
            inside = middle
    return outside


def _checked(false_hits: int, n: int) -> None:
    if not 0 <= false_hits <= n:
        raise ValueError(f"There cannot be {false_hits} false hits among {n} shadow asks.")
