"""The configuration of a guard profile: redaction and a list of guards. Pure; what it says is what runs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from core.security.redaction import RedactionConfig, RedactionConfigError
from core.security.redaction.config import MAX_PATTERN_LENGTH, compile_custom

KINDS: Final = ("deny_words", "deny_patterns", "injection", "topics")
DIRECTIONS: Final = ("input", "output", "both")
ACTIONS: Final = ("flag", "block")
MAX_GUARDS: Final = 20
MAX_WORDS: Final = 300
MAX_WORD: Final = 80
MAX_TOPICS: Final = 50
# Where the stored head of the injection guard was set: docs/design/redaction.md has what it finds there.
INJECTION_THRESHOLD: Final = 0.575
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,39}")


class GuardConfigError(ValueError):
    """A configuration that cannot be used. ``fields``: sentences by the place that is wrong."""

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self.fields = dict(fields)
        super().__init__(" ".join(sentence for sentences in self.fields.values() for sentence in sentences))


@dataclass(frozen=True, slots=True)
class GuardSpec:
    """One guard. ``words``/``patterns``: what deny lists refuse. ``allowed``/``denied``: example sentences of topics.

    ``threshold``: score from which ``injection`` acts (0 to 1); cosine similarity for ``topics``.
    """

    name: str
    kind: str
    direction: str = "input"
    action: str = "flag"
    words: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    threshold: float = 0.5

    def covers(self, direction: str) -> bool:
        return self.direction in (direction, "both")

    def as_dict(self) -> dict[str, Any]:
        """The JSON form: only what this kind reads."""
        made: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "direction": self.direction,
            "action": self.action,
        }
        if self.kind == "deny_words":
            made["words"] = list(self.words)
        elif self.kind == "deny_patterns":
            made["patterns"] = list(self.patterns)
        elif self.kind == "topics":
            made |= {"allowed": list(self.allowed), "denied": list(self.denied), "threshold": self.threshold}
        else:
            made["threshold"] = self.threshold
        return made


@dataclass(frozen=True)
class GuardConfig:
    """Redaction and guards of one profile version."""

    redaction: RedactionConfig
    guards: tuple[GuardSpec, ...] = ()

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> GuardConfig:
        """Check a configuration. Raises GuardConfigError naming every field at fault."""
        if not isinstance(given, Mapping):
            raise GuardConfigError({"config": ["The configuration must be an object."]})
        problems: dict[str, list[str]] = {}
        for key in given:
            if key not in ("redaction", "guards"):
                problems.setdefault(str(key), []).append(
                    f'"{key}" is not part of a profile; known are redaction and guards.'
                )
        redaction = RedactionConfig()
        try:
            redaction = RedactionConfig.from_dict(given.get("redaction", {}))
        except RedactionConfigError as error:
            problems.update({f"redaction.{name}": sentences for name, sentences in error.fields.items()})
        guards: list[GuardSpec] = []
        listed = given.get("guards", [])
        if not isinstance(listed, Sequence) or isinstance(listed, str) or len(listed) > MAX_GUARDS:
            problems["guards"] = [f"guards must be a list of at most {MAX_GUARDS}."]
            listed = []
        for number, one in enumerate(listed, 1):
            try:
                guard = _guard(one)
                if guard.name in {other.name for other in guards}:
                    raise ValueError(f"The name {guard.name} is used twice.")
                guards.append(guard)
            except ValueError as error:
                problems.setdefault("guards", []).append(f"Guard {number}: {error}")
        if problems:
            raise GuardConfigError(problems)
        return cls(redaction, tuple(guards))

    def as_dict(self) -> dict[str, Any]:
        """Everything, spelled out."""
        return {"redaction": self.redaction.as_dict(), "guards": [guard.as_dict() for guard in self.guards]}

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def _guard(given: Any) -> GuardSpec:
    if not isinstance(given, Mapping):
        raise ValueError("a guard is an object.")
    known = {"name", "kind", "direction", "action", "words", "patterns", "allowed", "denied", "threshold"}
    unknown = sorted(set(map(str, given)) - known)
    if unknown:
        raise ValueError(f"unknown setting {', '.join(unknown)}.")
    kind = given.get("kind")
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}.")
    name = given.get("name", kind)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("name must be 1 to 40 small letters, digits, - or _.")
    direction = given.get("direction", "both" if kind.startswith("deny") else "input")
    if direction not in DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(DIRECTIONS)}.")
    if kind == "injection" and direction != "input":
        raise ValueError("the injection guard judges what comes in; its direction is input.")
    if kind == "topics" and direction != "input":
        raise ValueError("topics are judged on what comes in; the direction is input.")
    action = given.get("action", "block" if kind.startswith("deny") else "flag")
    if action not in ACTIONS:
        raise ValueError(f"action must be one of {', '.join(ACTIONS)}.")
    words = _strings(given, "words", MAX_WORDS, MAX_WORD)
    patterns = _strings(given, "patterns", 50, MAX_PATTERN_LENGTH)
    allowed = _strings(given, "allowed", MAX_TOPICS, 300)
    denied = _strings(given, "denied", MAX_TOPICS, 300)
    if kind == "deny_words" and not words:
        raise ValueError("list at least one word or phrase in words.")
    if kind == "deny_patterns" and not patterns:
        raise ValueError("list at least one pattern in patterns.")
    if kind == "topics" and not allowed and not denied:
        raise ValueError("give example sentences of allowed or denied topics.")
    for pattern in patterns:
        try:
            compile_custom(pattern)
        except ValueError as error:
            raise ValueError(f"{pattern}: {error}") from None
    threshold = given.get("threshold", INJECTION_THRESHOLD if kind == "injection" else 0.35)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise ValueError("threshold must be a number from 0 to 1.")
    return GuardSpec(name, kind, direction, action, words, patterns, allowed, denied, float(threshold))


def _strings(given: Mapping[str, Any], key: str, most: int, longest: int) -> tuple[str, ...]:
    value = given.get(key, [])
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"{key} must be a list of texts.")
    if len(value) > most or not all(
        isinstance(one, str) and one.strip() and len(one) <= longest for one in value
    ):
        raise ValueError(f"{key} may hold {most} texts of 1 to {longest} characters.")
    return tuple(one.strip() for one in value)


# ---------------------------------------------------------------- profiles that every tenant has
BUILT_IN: Final[dict[str, dict[str, Any]]] = {
    # Personal data and secrets are masked, both ways. No guard: a guard that refuses is a decision of the tenant's.
    "default@1": {"redaction": {}, "guards": []},
    # The same, and the answer gets its originals back; secrets refuse the request.
    "restore@1": {
        "redaction": {"default": "restore", "secrets": "block", "output": {}},
        "guards": [],
    },
    # Nothing is read or changed.
    "off@1": {"redaction": {"default": "off"}, "guards": []},
}
DEFAULT_PROFILE: Final = "default@1"
