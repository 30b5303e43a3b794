"""The statistical watermark of Kirchenbauer et al. (2023), "A Watermark for Large Language Models".

The token before the next one seeds a generator that splits the vocabulary; the chances of the "green" share are
raised by ``delta``. Green lists are those of transformers' ``WatermarkLogitsProcessor`` (scheme ``lefthash``,
context width 1), so its ``WatermarkDetector`` finds them with the same key.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

SEED_RANGE = 2**64 - 1
# Green lists kept per model: a mask of 49,152 tokens is 48 kB.
KEPT_LISTS = 512


@dataclass(frozen=True, slots=True)
class Watermark:
    """``key``: hashing key; ``gamma``: green share of the vocabulary in (0, 1); ``delta``: added to its logits."""

    key: int
    gamma: float
    delta: float


class GreenLists:
    """Green masks by key, share and the token before, the most recently used kept."""

    def __init__(self, vocabulary: int) -> None:
        import torch

        self._torch = torch
        self._vocabulary = vocabulary
        self._kept: OrderedDict[tuple[int, float, int], Any] = OrderedDict()

    def mask(self, watermark: Watermark, before: int) -> Any:
        """Boolean tensor (vocabulary,): which tokens are green after ``before``."""
        key = (watermark.key, watermark.gamma, before)
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            return found
        torch = self._torch
        generator = torch.Generator().manual_seed(watermark.key * before % SEED_RANGE)
        order = torch.randperm(self._vocabulary, generator=generator)
        mask = torch.zeros(self._vocabulary, dtype=torch.bool)
        mask[order[: int(self._vocabulary * watermark.gamma)]] = True
        self._kept[key] = mask
        if len(self._kept) > KEPT_LISTS:
            self._kept.popitem(last=False)
        return mask
