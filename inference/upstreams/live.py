"""What the gateway processes know of the upstreams, for the pages of another process.

Each gateway process writes the state of the upstreams it has used into the cache server every two seconds; what it
wrote is forgotten a little later, so a process that died does not look alive.
"""

from __future__ import annotations

import logging
import os
import socket
import statistics
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson
from django.conf import settings

from inference.upstreams.routing import Upstreams

logger = logging.getLogger("signoff.gateway")

EVERY_S = 2.0
KEPT_S = 8
_PREFIX = "signoff:upstreams:"


@dataclass(frozen=True)
class Live:
    """One upstream over all gateway processes. ``first_ms``: median of recent times to the first byte."""

    processes: int
    in_flight: int
    waiting: int
    breaker: str
    answered: int
    failed: int
    aborted: int
    first_ms: float | None
    last_error: str


def snapshot(schema: str) -> dict[str, dict[str, Any]]:
    """State of the tenant's upstreams in this process, by the id of the row."""
    now = time.monotonic()
    found: dict[str, dict[str, Any]] = {}
    for channel, gate in Upstreams.channels(schema):
        stats = channel.stats
        recent = list(stats.recent_ms)
        recent_failure = time.time() - stats.last_error_at < 300
        found[channel.endpoint.id.rpartition("/")[2]] = {
            "in_flight": channel.in_flight,
            "waiting": sum(gate.waiting().values()),
            "breaker": channel.breaker.state(now),
            "answered": stats.answered,
            "failed": stats.failed,
            "aborted": stats.aborted,
            "first_ms": statistics.median(recent) if recent else None,
            "last_error": stats.last_error if recent_failure else "",
        }
    return found


def _client() -> Any:
    import redis

    return redis.Redis.from_url(settings.CACHE_URL, socket_timeout=1, socket_connect_timeout=1)


def publish_once(client: Any) -> int:
    """Write this process's state. Returns for how many tenants."""
    process = f"{socket.gethostname()}-{os.getpid()}"
    written = 0
    for schema in Upstreams.schemas():
        state = snapshot(schema)
        if state:
            client.set(f"{_PREFIX}{schema}:{process}", orjson.dumps(state), ex=KEPT_S)
            written += 1
    return written


_started_pid = 0
_start_lock = threading.Lock()


def publishing_start() -> None:
    """Publish from a thread of this process from now on. Without effect the second time."""
    global _started_pid
    with _start_lock:
        if _started_pid == os.getpid():
            return
        _started_pid = os.getpid()
    threading.Thread(target=_publish, daemon=True, name="upstreams-live").start()


def _publish() -> None:
    client = _client()
    while True:
        time.sleep(EVERY_S)
        try:
            publish_once(client)
        except Exception:
            # The page shows less; requests are not touched.
            logger.debug("the state of the upstreams could not be published", exc_info=True)


def live_states(schema: str) -> dict[int, Live]:
    """The tenant's upstreams as the gateway processes last said; empty when none did, or the cache is away."""
    import redis

    try:
        with _client() as client:
            # The schema's name has no characters that a pattern would read otherwise.
            names = list(client.scan_iter(match=f"{_PREFIX}{schema}:*", count=500))
            texts = client.mget(names) if names else []
    except redis.RedisError:
        return {}
    by_row: dict[int, list[dict[str, Any]]] = {}
    for text in texts:
        for key, state in (orjson.loads(text) if text else {}).items():
            by_row.setdefault(int(key), []).append(state)
    return {key: _merged(states) for key, states in by_row.items()}


def _merged(states: Iterable[dict[str, Any]]) -> Live:
    rows = list(states)
    times = [row["first_ms"] for row in rows if row["first_ms"] is not None]
    order = ("closed", "half-open", "open")
    return Live(
        processes=len(rows),
        in_flight=sum(row["in_flight"] for row in rows),
        waiting=sum(row["waiting"] for row in rows),
        breaker=max((row["breaker"] for row in rows), key=order.index),
        answered=sum(row["answered"] for row in rows),
        failed=sum(row["failed"] for row in rows),
        aborted=sum(row["aborted"] for row in rows),
        first_ms=statistics.median(times) if times else None,
        last_error=next((row["last_error"] for row in rows if row["last_error"]), ""),
    )
