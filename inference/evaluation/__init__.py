"""From items to outcomes: configuration, scorers, latency."""

from inference.evaluation.config import (
    ConfigInvalid,
    DecodingConfig,
    Example,
    LatencyParams,
    PromptTemplate,
    ScoringParams,
)
from inference.evaluation.outcomes import ItemOutcome, LatencySample
from inference.evaluation.scoring import METRICS, cost_usd, measure_latency, requires, score_batch

__all__ = [
    "METRICS",
    "ConfigInvalid",
    "DecodingConfig",
    "Example",
    "ItemOutcome",
    "LatencyParams",
    "LatencySample",
    "PromptTemplate",
    "ScoringParams",
    "cost_usd",
    "measure_latency",
    "requires",
    "score_batch",
]
