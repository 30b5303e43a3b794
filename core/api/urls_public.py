"""/api/v1 on the operators' site."""

from django.urls import include, path

from core.api import docs, views

app_name = "api"
urlpatterns = [
    path("schema/", views.SchemaView.as_view(urlconf="core.urls_public"), name="schema"),
    path("docs/", docs.reference, {"urlconf": "core.urls_public"}, name="docs"),
    path("", include("tenants.api.urls")),
    path("", include("tenants.accounts.api.urls")),
    path("", include("core.audit.api.urls")),
]
