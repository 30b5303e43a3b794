"""Differences people can read: between two texts word by word, between two structures path by path."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

# Longer texts are compared line by line first: the word matcher is quadratic.
MAX_WORDS = 4000


@dataclass(frozen=True)
class Piece:
    """A run of text that both sides share, or that only one side has."""

    kind: Literal["same", "ins", "del"]
    text: str


def diff_words(before: str, after: str) -> list[Piece]:
    """Pieces that, without "ins", join to `before` and, without "del", to `after`."""
    split = re.compile(r"\s+|\w+|[^\w\s]")
    left, right = split.findall(before), split.findall(after)
    if len(left) + len(right) > MAX_WORDS:
        left, right = before.splitlines(keepends=True), after.splitlines(keepends=True)
    pieces: list[Piece] = []

    def add(kind: Literal["same", "ins", "del"], words: Sequence[str]) -> None:
        text = "".join(words)
        if not text:
            return
        if pieces and pieces[-1].kind == kind:
            pieces[-1] = Piece(kind, pieces[-1].text + text)
        else:
            pieces.append(Piece(kind, text))

    for tag, a, b, c, d in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag == "equal":
            add("same", left[a:b])
        else:
            add("del", left[a:b])
            add("ins", right[c:d])
    return pieces


@dataclass(frozen=True)
class Change:
    """One path that differs; `before` or `after` is None when the side lacks it."""

    path: str
    before: str | None
    after: str | None


def flatten(value: Any, path: str = "") -> dict[str, str]:
    """Leaves of a JSON-like structure keyed by path ("decoding.temperature", "stop[0]"), values as JSON
    text."""
    if isinstance(value, Mapping) and value:
        out: dict[str, str] = {}
        for key, child in value.items():
            out.update(flatten(child, f"{path}.{key}" if path else str(key)))
        return out
    if isinstance(value, list | tuple) and value:
        out = {}
        for i, child in enumerate(value):
            out.update(flatten(child, f"{path}[{i}]"))
        return out
    if isinstance(value, str):
        return {path or "(value)": value}
    return {path or "(value)": json.dumps(value, default=str, ensure_ascii=False)}


def diff_structures(before: Any, after: Any) -> list[Change]:
    """Paths whose leaf differs, in the order they first appear. Equal structures give an empty list."""
    left, right = flatten(before), flatten(after)
    order = [*left, *[path for path in right if path not in left]]
    return [
        Change(path, left.get(path), right.get(path)) for path in order if left.get(path) != right.get(path)
    ]
