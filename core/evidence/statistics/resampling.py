"""Bootstrap resampling whose every draw can be repeated anywhere.

The indices come from SplitMix64 used as a counter-based generator: draw ``i`` of seed ``s`` is a fixed
function of ``s`` and ``i`` in 64-bit integers, so numpy here and plain Python in the dossier's verifier give
the same resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from core.evidence.statistics.types import InsufficientEvidence, Interval, check_finite, check_level

__all__ = [
    "DEFAULT_RESAMPLES",
    "Resampler",
    "bootstrap_interval",
    "cluster_bootstrap_interval",
    "group_sums",
    "resample_indices",
    "splitmix64",
]

DEFAULT_RESAMPLES = 1999
"""Resamples per statistic: with 1,999 the smallest p-value is 1/2000 and 5% is an exact rank."""

# Draws made at once (64-bit words): bounds memory to some tens of MB whatever n is.
_CHUNK = 1 << 20
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def splitmix64(seed: int, start: int, count: int) -> NDArray[np.uint64]:
    """Outputs ``start .. start + count - 1`` of SplitMix64 seeded with ``seed`` (taken modulo 2**64).

    Returns: shape (count,), uint64. Output 0 is the reference generator's first.
    Source: Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators", OOPSLA; Vigna's
    splitmix64.c.
    """
    counter = np.arange(start + 1, start + count + 1, dtype=np.uint64)
    z = np.uint64(seed & 0xFFFFFFFFFFFFFFFF) + counter * _GAMMA
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    result: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return result


def resample_indices(seed: int, n: int, first: int, count: int) -> NDArray[np.int64]:
    """Indices with replacement for resamples ``first .. first + count - 1`` of ``n`` things.

    Each 64-bit output gives two indices, high half then low half, each ``(half * n) >> 32``; a resample takes
    ``ceil(n / 2)`` outputs, and the last half of an odd one is unused.

    Returns: shape (count, n), int64, in 0..n-1. The bias of the multiplication is below n / 2**32.
    Raises: InsufficientEvidence for n = 0, ValueError for n of 2**31 and more.
    """
    if n <= 0:
        raise InsufficientEvidence("There is nothing to resample (n = 0).")
    if n >= 1 << 31:
        raise ValueError(f"At most 2**31 - 1 things can be resampled, got {n}.")
    words = (n + 1) // 2
    bits = splitmix64(seed, first * words, count * words).reshape(count, words)
    size = np.uint64(n)
    indices = np.empty((count, 2 * words), dtype=np.int64)
    indices[:, 0::2] = ((bits >> np.uint64(32)) * size) >> np.uint64(32)
    indices[:, 1::2] = ((bits & np.uint64(0xFFFFFFFF)) * size) >> np.uint64(32)
    return indices[:, :n]


class Resampler:
    """The resamples of one gate: one seed, one number of resamples, indices kept for the sizes that recur."""

    def __init__(self, seed: int, resamples: int = DEFAULT_RESAMPLES) -> None:
        if resamples < 19:
            raise ValueError(f"At least 19 resamples are needed for a 5% bound, got {resamples}.")
        self.seed = seed
        self.resamples = resamples
        self._kept: dict[int, list[NDArray[np.int64]]] = {}

    def chunks(self, n: int) -> Iterator[NDArray[np.int64]]:
        """Index arrays of shape (some resamples, n), in order, together ``resamples`` rows."""
        if n in self._kept:
            yield from self._kept[n]
            return
        rows = max(1, _CHUNK // max(n, 1))
        keep: list[NDArray[np.int64]] | None = [] if n * self.resamples <= 4 * _CHUNK else None
        for first in range(0, self.resamples, rows):
            chunk = resample_indices(self.seed, n, first, min(rows, self.resamples - first))
            if keep is not None:
                keep.append(chunk)
            yield chunk
        if keep is not None:
            self._kept[n] = keep


def group_sums(
    values: NDArray[np.float64], clusters: Sequence[object] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums and sizes per cluster, clusters in order of first appearance; each item its own cluster when None.

    Args:
        values: shape (n,).  clusters: n labels, or None.
    Returns: ``(sums, sizes)``, each of shape (n_clusters,).
    """
    if clusters is None:
        return values, np.ones(len(values))
    if len(clusters) != len(values):
        raise ValueError(
            f"clusters must have one label per item: expected {len(values)}, got {len(clusters)}."
        )
    order: dict[object, int] = {}
    codes = np.array([order.setdefault(label, len(order)) for label in clusters], dtype=np.int64)
    sums: NDArray[np.float64] = np.bincount(codes, weights=values).astype(np.float64)
    return sums, np.bincount(codes).astype(np.float64)


def _percentile_bounds(draws: NDArray[np.float64], level: float) -> Interval:
    error, ordered = check_level(level), np.sort(draws)
    rank = int(error * (len(ordered) + 1) + 1e-9)
    if rank < 1:
        raise ValueError(f"{len(ordered)} resamples are too few for a level of {level}.")
    return Interval(float(ordered[rank - 1]), float(ordered[len(ordered) - rank]), level)


def bootstrap_interval(
    differences: Sequence[float] | NDArray[np.float64],
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = DEFAULT_RESAMPLES,
) -> Interval:
    """Percentile bootstrap interval of the mean of paired differences, resampling items.

    For description. Gates decide by :func:`core.evidence.statistics.paired.mean_test`, which is studentised
    and keeps its level at small n, as this does not.

    Args:
        differences: shape (n,), candidate minus baseline on the same item, any unit.
    Raises:
        InsufficientEvidence: fewer than two items.
        ValueError: a value that is not finite, or too few resamples for the level.
    Source: Efron (1979), Ann. Statist. 7, 1-26.
    """
    return cluster_bootstrap_interval(differences, None, seed=seed, level=level, resamples=resamples)


def cluster_bootstrap_interval(
    differences: Sequence[float] | NDArray[np.float64],
    clusters: Sequence[object] | None,
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = DEFAULT_RESAMPLES,
) -> Interval:
    """Percentile bootstrap interval of the mean over items, resampling whole clusters (documents,
    conversations).

    Items of one cluster resemble each other; resampling them singly would claim more evidence than there is.
    Arguments and errors as :func:`bootstrap_interval`, with clusters counted instead of items.
    Source: Davison and Hinkley (1997), Bootstrap Methods and their Application, section 3.8.
    """
    values = np.asarray(differences, dtype=float)
    if values.ndim != 1:
        raise ValueError(f"differences must have shape (n,), got {values.shape}.")
    check_finite(values, "differences")
    sums, sizes = group_sums(values, clusters)
    if len(sums) < 2:
        raise InsufficientEvidence(f"A bootstrap needs at least two items or clusters, got {len(sums)}.")
    draws = [
        sums[rows].sum(axis=1) / sizes[rows].sum(axis=1)
        for rows in Resampler(seed, resamples).chunks(len(sums))
    ]
    return _percentile_bounds(np.concatenate(draws), level)
