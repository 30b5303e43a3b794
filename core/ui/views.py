"""Pages of the kernel itself: errors, search, theme, shortcuts and the live catalogue of components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_GET, require_POST

from core.security.actor import current_actor
from core.ui.context import THEMES
from core.ui.palette import search as palette_search

TITLES: Final[dict[int, tuple[str, str]]] = {
    400: (
        "This request cannot be read",
        "Something in the address or the form is malformed. Go back and try again.",
    ),
    403: (
        "You may not do this",
        "Your role does not include this page. An admin of your tenant can change roles.",
    ),
    404: (
        "There is no such page",
        "It may have been removed, belong to another tenant, or the address has a typing error.",
    ),
    405: ("This address does not take that", "Open the page and use its buttons."),
    409: ("Something changed in the meantime", "Reload the page to see the current state, then try again."),
    412: ("This is not the newest version", "Reload the page to see the current state, then try again."),
    422: ("Some of the input is not valid", "Go back and correct what is named below."),
    429: ("Too many requests", "Wait a moment, then try again."),
    500: ("Something broke on our side", "Nothing you entered was wrong. The error is in the log."),
}


def error_page(
    request: HttpRequest,
    status: int,
    message: str = "",
    *,
    title: str = "",
    fields: Mapping[str, Sequence[str]] | None = None,
) -> HttpResponse:
    """A page that says what happened, why and what to do. htmx requests get the toast of it, out of band."""
    default_title, advice = TITLES.get(status, TITLES[500])
    context = {
        "status": status,
        "title": title or default_title,
        "message": message or advice,
        "advice": advice if message and status not in {404, 422} else "",
        "fields": dict(fields or {}),
        "back": _safe_back(request),
        "correlation_id": getattr(request, "correlation_id", ""),
    }
    if request.headers.get("HX-Request") == "true":
        response = HttpResponse(
            render_to_string("ui/error_fragment.html", context, request=request), status=status
        )
        # htmx ignores the body of an error; the script shows it as a toast and leaves the page as it was.
        response["HX-Reswap"] = "none"
        return response
    return render(request, "ui/error.html", context, status=status)


def _safe_back(request: HttpRequest) -> str:
    referer = request.headers.get("Referer", "")
    same = url_has_allowed_host_and_scheme(referer, allowed_hosts={request.get_host()}) if referer else False
    return referer if same and request.get_full_path() not in referer else ""


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """handler400. The host itself may be what is wrong, so nothing here depends on it."""
    return HttpResponse(render_to_string("400.html"), status=400)


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """handler403."""
    return error_page(request, 403, str(exception or ""))


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """handler404. The exception's text names internals (patterns, models), so it is not shown."""
    if request.path.startswith("/api/"):
        return HttpResponse(
            '{"type":"urn:signoff:error:not_found","title":"Not found","status":404,'
            '"detail":"There is nothing at this address.","code":"not_found"}',
            status=404,
            content_type="application/problem+json",
        )
    return error_page(request, 404)


def server_error(request: HttpRequest) -> HttpResponse:
    """handler500: no database, no context, nothing that could fail again."""
    if request.path.startswith("/api/"):
        return HttpResponse(
            '{"type":"urn:signoff:error:internal","title":"Something broke on our side","status":500,'
            '"detail":"The error is in the log.","code":"internal"}',
            status=500,
            content_type="application/problem+json",
        )
    return HttpResponse(
        render_to_string("500.html", {"correlation_id": getattr(request, "correlation_id", "")}), status=500
    )


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Answer to a form without a valid token (settings.CSRF_FAILURE_VIEW)."""
    return error_page(
        request,
        403,
        "The form was open for too long, or was sent from another site. "
        "Go back, reload the page and send it again.",
        title="This form has expired",
    )


@require_GET
def search(request: HttpRequest) -> HttpResponseBase:
    """Global search: a fragment for the palette (htmx), a whole page otherwise."""
    if current_actor().kind == "anonymous":
        return redirect_to_login(request.get_full_path())
    query = request.GET.get("q", "").strip()
    context = {"query": query, "hits": palette_search(request, query)}
    fragment = request.headers.get("HX-Request") == "true"
    return render(request, "ui/search_results.html" if fragment else "ui/search.html", context)


@require_POST
def theme(request: HttpRequest) -> HttpResponse:
    """Remember the theme in a cookie for a year and go back. Works without script."""
    chosen = request.POST.get("theme", "")
    target = request.POST.get("next", "/")
    if not url_has_allowed_host_and_scheme(target, allowed_hosts={request.get_host()}):
        target = "/"
    response = HttpResponseRedirect(target)
    response.set_cookie(
        "theme",
        chosen if chosen in THEMES else "auto",
        max_age=365 * 86400,
        samesite="Lax",
        secure=request.is_secure(),
    )
    return response


@require_GET
def shortcuts(request: HttpRequest) -> HttpResponse:
    """All keyboard shortcuts; `?` opens the same list as a dialog."""
    return render(request, "ui/shortcuts.html")


@require_GET
def components(request: HttpRequest) -> HttpResponse:
    """Live catalogue of every component with invented data. Only where SHOW_COMPONENTS is on."""
    if not getattr(settings, "SHOW_COMPONENTS", settings.DEBUG):
        raise Http404
    from core.ui.catalogue import catalogue_context

    return render(request, "ui/components.html", catalogue_context(request))
