"""Counting a prompt's tokens exactly, where the model's tokenizer is at hand; the byte bound serves otherwise."""

from __future__ import annotations

import logging
import threading
from typing import Any

from django.conf import settings

from inference.gateway.contract import Call, RouteTarget

logger = logging.getLogger("signoff.gateway")

_lock = threading.Lock()
_tokenizers: dict[tuple[str, str], Any] = {}
_MAX_LOADED = 8
# What a chat template adds: markers and role per message, and once a default system text. Tokens.
_PER_MESSAGE = 16
_PER_TEMPLATE = 64


def _tokenizer(schema: str, digest: str) -> Any:
    """The model's tokenizer (`tokenizers.Tokenizer`), or None when the model is not stored here."""
    key = (schema, digest)
    if key in _tokenizers:
        return _tokenizers[key]
    from tokenizers import Tokenizer

    from inference.model_store import ModelStore

    found = None
    try:
        path = ModelStore(settings.MODEL_STORE / schema).path_of(digest) / "tokenizer.json"
        if path.is_file():
            found = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception; the byte bound serves as well
        logger.info("no tokenizer for %s: %s", digest[:19], type(error).__name__)
    with _lock:
        if len(_tokenizers) >= _MAX_LOADED:
            _tokenizers.clear()
        _tokenizers[key] = found
    return found


def _texts(value: Any) -> list[str] | None:
    """Every text of a content value; None when it holds token ids, whose number is known anyway."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        return []
    found: list[str] = []
    for item in value:
        if isinstance(item, int):
            return None
        if isinstance(item, dict):
            item = item.get("text") or item.get("refusal") or ""
        inner = _texts(item)
        if inner is None:
            return None
        found += inner
    return found


def readable(target: RouteTarget, call: Call) -> dict[str, Any] | None:
    """The body with token-id prompts as text, so that redaction can read them; None when they cannot be read here."""
    tokenizer = None if call.route == "embeddings" else _tokenizer(target.schema, target.model_digest)
    if tokenizer is None:
        return None
    prompt = call.body["prompt"]
    lists = [prompt] if isinstance(prompt[0], int) else prompt
    return {**call.body, "prompt": tokenizer.decode_batch(lists, skip_special_tokens=False)}


def tokens_in_exact(target: RouteTarget, call: Call) -> int | None:
    """Tokens of the prompt with what a template may add; None when they cannot be counted here.

    An upper bound still: text is cut into messages, and pieces never have fewer tokens than the whole.
    """
    tokenizer = _tokenizer(target.schema, target.model_digest)
    if tokenizer is None:
        return None
    body = call.body
    extra = 0
    texts: list[str] | None
    if call.route == "embeddings":
        return None  # another model reads them
    if call.route == "completions":
        texts = _texts(body["prompt"])
        extra = 2 * call.n
    else:
        if any(name in body for name in ("tools", "functions", "response_format")):
            return None
        texts = []
        extra = _PER_TEMPLATE
        for message in body["messages"]:
            if any(message.get(name) for name in ("tool_calls", "function_call")):
                return None
            extra += _PER_MESSAGE
            texts += _texts(message.get("content")) or []
    if texts is None:
        return None
    encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return extra + sum(len(item.ids) for item in encoded)
