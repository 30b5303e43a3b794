"""Stored answers as a stream: the chunks an engine would have sent, with usage."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

# Characters per content chunk: few enough chunks to be cheap, small enough to look like a stream to its reader.
_CHUNK_CHARS = 48


def replay_chunks(
    answer: Mapping[str, Any],
    *,
    include_usage: bool = True,
    request_id: str = "",
    created: int | None = None,
    model: str = "",
) -> list[dict[str, Any]]:
    """The OpenAI stream chunks of a stored chat or text completion, in order, without ``[DONE]``.

    Joining the deltas of each choice gives the stored answer. As OpenAI does, usage comes in a last chunk without
    choices, and only when asked for.

    Args:
        answer: body of a ``chat.completion`` or ``text_completion``.
        request_id, created, model: replace the stored ones when given.
    Raises:
        ValueError: the answer is neither (an embedding has no stream).
    """
    kind = answer.get("object")
    if kind not in {"chat.completion", "text_completion"}:
        raise ValueError(f"An answer of kind {kind!r} has no stream.")
    head: dict[str, Any] = {
        "id": request_id or answer.get("id", ""),
        "object": "chat.completion.chunk" if kind == "chat.completion" else "text_completion",
        "created": created if created is not None else answer.get("created", int(time.time())),
        "model": model or answer.get("model", ""),
    }
    if answer.get("system_fingerprint"):
        head["system_fingerprint"] = answer["system_fingerprint"]
    chunks = []
    for choice in answer.get("choices", []):
        parts = _chat_parts(choice) if kind == "chat.completion" else _text_parts(choice)
        chunks += [{**head, "choices": [{"index": choice.get("index", 0), **part}]} for part in parts]
    if include_usage:
        chunks.append({**head, "choices": [], "usage": dict(answer.get("usage") or {})})
    return chunks


def _cut(text: str) -> list[str]:
    return [text[start : start + _CHUNK_CHARS] for start in range(0, len(text), _CHUNK_CHARS)]


def _chat_parts(choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    message = choice.get("message") or {}
    logprobs = choice.get("logprobs")

    def part(delta: dict[str, Any], finish: Any = None) -> dict[str, Any]:
        return {"delta": delta, "logprobs": None, "finish_reason": finish}

    parts = [part({"role": message.get("role", "assistant"), "content": ""})]
    for name in ("reasoning_content", "refusal"):
        parts += [part({name: piece}) for piece in _cut(message.get(name) or "")]
    texts = _cut(message.get("content") or "")
    if logprobs and texts:
        texts = ["".join(texts)]  # they belong to tokens; one chunk carries both whole
    parts += [part({"content": piece}) for piece in texts]
    if logprobs:
        parts[-1]["logprobs"] = logprobs
    for index, call in enumerate(message.get("tool_calls") or []):
        function = dict(call.get("function") or {})
        arguments = function.pop("arguments", "")
        first = {**call, "index": index, "function": {**function, "arguments": ""}}
        parts.append(part({"tool_calls": [first]}))
        parts += [
            part({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
            for piece in _cut(arguments)
        ]
    parts.append(part({}, choice.get("finish_reason")))
    return parts


def _text_parts(choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    logprobs = choice.get("logprobs")
    text = choice.get("text") or ""
    pieces = [text] if logprobs else _cut(text)
    parts = [{"text": piece, "logprobs": logprobs, "finish_reason": None} for piece in pieces]
    return [*parts, {"text": "", "logprobs": None, "finish_reason": choice.get("finish_reason")}]
