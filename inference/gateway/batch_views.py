"""Pages of batches: list with progress, one batch, cancel, download."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.db import transaction
from django.db.models import Count
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods

from core.audit.services import audit_record
from core.errors import NotFound
from core.schema import current_schema
from core.security.permissions import requires
from core.ui.components import component
from core.ui.numbers import format_plain
from core.ui.tables import Column, Filter, Table
from core.ui.templatetags.ui import ago
from inference.gateway.batches import batch_cancel, batch_get, batches_all
from inference.gateway.models import Batch
from inference.gateway.storage import file_read

_VARIANTS = {
    Batch.Status.VALIDATING: ("accent", "loader"),
    Batch.Status.IN_PROGRESS: ("accent", "loader"),
    Batch.Status.FINALIZING: ("accent", "loader"),
    Batch.Status.CANCELLING: ("inconclusive", "ban"),
    Batch.Status.COMPLETED: ("pass", "check"),
    Batch.Status.FAILED: ("fail", "x"),
    Batch.Status.EXPIRED: ("stale", "clock"),
    Batch.Status.CANCELLED: ("outline", "ban"),
}


def batch_badge(batch: Batch) -> Any:
    """The state in a word."""
    variant, icon = _VARIANTS[Batch.Status(batch.status)]
    return component("badge", label=batch.get_status_display(), variant=variant, icon=icon)


def _crumbs(batch: Batch | None = None) -> list[tuple[str, str]]:
    crumbs = [("Batches", reverse("gateway:batch_list"))]
    if batch is not None:
        crumbs.append((batch.public_id, reverse("gateway:batch_detail", args=[batch.public_id])))
    return crumbs


@requires("batch.view")
@require_GET
def batch_list(request: HttpRequest) -> HttpResponseBase:
    """All batches of the tenant, newest first."""
    table = Table(
        request,
        batches_all(),
        [
            Column("id", "Batch", lambda r: r.public_id, raw=lambda r: r.public_id, main=True, header=True),
            Column(
                "status", "State", batch_badge, raw=lambda r: r.get_status_display(), sort="status", main=True
            ),
            Column(
                "progress",
                "Done",
                lambda r: f"{format_plain(r.done)} of {format_plain(r.total)}" if r.total else None,
                raw=lambda r: r.done,
                numeric=True,
            ),
            Column(
                "failed",
                "Failed",
                lambda r: format_plain(r.failed),
                sort="failed",
                raw=lambda r: r.failed,
                numeric=True,
            ),
            Column("endpoint", "Endpoint", lambda r: r.endpoint),
            Column("key", "API key", lambda r: r.key_id, optional=True),
            Column(
                "tokens_out",
                "Tokens out",
                lambda r: format_plain(r.tokens_out),
                sort="tokens_out",
                numeric=True,
                optional=True,
            ),
            Column(
                "created",
                "Created",
                lambda r: ago(r.created_at),
                sort="created_at",
                raw=lambda r: r.created_at,
            ),
        ],
        filters=[
            Filter("status", "State", Batch.Status.choices, lambda rows, value: rows.filter(status=value)),
        ],
        search=lambda rows, words: rows.filter(public_id__icontains=words),
        row_url=lambda r: reverse("gateway:batch_detail", args=[r.public_id]),
    )
    if table.wants_csv:
        return table.csv_response("batches.csv")
    active = Batch.objects.filter(status__in=Batch.ACTIVE).count()
    return render(request, "gateway/batch_list.html", {"table": table, "active": active})


def _context(batch: Batch) -> dict[str, Any]:
    failures = (
        batch.items.exclude(status=200).values("status", "code").annotate(n=Count("pk")).order_by("-n")[:20]
    )
    return {
        "batch": batch,
        "badge": batch_badge(batch),
        "failures": list(failures),
        "done": batch.done,
        "has_output": batch.output_file is not None,
        "has_errors": batch.error_file is not None,
    }


@requires("batch.view")
@require_GET
def batch_detail(request: HttpRequest, public_id: str) -> HttpResponseBase:
    """One batch: counts, what went wrong, results to download."""
    batch = batch_get(public_id)
    return render(request, "gateway/batch_detail.html", {**_context(batch), "crumbs": _crumbs()})


@requires("batch.view")
@require_GET
def batch_progress(request: HttpRequest, public_id: str) -> HttpResponseBase:
    """What changes while it is under way; when it ended, the page loads itself once more."""
    batch = batch_get(public_id)
    response = render(request, "gateway/parts/batch_live.html", _context(batch))
    if not batch.is_active:
        response["HX-Refresh"] = "true"
    return response


@requires("batch.run")
@require_http_methods(["GET", "POST"])
def batch_cancel_page(request: HttpRequest, public_id: str) -> HttpResponseBase:
    """Ask whether to cancel, then do it. Results so far are kept."""
    batch = batch_get(public_id)
    if request.method == "GET":
        return render(request, "gateway/batch_cancel.html", {**_context(batch), "crumbs": _crumbs(batch)})
    batch_cancel(batch=batch)
    messages.info(request, "The batch stops; results so far are written to its files.")
    return redirect("gateway:batch_detail", public_id=batch.public_id)


@requires("gateway.payload")
@require_GET
def batch_download(request: HttpRequest, public_id: str) -> HttpResponseBase:
    """The file of answers (``part=output``) or of failures (``part=errors``). Opening it is recorded."""
    batch = batch_get(public_id)
    part = "errors" if request.GET.get("part") == "errors" else "output"
    file = batch.error_file if part == "errors" else batch.output_file
    if file is None:
        raise NotFound("This batch has no such file, or its time is over.")
    with transaction.atomic():
        audit_record("batch.downloaded", target=batch, data={"part": part})
    content = b"".join(file_read(file, current_schema()))
    return HttpResponse(
        content,
        content_type="application/jsonl",
        headers={"Content-Disposition": f'attachment; filename="{batch.public_id}_{part}.jsonl"'},
    )
