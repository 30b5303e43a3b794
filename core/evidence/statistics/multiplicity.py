"""Several hypotheses in one gate: keep the chance of any false alarm at alpha."""

from __future__ import annotations

from collections.abc import Sequence

from core.evidence.statistics.types import InsufficientEvidence

__all__ = ["holm"]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given.

    Rejecting where the adjusted p is at most alpha keeps the probability of even one false rejection at most
    alpha, whatever the dependence between the tests.

    Raises:
        InsufficientEvidence: the list is empty.
        ValueError: a p-value outside [0, 1] or not a number.
    Source: Holm (1979), Scand. J. Statist. 6, 65-70; statsmodels ``multipletests(method="holm")``.
    """
    m = len(p_values)
    if m == 0:
        raise InsufficientEvidence("There are no p-values to adjust.")
    for p in p_values:
        if not 0 <= p <= 1:
            raise ValueError(f"A p-value must lie in [0, 1], got {p!r}.")
    adjusted, running = [0.0] * m, 0.0
    for rank, position in enumerate(sorted(range(m), key=lambda index: p_values[index])):
        running = max(running, min(1.0, (m - rank) * p_values[position]))
        adjusted[position] = running
    return adjusted
