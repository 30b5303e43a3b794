"""Redaction of personal data and secrets, in texts and in streams. Pure: no Django, no database.

``Redactor(config, key).redact(text, vault)`` and ``.stream(vault)``; see docs/design/redaction.md.
"""

from core.security.redaction.config import (
    ACTIONS,
    CustomPattern,
    RedactionConfig,
    RedactionConfigError,
)
from core.security.redaction.entities import ENTITIES, Entity
from core.security.redaction.redactor import Redacted, Redactor
from core.security.redaction.stream import StreamRedactor
from core.security.redaction.vault import Restorer, Vault

__all__ = [
    "ACTIONS",
    "ENTITIES",
    "CustomPattern",
    "Entity",
    "Redacted",
    "RedactionConfig",
    "RedactionConfigError",
    "Redactor",
    "Restorer",
    "StreamRedactor",
    "Vault",
]
