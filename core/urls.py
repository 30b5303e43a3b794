"""Pages and API of a tenant's host."""

from django.urls import include, path

urlpatterns = [
    path("", include("governance.urls_home")),
    path("", include("tenants.accounts.urls")),
    path("", include("inference.urls")),
    path("", include("inference.policies.urls")),
    path("", include("inference.guards.urls")),
    path("", include("inference.gateway.urls")),
    path("", include("inference.upstreams.urls")),
    path("", include("inference.caches.urls")),
    path("", include("inference.knobs.urls")),
    path("", include("inference.ledger.urls")),
    path("", include("tenants.quotas.urls")),
    path("", include("governance.urls")),
    path("", include("core.audit.urls")),
    path("", include("pilots.urls")),
    path("ip/", include("ip_portfolio.urls")),
    path("", include("core.ui.urls")),
    path("", include("core.platform.urls")),
    path("api/v1/", include("core.api.urls")),
]

handler400 = "core.ui.views.bad_request"
handler403 = "core.ui.views.forbidden"
handler404 = "core.ui.views.not_found"
handler500 = "core.ui.views.server_error"
