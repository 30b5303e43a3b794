"""Every task runs in a tenant, or says that it does not. Anything else is refused, never run in public."""

from __future__ import annotations

from typing import Any

from celery import Task
from celery.signals import before_task_publish
from django_tenants.utils import get_public_schema_name

from core.security.actor import SYSTEM, use_actor
from tenants.db import connection

# Header of a message that carries its tenant's schema.
HEADER = "tenant_schema"


class TenantMissing(RuntimeError):
    """A task that needs a tenant has none, or one that does not exist or is switched off."""


def _current_schema() -> str:
    """Schema of the connection; "" in public."""
    schema = connection.schema_name or ""
    return "" if schema == get_public_schema_name() else schema


@before_task_publish.connect(dispatch_uid="tenants.celery.stamp")
def stamp_schema(headers: dict[str, Any] | None = None, **_: Any) -> None:
    """Put the publisher's schema on the message, whichever way it was sent (delay, canvas, send_task).

    Inside a worker the connection stands in the running task's schema, so its follow-ups inherit it.
    """
    if headers is not None and not headers.get(HEADER):
        schema = _current_schema()
        if schema:
            headers[HEADER] = schema


class TenantTask(Task):
    """Base of all tasks. `tenant_scope = "public"` declares a task that works on the public schema."""

    abstract = True
    tenant_scope = "tenant"

    def apply_async(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        """Queue it for the current tenant. Raises TenantMissing in public unless the task is declared so."""
        headers = dict(options.get("headers") or {})
        schema = headers.get(HEADER) or _current_schema()
        if not schema and self.tenant_scope != "public":
            raise TenantMissing(
                f"The task {self.name} was queued without a tenant. Queue it inside schema_context(…), or declare "
                'it with tenant_scope="public".'
            )
        if schema:
            headers[HEADER] = schema
            options["headers"] = headers
        return super().apply_async(args, kwargs, *rest, **options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Enter the message's tenant, run, and leave for where the thread was before."""
        if self.request.called_directly:
            # Plain function call in a process that already stands somewhere.
            if self.tenant_scope != "public" and not _current_schema():
                raise TenantMissing(f"The task {self.name} was called outside a tenant.")
            return super().__call__(*args, **kwargs)
        previous = connection.tenant
        try:
            if self.tenant_scope == "public":
                connection.set_schema_to_public()
            else:
                connection.set_tenant(self._tenant())
            with use_actor(SYSTEM):
                return self.run(*args, **kwargs)
        finally:
            connection.set_tenant(previous)

    def _tenant(self) -> Any:
        # Here, because this module is loaded by the Celery app before the models are.
        from tenants.resolver import tenant_by_schema

        schema = getattr(self.request, HEADER, None) or (self.request.headers or {}).get(HEADER)
        if not schema or not isinstance(schema, str):
            raise TenantMissing(f"The message of task {self.name} names no tenant; it was not run.")
        tenant = tenant_by_schema(schema)
        if tenant is None:
            raise TenantMissing(
                f"The message of task {self.name} names {schema!r}, which is no tenant; it was not run."
            )
        if not tenant.is_active:
            raise TenantMissing(f"The tenant {schema!r} is deactivated; task {self.name} was not run.")
        return tenant
