"""Redaction of a text that arrives in pieces. However it is cut, the output is that of the whole text.

The stream keeps back what more text could still turn into a finding, or change: usually the word being written,
a number with its spaces, a value that is called a secret. See docs/design/redaction.md for why this is exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from core.security.redaction.normal import join_surrogates, plain_of, unfinished_escape

if TYPE_CHECKING:
    from core.security.redaction.redactor import Redactor
    from core.security.redaction.tokens import Finding
    from core.security.redaction.vault import Vault

# Of an open-ended finding, the last characters are kept in view for its last line.
_END_KEPT: Final = 120


class StreamRedactor:
    """One text. ``push`` gives what is decided, ``finish`` the rest. After a block nothing more comes out.

    ``counts``: replacements by entity so far. ``blocked``: the entity that ended the stream, or None.
    """

    def __init__(self, redactor: Redactor, vault: Vault | None = None, *, json_text: bool = False) -> None:
        from core.security.redaction.redactor import CONTEXT_KEPT, Progress, Writer

        self._redactor = redactor
        self._pieces: list[str] = []
        self.counts: dict[str, int] = {}
        self._writer = Writer(redactor, vault, json_text, self._pieces, self.counts)
        self._progress = Progress()
        self._context = CONTEXT_KEPT
        self._buffer = ""  # context already decided, then what is undecided
        self._decided = 0  # plain offset in the buffer
        self._sent = 0  # original offset in the buffer up to which the output covers it
        self._half = ""  # the first half of a surrogate pair
        self._finished = False
        # An open-ended finding being swallowed: it, its original and its plain text so far, the tail in view.
        self._open: Finding | None = None
        self._open_original: list[str] = []
        self._open_plain: list[str] = []
        self._open_tail = ""
        self._open_raw = ""

    @property
    def blocked(self) -> str | None:
        return self._writer.blocked

    @property
    def held(self) -> int:
        """Characters kept back now."""
        return len(self._buffer) - self._sent + len(self._half)

    def push(self, text: str) -> str:
        """More of the text; what of it is decided."""
        if self._finished or self._writer.blocked:
            return ""
        if not self._redactor._active:
            return text
        if self._half:
            text, self._half = self._half + text, ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        if not text:
            return ""
        return self._advance(join_surrogates(text), final=False)

    def finish(self) -> str:
        """The end of the text; what was kept back, redacted."""
        if self._finished or self._writer.blocked:
            return ""
        text, self._half = self._half, ""
        result = self._advance(join_surrogates(text), final=True)
        self._finished = True
        return result

    # ----------------------------------------------------------------
    def _advance(self, text: str, *, final: bool) -> str:
        if self._open is not None:
            text = self._swallow(text, final)
            if self._open is not None:
                return ""
        self._buffer += text
        self._decide(final)
        if self._writer.blocked:
            self._pieces.clear()
            self._buffer = ""
            self._sent = self._decided = 0
            return ""
        out = "".join(self._pieces)
        self._pieces.clear()
        return out

    def _decide(self, final: bool) -> None:
        buffer = self._buffer
        # The beginning of an escape waits until it is whole.
        wait = 0 if final else unfinished_escape(buffer)
        known = buffer[: len(buffer) - wait] if wait else buffer
        plain = plain_of(known)
        size = len(plain.text)
        limit = size + 1 if final else self._redactor.unresolved(plain, self._decided)
        if limit <= self._decided and not final:
            return
        opened: Finding | None = None
        opened_start = 0
        for finding, start, end in self._redactor.scan(plain, self._decided, limit, self._progress):
            if start < 0:
                self._writer.note(finding)
                continue
            original = plain.start(start)
            if original > self._sent:
                self._writer.keep(buffer[self._sent : original])
                self._sent = original
            if not final and end == size and finding[4].sticky:
                opened, opened_start = finding, start
                break
            self._sent = plain.end(end)
            self._writer.replace(finding, buffer[original : self._sent], plain.text[start:end])
            if self._writer.blocked:
                return
        if opened is not None:
            # What vanishes from the plain form at its end, and an unfinished escape, wait for what follows.
            reach = plain.end(size)
            self._begin_open(plain.text, opened, opened_start, reach)
            self._open_raw = buffer[reach:]
            self._buffer = ""
            self._decided = self._sent = 0
            return
        limit = min(limit, size)
        reach = plain.start(limit) if limit < size else len(known)
        if reach > self._sent:
            self._writer.keep(buffer[self._sent : reach])
            self._sent = reach
        self._decided = limit
        self._trim(plain.start, limit)

    def _trim(self, original_of: object, limit: int) -> None:
        """Forget all but the context."""
        cut = limit - self._context
        if cut < self._context:  # not at every push
            return
        original = original_of(cut)  # type: ignore[operator]
        self._buffer = self._buffer[original:]
        self._sent -= original
        self._decided -= cut
        self._progress.shift(cut)

    # ---------------------------------------------------------------- open-ended findings
    def _begin_open(self, text: str, finding: Finding, start: int, reach: int) -> None:
        self._open = finding
        self._open_original = [self._buffer[self._sent : reach]]
        self._open_plain = [text[start:]]
        self._open_tail = text[max(start, len(text) - _END_KEPT) :]

    def _swallow(self, text: str, final: bool) -> str:
        """Take what belongs to the open finding; the rest of ``text`` once it ends."""
        assert self._open is not None
        text = self._open_raw + text
        self._open_raw = ""
        wait = 0 if final else unfinished_escape(text)
        if wait:
            self._open_raw = text[len(text) - wait :]
            text = text[: len(text) - wait]
        plain = plain_of(text)
        view = self._open_tail + plain.text
        end = self._open[4].extend(view, 0)
        if end < 0 and not final:
            reach = plain.end(len(plain.text))
            self._open_raw = text[reach:] + self._open_raw
            self._open_original.append(text[:reach])
            self._open_plain.append(plain.text)
            self._open_tail = view[-_END_KEPT:]
            return ""
        inside = (end if end >= 0 else len(view)) - len(self._open_tail)
        reach = plain.end(inside)
        self._open_original.append(text[:reach])
        self._open_plain.append(plain.text[:inside])
        finding, self._open = self._open, None
        self._writer.replace(finding, "".join(self._open_original), "".join(self._open_plain))
        # What follows begins anew; the last characters stay in view as its left edge.
        edge = "".join(self._open_original)[-(self._context + 8) :]
        rest = text[reach:] + self._open_raw
        self._open_raw = ""
        self._open_original, self._open_plain = [], []
        self._buffer = edge
        self._sent = len(edge)
        self._decided = len(plain_of(edge).text)
        at = self._decided
        progress = self._progress
        progress.covered = progress.replaced = progress.floor = at
        progress.resume = {}
        return rest
