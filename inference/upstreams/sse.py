"""Server-sent events from bytes that arrive in any pieces. Pure.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

import re

__all__ = ["EventTooLarge", "SseParser"]

_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventTooLarge(ValueError):
    """One event is longer than the bound."""


class SseParser:
    """``feed`` gives the data of each event that is complete, as bytes; lines of one event joined by LF.

    Comments, ``id`` and ``retry`` are skipped. The data of an event of the type ``error`` is not given but kept in
    :attr:`error`, and nothing after it is read.
    An event that the end of the stream cuts off is never given (as the standard says). ``max_bytes`` bounds
    one event. The result does not depend on how the bytes are split.
    """

    __slots__ = ("_data", "_held", "_held_bytes", "_kind", "_size", "_start", "error", "max_bytes")

    def __init__(self, max_bytes: int = 2 * 1024 * 1024) -> None:
        self.max_bytes = max_bytes
        self.error: bytes | None = None
        # Pieces of a line that has not ended; joined once, so that a line in a million pieces costs no square.
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._data: list[bytes] = []
        self._size = 0
        self._kind = b""
        self._start = True

    def feed(self, piece: bytes) -> list[bytes]:
        """Events that ``piece`` completes, in order. Raises EventTooLarge."""
        if (
            piece[:6] == b"data: "
            and piece[-2:] == b"\n\n"
            and not (self._held or self._data or self._kind or self.error)
        ):
            # What engines send nearly always: whole events of one line each.
            events = piece[6:-2].split(b"\n\ndata: ")
            if b"\r" not in piece and piece.count(b"\n") == 2 * len(events) and len(piece) <= self.max_bytes:
                self._start = False
                return events
        return self._feed_lines(piece)

    def _feed_lines(self, piece: bytes) -> list[bytes]:
        held = self._held
        if (
            not self._start
            and b"\n" not in piece
            and b"\r" not in piece
            and not (held and held[-1][-1:] == b"\r")
        ):
            if piece:
                self._hold(piece)
            return []
        if held:
            held.append(piece)
            piece = b"".join(held)
            held.clear()
            self._held_bytes = 0
        if self._start:
            if len(piece) < 3 and b"\xef\xbb\xbf".startswith(piece):
                self._hold(piece)
                return []
            self._start = False
            piece = piece.removeprefix(b"\xef\xbb\xbf")
        events: list[bytes] = []
        at = 0
        for match in _LINE_END.finditer(piece):
            if match.group() == b"\r" and match.end() == len(piece):
                break  # the other half of CRLF may follow
            self._line(piece[at : match.start()], events)
            at = match.end()
        if at < len(piece):
            self._hold(piece[at:])
        return events

    def _hold(self, piece: bytes) -> None:
        self._held.append(piece)
        self._held_bytes += len(piece)
        if self._held_bytes + self._size > self.max_bytes:
            raise EventTooLarge

    def _line(self, line: bytes, events: list[bytes]) -> None:
        if not line:
            if self._data:
                data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                if self._kind == b"error":
                    self.error = data
                elif self.error is None:
                    events.append(data)
            self._data, self._kind, self._size = [], b"", 0
            return
        name, _, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if name == b"data":
            self._data.append(value)
            self._size += len(value) + 1
            if self._size > self.max_bytes:
                raise EventTooLarge
        elif name == b"event":
            self._kind = value
