"""Refusals become pages, fragments or problem documents with the right status."""

from __future__ import annotations

from collections.abc import Callable

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse

from core.errors import DomainError
from core.ui.views import error_page

GetResponse = Callable[[HttpRequest], HttpResponseBase]


class DomainErrorMiddleware:
    """Turns an uncaught DomainError of a view into a page, a fragment (htmx) or a problem document (API,
    JSON)."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer for DomainError and PermissionDenied; None leaves anything else to Django."""
        if isinstance(exception, DomainError):
            return domain_error_response(request, exception)
        if isinstance(exception, PermissionDenied):
            return error_page(request, 403, str(exception))
        return None


def domain_error_response(request: HttpRequest, error: DomainError) -> HttpResponse:
    """The page, fragment or problem document for a refusal; also usable by other middleware."""
    wants_json = request.path.startswith("/api/") or "application/json" in request.headers.get("Accept", "")
    if wants_json:
        body = {
            "type": f"urn:signoff:error:{error.code}",
            "title": error.title,
            "status": error.status,
            "detail": error.message,
            "code": error.code,
            **({"fields": error.fields} if error.fields else {}),
            **getattr(error, "extra", {}),
        }
        return JsonResponse(body, status=error.status, content_type="application/problem+json")
    return error_page(request, error.status, error.message, title=error.title, fields=error.fields)
