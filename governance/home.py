"""What governance puts on the home page."""

from __future__ import annotations

import datetime as dt

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from core.ui.home import HomeCard, HomeItem, register_home
from governance.models import Review, Waiver
from governance.presentation import state_sentence
from governance.selectors import ReviewState, review_state, reviews_awaiting, reviews_visible
from governance.services import SIGNING_ROLES


def _item(state: ReviewState) -> HomeItem:
    return HomeItem(
        label=state.review.title,
        url=reverse("governance:review_detail", args=[state.review.pk]),
        status=state.verdict,
        detail=state_sentence(state),
    )


@register_home(*SIGNING_ROLES)
def awaiting_my_signature(request: HttpRequest) -> HomeCard:
    """Open reviews that need a role of mine."""
    states = reviews_awaiting(request.user)  # type: ignore[arg-type]
    return HomeCard(
        title="Awaiting my signature",
        empty="No review waits for you. Reviews appear here when a role you hold has to sign.",
        items=[_item(state) for state in states],
        url=reverse("governance:review_list"),
        url_label="All reviews",
        order=10,
    )


@register_home("pmo", "auditor", "admin")
def decisions_gone_stale(request: HttpRequest) -> HomeCard:
    """Decisions and signatures whose evidence has moved, among the latest fifty reviews."""
    items = []
    for review in reviews_visible().exclude(status=Review.Status.WITHDRAWN)[:50]:
        state = review_state(review, exact=False)
        stale = [row for poll in state.poll for row in poll.signatures if not row.current]
        if state.decision_stale or stale:
            noun = "signature" if len(stale) == 1 else "signatures"
            what = "The decision is stale." if state.decision_stale else f"{len(stale)} {noun} went stale."
            items.append(
                HomeItem(review.title, reverse("governance:review_detail", args=[review.pk]), "stale", what)
            )
    return HomeCard(
        title="Gone stale",
        empty="Nothing is stale: every signature stands on today's evidence.",
        items=items,
        order=20,
    )


@register_home("security", "pmo")
def waivers_expiring(request: HttpRequest) -> HomeCard:
    """Waivers that wait for approval, and those that end within two weeks."""
    now = timezone.now()
    items = []
    for waiver in Waiver.objects.select_related("review").filter(
        status__in=[Waiver.Status.REQUESTED, Waiver.Status.APPROVED], expires_at__gt=now
    ):
        url = reverse("governance:review_detail", args=[waiver.review_id]) + "#waivers"
        if waiver.status == Waiver.Status.REQUESTED:
            items.append(
                HomeItem(f"{waiver.criterion_key}: waits for approval", url, "", waiver.review.title)
            )
        elif waiver.expires_at < now + dt.timedelta(days=14):
            ends = f"ends {waiver.expires_at:%d %b %Y}"
            items.append(HomeItem(f"{waiver.criterion_key}: {ends}", url, "", waiver.review.title))
    return HomeCard(
        title="Waivers", empty="No waiver waits for approval or ends within 14 days.", items=items, order=40
    )


@register_home("auditor", "admin", "engineer")
def reviews_open(request: HttpRequest) -> HomeCard:
    """Open reviews."""
    states = [
        review_state(review, exact=False)
        for review in reviews_visible().filter(status=Review.Status.OPEN)[:10]
    ]
    return HomeCard(
        title="Open reviews",
        empty="No review is open. Open one from a release once its gate has run.",
        items=[_item(state) for state in states],
        url=reverse("governance:review_list"),
        url_label="All reviews",
        order=15,
    )
