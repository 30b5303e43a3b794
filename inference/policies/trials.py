"""The tests of a policy: Rego rules named ``test_*``, and tables of attributes with what is expected.

A Rego test reads as OPA's own tests do, ``gateway.allow with input as {...}``, and the same text runs under
``opa test``. The embedded interpreter has no dependable ``with``, so each test's input is worked out first, the
``with`` clauses are taken out of the text, and the test is then asked with that input. Hence one input per test.

Pure Python and the interpreter; no Django (it runs in the process of sandbox.py).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from inference.policies.analysis import PACKAGE, TEST_PACKAGE, Problem, Token, analyse, tokens
from inference.policies.outputs import Malformed, PolicyDecision, decision_from, denied_for, refused, unmet
from inference.policies.rego import EngineError, Program, as_json

MAX_TESTS = 200
# Microseconds one evaluation may take before a version is too slow to be put in force.
SLOW_US = 250_000
# What a table case may expect; "reason" is a part of the reason given.
EXPECTATIONS = ("allow", "reason", "redact", "cache", "retain_days", "max_body_bytes")


@dataclass(frozen=True, slots=True)
class TrialOutcome:
    """One test's outcome. ``message``: why it failed. ``took_us``: of the evaluation."""

    name: str
    kind: str  # "rego" or "case"
    passed: bool
    message: str = ""
    took_us: int = 0
    line: int = 0


# ------------------------------------------------------------------ Rego tests
@dataclass(frozen=True, slots=True)
class RegoTest:
    """A test rule and the terms its input is made of: the whole input first, then replacements by path."""

    name: str
    line: int
    base: str
    patches: tuple[tuple[tuple[str, ...], str], ...]


def rego_tests(text: str) -> tuple[list[RegoTest], str, list[Problem]]:
    """The test rules of a module, the module without its ``with`` clauses, and what keeps it from being used."""
    stream = list(tokens(text))
    problems: list[Problem] = []
    found: dict[str, RegoTest] = {}
    cuts: list[tuple[int, int]] = []
    for head, begin, end in _rules(stream):
        clauses, bad = _clauses(stream[begin:end])
        problems += bad
        for clause in clauses:
            cuts.append((clause.start, clause.end))
        if not head.text.startswith("test_"):
            if clauses:
                problems.append(Problem(head.line, "with belongs into a rule named test_…."))
            continue
        if head.text in found:
            problems.append(Problem(head.line, f"{head.text} is there twice; give each test its own name."))
            continue
        bases = {clause.term for clause in clauses if not clause.path}
        patches = {(clause.path, clause.term) for clause in clauses if clause.path}
        if len(bases) > 1 or len({path for path, _ in patches}) < len(patches):
            problems.append(
                Problem(head.line, f"{head.text} uses more than one input; write one test for each.")
            )
            continue
        found[head.text] = RegoTest(head.text, head.line, next(iter(bases), "{}"), tuple(sorted(patches)))
    if len(found) > MAX_TESTS:
        problems.append(Problem(0, f"There are more than {MAX_TESTS} tests."))
    stripped = list(text)
    for start, stop in cuts:
        for at in range(start, stop):
            if stripped[at] != "\n":
                stripped[at] = " "
    return list(found.values()), "".join(stripped), problems


def _rules(stream: Sequence[Token]) -> Iterator[tuple[Token, int, int]]:
    """(head's name, first token, token after the last) of every rule: it starts a line outside all brackets."""
    starts: list[int] = []
    depth, fresh = 0, True
    for index, token in enumerate(stream):
        if token.kind == "newline":
            fresh = True
        elif token.kind not in {"space", "comment"}:
            first_column = index == 0 or stream[index - 1].kind == "newline"
            if fresh and depth == 0 and token.kind == "name" and first_column:
                starts.append(index)
            fresh = False
            if token.kind == "sign":
                depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token.text, 0)
    for start, following in zip(starts, [*starts[1:], len(stream)], strict=False):
        if stream[start].text not in {"package", "import", "else"}:
            yield stream[start], start, following


@dataclass(frozen=True, slots=True)
class _Clause:
    path: tuple[str, ...]
    term: str
    start: int
    end: int


def _clauses(stream: Sequence[Token]) -> tuple[list[_Clause], list[Problem]]:
    clauses: list[_Clause] = []
    problems: list[Problem] = []
    index = 0
    while index < len(stream):
        if stream[index].kind != "name" or stream[index].text != "with":
            index += 1
            continue
        opening = stream[index]
        index += 1
        target: list[str] = []
        while index < len(stream) and not (stream[index].kind == "name" and stream[index].text == "as"):
            if stream[index].kind not in {"space", "newline", "comment"}:
                target.append(stream[index].text)
            index += 1
        index += 1
        begin, depth = index, 0
        while index < len(stream):
            token = stream[index]
            if depth == 0 and (
                token.kind in {"newline", "comment"}
                or token.text in {";", "}", ")", "]", ","}
                or (token.kind == "name" and token.text == "with")
            ):
                break
            if token.kind == "sign":
                depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token.text, 0)
            index += 1
        path = _input_path(target)
        term = "".join(token.text if token.kind != "comment" else "" for token in stream[begin:index]).strip()
        last = stream[index - 1] if index > begin else opening
        if path is None or not term:
            problems.append(
                Problem(opening.line, "A test replaces input or a part of it: with input.hour as 3.")
            )
        else:
            clauses.append(_Clause(path, term, opening.start, last.start + len(last.text)))
    return clauses, problems


def _input_path(target: Sequence[str]) -> tuple[str, ...] | None:
    """``input.a["b"]`` as ("a", "b"); None for anything else."""
    if not target or target[0] != "input":
        return None
    path: list[str] = []
    rest = list(target[1:])
    while rest:
        if rest[0] == "." and len(rest) > 1:
            path.append(rest[1])
            rest = rest[2:]
        elif rest[0] == "[" and len(rest) > 2 and rest[2] == "]" and rest[1][:1] in {'"', "`"}:
            path.append(rest[1][1:-1])
            rest = rest[3:]
        else:
            return None
    return tuple(path)


def _patched(base: Any, patches: Sequence[Sequence[Any]]) -> Any:
    document = copy.deepcopy(base)
    for path, value in patches:
        place = document
        for step in path[:-1]:
            if not isinstance(place.get(step), dict):
                place[step] = {}
            place = place[step]
        place[path[-1]] = value
    return document


def run_rego_tests(*, policy: str, tests: str, data: dict[str, Any] | None) -> Iterator[TrialOutcome]:
    """Each test of the module in turn. The texts have passed ``analyse``. Raises EngineError: does not compile."""
    found, stripped, _ = rego_tests(tests)
    if not found:
        return
    terms = []
    for test in found:
        patches = ", ".join(
            "[[" + ", ".join(f'"{step}"' for step in path) + f"], {term}]" for path, term in test.patches
        )
        terms.append(f'signoff_input["{test.name}"] := {{"base": {test.base}, "patches": [{patches}]}}')
    inputs_module = stripped + "\n\n" + "\n\n".join(terms) + "\n"
    inputs = Program(policy, inputs_module, data=data, query=f"data.{TEST_PACKAGE}.signoff_input").ask(b"{}")
    for test in found:
        given = inputs.get(test.name) if isinstance(inputs, dict) else None
        if given is None or not isinstance(given["base"], dict):
            yield TrialOutcome(test.name, "rego", False, "Its input is undefined or no object", 0, test.line)
            continue
        document = as_json(_patched(given["base"], given["patches"]))
        try:
            program = Program(policy, stripped, data=data, query=f"data.{TEST_PACKAGE}.{test.name}")
            began = time.perf_counter_ns()
            answer = program.ask(document)
            took = (time.perf_counter_ns() - began) // 1000
        except EngineError as error:
            yield TrialOutcome(test.name, "rego", False, str(error), 0, test.line)
            continue
        message = "" if answer is True else "Not true for its input"
        if took > SLOW_US:
            message = f"Took {took / 1000:.0f} ms; a decision may take {SLOW_US / 1000:.0f} ms."
        yield TrialOutcome(test.name, "rego", not message, message, took, test.line)


# ------------------------------------------------------------------ table tests
def conditioned(decision: PolicyDecision, attributes: Mapping[str, Any]) -> PolicyDecision:
    """The decision once the call's own size, metadata and parameters have been looked at."""
    if decision.allowed and (missing := unmet(decision, attributes)):
        return denied_for(decision, missing)
    return decision


def asked(program: Any, version: str, attributes: Mapping[str, Any]) -> tuple[PolicyDecision, Any, int]:
    """(decision, the package's document, microseconds) of one uncached evaluation. Never raises."""
    decision, document, took = answered(program, version, attributes)
    return conditioned(decision, attributes), document, took


def answered(program: Any, version: str, attributes: Mapping[str, Any]) -> tuple[PolicyDecision, Any, int]:
    """The same before the conditions of an allowing decision are checked."""
    document: Any = None
    began = time.perf_counter_ns()
    try:
        document = program.ask(as_json(attributes))
        decision = decision_from(document, version)
    except Malformed as error:
        decision = refused(version, f"The policy's answer is not usable: {error}.")
    except EngineError as error:
        decision = refused(version, f"The policy could not decide, so the call is denied. {error}")
    return decision, document, (time.perf_counter_ns() - began) // 1000


def case_result(case: Mapping[str, Any], decision: PolicyDecision, took_us: int) -> TrialOutcome:
    """Whether a table case got what it expects."""
    expected = case.get("expect", {})
    got = {
        "allow": decision.allowed,
        "redact": decision.redact,
        "cache": sorted(decision.cache),
        "retain_days": decision.retain_days,
        "max_body_bytes": decision.max_body_bytes,
    }
    wrong = []
    for name, want in expected.items():
        if name == "reason":
            if str(want).lower() not in decision.reason.lower():
                wrong.append(f"reason is {decision.reason!r}, which does not say {want!r}")
        elif got[name] != (sorted(want) if name == "cache" else want):
            wrong.append(f"{name} is {got[name]!r}, expected {want!r}")
    if decision.failed and not wrong:
        wrong.append(decision.reason)
    if took_us > SLOW_US:
        wrong.append(f"took {took_us / 1000:.0f} ms; a decision may take {SLOW_US / 1000:.0f} ms")
    return TrialOutcome(str(case.get("name", "")), "case", not wrong, "; ".join(wrong), took_us)


def cases_problems(cases: Any) -> list[Problem]:
    """Why a table of cases cannot be run."""
    if not isinstance(cases, list):
        return [Problem(0, "The table of cases is a list.")]
    problems = []
    if len(cases) > MAX_TESTS:
        problems.append(Problem(0, f"There are more than {MAX_TESTS} cases."))
    names: set[str] = set()
    for number, case in enumerate(cases, 1):
        where = f"Case {number}"
        if not isinstance(case, dict) or not isinstance(case.get("name"), str) or not case["name"].strip():
            problems.append(Problem(0, f"{where} is an object with a name, attributes and expect."))
            continue
        if case["name"] in names:
            problems.append(Problem(0, f"{where} has the name of another case: {case['name'][:60]}."))
        names.add(case["name"])
        if set(case) - {"name", "attributes", "expect"}:
            problems.append(Problem(0, f"{where} has fields besides name, attributes and expect."))
        if not isinstance(case.get("attributes"), dict):
            problems.append(Problem(0, f"{where} needs attributes, an object as a policy sees it."))
        expect = case.get("expect")
        if not isinstance(expect, dict) or not isinstance(expect.get("allow"), bool):
            problems.append(Problem(0, f'{where} needs expect with "allow": true or false.'))
        elif set(expect) - set(EXPECTATIONS):
            problems.append(Problem(0, f"{where} can expect {', '.join(EXPECTATIONS)}."))
        elif "cache" in expect and not (
            isinstance(expect["cache"], list) and all(isinstance(one, str) for one in expect["cache"])
        ):
            problems.append(Problem(0, f"{where} expects cache as a list of names."))
    return problems


def static_problems(*, policy: str, tests: str, cases: Any) -> list[tuple[str, Problem]]:
    """Everything wrong that can be said without running anything, with the part it is in."""
    found = [("policy", one) for one in analyse(policy).problems]
    if tests.strip():
        found += [("tests", one) for one in analyse(tests, package=TEST_PACKAGE).problems]
        found += [("tests", one) for one in rego_tests(tests)[2]]
    found += [("cases", one) for one in cases_problems(cases)]
    return found


def run_trial(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The steps of one trial as JSON objects, in order, so that what came before a crash is known."""
    policy, tests = request["policy"], request.get("tests", "")
    data, cases = request.get("data") or {}, request.get("cases") or []
    yield {"step": "compile"}
    try:
        program = Program(policy, data=data)
        # Recursions, unknown functions and rules that disagree show only when asked.
        for document in request.get("probes") or [{}]:
            program.ask(as_json(document))
    except EngineError as error:
        yield {"problem": {"part": "policy", "line": error.line, "message": str(error)}}
        return
    for case in cases:
        yield {"step": f"case {case['name']}"}
        decision, _, took = asked(program, "trial", case["attributes"])
        yield {"result": asdict(case_result(case, decision, took))}
    yield {"step": "tests"}
    try:
        for result in run_rego_tests(policy=policy, tests=tests, data=data) if tests.strip() else ():
            yield {"result": asdict(result)}
    except EngineError as error:
        yield {"problem": {"part": "tests", "line": 0, "message": str(error)}}
    yield {"done": True}


def run_questions(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Decisions of one policy on many documents."""
    yield {"step": "compile"}
    try:
        program = Program(request["policy"], data=request.get("data") or {})
    except EngineError as error:
        yield {"problem": {"part": "policy", "line": error.line, "message": str(error)}}
        return
    for document in request["documents"]:
        decision, answer, took = answered(program, request.get("version", "draft"), document)
        yield {
            "unconditioned": asdict(decision),
            "decision": asdict(conditioned(decision, document)),
            "document": answer,
            "took_us": took,
        }
    yield {"done": True}


__all__ = [
    "PACKAGE", "RegoTest", "TrialOutcome", "asked", "case_result", "cases_problems", "rego_tests", "run_questions",
    "run_rego_tests", "run_trial", "static_problems",
]  # fmt: skip
