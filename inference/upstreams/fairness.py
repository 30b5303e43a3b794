"""Who may ask next: a limit on concurrent requests per upstream and a queue that is fair between tenants.

One :class:`Gate` guards the upstreams that can stand in for each other. A free place goes to the tenants in
turn, and within a tenant to whoever waited longest, so a tenant with a thousand waiting requests delays
another's single one by at most one place. Waiting is bounded in time and in number.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Collection, Sequence
from typing import Generic, Protocol, TypeVar

from inference.upstreams.breaker import Breaker
from inference.upstreams.errors import UpstreamBusy, UpstreamTimeout, UpstreamUnavailable

__all__ = ["Gate", "Place"]


class Place(Protocol):
    """What the gate needs to know of an upstream. It alone changes ``in_flight``, ``credit``, ``breaker``."""

    breaker: Breaker
    in_flight: int
    credit: float

    @property
    def limit(self) -> int: ...
    @property
    def weight(self) -> int: ...


P = TypeVar("P", bound=Place)


class _Waiter(Generic[P]):
    __slots__ = ("excluded", "place", "refused", "signal", "tenant")

    def __init__(self, tenant: str, excluded: Collection[P]) -> None:
        self.tenant = tenant
        self.excluded = excluded
        self.place: P | None = None
        self.refused = False
        # A lock is the cheapest thing in Python to sleep on.
        self.signal = threading.Lock()
        self.signal.acquire()


class Gate(Generic[P]):
    """Hands out places of ``places`` by smooth weighted round robin.

    Args:
        max_waiting: how many may wait at once; one tenant at most half of them while it is not alone.
        max_wait_s: how long anybody waits.
    """

    def __init__(self, places: Sequence[P] = (), *, max_waiting: int = 128, max_wait_s: float = 10.0) -> None:
        self.max_waiting = max_waiting
        self.max_wait_s = max_wait_s
        self._places: tuple[P, ...] = tuple(places)
        self._lock = threading.Lock()
        self._queues: OrderedDict[str, deque[_Waiter[P]]] = OrderedDict()
        self._waiting = 0

    # ------------------------------------------------------------------ what it guards
    @property
    def places(self) -> tuple[P, ...]:
        return self._places

    def replace(self, places: Sequence[P], *, max_waiting: int, max_wait_s: float) -> None:
        """Guard these from now on; requests under way on others end as they will."""
        with self._lock:
            self._places = tuple(places)
            self.max_waiting, self.max_wait_s = max_waiting, max_wait_s
            self._dispatch(time.monotonic())

    def waiting(self) -> dict[str, int]:
        """Requests that wait, by tenant."""
        with self._lock:
            return {tenant: len(queue) for tenant, queue in self._queues.items()}

    # ------------------------------------------------------------------ taking and giving back
    def acquire(self, tenant: str, *, deadline: float, excluded: Collection[P] = ()) -> P:
        """A place to ask, waiting for one if need be. ``deadline``: of the monotonic clock, seconds.

        Raises:
            UpstreamUnavailable: none can take a request before a pause is over.
            UpstreamBusy: too many wait already, or this one waited as long as anybody may.
            UpstreamTimeout: the request's own deadline came first.
        """
        now = time.monotonic()
        with self._lock:
            if not self._queues:
                place = self._pick(excluded, now)
                if place is not None:
                    return place
            self._ensure_hope(excluded, now)
            waiter = self._enqueue(tenant, excluded)
            self._dispatch(now)
        until = min(deadline, now + self.max_wait_s)
        waiter.signal.acquire(timeout=max(0.0, until - now))
        with self._lock:
            if waiter.place is not None:
                return waiter.place
            if waiter.refused:
                self._ensure_hope(excluded, time.monotonic())
                raise UpstreamUnavailable(
                    "The engine stopped answering while the request waited for it.", counts=False
                )
            self._remove(waiter)
        if deadline <= now + self.max_wait_s:
            raise UpstreamTimeout("The request's time ran out while it waited for the engine.", counts=False)
        raise UpstreamBusy(
            f"Every place at the engine was taken for {self.max_wait_s:g} s. Try again.",
            retry_after_s=max(1.0, self.max_wait_s / 2),
        )

    def release(self, place: P, *, failed: bool | None) -> None:
        """Give a place back. ``failed``: through the upstream's fault; None when nothing was learnt."""
        now = time.monotonic()
        with self._lock:
            place.in_flight -= 1
            if failed is None:
                place.breaker.gave_up()
            elif not failed:
                place.breaker.succeeded(now)
            elif place.breaker.failed(now):
                self._refuse_hopeless(now)
            if self._queues:
                self._dispatch(now)

    def has_other(self, excluded: Collection[P]) -> bool:
        """Whether an upstream outside ``excluded`` could take the request, now or after a wait."""
        now = time.monotonic()
        with self._lock:
            return any(place not in excluded and place.breaker.admits(now) for place in self._places)

    # ------------------------------------------------------------------ under the lock
    def _pick(self, excluded: Collection[P], now: float) -> P | None:
        best: P | None = None
        total = 0
        for place in self._places:
            if place.in_flight >= place.limit or not (place.breaker.closed or place.breaker.admits(now)):
                continue
            if excluded and place in excluded:
                continue
            place.credit += place.weight
            total += place.weight
            if best is None or place.credit > best.credit:
                best = place
        if best is not None:
            best.credit -= total
            best.in_flight += 1
            if not best.breaker.closed:
                best.breaker.begin()
        return best

    def _hopeful(self, excluded: Collection[P], now: float) -> bool:
        return any(place.breaker.admits(now) and place not in excluded for place in self._places)

    def _ensure_hope(self, excluded: Collection[P], now: float) -> None:
        if self._hopeful(excluded, now):
            return
        pauses = [place.breaker.wait_s(now) for place in self._places if place not in excluded]
        raise UpstreamUnavailable(
            "The engine failed repeatedly and is not asked for a moment. Try again."
            if self._places
            else "No engine is configured for this model.",
            counts=False,
            retry_after_s=max(1.0, min(pauses, default=1.0)) if self._places else None,
        )

    def _enqueue(self, tenant: str, excluded: Collection[P]) -> _Waiter[P]:
        queue = self._queues.get(tenant)
        alone = not self._queues or (queue is not None and len(self._queues) == 1)
        share = self.max_waiting if alone else max(1, self.max_waiting // 2)
        if self._waiting >= self.max_waiting or (queue is not None and len(queue) >= share):
            raise UpstreamBusy("Too many requests wait for the engine already. Try again.")
        waiter = _Waiter(tenant, excluded)
        if queue is None:
            queue = self._queues[tenant] = deque()
        queue.append(waiter)
        self._waiting += 1
        return waiter

    def _remove(self, waiter: _Waiter[P]) -> None:
        queue = self._queues.get(waiter.tenant)
        if queue is None or waiter not in queue:
            return
        queue.remove(waiter)
        self._waiting -= 1
        if not queue:
            del self._queues[waiter.tenant]

    def _dispatch(self, now: float) -> None:
        """Give free places to those who wait: one tenant after the other, each in its own order."""
        while self._queues:
            if not any(place.in_flight < place.limit and place.breaker.admits(now) for place in self._places):
                return
            served = self._serve_one(now)
            if served is None:
                return
            if served in self._queues:
                self._queues.move_to_end(served)

    def _serve_one(self, now: float) -> str | None:
        for tenant, queue in self._queues.items():
            for waiter in queue:
                place = self._pick(waiter.excluded, now)
                if place is not None:
                    waiter.place = place
                    self._remove(waiter)
                    waiter.signal.release()
                    return tenant
        return None

    def _refuse_hopeless(self, now: float) -> None:
        for queue in list(self._queues.values()):
            for waiter in list(queue):
                if not self._hopeful(waiter.excluded, now):
                    waiter.refused = True
                    self._remove(waiter)
                    waiter.signal.release()
