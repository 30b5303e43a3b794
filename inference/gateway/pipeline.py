"""One request from the parsed call to the bytes that leave, in the gateway's order:

route → policy → reserve (the ledger row exists from here) → redact and guard → cache → engine → redact and
guard → settle → bytes. Whatever happens after the reservation, exactly one settlement follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Reply:
    """What goes back: a body, or a stream of events."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: Iterator[bytes] | None = None
