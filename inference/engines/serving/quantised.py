"""Smaller copies of the weights for decoding, where reading them is what takes the time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class HalfLinear:
    """fp16 weights, fp32 sums (FBGEMM): half the bytes to read."""

    def __init__(self, weight: Any, bias: Any = None) -> None:
        import torch

        self._torch = torch
        self._packed = torch.fbgemm_pack_gemm_matrix_fp16(weight.float())
        self._bias = bias.float() if bias is not None else torch.zeros(weight.shape[0])
        self.nbytes = int(weight.numel() * 2)

    def __call__(self, x: Any) -> Any:
        return self._torch.fbgemm_linear_fp16_weight_fp32_activation(x, self._packed, self._bias)


QUANTISERS: dict[str, Callable[[Any, Any], Any]] = {"float16": HalfLinear}
