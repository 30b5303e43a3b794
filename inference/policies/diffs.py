"""Differences of two texts line by line, with a few lines around each."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

# Unchanged lines shown around a change.
CONTEXT = 3


@dataclass(frozen=True, slots=True)
class Line:
    """One line: ``old`` and ``new`` are its numbers on the two sides, None where it is not; gap: lines left out."""

    kind: Literal["same", "ins", "del", "gap"]
    text: str
    old: int | None = None
    new: int | None = None


def line_diff(before: str, after: str) -> list[Line]:
    """The lines of a unified difference; empty when nothing differs."""
    left, right = before.splitlines(), after.splitlines()
    found: list[Line] = []
    for group in difflib.SequenceMatcher(None, left, right, autojunk=False).get_grouped_opcodes(CONTEXT):
        if found or group[0][1] > 0:
            found.append(Line("gap", f"line {group[0][3] + 1}"))
        for tag, a, b, c, d in group:
            if tag == "equal":
                found += [Line("same", left[a + i], a + i + 1, c + i + 1) for i in range(b - a)]
                continue
            found += [Line("del", left[i], i + 1, None) for i in range(a, b)]
            found += [Line("ins", right[i], None, i + 1) for i in range(c, d)]
    return found
