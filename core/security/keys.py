"""Ed25519 key pairs: made here, stored encrypted, named by the digest of their public half.

A private key is stored as ``v1.<salt>.<nonce>.<ciphertext>`` (URL-safe base64): AES-256-GCM under a key
derived by HKDF-SHA256 from a secret that lives outside the database, with a fresh salt each time. The keyid
is bound in as associated data, so a stored key cannot be passed off as another.

Sources: RFC 8032 (Ed25519), RFC 5869 (HKDF), NIST SP 800-38D (GCM).
"""

from __future__ import annotations

import base64
import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = [
    "KeyUnreadable",
    "generate_private_key",
    "keyid_of",
    "private_key_decrypt",
    "private_key_encrypt",
    "public_key_from_pem",
    "public_key_pem",
    "public_key_raw",
]

_INFO = b"signoff/ed25519-private-key/v1"


class KeyUnreadable(ValueError):
    """A stored key cannot be read: wrong secret, wrong keyid, or altered text."""


def generate_private_key() -> Ed25519PrivateKey:
    """A new key from the operating system's randomness."""
    return Ed25519PrivateKey.generate()


def public_key_raw(key: Ed25519PublicKey | Ed25519PrivateKey) -> bytes:
    """The 32 bytes of the public key (RFC 8032)."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def keyid_of(key: Ed25519PublicKey | Ed25519PrivateKey | bytes) -> str:
    """SHA-256, 64 hex digits, of the 32-byte public key; this is also the fingerprint shown to people.

    Raises ValueError when bytes are given that are not 32 long.
    """
    raw = key if isinstance(key, bytes) else public_key_raw(key)
    if len(raw) != 32:
        raise ValueError(f"An Ed25519 public key has 32 bytes, got {len(raw)}.")
    return hashlib.sha256(raw).hexdigest()


def public_key_pem(key: Ed25519PublicKey | Ed25519PrivateKey) -> bytes:
    """The public key as PEM (SubjectPublicKeyInfo), the form kept in a dossier's ``keys/`` folder."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_key_from_pem(pem: bytes) -> Ed25519PublicKey:
    """Read a PEM public key. Raises KeyUnreadable when it is not an Ed25519 key."""
    try:
        key = serialization.load_pem_public_key(pem)
    except ValueError as error:
        raise KeyUnreadable("The text is not a PEM public key.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyUnreadable(f"Expected an Ed25519 public key, got {type(key).__name__}.")
    return key


def _wrapping_key(secret: str | bytes, salt: bytes) -> bytes:
    material = secret.encode("utf-8") if isinstance(secret, str) else secret
    if len(material) < 16:
        raise ValueError(
            f"The secret that protects private keys must have at least 16 bytes, got {len(material)}."
        )
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=_INFO).derive(material)


def private_key_encrypt(key: Ed25519PrivateKey, secret: str | bytes) -> str:
    """The private key as text for storage. ``secret``: at least 16 bytes, kept outside the database.

    Raises ValueError when the secret is shorter.
    """
    salt, nonce = os.urandom(16), os.urandom(12)
    raw = key.private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    sealed = AESGCM(_wrapping_key(secret, salt)).encrypt(nonce, raw, keyid_of(key).encode("ascii"))
    return ".".join(
        ["v1"] + [base64.urlsafe_b64encode(part).decode("ascii") for part in (salt, nonce, sealed)]
    )


def private_key_decrypt(text: str, secret: str | bytes, *, keyid: str) -> Ed25519PrivateKey:
    """Read what :func:`private_key_encrypt` wrote.

    Args:
        keyid: the stored keyid the key must belong to.
    Raises:
        KeyUnreadable: wrong secret, wrong keyid, or altered text. The message never holds key material.
    """
    try:
        version, *parts = text.split(".")
        salt, nonce, sealed = (base64.urlsafe_b64decode(part) for part in parts)
        if version != "v1":
            raise ValueError(version)
    except ValueError as error:
        raise KeyUnreadable(
            "The stored private key is not in the form v1.<salt>.<nonce>.<ciphertext>."
        ) from error
    try:
        raw = AESGCM(_wrapping_key(secret, salt)).decrypt(nonce, sealed, keyid.encode("ascii"))
    except (InvalidTag, ValueError) as error:
        raise KeyUnreadable(
            f"Private key {keyid} cannot be decrypted. Has SECRET_KEY changed since it was stored?"
        ) from error
    return Ed25519PrivateKey.from_private_bytes(raw)
