"""REST of the operators' site."""

from django.urls import path

from tenants.api import views

urlpatterns = [
    path("plans/", views.Plans.as_view()),
    path("tenants/", views.Tenants.as_view()),
    path("tenants/<slug:schema_name>/", views.TenantOne.as_view()),
    path("tenants/<slug:schema_name>/deactivate/", views.TenantDeactivate.as_view()),
    path("tenants/<slug:schema_name>/activate/", views.TenantActivate.as_view()),
    path("tenants/<slug:schema_name>/delete/", views.TenantDelete.as_view()),
    path("tenants/<slug:schema_name>/export/", views.TenantExport.as_view()),
]
