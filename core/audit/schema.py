"""The schema the current connection works in."""

from __future__ import annotations

from django.db import connection


def schema_current() -> str:
    """Name of the schema; django-tenants adds the attribute to the connection."""
    return str(connection.schema_name)  # type: ignore[attr-defined]
