"""The page of caches: what each release stores and hits, evidence about false hits, removal, the switch."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from core.errors import DomainError
from core.security.permissions import require, requires
from core.ui.numbers import format_count
from inference.caches import selectors, services
from inference.caches.forms import PurgeForm, SemanticForm
from inference.caches.store import pgvector_schema

PHRASE_ALL = "remove all answers"


def _render(request: HttpRequest, *, error: str = "", at: str = "", status: int = 200) -> HttpResponseBase:
    found = selectors.release_caches()
    context = {
        "caches": found,
        "entries": sum(one.entries for one in found),
        "size_bytes": sum(one.size_bytes for one in found),
        "hits": sum(one.exact.k + one.semantic.k for one in found),
        "lookups": sum(one.lookups for one in found),
        "off": [one for one in found if one.config.semantic and not one.status.enabled],
        "days": selectors.DAYS,
        "phrase_all": PHRASE_ALL,
        "error": error,
        "error_at": at,
        "pgvector": bool(pgvector_schema()),
    }
    return render(request, "caches/cache_list.html", context, status=status)


@requires("cache.view")
@require_GET
def cache_list(request: HttpRequest) -> HttpResponseBase:
    """Every release that may use caches."""
    return _render(request)


@requires("cache.purge")
@require_POST
def cache_purge(request: HttpRequest) -> HttpResponseBase:
    """Remove the answers of one release (confirmed by its short digest), or all of them (by a phrase)."""
    require("cache.purge")
    form = PurgeForm(request.POST)
    if not form.is_valid():
        return _render(request, error="Type what is asked to confirm.", status=422)
    release, typed = form.cleaned_data["release"], form.cleaned_data["confirm"].strip()
    wanted = release.removeprefix("sha256:")[:12] if release else PHRASE_ALL
    if typed != wanted:
        return _render(request, error=f"Type {wanted} to confirm.", at=release or "all", status=422)
    removed = services.cache_purge(release_digest=release, everything=not release)
    messages.success(request, f"Removed {format_count(removed, 'stored answer')}.")
    return redirect("caches:cache_list")


@requires("cache.purge")
@require_POST
def semantic_set(request: HttpRequest) -> HttpResponseBase:
    """Switch comparing by meaning of a release off or on."""
    form = SemanticForm(request.POST)
    if not form.is_valid():
        return _render(request, error="Say which release, and on or off.", status=422)
    enabled = form.cleaned_data["enabled"] == "yes"
    try:
        services.semantic_set(
            release_digest=form.cleaned_data["release"], enabled=enabled, reason=form.cleaned_data["reason"]
        )
    except DomainError as error:
        if error.status == 422:
            return _render(request, error=error.message, at=form.cleaned_data["release"], status=422)
        raise
    messages.success(
        request, f"The semantic cache is {'on; its evidence starts anew' if enabled else 'off'}."
    )
    return redirect("caches:cache_list")
