"""The text of an API key: `sgn_<schema>_<key id>_<secret>`. Knows neither the request nor the database.

The schema is in the text so that a bare host can find the tenant. A schema may contain underscores; key id and
secret do not, so the text is read from its end.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
from dataclasses import dataclass

PREFIX = "sgn_"
_ALPHABET = string.ascii_letters + string.digits
_KEY_ID_LENGTH = 12
# 43 characters of 62 symbols: 256 bits.
_SECRET_LENGTH = 43
_KEY = re.compile(r"sgn_([a-z][a-z0-9_]{0,47})_([A-Za-z0-9]{12})_([A-Za-z0-9]{43})")


@dataclass(frozen=True)
class KeyText:
    """A key's parts."""

    schema: str
    key_id: str
    secret: str

    def __str__(self) -> str:
        return f"{PREFIX}{self.schema}_{self.key_id}_{self.secret}"

    def __repr__(self) -> str:
        return f"KeyText(schema={self.schema!r}, key_id={self.key_id!r})"  # never the secret


def key_generate(schema: str) -> KeyText:
    """A new key for a schema, from the system's random source."""

    def text(length: int) -> str:
        return "".join(secrets.choice(_ALPHABET) for _ in range(length))

    return KeyText(schema, text(_KEY_ID_LENGTH), text(_SECRET_LENGTH))


def key_parse(text: str) -> KeyText | None:
    """The parts of a key, or None when the text is not one."""
    match = _KEY.fullmatch(text)
    return KeyText(*match.groups()) if match else None


def bearer(header: str) -> str | None:
    """The token of an `Authorization: Bearer …` header; None when it is another scheme or empty."""
    scheme, _, token = header.strip().partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def key_schema(header: str) -> str:
    """Schema named in an Authorization header's key, or "". Proves nothing; the key is checked later."""
    key = key_parse(bearer(header) or "")
    return key.schema if key else ""


def secret_digest(secret: str) -> str:
    """SHA-256, hex. Right for 256 random bits (see `ApiKey`); wrong for anything a person chose."""
    return hashlib.sha256(secret.encode()).hexdigest()


def secret_matches(secret: str, digest: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(secret_digest(secret), digest)
