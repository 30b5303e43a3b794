"""Signing on behalf of a tenant: the key is made when it is first needed and never leaves this module in clear."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from core.security.dsse import envelope_create
from core.security.keys import (
    KeyUnreadable,
    generate_private_key,
    keyid_of,
    private_key_decrypt,
    private_key_encrypt,
    public_key_from_pem,
    public_key_pem,
)
from core.security.models import TenantSigningKey


def _secrets() -> list[str]:
    """The secret in use and those it replaced, in the order to try."""
    return [settings.SECRET_KEY, *getattr(settings, "SECRET_KEY_FALLBACKS", [])]


def _key_create() -> None:
    """Store a new active key; without effect when another process was first."""
    private = generate_private_key()
    TenantSigningKey.objects.bulk_create(
        [
            TenantSigningKey(
                keyid=keyid_of(private),
                public_pem=public_key_pem(private).decode("ascii"),
                private_encrypted=private_key_encrypt(private, settings.SECRET_KEY),
            )
        ],
        ignore_conflicts=True,
    )


def tenant_signing_key() -> TenantSigningKey:
    """The active key of the current schema, made when there is none."""
    key = TenantSigningKey.objects.filter(is_active=True).first()
    if key is None:
        _key_create()
        key = TenantSigningKey.objects.get(is_active=True)
    return key


def private_key_of(key: TenantSigningKey) -> Ed25519PrivateKey:
    """The private half of a stored key.

    Raises KeyUnreadable when no known secret opens it: SECRET_KEY has changed, or the row was not written by us.
    """
    failure: KeyUnreadable | None = None
    for secret in _secrets():
        try:
            return private_key_decrypt(key.private_encrypted, secret, keyid=key.keyid)
        except KeyUnreadable as error:
            failure = error
    raise failure or KeyUnreadable("SECRET_KEY is empty.")


def tenant_sign(payload_type: str, payload: bytes) -> dict[str, Any]:
    """A DSSE envelope over `payload`, signed with the active key of the current schema.

    Args:
        payload_type: what the bytes are, for instance "application/vnd.signoff.dossier+json".
    Raises:
        KeyUnreadable: SECRET_KEY is not the one under which the key was stored.
    """
    return dict(envelope_create(payload, payload_type, private_key_of(tenant_signing_key())))


def tenant_public_keys() -> dict[str, Ed25519PublicKey]:
    """keyid -> public key of every key this schema has ever signed with, retired ones included.

    Makes the first key when there is none, so that a dossier can always name one.
    """
    tenant_signing_key()
    return {key.keyid: public_key_from_pem(key.public_pem.encode()) for key in TenantSigningKey.objects.all()}


def tenant_key_problems() -> dict[str, str]:
    """keyid -> why a stored key cannot be trusted; empty when all can.

    A key is ours when its private half opens under SECRET_KEY, which is not in the database, and belongs to its
    public half. So a key that somebody with the database alone slipped in is found.
    """
    problems: dict[str, str] = {}
    for key in TenantSigningKey.objects.all():
        try:
            private = private_key_of(key)
            public = public_key_from_pem(key.public_pem.encode())
        except KeyUnreadable as error:
            problems[key.keyid] = str(error)
            continue
        if keyid_of(private) != key.keyid or keyid_of(public) != key.keyid:
            problems[key.keyid] = "The stored public key, private key and key id do not belong together."
    return problems


@transaction.atomic
def tenant_key_rotate() -> TenantSigningKey:
    """Retire the active key and sign with a new one from now on. What the old one signed still verifies."""
    TenantSigningKey.objects.select_for_update().filter(is_active=True).update(
        is_active=False, retired_at=timezone.now()
    )
    return tenant_signing_key()
