"""Which requests are the same: partitions, digests of requests, and what may be compared by meaning."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import orjson

from core.security.fields import keyed_digest
from inference.caches.features import features_of
from inference.gateway.contract import Call, Caller, RouteTarget

# Fields of a request that do not change the answer. A field nobody has heard of does: it separates.
IRRELEVANT: Final = frozenset(
    {
        "model", "user", "metadata", "stream", "stream_options", "store", "service_tier", "safety_identifier",
        "prompt_cache_key", "prompt_cache_retention", "cache_control", "cache",
    }
)  # fmt: skip
# Longest last user text that is compared by meaning: MiniLM reads 256 word pieces, the rest it would not see.
SEMANTIC_CHARS: Final = 800
_PURPOSE: Final = "cache-digest"


@dataclass(frozen=True, slots=True)
class Partition:
    """The walls: nothing is looked up or stored but inside one of these.

    Args:
        scope: "tenant", "key:<id>" or "user:<digest>".
    """

    schema: str
    release_digest: str
    policy_version: str
    guard_version: str
    scope: str

    @property
    def digest(self) -> bytes:
        """32 bytes, keyed by the tenant. Lengths are written before the parts, so no two partitions collide."""
        return _partition_digest(
            self.schema, self.release_digest, self.policy_version, self.guard_version, self.scope
        )

    @property
    def scope_kind(self) -> str:
        """tenant, key or user."""
        return self.scope.partition(":")[0]


@lru_cache(maxsize=4096)
def _partition_digest(schema: str, *parts: str) -> bytes:
    written = b"".join(b"%d:%s;" % (len(part), part) for part in map(str.encode, (schema, *parts)))
    return keyed_digest(schema, "cache-partition", written)


def partition_for(
    target: RouteTarget, caller: Caller, call: Call, *, policy_version: str, guard_version: str, scope: str
) -> Partition:
    """The partition of a request. ``scope`` is the release's or policy's word: tenant, key or user.

    A user is one of a key: the same ``user`` text under two keys are two users, and no text is the key's nobody.
    """
    if scope == "key":
        scope = f"key:{caller.key_id}"
    elif scope == "user":
        scope = "user:" + hashlib.sha256(f"{caller.key_id}\x00{call.user}".encode()).hexdigest()[:32]
    elif scope != "tenant":
        raise ValueError(f"The scope of a cache is tenant, key or user, got {scope!r}.")
    return Partition(caller.schema, target.release_digest, policy_version, guard_version, scope)


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What a request is looked up by.

    ``group`` and ``text`` are set when the last user text may be compared by meaning; ``bounded`` says that the
    client set the length itself, so that an answer cut there is what it asked for.
    """

    route: str
    digest: bytes
    group: bytes | None = None
    text: str = ""
    bounded: bool = False


def _canonical(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def reproducible(body: Mapping[str, Any]) -> bool:
    """Whether a client that asks twice expects the same answer.

    Yes when it says so (temperature 0, or a seed) or says nothing about randomness, leaving it to the release;
    no when it asks for randomness itself: a temperature above 0 or more than one choice, without a seed.
    """
    if body.get("seed") is not None:
        return True
    temperature = body.get("temperature")
    if temperature is not None and temperature != 0:
        return False
    several = (body.get("n") or 1) != 1 or (body.get("best_of") or 1) != 1
    return not several or temperature == 0


def request_key(schema: str, call: Call, *, semantic: bool = False) -> RequestKey | None:
    """The key of a request, or None when its answer may not be stored (see `reproducible`).

    Everything in the body counts but IRRELEVANT; ``n`` 1 is the same as none. With ``semantic`` the last user text
    of a chat is taken out and compared by meaning, everything else (earlier turns, system prompt, parameters,
    tools, response format) by digest.
    """
    body = {name: value for name, value in call.body.items() if name not in IRRELEVANT and value is not None}
    if not reproducible(body):
        return None
    if body.get("n") == 1:
        del body["n"]
    try:
        digest = keyed_digest(
            schema, _PURPOSE, b"exact\x00" + call.route.encode() + b"\x00" + _canonical(body)
        )
    except TypeError:  # a lone surrogate or a number beyond 64 bits: has no UTF-8 JSON
        return None
    bounded = bool(
        body.get("max_tokens") or body.get("max_completion_tokens") or body.get("max_output_tokens")
    )
    if not semantic:
        return RequestKey(call.route, digest, bounded=bounded)
    split = _last_user_text(body)
    if split is None:
        return RequestKey(call.route, digest, bounded=bounded)
    text, rest = split
    shape = (
        b"group\x00"
        + call.route.encode()
        + b"\x00"
        + _canonical(rest)
        + b"\x00"
        + _canonical(features_of(text))
    )
    return RequestKey(call.route, digest, keyed_digest(schema, _PURPOSE, shape), text, bounded)


def _last_user_text(body: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """(last user text, body without it), or None when only an exact match will do."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or body.get("logprobs") or body.get("logit_bias"):
        return None
    last = messages[-1]
    if not isinstance(last, Mapping) or last.get("role") != "user":
        return None
    content = last.get("content")
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], Mapping):
        content = content[0].get("text") if content[0].get("type") == "text" else None
    if not isinstance(content, str) or not content.strip() or len(content) > SEMANTIC_CHARS:
        return None
    return content, {**body, "messages": [*messages[:-1], {**last, "content": None}]}
