"""May this actor do this? One Rego policy decides, default deny; every part of Signoff asks here."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.http import HttpRequest, HttpResponseBase

from core.errors import Forbidden
from core.security.actor import Actor, current_actor

# regopy's library brings an allocator of its own. If it is also the first to bring in the C++ runtime, that
# runtime allocates with it for everybody, and torch, loaded later, ends the process with "double free".
with contextlib.suppress(OSError):  # not everywhere of this name; regopy itself says when it lacks it
    ctypes.CDLL("libstdc++.so.6")

from regopy import Interpreter

logger = logging.getLogger("signoff.decisions")

_HERE = Path(__file__).parent
_POLICY = (_HERE / "permissions.rego").read_text()
_DATA = (_HERE / "permissions_data.json").read_text()

# Version of the policy in force: digest of rules and data, logged with every decision.
POLICY_VERSION = hashlib.sha256((_POLICY + _DATA).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Decision:
    """Outcome of one permission question, with the policy version that decided it."""

    allowed: bool
    reason: str
    policy_version: str = POLICY_VERSION


# regopy's interpreter is not documented as thread-safe, and making one takes milliseconds.
_lock = threading.Lock()
_interpreter: Interpreter | None = None


def _evaluate(document: Mapping[str, object]) -> bool:
    global _interpreter
    with _lock:
        if _interpreter is None:
            interpreter = Interpreter()
            interpreter.add_module("permissions", _POLICY)
            interpreter.add_data_json(_DATA)
            _interpreter = interpreter
        _interpreter.set_input_term(json.dumps(document))
        result = str(_interpreter.query("data.signoff.permissions.allow"))
        # No rule that applied: the interpreter answers "undefined" rather than the default.
        return result != "undefined" and json.loads(result)["expressions"][0] is True


# Decisions depend only on these attributes, so they are cached on them (an evaluation takes about a millisecond).
@functools.lru_cache(maxsize=4096)
def _decide(kind: str, roles: tuple[str, ...], scopes: tuple[str, ...], action: str, public: bool) -> bool:
    try:
        return _evaluate({"kind": kind, "roles": roles, "scopes": scopes, "action": action, "public": public})
    except Exception:
        # An engine error denies; the log says which question failed.
        logger.exception("permission engine failed", extra={"action": action, "kind": kind})
        return False


def decide(actor: Actor, action: str, resource: Mapping[str, object] | None = None) -> Decision:
    """Whether `actor` may do `action` ("noun.verb") on a resource with these attributes.

    An actor of another tenant's schema (`resource["schema"]`) is always refused.
    """
    schema = (resource or {}).get("schema")
    if schema is not None and actor.kind != "system" and actor.schema != schema:
        decision = Decision(False, "The object belongs to another tenant.")
    elif _decide(
        actor.kind, tuple(sorted(actor.roles)), tuple(sorted(actor.scopes)), action, actor.schema == "public"
    ):
        decision = Decision(True, "granted")
    else:
        decision = Decision(False, _denial(actor, action))
    level = logging.DEBUG if decision.allowed else logging.INFO
    logger.log(
        level,
        "permission %s",
        "granted" if decision.allowed else "denied",
        extra={
            "action": action,
            "actor_kind": actor.kind,
            "actor_id": actor.id,
            "policy_version": decision.policy_version,
            "reason": decision.reason,
        },
    )
    return decision


def _denial(actor: Actor, action: str) -> str:
    if actor.kind == "anonymous":
        return "Sign in first."
    if actor.kind == "api_key":
        return f"This API key has no scope that includes {action}. An admin can issue a key that has it."
    roles = ", ".join(actor.roles) or "none"
    return f"This needs the permission {action}; your role ({roles}) does not include it. Ask an admin of your tenant."


def require(
    action: str, resource: Mapping[str, object] | None = None, actor: Actor | None = None
) -> Decision:
    """Refuse unless allowed. Raises Forbidden with the reason."""
    decision = decide(actor or current_actor(), action, resource)
    if not decision.allowed:
        raise Forbidden(decision.reason)
    return decision


def can(action: str, actor: Actor | None = None) -> bool:
    """Whether the current actor may do `action`; for templates and navigation."""
    return decide(actor or current_actor(), action).allowed


View = Callable[..., HttpResponseBase]


def requires(action: str) -> Callable[[View], View]:
    """Decorator of a page: anonymous visitors go to sign-in, others without the permission get 403."""

    def decorate(view: View) -> View:
        @functools.wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            actor = current_actor()
            if actor.kind == "anonymous":
                # Imported here: this module is used before the app registry is ready.
                from django.contrib.auth.views import redirect_to_login

                return redirect_to_login(request.get_full_path())
            require(action, actor=actor)
            return view(request, *args, **kwargs)

        guarded.required_action = action  # type: ignore[attr-defined]  # read by the permission walk in the tests
        return guarded

    return decorate
