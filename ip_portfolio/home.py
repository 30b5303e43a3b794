"""What the portfolio puts on the home page."""

from __future__ import annotations

from django.http import HttpRequest
from django.urls import reverse

from core.ui.home import HomeCard, HomeItem, register_home
from ip_portfolio.selectors import deadlines_upcoming


@register_home("legal", "auditor")
def patent_deadlines(request: HttpRequest) -> HomeCard:
    """Deadlines within half a year, and those just missed."""
    found = deadlines_upcoming(days=183)
    return HomeCard(
        title="Patent deadlines",
        empty="No patent deadline falls within six months.",
        items=[
            HomeItem(
                f"{one.application}: {one.deadline.title}",
                reverse("ip_portfolio:application_detail", args=[one.application.pk]),
                "fail" if one.days_left < 0 and not one.deadline.is_earliest else "",
                f"{one.deadline.last_day:%d %b %Y}, {one.when}",
            )
            for one in found[:10]
        ],
        url=reverse("ip_portfolio:application_list"),
        url_label="All applications",
        order=20,
    )
