"""MiniLM sentence vectors in numpy, for a gateway process that has no torch in it.

The same weights, tokenizer, pooling and length as `inference.engines.embeddings` (a test compares them); loaded on
first use, about 90 MB. One text at a time: the request path has one.

Source: Devlin et al. (2019), BERT; model card of sentence-transformers/all-MiniLM-L6-v2.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from inference.engines.embeddings import minilm_directory

MAX_TOKENS: Final = 256
_HEADS: Final = 12
_LAYERS: Final = 6
_EPSILON: Final = 1e-12

Array = npt.NDArray[np.float32]


def _norm(x: Array, weight: Array, bias: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + _EPSILON) * weight + bias


def _erf(x: Array) -> Array:
    """Abramowitz and Stegun 7.1.26; absolute error below 1.5e-7."""
    size = np.abs(x)
    t = 1 / (1 + 0.3275911 * size)
    tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.sign(x) * (1 - tail * np.exp(-size * size))


def _one_thread() -> None:
    """Have numpy's OpenBLAS work on the calling thread alone.

    Its helpers spin while they wait, and on a machine that is busy serving, that costs ten times what they gain for
    products this small. Torch and scipy have libraries of their own and are not affected.
    """
    folder = Path(np.__file__).parent.parent / "numpy.libs"
    for path in folder.glob("*openblas*"):
        library = ctypes.CDLL(str(path))
        for name in ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads"):
            with contextlib.suppress(AttributeError):
                getattr(library, name)(1)


class Encoder:
    """Unit-length vectors of 384 numbers. Safe to share between threads."""

    def __init__(self) -> None:
        from safetensors import safe_open
        from tokenizers import Tokenizer

        _one_thread()
        directory = minilm_directory()
        self._tokenizer: Any = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        with safe_open(str(directory / "model.safetensors"), "np") as opened:
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        self._w = weights
        self._words = weights["embeddings.word_embeddings.weight"]
        self._places = (
            weights["embeddings.position_embeddings.weight"]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        # One product for query, key and value.
        self._qkv = []
        for layer in range(_LAYERS):
            at = f"encoder.layer.{layer}.attention.self."
            matrix = np.concatenate([weights[f"{at}{name}.weight"] for name in ("query", "key", "value")])
            bias = np.concatenate([weights[f"{at}{name}.bias"] for name in ("query", "key", "value")])
            self._qkv.append((np.ascontiguousarray(matrix.T), bias))
        # More at once would only fight for the cores.
        self._slots = threading.BoundedSemaphore(2)

    def _dense(self, x: Array, name: str) -> Array:
        return x @ self._w[f"{name}.weight"].T + self._w[f"{name}.bias"]

    def _normed(self, x: Array, name: str) -> Array:
        return _norm(x, self._w[f"{name}.LayerNorm.weight"], self._w[f"{name}.LayerNorm.bias"])

    def tokens(self, text: str) -> list[int]:
        """Ids of the text, with the marks of beginning and end."""
        return list(self._tokenizer.encode(text).ids)

    def encode(self, text: str) -> Array:
        """The vector of a text; what lies beyond 256 tokens is cut, as the model was trained."""
        ids = self.tokens(text)
        if len(ids) > MAX_TOKENS:
            ids = [*ids[: MAX_TOKENS - 1], ids[-1]]
        with self._slots:
            x = self._normed(self._words[ids] + self._places[: len(ids)], "embeddings")
            for layer in range(_LAYERS):
                at = f"encoder.layer.{layer}."
                matrix, bias = self._qkv[layer]
                # (3, heads, tokens, 32)
                query, key, value = (x @ matrix + bias).reshape(len(ids), 3, _HEADS, -1).transpose(1, 2, 0, 3)
                scores = query @ key.transpose(0, 2, 1) / np.float32(np.sqrt(query.shape[-1]))
                scores = np.exp(scores - scores.max(-1, keepdims=True))
                scores /= scores.sum(-1, keepdims=True)
                seen = (scores @ value).transpose(1, 0, 2).reshape(len(ids), -1)
                x = self._normed(
                    x + self._dense(seen, f"{at}attention.output.dense"), f"{at}attention.output"
                )
                inner = self._dense(x, f"{at}intermediate.dense")
                inner = inner * 0.5 * (1 + _erf(inner * np.float32(0.7071067811865476)))
                x = self._normed(x + self._dense(inner, f"{at}output.dense"), f"{at}output")
            pooled = x.mean(0)
        return np.asarray(pooled / max(float(np.linalg.norm(pooled)), 1e-9), dtype=np.float32)


_encoder: Encoder | None = None
_lock = threading.Lock()


def encode(text: str) -> Array:
    """The vector of a text by the process's encoder. Raises EngineUnavailable when the weights are not installed."""
    global _encoder
    if _encoder is None:
        with _lock:
            if _encoder is None:
                _encoder = Encoder()
    return _encoder.encode(text)
