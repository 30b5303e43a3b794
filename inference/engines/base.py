"""What every engine offers: generate, log-likelihood and embed, over plain dataclasses.

An engine turns text into text, numbers or vectors. It knows nothing of tenants, releases, runs or the
database. Units: times in milliseconds (``*_ms``) or seconds (``*_s``), log-probabilities in nats (natural
logarithm).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from inference.engines.errors import BadRequest

FinishReason = Literal["stop", "length", "error"]
EMBEDDING_DIMENSIONS = 384


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do. A caller asks here before it plans work, so that a run fails at creation, not
    half way."""

    generate: bool = False
    loglikelihood: bool = False
    embed: bool = False
    stream: bool = False
    chat: bool = False


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation; ``role`` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One text to continue, or one conversation to answer (exactly one of ``prompt`` and ``messages``).

    ``temperature`` 0 is greedy and ignores ``top_p`` and ``seed``. Above 0 the same seed gives the same text
    on the same machine with the same dtype. ``stop`` strings end the text and are not part of it.
    """

    prompt: str = ""
    messages: tuple[ChatMessage, ...] = ()
    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.prompt) == bool(self.messages):
            raise BadRequest("Give either a prompt or messages, and not both: one of them must be non-empty.")
        if self.max_tokens < 1:
            raise BadRequest(f"max_tokens must be at least 1, got {self.max_tokens}.")
        if not 0.0 <= self.temperature <= 5.0:
            raise BadRequest(f"temperature must lie in [0, 5], got {self.temperature}.")
        if not 0.0 < self.top_p <= 1.0:
            raise BadRequest(f"top_p must lie in (0, 1], got {self.top_p}.")
        if any(not text for text in self.stop):
            raise BadRequest("A stop string must not be empty.")


@dataclass(frozen=True, slots=True)
class Generation:
    """The answer to one GenerateRequest.

    ``queue_ms``: from the call to the first work on this request (other batches of the same call run before
    it).
    ``first_token_ms`` and ``total_ms``: from the start of that work, so client latency is ``queue_ms +
    total_ms``.
    ``compute_s``: this request's share of the batch's wall time, by tokens; the shares of a batch add up to
    it.
    ``finite``: False when the model produced NaN or infinity; the text then ends at that point.
    ``truncated_tokens``: prompt tokens dropped from the left because the context window was too small.
    """

    text: str
    finish_reason: FinishReason
    tokens_in: int
    tokens_out: int
    queue_ms: float
    first_token_ms: float
    total_ms: float
    compute_s: float
    truncated_tokens: int = 0
    finite: bool = True


@dataclass(frozen=True, slots=True)
class StreamChunk:
    """A piece of streamed text; the last chunk of a stream carries the finished Generation and maybe no
    text."""

    text: str
    final: Generation | None = None


@dataclass(frozen=True, slots=True)
class LogLikelihoodRequest:
    """How likely is ``continuation`` after ``context``? ``context`` may be empty (plain text)."""

    context: str
    continuation: str

    def __post_init__(self) -> None:
        if not self.continuation:
            raise BadRequest("A log-likelihood needs a continuation of at least one character.")


@dataclass(frozen=True, slots=True)
class LogLikelihood:
    """``sum_logprob`` in nats over ``n_tokens`` continuation tokens; None when the model produced NaN or
    infinity.

    ``is_greedy``: greedy decoding would have produced exactly this continuation.
    ``truncated_tokens``: context tokens (or, with no context, leading text tokens) dropped from the left.
    ``tokens_in``: tokens this request needed on its own, context included (a shared context is counted in
    each).
    """

    sum_logprob: float | None
    n_tokens: int
    is_greedy: bool
    tokens_in: int
    truncated_tokens: int = 0
    compute_s: float = 0.0

    @property
    def finite(self) -> bool:
        return self.sum_logprob is not None

    @property
    def nll_per_token(self) -> float | None:
        """Nats per continuation token; None when not finite or when there is no token to score."""
        if self.sum_logprob is None or self.n_tokens == 0:
            return None
        return -self.sum_logprob / self.n_tokens


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to run a model. ``dtype`` auto is settled by a short calibration (see docs/design/engines.md)."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    threads: int = 0  # 0: as many as torch chooses
    batch_tokens: int = 0  # most tokens (padding included) per scoring pass; 0: 512 on CPU, 16,384 on CUDA
    generate_batch: int = 16  # most requests decoded together
    max_context: int = 0  # 0: what the model's configuration says
    share_prefix: bool = True

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """Which model an engine speaks for: the digest of its weights, and a readable name."""

    digest: str
    name: str
    parameters: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Engine(Protocol):
    """A loaded model. Results come back in the order of the requests. Thread-safe by one lock per engine."""

    identity: EngineIdentity

    def capabilities(self) -> Capabilities: ...

    def environment(self) -> dict[str, Any]:
        """JSON-able facts that change results or timings: dtype, device, threads, cpu model, library
        versions."""
        ...

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]: ...

    def stream(self, request: GenerateRequest) -> Iterator[StreamChunk]: ...

    def loglikelihood(self, requests: Sequence[LogLikelihoodRequest]) -> list[LogLikelihood]: ...

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Unit-length vectors, shape (len(texts), 384)."""
        ...

    def close(self) -> None:
        """Give the memory back. Calling it twice is harmless."""
        ...
