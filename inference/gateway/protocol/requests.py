"""From bytes to a `Call`, and from a `Call` to what the engine is sent."""

from __future__ import annotations

from typing import Any

import orjson

from inference.evaluation.config import ConfigInvalid, PromptTemplate
from inference.gateway.contract import Call, GatewayProblem, RouteName, RouteTarget
from inference.gateway.protocol.parameters import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    GATEWAY_ONLY,
    MAX_BATCHED_INPUTS,
    check_parameters,
    invalid,
)

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_CHAT_CONTENT = frozenset({"model", "messages"})
_COMPLETION_CONTENT = frozenset({"model", "prompt"})
_EMBEDDING_CONTENT = frozenset({"model", "input"})
MAX_MESSAGES = 2048
# What a chat template may add per message, and once (a default system text), in tokens.
_TOKENS_PER_MESSAGE = 16
_TOKENS_PER_TEMPLATE = 64


def body_parse(raw: bytes) -> dict[str, Any]:
    """The JSON object of a request. Raises GatewayProblem 400 in the caller's terms."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise GatewayProblem(
            400, f"The body is not valid JSON: {str(error)[:200]}", code="invalid_json"
        ) from None
    if not isinstance(body, dict):
        raise GatewayProblem(400, "The body must be a JSON object.", code="invalid_json")
    return body


def call_parse(route: RouteName, body: dict[str, Any], *, body_bytes: int) -> Call:
    """Check a request and name its parts. Raises GatewayProblem 400 naming the first wrong parameter."""
    model = body.get("model")
    if not isinstance(model, str) or not model or len(model) > 200:
        raise invalid("model", "model must name a product or a release, for example product@1.0.0.")
    if route == "chat.completions":
        check_parameters(body, CHAT, _CHAT_CONTENT)
        _check_messages(body.get("messages"))
        if "max_completion_tokens" in body:
            if "max_tokens" in body:
                raise invalid("max_tokens", "Give max_completion_tokens or max_tokens, not both.")
            # The same limit; engines know the older name.
            body["max_tokens"] = body.pop("max_completion_tokens")
        if "top_logprobs" in body and not body.get("logprobs"):
            raise invalid("top_logprobs", "top_logprobs needs logprobs to be true.")
        content = _CHAT_CONTENT
    elif route == "completions":
        check_parameters(body, COMPLETIONS, _COMPLETION_CONTENT)
        _check_prompt(body.get("prompt"))
        if body.get("best_of", body.get("n", 1)) != body.get("n", 1):
            raise invalid("best_of", "best_of must equal n: this gateway ranks nothing.")
        body.pop("best_of", None)
        if body.get("max_tokens") == 0 and not body.get("echo"):
            raise invalid("max_tokens", "max_tokens may be 0 only with echo.")
        content = _COMPLETION_CONTENT
    else:
        check_parameters(body, EMBEDDINGS, _EMBEDDING_CONTENT)
        _check_input(body.get("input"))
        content = _EMBEDDING_CONTENT
    stream = bool(body.get("stream", False))
    if "stream_options" in body and not stream:
        raise invalid("stream_options", "stream_options needs stream to be true.")
    if body.get("top_p") == 0:
        raise invalid("top_p", "top_p must be above 0.")
    metadata = body.get("metadata") or {}
    return Call(
        route=route,
        model=model,
        body=body,
        body_bytes=body_bytes,
        stream=stream,
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        n=body.get("n", 1) * _prompts(route, body),
        max_tokens=body.get("max_tokens"),
        user=body.get("user") or body.get("safety_identifier") or "",
        conversation=metadata.get("conversation_id", ""),
        metadata=metadata,
        parameters=tuple(name for name in body if name not in content),
    )


def _prompts(route: RouteName, body: dict[str, Any]) -> int:
    """How many prompts a completions request holds."""
    prompt = body.get("prompt") if route == "completions" else None
    return len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise invalid("messages", "messages must be a list of at least one message.")
    if len(messages) > MAX_MESSAGES:
        raise invalid("messages", f"At most {MAX_MESSAGES:,} messages; this has {len(messages):,}.")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise invalid(where, f"{where} must be an object.")
        if message.get("role") not in ROLES:
            raise invalid(f"{where}.role", f"{where}.role must be one of {', '.join(sorted(ROLES))}.")
        content = message.get("content")
        if isinstance(content, str):
            continue
        if content is None:
            if message["role"] == "assistant" and (
                message.get("tool_calls") or message.get("function_call") or message.get("refusal")
            ):
                continue
            raise invalid(f"{where}.content", f"{where}.content must be a text or a list of text parts.")
        if not isinstance(content, list) or not content:
            raise invalid(f"{where}.content", f"{where}.content must be a text or a list of text parts.")
        for number, part in enumerate(content):
            kind = part.get("type") if isinstance(part, dict) else None
            if kind not in ("text", "refusal") or not isinstance(part.get(kind), str):
                raise invalid(
                    f"{where}.content[{number}]",
                    f"{where}.content[{number}] must be a text part; images, audio and files are not served.",
                )


def _is_token_list(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**31 for item in value)
    )


def _check_texts(name: str, value: Any) -> None:
    if isinstance(value, str) or _is_token_list(value):
        return
    if (
        isinstance(value, list)
        and 1 <= len(value) <= MAX_BATCHED_INPUTS
        and (all(isinstance(item, str) for item in value) or all(_is_token_list(item) for item in value))
    ):
        return
    raise invalid(
        name,
        f"{name} must be a text, a list of at most {MAX_BATCHED_INPUTS} texts, a list of token ids, "
        f"or a list of such lists.",
    )


def _check_prompt(prompt: Any) -> None:
    _check_texts("prompt", prompt)


def _check_input(value: Any) -> None:
    _check_texts("input", value)
    for text in value if isinstance(value, list) else [value]:
        if text == "":
            raise invalid("input", "input must not hold an empty text.")


def release_applied(call: Call, target: RouteTarget) -> None:
    """Make the call one of the release's: its system text, its template and its decoding where the client is silent.

    Completions are raw, as evaluation harnesses need them: only decoding defaults apply. Chat gets system text
    and template when the release's prompt is a chat prompt; the release's system text comes first and stays.
    """
    config = target.config
    body = call.body
    if call.route == "embeddings":
        return
    decoding = config.get("decoding") or {}
    # A seed of the release would make every sampled answer the same; a client that wants that says so.
    for name in ("max_tokens", "temperature", "top_p"):
        if name not in body and name in decoding:
            body[name] = decoding[name]
    if "stop" not in body and decoding.get("stop"):
        body["stop"] = list(decoding["stop"])
    call.max_tokens = body.get("max_tokens", 16)
    prompt = config.get("prompt") or {}
    if call.route == "completions" or not prompt.get("chat"):
        return
    messages = body["messages"]
    template = prompt.get("template") or "{input}"
    if template != "{input}":
        for index in range(len(messages) - 1, -1, -1):
            message = messages[index]
            if message["role"] == "user" and isinstance(message["content"], str):
                try:
                    text = PromptTemplate(template=template).render(message["content"])
                except ConfigInvalid:  # stored before the rule was made; the text goes as it is
                    break
                messages[index] = {**message, "content": text}
                break
    if prompt.get("system"):
        messages.insert(0, {"role": "system", "content": prompt["system"]})


def engine_body(call: Call, *, stream_usage: bool = True) -> dict[str, Any]:
    """The body for the engine: without what is the gateway's own business, with usage asked for in streams.

    ``model`` is set by the pool, because each upstream has its own name for it.
    """
    body = {name: value for name, value in call.body.items() if name not in GATEWAY_ONLY}
    if call.stream and stream_usage:
        body["stream_options"] = {"include_usage": True}
    return body


def _content_bytes(content: Any) -> int:
    """UTF-8 bytes of a message's content, a prompt or an input; for token ids their number."""
    if isinstance(content, str):
        return len(content) if content.isascii() else len(content.encode("utf-8", "surrogatepass"))
    if isinstance(content, list):
        total = 0
        for item in content:
            if isinstance(item, int):
                total += 1
            elif isinstance(item, dict):
                total += _content_bytes(item.get("text") or item.get("refusal") or "")
            else:
                total += _content_bytes(item)
        return total
    return 0


def tokens_in_bound(call: Call) -> int:
    """An upper bound of the prompt's tokens, without a tokenizer: no token of a byte-level vocabulary is shorter
    than a byte, and what a chat template adds is bounded per message."""
    body = call.body
    if call.route == "embeddings":
        value = body["input"]
        count = len(value) if isinstance(value, list) else 1
        return _content_bytes(value) + 2 * count
    if call.route == "completions":
        return _content_bytes(body["prompt"]) + _content_bytes(body.get("suffix") or "") + call.n
    total = _TOKENS_PER_TEMPLATE
    for message in body["messages"]:
        total += _TOKENS_PER_MESSAGE + _content_bytes(message.get("content"))
        for extra in ("tool_calls", "function_call", "name", "refusal"):
            if message.get(extra):
                total += len(orjson.dumps(message[extra]))
    for extra in ("tools", "functions", "response_format"):
        if body.get(extra):
            total += len(orjson.dumps(body[extra]))
    return total
