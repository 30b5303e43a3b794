"""Pages of the upstreams: list with their live state, set up, test."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.db.models import Q
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from core.errors import DomainError
from core.schema import current_schema
from core.security.permissions import requires
from core.ui.components import component
from core.ui.numbers import format_plain
from core.ui.tables import Column, Filter, Table
from core.ui.templatetags.ui import ago
from inference.forms import service_errors
from inference.models import ModelVersion
from inference.upstreams.endpoint import BadAddress, locate
from inference.upstreams.forms import UpstreamEditForm, UpstreamForm
from inference.upstreams.live import Live, live_states
from inference.upstreams.models import Upstream
from inference.upstreams.services import (
    FIELDS,
    upstream_check,
    upstream_create,
    upstream_delete,
    upstream_get,
    upstream_update,
)

_BREAKER = {
    "closed": ("Asked normally", "pass"),
    "half-open": ("Being tried again", "inconclusive"),
    "open": ("Left alone for a moment", "fail"),
}


def _crumbs(row: Upstream | None = None) -> list[tuple[str, str]]:
    crumbs = [("Upstreams", reverse("upstreams:upstream_list"))]
    if row is not None:
        crumbs.append((row.name, reverse("upstreams:upstream_detail", args=[row.pk])))
    return crumbs


def health_badge(row: Upstream) -> Any:
    """Health in a word, with its reason on hover."""
    if not row.enabled:
        return component("badge", label="Switched off", variant="outline")
    variants = {"healthy": "pass", "failing": "fail", "unknown": "neutral"}
    icons = {"healthy": "check", "failing": "x", "unknown": "circle-dashed"}
    return component(
        "badge",
        label=row.get_health_display(),
        variant=variants[row.health],
        icon=icons[row.health],
        title=row.health_detail,
    )


def breaker_badge(live: Live | None) -> Any:
    """Whether the gateway asks it at present."""
    if live is None:
        return component("badge", label="Not asked lately", variant="outline")
    label, variant = _BREAKER[live.breaker]
    return component("badge", label=label, variant=variant, title=live.last_error)


def _host(row: Upstream) -> str:
    try:
        return locate(row.url).authority
    except BadAddress:
        return row.url[:80]


@requires("upstream.view")
@require_GET
def upstream_list(request: HttpRequest) -> HttpResponseBase:
    """All upstreams with health, breaker, requests under way and waiting."""
    states = live_states(current_schema())

    def live(row: Upstream, name: str) -> Any:
        state = states.get(row.pk)
        return getattr(state, name) if state else None

    def number(row: Upstream, name: str) -> str | None:
        value = live(row, name)
        return format_plain(value) if value is not None else None

    table = Table(
        request,
        Upstream.objects.select_related("model_version"),
        [
            Column("name", "Upstream", lambda r: r.name, sort="name", main=True, header=True),
            Column(
                "health",
                "Health",
                health_badge,
                raw=lambda r: r.get_health_display(),
                sort="health",
                main=True,
            ),
            Column("host", "Host", _host),
            Column("model", "Model version", lambda r: r.model_version.name, sort="model_version__name"),
            Column("weight", "Weight", lambda r: r.weight, sort="weight", numeric=True),
            Column(
                "breaker",
                "Gateway",
                lambda r: breaker_badge(states.get(r.pk)),
                raw=lambda r: live(r, "breaker"),
            ),
            Column(
                "in_flight",
                "Under way",
                lambda r: f"{live(r, 'in_flight')} of {r.max_concurrency}" if live(r, "processes") else None,
                raw=lambda r: live(r, "in_flight"),
                numeric=True,
            ),
            Column(
                "waiting",
                "Waiting",
                lambda r: number(r, "waiting"),
                raw=lambda r: live(r, "waiting"),
                numeric=True,
            ),
            Column(
                "first_ms",
                "First byte, ms (median)",
                lambda r: number(r, "first_ms"),
                raw=lambda r: live(r, "first_ms"),
                numeric=True,
                optional=True,
            ),
            Column(
                "checked", "Checked", lambda r: ago(r.checked_at) if r.checked_at else None, sort="checked_at"
            ),
        ],
        filters=[
            Filter(
                "status",
                "Health",
                [*Upstream.Health.choices, ("off", "Switched off")],
                lambda rows, value: (
                    rows.filter(enabled=False) if value == "off" else rows.filter(enabled=True, health=value)
                ),
            )
        ],
        search=lambda rows, words: rows.filter(
            Q(name__icontains=words) | Q(url__icontains=words) | Q(model_version__name__icontains=words)
        ),
        row_url=lambda r: reverse("upstreams:upstream_detail", args=[r.pk]),
    )
    if table.wants_csv:
        return table.csv_response("upstreams.csv")
    enabled = Upstream.objects.filter(enabled=True)
    context = {
        "table": table,
        "enabled": enabled.count(),
        "failing": enabled.filter(health=Upstream.Health.FAILING).count(),
    }
    return render(request, "upstreams/upstream_list.html", context)


@requires("upstream.view")
@require_GET
def upstream_detail(request: HttpRequest, pk: int) -> HttpResponseBase:
    """One upstream: where it is, how it is, what the gateway does with it."""
    row = upstream_get(pk)
    live = live_states(current_schema()).get(row.pk)
    context = {
        "upstream": row,
        "live": live,
        "badge": health_badge(row),
        "breaker": breaker_badge(live),
        "crumbs": _crumbs(),
        "releases": row.model_version.releases.select_related("product")[:20],
    }
    return render(request, "upstreams/upstream_detail.html", context)


def _form(kind: type[UpstreamForm], *args: Any, **kwargs: Any) -> UpstreamForm:
    form = kind(*args, **kwargs)
    form.fields["model_version"].queryset = ModelVersion.objects.order_by("name")  # type: ignore[attr-defined]
    return form


@requires("upstream.edit")
@require_http_methods(["GET", "POST"])
def upstream_new(request: HttpRequest) -> HttpResponseBase:
    """Add an upstream and ask it once."""
    form = _form(UpstreamForm, request.POST or None)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        try:
            row = upstream_create(values={name: data[name] for name in FIELDS}, api_key=data["api_key"])
        except DomainError as error:
            service_errors(form, error)
        else:
            _tell(request, row)
            return redirect("upstreams:upstream_detail", pk=row.pk)
    context = {"form": form, "crumbs": _crumbs(), "models": ModelVersion.objects.exists()}
    return render(request, "upstreams/upstream_form.html", context, status=422 if form.errors else 200)


@requires("upstream.edit")
@require_http_methods(["GET", "POST"])
def upstream_edit(request: HttpRequest, pk: int) -> HttpResponseBase:
    """Change an upstream."""
    row = upstream_get(pk)
    initial = {name: getattr(row, name) for name in FIELDS}
    form = _form(UpstreamEditForm, request.POST or None, initial=initial)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        key = "" if data["remove_key"] else data["api_key"] or None
        try:
            upstream_update(upstream=row, values={name: data[name] for name in FIELDS}, api_key=key)
        except DomainError as error:
            service_errors(form, error)
        else:
            messages.success(request, "The upstream was changed; gateways follow within seconds.")
            return redirect("upstreams:upstream_detail", pk=row.pk)
    context = {"form": form, "upstream": row, "crumbs": _crumbs(row), "models": True}
    return render(request, "upstreams/upstream_form.html", context, status=422 if form.errors else 200)


@requires("upstream.edit")
@require_POST
def upstream_switch(request: HttpRequest, pk: int) -> HttpResponseBase:
    """Switch it on or off."""
    row = upstream_get(pk)
    row = upstream_update(upstream=row, values={"enabled": not row.enabled})
    messages.success(request, f"{row.name} is switched {'on' if row.enabled else 'off'}.")
    return redirect("upstreams:upstream_detail", pk=row.pk)


@requires("upstream.edit")
@require_POST
def upstream_test(request: HttpRequest, pk: int) -> HttpResponseBase:
    """Ask it now."""
    row = upstream_get(pk)
    _tell(request, row)
    return redirect("upstreams:upstream_detail", pk=row.pk)


@requires("upstream.edit")
@require_http_methods(["GET", "POST"])
def upstream_remove(request: HttpRequest, pk: int) -> HttpResponseBase:
    """Ask whether to remove it, then do it."""
    row = upstream_get(pk)
    if request.method == "POST":
        upstream_delete(upstream=row)
        messages.success(request, f"{row.name} was removed.")
        return redirect("upstreams:upstream_list")
    others = Upstream.objects.filter(model_version=row.model_version, enabled=True).exclude(pk=row.pk).count()
    return render(
        request, "upstreams/upstream_remove.html", {"upstream": row, "others": others, "crumbs": _crumbs(row)}
    )


def _tell(request: HttpRequest, row: Upstream) -> None:
    found = upstream_check(upstream=row)
    if found.healthy:
        took = f" in {found.took_ms:.0f} ms" if found.took_ms is not None else ""
        messages.success(request, f"{found.detail.rstrip('.')}{took}.")
    else:
        messages.error(request, f"It is not well: {found.detail}")
