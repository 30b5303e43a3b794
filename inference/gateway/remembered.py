"""Small answers of the database, remembered in the process for a moment, so that a request costs no query."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """``load(key)`` at most once per ``ttl_s`` and key; while one caller loads anew, others get the old value.

    The first load of a key is done by one caller while others wait. What ``load`` raises is not remembered.
    ``ttl_s`` bounds how long a revoked key or a changed channel goes on.
    """

    def __init__(self, load: Callable[[K], V], *, ttl_s: float, size: int = 10_000) -> None:
        self._load = load
        self._ttl_s = ttl_s
        self._size = size
        self._lock = threading.Lock()
        self._entries: dict[K, tuple[float, V]] = {}
        self._loading: dict[K, threading.Event] = {}
        self._generation = 0

    def get(self, key: K) -> V:
        """The value, at most ``ttl_s`` old plus one load."""
        entry = self._entries.get(key)
        now = time.monotonic()
        if entry is not None and now < entry[0]:
            return entry[1]
        while True:
            with self._lock:
                entry = self._entries.get(key)
                if entry is not None and time.monotonic() < entry[0]:
                    return entry[1]
                event = self._loading.get(key)
                if event is None:
                    event = self._loading[key] = threading.Event()
                    generation = self._generation
                    break
                # A value that is only just too old is good enough while somebody fetches the new one.
                if entry is not None and time.monotonic() < entry[0] + self._ttl_s:
                    return entry[1]
            event.wait(10)
        try:
            value = self._load(key)
            with self._lock:
                if generation == self._generation:
                    if len(self._entries) >= self._size:
                        self._entries.clear()
                    self._entries[key] = (time.monotonic() + self._ttl_s, value)
            return value
        finally:
            with self._lock:
                self._loading.pop(key, None)
            event.set()

    def forget(self) -> None:
        """Drop everything, here; other processes follow when their entries end."""
        with self._lock:
            self._generation += 1
            self._entries.clear()
