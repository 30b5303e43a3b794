"""Charts from plain data: the same dataclass gives the plotly figure, the vector drawing and the table.

A page places the drawing and its script replaces it with the interactive figure; a PDF embeds the drawing.
So paper and screen cannot disagree. Rules kept here rather than at each call: bars start at zero, units
stand on the axes, intervals are drawn, at most five series, series are labelled where they are and not in a
legend.

Colours in figures for the browser are token names such as `"@accent"`, which `static/js/signoff.js`
replaces by the value of the theme in force; `theme="light"` or `"dark"` puts the colour itself.
"""

from __future__ import annotations

import bisect
import copy
import itertools
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from core.ui.numbers import decimals_for, format_plain, is_number, round_half_even
from core.ui.tokens import SERIES, Theme, palette
from core.ui.verdicts import verdict_look

MAX_SERIES: Final = 5
HEIGHT_PX: Final = 288
ROW_PX: Final = 40
FONT: Final = 'system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif'


class ChartError(ValueError):
    """A chart was asked for that would mislead or cannot be drawn."""


@dataclass(frozen=True)
class Provenance:
    """What the caption under a figure must say. Empty parts are left out."""

    n: int | None = None
    interval: str = ""
    source: str = ""

    def __str__(self) -> str:
        parts = [
            f"n = {format_plain(self.n, 0)}" if self.n is not None else "",
            self.interval,
            f"Source: {self.source}" if self.source else "",
        ]
        return " · ".join(part for part in parts if part)


@dataclass(frozen=True)
class IntervalRow:
    """One estimate with its interval, in the unit of the chart. `value` None draws the label with "no
    value"."""

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    verdict: str = ""
    n: int | None = None


@dataclass(frozen=True)
class IntervalChart:
    """Estimates with intervals, one per row, around a reference line and an optional margin line.

    `reference` is where "no difference" lies (0 for differences, None for none); `margin` is the declared
    bound.
    """

    title: str
    rows: Sequence[IntervalRow]
    unit: str = ""
    reference: float | None = 0.0
    margin: float | None = None
    margin_label: str = "margin"
    provenance: Provenance = Provenance()


@dataclass(frozen=True)
class Sample:
    """Raw values of one series, in the unit of the chart; non-finite values are dropped and counted out."""

    name: str
    values: Sequence[float]
    token: str = ""


@dataclass(frozen=True)
class Histogram:
    """How the values of up to five samples are spread, in shared bins, as shares of each sample."""

    title: str
    samples: Sequence[Sample]
    unit: str = ""
    bins: int = 24
    provenance: Provenance = Provenance()


@dataclass(frozen=True)
class Ecdf:
    """Share of values at or below x, one step line per sample: the honest picture of a latency tail."""

    title: str
    samples: Sequence[Sample]
    unit: str = ""
    provenance: Provenance = Provenance()


@dataclass(frozen=True)
class Line:
    """One series of (x, y), x ascending; `low` and `high` draw the band of its interval when given."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    token: str = ""


@dataclass(frozen=True)
class LineChart:
    """Up to five lines. `zero` starts the y axis at zero."""

    title: str
    lines: Sequence[Line]
    x_label: str = ""
    y_label: str = ""
    zero: bool = False
    bound: float | None = None
    bound_label: str = ""
    provenance: Provenance = Provenance()


@dataclass(frozen=True)
class Bar:
    """One bar from zero with an optional interval."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    token: str = ""


@dataclass(frozen=True)
class BarChart:
    """Horizontal bars from zero."""

    title: str
    bars: Sequence[Bar]
    unit: str = ""
    provenance: Provenance = Provenance()


Chart = IntervalChart | Histogram | Ecdf | LineChart | BarChart


@dataclass(frozen=True)
class Table:
    """The numbers of a figure: one header per column, all cells as text."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


# ---------------------------------------------------------------------------------------------- numbers


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers inside [low, high], ascending; a single point is widened first."""
    if not (is_number(low) and is_number(high)):
        raise ChartError(f"An axis needs finite ends, got {low} and {high}.")
    if low > high:
        low, high = high, low
    if low == high:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / max(1, count)
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """A tick with just the decimals that tell neighbouring ticks apart."""
    if len(ticks) < 2:
        return format_plain(value)
    step = min(b - a for a, b in itertools.pairwise(ticks))
    places = max(0, -math.floor(math.log10(step) + 1e-9)) if step else 0
    if places and not math.isclose(step * 10**places, round(step * 10**places), abs_tol=1e-9):
        places += 1
    return round_half_even(value, places)


def ecdf_points(values: Sequence[float], limit: int = 240) -> tuple[list[float], list[float]]:
    """Sorted x and share at or below it, thinned to at most `limit` points keeping both ends."""
    ordered = sorted(v for v in values if is_number(v))
    n = len(ordered)
    if n == 0:
        return [], []
    picks = range(n) if n <= limit else sorted({round(i * (n - 1) / (limit - 1)) for i in range(limit)})
    return [ordered[i] for i in picks], [(i + 1) / n for i in picks]


def histogram_bins(samples: Sequence[Sample], bins: int) -> tuple[list[float], list[list[float]]]:
    """Shared edges (bins + 1) and, per sample, the share of its finite values in each bin (sums to 1)."""
    if bins < 1:
        raise ChartError(f"A histogram needs at least one bin, got {bins}.")
    finite = [[float(v) for v in sample.values if is_number(v)] for sample in samples]
    everything = [v for values in finite for v in values]
    if not everything:
        return [], [[] for _ in samples]
    low, high = min(everything), max(everything)
    if low == high:
        pad = abs(low) * 0.05 or 0.5
        low, high = low - pad, high + pad
    edges = [low + (high - low) * i / bins for i in range(bins + 1)]
    shares: list[list[float]] = []
    for values in finite:
        counts = [0] * bins
        for value in values:
            counts[min(bins - 1, max(0, bisect.bisect_right(edges, value) - 1))] += 1
        shares.append([c / len(values) if values else 0.0 for c in counts])
    return edges, shares


def _with_unit(label: str, unit: str) -> str:
    unit = "" if unit in {"share", "ratio"} else unit
    return f"{label} ({unit})" if unit and label else label or unit


def _check(count: int) -> None:
    if count > MAX_SERIES:
        raise ChartError(f"A figure shows at most {MAX_SERIES} series, got {count}. Choose or split.")


def _tokens(items: Sequence[Sample | Line]) -> list[str]:
    return [item.token or SERIES[i % len(SERIES)] for i, item in enumerate(items)]


def chart_is_empty(chart: Chart) -> bool:
    """True when there is nothing to draw: no rows, or no finite value in any series."""
    match chart:
        case IntervalChart():
            return not any(row.value is not None and is_number(row.value) for row in chart.rows)
        case BarChart():
            return not chart.bars
        case LineChart():
            return not any(is_number(y) for line in chart.lines for y in line.y)
        case _:
            return not any(is_number(v) for sample in chart.samples for v in sample.values)


# ------------------------------------------------------------------------------------------------ table


def chart_table(chart: Chart) -> Table:
    """The figure as a table. Distributions give n and percentiles, not every raw value."""
    match chart:
        case IntervalChart():

            def cells(row: IntervalRow) -> tuple[str, ...]:
                places = None if row.value is None else decimals_for(row.value, row.low, row.high)
                return (
                    row.label,
                    format_plain(row.value, places),
                    format_plain(row.low, places),
                    format_plain(row.high, places),
                    format_plain(row.n, 0),
                    verdict_look(row.verdict).word if row.verdict else "",
                )

            head = ("", _with_unit("Value", chart.unit), "Low", "High", "n", "Verdict")
            return Table(head, tuple(cells(row) for row in chart.rows))
        case BarChart():
            return Table(
                ("", _with_unit("Value", chart.unit), "Low", "High"),
                tuple(
                    (b.label, format_plain(b.value), format_plain(b.low), format_plain(b.high))
                    for b in chart.bars
                ),
            )
        case LineChart():
            rows = []
            for line in chart.lines:
                low = line.low or [None] * len(line.x)  # type: ignore[list-item]
                high = line.high or [None] * len(line.x)  # type: ignore[list-item]
                rows += [
                    (line.name, format_plain(x), format_plain(y), format_plain(a), format_plain(b))
                    for x, y, a, b in zip(line.x, line.y, low, high, strict=True)
                ]
            return Table(("Series", chart.x_label or "x", chart.y_label or "y", "Low", "High"), tuple(rows))
        case _:
            shares = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
            out = []
            for sample in chart.samples:
                ordered = sorted(v for v in sample.values if is_number(v))
                cells_ = [
                    format_plain(ordered[max(0, math.ceil(q * len(ordered)) - 1)]) if ordered else "–"
                    for q in shares
                ]
                out.append((sample.name, format_plain(len(ordered), 0), *cells_))
            percent = tuple(_with_unit(f"p{int(q * 100)}", chart.unit) for q in shares)
            return Table(("Series", "n", *percent), tuple(out))


# ----------------------------------------------------------------------------------------------- plotly


def plotly_figure(chart: Chart, theme: Theme | None = None) -> dict[str, Any]:
    """`{"data": [...], "layout": {...}}` for plotly.js.

    Args:
        theme: None leaves token names ("@accent") for the browser's theme; "light" or "dark" puts colours.
    Raises:
        ChartError: more than five series, or nothing finite to draw.
    """
    if chart_is_empty(chart):
        raise ChartError("There is nothing to draw. Show the empty state instead.")
    data: list[dict[str, Any]] = []
    layout = _layout()
    match chart:
        case IntervalChart():
            _plotly_intervals(chart, data, layout)
        case BarChart():
            _plotly_bars(chart, data, layout)
        case LineChart():
            _plotly_lines(chart, data, layout)
        case Histogram():
            _plotly_histogram(chart, data, layout)
        case Ecdf():
            _plotly_ecdf(chart, data, layout)
    figure = {"data": data, "layout": layout}
    return figure if theme is None else _with_colours(figure, palette(theme))


def _with_colours(node: Any, colours: dict[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _with_colours(value, colours) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_colours(value, colours) for value in node]
    if isinstance(node, str) and re.fullmatch(r"@[a-z0-9-]+", node):
        return colours[node[1:]]
    return node


def _layout() -> dict[str, Any]:
    axis = {
        "gridcolor": "@line",
        "linecolor": "@line-strong",
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": "@line-strong",
        "automargin": True,
        "fixedrange": False,
        "title": {"text": "", "standoff": 8},
        # No SI prefixes on money or shares: 0.0004 USD, not 400µ.
        "exponentformat": "none",
    }
    return {
        "height": HEIGHT_PX,
        "margin": {"l": 56, "r": 24, "t": 16, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 12, "color": "@text-2"},
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "@surface-1", "bordercolor": "@line-strong", "font": {"color": "@text-1"}},
        "dragmode": False,
        "xaxis": copy.deepcopy(axis) | {"tickangle": 0, "nticks": 6},
        "yaxis": copy.deepcopy(axis),
        "shapes": [],
        "annotations": [],
    }


def _plotly_intervals(chart: IntervalChart, data: list[dict[str, Any]], layout: dict[str, Any]) -> None:
    count = len(chart.rows)
    for i, row in enumerate(chart.rows):
        if row.value is None or not is_number(row.value):
            layout["annotations"].append(
                {
                    "x": 0.01,
                    "y": count - 1 - i,
                    "xref": "paper",
                    "yref": "y",
                    "xanchor": "left",
                    "text": "no value",
                    "showarrow": False,
                    "font": {"color": "@text-3", "size": 12},
                }
            )
            continue
        colour = f"@{verdict_look(row.verdict).token}" if row.verdict else "@accent"
        trace: dict[str, Any] = {
            "type": "scatter",
            "mode": "markers",
            "x": [row.value],
            "y": [count - 1 - i],
            "name": escape(row.label),
            "marker": {"color": colour, "size": 9},
            "hovertemplate": f"{escape(row.label)}: %{{x}}<extra></extra>",
        }
        if row.low is not None and row.high is not None:
            trace["error_x"] = {
                "type": "data",
                "symmetric": False,
                "array": [row.high - row.value],
                "arrayminus": [row.value - row.low],
                "color": colour,
                "thickness": 2,
                "width": 5,
            }
        data.append(trace)
    layout["height"] = max(120, 72 + ROW_PX * count)
    layout["xaxis"]["title"]["text"] = chart.unit if chart.unit not in {"share", "ratio"} else ""
    layout["yaxis"].update(
        tickmode="array",
        tickvals=[count - 1 - i for i in range(count)],
        ticktext=["<br>".join(escape(line) for line in _wrapped(row.label)) for row in chart.rows],
        range=[-0.6, count - 0.4],
        showgrid=False,
        ticks="",
        fixedrange=True,
    )
    for at, dash, text in _guides(chart):
        layout["shapes"].append(
            {
                "type": "line",
                "xref": "x",
                "yref": "paper",
                "x0": at,
                "x1": at,
                "y0": 0,
                "y1": 1,
                "line": {"color": "@text-3" if dash == "solid" else "@fail", "width": 1, "dash": dash},
            }
        )
        if text:
            layout["annotations"].append(
                {
                    "x": at,
                    "y": 1,
                    "xref": "x",
                    "yref": "paper",
                    "text": escape(text),
                    "showarrow": False,
                    "yanchor": "bottom",
                    "font": {"size": 12, "color": "@fail"},
                }
            )
    layout["margin"]["t"] = 24
    low, high = _interval_range(chart)
    layout["xaxis"]["range"] = [low, high]


def _guides(chart: IntervalChart) -> list[tuple[float, str, str]]:
    guides: list[tuple[float, str, str]] = []
    if chart.reference is not None:
        guides.append((chart.reference, "solid", ""))
    if chart.margin is not None:
        guides.append((chart.margin, "dash", chart.margin_label))
    return guides


def _interval_range(chart: IntervalChart) -> tuple[float, float]:
    marks = [
        m for row in chart.rows for m in (row.value, row.low, row.high) if m is not None and is_number(m)
    ]
    marks += [at for at, _, _ in _guides(chart)]
    low, high = min(marks), max(marks)
    pad = (high - low) * 0.08 or abs(low) * 0.1 or 1.0
    return low - pad, high + pad


def _plotly_bars(chart: BarChart, data: list[dict[str, Any]], layout: dict[str, Any]) -> None:
    bars = list(reversed(chart.bars))
    trace: dict[str, Any] = {
        "type": "bar",
        "orientation": "h",
        "y": ["<br>".join(escape(line) for line in _wrapped(b.label)) for b in bars],
        "x": [b.value for b in bars],
        "marker": {"color": [f"@{b.token or 'accent'}" for b in bars]},
        "hovertemplate": "%{y}: %{x}<extra></extra>",
    }
    if any(b.low is not None and b.high is not None for b in bars):
        trace["error_x"] = {
            "type": "data",
            "symmetric": False,
            "color": "@text-1",
            "thickness": 1.5,
            "width": 4,
            "array": [(b.high - b.value) if b.high is not None else 0 for b in bars],
            "arrayminus": [(b.value - b.low) if b.low is not None else 0 for b in bars],
        }
    data.append(trace)
    layout["height"] = max(120, 72 + ROW_PX * len(bars))
    layout["bargap"] = 0.4
    layout["xaxis"].update(rangemode="tozero")
    layout["xaxis"]["title"]["text"] = chart.unit
    layout["yaxis"].update(showgrid=False, ticks="", fixedrange=True)


def _label(x: float, y: float, text: str, token: str) -> dict[str, Any]:
    return {
        "x": x,
        "y": y,
        "text": escape(text),
        "showarrow": False,
        "xanchor": "left",
        "xshift": 6,
        "font": {"color": f"@{token}", "size": 12},
    }


def _key(names: Sequence[str], tokens: Sequence[str], *, top: bool) -> list[dict[str, Any]]:
    """Names in the colour of their curve, stacked in the corner that the curves of a distribution leave
    empty."""
    return [
        {
            "xref": "paper",
            "yref": "paper",
            "x": 0.98,
            "y": 0.98 if top else 0.04,
            "xanchor": "right",
            "showarrow": False,
            "yanchor": "top" if top else "bottom",
            "yshift": -18 * i if top else 18 * (len(names) - 1 - i),
            "text": escape(name),
            "font": {"color": f"@{token}", "size": 12},
        }
        for i, (name, token) in enumerate(zip(names, tokens, strict=True))
    ]


def _plotly_lines(chart: LineChart, data: list[dict[str, Any]], layout: dict[str, Any]) -> None:
    _check(len(chart.lines))
    for line, token in zip(chart.lines, _tokens(chart.lines), strict=True):
        x = list(line.x)
        if line.low and line.high:
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": x + x[::-1],
                    "y": list(line.high) + list(line.low)[::-1],
                    "fill": "toself",
                    "fillcolor": f"@{token}",
                    "opacity": 0.16,
                    "line": {"width": 0},
                    "hoverinfo": "skip",
                }
            )
        data.append(
            {
                "type": "scatter",
                "mode": "lines" if len(x) > 24 else "lines+markers",
                "x": x,
                "y": list(line.y),
                "name": escape(line.name),
                "line": {"color": f"@{token}", "width": 2},
                "hovertemplate": f"{escape(line.name)}: %{{y}} at %{{x}}<extra></extra>",
            }
        )
        if x:
            layout["annotations"].append(_label(x[-1], line.y[-1], line.name, token))
    layout["margin"]["r"] = 24 + 7 * max((len(line.name) for line in chart.lines), default=0)
    layout["xaxis"]["title"]["text"] = chart.x_label
    layout["yaxis"]["title"]["text"] = chart.y_label
    if chart.zero:
        layout["yaxis"]["rangemode"] = "tozero"
    if chart.bound is not None:
        layout["shapes"].append(
            {
                "type": "line",
                "xref": "paper",
                "yref": "y",
                "x0": 0,
                "x1": 1,
                "y0": chart.bound,
                "y1": chart.bound,
                "line": {"color": "@fail", "width": 1, "dash": "dash"},
            }
        )


def _plotly_histogram(chart: Histogram, data: list[dict[str, Any]], layout: dict[str, Any]) -> None:
    _check(len(chart.samples))
    edges, shares = histogram_bins(chart.samples, chart.bins)
    for sample, share, token in zip(chart.samples, shares, _tokens(chart.samples), strict=True):
        xs, ys = _outline(edges, share)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": xs,
                "y": ys,
                "name": escape(sample.name),
                "line": {"color": f"@{token}", "width": 2},
                "hovertemplate": f"{escape(sample.name)}: %{{y:.1%}}<extra></extra>",
            }
        )
    layout["annotations"] += _key([s.name for s in chart.samples], _tokens(chart.samples), top=True)
    layout["xaxis"]["title"]["text"] = chart.unit
    layout["yaxis"]["title"]["text"] = "share of items"
    layout["yaxis"].update(rangemode="tozero", tickformat=".0%")
    layout["margin"]["t"] = 24


def _outline(edges: Sequence[float], share: Sequence[float]) -> tuple[list[float], list[float]]:
    xs, ys = [edges[0]], [0.0]
    for left, right, value in zip(edges, edges[1:], share, strict=False):
        xs += [left, right]
        ys += [value, value]
    return [*xs, edges[-1]], [*ys, 0.0]


def _plotly_ecdf(chart: Ecdf, data: list[dict[str, Any]], layout: dict[str, Any]) -> None:
    _check(len(chart.samples))
    for sample, token in zip(chart.samples, _tokens(chart.samples), strict=True):
        xs, ys = ecdf_points(sample.values)
        if not xs:
            continue
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": xs,
                "y": ys,
                "name": escape(sample.name),
                "line": {"color": f"@{token}", "width": 2, "shape": "hv"},
                "hovertemplate": f"{escape(sample.name)}: %{{y:.1%}} at or below %{{x}}<extra></extra>",
            }
        )
    layout["annotations"] += _key([s.name for s in chart.samples], _tokens(chart.samples), top=False)
    layout["xaxis"]["title"]["text"] = chart.unit
    layout["yaxis"]["title"]["text"] = "share at or below"
    layout["yaxis"].update(range=[0, 1.02], tickformat=".0%")


# -------------------------------------------------------------------------------------------------- SVG


class _Drawing:
    """SVG elements with literal colours (for paper) and theme classes (for the screen). No style
    attributes."""

    def __init__(self, width: float, height: float, theme: Theme) -> None:
        self.width, self.height = width, height
        self.colours = palette(theme)
        self.parts: list[str] = []

    def _paint(self, fill: str, stroke: str) -> str:
        classes = []
        text = ""
        if fill:
            text += f' fill="{self.colours[fill]}"'
            classes.append(f"f-{fill.replace('not-run', 'not_run')}")
        else:
            text += ' fill="none"'
        if stroke:
            text += f' stroke="{self.colours[stroke]}"'
            classes.append(f"s-{stroke.replace('not-run', 'not_run')}")
        return text + (f' class="{" ".join(classes)}"' if classes else "")

    def line(
        self, x1: float, y1: float, x2: float, y2: float, stroke: str, width: float = 1, dash: str = ""
    ) -> None:
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke-width="{width}"{dashes}'
            f"{self._paint('', stroke)}/>"
        )

    def text(
        self, x: float, y: float, text: str, fill: str = "text-2", anchor: str = "start", size: int = 12
    ) -> None:
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{self._paint(fill, "")}>'
            f"{escape(text)}</text>"
        )

    def label(self, x: float, middle: float, label: str) -> None:
        """A row's label, right-aligned at x, its lines around the middle of the row."""
        lines = _wrapped(label)
        for i, line in enumerate(lines):
            self.text(x, middle + 4 + 14 * (i - (len(lines) - 1) / 2), line, "text-1", "end")

    def rect(self, x: float, y: float, w: float, h: float, fill: str) -> None:
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.0, w):.1f}" height="{h:.1f}"'
            f"{self._paint(fill, '')}/>"
        )

    def circle(self, x: float, y: float, r: float, fill: str) -> None:
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}"{self._paint(fill, "")}/>')

    def path(self, points: Sequence[tuple[float, float]], stroke: str, width: float = 2) -> None:
        d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self.parts.append(
            f'<path d="{d}" stroke-width="{width}" stroke-linejoin="round"{self._paint("", stroke)}/>'
        )

    def band(self, points: Sequence[tuple[float, float]], fill: str) -> None:
        d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z"
        self.parts.append(f'<path d="{d}" fill-opacity="0.16"{self._paint(fill, "")}/>')

    def svg(self, title: str, description: str = "", css_class: str = "chart-svg") -> str:
        about = f"<title>{escape(title)}</title>" + (
            f"<desc>{escape(description)}</desc>" if description else ""
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="{css_class}" role="img" '
            f'preserveAspectRatio="xMinYMid meet" '
            f'viewBox="0 0 {self.width:g} {self.height:g}" width="{self.width:g}" height="{self.height:g}" '
            f'font-family="{escape(FONT)}">{about}{"".join(self.parts)}</svg>'
        )


Scale = Callable[[float], float]


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _wrapped(label: str, width: int = 34) -> list[str]:
    """A row's label in at most two lines; what does not fit ends in an ellipsis (the table under it has it all)."""
    lines = textwrap.wrap(label, width) or [""]
    return (
        lines
        if len(lines) <= 2
        else [lines[0], textwrap.shorten(" ".join(lines[1:]), width, placeholder=" …")]
    )


def _text_px(text: str) -> float:
    # Good enough to reserve room: 12 px sans averages a little over half its size.
    return 6.6 * len(text)


def chart_svg(chart: Chart, theme: Theme = "light", width: int = 640) -> str:
    """The figure as one self-contained SVG element: vector, no style attribute, no script.

    Raises ChartError like `plotly_figure`.
    """
    if chart_is_empty(chart):
        raise ChartError("There is nothing to draw. Show the empty state instead.")
    match chart:
        case IntervalChart():
            return _svg_intervals(chart, theme, width)
        case BarChart():
            return _svg_bars(chart, theme, width)
        case LineChart():
            return _svg_lines(chart, theme, width)
        case Histogram():
            edges, shares = histogram_bins(chart.samples, chart.bins)
            curves = [_outline(edges, share) for share in shares]
            names = [sample.name for sample in chart.samples]
            _check(len(names))
            return _svg_curves(
                chart.title,
                curves,
                names,
                _tokens(chart.samples),
                chart.unit,
                "share of items",
                theme,
                width,
                y_range=(0.0, max((max(ys) for _, ys in curves), default=1.0) * 1.12),
                percent=True,
                label_at="top",
            )
        case Ecdf():
            _check(len(chart.samples))
            curves = [_steps(*ecdf_points(sample.values)) for sample in chart.samples]
            return _svg_curves(
                chart.title,
                curves,
                [s.name for s in chart.samples],
                _tokens(chart.samples),
                chart.unit,
                "share at or below",
                theme,
                width,
                y_range=(0.0, 1.02),
                percent=True,
                label_at="bottom",
            )


def _steps(xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
    out_x: list[float] = []
    out_y: list[float] = []
    previous = 0.0
    for x, y in zip(xs, ys, strict=True):
        out_x += [x, x]
        out_y += [previous, y]
        previous = y
    return out_x, out_y


def _svg_intervals(chart: IntervalChart, theme: Theme, width: int) -> str:
    left = min(width * 0.45, 16 + max(_text_px(line) for row in chart.rows for line in _wrapped(row.label)))
    top, bottom = 24.0, 44.0
    height = top + bottom + ROW_PX * len(chart.rows)
    drawing = _Drawing(width, height, theme)
    low, high = _interval_range(chart)
    x = _scale(low, high, left, width - 24)
    base = height - bottom
    ticks = nice_ticks(low, high)
    for tick in ticks:
        drawing.line(x(tick), top, x(tick), base, "line")
        drawing.text(x(tick), base + 16, tick_text(tick, ticks), "text-3", "middle")
    if chart.unit and chart.unit not in {"share", "ratio"}:
        drawing.text((left + width - 24) / 2, height - 8, chart.unit, "text-2", "middle")
    for at, dash, text in _guides(chart):
        drawing.line(
            x(at),
            top,
            x(at),
            base,
            "text-3" if dash == "solid" else "fail",
            1,
            "" if dash == "solid" else "4 3",
        )
        if text:
            drawing.text(x(at), top - 8, text, "fail", "middle")
    for i, row in enumerate(chart.rows):
        y = top + ROW_PX * (i + 0.5)
        drawing.label(left - 12, y, row.label)
        if row.value is None or not is_number(row.value):
            drawing.text(left + 4, y + 4, "no value", "text-3")
            continue
        token = verdict_look(row.verdict).token if row.verdict else "accent"
        if row.low is not None and row.high is not None:
            drawing.line(x(row.low), y, x(row.high), y, token, 2)
            for end in (row.low, row.high):
                drawing.line(x(end), y - 5, x(end), y + 5, token, 2)
        drawing.circle(x(row.value), y, 4.5, token)
    return drawing.svg(chart.title, str(chart.provenance))


def _svg_bars(chart: BarChart, theme: Theme, width: int) -> str:
    left = min(width * 0.45, 16 + max(_text_px(line) for bar in chart.bars for line in _wrapped(bar.label)))
    top, bottom = 8.0, 44.0
    height = top + bottom + ROW_PX * len(chart.bars)
    drawing = _Drawing(width, height, theme)
    marks = [
        m for bar in chart.bars for m in (bar.value, bar.low, bar.high) if m is not None and is_number(m)
    ]
    low, high = min(0.0, *marks), max(0.0, *marks)
    if low == high:
        high = 1.0
    x = _scale(low, high + (high - low) * 0.04, left, width - 24)
    base = height - bottom
    ticks = nice_ticks(low, high)
    for tick in ticks:
        drawing.line(x(tick), top, x(tick), base, "line")
        drawing.text(x(tick), base + 16, tick_text(tick, ticks), "text-3", "middle")
    drawing.text((left + width - 24) / 2, height - 8, chart.unit, "text-2", "middle")
    for i, bar in enumerate(chart.bars):
        y = top + ROW_PX * (i + 0.5)
        start, end = sorted((x(0), x(bar.value)))
        drawing.label(left - 12, y, bar.label)
        drawing.rect(start, y - 10, end - start, 20, bar.token or "accent")
        if bar.low is not None and bar.high is not None:
            drawing.line(x(bar.low), y, x(bar.high), y, "text-1", 1.5)
            for tip in (bar.low, bar.high):
                drawing.line(x(tip), y - 4, x(tip), y + 4, "text-1", 1.5)
    return drawing.svg(chart.title, str(chart.provenance))


def _svg_lines(chart: LineChart, theme: Theme, width: int) -> str:
    _check(len(chart.lines))
    curves = [(list(line.x), list(line.y)) for line in chart.lines]
    marks = [v for line in chart.lines for v in (*line.y, *line.low, *line.high) if is_number(v)]
    if chart.bound is not None:
        marks.append(chart.bound)
    low, high = min(marks), max(marks)
    pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    y_range = (min(0.0, low) if chart.zero else low - pad, high + pad)
    return _svg_curves(
        chart.title,
        curves,
        [line.name for line in chart.lines],
        _tokens(chart.lines),
        chart.x_label,
        chart.y_label,
        theme,
        width,
        y_range=y_range,
        percent=False,
        label_at="end",
        bands=[(line.low, line.high) for line in chart.lines],
        bound=chart.bound,
        bound_label=chart.bound_label,
    )


def _svg_curves(
    title: str,
    curves: Sequence[tuple[Sequence[float], Sequence[float]]],
    names: Sequence[str],
    tokens: Sequence[str],
    x_label: str,
    y_label: str,
    theme: Theme,
    width: int,
    *,
    y_range: tuple[float, float],
    percent: bool,
    label_at: str,
    bands: Sequence[tuple[Sequence[float], Sequence[float]]] = (),
    bound: float | None = None,
    bound_label: str = "",
) -> str:
    height = HEIGHT_PX
    left, top, bottom = 56.0, 20.0, 44.0
    right = 24.0 + (max((_text_px(name) for name in names), default=0) if label_at == "end" else 0)
    drawing = _Drawing(width, height, theme)
    all_x = [value for xs, _ in curves for value in xs if is_number(value)]
    x_low, x_high = min(all_x), max(all_x)
    if x_low == x_high:
        x_low, x_high = x_low - 0.5, x_high + 0.5
    x = _scale(x_low, x_high, left, width - right)
    y = _scale(*y_range, height - bottom, top)
    ticks = nice_ticks(*y_range)
    for tick in ticks:
        drawing.line(left, y(tick), width - right, y(tick), "line")
        words = (
            f"{round_half_even(tick * 100, 0 if (ticks[1] - ticks[0]) >= 0.00999 else 1)} %"
            if percent
            else tick_text(tick, ticks)
        )
        drawing.text(left - 8, y(tick) + 4, words, "text-3", "end")
    x_ticks = nice_ticks(x_low, x_high, 6)
    for tick in x_ticks:
        drawing.line(x(tick), height - bottom, x(tick), height - bottom + 4, "line-strong")
        drawing.text(x(tick), height - bottom + 18, tick_text(tick, x_ticks), "text-3", "middle")
    drawing.line(left, height - bottom, width - right, height - bottom, "line-strong")
    drawing.text((left + width - right) / 2, height - 6, x_label, "text-2", "middle")
    drawing.text(4, 12, y_label, "text-2")
    if bound is not None:
        drawing.line(left, y(bound), width - right, y(bound), "fail", 1, "4 3")
        if bound_label:
            drawing.text(left + 4, y(bound) - 5, bound_label, "fail")
    for i, ((xs, ys), name, token) in enumerate(zip(curves, names, tokens, strict=True)):
        if not xs:
            continue
        if i < len(bands) and bands[i][0] and bands[i][1]:
            low, high = bands[i]
            ring = [(x(a), y(b)) for a, b in zip(xs, high, strict=True)]
            ring += [(x(a), y(b)) for a, b in reversed(list(zip(xs, low, strict=True)))]
            drawing.band(ring, token)
        drawing.path([(x(a), y(b)) for a, b in zip(xs, ys, strict=True)], token)
        if label_at == "end":
            drawing.text(x(xs[-1]) + 6, y(ys[-1]) + 4, name, token)
        elif label_at == "top":
            drawing.text(width - right - 4, top + 14 + 18 * i, name, token, "end")
        else:
            drawing.text(
                width - right - 4, height - bottom - 10 - 18 * (len(names) - 1 - i), name, token, "end"
            )
    return drawing.svg(title)


# ------------------------------------------------------------------------------------- small drawings


def interval_svg(
    value: float | None,
    low: float | None,
    high: float | None,
    *,
    domain: tuple[float, float] | None = None,
    reference: float | None = 0.0,
    margin: float | None = None,
    verdict: str = "",
    label: str = "",
    theme: Theme = "light",
    width: int = 240,
    height: int = 32,
) -> str:
    """One estimate with its interval around a reference line and a dashed margin line; for a table row.

    Args:
        domain: ends of the shared axis, so that rows can be compared; None fits this row alone.
        margin: declared bound; the side beyond it, away from the reference, is tinted.
    """
    marks = [m for m in (value, low, high, reference, margin) if m is not None and is_number(m)]
    drawing = _Drawing(width, height, theme)
    middle = height / 2
    if not marks or value is None or not is_number(value):
        drawing.text(4, middle + 4, "no value", "text-3")
        return drawing.svg(label or "No value", css_class="interval-plot")
    if domain is None:
        pad = (max(marks) - min(marks)) * 0.1 or abs(marks[0]) * 0.1 or 1.0
        domain = (min(marks) - pad, max(marks) + pad)
    scale = _scale(domain[0], domain[1], 6, width - 6)

    def x(at: float) -> float:
        # An interval that leaves the shared axis is cut at its edge, not drawn outside the picture.
        return min(width - 2.0, max(2.0, scale(at)))

    if margin is not None:
        beyond = margin < reference if reference is not None else True
        start, end = (0.0, x(margin)) if beyond else (x(margin), float(width))
        drawing.rect(start, 2, end - start, height - 4, "fail-soft")
    drawing.line(6, middle, width - 6, middle, "line")
    if reference is not None:
        drawing.line(x(reference), 2, x(reference), height - 2, "text-3")
    if margin is not None:
        drawing.line(x(margin), 2, x(margin), height - 2, "fail", 1, "3 2")
    token = verdict_look(verdict).token if verdict else "accent"
    if low is not None and high is not None:
        drawing.line(x(low), middle, x(high), middle, token, 2.5)
        for end in (low, high):
            drawing.line(x(end), middle - 5, x(end), middle + 5, token, 2)
    drawing.circle(x(value), middle, 4.5, token)
    return drawing.svg(label or f"{value} [{low}, {high}]", css_class="interval-plot")


def sparkline_svg(
    values: Sequence[float],
    *,
    label: str = "",
    colour: str = "accent",
    theme: Theme = "light",
    width: int = 96,
    height: int = 24,
) -> str:
    """The course of a few values without axes; the last one is marked. Non-finite values are left out."""
    points = [float(v) for v in values if is_number(v)]
    drawing = _Drawing(width, height, theme)
    if points:
        low, high = min(points), max(points)
        x = _scale(0, max(1, len(points) - 1), 3, width - 4)
        y = _scale(low, high, height - 4, 4) if high > low else (lambda _value: height / 2)
        if len(points) > 1:
            drawing.path([(x(i), y(v)) for i, v in enumerate(points)], colour, 1.5)
        drawing.circle(x(len(points) - 1), y(points[-1]), 2.5, colour)
    text = label or (f"{len(points)} values, last {format_plain(points[-1])}" if points else "No values")
    return drawing.svg(text, css_class="spark")
