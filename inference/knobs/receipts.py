"""Signed receipts: who answered what with which release, so that a customer can prove it and nobody can forge it.

A receipt is one line of text, short enough for a header::

    v1.<keyid>.<payload>.<signature>

``keyid`` names the tenant's Ed25519 key (SHA-256 of its public half, hex), ``payload`` and ``signature`` are
base64url without padding. The signature is over the DSSE pre-authentication encoding of PAYLOAD_TYPE and the
payload's bytes, so a receipt cannot be passed off as another signed document. The payload is JSON with sorted keys:
``at`` (UTC, milliseconds), ``ledger_id``, ``output`` and ``request`` (digests), ``policy``, ``release``,
``request_id``, ``tenant``.

Digests are over text both sides have: `request_digest` over the body the client sent, `output_digest` over the
choices it received, streamed or not. `receipt_check.py` beside this module needs only the standard library and
``cryptography``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django_tenants.utils import schema_context

from core.security.dsse import pae
from inference.knobs.receipt_check import (
    PAYLOAD_TYPE,
    ReceiptBroken,
    ReceiptParts,
    check,
    encode,
    output_digest,
    payload_bytes,
    request_digest,
    split,
)

__all__ = [
    "HEADER", "PAYLOAD_TYPE", "Receipt", "ReceiptBroken", "StreamedOutput", "output_digest", "receipt_verify",
    "request_digest", "sign_receipt",
]  # fmt: skip

HEADER: Final = "x-signoff-receipt"
# Seconds a private key stays in memory before the database is asked whether it was rotated.
_KEY_AGE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a receipt states. Digests are ``sha256:<hex>``."""

    request_id: str
    request: str
    release: str
    policy: str
    output: str
    ledger_id: str = ""
    at: datetime | None = None


_keys: dict[str, tuple[Ed25519PrivateKey, str, float]] = {}
_lock = threading.Lock()


def _signing_key(schema: str) -> tuple[Ed25519PrivateKey, str]:
    known = _keys.get(schema)
    if known is not None and time.monotonic() - known[2] < _KEY_AGE_S:
        return known[0], known[1]
    from core.security.services import private_key_of, tenant_signing_key

    with _lock, schema_context(schema):
        stored = tenant_signing_key()
        private = known[0] if known is not None and known[1] == stored.keyid else private_key_of(stored)
        _keys[schema] = (private, stored.keyid, time.monotonic())
    return private, stored.keyid


def keys_forget() -> None:
    """Forget the keys in memory: after a rotation in this process, and between tests."""
    _keys.clear()


def sign_receipt(schema: str, receipt: Receipt) -> str:
    """The receipt as a header value, signed with the tenant's active key (kept in memory for 30 s).

    Raises KeyUnreadable when SECRET_KEY does not open the stored key.
    """
    private, keyid = _signing_key(schema)
    at = (receipt.at or datetime.now(UTC)).astimezone(UTC)
    payload = payload_bytes(
        {
            "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "ledger_id": receipt.ledger_id,
            "output": receipt.output,
            "policy": receipt.policy,
            "release": receipt.release,
            "request": receipt.request,
            "request_id": receipt.request_id,
            "tenant": schema,
        }
    )
    return f"v1.{keyid}.{encode(payload)}.{encode(private.sign(pae(PAYLOAD_TYPE, payload)))}"


def receipt_verify(
    text: str, *, request: Mapping[str, Any] | None = None, answer: Mapping[str, Any] | None = None
) -> ReceiptParts:
    """Check a receipt against the current schema's keys, retired ones included, and against texts when given.

    Args:
        request: the body the client sent, parsed. answer: the body it received, parsed.
    Raises:
        ReceiptBroken: malformed, not signed by this tenant, or about another request or answer.
    """
    from core.schema import current_schema
    from core.security.keys import public_key_raw
    from core.security.services import tenant_public_keys

    keyid = split(text).keyid
    keys = {name: public_key_raw(key) for name, key in tenant_public_keys().items()}
    if keyid not in keys:
        raise ReceiptBroken(f"Key {keyid[:12]} is not one this tenant has ever signed with.")
    found = check(text, keys[keyid], request=request, answer=answer)
    if found.payload.get("tenant") != current_schema():
        raise ReceiptBroken("The receipt is another tenant's.")
    return found


class StreamedOutput:
    """Gathers what a stream sent, so that its receipt states the same digest as a whole answer would, and the
    answer can be stored."""

    def __init__(self) -> None:
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, chunk: Mapping[str, Any]) -> None:
        """One chunk as it left for the client."""
        for choice in chunk.get("choices") or ():
            index = choice.get("index", 0)
            into = self._choices.setdefault(
                index, {"text": [], "calls": {}, "finish_reason": None, "refusal": []}
            )
            delta = choice.get("delta") or {}
            piece = delta.get("content") or choice.get("text") or ""
            if piece:
                into["text"].append(piece)
            if delta.get("refusal"):
                into["refusal"].append(delta["refusal"])
            for call in delta.get("tool_calls") or ():
                one = into["calls"].setdefault(call.get("index", 0), {"id": "", "name": "", "arguments": []})
                function = call.get("function") or {}
                one["id"] = one["id"] or call.get("id") or ""
                one["name"] = one["name"] or function.get("name") or ""
                one["arguments"].append(function.get("arguments") or "")
            into["finish_reason"] = choice.get("finish_reason") or into["finish_reason"]

    def digest(self) -> str:
        """As `output_digest` of the whole answer."""
        return output_digest({"choices": self.choices()})

    def choices(self, kind: str = "chat.completion") -> list[dict[str, Any]]:
        """The choices of the whole answer. ``kind``: ``text_completion`` for texts, anything else for messages."""
        found: list[dict[str, Any]] = []
        for index, choice in sorted(self._choices.items()):
            whole: dict[str, Any] = {
                "index": index,
                "finish_reason": choice["finish_reason"],
                "logprobs": None,
            }
            text = "".join(choice["text"])
            if kind == "text_completion":
                found.append({**whole, "text": text})
                continue
            message: dict[str, Any] = {"role": "assistant", "content": text}
            if choice["refusal"]:
                message["refusal"] = "".join(choice["refusal"])
            calls = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": "".join(call["arguments"])},
                }
                for _, call in sorted(choice["calls"].items())
            ]
            if calls:
                message["tool_calls"] = calls
            found.append({**whole, "message": message})
        return found
