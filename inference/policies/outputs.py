"""What a policy's answer may hold, and how it becomes a decision. Anything else denies.

Pure: no Django, no interpreter. Units: bytes, days, tokens, microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

CACHES = ("exact", "semantic")
# Names of the rules that decide; other rules of the package are helpers.
OUTPUTS = (
    "allow", "deny", "reason", "redact", "cache", "retain_days", "max_body_bytes", "obligations",
)  # fmt: skip
OBLIGATIONS = ("metadata", "parameters", "max_tokens", "user")
MAX_RETAIN_DAYS = 3650
# The ledger keeps this much.
MAX_REASON_CHARS = 300
NOT_ALLOWED = "The policy allows nothing that this call is."


class Malformed(ValueError):
    """A policy's answer is not one; the message names the rule."""


@dataclass(frozen=True, slots=True)
class PolicyDecision:
    """Whether a call may go on, and under which conditions.

    ``reason``: for people ("" when allowed without one). ``version``: of the policy that decided. ``redact``: name
    of the guard profile to apply, "" for what the release says. ``cache``: the caches the policy permits (the
    release must permit them too). ``retain_days``: how long prompt and output may be kept, 0 for not at all.
    ``max_body_bytes`` and ``obligations`` have been applied to this call already; they are here to be shown.
    ``cached``: taken from the decision cache. ``took_us``: microseconds spent deciding.
    """

    allowed: bool
    reason: str
    version: str
    redact: str = ""
    cache: tuple[str, ...] = ()
    retain_days: int = 0
    max_body_bytes: int | None = None
    obligations: Mapping[str, Any] = field(default_factory=dict)
    cached: bool = False
    took_us: int = 0
    # The engine failed or answered nonsense: denied, and not kept.
    failed: bool = False


def refused(version: str, reason: str) -> PolicyDecision:
    """Denied because deciding itself failed."""
    return PolicyDecision(False, reason, version, failed=True)


def _texts(value: Any, name: str) -> list[str]:
    if isinstance(value, str):
        value = [value] if value else []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise Malformed(f"{name} must be text or a set of texts")
    return value


def _whole(value: Any, name: str, *, low: int, high: int) -> int:
    # A JSON number may come back as 30.0.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise Malformed(f"{name} must be a whole number")
    if not low <= value <= high:
        raise Malformed(f"{name} must be from {low} to {high}")
    return int(value)


def _obligations(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed("obligations must be an object")
    unknown = sorted(set(value) - set(OBLIGATIONS))
    if unknown:
        # Whoever cannot fulfil an obligation must not let the call through.
        raise Malformed(f"obligations has the unknown name {unknown[0]}; known are {', '.join(OBLIGATIONS)}")
    checked: dict[str, Any] = {}
    for name in ("metadata", "parameters"):
        if name in value:
            if not isinstance(value[name], list):
                raise Malformed(f"obligations.{name} must be a list of names")
            checked[name] = tuple(_texts(value[name], f"obligations.{name}"))
    if "max_tokens" in value:
        checked["max_tokens"] = _whole(value["max_tokens"], "obligations.max_tokens", low=1, high=10**9)
    if "user" in value:
        if not isinstance(value["user"], bool):
            raise Malformed("obligations.user must be true or false")
        checked["user"] = value["user"]
    return checked


def decision_from(document: Any, version: str) -> PolicyDecision:
    """The decision that an evaluated package states. Raises Malformed for anything that is not one."""
    if not isinstance(document, dict):
        raise Malformed("the package is undefined")
    allow = document.get("allow", False)
    if not isinstance(allow, bool):
        raise Malformed("allow must be true or false")
    denials = sorted(_texts(document.get("deny", []), "deny"))
    reasons = sorted(_texts(document.get("reason", []), "reason"))
    redact = document.get("redact", "")
    if not isinstance(redact, str) or len(redact) > 120:
        raise Malformed("redact must be the name of a guard profile")
    caches = _texts(document.get("cache", list(CACHES)), "cache")
    unknown = sorted(set(caches) - set(CACHES))
    if unknown:
        raise Malformed(f"cache has the unknown name {unknown[0]}; known are {', '.join(CACHES)}")
    retain = _whole(document.get("retain_days", 0), "retain_days", low=0, high=MAX_RETAIN_DAYS)
    body = document.get("max_body_bytes")
    allowed = allow and not denials
    said = denials or reasons
    reason = "; ".join(said)
    if len(reason) > MAX_REASON_CHARS:
        reason = reason[: MAX_REASON_CHARS - 1] + "…"
    return PolicyDecision(
        allowed=allowed,
        reason=reason or ("" if allowed else NOT_ALLOWED),
        version=version,
        redact=redact,
        cache=tuple(name for name in CACHES if name in caches),
        retain_days=retain,
        max_body_bytes=None if body is None else _whole(body, "max_body_bytes", low=0, high=2**40),
        obligations=_obligations(document.get("obligations", {})),
    )


def unmet(decision: PolicyDecision, attributes: Mapping[str, Any]) -> str:
    """Why this call does not fulfil the conditions of an allowing decision; empty when it does.

    Checked on each call rather than in Rego, so that a decision can be kept although sizes differ from call to
    call.
    """
    limit = decision.max_body_bytes
    if limit is not None and _number(attributes.get("body_bytes")) > limit:
        return f"The body has {attributes.get('body_bytes')} bytes; the policy allows {limit}."
    for name, wanted in decision.obligations.items():
        if name == "metadata":
            given = attributes.get("metadata") or {}
            missing = [one for one in wanted if not given.get(one)]
            if missing:
                return f"The policy requires metadata: {', '.join(missing)}."
        elif name == "parameters":
            extra = [one for one in attributes.get("parameters") or () if one not in wanted]
            if extra:
                return f"The policy does not allow the parameter {extra[0]}."
        elif name == "max_tokens" and attributes.get("route") != "embeddings":
            asked = attributes.get("max_tokens")
            if asked is None or _number(asked) > wanted:
                return f"The policy requires max_tokens of at most {wanted}."
        elif name == "user" and wanted and not attributes.get("user_present"):
            return "The policy requires the field user."
    return ""


def _number(value: Any) -> float:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else 0


def denied_for(decision: PolicyDecision, reason: str) -> PolicyDecision:
    """The decision turned into a denial with this reason."""
    return replace(decision, allowed=False, reason=reason)
