"""What pages call a metric."""

from __future__ import annotations

import pytest

from inference.gate_criteria import metric_named


@pytest.mark.parametrize(
    ("name", "label"),
    [("latency_ms", "Latency"), ("latency_ms_p95", "Latency p95"), ("cost_usd_p50", "Cost per query p50")],
)
def test_percentiles_are_named_after_their_metric(name: str, label: str) -> None:
    about = metric_named(name)
    assert about is not None
    assert (about.name, about.label) == (name, label)


@pytest.mark.parametrize("name", ["", "nonsense", "latency_ms_p", "latency_ms_pxx", "nonsense_p50", "_p50"])
def test_an_unknown_metric_has_no_words(name: str) -> None:
    assert metric_named(name) is None
