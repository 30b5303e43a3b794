"""What a Rego policy may use and what it reads, found from its text alone.

Two questions are answered here without evaluating anything:

* *May it run?* The embedded interpreter (rego-cpp) has built-ins that end the process (``time.weekday``), show its
  environment (``opa.runtime``) or write to its output (``print``), so only names on a list of tried, deterministic
  ones are let through. The same list holds for a remote OPA: the same policies, the same answers.
* *What does it read?* Every reference that starts at ``input`` is collected as a path. A reference that cannot be
  followed to its end (``input[name]``, ``input`` as a whole, an alias) counts as its longest literal beginning, so
  the paths always cover what an evaluation can see, and a decision may be kept under their values.

Pure Python; no Django, no interpreter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PACKAGE = "signoff.gateway"
TEST_PACKAGE = "signoff.gateway_test"
# What stands in for OPA's net.cidr_contains in the embedded interpreter, which lacks it (library.rego).
CIDR_FUNCTION = "data.signoff.library.cidr_contains"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Deterministic built-ins that both engines have, each tried with values of every type in the embedded one.
ALLOWED_BUILTINS = _names(
    """
    abs array.concat array.reverse array.slice ceil concat contains count endswith floor format_int indexof
    indexof_n intersection is_array is_boolean is_null is_number is_object is_set is_string json.filter
    json.remove lower max min net.cidr_contains object.filter object.get object.keys object.remove
    object.union object.union_n product regex.is_valid regex.match round sort split sprintf startswith
    strings.any_prefix_match strings.any_suffix_match strings.count strings.reverse substring sum to_number
    trim trim_left trim_prefix trim_right trim_space trim_suffix type_name union upper walk
    """
)
# Why a family of built-ins is refused; said to whoever writes the policy.
REFUSED = {
    "time": "Read input.hour and input.weekday (UTC) instead: a decision must not depend on when it is repeated",
    "http": "A policy decides from what it is given and calls nobody",
    "net": "Only net.cidr_contains is available",
    "opa": "It would show the environment of the process",
    "rand": "The same call must get the same answer",
    "uuid": "The same call must get the same answer",
    "io": "Tokens are checked before a policy is asked",
    "crypto": "Keys are checked before a policy is asked",
    "print": "It would write to the log of the process; the simulator shows what each rule gave",
    "trace": "It would write to the log of the process; the simulator shows what each rule gave",
    "numbers": "Ranges can be made larger than memory",
    "bits": "Shifts can be made larger than memory",
}
# Namespaces of OPA's built-ins: a reference that starts with one is a built-in, not a variable.
_NAMESPACES = _names(
    """
    array base64 base64url bits crypto glob graph graphql hex http internal io json net numbers object opa providers
    rand regex rego semver strings time units urlquery uuid yaml
    """
)
# Built-ins without a namespace that are not on the list above. (Deprecated ones are refused by Rego itself.)
_PLAIN_REFUSED = _names(
    "print trace rem plus minus mul div any all set_diff cast_array cast_set cast_string cast_boolean cast_null "
    "cast_object re_match assign eq neq equal gt gte lt lte and or"
)
_KEYWORDS = _names("package import default not with as some in every if contains else true false null")

MAX_POLICY_CHARS = 100_000
# Nesting deeper than this is refused: the parser of the interpreter recurses.
MAX_DEPTH = 60

_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\r]+)
    | (?P<newline>\n)
    | (?P<comment>\#[^\n]*)
    | (?P<template>\$["`])
    | (?P<string>"(?:[^"\\\n]|\\[^\n])*")
    | (?P<raw>`[^`]*`)
    | (?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<sign>:=|==|!=|<=|>=|.)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Token:
    """One piece of a policy's text. ``line`` counts from 1; ``start`` is an offset in characters."""

    kind: str
    text: str
    start: int
    line: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that keeps a policy from being used, with the line it stands in (0: the whole)."""

    line: int
    message: str

    def __str__(self) -> str:
        return f"Line {self.line}: {self.message}" if self.line else self.message


@dataclass(frozen=True, slots=True)
class Reference:
    """A dotted name: its parts, where it starts and ends, and whether it is called.

    ``literal`` is how many parts follow one another without a blank before a bracket: what may be relied on.
    ``alone``: nothing dynamic follows, so the reference ends where its parts do.
    """

    parts: tuple[str, ...]
    start: int
    end: int
    line: int
    literal: int
    called: bool
    alone: bool
    first_of_line: bool

    @property
    def name(self) -> str:
        """The parts joined by dots."""
        return ".".join(self.parts)


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the text of one module says.

    ``paths``: what it reads of ``input``, shortest first, none inside another; ``whole``: it reads (or may read)
    all of it. ``rules``: names of its rules in the order they appear.
    """

    package: str
    paths: tuple[tuple[str, ...], ...]
    whole: bool
    rules: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """The paths as a person writes them: ``input.key.scopes``."""
        return ("input",) if self.whole else tuple(".".join(("input", *path)) for path in self.paths)


def tokens(text: str) -> Iterator[Token]:
    """The tokens of a policy's text, in order; every character belongs to one."""
    line = 1
    for found in _TOKEN.finditer(text):
        yield Token(found.lastgroup or "sign", found[0], found.start(), line)
        line += found[0].count("\n")


def _plain(text: str) -> str | None:
    """The value of a string token, or None where the engines might not agree on it (escapes)."""
    return None if text[0] == '"' and "\\" in text else text[1:-1]


def references(stream: Sequence[Token]) -> Iterator[Reference]:
    """Every dotted name in the stream, ``a.b["c"].d`` included; the parts of one are not yielded again."""
    index, count = 0, len(stream)
    fresh = True  # nothing but blanks since the last line break
    previous = ""
    while index < count:
        token = stream[index]
        if token.kind != "name" or previous == ".":
            if token.kind == "newline":
                fresh = True
            elif token.kind not in {"space", "comment"}:
                fresh, previous = False, token.text
            index += 1
            continue
        parts, literal, end, relied = [token.text], 1, token.start + len(token.text), True
        at, alone = index + 1, True
        while True:
            ahead = _skip(stream, at)
            if ahead < count and stream[ahead].text == ".":
                name = _skip(stream, ahead + 1)
                if name < count and stream[name].kind == "name":
                    parts.append(stream[name].text)
                    end = stream[name].start + len(stream[name].text)
                    literal += relied
                    at = name + 1
                    continue
                alone = False
                break
            if ahead < count and stream[ahead].text == "[":
                inside = _skip(stream, ahead + 1)
                closing = _skip(stream, inside + 1)
                value = (
                    _plain(stream[inside].text)
                    if inside < count
                    and stream[inside].kind in {"string", "raw"}
                    and closing < count
                    and stream[closing].text == "]"
                    else None
                )
                # With blanks before the bracket it may be an array of the next expression.
                relied = relied and ahead == at
                if value is not None:
                    parts.append(value)
                    end = stream[closing].start + 1
                    literal += relied
                    at = closing + 1
                    continue
                alone = False
            break
        ahead = _skip(stream, at)
        called = ahead < count and stream[ahead].text == "("
        yield Reference(tuple(parts), token.start, end, token.line, literal, called, alone, fresh)
        fresh, previous = False, parts[-1]
        index = at


def _skip(stream: Sequence[Token], index: int) -> int:
    while index < len(stream) and stream[index].kind in {"space", "newline", "comment"}:
        index += 1
    return index


def _outermost(paths: set[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    kept: list[tuple[str, ...]] = []
    for path in sorted(paths, key=lambda path: (len(path), path)):
        if not any(path[: len(outer)] == outer for outer in kept):
            kept.append(path)
    return tuple(sorted(kept))


def analyse(text: str, *, package: str = PACKAGE) -> Analysis:
    """What a module reads and defines, and every reason not to run it.

    Args:
        text: the module; package: the package it has to declare.
    """
    problems: list[Problem] = []
    if len(text) > MAX_POLICY_CHARS:
        return Analysis(
            "", (), True, (), (Problem(0, f"A policy has at most {MAX_POLICY_CHARS:,} characters."),)
        )
    stream = list(tokens(text))
    declared = ""
    rules: dict[str, None] = {}
    paths: set[tuple[str, ...]] = set()
    whole = False
    depth = 0
    depths: dict[int, int] = {}
    for token in stream:
        if token.text in {"(", "[", "{"} and token.kind == "sign":
            depth += 1
            if depth == MAX_DEPTH + 1:
                problems.append(Problem(token.line, f"Nested more than {MAX_DEPTH} levels deep."))
        elif token.text in {")", "]", "}"} and token.kind == "sign":
            depth -= 1
        elif token.kind == "name" and token.text == "with" and package == PACKAGE:
            problems.append(
                Problem(token.line, "with is for tests; a policy decides on the input it is given.")
            )
        elif token.kind == "template":
            problems.append(Problem(token.line, "Template strings are not available; use sprintf."))
        elif token.kind == "string" and "\\u" in token.text:
            problems.append(Problem(token.line, "Write the character itself instead of \\u…."))
        elif token.kind == "sign" and (token.text in {'"', "`"} or ord(token.text[0]) > 126):
            what = "A string is not closed." if token.text in {'"', "`"} else f"{token.text!r} is not Rego."
            problems.append(Problem(token.line, what))
        elif token.kind == "sign" and ord(token.text[0]) < 32:
            problems.append(Problem(token.line, "A control character is not Rego."))
        depths[token.start] = depth

    problems += _formats(stream)
    problems += _patterns(stream)
    found = list(references(stream))
    called_here = {one.parts[0] for one in found if one.called and one.first_of_line and len(one.parts) == 1}
    statement = ""
    for position, one in enumerate(found):
        root = one.parts[0]
        if root in {"package", "import"} and one.first_of_line and depths[one.start] == 0:
            statement = root
            continue
        if statement == "package":
            statement = ""
            declared = one.name
            if declared != package:
                problems.append(Problem(one.line, f"The package is {package}, not {declared}."))
            continue
        if statement == "import":
            statement = ""
            if one.name == "rego.v1" or one.parts[:2] == ("future", "keywords"):
                continue
            if root not in {"data", "input"}:
                problems.append(Problem(one.line, f"{one.name} cannot be imported; input and data can."))
                continue
        if root == "input":
            path = one.parts[1 : one.literal]
            whole = whole or not path
            paths.add(path)
            continue
        if root == "data":
            if len(one.parts) < 2 or one.literal < 2:
                problems.append(Problem(one.line, "Name the part of data that is read, as in data.lists."))
            continue
        if one.first_of_line and depths[one.start] == 0:
            name = root
            if root == "default" and position + 1 < len(found):
                name = found[position + 1].parts[0]
            if name not in _KEYWORDS:
                rules.setdefault(name)
        if root in _KEYWORDS:
            # `contains` is both a keyword and a built-in on the list.
            continue
        refusal = _refusal(one, called_here)
        if not refusal and one.name in ALLOWED_BUILTINS and "[" in text[one.start : one.end]:
            refusal = f"Write {one.name} with a dot."
        if refusal:
            problems.append(Problem(one.line, refusal))
    if not declared and not problems:
        problems.append(Problem(0, f"The text starts with: package {package}"))
    return Analysis(
        package=declared,
        paths=() if whole else _outermost(paths),
        whole=whole,
        rules=tuple(rules),
        problems=tuple(problems),
    )


def _first_arguments(stream: Sequence[Token], *name: str) -> Iterator[tuple[int, str | None]]:
    """(line, text of its first argument) of each use of a function; None where that is not written-out text."""
    for index, token in enumerate(stream):
        if token.kind != "name" or token.text != name[-1]:
            continue
        at = _skip(stream, index + 1)
        at = _skip(stream, at + 1) if at < len(stream) and stream[at].text == "(" else len(stream)
        literal = at < len(stream) and stream[at].kind in {"string", "raw"}
        if literal:
            # Text that is only the beginning of an expression is not the argument.
            after = _skip(stream, at + 1)
            literal = after < len(stream) and stream[after].text == ","
        yield token.line, stream[at].text[1:-1] if literal else None


def _formats(stream: Sequence[Token]) -> Iterator[Problem]:
    """Formats of sprintf that a caller could choose, or that ask for very wide output."""
    for line, text in _first_arguments(stream, "sprintf"):
        if text is None:
            yield Problem(line, "The format of sprintf is written out as text, right there.")
        elif re.search(r"%[^%a-zA-Z]*(?:\*|[0-9]{3})", text):
            yield Problem(line, "Widths in formats have at most two digits.")


def _patterns(stream: Sequence[Token]) -> Iterator[Problem]:
    """Patterns that the interpreter's matcher, which goes back and forth, could search for hours."""
    for line, text in _first_arguments(stream, "match"):
        if text is None:
            yield Problem(line, "The pattern of regex.match is written out as text, right there.")
            continue
        bare = re.sub(r"\\\\.|\\.", "x", text)
        bare = re.sub(r"\[\^?\]?[^\]]*\]", "x", bare)
        if re.search(r"\)\s*(?:[*+]|\{)", bare) or "\\1" in text or len(text) > 300:
            yield Problem(line, "A pattern repeats single characters and classes, not groups.")
        elif len(re.findall(r"[*+]|\{\d+,\d*\}", bare)) > 2:
            yield Problem(line, "A pattern has at most two repetitions of variable length.")


def _refusal(one: Reference, defined: set[str]) -> str:
    """Why this name cannot be used; empty when it can."""
    root, name = one.parts[0], one.name
    if name in ALLOWED_BUILTINS:
        return ""
    if root in _NAMESPACES and (len(one.parts) > 1 or one.called):
        why = REFUSED.get(root, "It is not on the list of functions that policies may use")
        return f"{name} is not available. {why}."
    if root in _PLAIN_REFUSED and (one.called or root in {"print", "trace"}):
        return f"{name} is not available. {REFUSED.get(root, 'Use the operator instead')}."
    if one.called and (len(one.parts) > 1 or root not in defined):
        return f"There is no function {name}."
    return ""


def _replaced(text: str, changes: Sequence[tuple[int, int, str]]) -> str:
    out, at = [], 0
    for start, end, new in changes:
        out += [text[at:start], new]
        at = end
    return "".join([*out, text[at:]])


def for_embedded(text: str) -> str:
    """The module as the embedded interpreter takes it: with our own function instead of net.cidr_contains."""
    return _replaced(
        text,
        [
            (one.start, one.end, CIDR_FUNCTION)
            for one in references(list(tokens(text)))
            if one.parts == ("net", "cidr_contains")
        ],
    )


def for_namespace(text: str, *, package: str, data_root: str) -> str:
    """The module moved below other names, so that one OPA holds the policies of many tenants apart.

    Args:
        package: what ``signoff.gateway`` becomes, in the package line and in ``data.signoff.gateway``.
        data_root: where the bundle's data lie, as a dotted path below ``data``; every other ``data.x`` moves there.
    """
    changes, statement = [], ""
    for one in references(list(tokens(text))):
        if one.parts[0] == "package" and one.first_of_line:
            statement = "package"
        elif statement:
            changes.append((one.start, one.end, package))
            statement = ""
        elif one.parts[0] == "data":
            own = tuple(PACKAGE.split("."))
            if one.parts[1:3] == own:
                rest = "".join(f'["{part}"]' for part in one.parts[3:])
                changes.append((one.start, one.end, f"data.{package}{rest}"))
            else:
                rest = "".join(f'["{part}"]' for part in one.parts[1:])
                changes.append((one.start, one.end, f"data.{data_root}{rest}"))
    return _replaced(text, changes)
