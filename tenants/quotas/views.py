"""Pages of limits: live use, edit, and where keys stand."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from core.errors import DomainError
from core.security.permissions import require, requires
from tenants.accounts.models import ApiKey
from tenants.quotas import selectors, services
from tenants.quotas.forms import LimitForm, PlacementForm, place_errors

INVALID = 422


@requires("limit.view")
@require_safe
def limit_list(request: HttpRequest) -> HttpResponseBase:
    """Every limit with what is used of it now, and where each key stands."""
    limits = selectors.limits_with_use()
    full = [one for one in limits if one.fullest is not None and one.fullest.variant == "fail"]
    near = [one for one in limits if one.fullest is not None and one.fullest.variant == "inconclusive"]
    return render(
        request,
        "quotas/limit_list.html",
        {"limits": limits, "full": full, "near": near, "keys": selectors.keys_placed()},
    )


def _crumbs(label: str) -> list[tuple[str, str]]:
    return [("Limits", reverse("quotas:limit_list")), (label, "")]


@requires("limit.edit")
@require_http_methods(["GET", "HEAD", "POST"])
def limit_new(request: HttpRequest) -> HttpResponseBase:
    """Set a limit where there is none."""
    form = LimitForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            limit = services.limit_set(**form.values())
        except DomainError as error:
            place_errors(form, error)
        else:
            messages.success(request, f"The {limit} holds from the next request on.")
            return redirect("quotas:limit_list")
    return render(
        request, "quotas/limit_form.html", {"form": form, "crumbs": _crumbs("New limit")},
        status=INVALID if form.errors else 200,
    )  # fmt: skip


@requires("limit.view")
@require_http_methods(["GET", "HEAD", "POST"])
def limit_edit(request: HttpRequest, pk: int) -> HttpResponseBase:
    """Change a limit."""
    if request.method == "POST":
        require("limit.edit")
    limit = selectors.limit_get(pk)
    form = LimitForm(request.POST or None, limit=limit)
    if request.method == "POST" and form.is_valid():
        try:
            services.limit_set(**form.values(), check_scope=False)
        except DomainError as error:
            place_errors(form, error)
        else:
            messages.success(request, f"The {limit} holds from the next request on.")
            return redirect("quotas:limit_list")
    use = next((one for one in selectors.limits_with_use() if one.limit and one.limit.pk == pk), None)
    return render(
        request, "quotas/limit_form.html", {"form": form, "limit": limit, "use": use, "crumbs": _crumbs(limit.label)},
        status=INVALID if form.errors else 200,
    )  # fmt: skip


@requires("limit.edit")
@require_POST
def limit_delete(request: HttpRequest, pk: int) -> HttpResponseBase:
    """Remove a limit."""
    limit = selectors.limit_get(pk)
    services.limit_remove(limit=limit)
    messages.success(request, f"The {limit} is removed.")
    return redirect("quotas:limit_list")


@requires("limit.edit")
@require_http_methods(["GET", "HEAD", "POST"])
def key_place_page(request: HttpRequest, key_id: str) -> HttpResponseBase:
    """Where one key stands in the tree of limits."""
    key = ApiKey.objects.filter(key_id=key_id).first() if "\x00" not in key_id else None
    if key is None:
        raise Http404("There is no such key.")
    form = PlacementForm(request.POST or None, placement=selectors.placement_of(key_id))
    if request.method == "POST" and form.is_valid():
        try:
            services.key_place(key_id=key_id, **form.cleaned_data)
        except DomainError as error:
            place_errors(form, error)
        else:
            messages.success(request, f"The key {key.name} is placed. Gateways follow within seconds.")
            return redirect("quotas:limit_list")
    return render(
        request, "quotas/key_place.html", {"form": form, "key": key, "crumbs": _crumbs(key.name)},
        status=INVALID if form.errors else 200,
    )  # fmt: skip
