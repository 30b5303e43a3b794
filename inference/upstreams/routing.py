"""Which upstreams answer for a release: the model version's own rows, else ENGINE_URL, else the embedded engine.

The rows are read at most every few seconds and process. An upstream that stays as it was keeps its connections,
its breaker and its place in the queue; one that changed begins anew while requests under way end on the old.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from django.conf import settings

from core.security.fields import SealBroken, tenant_sealer
from inference.gateway.contract import RouteTarget
from inference.upstreams.client import Channel, Pool
from inference.upstreams.endpoint import BadAddress, Endpoint, address_refusal
from inference.upstreams.fairness import Gate
from inference.upstreams.models import Upstream
from tenants.entering import schema_entered

__all__ = ["Upstreams", "endpoint_of", "own_ports", "refuse_address", "seal_purpose"]

# Seconds until a changed row is followed in every process.
TTL_S = 3.0
# The embedded engine decodes this many sequences at once; more wait here, in an order that is fair.
_EMBEDDED_CONCURRENCY = 32


def seal_purpose(pk: int) -> bytes:
    """What an upstream's sealed key is bound to."""
    return f"upstream/{pk}".encode()


def own_ports() -> frozenset[int]:
    """Ports of this installation's own services, which no tenant may reach through an upstream."""
    from urllib.parse import urlsplit

    found = {settings.PORT, settings.GATEWAY_PORT, settings.ENGINE_PORT}
    for url in (settings.DATABASE_URL, settings.BROKER_URL, settings.CACHE_URL, settings.SERVING_URL):
        port = urlsplit(url).port
        if port:
            found.add(port)
    return frozenset(found)


def refuse_address(address: str, port: int) -> str:
    """Why a resolved address must not be called for a tenant, or ""."""
    return address_refusal(
        address, port, own_ports=own_ports(), blocked=getattr(settings, "UPSTREAM_BLOCKED_NETWORKS", ())
    )


def endpoint_of(schema: str, row: Upstream) -> Endpoint:
    """A row as the client needs it. Raises SealBroken when SECRET_KEY does not open its key."""
    sealed = bytes(row.api_key_sealed or b"")
    key = tenant_sealer(schema, "upstreams").open(sealed, seal_purpose(row.pk)).decode() if sealed else ""
    return Endpoint(
        id=f"{schema}/{row.pk}",
        name=row.name,
        url=row.url,
        model=row.remote_model,
        api_key=key,
        weight=row.weight,
        max_concurrency=row.max_concurrency,
        max_waiting=max(32, 2 * row.max_concurrency),
        connect_timeout_s=row.connect_timeout_s,
        first_byte_timeout_s=row.first_byte_timeout_s,
        chunk_timeout_s=row.chunk_timeout_s,
        total_timeout_s=row.total_timeout_s,
        guarded=True,
    )


@dataclass(slots=True)
class _Route:
    """One model version's way: its pool, and until when it is taken as read."""

    pool: Pool
    gate: Gate[Channel] | None
    until: float


class Registry:
    """The upstreams of this process. Safe to share between threads; there is one, :data:`Upstreams`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._routes: dict[tuple[str, int], _Route] = {}
        self._loading: set[tuple[str, int]] = set()
        self._shared: dict[Endpoint, Gate[Channel]] = {}

    def for_route(self, target: RouteTarget) -> Pool:
        """What may answer for this release. An empty pool says so when it is asked (UpstreamUnavailable)."""
        key = (target.schema, target.model_version_id)
        route = self._routes.get(key)
        now = time.monotonic()
        if route is not None and now < route.until:
            return route.pool
        if route is not None:
            with self._lock:
                # One thread reads anew, the others go on with what was true a moment ago.
                if key in self._loading and now < route.until + TTL_S:
                    return route.pool
                self._loading.add(key)
        try:
            return self._load(target, key)
        finally:
            with self._lock:
                self._loading.discard(key)

    def channels(self, schema: str) -> Iterable[tuple[Channel, Gate[Channel]]]:
        """The upstreams of a tenant's own that this process has used."""
        with self._lock:
            routes = [route for key, route in self._routes.items() if key[0] == schema and route.gate]
        for route in routes:
            if route.gate is not None:
                for channel in route.gate.places:
                    yield channel, route.gate

    def schemas(self) -> set[str]:
        """Tenants that have upstreams of their own here."""
        with self._lock:
            return {key[0] for key, route in self._routes.items() if route.gate is not None}

    def forget(self) -> None:
        """Close what is idle and read everything anew."""
        with self._lock:
            gates = [route.gate for route in self._routes.values() if route.gate] + list(
                self._shared.values()
            )
            self._routes.clear()
            self._shared.clear()
        for gate in gates:
            for channel in gate.places:
                channel.retire()

    # ------------------------------------------------------------------ reading
    def _load(self, target: RouteTarget, key: tuple[str, int]) -> Pool:
        with schema_entered(target.schema):
            rows = list(Upstream.objects.filter(model_version_id=target.model_version_id, enabled=True))
            exists = bool(rows) or Upstream.objects.filter(model_version_id=target.model_version_id).exists()
            name = ""
            if not exists and settings.ENGINE_URL:
                from inference.models import ModelVersion

                name = (
                    ModelVersion.objects.filter(pk=target.model_version_id)
                    .values_list("name", flat=True)
                    .first()
                    or ""
                )
        until = time.monotonic() + TTL_S
        if not exists:
            pool = self._installation_pool(target, name)
            with self._lock:
                old = self._routes.get(key)
                self._routes[key] = _Route(pool, None, until)
            if old is not None and old.gate is not None:
                old.gate.replace((), max_waiting=0, max_wait_s=0.1)
            return pool
        endpoints = []
        for row in rows:
            try:
                endpoints.append(endpoint_of(target.schema, row))
            except SealBroken:
                continue  # the page and the check say so
        with self._lock:
            route = self._routes.get(key)
            gate = route.gate if route is not None and route.gate is not None else Gate[Channel]()
            known = {channel.endpoint: channel for channel in gate.places}
            channels = []
            for endpoint in endpoints:
                try:
                    kept = known.pop(endpoint) if endpoint in known else None
                    channels.append(kept or Channel(endpoint, refuse=refuse_address))
                except BadAddress:
                    continue  # stored before the rule that refuses it
            gate.replace(
                channels,
                max_waiting=sum(endpoint.max_waiting for endpoint in endpoints),
                max_wait_s=max((endpoint.wait_timeout_s for endpoint in endpoints), default=1.0),
            )
            for gone in known.values():
                gone.retire()
            pool = route.pool if route is not None and route.gate is gate else Pool(gate)
            self._routes[key] = _Route(pool, gate, until)
            return pool

    def _installation_pool(self, target: RouteTarget, name: str) -> Pool:
        """The installation's own engine: its places are shared by all tenants."""
        if settings.ENGINE_URL:
            endpoint = Endpoint(
                id="engine-url",
                name="installation",
                url=settings.ENGINE_URL.rstrip("/"),
                api_key=settings.ENGINE_API_KEY,
                max_concurrency=128,
                max_waiting=128,
                first_byte_timeout_s=300.0,
            )
            model = name
        else:
            endpoint = Endpoint(
                id="embedded",
                name="embedded",
                url=settings.SERVING_URL.rstrip("/"),
                api_key=settings.ENGINE_TOKEN,
                max_concurrency=_EMBEDDED_CONCURRENCY,
                max_waiting=128,
                wait_timeout_s=20.0,
                # The first request for a model waits until it is loaded.
                first_byte_timeout_s=300.0,
                chunk_timeout_s=60.0,
            )
            model = f"{target.schema}/{target.model_digest}"
        with self._lock:
            gate = self._shared.get(endpoint)
            if gate is None:
                gate = self._shared[endpoint] = Gate(
                    [Channel(endpoint)], max_waiting=endpoint.max_waiting, max_wait_s=endpoint.wait_timeout_s
                )
        return Pool(gate, model=model)


Upstreams = Registry()
