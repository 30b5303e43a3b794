"""Answers on the wire: JSON bodies, server-sent events, usage, and errors in OpenAI's shape."""

from __future__ import annotations

from typing import Any, TypeGuard

import orjson

from inference.gateway.contract import Call, GatewayProblem, Usage

DONE = b"data: [DONE]\n\n"


def dumps(document: Any) -> bytes:
    """Compact JSON. Lone surrogates, which JSON text may not hold, are replaced."""
    try:
        return orjson.dumps(document)
    except TypeError:
        return orjson.dumps(_clean(document))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value


def event(document: Any) -> bytes:
    """One server-sent event (WHATWG HTML, section 9.2)."""
    return b"data: " + dumps(document) + b"\n\n"


def problem_event(problem: GatewayProblem) -> bytes:
    """An error inside a stream, as OpenAI's clients raise it."""
    return event(problem.body())


def usage_read(document: dict[str, Any], *, tokens_in_bound: int, tokens_out_bound: int) -> Usage | None:
    """Usage as the engine reports it, held within what was reserved; None when it reports none or nonsense.

    An engine that claims more tokens than the request could have used must not be able to overspend a budget.
    """
    usage = document.get("usage")
    if not isinstance(usage, dict):
        return None
    tokens_in, tokens_out = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    if not _count(tokens_in) or not _count(tokens_out):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    compute = usage.get("compute_ms")
    return Usage(
        tokens_in=min(tokens_in, tokens_in_bound),
        tokens_out=min(tokens_out, tokens_out_bound),
        tokens_cached=min(cached, tokens_in, tokens_in_bound) if _count(cached) else 0,
        compute_ms=float(compute) if isinstance(compute, int | float) and 0 <= compute < 1e9 else 0.0,
        estimated=tokens_in > tokens_in_bound or tokens_out > tokens_out_bound,
    )


def _count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def usage_document(usage: Usage, call: Call) -> dict[str, Any]:
    """The ``usage`` a client sees; the same figures as in the ledger."""
    document: dict[str, Any] = {
        "prompt_tokens": usage.tokens_in,
        "total_tokens": usage.tokens_in + usage.tokens_out,
    }
    if call.route != "embeddings":
        document["completion_tokens"] = usage.tokens_out
        document["prompt_tokens_details"] = {"cached_tokens": usage.tokens_cached}
    return document


def output_text(document: dict[str, Any]) -> str:
    """All text of an answer, for digests and for an estimate of its size."""
    parts: list[str] = []
    for choice in document.get("choices") or ():
        message = choice.get("message") or choice.get("delta") or {}
        for value in (
            message.get("content"),
            message.get("refusal"),
            message.get("reasoning_content"),
            choice.get("text"),
        ):
            if isinstance(value, str):
                parts.append(value)
        for call in message.get("tool_calls") or ():
            arguments = (call.get("function") or {}).get("arguments")
            if isinstance(arguments, str):
                parts.append(arguments)
    return "".join(parts)
