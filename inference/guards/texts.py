"""Where human text is in a request, a response and a chunk of the OpenAI protocol. Pure.

Everything that is a string is text, except what stands under the names of the protocol's own words. So a new field
of the protocol is read rather than missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

# fn(text, is_json, key) -> text
Rewrite = Callable[[str, bool, str], str]

# The protocol's own words: never text of a person or a model.
STRUCTURAL: Final = frozenset(
    {
        "model", "role", "type", "object", "id", "tool_call_id", "call_id", "finish_reason", "encoding_format",
        "detail", "format", "service_tier", "reasoning_effort", "effort", "truncation", "mode", "$ref", "tool_choice",
        "system_fingerprint", "created", "status", "verbosity", "language", "voice", "pattern",
    }
)  # fmt: skip
# Strings that are JSON and must stay JSON.
JSON_TEXT: Final = frozenset({"arguments"})
# Bytes in base64 and the like.
_BINARY: Final = frozenset({"data", "file_data", "b64_json", "bytes"})


def rewrite(value: Any, fn: Rewrite, key: str = "") -> Any:
    """``value`` with ``fn`` applied to every text in it; parts without a change are the same objects."""
    if isinstance(value, str):
        if not value or key in _BINARY or (key == "url" and value.startswith("data:")):
            return value
        return fn(value, key in JSON_TEXT, key)
    if isinstance(value, dict):
        changed: dict[str, Any] | None = None
        for name, one in value.items():
            if one is None or name in STRUCTURAL or isinstance(one, bool | int | float):
                continue
            new = rewrite(one, fn, name)
            if new is not one:
                if changed is None:
                    changed = dict(value)
                changed[name] = new
        return value if changed is None else changed
    if isinstance(value, list):
        made: list[Any] | None = None
        for number, one in enumerate(value):
            if one is None or isinstance(one, bool | int | float):
                continue
            new = rewrite(one, fn, key)
            if new is not one:
                if made is None:
                    made = list(value)
                made[number] = new
        return value if made is None else made
    return value


def rewrite_request(body: Mapping[str, Any], fn: Rewrite) -> dict[str, Any]:
    """A request with ``fn`` applied to every text: messages (content, parts, names, tool calls and results), prompt,
    input, suffix, instructions, tools' descriptions, stop sequences, metadata, user."""
    result: dict[str, Any] = rewrite(dict(body), fn)
    return result


def rewrite_response(body: Mapping[str, Any], fn: Rewrite) -> dict[str, Any]:
    """A response with ``fn`` applied to every text of its choices. ``logprobs`` of a changed choice are removed,
    because they spell the original."""
    result = dict(body)
    for part in ("choices", "output"):
        entries = body.get(part)
        if not isinstance(entries, list):
            continue
        made = []
        for entry in entries:
            if not isinstance(entry, dict):
                made.append(entry)
                continue
            bare = {name: one for name, one in entry.items() if name != "logprobs"}
            new = rewrite(bare, fn)
            if "logprobs" in entry:
                new = dict(new) if new is bare else new
                new["logprobs"] = (
                    entry["logprobs"] if new == {**bare, "logprobs": None} or _same(new, bare) else None
                )
            made.append(new)
        result[part] = made
    return result


def _same(new: Mapping[str, Any], bare: Mapping[str, Any]) -> bool:
    return all(new.get(name) is one or new.get(name) == one for name, one in bare.items())


def texts_of(value: Any) -> list[str]:
    """Every text in a request or response, in order."""
    found: list[str] = []

    def note(text: str, is_json: bool, key: str) -> str:
        found.append(text)
        return text

    rewrite(value, note)
    return found


def untrusted_texts(body: Mapping[str, Any]) -> Iterator[str]:
    """Texts that guards judge: what users and tools say, prompts and inputs; not the system's own instructions."""
    messages = body.get("messages")
    if isinstance(messages, list):
        for message in messages:
            if isinstance(message, dict) and message.get("role") not in ("system", "developer", "assistant"):
                yield from texts_of(message.get("content"))
    for name in ("prompt", "input"):
        value = body.get(name)
        if isinstance(value, list):
            for one in value:
                if isinstance(one, dict) and one.get("role") in ("system", "developer", "assistant"):
                    continue
                yield from texts_of(one)
        elif isinstance(value, str):
            yield value


def has_token_prompts(body: Mapping[str, Any]) -> bool:
    """Whether a prompt or input comes as token ids, which nobody can read here."""
    for name in ("prompt", "input"):
        value = body.get(name)
        if isinstance(value, list) and value:
            if any(isinstance(one, int) and not isinstance(one, bool) for one in value):
                return True
            if any(isinstance(one, list) and one and isinstance(one[0], int) for one in value):
                return True
    return False


def unreadable_parts(body: Mapping[str, Any]) -> list[str]:
    """Kinds of content that redaction cannot read: token ids, images, audio, files."""
    found = ["token ids"] if has_token_prompts(body) else []
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else []:
            kind = part.get("type") if isinstance(part, dict) else None
            if (
                kind in ("image_url", "input_image", "input_audio", "audio", "file", "input_file")
                and kind not in found
            ):
                found.append(str(kind))
    return found
