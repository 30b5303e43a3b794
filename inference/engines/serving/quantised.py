"""Smaller copies of the weights for decoding, where reading them is what takes the time.

Both keep a row's answer independent of the other rows of its batch: nothing is scaled by a maximum over rows (int8
exactly, since its sums are whole numbers; fp16 up to the rounding of its sums).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

# Steps of 7 bits: FBGEMM adds two products in 16 bits on CPUs without VNNI, which 8-bit inputs would overflow.
LEVELS = 63
ZERO = 64


class HalfLinear:
    """fp16 weights, fp32 inputs and sums (FBGEMM): half the bytes to read."""

    def __init__(self, weight: Any, bias: Any = None) -> None:
        import torch

        self._packed = torch.ops.quantized.linear_prepack_fp16(
            weight.float().contiguous(), bias.float() if bias is not None else None
        )
        self._product = torch.ops.quantized.linear_dynamic_fp16
        self.nbytes = int(weight.numel() * 2)

    def __call__(self, x: Any) -> Any:
        """x (rows, inputs) to (rows, outputs), in x's dtype."""
        return self._product(x.float(), self._packed).to(x.dtype)


class ByteLinear:
    """int8 weights with a scale per output, inputs as two 7-bit numbers each with a scale per row (FBGEMM).

    One 7-bit number per input loses too much where a few inputs are far larger than the rest. So each input is
    split into a coarse part and the remainder, both go through the same product as separate rows, and the answer
    is their weighted sum: inputs keep 13 bits, and the weights are still read once.
    """

    def __init__(self, weight: Any, bias: Any = None) -> None:
        import torch

        self._torch = torch
        wide = weight.float()
        scale = (wide.abs().amax(dim=1) / 127.0).clamp(min=1e-12)
        levels = (wide / scale.unsqueeze(1)).round().clamp(-127, 127).to(torch.int8)
        with warnings.catch_warnings():
            # torch says that quantised tensors will go; its version is pinned here, and nothing replaces them yet.
            warnings.simplefilter("ignore")
            quantised = torch._make_per_channel_quantized_tensor(
                levels, scale.double(), torch.zeros(weight.shape[0], dtype=torch.long), 0
            )
        kept, torch.backends.quantized.engine = torch.backends.quantized.engine, "fbgemm"
        try:
            self._packed = torch.ops.quantized.linear_prepack(quantised, None)
        finally:
            torch.backends.quantized.engine = kept
        self._product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        self._bias = bias.float() if bias is not None else None
        self.nbytes = int(weight.numel() + 4 * weight.shape[0])

    def __call__(self, x: Any) -> Any:
        """x (rows, inputs) to (rows, outputs), in x's dtype."""
        torch = self._torch
        wide = x.float()
        rows = wide.shape[0]
        # A row of NaN or infinity stays one: its scale is, and the answer is multiplied by it.
        step = wide.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / LEVELS
        levels = wide / step
        coarse = levels.round()
        both = torch.cat([coarse, (levels - coarse) * (2 * LEVELS)])
        out = self._product(both, 1.0, ZERO, self._packed)
        found = torch.add(out[:rows], out[rows:], alpha=1.0 / (2 * LEVELS)) * step
        if self._bias is not None:
            found = found + self._bias
        return found.to(x.dtype)


QUANTISERS: dict[str, Callable[[Any, Any], Any]] = {"float16": HalfLinear, "int8": ByteLinear}
