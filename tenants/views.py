"""Pages of the operators' site: tenants and what can be done with them."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from django.contrib import messages
from django.http import FileResponse, HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from core.errors import DomainError
from core.security.permissions import requires
from tenants import selectors, services, tables
from tenants.accounts.forms import add_errors
from tenants.accounts.services import password_generate
from tenants.accounts.views import INVALID
from tenants.errors import ConfirmationMismatch
from tenants.forms import DeactivateForm, TenantEditForm, TenantForm
from tenants.models import Tenant


@requires("tenant.view")
@require_safe
def tenant_list(request: HttpRequest) -> HttpResponseBase:
    """All tenants; also the operators' home."""
    table = tables.tenant_table(request)
    if table.wants_csv:
        return table.csv_response("tenants.csv")
    counts = selectors.tenant_counts()
    return render(request, "tenants/tenant_list.html", {"table": table, "counts": counts})


@requires("tenant.manage")
@require_http_methods(["GET", "HEAD", "POST"])
def tenant_create(request: HttpRequest) -> HttpResponseBase:
    """Create a tenant with its first admin, whose password is shown once."""
    form = TenantForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        password = password_generate()
        started = time.monotonic()
        try:
            tenant = services.tenant_provision(**form.cleaned_data, admin_password=password)
        except DomainError as error:
            add_errors(form, error)
        else:
            context = {
                "tenant": tenant,
                "url": tenant.url(),
                "email": form.cleaned_data["admin_email"],
                "password": password,
                "seconds": time.monotonic() - started,
            }
            response = render(request, "tenants/tenant_created.html", context)
            response["Cache-Control"] = "no-store"
            return response
    return render(
        request, "tenants/tenant_create.html", {"form": form}, status=INVALID if form.errors else 200
    )


def _detail(
    request: HttpRequest,
    tenant: Tenant,
    *,
    form: TenantEditForm | None = None,
    confirm_error: str = "",
    status: int = 200,
) -> HttpResponseBase:
    found = selectors.tenant_status(tenant)
    context = {
        "tenant_row": found.tenant,
        "status": found,
        "health": tables.health_badge(found.health),
        "url": found.tenant.url(),
        "domains": list(found.tenant.domains.order_by("-is_primary", "domain")),
        "limits": selectors.plan_limits(found.tenant.plan),
        "form": form or TenantEditForm(initial={"name": tenant.name, "plan": tenant.plan_id}),
        "deactivate_form": DeactivateForm(),
        "confirm_error": confirm_error,
    }
    return render(request, "tenants/tenant_detail.html", context, status=status)


@requires("tenant.view")
@require_http_methods(["GET", "HEAD", "POST"])
def tenant_detail(request: HttpRequest, schema_name: str) -> HttpResponseBase:
    """One tenant: state, limits, and the danger zone. POST changes name and plan."""
    tenant = services.tenant_get(schema_name)
    if request.method != "POST":
        return _detail(request, tenant)
    form = TenantEditForm(request.POST)
    if form.is_valid():
        try:
            tenant = services.tenant_update(
                tenant=tenant, name=form.cleaned_data["name"], plan=form.cleaned_data["plan"]
            )
        except DomainError as error:
            if not error.fields:
                raise
            add_errors(form, error)
        else:
            messages.success(request, f"{tenant.name} is saved.")
            return redirect("tenants:tenant_detail", tenant.schema_name)
    return _detail(request, tenant, form=form, status=INVALID)


@requires("tenant.manage")
@require_POST
def tenant_deactivate(request: HttpRequest, schema_name: str) -> HttpResponseBase:
    """Let nobody in any more."""
    tenant = services.tenant_get(schema_name)
    form = DeactivateForm(request.POST)
    reason = form.cleaned_data["reason"] if form.is_valid() else ""
    services.tenant_deactivate(tenant=tenant, reason=reason)
    messages.success(request, f"{tenant.name} is deactivated. Its people and keys are refused from now on.")
    return redirect("tenants:tenant_detail", schema_name)


@requires("tenant.manage")
@require_POST
def tenant_activate(request: HttpRequest, schema_name: str) -> HttpResponseBase:
    """Let people and keys in again."""
    tenant = services.tenant_activate(tenant=services.tenant_get(schema_name))
    messages.success(request, f"{tenant.name} is active again.")
    return redirect("tenants:tenant_detail", schema_name)


@requires("tenant.manage")
@require_POST
def tenant_export(request: HttpRequest, schema_name: str) -> HttpResponseBase:
    """All data of the tenant as a zip."""
    tenant = services.tenant_get(schema_name)
    # The open file outlives its directory entry: nothing stays on disk after the download.
    with tempfile.TemporaryDirectory() as directory:
        export = services.tenant_export(tenant=tenant, path=Path(directory) / f"{schema_name}.zip")
        handle = export.path.open("rb")
    response = FileResponse(
        handle, as_attachment=True, filename=f"{schema_name}-export.zip", content_type="application/zip"
    )
    response["X-Content-SHA256"] = export.sha256
    return response


@requires("tenant.manage")
@require_POST
def tenant_delete(request: HttpRequest, schema_name: str) -> HttpResponseBase:
    """Drop the tenant with everything it has, after its name was typed."""
    tenant = services.tenant_get(schema_name)
    try:
        services.tenant_delete(tenant=tenant, confirmation=request.POST.get("confirm", ""))
    except ConfirmationMismatch as error:
        return _detail(request, tenant, confirm_error=error.message, status=INVALID)
    messages.success(request, f"{tenant.name} is deleted, with its schema and domains.")
    return redirect("tenants:tenant_list")
