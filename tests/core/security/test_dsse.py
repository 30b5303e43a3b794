"""DSSE envelopes and the keys that sign them."""

from __future__ import annotations

import base64
import copy
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from core.security.dsse import DsseError, envelope_create, envelope_payload, envelope_verify, pae
from core.security.keys import (
    KeyUnreadable,
    generate_private_key,
    keyid_of,
    private_key_decrypt,
    private_key_encrypt,
    public_key_from_pem,
    public_key_pem,
    public_key_raw,
)
from tests.core.evidence.cast import load_verifier

ALICE, BOB = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
TRUSTED = {keyid_of(key): key.public_key() for key in (ALICE, BOB)}
SECRET = "a secret of sufficient length"


def test_pae_is_as_the_protocol_shows() -> None:
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "  # lengths count bytes


def test_what_was_signed_is_what_comes_back() -> None:
    envelope = envelope_create(b"payload", "text/x", ALICE, BOB)
    assert envelope_verify(envelope, TRUSTED, payload_type="text/x") == (
        b"payload",
        [keyid_of(ALICE), keyid_of(BOB)],
    )
    assert envelope_payload(envelope) == b"payload"


def changed(field: str, value: Any) -> dict[str, Any]:
    envelope: dict[str, Any] = copy.deepcopy(dict(envelope_create(b"payload", "text/x", ALICE)))
    if field in ("keyid", "sig"):
        envelope["signatures"][0][field] = value
    else:
        envelope[field] = value
    return envelope


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("payload", base64.b64encode(b"Payload").decode(), "does not hold"),
        ("payloadType", "text/y", "does not hold"),
        ("payloadType", None, "no payloadType"),
        ("payload", "***", "not base64"),
        ("payload", "cGF5bG9hZB==", "base64"),
        ("payload", None, "must be base64 text"),
        ("signatures", [], "no signature"),
        ("signatures", "x", "no signature"),
        ("signatures", ["x"], "not an object"),
        ("keyid", keyid_of(BOB), "does not hold"),
        ("keyid", "unknown", "not among the trusted keys"),
        ("keyid", ["x"], "not among the trusted keys"),
        ("sig", base64.b64encode(bytes(64)).decode(), "does not hold"),
    ],
)
def test_an_envelope_changed_anywhere_is_refused(field: str, value: Any, says: str) -> None:
    with pytest.raises(DsseError, match=says):
        envelope_verify(changed(field, value), TRUSTED)


def test_the_wrong_kind_of_document_is_refused() -> None:
    with pytest.raises(DsseError, match="expected 'text/y'"):
        envelope_verify(envelope_create(b"payload", "text/x", ALICE), TRUSTED, payload_type="text/y")
    with pytest.raises(ValueError, match="private key"):
        envelope_create(b"payload", "text/x")


def test_one_bad_signature_spoils_the_envelope() -> None:
    envelope = envelope_create(b"payload", "text/x", ALICE, BOB)
    with pytest.raises(DsseError, match="trusted"):
        envelope_verify(envelope, {keyid_of(ALICE): ALICE.public_key()})


@settings(deadline=None, max_examples=30)
@given(st.binary(max_size=200), st.binary(min_size=32, max_size=32), st.integers(0, 511))
def test_the_verifiers_ed25519_agrees_with_the_library(message: bytes, seed: bytes, bit: int) -> None:
    verify = load_verifier()
    key = Ed25519PrivateKey.from_private_bytes(seed)
    signature, public = bytearray(key.sign(message)), public_key_raw(key)
    assert verify.ed25519_holds(public, message, bytes(signature))
    assert not verify.ed25519_holds(public, message + b"x", bytes(signature))
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify.ed25519_holds(public, message, bytes(signature))


@pytest.mark.parametrize(
    ("public", "message", "signature"),
    [
        (
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
            "d25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
            "387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ],
)
def test_ed25519_vectors_of_rfc_8032(public: str, message: str, signature: str) -> None:
    verify, (key, text, sig) = load_verifier(), (bytes.fromhex(part) for part in (public, message, signature))
    assert verify.ed25519_holds(key, text, sig)
    # The same signature with the group order added to its second half must not count as another valid one.
    malleable = sig[:32] + (int.from_bytes(sig[32:], "little") + verify.ORDER).to_bytes(32, "little")
    assert not verify.ed25519_holds(key, text, malleable)


# --- keys ----------------------------------------------------------------------------------------------------


def test_a_stored_key_comes_back_and_its_text_tells_nothing() -> None:
    key = generate_private_key()
    text = private_key_encrypt(key, SECRET)
    assert private_key_decrypt(text, SECRET, keyid=keyid_of(key)).sign(b"x") == key.sign(b"x")
    assert text != private_key_encrypt(key, SECRET)
    assert key.private_bytes_raw() not in base64.urlsafe_b64decode(text.split(".")[3])


@pytest.mark.parametrize(
    ("alter", "secret", "keyid"),
    [
        (lambda text: text, "another secret of length", None),
        (lambda text: text, SECRET, keyid_of(BOB)),
        (lambda text: text[:-6] + ("A" if text[-6] != "A" else "B") + text[-5:], SECRET, None),
        (lambda text: "v2" + text[2:], SECRET, None),
        (lambda text: "", SECRET, None),
        (lambda text: "v1.a.b", SECRET, None),
    ],
)
def test_a_key_that_cannot_be_read_is_refused(alter: Any, secret: str, keyid: str | None) -> None:
    text = alter(private_key_encrypt(ALICE, SECRET))
    with pytest.raises(KeyUnreadable) as caught:
        private_key_decrypt(text, secret, keyid=keyid or keyid_of(ALICE))
    assert secret not in str(caught.value)


def test_a_short_secret_protects_nothing_and_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        private_key_encrypt(ALICE, "short")


def test_public_keys_as_pem() -> None:
    assert keyid_of(public_key_from_pem(public_key_pem(ALICE))) == keyid_of(ALICE)
    for wrong in (b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"):
        with pytest.raises(KeyUnreadable):
            public_key_from_pem(wrong)
    with pytest.raises(ValueError, match="32 bytes"):
        keyid_of(b"short")
