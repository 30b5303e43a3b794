"""What can go wrong when reading the log."""

from core.errors import Invalid, NotFound


class EventNotFound(NotFound):
    """There is no such event in this log."""

    code = "audit_event_not_found"


class ExportTooLarge(Invalid):
    """More events match than one export holds."""

    code = "audit_export_too_large"
