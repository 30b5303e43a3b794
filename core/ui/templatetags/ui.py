"""`{% load ui %}`: icons, drawings and formatted numbers for templates."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import lucide
from django import template
from django.templatetags.static import static
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe
from lucide.templatetags.lucide import lucide as draw_icon

from core.ui import charts, diffs, finders, numbers
from core.ui.pdf import css_string as _css_string
from core.ui.verdicts import VerdictLook, verdict_look

register = template.Library()


@register.simple_tag
def icon(name: str, size: int = 16, label: str = "") -> SafeString:
    """An icon of the set. Decorative unless `label` is given. An unknown name draws nothing rather than
    fail a page."""
    if not name:
        return mark_safe("")
    about: dict[str, object] = {"role": "img", "aria_label": label} if label else {"aria_hidden": "true"}
    try:
        return mark_safe(draw_icon(str(name) + "", size=int(size), focusable="false", **about))  # noqa: S308
    except lucide.IconDoesNotExist:
        return mark_safe("")


@register.filter
def verdict_of(value: object) -> VerdictLook:
    """Look of a verdict: `.word`, `.icon`, `.key`."""
    return verdict_look(value)


@register.filter
def verdict_icon(value: object) -> str:
    """Icon of a verdict, or of a plain mark variant; empty when neither."""
    known = {"accent": "info", "error": "x", "success": "check", "warning": "triangle-alert", "info": "info"}
    key = str(getattr(value, "value", value) or "")
    return known.get(key) or (verdict_look(key).icon if key else "")


@register.simple_tag
def formatted(
    value: Any, low: Any = None, high: Any = None, n: Any = None, unit: str = ""
) -> numbers.FormattedNumber:
    """`{% formatted value low high n unit as f %}`: parts of a measurement with matching digits."""

    def real(raw: Any) -> Any:
        if raw in ("", None):
            return None
        if isinstance(raw, str):
            try:
                return float(Decimal(raw))
            except ArithmeticError:
                return None
        return raw

    count = real(n)
    return numbers.format_number(
        real(value), real(low), real(high), int(count) if count is not None else None, unit
    )


@register.filter
def plain(value: Any, decimals: Any = None) -> str:
    """A bare number with matching digits: `{{ 0.12345|plain }}`, `{{ x|plain:3 }}`."""
    return numbers.format_plain(value, None if decimals in (None, "") else int(decimals))


@register.filter
def share(value: Any, decimals: int = 1) -> str:
    """A share in [0, 1] as a percentage."""
    return numbers.format_share(value, int(decimals))


def _titled(text: str, exact: object) -> SafeString:
    return format_html('<span title="{}">{}</span>', exact, text)


@register.filter
def duration(value: Any) -> str | SafeString:
    """Seconds (or a timedelta) humanised, exact seconds on hover."""
    text = numbers.format_duration(value)
    if text == numbers.MISSING:
        return text
    seconds = value.total_seconds() if isinstance(value, dt.timedelta) else value
    return _titled(text, f"{seconds} s")


@register.filter
def milliseconds(value: Any) -> str | SafeString:
    """Milliseconds humanised, exact value on hover."""
    if not numbers.is_number(value):
        return numbers.MISSING
    return _titled(numbers.format_duration(float(value) / 1000), f"{value} ms")


@register.filter
def money(value: Any, currency: str = "USD") -> str | SafeString:
    """Money, exact value on hover."""
    text = numbers.format_money(value, currency)
    return text if text == numbers.MISSING else _titled(text, f"{value} {currency}")


@register.filter
def filesize(value: Any) -> str | SafeString:
    """Bytes humanised, exact count on hover."""
    text = numbers.format_bytes(value)
    return text if text == numbers.MISSING else _titled(text, f"{value} bytes")


@register.filter
def tokens(value: Any) -> str | SafeString:
    """Tokens humanised, exact count on hover."""
    text = numbers.format_tokens(value)
    return text if text == numbers.MISSING else _titled(text, f"{value} tokens")


@register.filter
def count(value: Any, nouns: str = "") -> str:
    """A count with its noun: `{{ n|count:"item" }}`, `{{ n|count:"query,queries" }}`."""
    noun, _, plural = nouns.partition(",")
    return numbers.format_count(value, noun, plural)


@register.filter
def day(value: Any) -> str:
    """23 Nov 2026, in the current time zone."""
    return numbers.format_date(value)


@register.filter
def moment(value: Any) -> str:
    """23 Nov 2026, 14:05 CET, in the current time zone."""
    return numbers.format_datetime(value)


@register.filter
def relative(value: Any) -> str:
    """5 min ago; without the surrounding time element (see `ago`)."""
    return numbers.format_relative(value)


@register.filter
def iso(value: Any) -> str:
    """ISO 8601 with offset."""
    return numbers.format_iso(value)


@register.filter
def ago(value: Any) -> str | SafeString:
    """A time element: relative text, absolute ISO time on hover."""
    if value is None or value == "":
        return numbers.MISSING
    stamp = numbers.format_iso(value)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', stamp, stamp, numbers.format_relative(value)
    )


@register.filter
def short(value: Any) -> str:
    """First 12 characters of a digest, after its algorithm prefix ("sha256:") if any."""
    return str(value or "").rpartition(":")[2][:12]


@register.filter
def initials(name: Any) -> str:
    """Up to two initials of a name or e-mail address, upper case."""
    words = [
        w
        for w in str(name or "").split("@")[0].replace(".", " ").replace("_", " ").split()
        if w[:1].isalnum()
    ]
    if not words:
        return "?"
    return (words[0][0] + (words[-1][0] if len(words) > 1 else "")).upper()


@register.simple_tag
def chart_drawing(chart: charts.Chart, width: int = 640) -> SafeString:
    """The figure as inline SVG."""
    return mark_safe(charts.chart_svg(chart, width=int(width)))  # noqa: S308 - charts.py escapes all text


@register.filter
def chart_empty(chart: Any) -> bool:
    """True when a chart has nothing to draw (or there is no chart)."""
    return not chart or charts.chart_is_empty(chart)


@register.filter
def chart_numbers(chart: charts.Chart) -> charts.Table:
    """The figure's numbers as a table."""
    return charts.chart_table(chart)


@register.simple_tag
def chart_json(chart: charts.Chart) -> SafeString:
    """The plotly figure for a `<script type="application/json">`; `<`, `>` and `&` cannot end it."""
    return json_script_text(charts.plotly_figure(chart))


def json_script_text(value: object) -> SafeString:
    """JSON that is safe inside a script element of a data type."""
    text = json.dumps(value, separators=(",", ":"), default=str)
    text = text.replace("<", "\\u003C").replace(">", "\\u003E").replace("&", "\\u0026")
    return mark_safe(text)  # noqa: S308 - escaped above


@register.simple_tag
def interval_drawing(**kwargs: Any) -> SafeString:
    """`{% interval_drawing value=… low=… high=… domain=… reference=… margin=… verdict=… %}` as inline SVG."""

    def real(raw: Any) -> Any:
        return None if raw in ("", None) else float(raw)

    for name in ("value", "low", "high", "reference", "margin"):
        kwargs[name] = real(kwargs.get(name))
    domain = kwargs.get("domain") or None
    kwargs["domain"] = (float(domain[0]), float(domain[1])) if domain else None
    return mark_safe(charts.interval_svg(**kwargs))  # noqa: S308 - charts.py escapes all text


@register.simple_tag
def sparkline_drawing(values: Any, label: str = "", colour: str = "accent") -> SafeString:
    """A sparkline as inline SVG."""
    return mark_safe(charts.sparkline_svg(list(values or []), label=label, colour=colour or "accent"))  # noqa: S308


@register.simple_tag
def word_diff(before: Any, after: Any) -> list[diffs.Piece]:
    """Pieces of a word diff."""
    return diffs.diff_words(str(before or ""), str(after or ""))


@register.simple_tag
def structure_diff(before: Any, after: Any) -> list[diffs.Change]:
    """Changed paths of two structures."""
    return diffs.diff_structures(before or {}, after or {})


@register.simple_tag(takes_context=True)
def url_with(context: template.Context, **changes: Any) -> str:
    """The current address with query parameters set; None or "" removes one. Dots in names are written
    `__`."""
    request = context.get("request")
    if request is None:
        return "?"
    query = request.GET.copy()
    for name, value in changes.items():
        if value in (None, ""):
            query.pop(name, None)
        else:
            query[name] = str(value)
    encoded = query.urlencode()
    return f"?{encoded}" if encoded else request.path


@register.filter
def pretty_json(value: Any) -> str:
    """Indented JSON; text is passed through."""
    if isinstance(value, str):
        return value
    return json.dumps(value, indent=2, ensure_ascii=False, default=str, sort_keys=isinstance(value, Mapping))


@register.filter
def css_string(value: Any) -> SafeString:
    """A CSS string literal, for `content:` of a PDF's running header."""
    return mark_safe(_css_string(str(value or "")))  # noqa: S308 - everything but plain text is escaped


@register.filter
def is_input(bound_field: Any, kinds: str) -> bool:
    """Whether a form field's widget is one of these kinds: `{% if field|is_input:"checkbox" %}`."""
    return getattr(bound_field.field.widget, "input_type", "") in kinds.split(",")


@register.filter
def lookup(mapping: Any, key: Any) -> Any:
    """`mapping[key]` or an empty string."""
    try:
        return mapping[key]
    except (KeyError, IndexError, TypeError):
        return ""


@register.simple_tag
def asset(path: str) -> str:
    """Address of a static file, marked with the version so that a deploy is seen at once."""
    from core.ui.context import asset_version

    return f"{static(path)}?v={asset_version(path)}"


@register.filter
def as_text(value: Any) -> str:
    """Escaped text of anything; an en dash for None."""
    return numbers.MISSING if value is None else escape(str(value))


@register.simple_tag
def plotly_style_id() -> str:
    """See `core.ui.finders.plotly_style_id`."""
    return finders.plotly_style_id()
