"""The engine's HTTP: a plain WSGI application for granian's threads, reached only by the gateway.

It never logs what it is sent. A stream whose reader is gone is closed by the server, which cancels its
sequences; see docs/design/serving.md for what a request that is not streamed can know.
"""

from __future__ import annotations

import base64
import hmac
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from inference.engines.errors import EngineError
from inference.engines.serving import protocol
from inference.engines.serving.answers import Answer
from inference.engines.serving.problems import ServingProblem, bad, failed
from inference.engines.serving.registry import MODEL_NAME, ModelRegistry, ServedModel, ServingOptions

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 16 * 1024 * 1024
EMBEDDING_MODEL = "all-MiniLM-L6-v2"
StartResponse = Callable[..., Any]
Environ = Mapping[str, Any]
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    411: "Length Required",
    413: "Content Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class ServingApp:
    """WSGI application. ``token``: what callers must show as bearer token; "" lets everybody in (tests)."""

    def __init__(self, root: Path, *, token: str, options: ServingOptions | None = None) -> None:
        self._token = token.encode()
        self.registry = ModelRegistry(root, options or ServingOptions())
        self._started = time.time()
        self._requests = 0
        self._count = threading.Lock()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        try:
            return self._route(environ, start_response)
        except ServingProblem as problem:
            return _refuse(start_response, problem)
        except Exception:
            logger.exception("A request failed")
            return _refuse(start_response, failed("The engine failed on this request."))

    def _route(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path, method = str(environ.get("PATH_INFO", "")), str(environ.get("REQUEST_METHOD", ""))
        if path == "/health":
            known = not self._token or self._shown_token(environ)
            return _send(start_response, 200, self.health() if known else {"status": "ok"})
        if not self._shown_token(environ):
            raise ServingProblem(
                401,
                "The engine is reached through the gateway; this token is not its.",
                code="invalid_api_key",
                kind="authentication_error",
            )
        wanted = {"/v1/models": "GET", "/v1/embeddings": "POST"} | dict.fromkeys(protocol.PARSERS, "POST")
        if path not in wanted:
            raise ServingProblem(404, f"There is nothing at {path[:200]}.", code="not_found")
        if method != wanted[path]:
            raise ServingProblem(405, f"{path} takes {wanted[path]}.", code="method_not_allowed")
        if path == "/v1/models":
            return _send(start_response, 200, self._models())
        body = _read(environ)
        with self._count:
            self._requests += 1
        if path == "/v1/embeddings":
            return self._embed(protocol.parse_embedding(body), start_response)
        return self._complete(protocol.PARSERS[path](body), start_response)

    def _shown_token(self, environ: Environ) -> bool:
        if not self._token:
            return True
        kind, _, shown = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(shown.strip().encode(), self._token)

    # ---- answers -----------------------------------------------------------------------------------------------

    def _complete(self, ask: protocol.Ask, start_response: StartResponse) -> Iterable[bytes]:
        served = self.registry.get(ask.model)
        handed_over = False
        try:
            answer = Answer(served, ask)
            answer.start()
            if ask.stream:
                # granian reads a response's headers before its first chunk; what can be refused was refused above.
                start_response(
                    "200 OK",
                    [
                        ("content-type", "text/event-stream; charset=utf-8"),
                        ("cache-control", "no-store"),
                        ("x-engine-request-id", answer.id),
                    ],
                )
                handed_over = True
                return _EventStream(self.registry, served, answer)
            try:
                whole = answer.whole()
            finally:
                answer.cancel()
            return _send(
                start_response,
                200,
                whole,
                [("x-compute-ms", f"{answer.compute_ms}"), ("x-queue-ms", f"{answer.queue_ms}")],
            )
        finally:
            if not handed_over:
                self.registry.release(served)

    def _embed(self, ask: protocol.EmbedAsk, start_response: StartResponse) -> Iterable[bytes]:
        from inference.engines.embeddings import MAX_TOKENS, shared_embedder

        if ask.model.lower() != EMBEDDING_MODEL.lower() and MODEL_NAME.fullmatch(ask.model):
            self.registry.find(ask.model)
        elif ask.model.lower() != EMBEDDING_MODEL.lower():
            raise ServingProblem(
                404, f"Embeddings are made by {EMBEDDING_MODEL}.", code="model_not_found", param="model"
            )
        arrived = time.perf_counter()
        try:
            engine = shared_embedder()
            with self.registry.turn.turn():
                began = time.perf_counter()
                vectors = engine.embed(ask.texts)
                compute_ms = round(1000 * (time.perf_counter() - began), 3)
        except EngineError as error:
            raise ServingProblem(503, str(error), code="model_unavailable", kind="server_error") from error
        queue_ms = round(1000 * (began - arrived), 3)
        lengths = [len(ids) for ids in engine._tokenizer(list(ask.texts), verbose=False)["input_ids"]]
        data = []
        for index, vector in enumerate(vectors):
            shown: Any = (
                base64.b64encode(vector.astype("<f4").tobytes()).decode() if ask.base64 else vector.tolist()
            )
            data.append({"object": "embedding", "index": index, "embedding": shown})
        used = sum(min(length, MAX_TOKENS) for length in lengths)
        usage = {"prompt_tokens": used, "total_tokens": used, "compute_ms": compute_ms, "queue_ms": queue_ms}
        # A text longer than the model reads is cut; the caller can see how much.
        cut = sum(max(0, length - MAX_TOKENS) for length in lengths)
        if cut:
            usage["truncated_tokens"] = cut
        return _send(
            start_response,
            200,
            {"object": "list", "model": ask.model, "data": data, "usage": usage},
            [("x-compute-ms", f"{compute_ms}"), ("x-queue-ms", f"{queue_ms}")],
        )

    def _models(self) -> dict[str, Any]:
        names = [*self.registry.loaded(), EMBEDDING_MODEL]
        created = int(self._started)
        return {
            "object": "list",
            "data": [
                {"id": name, "object": "model", "created": created, "owned_by": "signoff"} for name in names
            ],
        }

    def health(self) -> dict[str, Any]:
        """State of the process: loaded models, their queues, and the memory set aside."""
        models = {name: served.facts() for name, served in self.registry.loaded().items()}
        return {
            "status": "ok",
            "uptime_s": round(time.time() - self._started, 1),
            "requests": self._requests,
            "queue_depth": sum(facts["queue_depth"] for facts in models.values()),
            "active": sum(facts["active"] for facts in models.values()),
            "kv_bytes": sum(facts["kv_bytes"] for facts in models.values()),
            "weight_bytes": sum(facts["weight_bytes"] for facts in models.values()),
            "loaded": models,
            "model_limit": self.registry.options.models,
        }


class _EventStream:
    """Server-sent events of one answer. The server closes it when the reader is gone."""

    def __init__(self, registry: ModelRegistry, served: ServedModel, answer: Answer) -> None:
        self._registry, self._served, self._answer = registry, served, answer
        self._events = self._make()
        self._released = False

    def _make(self) -> Iterator[bytes]:
        try:
            for chunk in self._answer.chunks():
                yield b"data: " + orjson.dumps(chunk) + b"\n\n"
        except ServingProblem as problem:
            yield b"data: " + orjson.dumps(problem.body()) + b"\n\n"
            return
        except GeneratorExit:
            raise
        except Exception:
            logger.exception("A stream failed")
            yield b"data: " + orjson.dumps(failed("The engine failed on this request.").body()) + b"\n\n"
            return
        yield b"data: [DONE]\n\n"

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._events)
        except StopIteration:
            self.close()
            raise

    def close(self) -> None:
        """Cancel what is left and give the model back; harmless when all is done."""
        self._answer.cancel()
        if not self._released:
            self._released = True
            self._registry.release(self._served)

    def __del__(self) -> None:
        # A server that forgets to close must not leave a sequence running.
        self.close()


def _read(environ: Environ) -> dict[str, Any]:
    """The JSON body. Raises ServingProblem 400, 411 or 413."""
    try:
        length = int(environ.get("CONTENT_LENGTH") or 0)
    except ValueError as error:
        raise ServingProblem(411, "Content-Length is not a number.", code="length_required") from error
    if length > MAX_BODY_BYTES:
        raise ServingProblem(413, f"The body is longer than {MAX_BODY_BYTES:,} bytes.", code="body_too_large")
    if length <= 0 and environ.get("HTTP_TRANSFER_ENCODING"):
        raw = environ["wsgi.input"].read(MAX_BODY_BYTES + 1)
        if len(raw) > MAX_BODY_BYTES:
            raise ServingProblem(
                413, f"The body is longer than {MAX_BODY_BYTES:,} bytes.", code="body_too_large"
            )
    else:
        raw = environ["wsgi.input"].read(length) if length else b""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ServingProblem(400, "The body is not JSON.", code="invalid_json") from error
    if not isinstance(body, dict):
        raise bad("", "The body must be a JSON object.", code="invalid_json")
    return body


def _send(
    start_response: StartResponse, status: int, body: Any, headers: list[tuple[str, str]] | None = None
) -> list[bytes]:
    raw = orjson.dumps(body)
    start_response(
        f"{status} {_REASONS.get(status, 'Unknown')}",
        [("content-type", "application/json"), ("content-length", str(len(raw))), *(headers or [])],
    )
    return [raw]


def _refuse(start_response: StartResponse, problem: ServingProblem) -> list[bytes]:
    headers = []
    if problem.retry_after_s is not None:
        headers.append(("retry-after", str(max(1, round(problem.retry_after_s)))))
    return _send(start_response, problem.status, problem.body(), headers)
