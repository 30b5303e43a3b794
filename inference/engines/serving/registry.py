"""Models loaded for serving: named by tenant schema and digest, few at a time, the least recently used leaving
first."""

from __future__ import annotations

import gc
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from inference.engines import runtime
from inference.engines.base import ChatMessage, EngineIdentity, EngineOptions
from inference.engines.errors import BadRequest, EngineError, EngineNotAble
from inference.engines.serving.loop import BatchLoop, TurnLock
from inference.engines.serving.problems import ServingProblem, bad, unable
from inference.model_store import ModelCorrupt, ModelMissing, ModelStore, StoredModel

logger = logging.getLogger(__name__)

# A PostgreSQL schema as tenants have it, then the digest; nothing in it can climb out of a directory.
MODEL_NAME = re.compile(r"([a-z][a-z0-9_]{0,62})/(?:sha256:)?([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class ServingOptions:
    """How to serve. ``slots`` sequences are computed together, each with at most ``context`` tokens; keys and
    values for all of them are set aside when a model is loaded.

    ``quantise``: "" (decoding in full precision), "int8" or "float16": decode with smaller weights while at most
    ``quantise_rows`` sequences decode; prompts are always computed in full precision. What this costs in quality
    is in docs/design/serving.md.
    """

    device: Literal["cpu", "cuda", "auto"] = "cpu"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    threads: int = 0
    slots: int = 16
    context: int = 2048
    prefill_tokens: int = 512
    queue_limit: int = 64
    models: int = 2
    quantise: Literal["", "int8", "float16"] = ""
    quantise_rows: int = 32

    def __post_init__(self) -> None:
        for name in ("slots", "context", "prefill_tokens", "queue_limit", "models", "quantise_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.quantise not in {"", "int8", "float16"}:
            raise ValueError(f"quantise must be empty, int8 or float16, got {self.quantise!r}.")
        if self.quantise and self.device != "cpu":
            raise ValueError(f"quantise={self.quantise} needs device=cpu; its kernels are the CPU's.")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> ServingOptions:
        """Options from JSON; unknown names are refused."""
        unknown = set(values) - set(cls.__dataclass_fields__)
        if unknown:
            raise ValueError(f"Unknown serving options: {', '.join(sorted(unknown))}.")
        return cls(**values)


class ServedModel:
    """One loaded model with its batch loop, its tokenizer and what it can do."""

    def __init__(
        self, directory: Path, identity: EngineIdentity, options: ServingOptions, turn: TurnLock
    ) -> None:
        from inference.engines.serving.fallback import TransformersRunner
        from inference.engines.serving.llama import FastLlama, why_not_fast
        from inference.engines.torch_engine import TorchEngine

        started = time.perf_counter()
        # The evaluation engine loads and checks it: dtype, context window, end tokens, chat template are the same.
        engine = TorchEngine(
            directory,
            identity,
            EngineOptions(
                dtype=options.dtype, device=options.device, threads=options.threads, share_prefix=False
            ),
        )
        self.identity = identity
        self.options = options
        self._engine = engine
        self._turn = turn
        self.tokenizer = engine._tokenizer
        self.context = min(options.context, engine._max_context)
        environment = engine.environment()
        model = engine._model
        architecture = type(model).__name__
        self.why_not_fast = why_not_fast(model.config, architecture)
        self.vocabulary = engine._vocab
        probe = [(7 * i + 3) % min(engine._vocab, 1000) for i in range(min(12, self.context))]
        runner: Any = None
        with turn.turn():
            if not self.why_not_fast:
                expected = self._own_logits(model, probe)
                runner = FastLlama(
                    model,
                    slots=options.slots,
                    context=self.context,
                    device=engine._device,
                    quantise=options.quantise,
                    quantise_rows=options.quantise_rows,
                )
                self.why_not_fast = self._differs(runner, probe, expected)
                if self.why_not_fast:
                    # The originals were fused away: load again for transformers.
                    runner = None
                    engine = self._engine = TorchEngine(directory, identity, engine.options)
                    model = engine._model
                else:
                    engine.close()
            if runner is None:
                runner = TransformersRunner(
                    model,
                    vocabulary=engine._vocab,
                    slots=options.slots,
                    context=self.context,
                    device=engine._device,
                    exact_head=engine._fast_head,
                )
        del model
        gc.collect()
        self.runner: Any = runner
        self.ends = frozenset(engine._eos)
        self.loop = BatchLoop(
            runner,
            ends=self.ends,
            turn=turn,
            prefill_tokens=options.prefill_tokens,
            queue_limit=options.queue_limit,
        )
        self.environment = environment
        self.load_s = time.perf_counter() - started

    @staticmethod
    def _own_logits(model: Any, tokens: Sequence[int]) -> Any:
        import torch

        with torch.inference_mode():
            device = next(model.parameters()).device
            ids = torch.tensor([list(tokens)], device=device)
            return model(input_ids=ids, use_cache=False).logits[0].float().cpu()

    @staticmethod
    def _differs(runner: Any, tokens: Sequence[int], expected: Any) -> str:
        """Does the fast path give the model's own logits, prompt and decode? "" or what is wrong."""
        import torch

        from inference.engines.serving.runner import Decode, Segment

        low = 1e-3 if runner._dtype == torch.float32 else 0.08
        quantised, runner.quantise = runner.quantise, ""
        try:
            half = len(tokens) // 2
            _, (first,) = runner.step([], [Segment(0, 0, tokens[:half], every=True)])
            rows = [runner.head(first)]
            for position in range(half, len(tokens)):
                logits, _ = runner.step([Decode(tokens[position], position)], [])
                rows.append(logits)
            scale = max(1.0, float(expected.abs().max()))
            if bool((torch.cat(rows) - expected).abs().max() <= low * scale):
                return ""
            return "its logits differ from those of transformers"
        except Exception as error:  # any surprise of shape or signature means: take the plain way
            return f"it could not be computed ({type(error).__name__})"
        finally:
            runner.quantise = quantised
            runner.clear(0)

    # ---- text and tokens ---------------------------------------------------------------------------------------

    def encode(self, text: str, *, param: str) -> list[int]:
        """Tokens of a prompt, the tokenizer's own leading ones included. Raises ServingProblem 400."""
        ids = self._engine._with_prefix(self._engine._encode_plain([text])[0])
        return self.checked(ids or [self._engine._first_token()], param=param)

    def checked(self, ids: list[int], *, param: str) -> list[int]:
        """The ids, if the model knows all of them. Raises ServingProblem 400."""
        if any(not 0 <= token < self.vocabulary for token in ids):
            raise bad(param, f"{param} holds token ids outside 0 to {self.vocabulary - 1}.")
        return ids

    def chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Tokens of a conversation up to where the answer starts. Raises ServingProblem 400."""
        try:
            return self.encode(self._engine.apply_chat_template(messages), param="messages")
        except (BadRequest, EngineNotAble) as error:
            raise bad("messages", str(error)) from error

    def decode(self, ids: Sequence[int]) -> str:
        """Text of an answer's tokens, special tokens left out."""
        return str(
            self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def decode_all(self, ids: Sequence[int]) -> str:
        """Text of tokens, special ones included."""
        return str(
            self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )

    def grammar(self, schema: Mapping[str, Any] | None) -> Any:
        """What holds an answer to a JSON schema. Raises ServingProblem 400 when that cannot be done."""
        from inference.engines.serving.grammar import GrammarProblem

        try:
            return self._grammars.json(schema)
        except ImportError as error:
            raise unable(
                "response_format", "response_format needs the package llguidance, which is not installed."
            ) from error
        except GrammarProblem as error:
            raise bad(
                "response_format", f"response_format: this schema cannot be followed: {error}"
            ) from error

    @cached_property
    def _grammars(self) -> Any:
        from inference.engines.serving.grammar import Grammars

        return Grammars(self.tokenizer, self.vocabulary)

    def facts(self) -> dict[str, Any]:
        """JSON-able state for /health."""
        loop = self.loop
        counters = loop.counters
        return {
            "name": self.identity.name,
            "digest": self.identity.digest,
            "runner": self.runner.name,
            "why_not_fast": self.why_not_fast,
            "dtype": self.environment["dtype"],
            "device": self.environment["device"],
            "quantise": getattr(self.runner, "quantise", ""),
            "slots": self.runner.slots,
            "context": self.context,
            "kv_bytes": self.runner.kv_bytes(),
            "weight_bytes": self.runner.weight_bytes(),
            "active": loop.active,
            "queue_depth": loop.waiting,
            "queue_limit": loop.queue_limit,
            "load_s": round(self.load_s, 2),
            **{name: getattr(counters, name) for name in counters.__slots__},
        }

    def close(self) -> None:
        """End the loop and let go of the weights."""
        self.loop.close()
        self._engine.close()


class ModelRegistry:
    """Loads models from the tenants' stores, at most ``options.models`` at a time."""

    def __init__(self, root: Path, options: ServingOptions) -> None:
        self._root = Path(root)
        self.options = options
        self._loaded: OrderedDict[str, ServedModel] = OrderedDict()
        self._using: dict[str, int] = {}
        self._lock = threading.Lock()
        self._load_lock = threading.Lock()
        self.turn = TurnLock()

    def find(self, name: str) -> StoredModel:
        """The stored model of a request's model name. Raises ServingProblem 400, 404 or 503."""
        parsed = MODEL_NAME.fullmatch(name)
        if parsed is None:
            raise bad(
                "model",
                "model must be <schema>/<digest>: a tenant's schema and the 64 hex digits of a model version.",
                code="model_not_found",
            )
        schema, digest = parsed.groups()
        directory = self._root / schema
        missing = ServingProblem(
            404, f"The model {name} is not in the store.", code="model_not_found", param="model"
        )
        if not directory.is_dir() or directory.resolve().parent != self._root.resolve():
            raise missing
        try:
            return ModelStore(directory).get(f"sha256:{digest}")
        except ModelMissing as error:
            raise missing from error
        except ModelCorrupt as error:
            raise ServingProblem(
                503, str(error), code="model_corrupt", kind="server_error", param="model"
            ) from error

    def get(self, name: str) -> ServedModel:
        """The loaded model; loads it, in the place of the least recently used idle one. Call ``release`` after.

        Raises ServingProblem: 400 for a name that is none, 404 when it is not in the store, 503 when it cannot be
        loaded now.
        """
        parsed = MODEL_NAME.fullmatch(name)
        key = "/".join(parsed.groups()) if parsed else name
        with self._lock:
            if key in self._loaded:
                return self._taken(key)
        stored = self.find(name)
        with self._load_lock:
            with self._lock:
                if key in self._loaded:
                    return self._taken(key)
                leaving = self._room()
            for served in leaving:
                served.close()
            del leaving
            gc.collect()
            identity = EngineIdentity(digest=stored.digest, name=stored.name, parameters=stored.parameters)
            try:
                served = ServedModel(stored.path, identity, self.options, self.turn)
            except (EngineError, MemoryError, OSError, RuntimeError) as error:
                logger.error("A model could not be loaded: %s", type(error).__name__)
                raise ServingProblem(
                    503,
                    f"The model {name} could not be loaded: {error}",
                    code="model_unavailable",
                    kind="server_error",
                    param="model",
                    retry_after_s=5,
                ) from error
            with self._lock:
                self._loaded[key] = served
                return self._taken(key)

    def _taken(self, key: str) -> ServedModel:
        self._loaded.move_to_end(key)
        self._using[key] = self._using.get(key, 0) + 1
        return self._loaded[key]

    def _room(self) -> list[ServedModel]:
        """Idle models taken out of the registry, so that one more fits. Raises ServingProblem 503."""
        leaving = []
        while len(self._loaded) >= self.options.models:
            idle = [
                key for key, served in self._loaded.items() if not self._using.get(key) and served.loop.idle
            ]
            if not idle:
                raise ServingProblem(
                    503,
                    f"All {self.options.models} loaded models are at work; a further one has no room now.",
                    code="engine_busy",
                    kind="server_error",
                    param="model",
                    retry_after_s=2,
                )
            leaving.append(self._loaded.pop(idle[0]))
        return leaving

    def release(self, served: ServedModel) -> None:
        """A request that called ``get`` is finished with it."""
        with self._lock:
            for key, loaded in self._loaded.items():
                if loaded is served:
                    self._using[key] = max(0, self._using.get(key, 0) - 1)

    def loaded(self) -> dict[str, ServedModel]:
        """Loaded models by name, the least recently used first."""
        with self._lock:
            return dict(self._loaded)

    def close(self) -> None:
        """Unload everything."""
        with self._lock:
            leaving = list(self._loaded.values())
            self._loaded.clear()
        for served in leaving:
            served.close()

    def environment(self) -> dict[str, Any]:
        """The machine."""
        return runtime.cpu_facts()
