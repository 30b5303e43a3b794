"""What detection looks at: a plain form of the text, and where each of its characters stands in the original.

Full-width and other compatibility characters, digits of every script, exotic spaces and dashes become their
ASCII equals; zero-width characters vanish; backslash escapes of JSON (``\\n``, ``\\"``, ``\\u0040``) become the
character they stand for. The original is what gets replaced and what is sent on, never the plain form.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

_BLOCKS: Final = (
    (0x00A0, 0x00BF),
    (0x2000, 0x218F),
    (0x2460, 0x24FF),
    (0x3000, 0x303F),
    (0xFE50, 0xFE6F),
    (0xFF00, 0xFF5F),
    (0x1D400, 0x1D7FF),
    (0x1F100, 0x1F14F),
)
_DASHES: Final = "‐‑‒–—―−⁃﹘﹣－"
_DOTS: Final = "․。｡・．"
_INVISIBLE: Final = (
    "\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e007f"
)
_UNIT: Final = re.compile(rf"[{_INVISIBLE}]|\\(?:u[0-9a-fA-F]{{4}}|[\"\\/ntrbf])")
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", '"': '"', "\\": "\\", "/": "/"}
_HALF: Final = re.compile("[\ud800-\udfff]")
# The beginning of an escape that more text could complete.
_PARTIAL_ESCAPE: Final = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")


def _fold_table() -> dict[int, str]:
    table: dict[int, str] = {}
    for low, high in _BLOCKS:
        for code in range(low, high + 1):
            plain = unicodedata.normalize("NFKC", chr(code))
            if len(plain) == 1 and plain.isascii():
                table[code] = plain
    for code in range(0x0660, 0x1E960):
        digit = unicodedata.decimal(chr(code), None)
        if digit is not None:
            table.setdefault(code, str(int(digit)))
    table.update({ord(char): "-" for char in _DASHES})
    table.update({ord(char): "." for char in _DOTS})
    table.update(dict.fromkeys(range(55296, 57344), "�"))
    return table


_FOLD: Final = _fold_table()


@dataclass(slots=True)
class Plain:
    """``text``: the plain form. ``starts``/``ends``: original offsets of each character; None when they are equal."""

    text: str
    low: str
    starts: list[int] | None = None
    ends: list[int] | None = None

    def start(self, index: int) -> int:
        """Where the character at ``index`` begins in the original; the original's length for the end."""
        return index if self.starts is None else self.starts[index]

    def end(self, index: int) -> int:
        """Where the character before ``index`` ends in the original."""
        if self.ends is None:
            return index
        return self.ends[index - 1] if index else 0

    def index_at(self, original: int) -> int:
        """The first plain index at or after an original offset."""
        if self.starts is None:
            return original
        from bisect import bisect_left

        return bisect_left(self.starts, original)


def lower(text: str) -> str:
    """Lower case of the same length, so that positions agree."""
    low = text.lower()
    if len(low) != len(text):
        low = "".join(one if len(one := char.lower()) == 1 else char for char in text)
    return low


def plain_of(text: str) -> Plain:
    """The plain form of a text. Cost: two scans in C for ordinary ASCII."""
    if text.isascii():
        if "\\" not in text:
            return Plain(text, text.lower())
        folded = text
    else:
        folded = text.translate(_FOLD)
    # Units are those of the original: folding must not make an escape that was none.
    if not _UNIT.search(text):
        return Plain(folded, lower(folded))
    chars: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    at = 0
    for unit in _UNIT.finditer(text):
        start, end = unit.span()
        if at < start:
            chars.append(folded[at:start])
            starts.extend(range(at, start))
            ends.extend(range(at + 1, start + 1))
        if text[start] == "\\":
            code = text[start + 1]
            char = chr(int(text[start + 2 : end], 16)) if code == "u" else _ESCAPES[code]
            char = char.translate(_FOLD)
            if not _UNIT.match(char):  # an escaped zero-width character vanishes as well
                chars.append(char)
                starts.append(start)
                ends.append(end)
        at = end
    if at < len(folded):
        chars.append(folded[at:])
        starts.extend(range(at, len(folded)))
        ends.extend(range(at + 1, len(folded) + 1))
    starts.append(len(text))
    plain = "".join(chars)
    return Plain(plain, lower(plain), starts, ends)


def join_surrogates(text: str) -> str:
    """Put split surrogate pairs together; a lone half becomes U+FFFD. Other text is returned as it is."""
    if text.isascii() or not _HALF.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def unfinished_escape(text: str) -> int:
    """Length of the escape at the end of ``text`` that more text could complete; 0 for none."""
    tail = text[-6:]
    if "\\" not in tail:
        return 0
    found = _PARTIAL_ESCAPE.search(tail)
    if not found:
        return 0
    # An even number of backslashes before it: the last one is the second half of an escaped backslash.
    at = len(text) - (len(tail) - found.start())
    run = at
    while run > 0 and text[run - 1] == "\\":
        run -= 1
    return len(text) - at if (at - run) % 2 == 0 else 0
