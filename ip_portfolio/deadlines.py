"""Deadlines of a patent application, from its dates. Pure: neither Django nor the database is imported.

Sources: Paris Convention Art. 4C (twelve months' priority; the last day of the period follows Art. 4C(2)-(3));
35 USC 119(a), (e); PCT Rule 2.1 and Rule 80.2 (months end on the day of the same number, or on the last day of the
month), PCT Art. 22 and 39 (30 months), Rule 159(1) EPC (31 months); 35 USC 184 and 37 CFR 5.11 (six months).
Weekends and office holidays move a period's end to the next working day of the office (35 USC 21(b), PCT Rule
80.5); weekends are applied here, holidays are not, because each office has its own: a deadline is never computed
later than the rule allows.
"""

from __future__ import annotations

import calendar
import datetime
from dataclasses import dataclass

# Months.
PRIORITY_MONTHS = 12
PCT_NATIONAL_MONTHS = 30
EP_REGIONAL_MONTHS = 31
FOREIGN_LICENCE_MONTHS = 6


@dataclass(frozen=True)
class Deadline:
    """One date by which something must be done, or before which it must not.

    kind: "priority_year", "pct_national_phase", "ep_regional_phase" or "foreign_filing_licence".
    due_on: the date the period ends on by the calendar. last_day: the same moved off a weekend, where the office
    allows it. is_earliest: the date is the first on which something may be done, not the last.
    """

    kind: str
    title: str
    due_on: datetime.date
    last_day: datetime.date
    rule: str
    what: str
    is_earliest: bool = False

    def days_left(self, today: datetime.date) -> int:
        """Days from today to the last day; negative when it has passed."""
        return (self.last_day - today).days


def months_after(start: datetime.date, months: int) -> datetime.date:
    """The day of the same number `months` later, or the last day of that month when it is shorter.

    >>> months_after(datetime.date(2026, 8, 31), 6)
    datetime.date(2027, 2, 28)
    """
    index = start.year * 12 + start.month - 1 + months
    year, month = index // 12, index % 12 + 1
    if not datetime.MINYEAR <= year <= datetime.MAXYEAR:
        raise ValueError(f"{months} months after {start} is outside the calendar.")
    return datetime.date(year, month, min(start.day, calendar.monthrange(year, month)[1]))


def next_working_day(day: datetime.date) -> datetime.date:
    """The day itself, or the Monday after it when it falls on a weekend."""
    return day + datetime.timedelta(days={5: 2, 6: 1}.get(day.weekday(), 0))


def deadlines_of(
    *,
    jurisdiction: str,
    type: str,
    status: str,
    priority_date: datetime.date | None,
    filing_date: datetime.date | None,
    made_in: str = "US",
    foreign_filing_licence: bool = False,
) -> list[Deadline]:
    """Deadlines that follow from an application's dates, earliest first.

    Args:
        jurisdiction: "US", "EP" or "PCT". type: "provisional", "nonprovisional", "international" or "regional".
        status: "drafting", "filed", "pending", "granted" or "abandoned"; nothing is due for an abandoned one.
        priority_date: earliest date claimed; None when the application claims none.
        filing_date: None while drafting.
        made_in: country in which the invention was made; the licence concerns "US" only.
    Returns:
        An empty list when nothing follows: without any date nothing runs.
    """
    if status in {"abandoned", "granted"}:
        return []
    found: list[Deadline] = []
    earliest = priority_date or filing_date
    if earliest is None:
        return []
    if filing_date is None or (priority_date is None and type != "regional"):
        # Not filed yet: it must be, to keep the priority claimed. Filed first: others may claim it for a year.
        due = months_after(earliest, PRIORITY_MONTHS)
        what = (
            f"File this application to keep the priority of {earliest:%d %b %Y}."
            if filing_date is None
            else "File abroad, and the non-provisional of a provisional, to claim priority from this filing."
        )
        found.append(
            Deadline(
                "priority_year",
                "Priority year ends",
                due,
                next_working_day(due),
                "Paris Convention Art. 4C; 35 USC 119",
                what,
            )
        )
    if jurisdiction == "PCT" and filing_date is not None:
        due = months_after(earliest, PCT_NATIONAL_MONTHS)
        found.append(
            Deadline(
                "pct_national_phase",
                "National phase, 30 months",
                due,
                next_working_day(due),
                "PCT Art. 22(1) and 39(1)(a)",
                "Enter the national phase in the United States and most other countries.",
            )
        )
        due = months_after(earliest, EP_REGIONAL_MONTHS)
        found.append(
            Deadline(
                "ep_regional_phase",
                "European phase, 31 months",
                due,
                next_working_day(due),
                "Rule 159(1) EPC",
                "Enter the regional phase before the European Patent Office.",
            )
        )
    if jurisdiction == "US" and filing_date is not None and made_in == "US" and not foreign_filing_licence:
        due = months_after(filing_date, FOREIGN_LICENCE_MONTHS)
        found.append(
            Deadline(
                "foreign_filing_licence",
                "Foreign filing without a licence",
                due,
                due,
                "35 USC 184; 37 CFR 5.11",
                f"Do not file abroad until six months have passed, on {due:%d %b %Y}, or until a licence is granted.",
                is_earliest=True,
            )
        )
    return sorted(found, key=lambda one: (one.due_on, one.kind))
