"""The distribution functions the kernel needs, as plain floats, computed by scipy.

scipy takes longer to load than Django, and most commands and pages never ask for a probability. So it is loaded
by the first call, and here only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "beta_quantile",
    "binomial_cdf",
    "binomial_cdf_all",
    "noncentral_t_cdf",
    "normal_cdf",
    "normal_quantile",
    "t_cdf",
    "t_quantile",
]


def normal_cdf(z: float) -> float:
    """P(Z <= z) of the standard normal."""
    from scipy import special

    return float(special.ndtr(z))


def normal_quantile(p: float) -> float:
    """The z with P(Z <= z) = p."""
    from scipy import special

    return float(special.ndtri(p))


def t_cdf(df: float, t: float) -> float:
    """P(T <= t) of Student's t with `df` degrees of freedom."""
    from scipy import special

    return float(special.stdtr(df, t))


def t_quantile(df: float, p: float) -> float:
    """The t with P(T <= t) = p, with `df` degrees of freedom."""
    from scipy import special

    return float(special.stdtrit(df, p))


def noncentral_t_cdf(df: float, shift: float, t: float) -> float:
    """P(T <= t) of the noncentral t with `df` degrees of freedom and noncentrality `shift`."""
    from scipy import special

    return float(special.nctdtr(df, shift, t))


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X <= k) for X binomial with n trials and success probability p."""
    from scipy import special

    return float(special.bdtr(k, n, p))


def binomial_cdf_all(n: int, p: float) -> NDArray[np.float64]:
    """P(X <= k) for k = 0..n, shape (n + 1,)."""
    import numpy as np
    from scipy import special

    return np.asarray(special.bdtr(np.arange(n + 1), n, p))


def beta_quantile(a: float, b: float, p: float) -> float:
    """The x with P(X <= x) = p of the beta distribution."""
    from scipy import special

    return float(special.betaincinv(a, b, p))
