"""Client of an OpenAI-compatible server (vLLM, llama.cpp, another Signoff): the engine behind ENGINE_URL.

Only the standard library is used. A request that fails before its first byte is tried once more, because
servers drop kept-alive connections; after the first byte nothing is repeated. Log-likelihoods need
``/v1/completions`` with ``echo`` and ``logprobs`` (vLLM has it, chat-only servers do not) and are offered
only when the caller says so.
"""

from __future__ import annotations

import http.client
import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

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
from inference.engines.errors import BadRequest, EngineError, EngineNotAble, EngineUnavailable

MAX_LINE_BYTES = 1 << 20
MAX_BODY_BYTES = 64 << 20


class OpenAIEngine:
    """One model of one server. ``concurrency`` requests are in flight at once; the server does the batching.

    ``compute_s`` of a result is the request's wall time divided by the requests in flight: the server's own
    compute time cannot be seen from here, and with one request at a time this is what the caller occupies it
    for.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str,
        identity: EngineIdentity | None = None,
        api_key: str = "",
        loglikelihood: bool = False,
        embed: bool = False,
        concurrency: int = 8,
        timeout_s: float = 120.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadRequest(f"ENGINE_URL must look like http://host:8000/v1, got {url[:80]!r}.")
        if concurrency < 1:
            raise BadRequest(f"concurrency must be at least 1, got {concurrency}.")
        self._parts = parts
        path = parts.path.rstrip("/")
        self._path = path if path.endswith("/v1") else f"{path}/v1"
        self._model = model
        self._key = api_key
        self._can = Capabilities(
            generate=True, loglikelihood=loglikelihood, embed=embed, stream=True, chat=True
        )
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self.identity = identity or EngineIdentity(digest="", name=model)

    def capabilities(self) -> Capabilities:
        return self._can

    def environment(self) -> dict[str, Any]:
        """The server's address without credentials; its dtype and hardware are not visible from here."""
        host = f"{self._parts.hostname}:{self._parts.port}" if self._parts.port else str(self._parts.hostname)
        return {
            "engine": "openai",
            "server": f"{self._parts.scheme}://{host}{self._path}",
            "model": self._model,
            "dtype": "unknown",
            "device": "remote",
        }

    def close(self) -> None:
        """Connections are per request; there is nothing to give back."""

    # ---- HTTP ----------------------------------------------------------------------------------------------

    def _open(
        self, path: str, body: dict[str, Any]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        payload = json.dumps(body).encode()
        last: Exception | None = None
        for _ in range(2):
            connection = kind(str(self._parts.hostname), self._parts.port, timeout=self._timeout_s)
            try:
                connection.request("POST", self._path + path, payload, headers)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                last = error
                continue
            if response.status == 200:
                return connection, response
            text = response.read(4096).decode("utf-8", "replace")
            connection.close()
            message = f"The engine answered {response.status} to {path}: {' '.join(text.split())[:300]}"
            if response.status in (408, 425, 429) or response.status >= 500:
                raise EngineUnavailable(message)
            raise BadRequest(message)
        raise EngineUnavailable(
            f"The engine at {self.environment()['server']} cannot be reached: {last}."
        ) from last

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        connection, response = self._open(path, body)
        try:
            raw = response.read(MAX_BODY_BYTES)
            data = json.loads(raw)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise EngineUnavailable(f"The engine's answer to {path} cannot be read: {error}") from error
        finally:
            connection.close()
        if not isinstance(data, dict):
            raise EngineUnavailable(f"The engine's answer to {path} is not a JSON object.")
        return data

    def _map(self, function: Any, requests: Sequence[Any]) -> list[Any]:
        if len(requests) <= 1:
            return [function(request, 1) for request in requests]
        workers = min(self._concurrency, len(requests))
        with ThreadPoolExecutor(max_workers=workers) as pool:
            return list(pool.map(lambda request: function(request, workers), requests))

    # ---- engine --------------------------------------------------------------------------------------------

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """Streamed under the hood, so that the time of the first token is measured and not guessed."""
        arrived = time.perf_counter()

        def one(request: GenerateRequest, in_flight: int) -> Generation:
            return self._generate(request, in_flight, arrived)

        return self._map(one, requests)

    def _generate(self, request: GenerateRequest, in_flight: int, arrived: float) -> Generation:
        *_, last = self._stream(request, in_flight, arrived)
        assert last.final is not None
        return last.final

    def stream(self, request: GenerateRequest) -> Iterator[StreamChunk]:
        return self._stream(request, 1, time.perf_counter())

    def _stream(self, request: GenerateRequest, in_flight: int, arrived: float) -> Iterator[StreamChunk]:
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.stop:
            body["stop"] = list(request.stop)
        if request.messages:
            path = "/chat/completions"
            body["messages"] = [{"role": m.role, "content": m.content} for m in request.messages]
        else:
            path = "/completions"
            body["prompt"] = request.prompt
        began = time.perf_counter()
        connection, response = self._open(path, body)
        text, finish, first_s, pieces = "", "", 0.0, 0
        usage: dict[str, Any] = {}
        try:
            for data in _events(response):
                if isinstance(data.get("error"), dict):
                    raise EngineUnavailable(
                        f"The engine failed while streaming: {data['error'].get('message')}"
                    )
                usage = data["usage"] if isinstance(data.get("usage"), dict) else usage
                for choice in data.get("choices") or []:
                    piece = (choice.get("delta") or {}).get("content") or choice.get("text") or ""
                    finish = choice.get("finish_reason") or finish
                    if piece:
                        first_s = first_s or time.perf_counter() - began
                        pieces += 1
                        text += piece
                        yield StreamChunk(piece)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, EngineError):
                raise
            raise EngineUnavailable(f"The engine's stream broke off: {error}") from error
        finally:
            connection.close()
        total_s = time.perf_counter() - began
        if not finish:
            raise EngineUnavailable(
                "The engine's stream ended without a finish reason; the answer is incomplete."
            )
        yield StreamChunk(
            "",
            Generation(
                text=text,
                finish_reason="stop" if finish == "stop" else "length",
                tokens_in=int(usage.get("prompt_tokens") or 0),
                tokens_out=int(usage.get("completion_tokens") or pieces),
                queue_ms=(began - arrived) * 1000,
                first_token_ms=(first_s or total_s) * 1000,
                total_ms=total_s * 1000,
                compute_s=total_s / in_flight,
            ),
        )

    def loglikelihood(self, requests: Sequence[LogLikelihoodRequest]) -> list[LogLikelihood]:
        if not self._can.loglikelihood:
            raise EngineNotAble(
                f"The engine for {self.identity.name} was not set up for log-likelihoods. They need a "
                "server whose "
                "/v1/completions accepts echo and logprobs, such as vLLM."
            )
        return self._map(self._loglikelihood, requests)

    def _loglikelihood(self, request: LogLikelihoodRequest, in_flight: int) -> LogLikelihood:
        context, continuation = request.context, request.continuation
        spaces = len(context) - len(context.rstrip())
        if spaces:
            continuation, context = context[-spaces:] + continuation, context[:-spaces]
        began = time.perf_counter()
        data = self._post(
            "/completions",
            {
                "model": self._model,
                "prompt": context + continuation,
                "max_tokens": 1,  # some servers refuse 0; the generated token is left out below
                "temperature": 0,
                "echo": True,
                "logprobs": 1,
            },
        )
        elapsed = time.perf_counter() - began
        try:
            found = data["choices"][0]["logprobs"]
            offsets, values = found["text_offset"], found["token_logprobs"]
            best = found.get("top_logprobs") or [None] * len(values)
            end = len(context) + len(continuation)
            # A token belongs to the continuation when it ends inside it: one that straddles the border
            # counts.
            ends = [*offsets[1:], end + 1]
            chosen = [i for i, at in enumerate(offsets) if at < end and ends[i] > len(context)]
            # The very first token of a text has no probability; only an empty context makes that matter.
            scored = [i for i in chosen if values[i] is not None]
            total = math.fsum(float(values[i]) for i in scored)
            greedy = bool(scored) and all(
                best[i] is None or float(values[i]) >= max(map(float, best[i].values())) - 1e-6
                for i in scored
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise EngineNotAble(
                "The engine's answer holds no log-probabilities of the prompt; it cannot score continuations."
            ) from error
        finite = math.isfinite(total) and bool(scored)
        return LogLikelihood(
            sum_logprob=total if finite else None,
            n_tokens=len(scored),
            is_greedy=greedy and finite,
            tokens_in=int((data.get("usage") or {}).get("prompt_tokens") or len(offsets)),
            compute_s=elapsed / in_flight,
        )

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        if not self._can.embed:
            raise EngineNotAble(f"The engine for {self.identity.name} was not set up for embeddings.")
        if not texts:
            return np.zeros((0, EMBEDDING_DIMENSIONS), dtype=np.float32)
        data = self._post("/embeddings", {"model": self._model, "input": list(texts)})
        try:
            rows = sorted(data["data"], key=lambda row: row["index"])
            vectors = np.asarray([row["embedding"] for row in rows], dtype=np.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise EngineUnavailable("The engine's embeddings cannot be read.") from error
        if vectors.shape != (len(texts), EMBEDDING_DIMENSIONS):
            raise EngineNotAble(
                f"Embeddings must have shape ({len(texts)}, {EMBEDDING_DIMENSIONS}), got {vectors.shape}."
            )
        return vectors


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """JSON objects of a server-sent event stream, until [DONE] or the end."""
    while True:
        line = response.readline(MAX_LINE_BYTES)
        if not line:
            return
        if not line.startswith(b"data:"):
            continue
        payload = line[5:].strip()
        if payload == b"[DONE]":
            return
        data = json.loads(payload)
        if isinstance(data, dict):
            yield data
