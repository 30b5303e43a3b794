"""Standing in a tenant's schema for a moment, outside Django's request cycle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tenants.db import connection
from tenants.models import Tenant
from tenants.resolver import tenant_by_schema


@contextmanager
def tenant_entered(tenant: Tenant) -> Iterator[None]:
    """Queries inside go to the tenant's schema; the connection goes back to the pool afterwards.

    Inside a request or task that stands in a schema already, that one is restored and the connection kept.
    """
    before = connection.schema_name
    outermost = not connection.in_atomic_block and connection.connection is None
    connection.set_tenant(tenant)
    try:
        yield
    finally:
        if before == "public":
            connection.set_schema_to_public()
        else:
            connection.set_schema(before)
        if outermost:
            connection.close()


@contextmanager
def schema_entered(schema: str) -> Iterator[None]:
    """As `tenant_entered`, by the schema's name. Raises LookupError for a schema that no active tenant has."""
    tenant = tenant_by_schema(schema)
    if tenant is None:
        raise LookupError(f"No tenant has the schema {schema!r}.")
    with tenant_entered(tenant):
        yield
