"""The generator and the bootstraps, repeatable anywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from core.evidence.statistics import (
    InsufficientEvidence,
    Resampler,
    bootstrap_interval,
    cluster_bootstrap_interval,
    resample_indices,
    splitmix64,
)
from tests.core.evidence.cast import load_verifier


def test_splitmix64_gives_the_reference_outputs() -> None:
    # Published with the reference implementation for seed 1234567.
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert splitmix64(1234567, 0, 5).tolist() == expected
    assert splitmix64(1234567, 3, 2).tolist() == expected[3:]


@given(st.integers(-(2**70), 2**70), st.integers(1, 50), st.integers(19, 25))
def test_plain_python_draws_the_same_resamples(seed: int, n: int, count: int) -> None:
    ours = np.concatenate(list(Resampler(seed, count).chunks(n)))
    assert ours.tolist() == list(load_verifier().Resamples(seed, count).of(n))


def test_resamples_do_not_depend_on_where_they_are_cut() -> None:
    whole = resample_indices(5, 7, 0, 30)
    assert np.array_equal(whole[11:], resample_indices(5, 7, 11, 19))


def test_every_index_is_equally_likely() -> None:
    counts = np.bincount(resample_indices(3, 13, 0, 20000).ravel(), minlength=13)
    assert stats.chisquare(counts).pvalue > 0.001


def test_same_seed_same_interval_other_seed_another() -> None:
    values = np.random.default_rng(0).normal(size=50)
    first, again, other = (bootstrap_interval(values, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_bootstrap_agrees_with_scipy() -> None:
    values = np.random.default_rng(4).exponential(size=80)
    ours = bootstrap_interval(values, seed=1, resamples=9999)
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_clusters_widen_the_interval_when_items_resemble_each_other() -> None:
    rng = np.random.default_rng(6)
    clusters = [f"doc-{row // 10}" for row in range(200)]
    values = np.repeat(rng.normal(size=20), 10) + rng.normal(size=200) * 0.1
    plain = bootstrap_interval(values, seed=1)
    clustered = cluster_bootstrap_interval(values, clusters, seed=1)
    assert clustered.high - clustered.low > 2 * (plain.high - plain.low)
    theory = 2 * 1.96 * values.reshape(20, 10).mean(axis=1).std(ddof=1) / np.sqrt(20)
    assert clustered.high - clustered.low == pytest.approx(theory, rel=0.15)


def test_nothing_to_resample_is_no_evidence() -> None:
    with pytest.raises(InsufficientEvidence):
        bootstrap_interval([], seed=1)
    with pytest.raises(InsufficientEvidence):
        cluster_bootstrap_interval([1.0, 2.0], ["a", "a"], seed=1)
    with pytest.raises(ValueError, match="not finite"):
        bootstrap_interval([1.0, float("inf")], seed=1)
    with pytest.raises(ValueError, match="resamples"):
        Resampler(1, 5)
