"""Tokens into text, piece by piece: never half a character, never part of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"


class Detokeniser:
    """Text of a growing list of tokens.

    ``decode`` turns token ids into text. Only the last few tokens are decoded again at each step: from the last
    place where the text ended in a whole character.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], context: Sequence[int] = ()) -> None:
        self._decode = decode
        # The tokens before give the first piece its right beginning (some tokenizers drop a leading space).
        self._tokens = list(context[-4:])
        self._from = 0
        self._read = len(self._tokens)

    def push(self, token: int) -> str:
        """The text that became certain by this token; "" while a character is incomplete."""
        self._tokens.append(token)
        return self._piece(final=False)

    def finish(self) -> str:
        """What was held back: an incomplete character becomes the replacement character."""
        return self._piece(final=True)

    def _piece(self, *, final: bool) -> str:
        before = self._decode(self._tokens[self._from : self._read])
        whole = self._decode(self._tokens[self._from :])
        if not final and (len(whole) <= len(before) or whole.endswith(UNFINISHED)):
            return ""
        self._from, self._read = self._read, len(self._tokens)
        return whole[len(before) :]


class StopFilter:
    """Holds back what may become a stop string; the first one that appears ends the text before it."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The text that can be shown now. After ``stopped`` nothing comes any more."""
        if self.stopped:
            return ""
        if not self._stops:
            return text
        self._held += text
        found = [at for at in map(self._held.find, self._stops) if at >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max(self._overlap(stop) for stop in self._stops)
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return shown

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins this stop string."""
        for size in range(min(len(stop) - 1, len(self._held)), 0, -1):
            if self._held.endswith(stop[:size]):
                return size
        return 0

    def finish(self) -> str:
        """What was held back and turned out to be no stop string."""
        shown, self._held = ("" if self.stopped else self._held), ""
        return shown
