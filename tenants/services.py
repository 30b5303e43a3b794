"""Creating, switching off, exporting and deleting tenants. Everything here is for operators."""

from __future__ import annotations

import logging
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, ProgrammingError, transaction
from django.utils import timezone
from django_tenants.signals import post_schema_sync
from django_tenants.utils import get_public_schema_name, schema_context

from core.security.permissions import require
from tenants import exporting, naming, schema_templates
from tenants.accounts.models import Role, User
from tenants.accounts.services import check_email, check_password
from tenants.audit import audit_record
from tenants.db import connection
from tenants.errors import (
    ConfirmationMismatch,
    ProvisioningFailed,
    TenantExists,
    TenantInvalid,
    TenantNotFound,
)
from tenants.middleware import is_bare_host
from tenants.models import Domain, Plan, Tenant

logger = logging.getLogger("signoff.tenants")


def default_domain(schema_name: str) -> str:
    """Host of a tenant that brings none of its own: its label under the base domain."""
    return f"{naming.host_label(schema_name)}.{settings.BASE_DOMAIN}"


def tenant_provision(
    *,
    schema_name: str,
    name: str,
    plan: Plan | str,
    domain: str | None = None,
    admin_email: str | None = None,
    admin_password: str | None = None,
    admin_name: str = "Admin",
    admin_must_change_password: bool = True,
) -> Tenant:
    """Create a tenant: its row, domain, schema with all tables, and its first admin when an address is given.

    One transaction: whatever fails, nothing stays behind. Well under a second once the template of the current
    migrations exists (a deploy makes it); the first call after that takes as long as the migrations do.

    Args:
        schema_name: small letters, digits and underscores; also the host label, with hyphens.
        plan: a Plan or its slug.
        domain: host name; by default the label under BASE_DOMAIN.
        admin_password: at least 12 characters; needed with `admin_email`.
    Raises:
        TenantInvalid: a rule is broken; `fields` says which. TenantExists: schema, name or domain is taken.
        Forbidden: the actor is no operator.
    """
    require("tenant.manage")
    schema_name = naming.schema_name_clean(schema_name)
    name = naming.tenant_name_clean(name)
    host = naming.domain_clean(domain or default_domain(schema_name))
    if settings.DEPLOYMENT_MODE == "multi" and is_bare_host(host):
        # A tenant there would take the operators' site away, and everybody's keys on the bare host with it.
        message = f"The operators' site answers at {host}. Choose another domain."
        raise TenantInvalid(message, fields={"domain": [message]})
    email = None
    if admin_email:
        email = check_email(admin_email, field="admin_email")
        if not admin_password:
            message = "Give the first admin a password."
            raise TenantInvalid(message, fields={"admin_password": [message]})
        check_password(admin_password, email=email, name=admin_name, field="admin_password")
    with schema_context(get_public_schema_name()):
        plan = _plan(plan)
        _refuse_duplicates(schema_name=schema_name, name=name, host=host)
        # Before the transaction, because building a missing template takes seconds.
        sql = schema_templates.template_sql(schema_name)
        try:
            with transaction.atomic():
                tenant = Tenant(schema_name=schema_name, name=name, plan=plan)
                tenant.save()
                Domain.objects.create(tenant=tenant, domain=host, is_primary=True)
                _schema_create(schema_name, sql)
                if email:
                    _first_admin(
                        tenant, email=email, name=admin_name, password=admin_password or "",
                        must_change=admin_must_change_password,
                    )  # fmt: skip
                audit_record(
                    "tenant.created",
                    target=tenant,
                    data={"schema": schema_name, "plan": plan.slug, "domain": host},
                )
                post_schema_sync.send(sender=Tenant, tenant=tenant)
        except (IntegrityError, ValidationError) as error:
            # Somebody else was faster between our look and our write.
            _refuse_duplicates(schema_name=schema_name, name=name, host=host)
            raise ProvisioningFailed(
                f"The tenant {name} could not be stored; nothing was created."
            ) from error
        except ProgrammingError as error:
            if getattr(error.__cause__, "sqlstate", "") == "42P06":  # duplicate_schema
                raise _taken("schema_name", f"The short name {schema_name!r} is taken.") from error
            raise
    return tenant


def _plan(plan: Plan | str) -> Plan:
    if isinstance(plan, Plan):
        return plan
    found = Plan.objects.filter(slug=plan).first()
    if found is None:
        known = ", ".join(Plan.objects.values_list("slug", flat=True)) or "none"
        message = f"There is no plan {plan!r}. Known plans: {known}."
        raise TenantInvalid(message, fields={"plan": [message]})
    return found


def _taken(field: str, message: str) -> TenantExists:
    return TenantExists(message, fields={field: [message]})


def _refuse_duplicates(*, schema_name: str, name: str, host: str) -> None:
    if Tenant.objects.filter(schema_name__iexact=schema_name).exists():
        raise _taken("schema_name", f"There is a tenant with the short name {schema_name!r} already.")
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [schema_name])
        if cursor.fetchone():
            raise _taken(
                "schema_name",
                f"The database has a schema {schema_name!r} that belongs to no tenant. Choose another short name, or "
                "have a database administrator remove it.",
            )
    if Domain.objects.filter(domain=host).exists():
        raise _taken("domain", f"The domain {host} belongs to a tenant already.")
    if Tenant.objects.filter(name__iexact=name).exists():
        raise _taken("name", f"There is a tenant called {name!r} already.")


def _schema_create(schema_name: str, sql: str) -> None:
    """Replay the template. The text is our own dump with a validated name in it; it takes no parameters."""
    with connection.cursor() as cursor:
        cursor.execute(sql)


def _first_admin(tenant: Tenant, *, email: str, name: str, password: str, must_change: bool) -> None:
    with schema_context(tenant.schema_name):
        user = User(email=email, name=name, roles=[Role.ADMIN], must_change_password=must_change)
        user.set_password(password)
        user.save()
        audit_record("user.created", target=user, data={"roles": user.roles, "first_admin": True})


def tenant_get(schema_name: str) -> Tenant:
    """The tenant with this schema. Raises TenantNotFound."""
    with schema_context(get_public_schema_name()):
        tenant = Tenant.objects.select_related("plan").filter(schema_name=schema_name).first()
    if tenant is None:
        raise TenantNotFound(f"There is no tenant with the short name {schema_name!r}.")
    return tenant


def tenant_update(*, tenant: Tenant, name: str | None = None, plan: Plan | str | None = None) -> Tenant:
    """Change name or plan. Raises TenantInvalid, TenantExists, Forbidden."""
    require("tenant.manage")
    with schema_context(get_public_schema_name()), transaction.atomic():
        tenant = _locked(tenant)
        changed: dict[str, Any] = {}
        if name is not None and (cleaned := naming.tenant_name_clean(name)) != tenant.name:
            if Tenant.objects.filter(name__iexact=cleaned).exclude(pk=tenant.pk).exists():
                raise _taken("name", f"There is a tenant called {cleaned!r} already.")
            changed["name"] = tenant.name = cleaned
        if plan is not None and (found := _plan(plan)).pk != tenant.plan_id:
            tenant.plan = found
            changed["plan"] = found.slug
        if changed:
            tenant.save(update_fields=list(changed))
            audit_record("tenant.changed", target=tenant, data=changed)
    return tenant


def _locked(tenant: Tenant) -> Tenant:
    found = Tenant.objects.select_for_update(of=("self",)).select_related("plan").filter(pk=tenant.pk).first()
    if found is None:
        raise TenantNotFound(f"The tenant {tenant.schema_name!r} does not exist any more.")
    return found


def tenant_deactivate(*, tenant: Tenant, reason: str = "") -> Tenant:
    """Let nobody in any more; data stays. Doing it twice changes nothing. Raises Forbidden, TenantNotFound."""
    require("tenant.manage")
    with schema_context(get_public_schema_name()), transaction.atomic():
        tenant = _locked(tenant)
        if tenant.is_active:
            tenant.status = Tenant.Status.DEACTIVATED
            tenant.deactivated_at = timezone.now()
            tenant.deactivated_reason = reason.strip()[:300]
            tenant.save(update_fields=["status", "deactivated_at", "deactivated_reason"])
            audit_record("tenant.deactivated", target=tenant, data={"schema": tenant.schema_name})
    return tenant


def tenant_activate(*, tenant: Tenant) -> Tenant:
    """Let people and keys in again. Doing it twice changes nothing. Raises Forbidden, TenantNotFound."""
    require("tenant.manage")
    with schema_context(get_public_schema_name()), transaction.atomic():
        tenant = _locked(tenant)
        if not tenant.is_active:
            tenant.status = Tenant.Status.ACTIVE
            tenant.deactivated_at = None
            tenant.deactivated_reason = ""
            tenant.save(update_fields=["status", "deactivated_at", "deactivated_reason"])
            audit_record("tenant.activated", target=tenant, data={"schema": tenant.schema_name})
    return tenant


def tenant_export(*, tenant: Tenant, path: Path) -> exporting.Export:
    """Write everything the tenant has, without secrets, into a new zip file at `path`.

    Raises:
        TenantNotFound, Forbidden; FileExistsError when there is a file at `path`.
    """
    require("tenant.manage")
    tenant_get(tenant.schema_name)
    started = time.monotonic()
    export = exporting.export_schema(tenant, path)
    with schema_context(get_public_schema_name()):
        audit_record(
            "tenant.exported", target=tenant,
            data={"schema": tenant.schema_name, "tables": export.tables, "rows": export.rows, "sha256": export.sha256,
                  "seconds": round(time.monotonic() - started, 3)},
        )  # fmt: skip
    return export


def tenant_delete(*, tenant: Tenant, confirmation: str) -> None:
    """Drop the schema with everything in it, the tenant's row, domains and files. It cannot be undone.

    Args:
        confirmation: the tenant's name, typed by the person who wants this.
    Raises:
        ConfirmationMismatch: it is not the name. TenantNotFound, Forbidden.
    """
    require("tenant.manage")
    if confirmation.strip() != tenant.name:
        message = f"Type the tenant's name, {tenant.name}, to delete it. Nothing was deleted."
        raise ConfirmationMismatch(message, fields={"confirmation": [message]})
    with schema_context(get_public_schema_name()), transaction.atomic():
        tenant = _locked(tenant)
        schema_name = tenant.schema_name
        audit_record("tenant.deleted", target=tenant, data={"schema": schema_name})
        with connection.cursor() as cursor:
            cursor.execute(f"DROP SCHEMA IF EXISTS {connection.ops.quote_name(schema_name)} CASCADE")
        tenant.delete()
        transaction.on_commit(partial(_files_remove, schema_name))


def _files_remove(schema_name: str) -> None:
    """Remove a deleted tenant's models and imports: a later tenant with its short name must not find them.

    Import directories outside our own data directory belong to whoever runs the machine; they are only named.
    """
    for directory in (Path(settings.MODEL_STORE), *map(Path, settings.MODEL_IMPORT_ROOTS)):
        own = directory.expanduser() / schema_name
        if not own.is_dir():
            continue
        if (
            own.resolve().is_relative_to(Path(settings.DATA_DIR).resolve())
            or directory == settings.MODEL_STORE
        ):
            shutil.rmtree(own, ignore_errors=True)
        if own.exists():
            logger.warning("files of a deleted tenant are left; remove them", extra={"path": str(own)})
