"""From a WSGI request to the pipeline and back: paths, methods, sizes, headers, errors."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Protocol

from django.conf import settings

from inference.gateway import API_VERSION
from inference.gateway.authentication import caller_authenticate
from inference.gateway.batches import handle_batches
from inference.gateway.contract import Caller, GatewayProblem, RouteName
from inference.gateway.files import handle_files
from inference.gateway.pipeline import Exchange, Reply
from inference.gateway.protocol import responses_api
from inference.gateway.protocol.answers import dumps
from inference.gateway.protocol.requests import body_parse, call_parse
from inference.gateway.routing import model_list
from tenants.db import connection

logger = logging.getLogger("signoff.gateway")

MAX_BODY_BYTES = 8 * 1024 * 1024
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_REASONS = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
_GENERATE: dict[str, RouteName] = {
    "/v1/chat/completions": "chat.completions",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/responses": "responses",
}

Environ = dict[str, Any]
Headers = list[tuple[str, str]]


class StartResponse(Protocol):
    """PEP 3333."""

    def __call__(self, status: str, headers: Headers, /) -> Any: ...


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Serve one request. Every answer carries a request id and a trace; every error has OpenAI's shape."""
    began = time.perf_counter()
    path = environ.get("PATH_INFO", "")
    if path in ("/healthz", "/livez"):
        start_response("200 OK", [("content-type", "text/plain"), ("content-length", "2")])
        return [b"ok"]
    trace = _trace(environ.get("HTTP_TRACEPARENT", ""))
    given = environ.get("HTTP_X_REQUEST_ID", "")
    request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
    common = {"x-request-id": request_id, "traceparent": trace, "x-signoff-api-version": API_VERSION}
    try:
        reply = _dispatch(environ, path, request_id=request_id, trace=trace, began=began)
    except GatewayProblem as problem:
        reply = reply_of(problem)
    except Exception:
        logger.exception("request failed", extra={"path": path, "request_id": request_id})
        reply = reply_of(
            GatewayProblem(
                500,
                f"The gateway failed on this request. Quote {request_id} when you report it.",
                code="internal_error",
                type="server_error",
            )
        )
    finally:
        _give_connection_back()
    headers: Headers = [*common.items(), *reply.headers.items()]
    if reply.stream is not None:
        headers += [("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-store")]
        # Proxies that collect answers before passing them on would undo the stream.
        headers.append(("x-accel-buffering", "no"))
        start_response(_REASONS[reply.status], headers)
        return reply.stream
    if "content-type" not in reply.headers:
        headers.append(("content-type", "application/json"))
    headers += [("content-length", str(len(reply.body))), ("cache-control", "no-store")]
    start_response(_REASONS.get(reply.status, str(reply.status)), headers)
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [reply.body]


def reply_of(problem: GatewayProblem) -> Reply:
    """A problem as an answer."""
    headers = dict(problem.headers)
    if problem.retry_after_s is not None:
        headers["retry-after"] = str(max(1, int(-(-problem.retry_after_s // 1))))
    if problem.status == 401:
        headers["www-authenticate"] = 'Bearer realm="signoff"'
    return Reply(problem.status, headers, dumps(problem.body()))


def _give_connection_back() -> None:
    """Django's connection of this thread, if a cold path took one, goes back to the pool."""
    if connection.connection is not None and not connection.in_atomic_block:
        connection.close()


def _trace(header: str) -> str:
    """The caller's trace with a parent of our own, or a new one (W3C Trace Context, section 3.2)."""
    match = _TRACEPARENT.fullmatch(header.strip())
    trace_id = match.group(1) if match and match.group(1).strip("0") else secrets.token_hex(16)
    return f"00-{trace_id}-{secrets.token_hex(8)}-01"


def _address(environ: Environ) -> str:
    """Who calls, as policies see it: the peer, or what the proxy in front says when there is one."""
    if settings.BEHIND_PROXY:
        forwarded = environ.get("HTTP_X_FORWARDED_FOR", "").rpartition(",")[2].strip()
        if forwarded:
            return str(forwarded)[:45]
    return str(environ.get("REMOTE_ADDR", ""))


def _read(environ: Environ) -> bytes:
    length = environ.get("CONTENT_LENGTH") or ""
    too_large = GatewayProblem(
        413, f"The body is larger than {MAX_BODY_BYTES:,} bytes.", code="body_too_large"
    )
    if length.isdecimal() and int(length) > MAX_BODY_BYTES:
        raise too_large
    stream = environ["wsgi.input"]
    raw: bytes = stream.read(int(length)) if length.isdecimal() else stream.read(MAX_BODY_BYTES + 1)
    if len(raw) > MAX_BODY_BYTES:
        raise too_large
    return raw


def _dispatch(environ: Environ, path: str, *, request_id: str, trace: str, began: float) -> Reply:
    method = environ["REQUEST_METHOD"]
    route = _GENERATE.get(path)
    known = route is not None or path.startswith(("/v1/models", "/v1/files", "/v1/batches"))
    if not known:
        raise GatewayProblem(
            404, f"Unknown request URL: {method} {path[:200]}. The API begins at /v1.", code="unknown_url"
        )
    caller = caller_authenticate(
        authorization=environ.get("HTTP_AUTHORIZATION", ""),
        host=environ.get("HTTP_HOST", ""),
        ip=_address(environ),
    )
    if route is not None:
        _only(method, "POST")
        return _generate(environ, route, caller, request_id=request_id, trace=trace, began=began)
    if path == "/v1/models" or path.startswith("/v1/models/"):
        _only(method, "GET", "HEAD")
        return _models(path, caller)
    handler: Callable[..., tuple[int, Any]] = handle_files if path.startswith("/v1/files") else handle_batches
    status, document = handler(method, path, caller, environ)
    if isinstance(document, bytes):
        return Reply(status, {"content-type": "application/octet-stream"}, document)
    return Reply(status, {}, dumps(document))


def _only(method: str, *allowed: str) -> None:
    if method not in allowed:
        raise GatewayProblem(
            405,
            f"Not allowed to {method} here. Use {' or '.join(allowed)}.",
            code="method_not_allowed",
            headers={"allow": ", ".join(allowed)},
        )


def _models(path: str, caller: Caller) -> Reply:
    models = model_list(caller)
    wanted = path.removeprefix("/v1/models").lstrip("/")
    if not wanted:
        return Reply(200, {}, dumps({"object": "list", "data": models}))
    for model in models:
        if model["id"] == wanted:
            return Reply(200, {}, dumps(model))
    raise GatewayProblem(
        404,
        f"The model `{wanted[:120]}` does not exist or you do not have access to it.",
        code="model_not_found",
        param="model",
    )


def _generate(
    environ: Environ, route: RouteName, caller: Caller, *, request_id: str, trace: str, began: float
) -> Reply:
    raw = _read(environ)
    body = body_parse(raw)
    if route == "responses":
        call, finish = responses_api.call_parse(body, body_bytes=len(raw))
    else:
        call, finish = call_parse(route, body, body_bytes=len(raw)), None
    call.request_id, call.traceparent = request_id, trace
    control = environ.get("HTTP_CACHE_CONTROL", "") or environ.get("HTTP_X_SIGNOFF_CACHE", "")
    if control:
        directives = {part.strip().lower() for part in control.split(",")}
        call.cache_control = (
            "no-store" if "no-store" in directives else "no-cache" if "no-cache" in directives else ""
        )
    conversation = environ.get("HTTP_X_SIGNOFF_CONVERSATION", "")
    if conversation:
        call.conversation = conversation[:200]
    exchange = Exchange(call, caller, began=began)
    reply = exchange.run()
    return finish(reply) if finish is not None else reply
