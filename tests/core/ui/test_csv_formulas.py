"""No cell of an exported table is run as a formula."""

from __future__ import annotations

import pytest

from core.ui.tables import csv_safe


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_text_that_looks_like_a_formula_gets_an_apostrophe(start: str) -> None:
    assert csv_safe(f"{start}cmd|' /C calc'!A0").startswith("'")


def test_numbers_and_plain_text_are_left_alone() -> None:
    assert [csv_safe(cell) for cell in (-1.5, 3, "plain", "")] == [-1.5, 3, "plain", ""]
