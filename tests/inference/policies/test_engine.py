"""Deciding: default deny, from memory when nothing that is read has changed, and the policy that is in force now."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django_tenants.utils import schema_context

from core.audit.models import AuditEvent
from core.errors import Forbidden
from core.security.actor import SYSTEM, use_actor
from inference.policies import engine
from inference.policies.errors import ActivatedMeanwhile, PolicyInvalid, PolicyTestsFailed
from inference.policies.examples import TYPICAL
from inference.policies.models import PolicyBundle
from inference.policies.services import bundle_activate, bundle_save

HEAD = "package signoff.gateway\n\n"
ALLOW = HEAD + "allow := true\n"


def call(**changes: Any) -> dict[str, Any]:
    """A typical call with these attributes changed."""
    return {**TYPICAL, **changes}


def in_force(policy: str, **parts: Any) -> PolicyBundle:
    """This policy, saved and put in force in the tenant of the test."""
    with use_actor(SYSTEM):
        return bundle_activate(bundle=bundle_save(policy=policy, **parts))


@pytest.fixture
def alphas(db: None) -> str:
    """The schema that tests run in."""
    return "alpha"


# ------------------------------------------------------------------ the default
def test_without_a_policy_of_its_own_a_tenant_has_the_default(alphas: str) -> None:
    decision = engine.decide(alphas, TYPICAL)
    assert decision.allowed and decision.version == "default-1"
    assert (decision.redact, decision.retain_days, decision.cache) == ("", 0, ("exact", "semantic"))
    assert engine.active_version(alphas) == "default-1"


@pytest.mark.parametrize("scopes", [["gateway.call"], ["gateway.*"], ["*"], ["release.view", "gateway.call"]])
def test_the_default_lets_keys_call_whose_scopes_say_so(alphas: str, scopes: list[str]) -> None:
    assert engine.decide(alphas, call(key={"id": "k", "scopes": scopes, "attributes": {}})).allowed


@pytest.mark.parametrize("scopes", [[], ["release.view"], ["gateway.view"], ["gateway"], ["*.view"]])
def test_the_default_denies_other_keys_and_says_why(alphas: str, scopes: list[str]) -> None:
    decision = engine.decide(alphas, call(key={"id": "k", "scopes": scopes, "attributes": {}}))
    assert not decision.allowed and "gateway.call" in decision.reason


def test_a_document_without_a_key_is_denied(alphas: str) -> None:
    assert not engine.decide(alphas, {}).allowed


# ------------------------------------------------------------------ default deny
@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("", "allows nothing"),
        ('allow if input.route == "nowhere"', "allows nothing"),
        ('allow := true\ndeny contains "Not today." if input.hour >= 0', "Not today."),
        ('allow := true\ndeny contains "b"\ndeny contains "a"', "a; b"),
        ('allow := false\nreason := "Because."', "Because."),
    ],
)
def test_what_is_not_allowed_is_denied_with_the_reason(alphas: str, rules: str, said: str) -> None:
    in_force(HEAD + rules)
    decision = engine.decide(alphas, TYPICAL)
    assert not decision.allowed and said in decision.reason and decision.version == "v1"


@pytest.mark.parametrize(
    "rules",
    [
        'allow := "yes"',
        "allow := 1",
        "allow := true\ndeny := true",
        "allow := true\ndeny := {1, 2}",
        "allow := true\nredact := 3",
        'allow := true\ncache := ["everything"]',
        "allow := true\nretain_days := -1",
        "allow := true\nretain_days := 1.5",
        "allow := true\nretain_days := 4000",
        'allow := true\nmax_body_bytes := "much"',
        'allow := true\nobligations := {"sing": true}',
        'allow := true\nobligations := ["metadata"]',
        'allow := true\nobligations := {"metadata": "project"}',
    ],
)
def test_an_answer_that_is_none_denies_every_call(
    alphas: str, rules: str, caplog: pytest.LogCaptureFixture
) -> None:
    in_force(HEAD + rules)
    with caplog.at_level(logging.ERROR, logger="signoff.policies"):
        decision = engine.decide(alphas, call(metadata={"secret": "hunter2-hunter2"}))
    assert not decision.allowed and decision.failed and "not usable" in decision.reason
    assert caplog.records and "hunter2" not in caplog.text
    assert not engine.decide(alphas, TYPICAL).cached, "a failure is never kept"


def test_rules_that_disagree_on_a_call_deny_it(alphas: str) -> None:
    in_force(
        HEAD + 'allow := true\nretain_days := 1 if input.team == "a"\nretain_days := 2 if input.n == 9\n'
    )
    assert engine.decide(alphas, call(team="a")).allowed
    decision = engine.decide(alphas, call(team="a", n=9))
    assert not decision.allowed and decision.failed and "could not decide" in decision.reason
    # The engine is none the worse.
    assert engine.decide(alphas, call(team="a")).allowed


@pytest.mark.parametrize("attributes", [{"key": object()}, {"key": {1: 2}}, {"key": {"scopes": {1, 2}}}])
def test_attributes_that_are_not_json_deny(alphas: str, attributes: dict[str, Any]) -> None:
    decision = engine.decide(alphas, attributes)
    assert not decision.allowed


def test_a_policy_that_cannot_be_read_denies(alphas: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any) -> None:
        raise ConnectionError("the database is away")

    monkeypatch.setattr(engine, "_active_row", unreachable)
    decision = engine.decide(alphas, TYPICAL)
    assert not decision.allowed and "could not be read" in decision.reason
    monkeypatch.undo()
    assert engine.decide(alphas, TYPICAL).allowed, "and the next call tries again"


def test_a_stored_policy_that_no_longer_loads_denies(alphas: str) -> None:
    PolicyBundle.objects.create(
        version=1, policy=HEAD + "allow if opa.runtime()", digest="x", status="active"
    )
    engine.forget(alphas)
    decision = engine.decide(alphas, TYPICAL)
    assert not decision.allowed and "could not be loaded" in decision.reason and decision.version == "v1"


# ------------------------------------------------------------------ conditions
def test_conditions_hold_although_the_decision_is_kept(alphas: str) -> None:
    in_force(
        HEAD
        + "allow := true\nmax_body_bytes := 1000\n"
        + 'obligations := {"metadata": ["project"], "parameters": ["max_tokens"], "max_tokens": 100, "user": true}\n'
    )
    good = call(body_bytes=1000, metadata={"project": "x"}, parameters=["max_tokens"], max_tokens=100)
    assert engine.decide(alphas, good).allowed
    for change, said in (
        ({"body_bytes": 1001}, "1001 bytes"),
        ({"metadata": {}}, "project"),
        ({"metadata": {"project": ""}}, "project"),
        ({"parameters": ["max_tokens", "logit_bias"]}, "logit_bias"),
        ({"max_tokens": 101}, "max_tokens"),
        ({"max_tokens": None}, "max_tokens"),
        ({"user_present": False}, "user"),
    ):
        decision = engine.decide(alphas, {**good, **change})
        assert not decision.allowed and said in decision.reason and decision.cached


# ------------------------------------------------------------------ what is in force
def test_the_version_activated_last_decides_at_once(alphas: str) -> None:
    assert engine.decide(alphas, TYPICAL).version == "default-1"
    first = in_force(ALLOW)
    assert engine.decide(alphas, TYPICAL).version == "v1"
    in_force(HEAD + "allow := false\n")
    assert not engine.decide(alphas, TYPICAL).allowed
    # Back to an older one: it is activated again.
    with use_actor(SYSTEM):
        bundle_activate(bundle=first)
    assert engine.decide(alphas, TYPICAL).version == "v1"
    assert list(PolicyBundle.objects.values_list("version", "status").order_by("version")) == [
        (1, "active"),
        (2, "retired"),
    ]
    said = [event.action for event in AuditEvent.objects.filter(action__startswith="policy.")]
    assert said.count("policy.activated") == 3 and said.count("policy.saved") == 2


def test_another_process_learns_of_it_within_two_seconds(
    alphas: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine.ACTIVE_TTL_S <= 2
    assert engine.decide(alphas, TYPICAL).allowed
    monkeypatch.setattr(engine, "forget", lambda *_: None)  # as if somebody else had done it
    in_force(HEAD + "allow := false\n")
    now = engine.time.monotonic()
    monkeypatch.setattr(engine.time, "monotonic", lambda: now + 2.0)
    assert not engine.decide(alphas, TYPICAL).allowed


def test_tenants_have_policies_of_their_own(alphas: str, beta: Any) -> None:
    in_force(HEAD + "allow := false\n")
    assert not engine.decide("alpha", TYPICAL).allowed
    assert engine.decide("beta", TYPICAL).allowed
    with schema_context("beta"):
        assert not PolicyBundle.objects.exists()


def test_a_version_whose_tests_fail_is_not_put_in_force(alphas: str) -> None:
    case = {"name": "a call", "attributes": TYPICAL, "expect": {"allow": False}}
    with pytest.raises(PolicyTestsFailed, match="a call"):
        in_force(ALLOW, cases=[case])
    assert engine.decide(alphas, TYPICAL).version == "default-1"
    assert PolicyBundle.objects.get().status == "draft"


@pytest.mark.parametrize(
    "policy",
    [
        "package other\nallow := true",
        HEAD + "allow if {",
        HEAD + "allow if nothing_like_this(1)",
        HEAD + 'allow if http.send({"method": "get", "url": "http://localhost"})',
        HEAD + "allow if time.now_ns() > 0",
        HEAD + 'allow if time["now_ns"]() > 0',
        HEAD + "allow if opa . runtime()",
        HEAD + 'allow if rand.intn("x", 2) == 1',
        HEAD + 'allow if print("x")',
        HEAD + 'allow if $"{opa.runtime()}" != ""',
        HEAD + "a if b\nb if a\nallow if a",
    ],
)
def test_what_must_not_run_is_not_put_in_force(alphas: str, policy: str) -> None:
    with pytest.raises(PolicyTestsFailed):
        in_force(policy)
    assert engine.decide(alphas, TYPICAL).version == "default-1"


def test_a_text_that_ends_the_interpreter_does_not_end_the_server(alphas: str) -> None:
    """rego-cpp aborts the process on this; it happens in a process of its own."""
    tests = "package signoff.gateway_test\n\ntest_a if every k, v in {1: 2} { v == k }\n"
    with pytest.raises(PolicyTestsFailed):
        in_force(HEAD + "allow := x if { y := 1; x := y + z; z := x }", tests=tests)


def test_saving_the_same_text_again_makes_no_new_version(alphas: str) -> None:
    with use_actor(SYSTEM):
        assert bundle_save(policy=ALLOW).pk == bundle_save(policy=ALLOW + "\n\n").pk


def test_what_a_version_says_cannot_be_changed_in_the_database(alphas: str) -> None:
    bundle = in_force(ALLOW)
    for change in ({"policy": "x"}, {"data": {"a": 1}}, {"tests": "x"}, {"version": 9}):
        with pytest.raises(IntegrityError, match="never changes"), transaction.atomic():
            PolicyBundle.objects.filter(pk=bundle.pk).update(**change)
    with pytest.raises(IntegrityError, match="never removed"), transaction.atomic():
        bundle.delete()


def test_two_activations_at_once_leave_one_in_force(transactional_db: None) -> None:
    with use_actor(SYSTEM):
        bundles = [bundle_save(policy=ALLOW + f"retain_days := {n}\n") for n in range(3)]
    start = threading.Barrier(len(bundles))
    outcomes: list[str] = []

    def activate(bundle: PolicyBundle) -> None:
        try:
            with schema_context("alpha"), use_actor(SYSTEM):
                start.wait(30)
                bundle_activate(bundle=bundle)
                outcomes.append("done")
        except ActivatedMeanwhile:
            outcomes.append("refused")
        finally:
            connection.close()

    threads = [threading.Thread(target=activate, args=(bundle,)) for bundle in bundles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(outcomes) == 3 and "done" in outcomes
    active = PolicyBundle.objects.get(status="active")
    assert engine.decide("alpha", TYPICAL).version == active.label


# ------------------------------------------------------------------ who may
@pytest.mark.parametrize("role", ["pmo", "legal", "auditor", "customer"])
def test_who_may_not_edit_policies_changes_nothing(alphas: str, acting: Any, role: str) -> None:
    bundle = in_force(ALLOW)
    acting(roles=[role])
    with pytest.raises(Forbidden):
        bundle_save(policy=ALLOW + "# more\n")
    with pytest.raises(Forbidden):
        bundle_activate(bundle=bundle)


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ({"policy": ""}, "policy"),
        ({"policy": "x" * 100_001}, "policy"),
        ({"policy": "a\x00"}, "policy"),
        ({"policy": ALLOW, "data": []}, "data"),
        ({"policy": ALLOW, "data": {"signoff": 1}}, "data"),
        ({"policy": ALLOW, "data": {"a": float("nan")}}, "data"),
        ({"policy": ALLOW, "data": {"a": "\x00"}}, "data"),
        ({"policy": ALLOW, "cases": {}}, "cases"),
        ({"policy": ALLOW, "cases": [{"name": "x"}]}, "cases"),
        ({"policy": ALLOW, "cases": [{"name": "x", "attributes": {}, "expect": {"allow": 1}}]}, "cases"),
        ({"policy": ALLOW, "note": "n" * 301}, "note"),
    ],
)
def test_nonsense_is_refused_by_its_field(alphas: str, parts: dict[str, Any], field: str) -> None:
    with use_actor(SYSTEM), pytest.raises(PolicyInvalid) as refusal:
        bundle_save(**parts)
    assert field in refusal.value.fields
