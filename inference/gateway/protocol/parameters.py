"""Checks of a request's parameters, by table: every one is known, of the right type and in range, or refused by name.

What an engine cannot do it refuses itself, naming the parameter; nothing is dropped on the way there.
Source: OpenAI API reference, chat completions, completions and embeddings (2025).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from inference.gateway.contract import GatewayProblem

MAX_STOPS = 16
MAX_CHOICES = 16
MAX_TOKENS = 1_000_000
MAX_METADATA = 16
MAX_BATCHED_INPUTS = 256

# A checker says what is wrong with a value, or nothing.
Checker = Callable[[Any], str | None]


def invalid(param: str, message: str, code: str = "invalid_value") -> GatewayProblem:
    """400 that names the parameter."""
    return GatewayProblem(400, message, code=code, param=param)


def _number(low: float, high: float) -> Checker:
    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"a number from {low:g} to {high:g}"
        return None if low <= value <= high else f"a number from {low:g} to {high:g}"

    return check


def _whole(low: int, high: int) -> Checker:
    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            return f"a whole number from {low:,} to {high:,}"
        return None

    return check


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _text(limit: int) -> Checker:
    def check(value: Any) -> str | None:
        if not isinstance(value, str) or len(value) > limit:
            return f"a text of at most {limit:,} characters"
        return None

    return check


def _stop(value: Any) -> str | None:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        return f"a text or a list of at most {MAX_STOPS} texts"
    if any(not isinstance(stop, str) or not stop or len(stop) > 1000 for stop in stops):
        return "made of texts of 1 to 1,000 characters"
    return None


def _logit_bias(value: Any) -> str | None:
    if not isinstance(value, dict) or len(value) > 1024:
        return "an object of at most 1,024 token ids"
    bias = _number(-100, 100)
    for token, amount in value.items():
        if not token.isdecimal() or len(token) > 9:
            return "an object whose names are token ids"
        if bias(amount):
            return "an object whose values are numbers from -100 to 100"
    return None


def _metadata(value: Any) -> str | None:
    if not isinstance(value, dict) or len(value) > MAX_METADATA:
        return f"an object of at most {MAX_METADATA} texts"
    for name, text in value.items():
        if len(name) > 64 or not isinstance(text, str) or len(text) > 512:
            return "an object of texts of at most 512 characters, with names of at most 64"
    return None


def _response_format(value: Any) -> str | None:
    kinds = ("text", "json_object", "json_schema")
    if not isinstance(value, dict) or value.get("type") not in kinds:
        return f"an object whose type is one of {', '.join(kinds)}"
    if value["type"] == "json_schema":
        schema = value.get("json_schema")
        if not isinstance(schema, dict) or not isinstance(schema.get("schema"), dict):
            return "an object with json_schema.schema, a JSON schema"
    return None


def _stream_options(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "an object"
    for name, flag in value.items():
        if name not in ("include_usage", "include_obfuscation") or not isinstance(flag, bool):
            return "an object with include_usage, true or false"
    return None


def _tools(value: Any) -> str | None:
    if not isinstance(value, list) or len(value) > 128:
        return "a list of at most 128 tools"
    for tool in value:
        if not isinstance(tool, dict) or not isinstance(tool.get("type"), str):
            return "a list of objects with a type"
    return None


def _object(value: Any) -> str | None:
    return None if isinstance(value, dict) else "an object"


def _text_or_object(value: Any) -> str | None:
    return None if isinstance(value, str | dict) else "a text or an object"


def _one_of(*choices: Any) -> Checker:
    words = ", ".join(str(choice) for choice in choices)

    def check(value: Any) -> str | None:
        return None if value in choices else f"one of {words}"

    return check


_COMMON: dict[str, Checker] = {
    "user": _text(512),
    "safety_identifier": _text(512),
    "prompt_cache_key": _text(512),
    "metadata": _metadata,
    "service_tier": _one_of("auto", "default"),
}
_GENERATION: dict[str, Checker] = {
    **_COMMON,
    "stream": _flag,
    "stream_options": _stream_options,
    "n": _whole(1, MAX_CHOICES),
    "stop": _stop,
    "seed": _whole(-(2**63), 2**63 - 1),
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "max_tokens": _whole(1, MAX_TOKENS),
    "logit_bias": _logit_bias,
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "response_format": _response_format,
}
CHAT: dict[str, Checker] = {
    **_GENERATION,
    "max_completion_tokens": _whole(1, MAX_TOKENS),
    "logprobs": _flag,
    "top_logprobs": _whole(0, 20),
    "tools": _tools,
    "tool_choice": _text_or_object,
    "parallel_tool_calls": _flag,
    "functions": _tools,
    "function_call": _text_or_object,
    "reasoning_effort": _text(20),
    "verbosity": _text(20),
    "modalities": lambda value: None if value == ["text"] else '["text"]: this gateway answers in text',
    "store": lambda value: (
        None if value is False else "false: prompts are kept only when the tenant's policy says so"
    ),
}
COMPLETIONS: dict[str, Checker] = {
    **_GENERATION,
    "max_tokens": _whole(0, MAX_TOKENS),
    "logprobs": _whole(0, 20),
    "echo": _flag,
    "best_of": _whole(1, MAX_CHOICES),
    "suffix": _text(100_000),
}
EMBEDDINGS: dict[str, Checker] = {
    **_COMMON,
    "dimensions": _whole(1, 65_536),
    "encoding_format": _one_of("float", "base64"),
}
# For the gateway itself; an engine never sees them.
GATEWAY_ONLY = frozenset(
    {"user", "safety_identifier", "prompt_cache_key", "metadata", "service_tier", "store", "modalities"}
)


def check_parameters(body: dict[str, Any], table: dict[str, Checker], content: frozenset[str]) -> None:
    """Refuse the first parameter that is unknown or wrong. A null means: not given, and is removed.

    Raises GatewayProblem 400 with the parameter's name in ``param``.
    """
    for name in list(body):
        if name in content:
            continue
        value = body[name]
        if value is None:
            del body[name]
            continue
        check = table.get(name)
        if check is None:
            raise invalid(name, f"Unrecognized request argument supplied: {name[:80]}", "unknown_parameter")
        wanted = check(value)
        if wanted is not None:
            raise invalid(name, f"{name} must be {wanted}.")
