"""Sealing values at rest and naming them by keyed digests, with one key per tenant and purpose.

Keys are derived by HKDF-SHA256 from a secret that lives outside the database, so a copy of the database alone
opens nothing and cannot be searched for a guessed text. A sealed value is ``0x01 | nonce (12) | AES-256-GCM``;
the associated data bind it to its place, so a value moved to another row or tenant does not open there.

Sources: RFC 5869 (HKDF), NIST SP 800-38D (GCM; random nonces, far below 2^32 values per key), RFC 7693 (BLAKE2).
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

__all__ = ["SealBroken", "Sealer", "keyed_digest", "tenant_sealer", "tenant_subkey"]

_VERSION = b"\x01"
_NONCE = 12


class SealBroken(ValueError):
    """A sealed value cannot be opened: another secret, another place, or altered bytes."""


def _derive(secret: str, schema: str, purpose: str) -> bytes:
    info = f"signoff/{purpose}/v1/{schema}".encode()
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(secret.encode())


@lru_cache(maxsize=4096)
def _subkey(secret: str, schema: str, purpose: str) -> bytes:
    return _derive(secret, schema, purpose)


def tenant_subkey(schema: str, purpose: str) -> bytes:
    """32 bytes of key for one tenant and one purpose; the same in every process of an installation."""
    return _subkey(settings.SECRET_KEY, schema, purpose)


def keyed_digest(schema: str, purpose: str, data: bytes) -> bytes:
    """BLAKE2b, 32 bytes, under the tenant's key: without SECRET_KEY nobody can test a guess against it."""
    return hashlib.blake2b(data, digest_size=32, key=tenant_subkey(schema, purpose)).digest()


class Sealer:
    """Seals and opens values of one tenant and purpose. Safe to share between threads."""

    def __init__(self, keys: list[bytes]) -> None:
        self._ciphers = [AESGCM(key) for key in keys]

    def seal(self, plain: bytes, associated: bytes = b"") -> bytes:
        """The sealed value. ``associated``: its place, needed again to open it."""
        nonce = os.urandom(_NONCE)
        return _VERSION + nonce + self._ciphers[0].encrypt(nonce, plain, associated)

    def open(self, sealed: bytes, associated: bytes = b"") -> bytes:
        """The plain value. Raises SealBroken; the message never holds any of it."""
        if len(sealed) < 1 + _NONCE + 16 or sealed[:1] != _VERSION:
            raise SealBroken("The stored value is not in the form that was sealed here.")
        nonce, body = sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :]
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(nonce, body, associated)
            except InvalidTag:
                continue
        raise SealBroken("The stored value cannot be opened. Has SECRET_KEY changed since it was stored?")


@lru_cache(maxsize=4096)
def _sealer(secrets: tuple[str, ...], schema: str, purpose: str) -> Sealer:
    return Sealer([_subkey(secret, schema, purpose) for secret in secrets])


def tenant_sealer(schema: str, purpose: str) -> Sealer:
    """The sealer of a tenant and purpose; opens what replaced secrets (SECRET_KEY_FALLBACKS) have sealed."""
    secrets = (settings.SECRET_KEY, *getattr(settings, "SECRET_KEY_FALLBACKS", ()))
    return _sealer(secrets, schema, purpose)
