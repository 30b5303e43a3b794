"""Door to the audit log for this app (services import it from here, so that tests can break it at one place)."""

from __future__ import annotations

from core.audit.services import audit_record

__all__ = ["audit_record"]
