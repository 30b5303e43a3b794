"""DSSE v1 envelopes: signed bytes together with what kind of bytes they are.

The signature covers the pre-authentication encoding (PAE) of payload type and payload, so that bytes signed
as one kind of document cannot be presented as another. Signatures are Ed25519 (RFC 8032); a ``keyid`` is the
SHA-256, in hex, of the 32-byte public key.

Source: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, TypedDict

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from core.security.keys import keyid_of

__all__ = [
    "MANIFEST_PAYLOAD_TYPE",
    "SIGNATURE_PAYLOAD_TYPE",
    "DsseError",
    "DsseSignature",
    "Envelope",
    "envelope_create",
    "envelope_payload",
    "envelope_verify",
    "pae",
]

SIGNATURE_PAYLOAD_TYPE = "application/vnd.signoff.signature+json"
"""One person's position on one dossier; the payload names ``dossier_digest``."""

MANIFEST_PAYLOAD_TYPE = "application/vnd.signoff.manifest+json"
"""The manifest of an exported dossier archive."""


class DsseError(ValueError):
    """The envelope is malformed, or no acceptable signature is on it. The message says which."""


class DsseSignature(TypedDict):
    keyid: str
    sig: str


class Envelope(TypedDict):
    payload: str
    payloadType: str
    signatures: list[DsseSignature]


def pae(payload_type: str, payload: bytes) -> bytes:
    """``DSSEv1 <len type> <type> <len payload> <payload>``; lengths in bytes, decimal."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def envelope_create(payload: bytes, payload_type: str, *private_keys: Ed25519PrivateKey) -> Envelope:
    """Sign ``payload`` with each key. Raises ValueError when no key is given."""
    if not private_keys:
        raise ValueError("An envelope needs at least one private key; none was given.")
    message = pae(payload_type, payload)
    return {
        "payload": base64.b64encode(payload).decode("ascii"),
        "payloadType": payload_type,
        "signatures": [
            {"keyid": keyid_of(key.public_key()), "sig": base64.b64encode(key.sign(message)).decode("ascii")}
            for key in private_keys
        ],
    }


def _decode(text: Any, what: str) -> bytes:
    if not isinstance(text, str):
        raise DsseError(f"The envelope's {what} must be base64 text, got {type(text).__name__}.")
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError) as error:
        raise DsseError(f"The envelope's {what} is not base64.") from error
    # Unused bits of the last character would allow two texts for one value.
    if base64.b64encode(data).decode("ascii") != text:
        raise DsseError(f"The envelope's {what} is not the canonical base64 of its value.")
    return data


def envelope_payload(envelope: Mapping[str, Any]) -> bytes:
    """The payload bytes, **unverified**. Raises DsseError when the envelope is malformed."""
    return _decode(envelope.get("payload"), "payload")


def envelope_verify(
    envelope: Mapping[str, Any],
    public_keys: Mapping[str, Ed25519PublicKey],
    *,
    payload_type: str | None = None,
) -> tuple[bytes, list[str]]:
    """Check an envelope and return its payload with the keyids that signed it.

    Every signature must be by a key in ``public_keys`` and hold; one that does not makes the envelope
    invalid.

    Args:
        public_keys: keyid -> key, the keys the caller trusts.
        payload_type: when given, the only type accepted.
    Raises:
        DsseError: malformed, unknown key, wrong type, or a signature that does not hold.
    """
    kind = envelope.get("payloadType")
    if not isinstance(kind, str):
        raise DsseError("The envelope has no payloadType.")
    if payload_type is not None and kind != payload_type:
        raise DsseError(f"The envelope holds {kind!r}, expected {payload_type!r}.")
    payload = envelope_payload(envelope)
    signatures = envelope.get("signatures")
    if not isinstance(signatures, list) or not signatures:
        raise DsseError("The envelope carries no signature.")
    message = pae(kind, payload)
    signers: list[str] = []
    for signature in signatures:
        if not isinstance(signature, Mapping):
            raise DsseError("A signature in the envelope is not an object.")
        keyid = signature.get("keyid")
        key = public_keys.get(keyid) if isinstance(keyid, str) else None
        if key is None or not isinstance(keyid, str):
            raise DsseError(f"The envelope is signed by key {keyid!r}, which is not among the trusted keys.")
        try:
            key.verify(_decode(signature.get("sig"), "signature"), message)
        except InvalidSignature as error:
            raise DsseError(f"The signature by key {keyid} does not hold for this payload.") from error
        signers.append(keyid)
    return payload, signers
