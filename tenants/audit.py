"""Door to the audit log for this app."""

from __future__ import annotations

from typing import Any


def audit_record(action: str, **fields: Any) -> None:
    """Record an action in the audit log of the schema the connection stands in."""
    try:
        from core.audit.services import audit_record as record
    except ModuleNotFoundError:  # until core.audit.services exists
        return
    record(action, **fields)
