"""Products and releases: list, page, and the forms that make them."""

from __future__ import annotations

import functools
from typing import Any

from django.contrib import messages
from django.db.models import Q
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods

from core.errors import DomainError
from core.evidence.models import GateVerdict
from core.security.permissions import requires
from core.ui.components import digest, verdict
from core.ui.diffs import diff_structures
from core.ui.tables import Column, Filter, Table
from core.ui.templatetags.ui import ago, short
from inference.forms import ProductForm, ReleaseForm, service_errors
from inference.gates import gate_verdict_current
from inference.models import Product, Release
from inference.readiness import (
    baseline_default,
    compare_url,
    live_release,
    readiness,
    release_verdict,
    timeline,
)
from inference.selectors import channel_list, product_list, release_get
from inference.selectors import release_list as releases_visible
from inference.services import product_create as product_add
from inference.services import release_create as release_add
from inference.views.shared import verdicts_by_candidate


@requires("release.view")
@require_GET
def release_list(request: HttpRequest) -> HttpResponseBase:
    """All releases with their newest verdict; product, search and order in the address."""
    products = list(product_list())
    live = {channel.release_id: channel for channel in channel_list() if channel.name == "stable"}
    found = verdicts_by_candidate(list(releases_visible().values_list("digest", flat=True)[:2000]))

    # Asked per row and therefore only for the rows of the page shown.
    @functools.cache
    def status(row: Release) -> str:
        return gate_verdict_current(found[row.digest])[0] if row.digest in found else "not_run"

    table = Table(
        request,
        releases_visible(),
        [
            Column("version", "Release", lambda r: r.version, sort="version", main=True, header=True),
            Column("product", "Product", lambda r: r.product.name, sort="product__name", main=True),
            Column("verdict", "Newest verdict", lambda r: verdict(status(r)), raw=status, main=True),
            Column(
                "live", "Live", lambda r: str(live[r.pk].get_environment_display()) if r.pk in live else ""
            ),
            Column("model", "Model", lambda r: r.model_version.name, sort="model_version__name"),
            Column("digest", "Digest", lambda r: digest(r.digest), raw=lambda r: r.digest),
            Column(
                "created",
                "Created",
                lambda r: ago(r.created_at),
                sort="created_at",
                raw=lambda r: r.created_at,
            ),
            Column("by", "By", lambda r: r.created_by_label, optional=True),
        ],
        filters=[
            Filter(
                "product",
                "Product",
                [(product.slug, product.name) for product in products],
                lambda rows, value: rows.filter(product__slug=value),
            )
        ],
        search=lambda rows, words: rows.filter(
            Q(version__icontains=words)
            | Q(product__name__icontains=words)
            | Q(model_version__name__icontains=words)
            | Q(digest__icontains=words)
            | Q(notes__icontains=words)
        ),
        row_url=lambda r: reverse("inference:release_detail", args=[r.pk]),
    )
    if table.wants_csv:
        return table.csv_response("releases.csv")
    return render(request, "inference/release_list.html", {"table": table, "products": products})


@requires("release.view")
@require_GET
def release_detail(request: HttpRequest, pk: int) -> HttpResponseBase:
    """Identity, what differs from what is live, readiness by area and what happened so far."""
    release = release_get(pk)
    live = live_release(release)
    newest = release_verdict(release)
    other = live if live is not None and live.pk != release.pk else baseline_default(release)
    context = {
        "release": release,
        "live": live,
        "other": other,
        "changes": diff_structures(_identity(other), _identity(release)) if other else [],
        "before": _identity(other) if other else {},
        "after": _identity(release),
        "areas": readiness(release),
        "verdict": gate_verdict_current(newest)[0] if newest is not None else "",
        "timeline": timeline(release),
        "channels": channel_list(product=release.product),
        "compare_url": compare_url(release, newest),
        "state": _state_sentence(release, newest),
        "crumbs": [("Releases", reverse("inference:release_list"))],
    }
    return render(request, "inference/release_detail.html", context)


def _identity(release: Release) -> dict[str, Any]:
    """What makes a release what it is, as a structure to compare field by field."""
    return {
        "model": {
            "name": release.model_version.name,
            "digest": short(release.model_version.digest),
            "quantisation": release.model_version.quantisation,
            "architecture": release.model_version.architecture,
        },
        **release.config,
    }


def _state_sentence(release: Release, newest: GateVerdict | None) -> str:
    if newest is None:
        return f"{release.version} has not been judged by a gate yet."
    status, reasons = gate_verdict_current(newest)
    if status == "stale":
        return f"The verdict against {newest.baseline_label} is stale. {' '.join(reasons)}"
    rows = list(newest.criteria.select_related("criterion"))
    worse = [row for row in rows if row.status == "fail"]
    if worse:
        return f"{release.version} is worse than {newest.baseline_label} on {len(worse)} of {len(rows)} criteria."
    passed = sum(row.status == "pass" for row in rows)
    return f"{passed} of {len(rows)} criteria pass against {newest.baseline_label}."


@requires("release.create")
@require_http_methods(["GET", "POST"])
def release_create(request: HttpRequest) -> HttpResponseBase:
    """The form for a new release; a refused one keeps what was typed."""
    start = {"product": request.GET.get("product", ""), **_copied(request)}
    form = ReleaseForm(request.POST or None, initial={name: value for name, value in start.items() if value})
    if request.method == "POST" and form.is_valid():
        try:
            release = release_add(
                product=form.cleaned_data["product"],
                version=form.cleaned_data["version"],
                model_version=form.cleaned_data["model_version"],
                config=form.config(),
                notes=form.cleaned_data["notes"],
            )
        except DomainError as error:
            names = {f"config.{field}": field for field in form.fields}
            service_errors(form, error, names={**names, **{f"config.decoding.{f}": f for f in form.fields}})
        else:
            messages.success(request, f"Release {release.version} was created.")
            return redirect("inference:release_detail", pk=release.pk)
    context = {"form": form, "products": Product.objects.exists(), "crumbs": _crumbs()}
    return render(request, "inference/release_form.html", context, status=422 if form.errors else 200)


def _copied(request: HttpRequest) -> dict[str, Any]:
    """Initial values copied from an existing release (`?like=<id>`), so that only the change is typed."""
    value = request.GET.get("like", "")
    release = (
        releases_visible().filter(pk=int(value)).first() if value.isdecimal() and len(value) < 19 else None
    )
    if release is None:
        return {}
    prompt, decoding = release.config.get("prompt", {}), release.config.get("decoding", {})
    return {
        "product": release.product.slug,
        "model_version": release.model_version_id,
        "prompt_template": prompt.get("template", "{input}"),
        "chat": prompt.get("chat", False),
        "system": prompt.get("system", ""),
        **{name: decoding.get(name) for name in ("max_tokens", "temperature", "top_p")},
    }


def _crumbs() -> list[tuple[str, str]]:
    return [("Releases", reverse("inference:release_list"))]


@requires("product.edit")
@require_http_methods(["GET", "POST"])
def product_create(request: HttpRequest) -> HttpResponseBase:
    """The form for a new product."""
    form = ProductForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            product = product_add(**form.cleaned_data)
        except DomainError as error:
            service_errors(form, error)
        else:
            messages.success(request, f"{product.name} was added. Give it its first release.")
            return redirect(f"{reverse('inference:release_create')}?product={product.slug}")
    context = {"form": form, "crumbs": _crumbs()}
    return render(request, "inference/product_form.html", context, status=422 if form.errors else 200)
