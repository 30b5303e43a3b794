"""The page of protection: watermark, receipts, canaries, extraction alerts. Each tool is a tab with its own form."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from core.errors import DomainError
from core.security.permissions import requires
from core.security.services import tenant_signing_key
from inference.forms import service_errors
from inference.knobs import canaries, extraction, watermark
from inference.knobs.forms import AlertForm, CanaryForm, CopyForm, ReceiptForm, RetireForm, WatermarkForm
from inference.knobs.models import CanaryEntry, ExtractionAlert, WatermarkKey
from inference.knobs.receipts import ReceiptBroken, receipt_verify
from inference.models import Release

TABS = (
    ("alerts", "Extraction alerts"), ("watermark", "Watermark"), ("receipts", "Receipts"), ("canaries", "Canaries"),
)  # fmt: skip


def _releases(switch: str) -> list[Release]:
    found = Release.objects.filter(**{f"config__gateway__{switch}": True}).select_related("product")
    return list(found[:50])


def _render(request: HttpRequest, tab: str, *, status: int = 200, **context: Any) -> HttpResponseBase:
    known = [key for key, _ in TABS]
    tab = tab if tab in known else "alerts"
    address = reverse("knobs:protection")
    opened = ExtractionAlert.objects.filter(state=ExtractionAlert.State.OPEN).count()
    page: dict[str, Any] = {
        "tab": tab,
        "opened": opened,
        "tabs": [
            {
                "label": label,
                "url": f"{address}?tab={key}",
                "active": key == tab,
                "count": opened if key == "alerts" else None,
            }
            for key, label in TABS
        ],
    }
    if tab == "alerts":
        page |= {"alerts": ExtractionAlert.objects.all()[:100], "releases": _releases("extraction")}
    elif tab == "watermark":
        page |= {
            "form": WatermarkForm(),
            "keys": WatermarkKey.objects.all()[:20],
            "releases": _releases("watermark"),
            "gamma": watermark.GAMMA,
            "delta": watermark.DELTA,
        }
    elif tab == "receipts":
        page |= {
            "form": ReceiptForm(),
            "releases": _releases("receipts"),
            "signing_key": tenant_signing_key(),
        }
    else:
        names = {r.digest: f"{r.product.slug} {r.version}" for r in Release.objects.select_related("product")}
        page |= {
            "form": CanaryForm(),
            "copy_form": CopyForm(),
            "canaries": [(row, names.get(row.release_digest, "")) for row in CanaryEntry.objects.all()[:500]],
            "releases": _releases("canaries"),
            "chance": canaries.CHANCE,
        }
    return render(request, "knobs/protection.html", {**page, **context}, status=status)


@requires("guard.view")
@require_GET
def protection(request: HttpRequest) -> HttpResponseBase:
    """One of the tabs."""
    return _render(request, request.GET.get("tab", ""))


@requires("guard.view")
@require_POST
def watermark_detect(request: HttpRequest) -> HttpResponseBase:
    """Look for the tenant's mark in a text. Changes nothing."""
    form = WatermarkForm(request.POST)
    if form.is_valid():
        try:
            found, each = watermark.text_detect(
                form.cleaned_data["text"], model_digest=form.cleaned_data["model"]
            )
        except DomainError as error:
            service_errors(form, error)
        else:
            return _render(request, "watermark", form=form, found=found, each=each)
    return _render(request, "watermark", form=form, status=422)


@requires("guard.edit")
@require_POST
def watermark_rotate(request: HttpRequest) -> HttpResponseBase:
    """Start a new key."""
    fresh = watermark.watermark_rotate()
    messages.success(request, f"Answers are marked with key version {fresh.version} from now on.")
    return redirect(f"{reverse('knobs:protection')}?tab=watermark")


@requires("guard.view")
@require_POST
def receipt_check(request: HttpRequest) -> HttpResponseBase:
    """Verify a receipt. Changes nothing."""
    form = ReceiptForm(request.POST)
    if not form.is_valid():
        return _render(request, "receipts", form=form, status=422)
    try:
        found = receipt_verify(
            form.cleaned_data["receipt"],
            request=form.cleaned_data["request_body"],
            answer=form.cleaned_data["answer_body"],
        )
    except ReceiptBroken as error:
        return _render(request, "receipts", form=form, broken=str(error))
    return _render(request, "receipts", form=form, receipt=found)


@requires("guard.view")
@require_GET
def public_key(request: HttpRequest) -> HttpResponse:
    """The public half of the key that signs receipts now, PEM."""
    key = tenant_signing_key()
    response = HttpResponse(key.public_pem, content_type="application/x-pem-file")
    response["Content-Disposition"] = f'attachment; filename="signoff-{key.keyid[:12]}.pem"'
    return response


@requires("guard.edit")
@require_POST
def canary_plant(request: HttpRequest) -> HttpResponseBase:
    """Plant a canary."""
    form = CanaryForm(request.POST)
    if form.is_valid():
        data = form.cleaned_data
        try:
            made = canaries.canary_plant(
                release_digest=data["release"],
                prompt=data["prompt"],
                answer=data["answer"],
                label=data["label"],
            )
        except DomainError as error:
            service_errors(form, error)
        else:
            messages.success(request, f"{made.label} is planted. Keep its prompt: it is not stored.")
            return redirect(f"{reverse('knobs:protection')}?tab=canaries")
    return _render(request, "canaries", form=form, status=422)


@requires("guard.edit")
@require_POST
def canary_retire(request: HttpRequest) -> HttpResponseBase:
    """Stop answering with a canary."""
    form = RetireForm(request.POST)
    if not form.is_valid():
        return _render(request, "canaries", status=422)
    canary = canaries.canary_retire(pk=form.cleaned_data["canary"])
    messages.success(request, f"{canary.label} no longer answers.")
    return redirect(f"{reverse('knobs:protection')}?tab=canaries")


@requires("guard.view")
@require_POST
def copy_check(request: HttpRequest) -> HttpResponseBase:
    """Compare a foreign model's answers with the canaries. Changes nothing."""
    form = CopyForm(request.POST)
    if form.is_valid():
        try:
            found = canaries.copy_check(form.cleaned_data["answers"])
        except DomainError as error:
            service_errors(form, error)
        else:
            return _render(request, "canaries", copy_form=form, copied=found)
    return _render(request, "canaries", copy_form=form, status=422)


@requires("guard.edit")
@require_POST
def alert_handle(request: HttpRequest) -> HttpResponseBase:
    """Say what an alert was."""
    form = AlertForm(request.POST)
    if not form.is_valid():
        return _render(request, "alerts", error="Say which alert, and what it was.", status=422)
    data = form.cleaned_data
    alert = extraction.alert_handle(pk=data["alert"], state=data["state"], note=data["note"])
    messages.success(request, f"Marked as {alert.get_state_display().lower()}.")
    return redirect(reverse("knobs:protection"))
