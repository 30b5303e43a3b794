"""Personal data in the log: a keyed digest that can be tied to a person only while that person's salt exists.

Sources: HMAC, RFC 2104, with SHA-256. The salt has 256 random bits, so that a name cannot be guessed from its
commitment, and is deleted to erase the person.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass

from core.audit.models import PersonalDataSalt


@dataclass(frozen=True)
class Personal:
    """A value in an event's data that belongs to a person; stored as a commitment.

    kind: "user", "operator", "api_key" or "customer". ref: primary key of the subject. value: name, address, ...;
    None commits to who the subject is instead.
    """

    kind: str
    ref: object
    value: str | None = None


def _hmac(salt: bytes, purpose: str, text: str) -> str:
    return hmac.new(salt, f"{purpose}\x00{text}".encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def identity_commitment(salt: bytes, kind: str, ref: str) -> str:
    """64 hex digits that stand for the subject itself."""
    return _hmac(salt, "identity", f"{kind}:{ref}")


def value_commitment(salt: bytes, value: str) -> str:
    """64 hex digits that stand for one value of the subject (a name, an address)."""
    return _hmac(salt, "value", value)


def subject_get(kind: str, ref: object) -> PersonalDataSalt:
    """The subject's salt, made when there is none. Two processes that make it at once end up with one."""
    text = str(ref)[:64]
    found = PersonalDataSalt.objects.filter(kind=kind, ref=text).first()
    if found is None:
        salt = os.urandom(32)
        PersonalDataSalt.objects.bulk_create(
            [
                PersonalDataSalt(
                    kind=kind, ref=text, salt=salt, commitment=identity_commitment(salt, kind, text)
                )
            ],
            ignore_conflicts=True,
        )
        found = PersonalDataSalt.objects.get(kind=kind, ref=text)
    return found


def committed(personal: Personal) -> dict[str, str]:
    """What an event's data holds in place of the value: {"subject": ...} and, for a value, {"commitment": ...}."""
    subject = subject_get(personal.kind, personal.ref)
    stored = {"subject": subject.commitment}
    if personal.value is not None:
        stored["commitment"] = value_commitment(bytes(subject.salt), personal.value)
    return stored
