"""What the batch loop needs of a model: a few slots with a key-value cache each, and one step over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive prompt tokens of one slot. ``start``: position of the first; all before it is in the cache.

    ``every``: hidden states of all positions are wanted (log-probabilities of the prompt), not only the last.
    """

    slot: int
    start: int
    tokens: Sequence[int]
    every: bool = False


@dataclass(frozen=True, slots=True)
class Decode:
    """The next token of a slot. Row i of a step's decodes belongs to slot i."""

    token: int
    position: int


class Runner(Protocol):
    """A model in slots. One thread at a time."""

    name: str
    slots: int
    context: int
    vocabulary: int
    shares_prefix: bool

    def step(self, decodes: Sequence[Decode], segments: Sequence[Segment]) -> tuple[Any, list[Any]]:
        """Feed one token to slots 0 .. len(decodes)-1 and prompt tokens to the segments' slots.

        Returns:
            fp32 logits (decodes, vocabulary) on the CPU, or None without decodes; and for each segment its
            hidden states, (1 or tokens, hidden), for ``head``.
        """
        ...

    def head(self, hidden: Any) -> Any:
        """fp32 logits on the CPU, (rows, vocabulary)."""
        ...

    def swap(self, a: int, b: int, length: int) -> None:
        """Exchange two slots; ``length`` positions of the longer one are in use."""
        ...

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Give ``target`` the first ``length`` positions of ``source``."""
        ...

    def clear(self, slot: int) -> None:
        """Forget a slot's numbers (after NaN, which a mask does not hide)."""
        ...

    def kv_bytes(self) -> int:
        """Bytes set aside for keys and values."""
        ...

    def weight_bytes(self) -> int:
        """Bytes of the weights, the quantised copy included."""
        ...
