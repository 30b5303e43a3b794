"""What an OpenAI-compatible engine may answer, checked before anybody relies on it. Pure.

Engines are not trusted: a wrong shape becomes :class:`UpstreamBroken`, a number nobody can have counted
honestly is dropped, so that what follows may index without asking.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import orjson

from inference.upstreams.errors import (
    UpstreamBroken,
    UpstreamBusy,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)

__all__ = ["answer_of", "error_event", "event_of", "refusal_of", "usage_clean"]

# Tokens. More than any context; a number above is a mistake or a lie.
MAX_TOKENS = 50_000_000
_MESSAGE_CHARS = 500


def answer_of(data: bytes, *, path: str) -> dict[str, Any]:
    """A whole answer, parsed and checked. A name given twice counts the last time, as JSON parsers do.

    Raises:
        UpstreamBroken: not a JSON object (NaN is not JSON), no choices, a choice without its content.
    """
    body = _object(data)
    if isinstance(body.get("error"), dict | str) and body["error"]:
        raise UpstreamBroken("The engine reported an error instead of an answer.", retry="elsewhere")
    if path.endswith("/embeddings"):
        _check_embeddings(body)
    else:
        choices = body.get("choices")
        if not isinstance(choices, list) or not choices:
            raise UpstreamBroken("The engine's answer holds no choices.", retry="elsewhere")
        chat = path.endswith("/chat/completions")
        for position, choice in enumerate(choices):
            _check_choice(choice, position, part="message" if chat else "")
    usage_clean(body)
    return body


def event_of(data: bytes) -> dict[str, Any]:
    """One event of a stream, parsed and checked; ``choices`` is always a list of objects.

    Raises UpstreamBroken when it is no such event, or when it reports an error.
    """
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise UpstreamBroken("The engine's stream holds something that is not JSON.") from error
    if type(event) is not dict:
        raise UpstreamBroken("The engine's stream holds something that is not an object.")
    choices = event.get("choices")
    if type(choices) is list:
        for choice in choices:
            if type(choice) is not dict:
                raise UpstreamBroken("The engine's stream holds a choice that is not an object.")
            delta = choice.get("delta")
            if type(delta) is dict:
                content = delta.get("content")
                if content is not None and type(content) is not str:
                    raise UpstreamBroken("The engine's stream holds content that is not text.")
                calls = delta.get("tool_calls")
                if calls is not None and not _are_objects(calls):
                    raise UpstreamBroken("The engine's stream holds tool calls that are not objects.")
            elif delta is not None:
                raise UpstreamBroken("The engine's stream holds a delta that is not an object.")
            text = choice.get("text")
            if text is not None and type(text) is not str:
                raise UpstreamBroken("The engine's stream holds text that is not text.")
            index = choice.get("index")
            if type(index) is not int or index < 0 or index > 1000:
                choice["index"] = 0
            reason = choice.get("finish_reason")
            if reason is not None and type(reason) is not str:
                choice["finish_reason"] = "stop"
    elif choices is None:
        if "error" in event:
            raise stream_error(event["error"])
        event["choices"] = []
    else:
        raise UpstreamBroken("The engine's stream holds choices that are not a list.")
    if event.get("error"):
        raise stream_error(event["error"])
    if event.get("usage") is not None:
        usage_clean(event)
    return event


def stream_error(error: Any) -> UpstreamError:
    """What an error event in a stream means. Only a refusal of the request keeps the engine's words."""
    code = error.get("code") if isinstance(error, dict) else None
    if code in (400, 422, "400", "422"):
        return refusal_of(int(code), orjson.dumps({"error": error}), retry_after=None)
    if code in (429, "429", "rate_limit_exceeded"):
        return UpstreamBusy("The engine gave up for lack of room.", retry="elsewhere")
    return UpstreamBroken("The engine reported an error in the middle of its answer.")


def error_event(data: bytes) -> UpstreamError:
    """What the data of an event named ``error`` means."""
    try:
        error = orjson.loads(data)
    except orjson.JSONDecodeError:
        error = None
    return stream_error(error.get("error", error) if isinstance(error, dict) else error)


def usage_clean(body: dict[str, Any]) -> None:
    """Keep ``usage`` only when its counts are whole numbers anyone could have counted; else remove it.

    ``total_tokens`` is made the sum of the two others. ``prompt_tokens_details.cached_tokens`` stays when it is
    not above ``prompt_tokens``.
    """
    usage = body.get("usage")
    if usage is None:
        body.pop("usage", None)
        return
    if type(usage) is not dict:
        del body["usage"]
        return
    given = usage.get("prompt_tokens")
    made = usage.get("completion_tokens", 0)
    made = 0 if made is None else made
    if not _is_count(given) or not _is_count(made):
        del body["usage"]
        return
    clean: dict[str, Any] = {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
    details = usage.get("prompt_tokens_details")
    if type(details) is dict:
        cached = details.get("cached_tokens")
        if _is_count(cached) and cached <= given:
            clean["prompt_tokens_details"] = {"cached_tokens": cached}
    compute = usage.get("compute_ms")
    if isinstance(compute, int | float) and not isinstance(compute, bool) and 0 <= compute < 1e9:
        clean["compute_ms"] = compute
    body["usage"] = clean


def refusal_of(
    status: int, data: bytes, *, retry_after: bytes | None, hide: tuple[str, ...] = ()
) -> UpstreamError:
    """What an answer other than 200 means for the person who called.

    ``hide``: texts (key, address) that must not be in the message, should the engine repeat them.
    """
    message, param, code = _error_parts(data, hide)
    after = _seconds(retry_after)
    if status == 429:
        return UpstreamBusy(
            "The engine has no room for the request at the moment. Try again.",
            retry="elsewhere",
            retry_after_s=after or 1.0,
        )
    if status in {401, 402, 403}:
        return UpstreamUnavailable(
            "The engine does not accept the gateway's credentials. An administrator must renew them.",
            retry="elsewhere",
        )
    if status in {404, 405, 501}:
        return UpstreamUnavailable(
            "The engine does not offer this model or this kind of request.", retry="elsewhere", counts=False
        )
    if status == 408:
        return UpstreamTimeout("The engine gave the request up for lack of time.", retry="elsewhere")
    if status in {400, 409, 411, 413, 414, 415, 422, 431}:
        return UpstreamRejected(
            message or "The engine refused the request without saying why.",
            status=400 if status in {409, 411, 414, 415, 431} else status,
            param=param,
            code=code,
        )
    if 300 <= status < 400:
        return UpstreamBroken(
            "The engine's address redirects elsewhere, which is not followed.", retry="elsewhere"
        )
    if status >= 500:
        return UpstreamUnavailable(
            f"The engine failed (status {status}).",
            retry="anywhere" if status in {502, 503, 504} else "elsewhere",
            retry_after_s=after,
        )
    if 200 <= status < 300:
        return UpstreamBroken(f"The engine sent no answer (status {status}).", retry="elsewhere")
    return UpstreamBroken(f"The engine answered with the unexpected status {status}.", retry="elsewhere")


def _object(data: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise UpstreamBroken("The engine's answer is not JSON.", retry="elsewhere") from error
    if type(body) is not dict:
        raise UpstreamBroken("The engine's answer is not a JSON object.", retry="elsewhere")
    return body


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MAX_TOKENS


def _are_objects(value: Any) -> bool:
    return type(value) is list and all(type(one) is dict for one in value)


def _check_choice(choice: Any, position: int, *, part: str) -> None:
    if type(choice) is not dict:
        raise UpstreamBroken("The engine's answer holds a choice that is not an object.", retry="elsewhere")
    if part:
        message = choice.get("message")
        if type(message) is not dict:
            raise UpstreamBroken("The engine's answer holds a choice without a message.", retry="elsewhere")
        content = message.get("content")
        if content is not None and type(content) is not str:
            raise UpstreamBroken("The engine's answer holds content that is not text.", retry="elsewhere")
        calls = message.get("tool_calls")
        if calls is not None and not _are_objects(calls):
            raise UpstreamBroken(
                "The engine's answer holds tool calls that are not objects.", retry="elsewhere"
            )
    elif type(choice.get("text")) is not str:
        raise UpstreamBroken("The engine's answer holds a choice without text.", retry="elsewhere")
    if type(choice.get("index")) is not int or not 0 <= choice["index"] <= 1000:
        choice["index"] = position
    if not isinstance(choice.get("finish_reason"), str | None):
        choice["finish_reason"] = "stop"


def _check_embeddings(body: dict[str, Any]) -> None:
    rows = body.get("data")
    if not _are_objects(rows) or not rows:
        raise UpstreamBroken("The engine's answer holds no embeddings.", retry="elsewhere")
    for row in rows:
        vector = row.get("embedding")
        if type(vector) is str:
            continue  # base64, as the caller asked
        if type(vector) is not list or not all(type(one) in (float, int) for one in vector):
            raise UpstreamBroken(
                "The engine's answer holds an embedding that is no vector.", retry="elsewhere"
            )


def _error_parts(data: bytes, hide: tuple[str, ...]) -> tuple[str, str | None, str]:
    """Message, param and code of an error body in OpenAI's shape or a common variant of it."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        return "", None, ""
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        body = body["error"]
    if not isinstance(body, dict):
        return "", None, ""
    message: Any = body.get("message") or body.get("detail") or body.get("error") or ""
    param, code = body.get("param"), body.get("code")
    if not isinstance(message, str):
        message = ""
    for secret in hide:
        if secret:
            message = message.replace(secret, "…")
    message = "".join(char if char.isprintable() else " " for char in message[: 4 * _MESSAGE_CHARS])
    if len(message) > _MESSAGE_CHARS:
        message = message[: _MESSAGE_CHARS - 1] + "…"
    return (
        message.strip(),
        param[:80] if isinstance(param, str) and param.isprintable() else None,
        code if isinstance(code, str) and code.replace("_", "").isalnum() and len(code) <= 60 else "",
    )


def _seconds(value: bytes | None) -> float | None:
    """Seconds of a Retry-After header between 1 and 300; None for dates and nonsense."""
    try:
        found = float(value) if value else None
    except ValueError:
        return None
    if found is None or found != found:
        return None
    return min(300.0, max(1.0, found))
