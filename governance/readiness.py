"""What governance knows about a release: reviews on its timeline, and whether a rollback is ready."""

from __future__ import annotations

from collections.abc import Iterable

from django.urls import reverse

from governance.models import Playbook, Rehearsal, Review
from inference.models import Release
from inference.readiness import AreaReadiness, TimelineEntry, readiness_register, timeline_register

_VARIANTS = {"go": "pass", "go_with_conditions": "inconclusive", "no_go": "fail"}
_STATUSES = {"worked": "pass", "problems": "inconclusive", "failed": "fail"}


def rollback_readiness(release: Release) -> AreaReadiness | None:
    """The last rehearsal of a rollback playbook; None when there is no such playbook."""
    playbook = (
        Playbook.objects.filter(kind=Playbook.Kind.ROLLBACK, slug__contains=release.product.slug)
        .order_by("-version")
        .first()
        or Playbook.objects.filter(kind=Playbook.Kind.ROLLBACK).order_by("-created_at").first()
    )
    if playbook is None:
        return None
    url = reverse("governance:playbook_detail", args=[playbook.slug])
    last = Rehearsal.objects.filter(playbook__slug=playbook.slug).order_by("-at").first()
    if last is None:
        sentence = f"The playbook {playbook.title} is there and was never rehearsed."
        return AreaReadiness("rollback", "Rollback readiness", "not_run", sentence, url)
    words = last.get_outcome_display().lower()
    sentence = f"{playbook.title} was rehearsed on {last.at:%d %b %Y}: {words}."
    return AreaReadiness("rollback", "Rollback readiness", _STATUSES[last.outcome], sentence, url)


def review_entries(release: Release) -> Iterable[TimelineEntry]:
    """When reviews of the release were opened and decided."""
    for review in Review.objects.filter(candidate=release).select_related("requested_by", "decided_by"):
        url = reverse("governance:review_detail", args=[review.pk])
        yield TimelineEntry(
            review.created_at,
            f"Review opened: {review.title}",
            url=url,
            icon="clipboard-check",
            variant="accent",
            actor=str(review.requested_by.name) if review.requested_by else "",
        )
        if review.decided_at is not None:
            yield TimelineEntry(
                review.decided_at,
                f"Decided: {review.get_decision_display().lower()}",
                text=review.decision_reason or review.conditions,
                url=url,
                icon="gavel",
                variant=_VARIANTS.get(review.decision, "neutral"),
                actor=str(review.decided_by.name) if review.decided_by else "",
            )


readiness_register("rollback", rollback_readiness)
timeline_register("reviews", review_entries)
