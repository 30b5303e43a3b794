"""Does a key ask like somebody who copies the model? Pure: numbers in, numbers out, no text kept.

Requests of a key are gathered into windows. A closed window has three numbers: its *rate*, the *novelty* of what it
asked (share of word triples this key never used before) and the *shift* of its topics against the key's past. Each
number is ranked among those of past windows of the same key: a conformal p-value, right for any shape of traffic as
long as the windows are exchangeable. The p-values are turned into bets, averaged (valid however they depend on each
other) and gathered by a Shiryaev-Roberts e-detector, so that a key that goes on as before is suspected by chance at
most once in `PATIENCE` windows on average. Days and nights are not exchangeable; what that costs is measured
(docs/design/knobs.md).

An alarm also needs floors: enough requests, and a good part of what was asked new. A steep rise in the same questions
is load, not copying.

A key that copies from its first day has no past to differ from. It is noticed by its sum: thousands of distinct
requests, nearly all of what they ask new, as few windows of the tenant's other keys are.

Sources: Vovk et al. (2005), conformal prediction; Shin, Ramdas and Rinaldo (2024), "E-detectors"; Tramèr et al.
(2016) for the attack.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

# A window closes at this many requests, or this old (seconds) with at least one.
WINDOW_REQUESTS: Final = 60
WINDOW_S: Final = 300.0
# Windows of a key that are remembered, and those needed before its own past is enough.
REMEMBERED: Final = 200
ENOUGH: Final = 30
# Average number of windows between false alarms of a key whose windows are exchangeable, at least.
PATIENCE: Final = 10_000
# Floors of an alarm: requests since suspicion began, and share of new word triples in the last windows.
FLOOR_REQUESTS: Final = 120
FLOOR_NOVELTY: Final = 0.3
# A key without a different past: distinct requests since it was first seen, and their usual novelty.
TOTAL_REQUESTS: Final = 3000
TOTAL_NOVELTY: Final = 0.8
TOPICS: Final = 32
_BITS: Final = 1 << 17
# Score from which windows no longer join the past they are compared with.
_SUSPECT: Final = 10.0
# Weight of the newest window in the mean novelty.
_FADE: Final = 0.25


@dataclass(frozen=True, slots=True)
class Window:
    """A closed window. ``rate`` in requests per minute; ``novelty`` a share; ``shift`` in standard deviations."""

    at: float
    requests: int
    tokens_out: int
    rate: float
    novelty: float
    shift: float

    def as_list(self) -> list[float]:
        """For storage."""
        return [
            round(self.at), self.requests, self.tokens_out, round(self.rate, 3), round(self.novelty, 4),
            round(self.shift, 3),
        ]  # fmt: skip

    @classmethod
    def from_list(cls, values: Sequence[float]) -> Window:
        """As stored."""
        at, requests, tokens, rate, novelty, shift = values
        return cls(float(at), int(requests), int(tokens), float(rate), float(novelty), float(shift))


class Seen:
    """Which hashes were seen: two generations of a Bloom filter of 16 KiB, so that it never fills up.

    At most 1.5% of new hashes are taken for seen ones. Hashes are 64-bit numbers, keyed by the caller.
    """

    def __init__(self, data: bytes = b"") -> None:
        size = _BITS // 8
        whole = data if len(data) == 2 * size else bytes(2 * size)
        self._now = bytearray(whole[:size])
        self._before = bytearray(whole[size:])
        self._set = int(np.unpackbits(np.frombuffer(bytes(self._now), dtype=np.uint8)).sum())

    def add(self, value: int) -> bool:
        """Remember a hash; True when it was not known."""
        places = [(value >> shift) % _BITS for shift in (0, 17, 34)]
        known = old = True
        for place in places:
            byte, bit = place >> 3, 1 << (place & 7)
            if not self._before[byte] & bit:
                old = False
            if not self._now[byte] & bit:
                known = False
                self._now[byte] |= bit
                self._set += 1
        if self._set > _BITS // 4:
            self._before, self._now, self._set = self._now, bytearray(_BITS // 8), 0
        return not (known or old)

    def as_bytes(self) -> bytes:
        """For storage."""
        return bytes(self._now + self._before)


def conformal(value: float, past: Sequence[float]) -> float:
    """P-value of "not larger than usual": the share of past values at least as large, this one included."""
    return (1 + sum(one >= value for one in past)) / (len(past) + 1)


def bet(p: float) -> float:
    """An e-value for a p-value: the mixture of all bets ``a * p ** (a - 1)``. Its mean is at most 1 under the null."""
    if p >= 1:
        return 0.5
    log = math.log(p)
    return (1 - p + p * log) / (p * log * log)


@dataclass(slots=True)
class Evidence:
    """What the last windows say. ``score`` is the e-detector's; at ``PATIENCE`` it is an alarm.

    ``requests``: since suspicion began. ``novelty``: of the last handful of windows, older ones fading.
    """

    score: float = 0.0
    windows: int = 0
    requests: int = 0
    novelty: float = 0.0
    smallest: dict[str, float] = field(default_factory=dict)
    total: bool = False

    def take(self, window: Window) -> None:
        """Count a window in."""
        self.windows += 1
        self.requests += window.requests
        self.novelty += (window.novelty - self.novelty) * max(_FADE, 1 / self.windows)

    def reasons(self) -> list[str]:
        """Which tests spoke: volume, diversity, distribution; total for the sum of a key without another past."""
        found = sorted(name for name, p in self.smallest.items() if p <= 0.05)
        return [*found, "total"] if self.total else found


@dataclass(slots=True)
class KeyState:
    """The running state of one key. Not thread-safe."""

    windows: list[Window] = field(default_factory=list)
    seen: Seen = field(default_factory=Seen)
    requests: int = 0
    topics: np.ndarray = field(default_factory=lambda: np.zeros(TOPICS))
    evidence: Evidence = field(default_factory=Evidence)
    distinct: int = 0
    # The open window.
    opened: float = 0.0
    count: int = 0
    tokens: int = 0
    fresh: float = 0.0
    open_topics: np.ndarray = field(default_factory=lambda: np.zeros(TOPICS))

    def observe(self, hashes: Sequence[int], topic: int, tokens_out: int, now: float) -> None:
        """One request: hashes of its word triples, its topic (0 to 31), tokens answered, epoch seconds."""
        if self.count == 0:
            self.opened = now
        new = sum([self.seen.add(value) for value in hashes])
        self.fresh += new / len(hashes) if hashes else 0.0
        self.distinct += bool(new)
        self.open_topics[topic % TOPICS] += 1
        self.count += 1
        self.requests += 1
        self.tokens += tokens_out

    def due(self, now: float) -> bool:
        """Whether the open window should close."""
        return self.count >= WINDOW_REQUESTS or (self.count > 0 and now - self.opened >= WINDOW_S)

    def close(self, now: float, population: Sequence[Window] = ()) -> bool:
        """Close the window and weigh it; True when this is an alarm.

        Args:
            population: windows of the tenant's other keys.
        """
        window = Window(
            at=now,
            requests=self.count,
            tokens_out=self.tokens,
            rate=60 * self.count / max(1.0, now - self.opened),
            novelty=self.fresh / self.count,
            shift=self._shift(),
        )
        topics, self.open_topics = self.open_topics, np.zeros(TOPICS)
        self.count, self.tokens, self.fresh = 0, 0, 0.0
        alarm = len(self.windows) >= ENOUGH and self._weigh(window, self.windows)
        alarm = alarm or self._stands_out(window, population)
        if self.evidence.score < _SUSPECT or self.evidence.novelty < FLOOR_NOVELTY:
            # New questions under suspicion do not become the key's usual traffic; a mere change of load does.
            self.windows = [*self.windows, window][-REMEMBERED:]
            self.topics = self.topics * 0.98 + topics
        return alarm

    def _shift(self) -> float:
        if self.topics.sum() < 4 * TOPICS:
            return 0.0
        past = (self.topics + 0.5) / (self.topics.sum() + 0.5 * TOPICS)
        seen = self.open_topics
        share = seen[seen > 0] / seen.sum()
        g = 2 * float((seen[seen > 0] * np.log(share / past[seen > 0])).sum())
        return (g - (TOPICS - 1)) / math.sqrt(2 * (TOPICS - 1))

    def _weigh(self, window: Window, past: Sequence[Window]) -> bool:
        found = {
            "volume": conformal(window.rate, [one.rate for one in past]),
            "diversity": conformal(window.novelty, [one.novelty for one in past]),
            "distribution": conformal(window.shift, [one.shift for one in past]),
        }
        weight = sum(bet(p) for p in found.values()) / len(found)
        evidence = self.evidence
        if evidence.score < 1:
            evidence.windows, evidence.requests, evidence.novelty, evidence.smallest = 0, 0, 0.0, {}
        evidence.score = (evidence.score + 1) * weight
        evidence.take(window)
        for name, p in found.items():
            evidence.smallest[name] = min(p, evidence.smallest.get(name, 1.0))
        return (
            evidence.score >= PATIENCE
            and evidence.requests >= FLOOR_REQUESTS
            and evidence.novelty >= FLOOR_NOVELTY
            and found["diversity"] <= 0.1
        )

    def _stands_out(self, window: Window, population: Sequence[Window]) -> bool:
        if self.distinct < TOTAL_REQUESTS or len(self.windows) < ENOUGH:
            return False
        usual = float(np.median([one.novelty for one in self.windows]))
        others = [one.novelty for one in population]
        if usual < TOTAL_NOVELTY or (len(others) >= ENOUGH and conformal(usual, others) > 0.05):
            return False
        # Said once: when a person has looked at it, it is this key's way.
        self.distinct = -(10**12)
        self.evidence.total = True
        return True

    def reset(self) -> None:
        """Begin anew after a person has looked: the evidence goes, the past stays."""
        self.evidence = Evidence()

    def usual_rate(self) -> float:
        """Median requests per minute of the remembered windows; 0 without any."""
        return float(np.median([one.rate for one in self.windows])) if self.windows else 0.0

    def numbers(self) -> dict[str, Any]:
        """What an alert shows."""
        evidence = self.evidence
        return {
            "score": min(evidence.score, 1e12),
            "windows": evidence.windows,
            "requests": evidence.requests,
            "novelty": round(evidence.novelty, 4),
            "usual_novelty": round(float(np.median([one.novelty for one in self.windows])), 4)
            if self.windows
            else None,
            "usual_rate_per_min": round(self.usual_rate(), 2),
            "p_values": {name: round(p, 5) for name, p in evidence.smallest.items()},
            "past_windows": len(self.windows),
        }

    def as_dict(self) -> Mapping[str, Any]:
        """What is stored besides the filter: windows and topics."""
        return {
            "windows": [one.as_list() for one in self.windows],
            "topics": [round(float(x), 3) for x in self.topics],
        }

    @classmethod
    def restored(cls, stored: Mapping[str, Any] | None, seen: bytes, requests: int) -> KeyState:
        """From what was stored; nonsense counts as nothing."""
        state = cls(seen=Seen(seen), requests=requests)
        if isinstance(stored, Mapping):
            state.windows = [Window.from_list(one) for one in stored.get("windows", []) if len(one) == 6]
            topics = stored.get("topics") or []
            if len(topics) == TOPICS:
                state.topics = np.asarray(topics, dtype=float)
        return state
