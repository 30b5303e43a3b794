"""`/v1/responses` for text: translated to a chat call and back. Nothing is stored, so nothing can be continued by id.

Source: OpenAI API reference, responses and its streaming events (2025).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from inference.gateway.contract import Call, GatewayProblem
from inference.gateway.pipeline import Reply
from inference.gateway.protocol import requests
from inference.gateway.protocol.answers import DONE, dumps
from inference.gateway.protocol.parameters import invalid

_SAME = (
    "temperature",
    "top_p",
    "stream",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "metadata",
    "service_tier",
)
_KNOWN = {*_SAME, "model", "input", "instructions", "max_output_tokens", "text", "store", "truncation", "tools",
          "tool_choice", "parallel_tool_calls", "include", "background", "top_logprobs"}  # fmt: skip
# Given these ways they ask for nothing; any other way they ask for what this gateway does not do.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "store": (False,),
    "truncation": ("disabled",),
    "tools": ([],),
    "tool_choice": ("auto", "none"),
    "parallel_tool_calls": (True, False),
    "include": ([],),
    "background": (False,),
    "top_logprobs": (0,),
}


def call_parse(body: dict[str, Any], *, body_bytes: int) -> tuple[Call, Callable[[Reply], Reply]]:
    """The chat call of a responses request, and what turns its reply into a response.

    Raises GatewayProblem 400 naming the parameter (in the request's own words).
    """
    chat: dict[str, Any] = {"model": body.get("model"), "messages": _messages(body)}
    for name, value in body.items():
        if value is None or name in ("model", "input", "instructions"):
            continue
        if name in _SAME:
            chat[name] = value
        elif name == "max_output_tokens":
            chat["max_tokens"] = value
        elif name == "text":
            _text_format(value, chat)
        elif name in _HARMLESS:
            if value not in _HARMLESS[name]:
                raise invalid(name, f"{name} is not supported here; leave it out.", "unsupported_parameter")
        else:
            code = "unsupported_parameter" if name == "previous_response_id" else "unknown_parameter"
            raise invalid(name, f"Unrecognized request argument supplied: {name[:80]}", code)
    try:
        call = requests.call_parse("chat.completions", chat, body_bytes=body_bytes)
    except GatewayProblem as problem:
        if problem.param:
            problem.param = problem.param.replace("max_tokens", "max_output_tokens").replace(
                "messages", "input"
            )
        raise
    call.route = "responses"
    call.include_usage = True
    identity = f"resp_{secrets.token_hex(16)}"
    return call, lambda reply: _finish(reply, body, identity)


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    instructions = body.get("instructions")
    if instructions is not None:
        if not isinstance(instructions, str):
            raise invalid("instructions", "instructions must be a text.")
        messages.append({"role": "system", "content": instructions})
    given = body.get("input")
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise invalid("input", "input must be a text or a list of messages.")
    for index, item in enumerate(given):
        if not isinstance(item, dict) or item.get("type", "message") != "message":
            raise invalid(f"input[{index}]", f"input[{index}] must be a message; other items are not served.")
        content = item.get("content")
        if isinstance(content, list):
            content = [_part(part, f"input[{index}].content[{n}]") for n, part in enumerate(content)]
        messages.append({"role": item.get("role"), "content": content})
    return messages


def _part(part: Any, where: str) -> dict[str, str]:
    if (
        not isinstance(part, dict)
        or part.get("type") not in ("input_text", "output_text", "text")
        or not isinstance(part.get("text"), str)
    ):
        raise invalid(where, f"{where} must be a text part; images and files are not served.")
    return {"type": "text", "text": part["text"]}


def _text_format(value: Any, chat: dict[str, Any]) -> None:
    if not isinstance(value, dict) or set(value) - {"format", "verbosity"}:
        raise invalid("text", "text must be an object with format.")
    form = value.get("format") or {"type": "text"}
    if not isinstance(form, dict):
        raise invalid("text.format", "text.format must be an object.")
    if form.get("type") == "json_schema":
        schema = {name: item for name, item in form.items() if name != "type"}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form.get("type") != "text":
        chat["response_format"] = form


def _finish(reply: Reply, body: dict[str, Any], identity: str) -> Reply:
    if reply.stream is not None:
        reply.stream = _Events(reply.stream, body, identity)
    elif reply.status == 200:
        chat = orjson.loads(reply.body)
        choice = chat["choices"][0]
        text = choice["message"].get("content") or ""
        reply.body = dumps(
            _response(body, identity, chat["model"], text, choice.get("finish_reason"), chat.get("usage"))
        )
    return reply


def _usage(usage: dict[str, Any] | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": usage.get("completion_tokens", 0),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }


def _response(
    body: dict[str, Any],
    identity: str,
    model: str,
    text: str | None,
    finish: str | None,
    usage: dict[str, Any] | None,
) -> dict[str, Any]:
    """A response object; ``text`` None while nothing was said yet."""
    reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
    running = finish is None
    incomplete = reasons.get(finish or "")
    status = "in_progress" if running else "incomplete" if incomplete else "completed"
    output = [] if text is None else [_message(identity, text, "incomplete" if incomplete else "completed")]
    return {
        "id": identity,
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "error": None,
        "incomplete_details": {"reason": incomplete} if incomplete else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "store": False,
        "temperature": body.get("temperature"),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": body.get("top_p"),
        "truncation": "disabled",
        "usage": _usage(usage),
        "metadata": body.get("metadata") or {},
    }


def _message(identity: str, text: str, status: str) -> dict[str, Any]:
    content = [] if status == "in_progress" else [_output_text(text)]
    return {
        "id": f"msg_{identity.removeprefix('resp_')}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def _output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


class _Events:
    """A chat stream retold as response events. Closing it closes the chat stream."""

    def __init__(self, chat: Iterator[bytes], body: dict[str, Any], identity: str) -> None:
        self._chat = chat
        self._body = body
        self._identity = identity
        self._number = 0
        self._events = self._tell()

    def __iter__(self) -> Iterator[bytes]:
        return self._events

    def __next__(self) -> bytes:
        return next(self._events)

    def close(self) -> None:
        """The client went away, or all was told."""
        self._events.close()
        close = getattr(self._chat, "close", None)
        if close is not None:
            close()

    def _event(self, kind: str, **fields: Any) -> bytes:
        document = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + dumps(document) + b"\n\n"

    def _tell(self) -> Any:
        item = f"msg_{self._identity.removeprefix('resp_')}"
        place = {"item_id": item, "output_index": 0, "content_index": 0}
        text, finish, usage, model, begun = "", None, None, str(self._body.get("model")), False
        for raw in self._chat:
            for line in raw.split(b"\n"):
                if not line.startswith(b"data: ") or line == DONE.strip():
                    continue
                chunk = orjson.loads(line[6:])
                if "error" in chunk:
                    error = chunk["error"]
                    yield self._event(
                        "error",
                        code=error.get("code"),
                        message=error.get("message"),
                        param=error.get("param"),
                    )
                    return
                model = chunk.get("model") or model
                usage = chunk.get("usage") or usage
                if not begun:
                    begun = True
                    response = _response(self._body, self._identity, model, None, None, None)
                    yield self._event("response.created", response=response)
                    yield self._event("response.in_progress", response=response)
                    yield self._event(
                        "response.output_item.added",
                        output_index=0,
                        item=_message(self._identity, "", "in_progress"),
                    )
                    yield self._event("response.content_part.added", **place, part=_output_text(""))
                for choice in chunk.get("choices") or ():
                    piece = (choice.get("delta") or {}).get("content")
                    if piece:
                        text += piece
                        yield self._event("response.output_text.delta", **place, delta=piece, logprobs=[])
                    finish = choice.get("finish_reason") or finish
        final = _response(self._body, self._identity, model, text, finish or "stop", usage)
        yield self._event("response.output_text.done", **place, text=text, logprobs=[])
        yield self._event("response.content_part.done", **place, part=_output_text(text))
        yield self._event("response.output_item.done", output_index=0, item=final["output"][0])
        kind = "response.completed" if final["status"] == "completed" else "response.incomplete"
        yield self._event(kind, response=final)
