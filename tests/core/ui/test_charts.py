"""Charts: figure, drawing and table come from the same data and do not mislead."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ui import charts
from core.ui.catalogue import example_charts
from core.ui.charts import (
    Bar,
    BarChart,
    ChartError,
    Ecdf,
    Histogram,
    IntervalChart,
    IntervalRow,
    Line,
    LineChart,
    Sample,
    chart_svg,
    chart_table,
    ecdf_points,
    histogram_bins,
    interval_svg,
    nice_ticks,
    plotly_figure,
    sparkline_svg,
    tick_text,
)

EXAMPLES = example_charts()
finite = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_drawings_are_well_formed_and_need_no_style(name: str, theme) -> None:
    svg = chart_svg(EXAMPLES[name], theme)
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert not re.search(r"\s(style|on\w+)=", svg)
    assert root.find("{http://www.w3.org/2000/svg}title").text == EXAMPLES[name].title
    assert "nan" not in svg and "inf" not in svg.replace("inference", "")


@pytest.mark.parametrize("name", EXAMPLES)
def test_figures_are_json_and_carry_no_colour_of_their_own(name: str) -> None:
    text = json.dumps(plotly_figure(EXAMPLES[name]))
    assert not re.search(r'"#[0-9a-f]{3,8}"', text)
    themed = json.dumps(plotly_figure(EXAMPLES[name], "dark"))
    assert '"@' not in themed


def test_text_from_data_cannot_become_markup() -> None:
    chart = IntervalChart("<b>t</b>", [IntervalRow("<script>x</script>", 0.1, 0.0, 0.2)])
    svg = chart_svg(chart)
    assert "<script" not in svg and "<b>" not in svg
    assert "<script" not in json.dumps(plotly_figure(chart))


def test_figure_and_drawing_show_the_same_interval() -> None:
    chart = IntervalChart("d", [IntervalRow("accuracy", -0.07, -0.12, -0.02, "fail")], margin=-0.05)
    trace = plotly_figure(chart)["data"][0]
    assert trace["x"] == [-0.07]
    assert trace["x"][0] - trace["error_x"]["arrayminus"][0] == pytest.approx(-0.12)
    assert trace["x"][0] + trace["error_x"]["array"][0] == pytest.approx(-0.02)
    assert trace["marker"]["color"] == "@fail"
    assert chart_table(chart).rows == (("accuracy", "−0.070", "−0.120", "−0.020", "–", "Fail"),)


def test_bars_start_at_zero() -> None:
    chart = BarChart("cost", [Bar("a", 0.004), Bar("b", 0.0041)], unit="USD")
    assert plotly_figure(chart)["layout"]["xaxis"]["rangemode"] == "tozero"
    widths = [float(w) for w in re.findall(r'<rect [^>]*width="([\d.]+)"', chart_svg(chart))]
    assert widths[0] / widths[1] == pytest.approx(0.004 / 0.0041, rel=0.01)


@pytest.mark.parametrize(
    "chart",
    [
        Histogram("h", [Sample(str(i), [1.0, 2.0]) for i in range(6)]),
        Ecdf("e", [Sample(str(i), [1.0, 2.0]) for i in range(6)]),
        LineChart("l", [Line(str(i), [1, 2], [1, 2]) for i in range(6)]),
    ],
)
def test_more_than_five_series_are_refused(chart) -> None:
    with pytest.raises(ChartError, match="at most 5"):
        plotly_figure(chart)
    with pytest.raises(ChartError, match="at most 5"):
        chart_svg(chart)


@pytest.mark.parametrize(
    "chart",
    [
        IntervalChart("i", []),
        IntervalChart("i", [IntervalRow("a", None)]),
        Histogram("h", [Sample("a", [])]),
        Ecdf("e", [Sample("a", [float("nan")])]),
        LineChart("l", []),
        BarChart("b", []),
    ],
)
def test_nothing_to_draw_is_said_and_not_drawn(chart) -> None:
    assert charts.chart_is_empty(chart)
    with pytest.raises(ChartError, match="nothing to draw"):
        chart_svg(chart)
    with pytest.raises(ChartError, match="nothing to draw"):
        plotly_figure(chart)


@given(st.lists(finite, min_size=1, max_size=60), st.integers(1, 40))
def test_histogram_shares_sum_to_one_and_bins_cover_all(values: list[float], bins: int) -> None:
    edges, shares = histogram_bins([Sample("a", values)], bins)
    assert len(edges) == bins + 1 and len(shares[0]) == bins
    assert sum(shares[0]) == pytest.approx(1)
    slack = 1e-9 * max(abs(value) for value in values)
    assert edges[0] <= min(values) + slack and edges[-1] >= max(values) - slack


@given(st.lists(finite, min_size=1, max_size=400))
def test_ecdf_agrees_with_its_definition(values: list[float]) -> None:
    xs, ys = ecdf_points(values)
    assert ys[-1] == 1 and xs == sorted(xs) and len(xs) <= 240
    for x, y in list(zip(xs, ys, strict=True))[:: max(1, len(xs) // 8)]:
        # With ties the points climb at one x; the last of them is the share at or below it.
        assert y <= sum(v <= x for v in values) / len(values) + 1e-9
        assert y > sum(v < x for v in values) / len(values) - 1e-9


@given(finite, finite)
def test_ticks_are_round_and_inside(first: float, second: float) -> None:
    low, high = min(first, second), max(first, second)
    ticks = nice_ticks(low, high)
    assert ticks == sorted(ticks)
    assert len(ticks) <= 12
    if high - low > 1e-6:
        assert len(ticks) >= 2
        assert all(
            low - (high - low) * 1e-6 - 1e-9 <= tick <= high + (high - low) * 1e-6 + 1e-9 for tick in ticks
        )


def test_ticks_by_hand() -> None:
    assert nice_ticks(0, 1) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert nice_ticks(-0.15, 0.08) == [-0.15, -0.1, -0.05, 0.0, 0.05]
    assert [tick_text(t, [0.0, 0.25, 0.5]) for t in (0.0, 0.25, 0.5)] == ["0.00", "0.25", "0.50"]


def test_an_interval_leaving_the_shared_axis_is_cut_at_its_edge() -> None:
    svg = interval_svg(0.5, -5.0, 5.0, domain=(-1.0, 1.0), margin=-0.2, verdict="inconclusive", width=240)
    xs = [float(x) for x in re.findall(r'x[12]="(-?[\d.]+)"', svg)]
    assert min(xs) >= 0 and max(xs) <= 240


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0, 2.0], [1.0, float("nan"), 3.0]])
def test_sparklines_draw_any_series(values: list[float]) -> None:
    ElementTree.fromstring(sparkline_svg(values))


def test_a_missing_estimate_says_so() -> None:
    assert "no value" in interval_svg(None, None, None)
    assert "no value" in chart_svg(
        IntervalChart("i", [IntervalRow("a", 0.1, 0, 0.2), IntervalRow("b", None)])
    )


def test_long_labels_are_wrapped_inside_the_drawing() -> None:
    long = (
        "NLL of the gold answer on questions, slice length:long, not worse than that of the baseline release"
    )
    svg = chart_svg(IntervalChart("i", [IntervalRow(long, 0.1, 0, 0.2)]))
    starts = [
        float(x) - 6.6 * len(text)
        for x, text in re.findall(r'<text x="([\d.]+)"[^>]*text-anchor="end"[^>]*>([^<]+)<', svg)
    ]
    assert len(starts) == 2 and min(starts) >= 0
    assert "…" in svg and chart_table(IntervalChart("i", [IntervalRow(long, 0.1, 0, 0.2)])).rows[0][0] == long
