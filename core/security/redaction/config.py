"""What is found and what happens to it: a checked, immutable configuration."""

from __future__ import annotations

import re
import re._constants as _ops  # type: ignore[import-untyped]
import re._parser as _parser  # type: ignore[import-untyped]
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import re2

from core.security.redaction.entities import ALIASES, ENTITIES

ACTIONS: Final = ("mask", "hash", "block", "restore", "off")
LABEL: Final = re.compile(r"[A-Z][A-Z0-9_]{0,31}")
# An unbounded repeat in a custom pattern means at most this many times: a stream must know how long to wait.
REPEAT: Final = 64
# Longest text one custom pattern may match, characters.
MAX_WIDTH: Final = 512
MAX_CUSTOM: Final = 50
MAX_ALLOW: Final = 500
MAX_ALLOW_LENGTH: Final = 200
MAX_PATTERN_LENGTH: Final = 500
DEFAULT_REGIONS: Final = ("US", "GB", "DE", "FR", "IT", "ES", "NL", "IN", "BR", "AU")


class RedactionConfigError(ValueError):
    """A configuration that cannot be used. ``fields``: sentences by the place that is wrong."""

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self.fields = dict(fields)
        super().__init__(" ".join(sentence for sentences in self.fields.values() for sentence in sentences))


@dataclass(frozen=True, slots=True)
class CustomPattern:
    """A recogniser of the tenant's own. ``pattern``: RE2 syntax, linear in the text, no lookaround."""

    name: str
    pattern: str
    label: str
    action: str = "mask"

    def as_dict(self) -> dict[str, str]:
        """The JSON form."""
        return {"name": self.name, "pattern": self.pattern, "label": self.label, "action": self.action}


@dataclass(frozen=True)
class RedactionConfig:
    """``entities``: action by entity, on the way in. ``output``: actions on the way back where they differ."""

    entities: Mapping[str, str] = field(
        default_factory=lambda: {name: entity.default for name, entity in ENTITIES.items()}
    )
    output: Mapping[str, str] = field(default_factory=dict)
    custom: tuple[CustomPattern, ...] = ()
    allow: tuple[str, ...] = ()
    allow_patterns: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    regions: tuple[str, ...] = DEFAULT_REGIONS

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> RedactionConfig:
        """Check and complete a configuration. Entities it does not name do what their default says.

        Keys: ``entities`` {name: action}, ``default`` (action of entities not named), ``secrets`` (action, true or
        false for all secrets), ``output`` {name: action}, ``custom`` [{name, pattern, label, action}], ``allow`` [text],
        ``allow_patterns`` [RE2, matched against the whole finding], ``labels`` {name: word}, ``regions`` [ISO codes of
        the countries whose national telephone formats count].
        Raises: RedactionConfigError naming every field at fault.
        """
        return _Reader().read(given)

    def as_dict(self) -> dict[str, Any]:
        """Everything, spelled out; ``from_dict`` of it is equal."""
        return {
            "entities": dict(sorted(self.entities.items())),
            "output": dict(sorted(self.output.items())),
            "custom": [one.as_dict() for one in self.custom],
            "allow": list(self.allow),
            "allow_patterns": list(self.allow_patterns),
            "labels": dict(sorted(self.labels.items())),
            "regions": list(self.regions),
        }

    def action(self, entity: str, direction: str) -> str:
        """What happens to a finding of ``entity`` ("input" or "output"). Restoring makes sense on the way in only."""
        action = self.entities.get(entity, "off")
        if direction == "output":
            action = self.output.get(entity, action)
            if action == "restore":
                action = "mask"
        return action

    def label(self, entity: str) -> str:
        """The word that replaces a finding."""
        known = ENTITIES.get(entity)
        return self.labels.get(entity) or (known.label if known else entity)


class _Reader:
    def __init__(self) -> None:
        self.problems: dict[str, list[str]] = {}

    def fail(self, where: str, sentence: str) -> None:
        self.problems.setdefault(where, []).append(sentence)

    def read(self, given: Mapping[str, Any]) -> RedactionConfig:
        if not isinstance(given, Mapping):
            raise RedactionConfigError({"redaction": ["The redaction configuration must be an object."]})
        known = {
            "entities",
            "default",
            "secrets",
            "output",
            "custom",
            "allow",
            "allow_patterns",
            "labels",
            "regions",
        }
        for key in given:
            if key not in known:
                self.fail(
                    str(key), f'"{key}" is not a setting of redaction; known are: {", ".join(sorted(known))}.'
                )
        entities = {name: entity.default for name, entity in ENTITIES.items()}
        if "default" in given:
            action = self.action("default", given["default"])
            entities = dict.fromkeys(entities, action)
        if "secrets" in given:
            value = given["secrets"]
            action = (
                ("mask" if value else "off") if isinstance(value, bool) else self.action("secrets", value)
            )
            entities.update({name: action for name, entity in ENTITIES.items() if entity.group == "secret"})
        custom = self.custom(given.get("custom", []))
        names = {one.name for one in custom}
        entities.update(self.actions("entities", given.get("entities", {}), set()))
        output = self.actions("output", given.get("output", {}), names)
        labels: dict[str, str] = {}
        for name, label in self.mapping("labels", given.get("labels", {})).items():
            entity = self.entity("labels", name, names)
            if not isinstance(label, str) or not LABEL.fullmatch(label):
                self.fail(
                    "labels", f"The label of {name} must be 1 to 32 capitals, digits or _, not {label!r}."
                )
            elif entity:
                labels[entity] = label
        allow = self.strings("allow", given.get("allow", []), MAX_ALLOW, MAX_ALLOW_LENGTH)
        allow_patterns = self.strings(
            "allow_patterns", given.get("allow_patterns", []), MAX_ALLOW, MAX_PATTERN_LENGTH
        )
        for pattern in allow_patterns:
            try:
                compile_re2(pattern)
            except ValueError as error:
                self.fail("allow_patterns", f"{pattern}: {error}")
        regions = self.strings("regions", given.get("regions", DEFAULT_REGIONS), 40, 2)
        for region in regions:
            if not re.fullmatch("[A-Z]{2}", region):
                self.fail("regions", f"{region!r} is not a country code of two capitals, such as GB.")
        if self.problems:
            raise RedactionConfigError(self.problems)
        return RedactionConfig(entities, output, custom, allow, allow_patterns, labels, regions)

    def mapping(self, where: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            self.fail(where, f"{where} must be an object.")
            return {}
        return {str(key): one for key, one in value.items()}

    def strings(self, where: str, value: Any, most: int, longest: int) -> tuple[str, ...]:
        if (
            not isinstance(value, Sequence)
            or isinstance(value, str)
            or not all(isinstance(v, str) for v in value)
        ):
            self.fail(where, f"{where} must be a list of texts.")
            return ()
        if len(value) > most or any(not v.strip() or len(v) > longest for v in value):
            self.fail(where, f"{where} may hold {most} texts of 1 to {longest} characters.")
            return ()
        return tuple(value)

    def action(self, where: str, value: Any) -> str:
        if value not in ACTIONS:
            self.fail(where, f"{value!r} is not an action; choose one of {', '.join(ACTIONS)}.")
            return "mask"
        return str(value)

    def entity(self, where: str, name: str, custom: set[str]) -> str | None:
        entity = ALIASES.get(name, name)
        if entity in ENTITIES or entity in custom:
            return entity
        self.fail(where, f"There is no recogniser named {name}; known are: {', '.join(sorted(ENTITIES))}.")
        return None

    def actions(self, where: str, value: Any, custom: set[str]) -> dict[str, str]:
        made = {}
        for name, action in self.mapping(where, value).items():
            entity = self.entity(where, name, custom)
            checked = self.action(where, action)
            if entity:
                made[entity] = checked
        return made

    def custom(self, value: Any) -> tuple[CustomPattern, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > MAX_CUSTOM:
            self.fail("custom", f"custom must be a list of at most {MAX_CUSTOM} patterns.")
            return ()
        made: list[CustomPattern] = []
        for number, one in enumerate(value, 1):
            where = "custom"
            if not isinstance(one, Mapping) or set(one) - {"name", "pattern", "label", "action"}:
                self.fail(
                    where, f"Pattern {number} must have name and pattern, and may have label and action."
                )
                continue
            name, pattern = one.get("name"), one.get("pattern")
            if not isinstance(name, str) or not LABEL.fullmatch(name):
                self.fail(
                    where,
                    f"The name of pattern {number} must be 1 to 32 capitals, digits or _, such as EMPLOYEE_ID.",
                )
                continue
            if name in ENTITIES or name in {m.name for m in made}:
                self.fail(where, f"The name {name} is taken.")
                continue
            label = one.get("label") or name
            if not isinstance(label, str) or not LABEL.fullmatch(label):
                self.fail(where, f"The label of {name} must be 1 to 32 capitals, digits or _.")
                continue
            action = self.action(where, one.get("action", "mask"))
            if not isinstance(pattern, str) or not 0 < len(pattern) <= MAX_PATTERN_LENGTH:
                self.fail(
                    where, f"The pattern of {name} must be a text of 1 to {MAX_PATTERN_LENGTH} characters."
                )
                continue
            try:
                compile_custom(pattern)
            except ValueError as error:
                self.fail(where, f"{name}: {error}")
                continue
            made.append(CustomPattern(name, pattern, label, action))
        return tuple(made)


# ---------------------------------------------------------------- patterns
def compile_re2(pattern: str) -> Any:
    """A pattern for RE2, whose matching time is linear whatever the pattern. Raises ValueError in words."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 8 << 20
    try:
        return re2.compile(pattern, options=options)
    except re2.error as error:
        detail = error.args[0] if error.args else "not a valid pattern"
        if isinstance(detail, bytes):
            detail = detail.decode("utf-8", "replace")
        raise ValueError(
            f"RE2 cannot use this pattern: {detail}. Lookaround and back-references are not available."
        ) from None


@dataclass(frozen=True, slots=True)
class CompiledCustom:
    """``width``: the longest match, characters. ``prefix``: the literal text every match begins with."""

    regex: Any
    width: int
    prefix: str


def compile_custom(pattern: str) -> CompiledCustom:
    """Check and compile a custom pattern; unbounded repeats are bounded at ``REPEAT``. Raises ValueError in words."""
    text = _bounded(pattern)
    try:
        tree = _parser.parse(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"This is not a regular expression: {error}.") from None
    _refuse_anchors(tree)
    least, most = tree.getwidth()
    if least == 0:
        raise ValueError("This pattern matches the empty text; make at least one character necessary.")
    if most > MAX_WIDTH:
        raise ValueError(
            f"This pattern can match {min(most, 10**9)} characters; at most {MAX_WIDTH} are possible, because a stream waits that "
            f"long. Repeats without an end count as {REPEAT}."
        )
    prefix = ""
    if not tree.state.flags & re.IGNORECASE:
        for op, value in tree:
            if op is not _ops.LITERAL:
                break
            prefix += chr(value)
    return CompiledCustom(compile_re2(text), int(most), prefix)


def _refuse_anchors(tree: Any) -> None:
    for op, value in tree:
        if op is _ops.AT and value not in (_ops.AT_BOUNDARY, _ops.AT_NON_BOUNDARY):
            raise ValueError("^, $, \\A and \\Z have no meaning in a stream; use \\b for the edge of a word.")
        stack = [value]
        while stack:
            one = stack.pop()
            if isinstance(one, _parser.SubPattern):
                _refuse_anchors(one)
            elif isinstance(one, tuple | list):
                stack.extend(one)


_OPEN_REPEAT: Final = re.compile(r"\{([0-9]+),\}")


def _bounded(pattern: str) -> str:
    """``*``, ``+`` and ``{n,}`` with an end."""
    out: list[str] = []
    at = 0
    in_class = False
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            out.append(pattern[at : at + 2])
            at += 2
            continue
        if in_class:
            in_class = char != "]" or out[-1] in ("[", "[^")
            out.append(char)
        elif char == "[":
            in_class = True
            out.append("[^" if pattern[at + 1 : at + 2] == "^" else "[")
            at += len(out[-1])
            continue
        elif char == "*":
            out.append(f"{{0,{REPEAT}}}")
        elif char == "+":
            out.append(f"{{1,{REPEAT}}}")
        elif char == "{" and (found := _OPEN_REPEAT.match(pattern, at)):
            low = int(found.group(1))
            out.append(f"{{{low},{max(low, REPEAT)}}}")
            at = found.end()
            continue
        else:
            out.append(char)
        at += 1
    return "".join(out)
