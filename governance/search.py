"""What governance adds to the search and the command palette."""

from __future__ import annotations

from django.db.models import Q
from django.http import HttpRequest
from django.urls import reverse

from core.security.permissions import can
from core.ui import palette
from core.ui.palette import PER_PROVIDER, Hit
from governance.selectors import playbooks_latest, reviews_visible


def find_reviews(request: HttpRequest, query: str) -> list[Hit]:
    """Reviews by title or by the candidate's version."""
    if not can("review.view"):
        return []
    found = reviews_visible().filter(Q(title__icontains=query) | Q(candidate__version__icontains=query))
    return [
        Hit(
            review.title,
            reverse("governance:review_detail", args=[review.pk]),
            "Review",
            "clipboard-check",
            review.get_status_display(),
        )
        for review in found[:PER_PROVIDER]
    ]


def find_playbooks(request: HttpRequest, query: str) -> list[Hit]:
    """Playbooks by title or short name."""
    if not can("playbook.view"):
        return []
    found = playbooks_latest().filter(Q(title__icontains=query) | Q(slug__icontains=query))
    return [
        Hit(
            playbook.title,
            reverse("governance:playbook_detail", args=[playbook.slug]),
            "Playbook",
            "book-open",
        )
        for playbook in found[:PER_PROVIDER]
    ]


palette.register("reviews", find_reviews)
palette.register("playbooks", find_playbooks)
