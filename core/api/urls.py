"""/api/v1 on a tenant's host."""

from django.urls import include, path

from core.api import docs, views

app_name = "api"
urlpatterns = [
    path("schema/", views.SchemaView.as_view(urlconf="core.urls"), name="schema"),
    path("docs/", docs.reference, {"urlconf": "core.urls"}, name="docs"),
    path("", include("inference.api.urls")),
    path("", include("inference.policies.api")),
    path("", include("inference.guards.api")),
    path("", include("inference.upstreams.api")),
    path("", include("inference.caches.api")),
    path("", include("inference.knobs.api")),
    path("", include("inference.gateway.batch_api")),
    path("", include("inference.ledger.api")),
    path("", include("tenants.quotas.api")),
    path("", include("governance.api.urls")),
    path("", include("tenants.accounts.api.urls")),
    path("", include("core.audit.api.urls")),
    path("", include("pilots.api.urls")),
    path("", include("ip_portfolio.api.urls")),
]
