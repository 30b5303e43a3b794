"""Deadlines against the rules, worked out by hand."""

from __future__ import annotations

import datetime

import pytest
from dateutil.relativedelta import relativedelta
from hypothesis import given
from hypothesis import strategies as st

from ip_portfolio.deadlines import Deadline, deadlines_of, months_after, next_working_day

D = datetime.date


def due(**changes: object) -> dict[str, Deadline]:
    details: dict[str, object] = {
        "jurisdiction": "US", "type": "nonprovisional", "status": "filed", "priority_date": None,
        "filing_date": None, "made_in": "US", "foreign_filing_licence": False,
    }  # fmt: skip
    return {one.kind: one for one in deadlines_of(**{**details, **changes})}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("start", "months", "expected"),
    [
        (D(2026, 1, 15), 12, D(2027, 1, 15)),
        (D(2024, 2, 29), 12, D(2025, 2, 28)),
        (D(2026, 8, 31), 6, D(2027, 2, 28)),
        (D(2027, 8, 31), 6, D(2028, 2, 29)),
        (D(2026, 7, 31), 30, D(2029, 1, 31)),
        (D(2026, 8, 31), 30, D(2029, 2, 28)),
        (D(2026, 12, 31), 1, D(2027, 1, 31)),
        (D(2026, 11, 30), 12, D(2027, 11, 30)),
    ],
)
def test_months_end_on_the_same_day_or_the_months_last(start, months, expected):
    assert months_after(start, months) == expected


@given(st.dates(D(1900, 1, 1), D(2200, 1, 1)), st.integers(0, 60))
def test_months_agree_with_dateutil(start, months):
    assert months_after(start, months) == start + relativedelta(months=months)


def test_months_past_the_calendar_are_refused():
    with pytest.raises(ValueError, match="outside the calendar"):
        months_after(D(9999, 12, 1), 12)


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        (D(2026, 11, 20), D(2026, 11, 20)),
        (D(2026, 11, 21), D(2026, 11, 23)),
        (D(2026, 11, 22), D(2026, 11, 23)),
    ],
    ids=["Friday", "Saturday", "Sunday"],
)
def test_weekend_moves_to_monday(day, expected):
    assert next_working_day(day) == expected


def test_priority_year_of_a_first_filing():
    one = due(type="provisional", filing_date=D(2026, 3, 2), made_in="DE")["priority_year"]
    assert (one.due_on, one.last_day) == (D(2027, 3, 2), D(2027, 3, 2))


def test_priority_year_that_ends_on_a_saturday_lasts_to_monday():
    one = due(filing_date=D(2025, 11, 22), made_in="DE")["priority_year"]
    assert (one.due_on, one.last_day) == (D(2026, 11, 22), D(2026, 11, 23))


def test_application_that_claims_priority_must_be_filed_within_the_year():
    one = due(status="drafting", priority_date=D(2026, 5, 4))["priority_year"]
    assert one.due_on == D(2027, 5, 4)
    assert "keep the priority" in one.what


def test_filed_application_with_priority_has_no_priority_year_of_its_own():
    assert "priority_year" not in due(priority_date=D(2025, 5, 4), filing_date=D(2026, 5, 4))


@pytest.mark.parametrize("priority", [D(2025, 6, 30), None], ids=["from priority", "from filing"])
def test_international_application_enters_the_national_phase_after_thirty_months(priority):
    found = due(jurisdiction="PCT", type="international", priority_date=priority, filing_date=D(2026, 6, 30))
    start = priority or D(2026, 6, 30)
    assert found["pct_national_phase"].due_on == months_after(start, 30)
    assert found["ep_regional_phase"].due_on == months_after(start, 31)


def test_international_application_not_filed_has_no_national_phase():
    found = due(jurisdiction="PCT", type="international", status="drafting", priority_date=D(2026, 1, 5))
    assert set(found) == {"priority_year"}


def test_us_invention_waits_six_months_before_it_is_filed_abroad():
    one = due(filing_date=D(2026, 8, 31))["foreign_filing_licence"]
    assert one.due_on == one.last_day == D(2027, 2, 28)
    assert one.is_earliest


@pytest.mark.parametrize(
    "changes",
    [
        {"made_in": "DE"},
        {"foreign_filing_licence": True},
        {"jurisdiction": "EP", "type": "regional"},
        {"filing_date": None},
    ],
    ids=["made elsewhere", "licence granted", "filed elsewhere", "not filed"],
)
def test_no_waiting_without_need(changes):
    assert "foreign_filing_licence" not in due(**{"filing_date": D(2026, 8, 31), **changes})


@pytest.mark.parametrize("status", ["abandoned", "granted"])
def test_nothing_runs_for_a_finished_application(status):
    assert due(status=status, filing_date=D(2026, 1, 1)) == {}


def test_nothing_runs_without_a_date():
    assert due(status="drafting") == {}


def test_deadlines_come_earliest_first():
    found = deadlines_of(
        jurisdiction="PCT",
        type="international",
        status="filed",
        priority_date=None,
        filing_date=D(2026, 1, 5),
    )
    assert [one.kind for one in found] == ["priority_year", "pct_national_phase", "ep_regional_phase"]


def test_days_left_counts_to_the_last_day():
    one = due(filing_date=D(2025, 11, 22), made_in="DE")["priority_year"]
    assert (one.days_left(D(2026, 11, 22)), one.days_left(D(2026, 11, 24))) == (1, -1)
