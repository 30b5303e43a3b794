"""The audit explorer, the same for a tenant and for the operators' own log."""

from __future__ import annotations

from urllib.parse import urlencode

from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_safe

from core.audit.exports import FORMATS, audit_export
from core.audit.forms import EventFilterForm
from core.audit.models import AuditEvent, AuditLink
from core.audit.selectors import event_get, event_page, filter_choices, integrity
from core.audit.services import audit_sequence, event_document
from core.audit.verification import audit_verify
from core.errors import NotFound
from core.security.permissions import can, requires

# Links that a page verifies while somebody waits; longer logs are for the command.
VERIFY_ON_PAGE = 100_000


def _cursor(request: HttpRequest, name: str) -> int | None:
    """A cursor from the address; nonsense counts as none."""
    text = request.GET.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


def _query(request: HttpRequest, **changes: object) -> str:
    """The filters in the address with other cursors."""
    kept = {
        key: value for key, value in request.GET.items() if key not in {"before", "after", "format"} and value
    }
    kept.update({key: str(value) for key, value in changes.items() if value is not None})
    return f"?{urlencode(kept)}" if kept else "?"


@require_safe
@requires("audit.view")
def event_list(request: HttpRequest) -> HttpResponse:
    """Events as sentences, filtered by what is in the address."""
    audit_sequence()
    form = EventFilterForm(request.GET, choices=filter_choices())
    wanted = form.wanted()
    page = event_page(wanted, before=_cursor(request, "before"), after=_cursor(request, "after"))
    return render(
        request,
        "audit/event_list.html",
        {
            "form": form,
            "wanted": wanted,
            "page": page,
            "integrity": integrity(),
            "older_url": _query(request, before=page.older) if page.older else "",
            "newer_url": _query(request, after=page.newer) if page.newer else "",
            "query": _query(request).removeprefix("?"),
            "may_export": can("audit.export"),
        },
    )


@require_safe
@requires("audit.view")
def event_detail(request: HttpRequest, event_id: int) -> HttpResponse:
    """One event with everything stored of it, and its place in the chain."""
    audit_sequence()
    line = event_get(event_id)
    around = AuditEvent.objects.none()
    if line.event.correlation_id:
        around = AuditEvent.objects.filter(correlation_id=line.event.correlation_id).exclude(pk=event_id)
    return render(
        request,
        "audit/event_detail.html",
        {
            "line": line,
            "document": event_document(line.event),
            "same_request": around.order_by("id")[:20],
            "integrity": integrity(),
        },
    )


@require_GET
@requires("audit.export")
def export(request: HttpRequest) -> HttpResponseBase:
    """The filtered events as a file."""
    wanted = EventFilterForm(request.GET).wanted()
    format = request.GET.get("format", "csv")
    if format not in FORMATS:
        raise NotFound(f"The audit log is exported as {' or '.join(FORMATS)}, not as {format[:20]!r}.")
    file, media_type, name = audit_export(wanted=wanted, format=format)
    return FileResponse(file, as_attachment=True, filename=name, content_type=media_type)


@require_http_methods(["GET", "HEAD", "POST"])
@requires("audit.view")
def verify(request: HttpRequest) -> HttpResponse:
    """Recompute the whole log now (POST) and name what differs; GET explains and offers the button."""
    audit_sequence()
    last = AuditLink.objects.order_by("-seq").values_list("seq", flat=True).first() or 0
    report = audit_verify() if request.method == "POST" and last <= VERIFY_ON_PAGE else None
    return render(
        request,
        "audit/verify.html",
        {
            "report": report,
            "links": last,
            "too_long": last > VERIFY_ON_PAGE,
            "limit": VERIFY_ON_PAGE,
            "integrity": integrity(),
            "now": timezone.now(),
        },
    )
