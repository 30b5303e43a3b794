"""At most k loaded models per process, the least recently used one dropped first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from inference.engines.base import Engine


class EngineCache:
    """Engines by key (digest, options, tenant where models are private). Thread-safe.

    A dropped engine is only forgotten here, never closed: a thread may still be using it, and its memory goes
    when the last user lets go of it.
    """

    def __init__(self, capacity: int = 2) -> None:
        if capacity < 1:
            raise ValueError(f"The cache must hold at least one engine, got capacity {capacity}.")
        self.capacity = capacity
        self._engines: OrderedDict[Hashable, Engine] = OrderedDict()
        self._lock = threading.Lock()
        self._loading: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, load: Callable[[], Engine]) -> Engine:
        """The engine of this key; ``load`` is called once for it however many threads ask at the same
        time."""
        with self._lock:
            if key in self._engines:
                self._engines.move_to_end(key)
                return self._engines[key]
            own = self._loading.setdefault(key, threading.Lock())
        with own:
            with self._lock:
                if key in self._engines:
                    self._engines.move_to_end(key)
                    return self._engines[key]
                # Make room before loading, so that the peak is k models and not k + 1.
                while len(self._engines) >= self.capacity:
                    self._engines.popitem(last=False)
            engine = load()
            with self._lock:
                self._engines[key] = engine
                self._loading.pop(key, None)
                while len(self._engines) > self.capacity:
                    self._engines.popitem(last=False)
            return engine

    def keys(self) -> list[Hashable]:
        """Keys from least to most recently used."""
        with self._lock:
            return list(self._engines)

    def clear(self) -> None:
        with self._lock:
            self._engines.clear()
