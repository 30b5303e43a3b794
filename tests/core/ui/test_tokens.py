"""Colours: the stylesheet and Python agree, and every pair people read has enough contrast."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.conf import settings

from core.ui.tokens import DARK, LIGHT, contrast, palette

CSS = (Path(settings.BASE_DIR) / "static" / "css" / "signoff.css").read_text()
VERDICT_TOKENS = ["pass", "fail", "inconclusive", "not-run", "stale"]
TEXT_PAIRS = [
    *[
        (text, surface)
        for text in ("text-1", "text-2", "text-3", "accent")
        for surface in ("surface-0", "surface-1", "surface-2")
    ],
    *[(token, f"{token}-soft") for token in VERDICT_TOKENS],
    *[(token, surface) for token in VERDICT_TOKENS for surface in ("surface-0", "surface-1")],
    ("on-accent", "accent"),
    ("accent", "accent-soft"),
    ("text-1", "accent-soft"),
    ("text-1", "pass-soft"),
    ("text-1", "fail-soft"),
]
GRAPHIC_PAIRS = [("line-strong", "surface-1"), ("line-strong", "surface-0"), ("text-3", "fail-soft")]


def css_tokens(selector: str) -> dict[str, str]:
    block = CSS[CSS.index(selector) :]
    block = block[: block.index("}")]
    return dict(re.findall(r"--([a-z0-9-]+):\s*(#[0-9a-f]{6});", block))


@pytest.mark.parametrize(
    ("selector", "tokens"),
    [(":root {", LIGHT), (':root[data-theme="dark"] {', DARK), (':root[data-theme="auto"] {', DARK)],
)
def test_stylesheet_and_python_hold_the_same_colours(selector: str, tokens: dict[str, str]) -> None:
    assert css_tokens(selector) == tokens


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("front", "back"), TEXT_PAIRS)
def test_text_has_a_contrast_of_at_least_four_and_a_half(theme, front: str, back: str) -> None:
    colours = palette(theme)
    assert contrast(colours[front], colours[back]) >= 4.5


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("front", "back"), GRAPHIC_PAIRS)
def test_graphics_have_a_contrast_of_at_least_three(theme, front: str, back: str) -> None:
    colours = palette(theme)
    assert contrast(colours[front], colours[back]) >= 3


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("#000000", "#ffffff", 21.0), ("#777777", "#ffffff", 4.48), ("#abcdef", "#abcdef", 1.0)],
)
def test_contrast_agrees_with_known_values(first: str, second: str, expected: float) -> None:
    assert contrast(first, second) == pytest.approx(expected, abs=0.005)


def test_no_rule_moves_longer_than_the_limit() -> None:
    durations = [float(value) for value in re.findall(r"--quick:\s*(\d+)ms", CSS)]
    assert durations and max(durations) <= 120
    assert not re.search(r"(transition|animation)[^;]*\d+m?s", CSS), "durations come from the token only"
