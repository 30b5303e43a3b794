"""A circuit breaker: stop asking what keeps failing, let one request try it after a pause. Pure; no clock."""

from __future__ import annotations

import random
from collections import deque

__all__ = ["Breaker"]


class Breaker:
    """Closed, open or half-open. Not thread-safe: the gate that owns it holds its lock.

    Opens after ``consecutive`` failures in a row, or when of at least ``minimum`` outcomes within ``window_s``
    seconds at least ``share`` failed. Stays open ``pause_s`` seconds (doubling up to ``max_pause_s`` while
    probes fail, with up to 20% of jitter so that processes do not probe in step), then lets one request through:
    its success closes, its failure opens again. All times are seconds of one monotonic clock given by the caller.
    """

    __slots__ = (
        "_failures",
        "_opened",
        "_outcomes",
        "_pause",
        "_probing",
        "consecutive",
        "max_pause_s",
        "minimum",
        "open_until",
        "pause_s",
        "share",
        "window_s",
    )

    def __init__(
        self,
        *,
        consecutive: int = 5,
        minimum: int = 20,
        share: float = 0.5,
        window_s: float = 30.0,
        pause_s: float = 2.0,
        max_pause_s: float = 30.0,
    ) -> None:
        self.consecutive = consecutive
        self.minimum = minimum
        self.share = share
        self.window_s = window_s
        self.pause_s = pause_s
        self.max_pause_s = max_pause_s
        self.open_until = 0.0
        self._pause = pause_s
        self._opened = False
        self._probing = False
        self._failures = 0
        # (time, failed) of the last outcomes; short, so that the share is over recent ones only.
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=200)

    def state(self, now: float) -> str:
        """``closed``, ``open`` or ``half-open``."""
        if not self._opened:
            return "closed"
        return "half-open" if now >= self.open_until else "open"

    @property
    def closed(self) -> bool:
        """Nothing holds requests back. Costs one attribute: read on every request."""
        return not self._opened

    def admits(self, now: float) -> bool:
        """Whether a request may go now; in half-open only one at a time."""
        return not self._opened or (now >= self.open_until and not self._probing)

    def begin(self) -> None:
        """A request went. Call only after :meth:`admits` said yes."""
        if self._opened:
            self._probing = True

    def wait_s(self, now: float) -> float:
        """Seconds until a request may go; 0 when it may now."""
        return max(0.0, self.open_until - now) if self._opened else 0.0

    def succeeded(self, now: float) -> None:
        self._failures = 0
        if self._opened:
            self._opened = self._probing = False
            self._pause = self.pause_s
            self._outcomes.clear()
        elif self._outcomes:  # successes matter only beside failures
            self._outcomes.append((now, False))

    def failed(self, now: float) -> bool:
        """A request failed through the upstream's fault. True when this opened the breaker."""
        if self._opened:
            if not self._probing:
                return False  # began before it opened
            self._pause = min(self._pause * 2, self.max_pause_s)
            self._open(now)
            return True
        self._failures += 1
        outcomes = self._outcomes
        outcomes.append((now, True))
        while outcomes and outcomes[0][0] < now - self.window_s:
            outcomes.popleft()
        bad = sum(failed for _, failed in outcomes)
        if self._failures >= self.consecutive or (
            len(outcomes) >= self.minimum and bad >= self.share * len(outcomes)
        ):
            self._open(now)
            return True
        return False

    def gave_up(self) -> None:
        """A request ended without telling anything about the upstream (the client left)."""
        self._probing = False

    def _open(self, now: float) -> None:
        self._opened, self._probing = True, False
        self.open_until = now + self._pause * random.uniform(1.0, 1.2)  # noqa: S311 (spreads load, guards nothing)
