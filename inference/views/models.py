"""Model versions: list, page, registering files and making variants."""

from __future__ import annotations

import uuid
from typing import Any

from django import forms
from django.contrib import messages
from django.db.models import Q
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods

from core.errors import DomainError
from core.security.permissions import requires
from core.ui.components import component, digest
from core.ui.numbers import format_bytes, format_plain
from core.ui.tables import Column, Filter, Table
from core.ui.templatetags.ui import ago
from inference.forms import ModelRegisterForm, service_errors
from inference.models import ModelVersion, Registration
from inference.registration import import_candidates, import_roots
from inference.selectors import model_get, registration_get, registration_list
from inference.selectors import model_list as models_visible
from inference.services import registration_start

# Parameters of each transform: how they are asked for. What they mean: docs/models.md.
TRANSFORM_FIELDS: dict[str, dict[str, forms.Field]] = {
    "quantize_rtn": {
        "bits": forms.IntegerField(min_value=2, max_value=8, initial=4, help_text="2 to 8 bits per weight."),
        "group_size": forms.IntegerField(
            min_value=0,
            initial=32,
            label="Group size",
            help_text="Weights that share a scale; 0 for a whole row.",
        ),
    },
    "zero_heads": {
        "fraction": forms.FloatField(
            min_value=0, max_value=1, initial=0.1, help_text="Share of heads, 0 to 1."
        ),
        "seed": forms.IntegerField(min_value=0, initial=0, help_text="Decides which heads."),
    },
    "add_noise": {
        "sigma": forms.FloatField(
            min_value=0,
            initial=0.02,
            help_text="Standard deviation of the noise, relative to each weight matrix's.",
        ),
        "seed": forms.IntegerField(min_value=0, initial=0),
    },
    "prune_magnitude": {
        "fraction": forms.FloatField(
            min_value=0,
            max_value=1,
            initial=0.2,
            help_text="Share of the smallest weights set to zero, 0 to 1.",
        ),
    },
    "drop_layer": {
        "layer": forms.IntegerField(min_value=0, initial=0, help_text="Number of the layer, from 0."),
    },
}
TRANSFORM_LABELS = {
    "quantize_rtn": "Round to fewer bits",
    "zero_heads": "Zero attention heads",
    "add_noise": "Add noise",
    "prune_magnitude": "Prune small weights",
    "drop_layer": "Drop a layer",
}


def _crumbs(model: ModelVersion | None = None) -> list[tuple[str, str]]:
    crumbs = [("Models", reverse("inference:model_list"))]
    if model is not None:
        crumbs.append((model.name, reverse("inference:model_detail", args=[model.pk])))
    return crumbs


@requires("model.view")
@require_GET
def model_list(request: HttpRequest) -> HttpResponseBase:
    """All model versions, and registrations that are under way or failed."""
    formats = list(ModelVersion.objects.values_list("source_format", flat=True).distinct().order_by())
    table = Table(
        request,
        models_visible().order_by("-created_at", "-pk"),
        [
            Column("name", "Model version", lambda r: r.name, sort="name", main=True, header=True),
            Column("digest", "Digest", lambda r: digest(r.digest), raw=lambda r: r.digest, main=True),
            Column(
                "parameters",
                "Parameters",
                lambda r: format_plain(r.parameters) if r.parameters else None,
                sort="parameters",
                raw=lambda r: r.parameters,
                numeric=True,
            ),
            Column(
                "size",
                "Size",
                lambda r: format_bytes(r.size_bytes),
                sort="size_bytes",
                raw=lambda r: r.size_bytes,
                numeric=True,
            ),
            Column("quantisation", "Quantisation", lambda r: r.quantisation, sort="quantisation"),
            Column(
                "releases",
                "Releases",
                lambda r: format_plain(r.release_count),
                sort="release_count",
                raw=lambda r: r.release_count,
                numeric=True,
            ),
            Column("licence", "Licence", lambda r: r.licence, optional=True),
            Column(
                "created",
                "Registered",
                lambda r: ago(r.created_at),
                sort="created_at",
                raw=lambda r: r.created_at,
            ),
        ],
        filters=[
            Filter(
                "format",
                "Format",
                [(name, name) for name in formats],
                lambda rows, value: rows.filter(source_format=value),
            )
        ],
        search=lambda rows, words: rows.filter(Q(name__icontains=words) | Q(digest__icontains=words)),
        row_url=lambda r: reverse("inference:model_detail", args=[r.pk]),
    )
    if table.wants_csv:
        return table.csv_response("models.csv")
    pending = registration_list().exclude(status=Registration.Status.SUCCEEDED)[:5]
    return render(request, "inference/model_list.html", {"table": table, "pending": pending})


@requires("model.view")
@require_GET
def model_detail(request: HttpRequest, pk: int) -> HttpResponseBase:
    """One model version: what it is, where it comes from, its variants and releases."""
    model = model_get(pk)
    context = {
        "model": model,
        "releases": model.releases.select_related("product"),
        "variants": model.variants.all(),
        "transforms": [(name, TRANSFORM_LABELS[name]) for name in TRANSFORM_FIELDS],
        "crumbs": _crumbs(),
    }
    return render(request, "inference/model_detail.html", context)


@requires("model.register")
@require_http_methods(["GET", "POST"])
def model_register(request: HttpRequest) -> HttpResponseBase:
    """Register files of the server or an upload; a worker does the work while its page shows how far it is."""
    form = ModelRegisterForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        data, upload = form.cleaned_data, form.cleaned_data["file"]
        wanted = {name: data[name] for name in ("name", "licence", "source", "path")}
        try:
            made = registration_start(
                action=data["action"],
                arguments={key: value for key, value in wanted.items() if value},
                file=upload.file if upload else None,
                file_name=upload.name if upload else "",
            )
        except DomainError as error:
            service_errors(form, error)
        else:
            return redirect("inference:registration_detail", pk=made.pk)
    context = {
        "form": form,
        "roots": [str(root) for root in import_roots()],
        "candidates": import_candidates(),
        "crumbs": _crumbs(),
    }
    return render(request, "inference/model_form.html", context, status=422 if form.errors else 200)


@requires("model.register")
@require_http_methods(["GET", "POST"])
def model_transform(request: HttpRequest, pk: int) -> HttpResponseBase:
    """Make a variant of a model version by one of the documented transforms."""
    parent = model_get(pk)
    asked = request.POST.get("transform") or request.GET.get("transform") or ""
    chosen = asked if asked in TRANSFORM_FIELDS else next(iter(TRANSFORM_FIELDS))
    form = _transform_form(chosen)(request.POST or None)
    if request.method == "POST" and form.is_valid():
        arguments: dict[str, Any] = {
            "parent": parent.pk,
            "transform": chosen,
            "params": {name: form.cleaned_data[name] for name in TRANSFORM_FIELDS[chosen]},
            "name": form.cleaned_data["name"],
        }
        try:
            made = registration_start(action=Registration.Action.TRANSFORM, arguments=arguments)
        except DomainError as error:
            service_errors(form, error)
        else:
            return redirect("inference:registration_detail", pk=made.pk)
    tabs = [
        {"label": TRANSFORM_LABELS[name], "url": f"?transform={name}", "active": name == chosen}
        for name in TRANSFORM_FIELDS
    ]
    context = {"form": form, "model": parent, "chosen": chosen, "tabs": tabs, "crumbs": _crumbs(parent)}
    return render(request, "inference/model_transform.html", context, status=422 if form.errors else 200)


def _transform_form(name: str) -> type[forms.Form]:
    """A form with the parameters of one transform and the name of the variant."""
    fields: dict[str, forms.Field] = {
        **TRANSFORM_FIELDS[name],
        "name": forms.CharField(
            required=False, max_length=120, help_text="Empty for a name made from the transform."
        ),
        "transform": forms.CharField(widget=forms.HiddenInput, initial=name),
    }
    return type("TransformForm", (forms.Form,), fields)


@requires("model.view")
@require_GET
def registration_detail(request: HttpRequest, pk: uuid.UUID) -> HttpResponseBase:
    """How a registration is getting on; leads to the model version when it is there."""
    found = registration_get(pk)
    if found.status == Registration.Status.SUCCEEDED and found.model_version is not None:
        if found.existing:
            messages.info(request, "The same content was registered before; here it is.")
        else:
            messages.success(request, f"{found.model_version.name} was registered.")
        return redirect("inference:model_detail", pk=found.model_version.pk)
    context = {"registration": found, "crumbs": _crumbs(), "badge": _badge(found)}
    return render(request, "inference/registration_detail.html", context)


@requires("model.view")
@require_GET
def registration_fragment(request: HttpRequest, pk: uuid.UUID) -> HttpResponseBase:
    """The part of a registration's page that asks for itself while it is under way."""
    found = registration_get(pk)
    context = {"registration": found, "badge": _badge(found)}
    response = render(request, "inference/parts/registration.html", context)
    if found.status in (Registration.Status.SUCCEEDED, Registration.Status.FAILED):
        response["HX-Refresh"] = "true"
    return response


def _badge(found: Registration) -> Any:
    variants = {"queued": "neutral", "running": "accent", "succeeded": "pass", "failed": "fail"}
    return component("badge", label=found.get_status_display(), variant=variants[found.status])
