"""Data keys of a tenant: made when first needed, wrapped by the installation's secret, rotated, destroyed.

Prompts and outputs are sealed with the tenant's current payload key, so destroying a key erases what it sealed,
backups of the rows included. Digests are salted with a key of their own: equal texts of two tenants never look alike.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import os
import threading
import time
import uuid
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.security.fields import SealBroken, tenant_sealer
from inference.ledger import database
from inference.ledger.errors import PayloadGone

PAYLOAD, DIGEST = "payload", "digest"
# Seconds a process goes on with a key that was rotated or destroyed elsewhere.
TTL_S = 30.0
_WRAP = "ledger-data-key"


@dataclass(frozen=True)
class OpenKey:
    """A data key ready for use."""

    id: uuid.UUID
    key: bytes


@dataclass(frozen=True, slots=True)
class Payload:
    """Prompt and output to keep, in clear, and for how many days."""

    prompt: bytes
    output: bytes
    retain_days: int


@dataclass(frozen=True, slots=True)
class SealedPayload:
    """What is stored of a payload."""

    key_id: uuid.UUID
    prompt: bytes
    output: bytes
    retain_days: int


_lock = threading.Lock()
_known: dict[tuple[str, str], tuple[float, OpenKey]] = {}


def forget() -> None:
    """Drop the keys this process remembers."""
    with _lock:
        _known.clear()


os.register_at_fork(after_in_child=forget)


def wrap(schema: str, key_id: uuid.UUID, key: bytes) -> str:
    """The key as text for storage, bound to tenant and row."""
    return tenant_sealer(schema, _WRAP).seal(key, key_id.bytes).hex()


def unwrap(schema: str, key_id: uuid.UUID, wrapped: str) -> bytes:
    """Read what :func:`wrap` wrote. Raises SealBroken."""
    try:
        sealed = bytes.fromhex(wrapped)
    except ValueError as error:
        raise SealBroken("The stored data key is not in hexadecimal digits.") from error
    return tenant_sealer(schema, _WRAP).open(sealed, key_id.bytes)


def active_key(schema: str, purpose: str) -> OpenKey:
    """The tenant's current key of a purpose; made when there is none. Raises psycopg.Error, SealBroken."""
    name = (schema, purpose)
    entry = _known.get(name)
    now = time.monotonic()
    if entry is not None and entry[0] > now:
        return entry[1]
    table = database.quoted(schema, "ledger_datakey")
    with database.cold() as connection:
        row = None
        while row is None:
            row = connection.execute(
                f"SELECT id, wrapped FROM {table} WHERE purpose = %s AND is_active",  # noqa: S608 (quoted)
                [purpose],
            ).fetchone()
            if row is None:
                fresh = uuid.uuid4()
                connection.execute(
                    f"INSERT INTO {table} (id, purpose, wrapped, is_active, created_at) "  # noqa: S608
                    "VALUES (%s, %s, %s, true, now()) ON CONFLICT DO NOTHING",
                    [fresh, purpose, wrap(schema, fresh, os.urandom(32))],
                )
    found = OpenKey(row[0], unwrap(schema, row[0], row[1]))
    with _lock:
        _known[name] = (now + TTL_S, found)
    return found


def salted_digest(schema: str, text: bytes | str) -> str:
    """HMAC-SHA256, 64 hex digits, under the tenant's digest key."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return hmac.digest(active_key(schema, DIGEST).key, data, hashlib.sha256).hex()


def payload_seal(schema: str, entry_id: uuid.UUID, payload: Payload) -> SealedPayload:
    """Seal a payload for one ledger row. Raises psycopg.Error, SealBroken."""
    key = active_key(schema, PAYLOAD)
    cipher = AESGCM(key.key)

    def seal(plain: bytes, field: bytes) -> bytes:
        nonce = os.urandom(12)
        return nonce + cipher.encrypt(nonce, plain, _place(schema, entry_id, field))

    return SealedPayload(
        key.id, seal(payload.prompt, b"prompt"), seal(payload.output, b"output"), payload.retain_days
    )


def payload_open(schema: str, entry_id: uuid.UUID, key: bytes, sealed: bytes, field: bytes) -> bytes:
    """The text of one field. Raises PayloadGone when it does not open with this key."""
    try:
        return AESGCM(key).decrypt(sealed[:12], sealed[12:], _place(schema, entry_id, field))
    except (InvalidTag, ValueError) as error:
        raise PayloadGone(
            "The stored prompt cannot be opened: it was altered, or is not of this row."
        ) from error


def _place(schema: str, entry_id: uuid.UUID, field: bytes) -> bytes:
    return b"signoff/ledger/v1/" + schema.encode() + b"/" + entry_id.bytes + b"/" + field


def expiry(created_at: datetime.datetime, retain_days: int) -> datetime.datetime:
    """When a payload is removed."""
    return created_at + datetime.timedelta(days=retain_days)
