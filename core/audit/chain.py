"""The chain over the log, as pure functions: what is hashed, and how one link follows another.

Neither Django nor the database is imported, so that a verifier elsewhere can use these lines as they stand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from core.security.canonical import canonical_bytes

__all__ = ["GENESIS", "HEAD_TYPE", "event_digest", "head_payload", "link_hash"]

# Hash before the first link.
GENESIS = "0" * 64
# DSSE payload type of a signed head.
HEAD_TYPE = "application/vnd.signoff.audit-head+json"

_EVENT_DOMAIN = b"signoff audit event v1\n"
_LINK_DOMAIN = b"signoff audit link v1\n"


def event_digest(event: Mapping[str, Any]) -> str:
    """SHA-256 (64 hex digits) of an event's canonical JSON.

    Args:
        event: plain JSON values; `core.audit.services.event_document` says which fields.
    """
    return hashlib.sha256(_EVENT_DOMAIN + canonical_bytes(dict(event))).hexdigest()


def link_hash(seq: int, prev_hash: str, digest: str) -> str:
    """Hash of link number `seq`: it fixes this event and, through `prev_hash`, every one before it."""
    return hashlib.sha256(_LINK_DOMAIN + f"{seq}\n{prev_hash}\n{digest}\n".encode("ascii")).hexdigest()


def head_payload(*, schema: str, number: int, seq: int, hash: str, signed_at: str) -> bytes:
    """The bytes that are signed as head number `number`: the chain had `seq` links and ended in `hash`."""
    return canonical_bytes(
        {"schema": schema, "number": number, "seq": seq, "hash": hash, "signed_at": signed_at}
    )
