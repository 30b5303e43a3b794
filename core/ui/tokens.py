"""Colours of both themes for code that cannot read CSS custom properties: charts, SVG and PDFs.

`static/css/signoff.css` holds the same values for the browser; `tests/core/ui/test_tokens.py` keeps the two
equal and holds every text pair to a contrast of 4.5 to 1.
"""

from __future__ import annotations

from typing import Final, Literal

Theme = Literal["light", "dark"]

LIGHT: Final[dict[str, str]] = {
    "surface-0": "#f5f7f9",
    "surface-1": "#ffffff",
    "surface-2": "#ebeff3",
    "text-1": "#16202c",
    "text-2": "#414d5a",
    "text-3": "#586471",
    "line": "#d5dbe2",
    "line-strong": "#7b8692",
    "accent": "#1d5bb8",
    "accent-soft": "#e5eefb",
    "on-accent": "#ffffff",
    "pass": "#176b2d",
    "pass-soft": "#e2f4e7",
    "fail": "#b02a1c",
    "fail-soft": "#fde9e6",
    "inconclusive": "#825400",
    "inconclusive-soft": "#fcf0d4",
    "not-run": "#55606c",
    "not-run-soft": "#ebeff3",
    "stale": "#6438bf",
    "stale-soft": "#efe9fb",
}

DARK: Final[dict[str, str]] = {
    "surface-0": "#0f141a",
    "surface-1": "#171e26",
    "surface-2": "#212a34",
    "text-1": "#e8edf3",
    "text-2": "#b6c1cc",
    "text-3": "#9aa7b4",
    "line": "#2f3a46",
    "line-strong": "#73808e",
    "accent": "#7fb2ff",
    "accent-soft": "#1b2c46",
    "on-accent": "#0b1726",
    "pass": "#63d286",
    "pass-soft": "#15301f",
    "fail": "#ff9389",
    "fail-soft": "#3c1b18",
    "inconclusive": "#f2bd4b",
    "inconclusive-soft": "#362a10",
    "not-run": "#a7b2be",
    "not-run-soft": "#212a34",
    "stale": "#c0a8ff",
    "stale-soft": "#2a2145",
}

# At most five series in one figure; these five stay apart in both themes and for the common colour
# deficiencies because line style and direct labels repeat what the hue says.
SERIES: Final[tuple[str, ...]] = ("accent", "inconclusive", "stale", "pass", "not-run")


def palette(theme: Theme) -> dict[str, str]:
    """Token name to `#rrggbb` for one theme."""
    return DARK if theme == "dark" else LIGHT


def luminance(colour: str) -> float:
    """Relative luminance in [0, 1] of `#rrggbb`. Source: WCAG 2.2, definition of relative luminance."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    """Contrast ratio in [1, 21] of two colours `#rrggbb`. Source: WCAG 2.2, definition of contrast ratio."""
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)
