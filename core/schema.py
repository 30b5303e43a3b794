"""The schema the connection stands in."""

from __future__ import annotations

from django.db import connection


def current_schema() -> str:
    """Name of the schema that queries of this thread go to ("public" on the operators' site)."""
    return str(getattr(connection, "schema_name", ""))
