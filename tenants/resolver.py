"""Which tenant answers at a host: looked up once, remembered in the process for half a minute.

A lookup costs a query and a connection from the pool on every request; remembered, it costs a dictionary. A
change is seen at once in the process that makes it, and within milliseconds in the others, which listen on a
channel of the cache server; should that be down, after `TTL_S` at the latest.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django_tenants.utils import get_public_schema_name, schema_context

from tenants.db import connection
from tenants.models import Domain, Plan, Tenant

if TYPE_CHECKING:
    from redis import Redis

logger = logging.getLogger("signoff.tenants")

# Seconds. An upper bound on how long a deactivated tenant stays reachable when the cache server is down.
TTL_S = 30.0
# Seconds. That a name is unknown is believed for less: it may be created any moment.
UNKNOWN_TTL_S = 2.0
# Seconds that an answer which is only just too old is given while another thread looks anew.
_GRACE_S = 1.0
CHANNEL = "signoff:tenants-changed"
# Names nobody asked for must not fill the memory.
_MAX_ENTRIES = 20_000


@dataclass(frozen=True)
class _Entry:
    tenant: Tenant | None
    expires: float


_lock = threading.Lock()
_entries: dict[str, _Entry] = {}
_looking: set[str] = set()
_generation = 0


def forget() -> None:
    """Drop everything remembered; the next request looks again."""
    global _generation
    with _lock:
        _generation += 1
        _entries.clear()


def announce() -> None:
    """Forget here and tell the other processes to. A silent cache server only delays them."""
    import redis

    forget()
    with contextlib.suppress(redis.RedisError):
        _publisher(settings.CACHE_URL).publish(CHANNEL, "changed")


@functools.cache
def _publisher(url: str) -> Redis:
    """A client whose connection is kept for the next change; safe to share between threads and after a fork."""
    import redis

    return redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1)


def _on_change(**_: object) -> None:
    # Now, for what follows in this transaction; and after the commit, because a request in between may have
    # remembered the old state again.
    forget()
    # Once per transaction, however many rows it changes.
    if not any(function is announce for _, function, _ in connection.run_on_commit):
        transaction.on_commit(announce)


# Process id that has a listener: a forked child starts its own.
_listening_pid = 0


def _listen() -> None:
    global _listening_pid
    pid = os.getpid()
    if _listening_pid == pid:
        return
    with _lock:
        if _listening_pid == pid:
            return
        _listening_pid = pid
    threading.Thread(target=_hear, name="tenants-changed", daemon=True).start()


def _hear() -> None:
    import redis

    while True:
        try:
            with (
                redis.Redis.from_url(settings.CACHE_URL, health_check_interval=30) as client,
                client.pubsub() as channel,
            ):
                channel.subscribe(CHANNEL)
                # Also on (re)connection: what was published meanwhile is lost.
                for _ in channel.listen():
                    forget()
        except (redis.RedisError, OSError):
            time.sleep(2)


for _model in (Tenant, Domain, Plan):
    post_save.connect(_on_change, sender=_model, dispatch_uid=f"resolver-save-{_model.__name__}")
    post_delete.connect(_on_change, sender=_model, dispatch_uid=f"resolver-delete-{_model.__name__}")


def _remember(key: str, tenant: Tenant | None, generation: int) -> None:
    with _lock:
        if generation != _generation:
            return  # something changed while we looked; do not keep what may be old
        if len(_entries) >= _MAX_ENTRIES:
            _entries.clear()
        _entries[key] = _Entry(tenant, time.monotonic() + (TTL_S if tenant else UNKNOWN_TTL_S))


def _find(key: str, **lookup: str) -> Tenant | None:
    entry = _entries.get(key)
    now = time.monotonic()
    if entry is not None and entry.expires > now:
        return entry.tenant
    with _lock:
        # One thread looks again; a hundred others must not all want a connection for the same answer.
        if entry is not None and key in _looking and now < entry.expires + _GRACE_S:
            return entry.tenant
        _looking.add(key)
    _listen()
    generation = _generation
    # A thread that came without a connection leaves without one: holding it while it waits for something else
    # (the gateway's threads do) would empty the pool.
    outermost = connection.connection is None and not connection.in_atomic_block
    try:
        with schema_context(get_public_schema_name()):
            tenant = Tenant.objects.select_related("plan").filter(**lookup).first()
        _remember(key, tenant, generation)
        return tenant
    finally:
        with _lock:
            _looking.discard(key)
        if outermost:
            connection.close()


def tenant_by_host(host: str) -> Tenant | None:
    """The tenant whose domain is `host` (lower case, without port), or None."""
    return _find(f"host:{host}", domains__domain=host)


def tenant_by_schema(schema_name: str) -> Tenant | None:
    """The tenant with this schema, or None. Never the public schema."""
    if schema_name == get_public_schema_name():
        return None
    return _find(f"schema:{schema_name}", schema_name=schema_name)
