"""What the pages of inference share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest

from core.evidence.models import Gate, GateVerdict
from inference.models import Release


def choice(request: HttpRequest, name: str, allowed: Sequence[str]) -> str:
    """A query parameter if it is one of `allowed`, else ""."""
    value = request.GET.get(name, "")
    return value if value in allowed else ""


def release_from(request: HttpRequest, name: str, releases: QuerySet[Release]) -> Release | None:
    """The release a query parameter names by its id; None when absent or not one of `releases`."""
    value = request.GET.get(name, "") or request.POST.get(name, "")
    if not (value.isascii() and value.isdigit() and len(value) < 19):
        return None
    return releases.filter(pk=int(value)).first()


def gates_latest() -> list[Gate]:
    """The newest version of every gate, by title."""
    newest = Gate.objects.order_by("slug", "-version").distinct("slug")
    return sorted(newest, key=lambda gate: gate.title)


def verdicts_by_candidate(digests: Sequence[str]) -> dict[str, GateVerdict]:
    """Release digest to its newest gate verdict, in one query."""
    rows = (
        GateVerdict.objects.filter(candidate_digest__in=digests)
        .select_related("gate")
        .order_by("candidate_digest", "-computed_at")
        .distinct("candidate_digest")
    )
    return {row.candidate_digest: row for row in rows}


def extra_of(error: Any) -> dict[str, Any]:
    """`extra` of a DomainError as a plain dict."""
    return dict(getattr(error, "extra", {}) or {})
