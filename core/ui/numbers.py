"""Numbers as people read them: digits follow the interval, units are humanised, the exact value stays at
hand.

Nothing here guesses: a missing value is shown as an en dash, never as zero.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

from django.utils import timezone

MISSING: Final = "–"
MINUS: Final = "\u2212"
NARROW_SPACE: Final = "\u202f"
MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

Real = int | float | Decimal


@dataclass(frozen=True)
class FormattedNumber:
    """One number ready to show. `exact` goes into the tooltip; empty parts are empty strings."""

    text: str
    interval: str
    unit: str
    n: str
    exact: str

    def __str__(self) -> str:
        rest = " ".join(
            part for part in (self.unit, self.interval, f"n = {self.n}" if self.n else "") if part
        )
        return f"{self.text} {rest}".strip()


def is_number(value: Any) -> bool:
    """True for a finite int, float or Decimal; False for None, bool, NaN, infinities and text."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return False
    return math.isfinite(value)


def decimals_for(value: Real, low: Real | None = None, high: Real | None = None, n: int | None = None) -> int:
    """How many decimals to show; may be negative when even the last integer digits are noise.

    With an interval: two significant digits of its half-width. Without one: three significant digits of the
    value, and integers are left whole.
    """
    if low is not None and high is not None and is_number(low) and is_number(high):
        half = abs(float(high) - float(low)) / 2
        if half > 0:
            return min(10, 1 - math.floor(math.log10(half)))
    if not is_number(value) or (float(value).is_integer() and abs(float(value)) < 1e15):
        return 0
    return min(10, max(0, 2 - math.floor(math.log10(abs(float(value))))))


def round_half_even(value: Real, decimals: int) -> str:
    """`value` at so many decimals (negative rounds to tens, hundreds …), with a true minus and grouped
    thousands."""
    exact = Decimal(str(value)) if isinstance(value, float) else Decimal(value)
    step = Decimal(1).scaleb(-decimals)
    rounded = (
        (exact / step).quantize(Decimal(1), rounding=ROUND_HALF_EVEN) * step
        if decimals < 0
        else exact.quantize(step, rounding=ROUND_HALF_EVEN)
    )
    text = f"{rounded:,.{max(0, decimals)}f}".replace(",", NARROW_SPACE)
    if text.startswith("-"):
        text = text[1:] if rounded == 0 else MINUS + text[1:]
    return text


def format_plain(value: Real | None, decimals: int | None = None) -> str:
    """A bare number. None, NaN and infinities become an en dash."""
    if value is None or not is_number(value):
        return MISSING
    places = decimals_for(value) if decimals is None else decimals
    # Very small values would print as zero: say them in powers of ten instead.
    if value != 0 and abs(float(value)) < 10 ** -max(places, 4) and decimals is None:
        return f"{float(value):.2e}".replace("-", MINUS)
    text = round_half_even(value, places)
    if decimals is None and "." in text:
        # Without an interval nothing vouches for trailing zeros: 0.00042, not 0.000420.
        text = text.rstrip("0").rstrip(".")
    return text


UNIT_WORDS: Final[dict[str, str]] = {
    "share": "",
    "ratio": "",
    "": "",
    "nats/token": "nats/token",
    "ms": "ms",
    "s": "s",
    "USD": "USD",
    "tokens/s": "tokens/s",
    "%": "%",
    "pp": "percentage points",
}


def format_number(
    value: Real | None,
    low: Real | None = None,
    high: Real | None = None,
    n: int | None = None,
    unit: str = "",
) -> FormattedNumber:
    """A measurement for people: value, interval, n and unit with matching digits.

    Args:
        value: the point estimate in `unit`; None or NaN is shown as an en dash.
        low, high: ends of the interval in the same unit; both or neither.
        n: how many items it rests on; None when that has no meaning.
        unit: "share" is shown without a word (0.615); any other unit is shown as given.
    """
    word = UNIT_WORDS.get(unit, unit)
    count = "" if n is None else format_plain(int(n), 0)
    if value is None or not is_number(value):
        return FormattedNumber(MISSING, "", word, count, "no value")
    bounded = low is not None and high is not None and is_number(low) and is_number(high)
    places = decimals_for(value, low, high, n) if bounded else decimals_for(value)
    exact = f"{value!r}" if not isinstance(value, Decimal) else str(value)
    interval = ""
    if bounded:
        assert low is not None and high is not None
        interval = f"[{round_half_even(low, places)}, {round_half_even(high, places)}]"
        exact += f" [{low}, {high}]"
        text = round_half_even(value, places)
    else:
        text = format_plain(value)
    return FormattedNumber(text, interval, word, count, f"{exact} {word}".strip())


def format_share(value: Real | None, decimals: int = 1) -> str:
    """A share in [0, 1] as a percentage: 0.615 becomes 61.5 %."""
    if value is None or not is_number(value):
        return MISSING
    return f"{round_half_even(Decimal(str(value)) * 100, decimals)}{NARROW_SPACE}%"


def format_duration(seconds: Real | dt.timedelta | None) -> str:
    """A length of time: 850 µs, 12 ms, 1.4 s, 3 min 5 s, 2 h 4 min, 3 d 2 h. Negative lengths carry a
    minus."""
    if isinstance(seconds, dt.timedelta):
        seconds = seconds.total_seconds()
    if seconds is None or not is_number(seconds):
        return MISSING
    value = float(seconds)
    sign, value = (MINUS, -value) if value < 0 else ("", value)
    if value == 0:
        return "0 s"
    if value < 0.0009995:
        return f"{sign}{format_plain(float(f'{value * 1e6:.3g}'))} µs"
    if value < 0.9995:
        return f"{sign}{format_plain(float(f'{value * 1e3:.3g}'))} ms"
    if value < 59.95:
        return f"{sign}{round_half_even(value, 1 if value < 9.95 and not value.is_integer() else 0)} s"
    whole = round(value)
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{sign}{minutes} min" + (f" {rest} s" if rest else "")
    minutes = round(value / 60)
    if minutes < 48 * 60:
        hours, rest = divmod(minutes, 60)
        return f"{sign}{hours} h" + (f" {rest} min" if rest else "")
    days, rest = divmod(round(value / 3600), 24)
    return f"{sign}{round_half_even(days, 0)} d" + (f" {rest} h" if rest else "")


def format_money(amount: Real | None, currency: str = "USD") -> str:
    """Money with enough digits to be true: 12.50 USD, 0.00042 USD; small amounts keep two significant
    digits."""
    if amount is None or not is_number(amount):
        return MISSING
    value = abs(float(amount))
    places = 2 if value == 0 or value >= 0.1 else min(12, 1 - math.floor(math.log10(value)))
    return f"{round_half_even(amount, places)} {currency}"


def format_bytes(count: Real | None) -> str:
    """Bytes in powers of 1024: 512 B, 1.5 KiB, 269 MiB."""
    if count is None or not is_number(count):
        return MISSING
    value = float(count)
    sign, value = (MINUS, -value) if value < 0 else ("", value)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 999.5 or unit == "TiB":
            places = 0 if unit == "B" or value >= 9.95 else 1
            return f"{sign}{round_half_even(value, places)} {unit}"
        value /= 1024
    raise AssertionError("the loop always returns")


def format_count(count: Real | None, noun: str = "", plural: str = "") -> str:
    """A count with its noun: 1 item, 1 234 items, 2 queries (give `plural` when it is not noun + s)."""
    if count is None or not is_number(count):
        return MISSING
    text = format_plain(count, 0 if float(count).is_integer() else None)
    if not noun:
        return text
    return f"{text} {noun if count == 1 else plural or noun + 's'}"


def format_tokens(count: Real | None) -> str:
    """Tokens: 812 tokens, 12.4 k tokens, 3.1 M tokens."""
    if count is None or not is_number(count):
        return MISSING
    value = float(count)
    if abs(value) < 10_000:
        return format_count(round(value), "token")
    for factor, letter in ((1e3, "k"), (1e6, "M"), (1e9, "G")):
        if abs(value) < factor * 999.5 or letter == "G":
            scaled = value / factor
            return f"{round_half_even(scaled, 1 if abs(scaled) < 99.95 else 0)} {letter} tokens"
    raise AssertionError("the loop always returns")


def format_date(moment: dt.date | dt.datetime | None) -> str:
    """An unambiguous date: 23 Nov 2026. Datetimes are taken in the current time zone."""
    if moment is None:
        return MISSING
    if isinstance(moment, dt.datetime):
        moment = localise(moment)
    return f"{moment.day} {MONTHS[moment.month - 1]} {moment.year}"


def format_datetime(moment: dt.datetime | None) -> str:
    """Date and time in the current time zone, zone named: 23 Nov 2026, 14:05 CET."""
    if moment is None:
        return MISSING
    local = localise(moment)
    return f"{format_date(local)}, {local:%H:%M} {local.tzname() or ''}".strip()


def format_iso(moment: dt.datetime | dt.date | None) -> str:
    """Absolute ISO 8601 with offset, to the second; for tooltips and the `datetime` attribute."""
    if moment is None:
        return ""
    if isinstance(moment, dt.datetime):
        return localise(moment).isoformat(timespec="seconds")
    return moment.isoformat()


def localise(moment: dt.datetime) -> dt.datetime:
    """`moment` in the current time zone; a naive moment is taken as UTC, which is how everything is
    stored."""
    if timezone.is_naive(moment):
        moment = moment.replace(tzinfo=dt.UTC)
    return timezone.localtime(moment)


def format_relative(moment: dt.datetime | None, now: dt.datetime | None = None) -> str:
    """How long ago or ahead, in one unit: just now, 5 min ago, in 3 h, 12 d ago; beyond 60 days the date."""
    if moment is None:
        return MISSING
    moment = localise(moment)
    seconds = ((now or timezone.now()) - moment).total_seconds()
    distance = abs(seconds)
    if distance < 45:
        return "just now" if seconds >= 0 else "in a moment"
    if distance < 45 * 60:
        text = f"{max(1, round(distance / 60))} min"
    elif distance < 36 * 3600:
        text = f"{max(1, round(distance / 3600))} h"
    elif distance < 60 * 86400:
        text = f"{max(1, round(distance / 86400))} d"
    else:
        return format_date(moment)
    return f"{text} ago" if seconds >= 0 else f"in {text}"
