"""Reads of the portfolio."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from django.db.models import QuerySet
from django.utils import timezone

from ip_portfolio.deadlines import Deadline, deadlines_of
from ip_portfolio.errors import ApplicationNotFound
from ip_portfolio.models import PatentApplication


@dataclass(frozen=True)
class DatedDeadline:
    """A deadline with its application and the days left (negative when it has passed)."""

    application: PatentApplication
    deadline: Deadline
    days_left: int

    @property
    def variant(self) -> str:
        """How urgent it looks: "fail" when passed, "inconclusive" within 30 days, otherwise "neutral"."""
        if self.deadline.is_earliest:
            return "neutral"
        return "fail" if self.days_left < 0 else "inconclusive" if self.days_left <= 30 else "neutral"

    @property
    def when(self) -> str:
        """Days in words."""
        days = abs(self.days_left)
        unit = "day" if days == 1 else "days"
        if self.days_left == 0:
            return "today"
        return f"in {days} {unit}" if self.days_left > 0 else f"{days} {unit} ago"


def application_list() -> QuerySet[PatentApplication]:
    """All applications by docket number."""
    return PatentApplication.objects.order_by("docket_number")


def application_get(pk: int) -> PatentApplication:
    """One application. Raises ApplicationNotFound."""
    found = PatentApplication.objects.filter(pk=pk).first() if 0 < pk < 2**63 else None
    if found is None:
        raise ApplicationNotFound(f"There is no application {pk}.")
    return found


def deadlines_for(application: PatentApplication, today: datetime.date | None = None) -> list[DatedDeadline]:
    """Deadlines of one application, earliest first."""
    day = today or timezone.now().date()
    return [
        DatedDeadline(application, one, one.days_left(day))
        for one in deadlines_of(
            jurisdiction=application.jurisdiction,
            type=application.type,
            status=application.status,
            priority_date=application.priority_date,
            filing_date=application.filing_date,
            made_in=application.made_in,
            foreign_filing_licence=application.foreign_filing_licence,
        )
    ]


def deadlines_upcoming(
    *, days: int | None = None, today: datetime.date | None = None, passed_days: int = 30
) -> list[DatedDeadline]:
    """Deadlines of the whole portfolio, earliest first.

    Args:
        days: only those due within so many days; None for all.
        passed_days: how long a missed one stays on the list.
    """
    day = today or timezone.now().date()
    open_ones = PatentApplication.objects.exclude(
        status__in=[PatentApplication.Status.ABANDONED, PatentApplication.Status.GRANTED]
    )
    found = [
        one
        for application in open_ones
        for one in deadlines_for(application, day)
        if one.days_left >= (0 if one.deadline.is_earliest else -passed_days)
        and (days is None or one.days_left <= days)
    ]
    return sorted(found, key=lambda one: (one.deadline.last_day, one.application.docket_number))
