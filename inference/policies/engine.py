"""May this call go on? Asked for every request of the gateway, so built to answer from memory.

The active policy of a tenant is kept in the process for at most ACTIVE_TTL_S; its decisions are kept under the
values that it reads (keys.py). A policy is deterministic by construction (analysis.py refuses clocks, randomness and
calls elsewhere), so a kept decision is the one that would be made again. Whatever goes wrong denies.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from django.conf import settings
from django.db import connection
from django_tenants.utils import schema_context

from inference.policies.analysis import Analysis, analyse
from inference.policies.defaults import DEFAULT_POLICY, DEFAULT_VERSION
from inference.policies.keys import KeyOf, key_function
from inference.policies.opa import OpaClient, RemoteProgram
from inference.policies.outputs import Malformed, PolicyDecision, decision_from, refused, unmet
from inference.policies.rego import EngineError, Program, as_json

__all__ = ["PolicyDecision", "active_version", "decide", "forget"]

logger = logging.getLogger("signoff.policies")

# Seconds another process may go on with the policy that was active before.
ACTIVE_TTL_S = 1.5
# Seconds beyond that other threads go on with it while one of them reads, instead of waiting.
GRACE_S = 0.5
# Decisions kept per policy; all are dropped when there are more (a flood of different calls, or ids in the policy).
MAX_DECISIONS = 8192


class Askable(Protocol):
    """A compiled policy, embedded or remote."""

    def ask(self, document: bytes) -> Any:
        """The package for this input. Raises EngineError."""


@dataclass(slots=True)
class Loaded:
    """One tenant's policy as this process has it. ``broken``: why it could not be loaded; it then denies."""

    version: str
    digest: str
    program: Askable | None
    analysis: Analysis | None
    key_of: KeyOf | None
    broken: str = ""
    fresh_until: float = 0.0
    decisions: dict[bytes, PolicyDecision] = field(default_factory=dict)
    # Threads that miss the same key at once: one evaluates, the others wait for its answer.
    flights: tuple[threading.Lock, ...] = field(
        default_factory=lambda: tuple(threading.Lock() for _ in range(32))
    )


_loaded: dict[str, Loaded] = {}
_locks: dict[str, threading.Lock] = {}
_generation: dict[str, int] = {}
_guard = threading.Lock()
_opa: dict[tuple[str, str], OpaClient] = {}


def decide(schema: str, attributes: Mapping[str, Any]) -> PolicyDecision:
    """The decision of the tenant's active policy on a call (``contract.policy_attributes``). Never raises.

    About 10 microseconds when the decision is kept, 1 to 2 milliseconds when it has to be made.
    """
    began = time.perf_counter_ns()
    loaded = _loaded.get(schema)
    if loaded is None or loaded.fresh_until < time.monotonic():
        loaded = _refresh(schema)
    key_of = loaded.key_of
    if key_of is None:
        return refused(loaded.version, loaded.broken)
    try:
        key = key_of(attributes)
    except (TypeError, ValueError, AttributeError):
        return refused(loaded.version, "The attributes of the call are not JSON.")
    kept = loaded.decisions.get(key)
    cached = kept is not None
    if kept is None:
        with loaded.flights[hash(key) % 32]:
            kept = loaded.decisions.get(key)
            if kept is None:
                kept = _decided(schema, loaded, attributes)
                if not kept.failed:
                    if len(loaded.decisions) >= MAX_DECISIONS:
                        loaded.decisions.clear()
                    loaded.decisions[key] = kept
    allowed, reason = kept.allowed, kept.reason
    if allowed and (kept.max_body_bytes is not None or kept.obligations):
        missing = unmet(kept, attributes)
        if missing:
            allowed, reason = False, missing
    return PolicyDecision(
        allowed,
        reason,
        kept.version,
        kept.redact,
        kept.cache,
        kept.retain_days,
        kept.max_body_bytes,
        kept.obligations,
        cached,
        (time.perf_counter_ns() - began) // 1000,
        kept.failed,
    )


def _decided(schema: str, loaded: Loaded, attributes: Mapping[str, Any]) -> PolicyDecision:
    assert loaded.program is not None
    try:
        return decision_from(loaded.program.ask(as_json(attributes)), loaded.version)
    except Malformed as error:
        reason = f"The policy's answer is not usable: {error}."
    except EngineError as error:
        reason = str(error)
    except Exception as error:  # whatever it is, it must not let a call through
        reason = f"The policy engine failed ({type(error).__name__})."
    # Without the attributes: they may name people.
    logger.error(
        "policy engine failed", extra={"schema": schema, "version": loaded.version, "reason": reason}
    )
    return refused(loaded.version, f"The policy could not decide, so the call is denied. {reason}")


# ------------------------------------------------------------------ the active policy
def _refresh(schema: str) -> Loaded:
    """The tenant's policy, read again by one thread; others go on with the one they have, for a moment, or wait."""
    with _guard:
        lock = _locks.setdefault(schema, threading.Lock())
    known = _loaded.get(schema)
    if not lock.acquire(blocking=False):
        if known is not None and time.monotonic() < known.fresh_until + GRACE_S:
            return known
        lock.acquire()
    try:
        known = _loaded.get(schema)
        if known is not None and known.fresh_until >= time.monotonic():
            return known
        generation = _generation.get(schema, 0)
        asked_at = time.monotonic()
        try:
            row = _active_row(schema, known.version if known and not known.broken else "")
        except Exception as error:
            logger.error(
                "the active policy cannot be read", extra={"schema": schema, "reason": type(error).__name__}
            )
            # Not kept: the next call tries again.
            return _broken(known.version if known else "unknown", "The active policy could not be read.")
        if row is None:
            assert known is not None
            fresh = known
        else:
            fresh = _load(schema, *row)
        fresh.fresh_until = asked_at + ACTIVE_TTL_S
        with _guard:
            # Somebody activated another version in this process while we read.
            if _generation.get(schema, 0) == generation:
                _loaded[schema] = fresh
        return fresh
    finally:
        lock.release()


def _active_row(schema: str, known: str) -> tuple[str, str, str, dict[str, Any]] | None:
    """(version, digest, policy, data) of what is active; None when it is the version that is known."""
    from inference.policies.models import PolicyBundle

    was_open = connection.connection is not None
    try:
        with schema_context(schema):
            active = PolicyBundle.objects.filter(status=PolicyBundle.Status.ACTIVE)
            row = active.values_list("version", "digest").first()
            if row is None:
                return None if known == DEFAULT_VERSION else (DEFAULT_VERSION, "", DEFAULT_POLICY, {})
            if f"v{row[0]}" == known:
                return None
            policy, data = PolicyBundle.objects.values_list("policy", "data").get(version=row[0])
            return f"v{row[0]}", row[1], policy, data
    finally:
        # A thread of the gateway has no request at whose end the connection would go back to the pool.
        if not was_open:
            connection.close()


def _load(schema: str, version: str, digest: str, policy: str, data: dict[str, Any]) -> Loaded:
    try:
        program, analysis = program_for(schema, version=version, policy=policy, data=data)
    except EngineError as error:
        logger.error(
            "a policy cannot be loaded", extra={"schema": schema, "version": version, "reason": str(error)}
        )
        return _broken(version, f"The active policy could not be loaded, so the call is denied. {error}")
    return Loaded(version, digest, program, analysis, key_function(analysis))


def _broken(version: str, reason: str) -> Loaded:
    return Loaded(version, "", None, None, None, broken=reason)


def program_for(
    schema: str, *, version: str, policy: str, data: dict[str, Any] | None
) -> tuple[Askable, Analysis]:
    """A policy ready to be asked, embedded or at the OPA of the settings. Raises EngineError."""
    analysis = analyse(policy)
    if analysis.problems:
        raise EngineError(str(analysis.problems[0]))
    if settings.OPA_URL:
        return (
            RemoteProgram(opa_client(), schema=schema, version=version, policy=policy, data=data),
            analysis,
        )
    return Program(policy, data=data), analysis


def opa_client() -> OpaClient:
    """The client of the OPA named in the settings. Raises EngineError when its address is none."""
    address = (settings.OPA_URL, getattr(settings, "OPA_TOKEN", ""))
    with _guard:
        if address not in _opa:
            try:
                _opa[address] = OpaClient(address[0], token=address[1])
            except ValueError as error:
                raise EngineError("OPA_URL is not an http or https address.") from error
        return _opa[address]


def active_version(schema: str) -> str:
    """Version of the policy in force, as decisions name it: "v7", or "default-1"."""
    loaded = _loaded.get(schema)
    if loaded is None or loaded.fresh_until < time.monotonic():
        loaded = _refresh(schema)
    return loaded.version


def forget(schema: str | None = None) -> None:
    """Read the active policy again at the next call: of one tenant, or of all."""
    with _guard:
        for name in [schema] if schema is not None else list(_loaded):
            _generation[name] = _generation.get(name, 0) + 1
            _loaded.pop(name, None)
