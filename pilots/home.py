"""What pilots put on the home page."""

from __future__ import annotations

from django.http import HttpRequest
from django.urls import reverse

from core.ui.home import HomeCard, HomeItem, register_home
from pilots.models import Pilot
from pilots.selectors import Scorecard, pilots_running, pilots_visible, scorecard


def _status(card: Scorecard) -> str:
    """One verdict for the pilot: fail when one criterion fails, pass when all pass, otherwise not settled."""
    found = {row.status for row in card.rows}
    if "fail" in found:
        return "fail"
    if not card.measured:
        return "not_run"
    return "pass" if found == {"pass"} else "stale" if "stale" in found else "inconclusive"


@register_home("pmo", "admin")
def pilots_now(request: HttpRequest) -> HomeCard:
    """Running pilots with the state of their success criteria."""
    cards = [scorecard(pilot) for pilot in pilots_running()[:20]]
    return HomeCard(
        title="Running pilots",
        empty="No pilot is running. Set one up when a customer is to try a release.",
        items=[
            HomeItem(
                str(card.pilot),
                reverse("pilots:pilot_detail", args=[card.pilot.pk]),
                _status(card),
                card.sentence(),
            )
            for card in cards
        ],
        url=reverse("pilots:pilot_list"),
        url_label="All pilots",
        order=60,
    )


@register_home("customer")
def my_pilot(request: HttpRequest) -> HomeCard:
    """The scorecard of the customer's own pilots."""
    cards = [scorecard(pilot) for pilot in pilots_visible().exclude(status=Pilot.Status.PLANNED)[:20]]
    return HomeCard(
        title="My pilot",
        empty="No pilot of yours has started. Your contact sets it up and adds you to it.",
        items=[
            HomeItem(
                str(card.pilot.product),
                reverse("pilots:pilot_detail", args=[card.pilot.pk]),
                _status(card),
                card.sentence(),
            )
            for card in cards
        ],
        order=10,
    )
