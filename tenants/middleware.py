"""Chooses the tenant of a request and gives the connection back to the public schema at its end."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import cast

from django.conf import settings
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django_tenants.utils import get_public_schema_name

from tenants.accounts.keys import key_schema
from tenants.db import connection
from tenants.models import Tenant
from tenants.resolver import tenant_by_host, tenant_by_schema

logger = logging.getLogger("signoff.tenants")

# Paths at which an API key on the bare host chooses the tenant, and errors are problem documents.
API_PREFIXES = ("/api/", "/v1/")


def public_tenant() -> Tenant:
    """An unsaved Tenant that stands for the operators' site, so that `request.tenant` always has a name."""
    return Tenant(schema_name=get_public_schema_name(), name="Operators")


def is_api_path(path: str) -> bool:
    """Whether programs call this path (REST or the gateway), rather than people."""
    return path.startswith(API_PREFIXES) or path in {"/api", "/v1"}


def host_of(request: HttpRequest) -> str:
    """Host name of a request: lower case, without port and trailing dot. Raises DisallowedHost (400)."""
    host = request.get_host()
    if host.startswith("["):
        return host[1 : host.index("]")]
    return host.partition(":")[0].lower().rstrip(".")


def is_bare_host(host: str) -> bool:
    """Whether the operators' site answers here: the base domain, or an address instead of a name."""
    if host in {settings.BASE_DOMAIN, "localhost"}:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class TenantMiddleware:
    """Sets `request.tenant`, the connection's schema and the URL configuration; restores public at the end.

    Multi mode: by host; on a bare host the schema named in an API key (on /api/ and /v1 only), else public.
    Single mode: the one tenant at any host. The key itself is checked later; here it only names a schema.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        # A thread is reused: whatever it served before must not be the start of this request.
        connection.set_schema_to_public()
        try:
            host = host_of(request)
            if request.path_info.startswith(settings.STATIC_URL):
                tenant: Tenant | None = public_tenant()
            else:
                tenant = self.choose(request, host)
            if tenant is None:
                return self.unknown_host(request, host)
            if not tenant.is_active:
                return self.deactivated(request, tenant)
            request.tenant = tenant  # type: ignore[attr-defined]
            request.urlconf = (  # type: ignore[attr-defined]
                settings.PUBLIC_SCHEMA_URLCONF if tenant.is_public else settings.ROOT_URLCONF
            )
            connection.set_tenant(tenant)
            response = self.get_response(request)
            if response.streaming and not isinstance(response, FileResponse) and not tenant.is_public:
                streamed = cast(StreamingHttpResponse, response)
                if not streamed.is_async:
                    # The body is produced after this middleware is left; it must still find its tenant.
                    streamed.streaming_content = _within(
                        tenant, cast(Iterable[bytes], streamed.streaming_content)
                    )
            return response
        finally:
            connection.set_schema_to_public()

    def choose(self, request: HttpRequest, host: str) -> Tenant | None:
        """The tenant of this request; None when nobody has this host."""
        if settings.DEPLOYMENT_MODE == "single":
            return tenant_by_schema(settings.SINGLE_TENANT_SCHEMA)
        tenant = tenant_by_host(host)
        if tenant is not None:
            return tenant
        if not is_bare_host(host):
            return None
        if is_api_path(request.path_info):
            schema = key_schema(request.headers.get("Authorization", ""))
            if schema:
                # An unknown schema stays public, where the key is refused like any wrong key.
                return tenant_by_schema(schema) or public_tenant()
        return public_tenant()

    def unknown_host(self, request: HttpRequest, host: str) -> HttpResponse:
        """404 that says what was asked for and where to go."""
        if settings.DEPLOYMENT_MODE == "single":
            detail = (
                f"This installation runs for one tenant, whose schema {settings.SINGLE_TENANT_SCHEMA!r} does not "
                "exist yet. Create it with: manage.py tenant_create"
            )
        else:
            base = settings.BASE_DOMAIN
            detail = f"No tenant answers at {host}. Check the address; tenants' addresses end in .{base}."
        if is_api_path(request.path_info):
            return _problem(404, "tenant_not_found", "No tenant at this address", detail)
        # Escaped by the template; the host is what the visitor typed.
        page = render_to_string(
            "tenants/unknown_host.html", {"host": host, "detail": detail, "home": _bare_url()}
        )
        return HttpResponse(page, status=404)

    def deactivated(self, request: HttpRequest, tenant: Tenant) -> HttpResponse:
        """403 that says the tenant is switched off, and who can change that."""
        detail = f"The tenant {tenant.name} is deactivated. Its data is kept. Ask the operators of this site."
        if is_api_path(request.path_info):
            return _problem(403, "tenant_deactivated", "This tenant is deactivated", detail)
        page = render_to_string("tenants/deactivated.html", {"tenant": tenant, "detail": detail})
        return HttpResponse(page, status=403)


def _within(tenant: Tenant, content: Iterable[bytes]) -> Iterator[bytes]:
    connection.set_tenant(tenant)
    try:
        yield from content
    finally:
        connection.set_schema_to_public()


def _bare_url() -> str:
    scheme = "https" if settings.HTTPS else "http"
    port = "" if settings.HTTPS or settings.PORT == 80 else f":{settings.PORT}"
    return f"{scheme}://{settings.BASE_DOMAIN}{port}/"


def _problem(status: int, code: str, title: str, detail: str) -> JsonResponse:
    """A problem document (RFC 9457), made here because the API's own handler runs inside a tenant."""
    document = {
        "type": f"urn:signoff:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
    }
    return JsonResponse(document, status=status, content_type="application/problem+json")
