"""What one scored item yields, as plain values that a worker stores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """One item scored once.

    ``metrics`` by name; None means the model gave NaN or infinity there and the value does not exist
    (``note`` says so). Shares are 0.0 or 1.0, ``nll_*`` nats per token, ``compute_s`` this item's share of
    measured engine seconds.
    ``output``: generated text, or the chosen choice's text, or "" when nothing is produced.
    """

    key: str
    metrics: dict[str, float | None]
    output: str = ""
    slices: tuple[str, ...] = ()
    finite: bool = True
    note: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    compute_s: float = 0.0
    detail: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form; the inverse is ``ItemOutcome(**data)`` with ``slices`` made a tuple."""
        out: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        out["slices"] = list(self.slices)
        return out


@dataclass(frozen=True, slots=True)
class LatencySample:
    """One request answered alone. Milliseconds; ``cost_usd`` is None when no price was given."""

    key: str
    latency_ms: float
    first_token_ms: float
    tokens_in: int
    tokens_out: int
    compute_s: float
    cost_usd: float | None
