"""What a policy reads is found from its text, and never less than it really reads."""

from __future__ import annotations

import copy
import ipaddress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.policies.analysis import TEST_PACKAGE, analyse, for_namespace
from inference.policies.defaults import DEFAULT_POLICY, DEFAULT_TESTS
from inference.policies.examples import TYPICAL
from inference.policies.keys import key_function
from inference.policies.outputs import decision_from
from inference.policies.ranges import Ranges
from inference.policies.rego import EngineError, Program, as_json
from inference.policies.sandbox import trial_run
from inference.policies.trials import rego_tests

HEAD = "package signoff.gateway\n\n"


# ------------------------------------------------------------------ reads
@pytest.mark.parametrize(
    ("rule", "reads"),
    [
        ("allow if input.key.scopes[0] == 1", ("input.key.scopes",)),
        ('allow if input["key"].id == 1', ("input.key.id",)),
        ("allow if input[`key`][`id`] == 1", ("input.key.id",)),
        ("allow if input\n.key . id == 1", ("input.key.id",)),
        ("allow if input.key[x]\nx := 1", ("input.key",)),
        ("allow if input[x]\nx := 1", ("input",)),
        ('allow if input.key["a\\tb"]', ("input.key",)),
        ("allow if some k, v in input.metadata", ("input.metadata",)),
        ("allow if { walk(input, [_, 1]) }", ("input",)),
        ("allow if f(input)\nf(x) := x.a", ("input",)),
        ("import input.key as k\nallow if k.id", ("input.key",)),
        ("import input as i\nallow if i.id", ("input",)),
        ("allow if x == input\nx := 1", ("input",)),
        ('allow if object.get(input.metadata, "a", 1) == 1', ("input.metadata",)),
        ("allow if input.key\ndeny contains input.key.id", ("input.key",)),
        ("# input.never\nallow := true", ()),
        ('allow if "input.never" == data.x', ()),
        ("allow if { x.input; y := input.hour }\nx := 1", ("input.hour",)),
        ("allow if input.hour > 3", ("input.hour",)),
    ],
)
def test_every_way_to_read_is_seen(rule: str, reads: tuple[str, ...]) -> None:
    assert analyse(HEAD + rule + "\n").reads == reads


def test_values_of_different_types_have_different_keys() -> None:
    key_of = key_function(analyse(HEAD + "allow if input.a.b\n"))
    documents: list[dict[str, Any]] = [
        {}, {"a": None}, {"a": {}}, {"a": {"b": None}}, {"a": {"b": 0}}, {"a": {"b": False}}, {"a": {"b": "0"}},
        {"a": {"b": 1}}, {"a": {"b": True}}, {"a": {"b": []}}, {"a": {"b": [[]]}}, {"a": {"b": {}}}, {"a": {"b": ""}},
    ]  # fmt: skip
    keys = [key_of(one) for one in documents]
    # The first three lack a.b, which a policy cannot tell apart by reading a.b.
    assert len(set(keys)) == len(documents) - 2
    assert key_of({"a": {"b": 1}, "c": 5}) == key_of({"c": 6, "a": {"b": 1, "x": 2}})


_NAMES = st.sampled_from(["a", "b", "c"])
_LEAVES = st.one_of(
    st.none(), st.booleans(), st.sampled_from([0, 1, 2, 7]), st.sampled_from(["", "a", "x", "1"])
)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(_NAMES, inner, max_size=3)),
    max_leaves=6,
)
_DOCUMENTS = st.dictionaries(_NAMES, _VALUES, max_size=3)
_PATHS = st.lists(
    st.one_of(
        _NAMES.map(lambda n: f".{n}"), _NAMES.map(lambda n: f'["{n}"]'), _NAMES.map(lambda n: f"[`{n}`]")
    ),
    min_size=1,
    max_size=3,
).map("".join)
_CONDITIONS = st.one_of(
    _PATHS.map(lambda path: f"input{path}"),
    _PATHS.map(lambda path: f"not input{path}"),
    st.tuples(_PATHS, st.sampled_from(["1", "true", '"a"', "null", "[]"])).map(
        lambda p: f"input{p[0]} == {p[1]}"
    ),
    st.tuples(_PATHS, _PATHS).map(lambda p: f"input{p[0]} == input{p[1]}"),
    _PATHS.map(lambda path: f"input{path}[_] == 1"),
    _PATHS.map(lambda path: f"count(input{path}) > 1"),
    _PATHS.map(lambda path: f'some v in input{path}; v == "a"'),
    _NAMES.map(lambda name: f'name := "{name}"; input[name] == 1'),
    _NAMES.map(lambda name: f'object.get(input, "{name}", 7) == 7'),
    st.just("count(input) == 2"),
    st.just('walk(input, [_, value]); value == "x"'),
    _PATHS.map(lambda path: f"reader(input{path})"),
)
_RULES = st.lists(st.lists(_CONDITIONS, min_size=1, max_size=2), min_size=1, max_size=3)


def _policy(rules: list[list[str]]) -> str:
    bodies = "".join("allow if {\n\t" + "\n\t".join(body) + "\n}\n\n" for body in rules)
    return HEAD + "default allow := false\n\nreader(value) if value.a == 1\n\n" + bodies


@settings(max_examples=120)
@given(rules=_RULES, documents=st.lists(_DOCUMENTS, min_size=2, max_size=14))
def test_documents_with_one_key_get_one_decision(
    rules: list[list[str]], documents: list[dict[str, Any]]
) -> None:
    """So a kept decision is always the one that would be made again."""
    policy = _policy(rules)
    analysis = analyse(policy)
    assert not analysis.problems, analysis.problems
    program, key_of = Program(policy), key_function(analysis)
    kept: dict[bytes, Any] = {}
    # Each document, and what it becomes when something that is not read changes.
    for document in documents:
        changed = copy.deepcopy(document)
        changed["unread"] = {"a": 1, "b": "x"}
        for one in (document, changed):
            try:
                answer = decision_from(program.ask(as_json(one)), "v").allowed
            except EngineError:
                answer = None
            assert kept.setdefault(key_of(one), answer) == answer, (policy, one)


# ------------------------------------------------------------------ what may run
@pytest.mark.parametrize(
    "rule",
    [
        "allow if time.now_ns() > 1", 'allow if time["now_ns"]() > 1', "allow if time . clock(1)",
        'allow if http.send({"url": "x"})', "allow if opa.runtime().env", 'allow if opa["runtime"]()',
        'allow if rand.intn("a", 2) == 1', 'allow if uuid.rfc4122("a")', 'allow if io.jwt.decode("x")',
        'allow if print("x")', 'allow if net.lookup_ip_addr("x")', "allow if numbers.range(1, 1000000000)",
        "allow if bits.lsh(1, 1000000000)", 'allow if $"{opa.runtime()}"', "allow if $`{input.x}`",
        'allow if "\\u0041" == input.x', "allow if input.x with input as {}", "allow if nothing.here(1)",
        "allow if unknown_function(1)", "import time\nallow := true", "allow if data[x]\nx := 1",
        "allow if count(data) > 1", "allow if object.subset([1], [])", "allow if {" * 70 + "1" + "}" * 70,
        'allow if "open', "allow if x == “a”", "allow := trace(1)", "allow if json.unmarshal(input.x)",
        "allow if sprintf(input.x, [1])", "allow if regex.match(input.x, input.y)",
        'allow if replace("a", "", "") == ""', 'allow if regex["match"](input.x, "a")',
        'allow if regex.match("(a+)+$", input.x)', "allow if regex.match(`a*b*c*`, input.x)",
        'allow if regex.match("(a|b){3}", input.x)', "allow if regex . match(concat(``, [`(a`]), input.x)",
        'allow if strings.replace_n({}, "")', 'allow if regex.split("a*", "a")',
        'allow if glob.match("*", [], "a")',
        'allow if sprintf("%1000000000d", [1])', 'allow if sprintf("%*d", [9, 1])',
        'allow if sprintf("%.999f", [1])', 'allow if semver.compare(input.x, "1.0.0") > 0',
    ],
)  # fmt: skip
def test_what_must_not_run_is_named_with_its_line(rule: str) -> None:
    problems = analyse(HEAD + rule + "\n").problems
    assert problems and problems[0].line >= 3 and str(problems[0]).startswith("Line ")


@pytest.mark.parametrize("pattern", ["^[a-z0-9-]+$", r"^v\\d+\\.\\d+$", "^(dev|test)-[0-9]{4}$", "^[*+){]*$"])
def test_ordinary_patterns_are_taken(pattern: str) -> None:
    assert not analyse(HEAD + f'allow if regex.match("{pattern}", input.x)\n').problems


def test_texts_too_long_for_the_matcher_deny(db: None) -> None:
    program = Program(HEAD + "allow if regex.match(`^[a-z]+!$`, input.x)\n")
    assert program.ask(as_json({"x": "a" * 2047 + "!"})) == {"allow": True}
    for document in ({"x": "a" * 100_000}, {"x": {"a" * 3000: 1}}, {"x": ["ab"] * 50_000}):
        with pytest.raises(EngineError, match="too long"):
            program.ask(as_json(document))


def test_the_package_is_ours() -> None:
    assert analyse("package other\nallow := true").problems
    assert analyse("allow := true").problems
    assert analyse("").problems
    assert not analyse(DEFAULT_POLICY).problems
    assert not analyse(DEFAULT_TESTS, package=TEST_PACKAGE).problems


@settings(max_examples=150)
@given(st.text(max_size=200))
def test_any_text_is_analysed(text: str) -> None:
    analyse(text)
    analyse(HEAD + text)
    rego_tests(text)


# ------------------------------------------------------------------ address ranges
@settings(max_examples=200)
@given(st.ip_addresses(), st.integers(0, 128), st.integers(0, 127))
def test_ranges_hold_what_the_standard_library_says(address: Any, length: int, bit: int) -> None:
    network = ipaddress.ip_network((int(address), min(length, address.max_prefixlen)), strict=False)
    if isinstance(address, ipaddress.IPv6Address):
        network = ipaddress.IPv6Network((int(address), length), strict=False)
        if address.ipv4_mapped or network.network_address.ipv4_mapped:
            return
    other = type(address)(int(address) ^ (1 << min(bit, address.max_prefixlen - 1)))
    if getattr(other, "ipv4_mapped", None):
        return
    for one in (address, other):
        assert Ranges((f'x := "{network}"',), {}).holding(str(one)) == {str(network): one in network}


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("10.1.2.3", True), ("11.1.2.3", False), ("2001:db8::1", True), ("2001:db9::1", False), ("", False),
        ("nonsense", False), ("::ffff:10.1.2.3", True), ("fe80::1%eth0", False), ("10.1.2.3.4", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("computed", [False, True])
def test_callers_are_told_apart_by_their_range(address: str, inside: bool, computed: bool) -> None:
    """As a policy names the range itself, and as it puts it together."""
    first = 'concat("", ["10.0.0.0", "/8"])' if computed else '"10.0.0.0/8"'
    policy = (
        HEAD
        + f"""default allow := false

allow if {{
	some range in [{first}, data.ours]
	net.cidr_contains(range, input.ip)
}}
"""
    )
    program = Program(policy, data={"ours": "2001:db8::/32"})
    assert program.ask(as_json({**TYPICAL, "ip": address}))["allow"] is inside


# ------------------------------------------------------------------ tests of policies
def test_the_tests_of_the_default_pass() -> None:
    trial = trial_run(policy=DEFAULT_POLICY, data={}, tests=DEFAULT_TESTS, cases=[], probes=[TYPICAL])
    assert trial.ok and len(trial.results) == 3


def test_a_test_replaces_the_input_or_a_part_of_it() -> None:
    policy = HEAD + 'default allow := false\n\nallow if {\n\tinput.a == 1\n\tinput.b.c == "x"\n}\n'
    tests = """package signoff.gateway_test

import data.signoff.gateway

call := {"a": 1, "b": {"c": "y"}}

test_whole if gateway.allow with input as {"a": 1, "b": {"c": "x"}}

test_part if {
	gateway.allow with input as call
		with input.b.c as "x" # a comment, with input as 3
}

test_not if {
	not gateway.allow with input as call
}

test_wrong if gateway.allow with input as call
"""
    trial = trial_run(policy=policy, data={}, tests=tests, cases=[])
    assert {one["name"]: one["passed"] for one in trial.results} == {
        "test_whole": True, "test_part": True, "test_not": True, "test_wrong": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        ("test_a if { data.signoff.gateway.allow with data.x as 1 }", "replaces input"),
        ("helper if { data.signoff.gateway.allow with input as {} }", "belongs into a rule named test_"),
        ("test_a := true\ntest_a := true", "twice"),
        ("test_a if {\n\tx with input as {}\n\tx with input as []\n}\nx := 1", "more than one input"),
    ],
)
def test_tests_that_cannot_be_run_say_why(tests: str, said: str) -> None:
    text = f"package signoff.gateway_test\n\n{tests}\n"
    trial = trial_run(policy=DEFAULT_POLICY, data={}, tests=text, cases=[])
    assert not trial.ok and any(said in one["message"] for one in trial.problems)


@pytest.mark.parametrize(
    "policy",
    [
        'd(x) := concat("", [x, x, x, x, x, x, x, x, x, x])\nallow if count(d(d(d(d(d(d(d(d(d("abcdefgh")))))))))) > 1',
        "f(x) := f(x)\nallow := f(1)",
    ],
)
def test_a_policy_that_would_use_everything_up_is_stopped(policy: str) -> None:
    assert not trial_run(policy=HEAD + policy, data={}, tests="", cases=[]).ok


def test_a_policy_moves_below_the_names_of_its_tenant() -> None:
    moved = for_namespace(
        HEAD
        + 'import data.lists\n\nallow if data.signoff.gateway.ok\n\nok if lists.x == data["a"].b # data.c\n',
        package="signoff.gateway.t_alpha.v_v1",
        data_root="signoff.bundle_data.t_alpha.v_v1",
    )
    assert "package signoff.gateway.t_alpha.v_v1\n" in moved
    assert 'import data.signoff.bundle_data.t_alpha.v_v1["lists"]' in moved
    assert 'data.signoff.gateway.t_alpha.v_v1["ok"]' in moved
    assert 'data.signoff.bundle_data.t_alpha.v_v1["a"]["b"] # data.c' in moved
