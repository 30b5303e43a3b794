"""What the gateway calls: one plan per request, made when release and policy have spoken.

plan = cache_plan(call, caller, target, config=release_gateway.cache, allowed=decision.cache,
                  policy_version=decision.version, guard_version=guards.version)
hit = plan.lookup() if plan else None
...
if hit is None: plan.store(answer, clean=verdict.clean)
elif plan.shadow_due(): in the background, plan.shadow_record(answer of the engine)
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from inference.caches import shadow
from inference.caches import store as storage
from inference.caches.keys import Partition, RequestKey, partition_for, request_key
from inference.caches.store import Hit
from inference.gateway.contract import Call, Caller, RouteTarget
from inference.gateway.release_config import CacheConfig

logger = logging.getLogger("signoff.caches")

Status = Literal["off", "bypass", "miss", "hit-exact", "hit-semantic"]
# Answers that wait to be found by meaning; more are found by digest only.
_WAITING: Final = 500


@dataclass(slots=True)
class CachePlan:
    """The cache's part in one request. ``status`` is the value of the ``x-signoff-cache`` header."""

    partition: Partition
    key: RequestKey
    config: CacheConfig
    exact: bool
    semantic: bool
    read: bool
    write: bool
    status: Status = "bypass"
    hit: Hit | None = None
    _vector: np.ndarray | None = None

    def lookup(self) -> Hit | None:
        """The stored answer, exact before semantic. Never raises."""
        if not self.read:
            return None
        found = storage.exact_lookup(self.partition, self.key.digest) if self.exact or self.semantic else None
        if found is None and self.semantic:
            found = self._by_meaning()
        self.hit = found
        self.status = "miss" if found is None else ("hit-exact" if found.kind == "exact" else "hit-semantic")
        if found is None:
            storage.STATISTICS.missed(self.partition)
        return found

    def _by_meaning(self) -> Hit | None:
        group = self.key.group
        # Encoding takes milliseconds; a group without entries needs none.
        if group is None or not storage.group_known(self.partition, group):
            return None
        if not shadow.semantic_status(self.partition.schema, self.partition.release_digest).enabled:
            return None
        try:
            from inference.caches.encoder import encode

            self._vector = encode(self.key.text)
        except Exception as error:  # a model that is not installed is a miss
            logger.warning("semantic cache cannot encode: %s", type(error).__name__)
            return None
        return storage.semantic_lookup(self.partition, group, self._vector, threshold=self.config.threshold)

    def store(self, answer: Mapping[str, Any], *, clean: bool) -> bool:
        """Keep the answer: at once by digest, a moment later by meaning. Never raises."""
        if not self.write:
            return False
        kept = storage.store(self.partition, self.key, answer, ttl_s=self.config.ttl_s, clean=clean)
        if kept and self.semantic and self.key.group is not None:
            INDEXER.add(self, answer)
        return kept

    def shadow_due(self) -> bool:
        """Whether this hit should be asked again in the background."""
        return (
            self.hit is not None
            and self.hit.kind == "semantic"
            and shadow.shadow_due(self.partition, share=self.config.shadow_share)
        )

    def shadow_record(self, fresh: Mapping[str, Any]) -> None:
        """What the engine says now. Call it outside the request; it uses the ORM."""
        if self.hit is not None:
            shadow.shadow_record(self.partition, self.hit, fresh, bound=self.config.max_false_hit)


def cache_plan(
    call: Call,
    caller: Caller,
    target: RouteTarget,
    *,
    config: CacheConfig,
    allowed: Collection[str],
    policy_version: str,
    guard_version: str,
) -> CachePlan | None:
    """The plan, or None when this request has nothing to do with caches.

    None: release or policy allow neither kind, or the client asks for randomness (`keys.reproducible`). A client's
    "no-cache" still stores; "no-store" does neither, and gets a plan with the status "bypass".
    """
    exact = config.exact and "exact" in allowed
    semantic = config.semantic and "semantic" in allowed and call.route in {"chat.completions", "responses"}
    if not exact and not semantic:
        return None
    key = request_key(caller.schema, call, semantic=semantic)
    if key is None or (not exact and key.group is None):
        return None
    partition = partition_for(
        target, caller, call, policy_version=policy_version, guard_version=guard_version, scope=config.scope
    )
    wish = call.cache_control
    return CachePlan(
        partition, key, config, exact, semantic, read=wish not in {"no-cache", "no-store"}, write=wish != "no-store"
    )  # fmt: skip


class Indexer:
    """Gives stored answers their vectors, one after the other, away from the requests."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[tuple[CachePlan, Mapping[str, Any]]] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def add(self, plan: CachePlan, answer: Mapping[str, Any]) -> None:
        """Have an answer indexed soon; without effect when too many wait."""
        try:
            self._waiting.put_nowait((plan, answer))
        except queue.Full:
            return
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="cache-index", daemon=True)
                self._thread.start()

    def wait(self) -> None:
        """Until everything added so far is indexed."""
        self._waiting.join()

    def _run(self) -> None:
        while True:
            plan, answer = self._waiting.get()
            try:
                from inference.caches.encoder import encode

                vector = plan._vector if plan._vector is not None else encode(plan.key.text)
                storage.vector_add(plan.partition, plan.key, answer, vector)
            except Exception as error:
                logger.warning("semantic cache cannot index: %s", type(error).__name__)
            finally:
                self._waiting.task_done()


INDEXER = Indexer()
