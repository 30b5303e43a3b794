"""Models the fast path does not know: transformers computes them, one sequence after the other.

Everything else (sampling, stop strings, streams, cancellation) is the same; only the batch is not computed
together, and nothing is shared between prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inference.engines.serving.runner import Decode, Segment


class TransformersRunner:
    """A model of transformers behind the loop's interface. ``exact_head``: hidden states and head can be taken
    apart (the TorchEngine's self-check); otherwise the model's own logits are carried instead."""

    name = "transformers"
    shares_prefix = False

    def __init__(
        self, model: Any, *, vocabulary: int, slots: int, context: int, device: str, exact_head: bool
    ) -> None:
        import torch

        self._torch = torch
        self._model = model
        self.slots, self.context, self.vocabulary = slots, context, vocabulary
        self.device = device
        self._exact_head = exact_head
        self._caches: list[Any] = [None] * slots

    def _feed(self, slot: int, tokens: Sequence[int], start: int) -> Any:
        torch = self._torch
        if start == 0:
            self._caches[slot] = None
        inputs = {
            "input_ids": torch.tensor([list(tokens)], device=self.device),
            "past_key_values": self._caches[slot],
            "use_cache": True,
        }
        if self._exact_head:
            out = self._model.base_model(**inputs)
            rows = out[0][0]
        else:
            out = self._model(**inputs)
            rows = out.logits[0]
        self._caches[slot] = out.past_key_values
        return rows

    def step(self, decodes: Sequence[Decode], segments: Sequence[Segment]) -> tuple[Any, list[Any]]:
        """See Runner."""
        torch = self._torch
        with torch.inference_mode():
            rows = [
                self._feed(slot, [decode.token], decode.position)[-1:] for slot, decode in enumerate(decodes)
            ]
            logits = self.head(torch.cat(rows)) if rows else None
            parts = []
            for segment in segments:
                found = self._feed(segment.slot, segment.tokens, segment.start)
                parts.append(found if segment.every else found[-1:])
        return logits, parts

    def head(self, hidden: Any) -> Any:
        """fp32 logits on the CPU, (rows, vocabulary)."""
        with self._torch.inference_mode():
            logits = self._model.get_output_embeddings()(hidden) if self._exact_head else hidden
            return logits.float().cpu()

    def swap(self, a: int, b: int, length: int) -> None:
        """Exchange two slots."""
        self._caches[a], self._caches[b] = self._caches[b], self._caches[a]

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Not offered (``shares_prefix`` is False)."""
        raise NotImplementedError

    def clear(self, slot: int) -> None:
        """Forget a slot."""
        self._caches[slot] = None

    def kv_bytes(self) -> int:
        """Bytes in use now: transformers lets its caches grow."""
        total = 0
        for cache in self._caches:
            for layer in getattr(cache, "layers", None) or []:
                for name in ("keys", "values"):
                    tensor = getattr(layer, name, None)
                    if tensor is not None:
                        total += int(tensor.numel() * tensor.element_size())
        return total

    def weight_bytes(self) -> int:
        """Bytes of the weights."""
        return sum(int(p.numel() * p.element_size()) for p in self._model.parameters())
