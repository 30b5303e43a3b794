"""Numbers as people read them."""

from __future__ import annotations

import datetime as dt
import math
import zoneinfo
from decimal import Decimal

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from core.ui import numbers
from core.ui.numbers import (
    format_bytes,
    format_count,
    format_date,
    format_datetime,
    format_duration,
    format_iso,
    format_money,
    format_number,
    format_plain,
    format_relative,
    format_share,
    format_tokens,
)

NBSP = "\u202f"
finite = st.floats(min_value=-1e9, max_value=1e9, allow_nan=False, allow_infinity=False)


def read(text: str) -> float:
    """What a person reads: the inverse of formatting, up to rounding."""
    return float(text.replace(NBSP, "").replace(numbers.MINUS, "-"))


@pytest.mark.parametrize(
    ("value", "low", "high", "n", "unit", "expected"),
    [
        (0.615, 0.546, 0.680, 200, "share", "0.615 [0.546, 0.680] n = 200"),
        (0.5, 0.4, 0.6, 100, "share", "0.50 [0.40, 0.60] n = 100"),
        (42.318, 40.9, 43.8, 200, "ms", "42.3 ms [40.9, 43.8] n = 200"),
        (1234.56, 1100, 1400, 50, "ms", f"1{NBSP}230 ms [1{NBSP}100, 1{NBSP}400] n = 50"),
        (-0.0712, -0.118, -0.024, 64, "share", "−0.071 [−0.118, −0.024] n = 64"),
        (0.00042, 0.0004, 0.00044, 10, "USD", "0.000420 USD [0.000400, 0.000440] n = 10"),
        (None, None, None, 0, "share", "– n = 0"),
        (float("nan"), 0.1, 0.2, None, "ms", "– ms"),
        (12, None, None, None, "ms", "12 ms"),
        (0.123456, None, None, None, "", "0.123"),
        (0.6, None, None, None, "", "0.6"),
        (Decimal("0.615"), Decimal("0.546"), Decimal("0.68"), 200, "share", "0.615 [0.546, 0.680] n = 200"),
    ],
)
def test_digits_follow_the_interval(value, low, high, n, unit, expected: str) -> None:
    assert str(format_number(value, low, high, n, unit)) == expected


def test_exact_value_stays_at_hand() -> None:
    assert format_number(0.6149999, 0.546, 0.68, 200, "share").exact == "0.6149999 [0.546, 0.68]"


@given(finite, st.floats(min_value=1e-6, max_value=1e6))
def test_rounding_hides_less_than_a_tenth_of_the_half_width(value: float, half: float) -> None:
    low, high = value - half, value + half
    shown = format_number(value, low, high).text
    assert abs(read(shown) - value) <= (high - low) / 2 * 0.1 + 1e-9


@given(finite)
def test_a_bare_number_keeps_three_significant_digits(value: float) -> None:
    shown = format_plain(value)
    if "e" in shown:
        shown = shown.replace("e−", "e-")
        assert float(shown.replace(numbers.MINUS, "-")) == pytest.approx(value, rel=0.006)
    else:
        assert read(shown) == pytest.approx(value, rel=0.0051, abs=1e-12)


@given(finite)
def test_a_number_never_shows_a_minus_zero(value: float) -> None:
    assert format_plain(value, 2) != f"{numbers.MINUS}0.00"


@given(st.floats(min_value=0, max_value=1e8))
def test_durations_read_back_within_a_part_in_twelve(seconds: float) -> None:
    units = {"µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
    words = format_duration(seconds).split(" ")
    total = sum(read(number) * units[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    assert total == pytest.approx(seconds, rel=0.06, abs=1e-7)


@given(st.floats(min_value=0, max_value=1e8), st.floats(min_value=0, max_value=1e8))
def test_durations_never_use_a_full_next_unit(first: float, second: float) -> None:
    for text in (format_duration(first), format_duration(second)):
        assert not text.startswith(("60 s", "60 min", f"1{NBSP}000 ms", "1000 ms"))
        assert " 60 s" not in text and " 60 min" not in text and " 24 h" not in text


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (0.00001, "10 µs"),
        (0.0123, "12.3 ms"),
        (0.99999, "1.0 s"),
        (1.44, "1.4 s"),
        (59.97, "1 min"),
        (187, "3 min 7 s"),
        (3599.7, "1 h"),
        (7440, "2 h 4 min"),
        (200_000, "2 d 8 h"),
        (-5, "−5 s"),
        (None, "–"),
        (float("inf"), "–"),
        (dt.timedelta(minutes=2), "2 min"),
    ],
)
def test_durations(seconds, expected: str) -> None:
    assert format_duration(seconds) == expected


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (12.5, "12.50 USD"),
        (0.00042, "0.00042 USD"),
        (0, "0.00 USD"),
        (1234.5, f"1{NBSP}234.50 USD"),
        (None, "–"),
        (-3, "−3.00 USD"),
    ],
)
def test_money(amount, expected: str) -> None:
    assert format_money(amount) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (512, "512 B"), (1536, "1.5 KiB"), (282_000_000, "269 MiB"), (1023, "1.0 KiB"), (None, "–")],
)
def test_bytes(count, expected: str) -> None:
    assert format_bytes(count) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, "1 token"),
        (812, "812 tokens"),
        (12_400, "12.4 k tokens"),
        (999_900, "1.0 M tokens"),
        (3_100_000, "3.1 M tokens"),
    ],
)
def test_tokens(count, expected: str) -> None:
    assert format_tokens(count) == expected


@pytest.mark.parametrize(
    ("value", "nouns", "expected"),
    [
        (1, ("item",), "1 item"),
        (0, ("item",), "0 items"),
        (2, ("query", "queries"), "2 queries"),
        (None, ("item",), "–"),
    ],
)
def test_counts_agree_with_their_noun(value, nouns, expected: str) -> None:
    assert format_count(value, *nouns) == expected


def test_a_missing_share_is_not_zero() -> None:
    assert format_share(None) == "–"
    assert format_share(0.615) == f"61.5{NBSP}%"
    assert format_share(0) == f"0.0{NBSP}%"


@pytest.mark.parametrize("value", [True, "3", [], math.nan])
def test_what_is_not_a_number_is_shown_as_missing(value) -> None:
    assert format_plain(value) == "–"


NOON = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (dt.timedelta(seconds=10), "just now"),
        (dt.timedelta(minutes=5), "5 min ago"),
        (dt.timedelta(hours=3), "3 h ago"),
        (dt.timedelta(days=12), "12 d ago"),
        (dt.timedelta(days=100), "15 Aug 2026"),
        (dt.timedelta(hours=-3), "in 3 h"),
        (dt.timedelta(seconds=-10), "in a moment"),
    ],
)
def test_relative_times(before: dt.timedelta, expected: str) -> None:
    assert format_relative(NOON - before, now=NOON) == expected


def test_dates_are_unambiguous_and_in_the_readers_zone() -> None:
    late = dt.datetime(2026, 11, 23, 23, 30, tzinfo=dt.UTC)
    assert format_date(dt.date(2026, 11, 3)) == "3 Nov 2026"
    with timezone.override(zoneinfo.ZoneInfo("Europe/Berlin")):
        assert format_date(late) == "24 Nov 2026"
        assert format_datetime(late) == "24 Nov 2026, 00:30 CET"
        assert format_iso(late) == "2026-11-24T00:30:00+01:00"


def test_a_naive_moment_is_taken_as_utc() -> None:
    assert format_iso(dt.datetime(2026, 1, 2, 3, 4)) == "2026-01-02T03:04:00+00:00"
