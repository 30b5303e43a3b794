#!/usr/bin/env python3
"""Check a receipt of the gateway. Needs Python 3.11 and ``cryptography``, nothing of Signoff: copy this one file.

    python receipt_check.py RECEIPT --key public.pem [--request body.json] [--answer answer.json]

RECEIPT is the value of the ``x-signoff-receipt`` header (or of ``signoff.receipt`` in a stream's last chunk), or
``@file``. The tenant's public keys are shown on its protection page and in every dossier's ``keys/`` folder.
Exit status: 0 holds, 1 does not hold, 2 wrong use.
"""

# ruff: noqa: T201 - a command-line program that also stands alone

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

PAYLOAD_TYPE = "application/vnd.signoff.receipt+json"
FIELDS = ("at", "ledger_id", "output", "policy", "release", "request", "request_id", "tenant")
MAX_CHARS = 8192


class ReceiptBroken(ValueError):
    """A receipt that does not hold; the message says why."""


@dataclass(frozen=True)
class ReceiptParts:
    """A receipt taken apart. ``checked``: what beside the signature was compared and matches."""

    keyid: str
    payload: dict[str, Any]
    payload_raw: bytes
    signature: bytes
    checked: tuple[str, ...] = ()


def encode(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """Bytes of base64url without padding. Raises ReceiptBroken; one value has one text."""
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError) as error:
        raise ReceiptBroken("A part of the receipt is not base64url.") from error
    if encode(data) != text:
        raise ReceiptBroken("A part of the receipt is not the only base64url of its value.")
    return data


def payload_bytes(payload: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys, no white space, UTF-8 (lone surrogates as their three bytes)."""
    return json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


def _digest(value: object) -> str:
    return "sha256:" + hashlib.sha256(payload_bytes({"v": value})).hexdigest()


def request_digest(body: Mapping[str, Any]) -> str:
    """``sha256:<hex>`` of a request's body as the client sent it, white space and order of members aside."""
    return _digest(body)


def output_digest(answer: Mapping[str, Any]) -> str:
    """``sha256:<hex>`` of what an answer says: per choice its text, tool calls and why it ended; or its vectors.

    Ids, times and usage do not count, so that a stream and a whole answer have the same digest.
    """
    if "choices" not in answer and "data" in answer:
        return _digest([one.get("embedding") for one in answer["data"]])
    said = []
    for choice in sorted(answer.get("choices") or [], key=lambda one: one.get("index", 0)):
        message = choice.get("message") or {}
        calls = [
            [
                (call.get("function") or {}).get("name") or "",
                (call.get("function") or {}).get("arguments") or "",
            ]
            for call in message.get("tool_calls") or []
        ]
        text = message.get("content") if "message" in choice else choice.get("text")
        said.append([choice.get("index", 0), text or "", calls, choice.get("finish_reason")])
    return _digest(said)


def split(text: str) -> ReceiptParts:
    """The parts of a receipt, **unverified**. Raises ReceiptBroken when it is malformed."""
    text = text.strip()
    parts = text.split(".")
    if len(text) > MAX_CHARS or len(parts) != 4 or parts[0] != "v1":
        raise ReceiptBroken("A receipt reads v1.<key id>.<payload>.<signature>.")
    raw, signature = decode(parts[2]), decode(parts[3])
    try:
        payload = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ReceiptBroken("The receipt's payload is not JSON.") from error
    if not isinstance(payload, dict) or any(not isinstance(payload.get(name), str) for name in FIELDS):
        raise ReceiptBroken(f"The receipt's payload lacks one of {', '.join(FIELDS)}.")
    return ReceiptParts(parts[1], payload, raw, signature)


def check(
    text: str,
    public_key: bytes,
    *,
    request: Mapping[str, Any] | None = None,
    answer: Mapping[str, Any] | None = None,
) -> ReceiptParts:
    """Verify a receipt.

    Args:
        public_key: the 32 bytes of the tenant's Ed25519 key.
        request, answer: bodies whose digests must be the receipt's.
    Raises:
        ReceiptBroken: says what does not hold.
    """
    parts = split(text)
    if hashlib.sha256(public_key).hexdigest() != parts.keyid:
        raise ReceiptBroken(f"The receipt is signed by key {parts.keyid[:12]}, which is not the key given.")
    kind = PAYLOAD_TYPE.encode()
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(parts.payload_raw), parts.payload_raw)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(parts.signature, message)
    except InvalidSignature as error:
        raise ReceiptBroken(
            "The signature does not hold: the receipt was altered or is not this tenant's."
        ) from error
    checked = []
    for name, given, digest in (("request", request, request_digest), ("output", answer, output_digest)):
        if given is None:
            continue
        try:
            found = digest(given)
        except (ValueError, TypeError, AttributeError) as error:
            raise ReceiptBroken(f"The {name} given is not a body this receipt could be about.") from error
        if found != parts.payload[name]:
            raise ReceiptBroken(f"The signature holds, but the receipt is about another {name}.")
        checked.append(name)
    return ReceiptParts(parts.keyid, parts.payload, parts.payload_raw, parts.signature, tuple(checked))


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Check a signed receipt of the gateway.")
    parser.add_argument("receipt", help="the receipt, or @file")
    parser.add_argument("--key", required=True, type=Path, help="the tenant's public key, PEM")
    parser.add_argument("--request", type=Path, help="JSON body the client sent")
    parser.add_argument("--answer", type=Path, help="JSON body it received")
    given = parser.parse_args(arguments)
    try:
        text = Path(given.receipt[1:]).read_text() if given.receipt.startswith("@") else given.receipt
        key = serialization.load_pem_public_key(given.key.read_bytes())
        if not isinstance(key, Ed25519PublicKey):
            raise ValueError("the key is not an Ed25519 public key")
        raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        bodies = [json.loads(path.read_text()) if path else None for path in (given.request, given.answer)]
    except (OSError, ValueError) as error:
        print(f"cannot check: {error}", file=sys.stderr)
        return 2
    try:
        found = check(text, raw, request=bodies[0], answer=bodies[1])
    except ReceiptBroken as error:
        print(f"does not hold: {error}")
        return 1
    print("holds" + (f", and is about this {' and this '.join(found.checked)}" if found.checked else ""))
    for name in FIELDS:
        print(f"  {name}: {found.payload[name]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
