"""Last line of defence against personal data, secrets, prompts and outputs in an event. Pure functions.

Callers are expected to pass none of these; what slips through by its name or its form is withheld here, because a
row of this log cannot be corrected.
"""

from __future__ import annotations

import datetime
import decimal
import math
import re
import uuid
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

WITHHELD = "[withheld]"
MAX_TEXT = 500  # characters of one value
MAX_ITEMS = 200  # members of one list or object
MAX_DEPTH = 6

EMAIL = re.compile(r"[A-Za-z0-9._%+'-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")
# The names under which prompts, outputs and secrets travel.
_FORBIDDEN_KEY = re.compile(
    r"^(prompt|prompts|output|outputs|completion|completions|messages|content|body|answer|input|inputs|text|"
    r"password|passphrase|secret|api_key|apikey|authorization|cookie|session_key|private_key|salt|e_?mail|phone|"
    r"name|username|user_name|first_name|last_name|full_name|display_name|signer|signer_name|author|ip|ip_address)$",
    re.I,
)
_KEY_TEXT = re.compile(r"\bsgn_[a-z0-9]+_[A-Za-z0-9]+_[A-Za-z0-9_\-]+")


def text_clean(text: str, *, names: Iterable[str] = (), limit: int = MAX_TEXT) -> str:
    """`text` without e-mail addresses, API keys, the given personal names and control characters."""
    cleaned = "".join(character if character.isprintable() else " " for character in text)
    cleaned = EMAIL.sub(WITHHELD, _KEY_TEXT.sub(WITHHELD, cleaned))
    for name in names:
        if len(name) >= 3:
            cleaned = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", WITHHELD, cleaned, flags=re.I)
    return cleaned if len(cleaned) <= limit else cleaned[: limit - 1] + "…"


def data_clean(value: Any, *, names: Iterable[str] = (), depth: int = 0) -> Any:
    """`value` as plain JSON that PostgreSQL keeps unchanged, with what must not enter the log withheld."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return data_clean(value.value, names=names, depth=depth)
    if isinstance(value, int):
        # A number longer than any double can hold is no measurement.
        return int(value) if value.bit_length() <= 1024 else WITHHELD
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        # jsonb gives a whole number back as an int of all its digits.
        return int(value) if value.is_integer() else float(value)
    if isinstance(value, str):
        return text_clean(value, names=names)
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (uuid.UUID, decimal.Decimal)):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)) or depth >= MAX_DEPTH:
        return WITHHELD
    if isinstance(value, Mapping):
        return {
            text_clean(str(key), names=names, limit=120): (
                WITHHELD if _FORBIDDEN_KEY.match(str(key)) else data_clean(one, names=names, depth=depth + 1)
            )
            for key, one in list(value.items())[:MAX_ITEMS]
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else list(value)
        return [data_clean(one, names=names, depth=depth + 1) for one in items[:MAX_ITEMS]]
    return text_clean(f"{type(value).__name__} {getattr(value, 'pk', '')}".strip(), names=names)
