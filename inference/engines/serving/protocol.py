"""OpenAI's request bodies, checked field by field: what is not understood is refused by name, never ignored."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from inference.engines.base import EMBEDDING_DIMENSIONS, ChatMessage
from inference.engines.serving.problems import bad, unable
from inference.engines.serving.sampling import Sampling
from inference.engines.serving.watermark import Watermark

MAX_CHOICES = 128  # sequences of one request: prompts times n
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_TOP_LOGPROBS = 20
MAX_BIAS = 1024
MAX_EMBED_INPUTS = 2048
# Tokens of an answer when the request does not say: OpenAI's 16 for completions; chat answers may be longer.
DEFAULT_COMPLETION_TOKENS = 16
DEFAULT_CHAT_TOKENS = 512

_COMMON = {
    "model", "temperature", "top_p", "n", "stop", "seed", "stream", "stream_options", "logit_bias", "logprobs",
    "max_tokens", "user", "frequency_penalty", "presence_penalty", "watermark", "metadata", "store",
}  # fmt: skip
_CHAT = _COMMON | {"messages", "max_completion_tokens", "top_logprobs", "response_format"}
_COMPLETION = _COMMON | {"prompt", "echo", "best_of", "suffix", "response_format"}
_EMBEDDING = {"model", "input", "dimensions", "encoding_format", "user"}
_WHY_UNABLE = {
    "tools": "This engine calls no tools",
    "tool_choice": "This engine calls no tools",
    "functions": "This engine calls no functions",
    "function_call": "This engine calls no functions",
    "parallel_tool_calls": "This engine calls no tools",
}


@dataclass(frozen=True, slots=True)
class Ask:
    """A checked chat or completion request. ``prompts``: texts or token ids (completions); ``messages``: a
    conversation (chat). ``max_tokens`` None: the default, cut to the room there is."""

    model: str
    chat: bool
    messages: tuple[ChatMessage, ...]
    prompts: tuple[str | tuple[int, ...], ...]
    n: int
    max_tokens: int | None
    sampling: Sampling
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool
    echo: bool
    json_mode: bool
    json_schema: Mapping[str, Any] | None

    @property
    def choices(self) -> int:
        """Sequences this request needs."""
        return max(1, len(self.prompts)) * self.n

    def seed_of(self, choice: int) -> int:
        """A seed of its own for each choice; the first has the request's."""
        return (self.sampling.seed + choice * 0x9E3779B97F4A7C15) % 2**63


@dataclass(frozen=True, slots=True)
class EmbedAsk:
    """A checked embeddings request."""

    model: str
    texts: tuple[str, ...]
    base64: bool


def parse_chat(body: Mapping[str, Any]) -> Ask:
    """A body of /v1/chat/completions. Raises ServingProblem 400 naming the field."""
    _known(body, _CHAT)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad("messages", "messages must be a list of at least one message.")
    turns = tuple(_message(message, at) for at, message in enumerate(messages))
    limit = body.get("max_completion_tokens")
    name = "max_completion_tokens" if limit is not None else "max_tokens"
    logprobs: int | None = None
    if body.get("logprobs") is not None and not isinstance(body["logprobs"], bool):
        raise bad("logprobs", "logprobs must be true or false.")
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        raise bad("top_logprobs", "top_logprobs needs logprobs to be true.")
    if body.get("logprobs"):
        logprobs = _integer(body, "top_logprobs", 0, low=0, high=MAX_TOP_LOGPROBS)
    json_mode, schema = _response_format(body)
    return _ask(
        body,
        chat=True,
        messages=turns,
        prompts=(),
        max_tokens=_integer(body, name, None, low=1, high=10**7),
        logprobs=logprobs,
        echo=False,
        json_mode=json_mode,
        json_schema=schema,
    )


def parse_completion(body: Mapping[str, Any]) -> Ask:
    """A body of /v1/completions. Raises ServingProblem 400 naming the field."""
    _known(body, _COMPLETION)
    echo = _flag(body, "echo")
    n = _integer(body, "n", 1, low=1, high=MAX_CHOICES) or 1
    if body.get("best_of") not in (None, n):
        raise unable("best_of", "best_of other than n is not offered; ask for n choices and pick.")
    if body.get("suffix") not in (None, ""):
        raise unable("suffix", "suffix is not offered: this engine continues text, it does not fill gaps.")
    logprobs = _integer(body, "logprobs", None, low=0, high=MAX_TOP_LOGPROBS)
    low = 0 if echo else 1
    json_mode, schema = _response_format(body)
    return _ask(
        body,
        chat=False,
        messages=(),
        prompts=_prompts(body.get("prompt")),
        max_tokens=_integer(body, "max_tokens", DEFAULT_COMPLETION_TOKENS, low=low, high=10**7),
        logprobs=logprobs,
        echo=echo,
        json_mode=json_mode,
        json_schema=schema,
    )


def parse_embedding(body: Mapping[str, Any]) -> EmbedAsk:
    """A body of /v1/embeddings. Raises ServingProblem 400 naming the field."""
    _known(body, _EMBEDDING)
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise bad("input", "input must be a text or a list of texts; token ids are not understood here.")
    if any(not text for text in texts):
        raise bad("input", "input must not hold an empty text.")
    if len(texts) > MAX_EMBED_INPUTS:
        raise bad("input", f"input may hold at most {MAX_EMBED_INPUTS} texts.")
    if body.get("dimensions") not in (None, EMBEDDING_DIMENSIONS):
        raise unable(
            "dimensions", f"dimensions can only be {EMBEDDING_DIMENSIONS}: the model was not made to be cut."
        )
    form = body.get("encoding_format")
    if form not in (None, "float", "base64"):
        raise bad("encoding_format", "encoding_format must be float or base64.")
    return EmbedAsk(model=_model(body), texts=tuple(texts), base64=form == "base64")


# ---- parts ---------------------------------------------------------------------------------------------------------


def _ask(
    body: Mapping[str, Any],
    *,
    chat: bool,
    messages: tuple[ChatMessage, ...],
    prompts: tuple[str | tuple[int, ...], ...],
    max_tokens: int | None,
    logprobs: int | None,
    echo: bool,
    json_mode: bool,
    json_schema: Mapping[str, Any] | None,
) -> Ask:
    for name in ("frequency_penalty", "presence_penalty"):
        if body.get(name) not in (None, 0):
            raise unable(name, f"{name} is not offered by this engine; leave it out or send 0.")
    n = _integer(body, "n", 1, low=1, high=MAX_CHOICES) or 1
    if max(1, len(prompts)) * n > MAX_CHOICES:
        raise bad("n", f"A request may ask for at most {MAX_CHOICES} choices (prompts times n).")
    stream = _flag(body, "stream")
    options = body.get("stream_options")
    if options is not None:
        if not isinstance(options, dict):
            raise bad("stream_options", "stream_options must be an object.")
        if not stream:
            raise bad("stream_options", "stream_options needs stream to be true.")
        extra = set(options) - {"include_usage"}
        if extra:
            raise unable(f"stream_options.{min(extra)}", f"stream_options.{min(extra)} is not offered.")
        _flag(options, "include_usage", "stream_options.")
    seed = _integer(body, "seed", None, low=-(2**63), high=2**63 - 1)
    sampling = Sampling(
        temperature=_number(body, "temperature", 1.0, low=0.0, high=2.0),
        top_p=_number(body, "top_p", 1.0, low=0.0, high=1.0),
        seed=secrets.randbits(62) if seed is None else seed,
        logit_bias=_logit_bias(body.get("logit_bias")),
        logprobs=logprobs,
        watermark=_watermark(body.get("watermark")),
    )
    return Ask(
        model=_model(body),
        chat=chat,
        messages=messages,
        prompts=prompts,
        n=n,
        max_tokens=max_tokens,
        sampling=sampling,
        stops=_stops(body.get("stop")),
        stream=stream,
        include_usage=bool(options and options.get("include_usage")),
        echo=echo,
        json_mode=json_mode,
        json_schema=json_schema,
    )


def _known(body: Mapping[str, Any], names: set[str]) -> None:
    for name, value in body.items():
        if name in names or value is None:
            continue
        if name in _WHY_UNABLE:
            if value in ([], "none"):
                continue  # asks for nothing
            raise unable(name, f"{_WHY_UNABLE[name]}; send the request without {name}.")
        raise unable(str(name)[:100], f"The parameter {str(name)[:100]!r} is not known to this engine.")


def _model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise bad("model", "model must name the model.")
    return model


def _message(message: Any, at: int) -> ChatMessage:
    where = f"messages[{at}]"
    if not isinstance(message, dict):
        raise bad(where, f"{where} must be an object with role and content.")
    for name, value in message.items():
        if name not in {"role", "content", "name"} and value not in (None, [], ""):
            raise unable(
                f"{where}.{str(name)[:60]}", f"{where}.{str(name)[:60]} is not understood by this engine."
            )
    if message.get("name") is not None:
        raise unable(f"{where}.name", f"{where}.name has no place in this model's chat template.")
    role = message.get("role")
    if role == "developer":
        role = "system"
    if role not in {"system", "user", "assistant"}:
        raise bad(f"{where}.role", f"{where}.role must be system, user or assistant.")
    content = message.get("content")
    if isinstance(content, list):
        texts = []
        for part in content:
            if (
                not isinstance(part, dict)
                or part.get("type") != "text"
                or not isinstance(part.get("text"), str)
            ):
                raise unable(f"{where}.content", f"{where}.content may hold only parts of type text.")
            texts.append(part["text"])
        content = "".join(texts)
    if not isinstance(content, str):
        raise bad(f"{where}.content", f"{where}.content must be a text.")
    return ChatMessage(role=str(role), content=content)


def _prompts(prompt: Any) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(prompt, str):
        return (prompt,)
    if not isinstance(prompt, list) or not prompt:
        raise bad(
            "prompt", "prompt must be a text, a list of texts, token ids, or a list of lists of token ids."
        )
    if all(_is_int(token) for token in prompt):
        return (tuple(prompt),)
    found: list[str | tuple[int, ...]] = []
    for one in prompt:
        if isinstance(one, str):
            found.append(one)
        elif isinstance(one, list) and one and all(_is_int(token) for token in one):
            found.append(tuple(one))
        else:
            raise bad("prompt", "Each prompt must be a text or a list of at least one token id.")
    if len(found) > MAX_CHOICES:
        raise bad("prompt", f"A request may hold at most {MAX_CHOICES} prompts.")
    return tuple(found)


def _response_format(body: Mapping[str, Any]) -> tuple[bool, Mapping[str, Any] | None]:
    given = body.get("response_format")
    if given is None:
        return False, None
    kind = given.get("type") if isinstance(given, dict) else None
    if kind == "text":
        return False, None
    if kind == "json_object":
        return True, None
    if kind == "json_schema":
        described = given.get("json_schema")
        schema = described.get("schema") if isinstance(described, dict) else None
        if not isinstance(schema, dict):
            raise bad("response_format", "response_format.json_schema.schema must be a JSON schema.")
        return True, schema
    raise bad("response_format", "response_format.type must be text, json_object or json_schema.")


def _stops(stop: Any) -> tuple[str, ...]:
    if stop is None:
        return ()
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(text, str) and text for text in stops):
        raise bad("stop", "stop must be a text or a list of texts, none of them empty.")
    if len(stops) > MAX_STOPS or any(len(text) > MAX_STOP_CHARACTERS for text in stops):
        raise bad(
            "stop", f"stop may hold at most {MAX_STOPS} texts of at most {MAX_STOP_CHARACTERS} characters."
        )
    return tuple(stops)


def _logit_bias(given: Any) -> tuple[tuple[int, float], ...]:
    if not given:
        if given not in (None, {}):
            raise bad("logit_bias", "logit_bias must be an object of token ids and numbers.")
        return ()
    if not isinstance(given, dict) or len(given) > MAX_BIAS:
        raise bad("logit_bias", f"logit_bias must be an object of at most {MAX_BIAS} token ids and numbers.")
    found = []
    for token, value in given.items():
        if not (isinstance(token, str) and token.isascii() and token.isdigit() and len(token) < 10):
            raise bad("logit_bias", f"logit_bias: {str(token)[:40]!r} is not a token id.")
        if isinstance(value, bool) or not isinstance(value, int | float) or not -100 <= value <= 100:
            raise bad("logit_bias", "logit_bias values must lie in [-100, 100].")
        found.append((int(token), float(value)))
    return tuple(found)


def _watermark(given: Any) -> Watermark | None:
    if given is None:
        return None
    if not isinstance(given, dict) or set(given) - {"key", "gamma", "delta"}:
        raise bad("watermark", "watermark must be an object with key, gamma and delta.")
    key = given.get("key")
    try:
        number = int(key, 16) if isinstance(key, str) and 0 < len(key) <= 128 else 0
    except ValueError:
        number = 0
    if number <= 0:
        raise bad("watermark.key", "watermark.key must be the hex digits of a positive number.")
    return Watermark(
        key=number,
        gamma=_number(given, "gamma", 0.25, low=0.01, high=0.99, prefix="watermark."),
        delta=_number(given, "delta", 2.0, low=0.0, high=50.0, prefix="watermark."),
    )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _flag(body: Mapping[str, Any], name: str, prefix: str = "") -> bool:
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise bad(prefix + name, f"{prefix}{name} must be true or false.")
    return value


def _integer(body: Mapping[str, Any], name: str, default: Any, *, low: int, high: int) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if not _is_int(value) or not low <= value <= high:
        raise bad(name, f"{name} must be a whole number of at least {low} and at most {high}.")
    return value


def _number(
    body: Mapping[str, Any], name: str, default: float, *, low: float, high: float, prefix: str = ""
) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise bad(prefix + name, f"{prefix}{name} must be a number.")
    if not low <= value <= high:
        raise bad(prefix + name, f"{prefix}{name} must lie in [{low:g}, {high:g}].")
    return float(value)


PARSERS: dict[str, Callable[[Mapping[str, Any]], Ask]] = {
    "/v1/chat/completions": parse_chat,
    "/v1/completions": parse_completion,
}
