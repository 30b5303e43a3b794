"""An engine that answers at once: raw ASGI, so that what a benchmark measures is the gateway in front of it.

    granian --interface asgi --no-ws --workers 1 --port 9100 benchmarks.gateway_stub:application

``/v1/chat/completions`` answers whole, or with a stream of 20 pieces when the body asks for one.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

CHUNKS = 20
TEXT = (
    "Thank you for your message. The order has left the warehouse and arrives on Thursday between nine and "
    "noon. If the parcel is late, write to support and name the order number, and somebody will look into it."
)
_HEAD: dict[str, Any] = {"id": "chatcmpl-stub", "created": 1_700_000_000, "model": "stub"}
_USAGE = {"prompt_tokens": 220, "completion_tokens": CHUNKS, "total_tokens": 220 + CHUNKS}
ANSWER = json.dumps(
    {
        **_HEAD,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
        "usage": _USAGE,
    }
).encode()


def _event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    document = {**_HEAD, "object": "chat.completion.chunk", "choices": choices, **more}
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def _pieces() -> list[bytes]:
    size = -(-len(TEXT) // CHUNKS)
    parts = [TEXT[start : start + size] for start in range(0, len(TEXT), size)]
    events = [
        _event([{"index": 0, "delta": {"content": part}, "finish_reason": None}]) for part in parts[:CHUNKS]
    ]
    events.append(_event([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
    events.append(_event([], usage=_USAGE))
    events.append(b"data: [DONE]\n\n")
    return events


EVENTS = _pieces()
MODELS = json.dumps({"object": "list", "data": [{"id": "stub", "object": "model"}]}).encode()
_JSON = [(b"content-type", b"application/json")]
_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8")]

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """ASGI 3."""
    if scope["type"] != "http":
        return
    if scope["method"] == "GET":
        await _whole(send, MODELS)
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if b'"stream":true' not in body and b'"stream": true' not in body:
        await _whole(send, ANSWER)
        return
    await send({"type": "http.response.start", "status": 200, "headers": _STREAM})
    for event in EVENTS:
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _whole(send: Send, body: bytes) -> None:
    headers = [*_JSON, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
