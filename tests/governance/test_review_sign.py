"""Signing: what is recorded, what is refused, and when a signature goes stale."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.utils import DatabaseError
from django.utils import timezone

from core.audit.models import AuditEvent
from core.errors import Forbidden, Invalid
from core.security.actor import SYSTEM, Actor, use_actor
from governance import services
from governance.errors import (
    AlreadySigned,
    EvidenceChanged,
    NotReady,
    NotYourRole,
    OwnRequest,
    ReviewClosed,
    WrongPassword,
)
from governance.models import Review, Signature
from governance.selectors import review_state, reviews_awaiting, signature_is_current
from inference.gates import gate_as_dict, gate_revise
from tests.governance.conftest import PASSWORD, measured_world, open_review
from tests.inference.gate_data import World

pytestmark = pytest.mark.django_db


def sign(review: Review, user: Any, **changes: Any) -> Signature:
    """Sign what is shown now, as the user."""
    arguments = {
        "role": user.roles[0],
        "position": "go",
        "password": PASSWORD,
        "expected_digest": services.snapshot_take(review=review).digest,
    } | changes
    return services.review_sign(review=review, signer=user, **arguments)


def tighten(world: World) -> None:
    """Change one margin of the gate: its next version."""
    document = gate_as_dict(world.gate)
    document["criteria"][0]["rule"]["margin"] = 0.04
    with use_actor(SYSTEM):
        gate_revise(slug=world.gate.slug, title=document["title"], criteria=document["criteria"])


def test_a_signature_freezes_the_evidence_and_is_audited(review: Review, alice: Any, acting: Any) -> None:
    acting(alice)
    signature = sign(review, alice)
    stored = Signature.objects.get(pk=signature.pk)
    assert (stored.role, stored.position, stored.signer_name) == ("pmo", "go", "Alice Ahn")
    assert stored.snapshot.content["verdict"]["with_waivers"] == "pass"
    assert stored.envelope["signatures"]
    assert AuditEvent.objects.filter(action="review.signed").count() == 1
    assert signature_is_current(stored)


def test_second_signature_by_same_person_is_refused(review: Review, alice: Any, acting: Any) -> None:
    acting(alice)
    sign(review, alice)
    with pytest.raises(AlreadySigned):
        sign(review, alice)
    assert review.signatures.count() == 1


@pytest.mark.parametrize("password", ["", "wrong", PASSWORD.upper()])
def test_wrong_password_signs_nothing(review: Review, alice: Any, acting: Any, password: str) -> None:
    acting(alice)
    with pytest.raises(WrongPassword):
        sign(review, alice, password=password)
    assert not review.signatures.exists()


def test_evidence_that_changed_after_opening_is_refused_with_the_difference(
    world: World, review: Review, alice: Any, acting: Any
) -> None:
    acting(alice)
    shown = services.snapshot_take(review=review).digest
    tighten(world)
    with pytest.raises(EvidenceChanged) as refusal:
        sign(review, alice, expected_digest=shown)
    paths = {change["path"] for change in refusal.value.extra["difference"]}
    assert "gate_in_force.version" in paths
    assert not review.signatures.exists()


def test_a_changed_criterion_makes_the_signature_stale(
    world: World, review: Review, alice: Any, acting: Any
) -> None:
    acting(alice)
    signature = sign(review, alice)
    tighten(world)
    assert not signature_is_current(signature)
    state = review_state(review)
    assert state.verdict == "stale"
    assert state.missing_roles == ["pmo"]


def test_a_stale_signer_can_sign_the_new_evidence(
    world: World, review: Review, alice: Any, acting: Any
) -> None:
    acting(alice)
    sign(review, alice)
    item = review.checklist.filter(kind="checklist").first()
    item.status, item.note = "not_applicable", "No customer is affected."
    item.save()
    sign(review, alice)
    assert review.signatures.count() == 2
    assert [row.current for poll in review_state(review).poll for row in poll.signatures] == [False, True]


def test_go_is_refused_while_the_gate_fails(damaged_world: World, alice: Any, acting: Any) -> None:
    acting(alice)
    review = open_review(damaged_world)
    with pytest.raises(NotReady, match="fail"):
        sign(review, alice)
    assert sign(review, alice, position="no_go", comment="Long items got worse.").position == "no_go"


def test_go_is_refused_while_an_entrance_criterion_is_open(review: Review, alice: Any, acting: Any) -> None:
    acting(alice)
    review.checklist.filter(kind="entrance").update(status="open")
    with pytest.raises(NotReady, match="entrance"):
        sign(review, alice)


def test_the_requester_cannot_approve_but_can_dissent(world: World, alice: Any, acting: Any) -> None:
    acting(alice)
    review = services.review_create(
        candidate=world.candidate, baseline=world.baseline, gate_slug=world.gate.slug
    )
    review.checklist.filter(kind="entrance").update(status="done")
    with pytest.raises(OwnRequest):
        sign(review, alice)
    sign(review, alice, position="dissent", comment="I have doubts about the long items.")
    assert len(review_state(review).dissent) == 1


@pytest.mark.parametrize(
    ("position", "field"),
    [("no_go", "comment"), ("dissent", "comment"), ("go_with_conditions", "conditions")],
)
def test_positions_need_their_reason(
    review: Review, alice: Any, acting: Any, position: str, field: str
) -> None:
    acting(alice)
    with pytest.raises(Invalid) as refusal:
        sign(review, alice, position=position)
    assert field in refusal.value.fields


def test_nobody_signs_in_a_role_they_do_not_hold(review: Review, alice: Any, acting: Any) -> None:
    acting(alice)
    with pytest.raises(NotYourRole):
        sign(review, alice, role="security")


def test_nobody_signs_for_somebody_else(review: Review, alice: Any, user_with: Any, acting: Any) -> None:
    acting(user_with("engineer"))
    with pytest.raises(NotYourRole):
        sign(review, alice)


@pytest.mark.parametrize("role", ["auditor", "admin", "customer"])
def test_roles_without_a_voice_cannot_sign(review: Review, user_with: Any, acting: Any, role: str) -> None:
    user = user_with(role)
    acting(user)
    with pytest.raises(Forbidden):
        sign(review, user)


def test_a_key_cannot_sign_whatever_its_scopes(review: Review, alice: Any) -> None:
    key = Actor(kind="api_key", id="1", scopes=("*",), schema="alpha")
    with use_actor(key), pytest.raises(Forbidden):
        sign(review, alice)


def test_a_closed_review_takes_no_signature(review: Review, alice: Any, acting: Any) -> None:
    acting(alice)
    services.review_withdraw(review=review, reason="Superseded by 1.2.0.")
    with pytest.raises(ReviewClosed):
        sign(review, alice)


@pytest.mark.parametrize(
    "statement", ["UPDATE governance_signature SET position = 'no_go'", "DELETE FROM governance_signature"]
)
def test_the_database_refuses_to_change_a_signature(
    review: Review, alice: Any, acting: Any, statement: str
) -> None:
    acting(alice)
    sign(review, alice)
    with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert Signature.objects.get().position == "go"


# ------------------------------------------------------------------ waivers
def ask_waiver(review: Review, key: str, **changes: Any) -> Any:
    """Request a waiver of a criterion for a week."""
    arguments = {
        "reason": "Known and accepted for the pilot.",
        "expires_at": timezone.now() + timedelta(days=7),
    }
    return services.waiver_request(review=review, criterion_key=key, **(arguments | changes))


def failing_keys(review: Review) -> list[str]:
    report = review_state(review).dossier.gate_verdict
    assert report is not None
    return [row.criterion.key for row in report.criteria.all() if row.status != "pass"]


def test_a_waiver_by_another_person_lets_a_go_through_and_shows_both_verdicts(
    damaged_world: World, alice: Any, user_with: Any, acting: Any
) -> None:
    review = open_review(damaged_world)
    engineer, security = user_with("engineer"), user_with("security")
    for key in failing_keys(review):
        acting(engineer)
        waiver = ask_waiver(review, key)
        acting(security)
        services.waiver_resolve(waiver=waiver, approve=True)
    content = review_state(review).dossier.content["verdict"]
    assert (content["without_waivers"], content["with_waivers"]) == ("fail", "pass")
    acting(alice)
    assert sign(review, alice).position == "go"


def test_the_requester_of_a_waiver_cannot_approve_it(damaged_world: World, alice: Any, acting: Any) -> None:
    acting(alice)
    review = open_review(damaged_world)
    waiver = ask_waiver(review, failing_keys(review)[0])
    with pytest.raises(OwnRequest):
        services.waiver_resolve(waiver=waiver, approve=True)


def test_an_expired_waiver_no_longer_counts_and_the_signature_goes_stale(
    damaged_world: World, alice: Any, user_with: Any, acting: Any
) -> None:
    review = open_review(damaged_world)
    engineer, security = user_with("engineer"), user_with("security")
    for key in failing_keys(review):
        acting(engineer)
        waiver = ask_waiver(review, key)
        acting(security)
        services.waiver_resolve(waiver=waiver, approve=True)
    acting(alice)
    signature = sign(review, alice)
    later = timezone.now() + timedelta(days=8)
    assert review_state(review, now=later).verdict == "fail"
    assert not signature_is_current(signature, now=later)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"reason": "short"}, "reason"),
        ({"expires_at": timezone.now() - timedelta(days=1)}, "expires_at"),
        ({"expires_at": timezone.now() + timedelta(days=400)}, "expires_at"),
    ],
)
def test_waivers_need_reason_and_end(
    review: Review, alice: Any, acting: Any, changes: Any, field: str
) -> None:
    acting(alice)
    gate = review_state(review).dossier.gate_verdict
    assert gate is not None
    with pytest.raises(Invalid) as refusal:
        ask_waiver(review, gate.criteria.all()[0].criterion.key, **changes)
    assert field in refusal.value.fields


# ------------------------------------------------------------------ deciding
def test_go_needs_every_required_role(world: World, alice: Any, user_with: Any, acting: Any) -> None:
    review = open_review(world, "pmo", "security")
    acting(alice)
    sign(review, alice)
    with pytest.raises(NotReady, match="security"):
        services.review_decide(review=review, decision="go")
    guard = user_with("security")
    acting(guard)
    sign(review, guard)
    acting(alice)
    decided = services.review_decide(review=review, decision="go")
    assert (decided.status, decided.decision) == ("decided", "go")
    assert not review_state(decided).decision_stale


def test_a_required_role_against_it_blocks_a_go(
    world: World, alice: Any, user_with: Any, acting: Any
) -> None:
    review = open_review(world, "security")
    guard = user_with("security")
    acting(guard)
    sign(review, guard, position="no_go", comment="The threat model is old.")
    acting(alice)
    with pytest.raises(NotReady, match="against"):
        services.review_decide(review=review, decision="go")
    assert (
        services.review_decide(review=review, decision="no_go", reason="Security is against it.").decision
        == "no_go"
    )


def test_a_decision_goes_stale_with_its_evidence(
    world: World, review: Review, alice: Any, acting: Any
) -> None:
    acting(alice)
    sign(review, alice)
    decided = services.review_decide(review=review, decision="go")
    tighten(world)
    assert review_state(decided).decision_stale


def test_reviews_awaiting_lists_what_my_role_has_not_signed(review: Review, alice: Any, acting: Any) -> None:
    acting(alice)
    assert [state.review.pk for state in reviews_awaiting(alice)] == [review.pk]
    sign(review, alice)
    assert reviews_awaiting(alice) == []


def test_a_second_open_review_of_the_same_release_is_refused(world: World, review: Review) -> None:
    with use_actor(SYSTEM), pytest.raises(Invalid):
        services.review_create(candidate=world.candidate, baseline=world.baseline, gate_slug=world.gate.slug)


def test_a_review_without_a_verdict_is_not_run(db: None, alice: Any, acting: Any) -> None:
    from tests.inference.gate_data import make_world

    review = open_review(make_world())
    acting(alice)
    assert review_state(review).verdict == "not_run"
    with pytest.raises(NotReady, match="not run"):
        sign(review, alice)


def test_measured_worlds_differ(db: None) -> None:
    """The fixtures themselves: the healthy one passes."""
    assert review_state(open_review(measured_world())).verdict == "pass"
