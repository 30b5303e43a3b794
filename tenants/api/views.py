"""REST of the operators' site: tenants and plans."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from django.http import FileResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.endpoint import Endpoint
from core.api.serializers import Body
from tenants import services
from tenants.errors import TenantNotFound
from tenants.models import Plan, Tenant


class PlanOut(serializers.ModelSerializer[Plan]):
    """A tier with its limits; null is not limited."""

    class Meta:
        model = Plan
        fields = ["slug", "name", *Plan.LIMITS]


class TenantOut(serializers.ModelSerializer[Tenant]):
    """An organisation with its own schema."""

    plan = serializers.CharField(source="plan_id", read_only=True)
    url = serializers.SerializerMethodField()

    class Meta:
        model = Tenant
        fields = [
            "schema_name",
            "name",
            "plan",
            "status",
            "url",
            "created_at",
            "deactivated_at",
            "deactivated_reason",
        ]

    def get_url(self, tenant: Tenant) -> str:
        """Where its people sign in."""
        return tenant.url()


class TenantIn(Body):
    """A new tenant."""

    schema_name = serializers.CharField(max_length=63, help_text="Short name; also its sub-domain.")
    name = serializers.CharField(max_length=120)
    plan = serializers.CharField(max_length=40)
    domain = serializers.CharField(max_length=253, required=False, allow_null=True, default=None)
    admin_email = serializers.CharField(max_length=254, required=False, allow_null=True, default=None)
    admin_password = serializers.CharField(
        max_length=1000, required=False, allow_null=True, default=None, trim_whitespace=False
    )
    admin_name = serializers.CharField(max_length=120, default="Admin")


class TenantEdit(Body):
    """What can change of a tenant."""

    name = serializers.CharField(max_length=120, required=False)
    plan = serializers.CharField(max_length=40, required=False)


class DeactivateIn(Body):
    """Why nobody is let in any more."""

    reason = serializers.CharField(max_length=300, required=False, allow_blank=True, default="")


class ConfirmIn(Body):
    """Typed confirmation of something that cannot be undone."""

    confirmation = serializers.CharField(max_length=120, help_text="The tenant's name.")


def _tenant(schema_name: str) -> Tenant:
    tenant = services.tenant_get(schema_name)
    if tenant.is_public:
        raise TenantNotFound("There is no such tenant.")
    return tenant


class Plans(Endpoint):
    """Plans."""

    actions = {"GET": "tenant.view"}
    queryset = Plan.objects.all()
    ordering = ("position", "slug")

    @extend_schema(operation_id="plans_list", responses=PlanOut(many=True))
    def get(self, request: Request) -> Response:
        """List plans with their limits."""
        return self.page(PlanOut, Plan.objects.all())


class Tenants(Endpoint):
    """Tenants."""

    actions = {"GET": "tenant.view", "POST": "tenant.manage"}
    queryset = Tenant.objects.all()

    @extend_schema(operation_id="tenants_list", responses=TenantOut(many=True))
    def get(self, request: Request) -> Response:
        """List tenants, newest first."""
        return self.page(TenantOut, Tenant.objects.exclude(schema_name="public"))

    @extend_schema(operation_id="tenants_create", request=TenantIn, responses={201: TenantOut})
    def post(self, request: Request) -> Response:
        """Provision a tenant: schema, domain and first admin, or nothing."""
        return self.one(TenantOut, services.tenant_provision(**self.given(TenantIn)), status=201)


class TenantOne(Endpoint):
    """One tenant."""

    actions = {"GET": "tenant.view", "PATCH": "tenant.manage"}
    queryset = Tenant.objects.all()

    @extend_schema(operation_id="tenants_retrieve", responses=TenantOut)
    def get(self, request: Request, schema_name: str) -> Response:
        """One tenant."""
        return self.one(TenantOut, _tenant(schema_name))

    @extend_schema(operation_id="tenants_update", request=TenantEdit, responses=TenantOut)
    def patch(self, request: Request, schema_name: str) -> Response:
        """Change name or plan."""
        tenant = _tenant(schema_name)
        self.ensure_match(TenantOut, tenant)
        return self.one(TenantOut, services.tenant_update(tenant=tenant, **self.given(TenantEdit)))


class TenantDeactivate(Endpoint):
    """Deactivates a tenant."""

    actions = {"POST": "tenant.manage"}
    queryset = Tenant.objects.all()

    @extend_schema(operation_id="tenants_deactivate", request=DeactivateIn, responses=TenantOut)
    def post(self, request: Request, schema_name: str) -> Response:
        """Let nobody in any more; data stays."""
        given = self.given(DeactivateIn)
        return self.one(TenantOut, services.tenant_deactivate(tenant=_tenant(schema_name), **given))


class TenantActivate(Endpoint):
    """Activates a tenant."""

    actions = {"POST": "tenant.manage"}
    queryset = Tenant.objects.all()

    @extend_schema(operation_id="tenants_activate", request=None, responses=TenantOut)
    def post(self, request: Request, schema_name: str) -> Response:
        """Let people and keys in again."""
        return self.one(TenantOut, services.tenant_activate(tenant=_tenant(schema_name)))


class TenantDelete(Endpoint):
    """Deletes a tenant."""

    actions = {"POST": "tenant.manage"}
    queryset = Tenant.objects.all()

    @extend_schema(operation_id="tenants_delete", request=ConfirmIn, responses={204: None})
    def post(self, request: Request, schema_name: str) -> Response:
        """Drop everything the tenant has. Export it first; this cannot be undone."""
        services.tenant_delete(tenant=_tenant(schema_name), **self.given(ConfirmIn))
        return Response(status=204)


class TenantExport(Endpoint):
    """Exports a tenant."""

    actions = {"GET": "tenant.manage"}
    queryset = Tenant.objects.all()

    @extend_schema(operation_id="tenants_export", responses={(200, "application/zip"): OpenApiTypes.BINARY})
    def get(self, request: Request, schema_name: str) -> Any:
        """Everything the tenant has, without secrets, as a zip."""
        tenant = _tenant(schema_name)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "export.zip"
            services.tenant_export(tenant=tenant, path=path)
            # The open file outlives its directory entry.
            return FileResponse(
                path.open("rb"),
                as_attachment=True,
                filename=f"{schema_name}.zip",
                content_type="application/zip",
            )
