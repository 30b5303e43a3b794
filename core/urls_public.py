"""Pages and API of the operators' site (public schema)."""

from django.urls import include, path

urlpatterns = [
    path("", include("tenants.urls")),
    path("", include("tenants.accounts.urls")),
    path("", include("core.audit.urls")),
    path("", include("core.ui.urls")),
    path("", include("core.platform.urls")),
    path("api/v1/", include("core.api.urls_public")),
]

handler400 = "core.ui.views.bad_request"
handler403 = "core.ui.views.forbidden"
handler404 = "core.ui.views.not_found"
handler500 = "core.ui.views.server_error"
