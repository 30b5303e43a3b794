"""The operators' site. Its home page is the list of tenants."""

from __future__ import annotations

from django.urls import include, path

from tenants import views

_tenants = (
    [
        path("tenants/", views.tenant_list, name="tenant_list"),
        path("tenants/new/", views.tenant_create, name="tenant_create"),
        path("tenants/<str:schema_name>/", views.tenant_detail, name="tenant_detail"),
        path("tenants/<str:schema_name>/deactivate/", views.tenant_deactivate, name="tenant_deactivate"),
        path("tenants/<str:schema_name>/activate/", views.tenant_activate, name="tenant_activate"),
        path("tenants/<str:schema_name>/export/", views.tenant_export, name="tenant_export"),
        path("tenants/<str:schema_name>/delete/", views.tenant_delete, name="tenant_delete"),
    ],
    "tenants",
)
urlpatterns = [path("", views.tenant_list, name="home"), path("", include(_tenants))]
