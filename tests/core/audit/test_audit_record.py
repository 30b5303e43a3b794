"""What an event holds, and that it stands or falls with the business transaction."""

from __future__ import annotations

import json

import pytest
from django.db import IntegrityError, transaction

from core.audit.models import AuditEvent, PersonalDataSalt
from core.audit.services import Personal, audit_record, audit_sequence, event_document
from core.security.actor import SYSTEM, Actor, use_actor
from inference.models import Product

pytestmark = pytest.mark.django_db


@pytest.fixture
def product(db: None) -> Product:
    return Product.objects.create(slug="assistant", name="Document assistant")


def everything_stored() -> str:
    return json.dumps([event_document(event) for event in AuditEvent.objects.all()])


def test_event_says_who_did_what_to_what(acting, alice, product):
    acting(alice)
    event = audit_record("gate.checked", target=product, data={"outcome": "pass"})
    assert (event.actor_kind, event.actor_roles) == ("user", ["pmo"])
    assert (event.target_type, event.target_id, event.target_label) == (
        "inference.product",
        str(product.pk),
        "Document assistant",
    )
    assert event.sentence == "checked the gate Document assistant: pass"


def test_rolled_back_business_leaves_no_event(acting, alice, product):
    acting(alice)
    before = AuditEvent.objects.count()
    with pytest.raises(IntegrityError), transaction.atomic():
        audit_record("product.changed", target=product)
        Product.objects.create(slug="assistant", name="Twice")
    assert AuditEvent.objects.count() == before


def test_system_is_nobodys_personal_data(db):
    with use_actor(SYSTEM):
        event = audit_record("schema.migrated")
    assert (event.actor_kind, event.actor, event.actor_label) == ("system", "", "")


def test_person_as_target_is_stored_as_commitment_only(acting, alice, bob):
    acting(alice)
    event = audit_record("user.roles_changed", target=bob, data={"roles": ["auditor"]})
    assert event.target_is_subject
    assert event.target_label == ""
    assert event.sentence == "changed the roles of {target}: auditor"
    assert len(event.target_id) == 64
    assert PersonalDataSalt.objects.get(commitment=event.target_id).ref == str(bob.pk)


@pytest.mark.parametrize(
    "data",
    [
        {"reason": "Alice Ahn said so"},
        {"reason": "write to alice@alpha.example"},
        {"note": ["alice ahn", {"deep": "ALICE@alpha.example"}]},
        {"email": "alice@alpha.example"},
        {"Alice Ahn": 1},
        {"signer_name": "Alice Ahn"},
    ],
    ids=["name", "address", "nested", "e-mail key", "as key", "name key"],
)
def test_names_and_addresses_of_people_never_enter(acting, alice, product, data):
    acting(alice)
    audit_record("review.commented", target=product, data=data)
    stored = everything_stored().lower()
    assert "alice" not in stored
    assert "ahn" not in stored


@pytest.mark.parametrize(
    "key", ["prompt", "output", "outputs", "completion", "password", "secret", "messages"]
)
def test_prompts_outputs_and_secrets_are_withheld(acting, alice, product, key):
    acting(alice)
    event = audit_record("run.commented", target=product, data={key: "the quick brown fox"})
    assert event.data == {key: "[withheld]"}


def test_api_key_text_is_withheld(acting, alice):
    acting(alice)
    event = audit_record("key.created", data={"note": "use sgn_alpha_ab12_S3cr3tS3cr3t please"})
    assert event.data == {"note": "use [withheld] please"}


def test_personal_value_becomes_a_commitment_that_the_value_proves(acting, alice, bob):
    from core.audit.commitments import value_commitment

    acting(alice)
    event = audit_record("user.changed", target=bob, data={"address": Personal("user", bob.pk, bob.email)})
    salt = PersonalDataSalt.objects.get(kind="user", ref=str(bob.pk))
    assert event.data["address"] == {
        "subject": salt.commitment,
        "commitment": value_commitment(bytes(salt.salt), bob.email),
    }


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        1e300,
        0.1 + 0.2,
        10**30,
        "\x00nul",
        "\ud800",
        b"raw",
        {1, 2},
        object(),
        {"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}},
    ],
    # Names that are the same in every process: the tests run in several.
    ids=lambda value: type(value).__name__,
)
def test_any_value_can_be_recorded_and_has_the_same_digest_after_storage(acting, alice, value):
    acting(alice)
    event = audit_record("thing.done", data={"value": value})
    stored = AuditEvent.objects.get(pk=event.pk)
    assert event_document(stored) == event_document(event)
    audit_sequence()
    assert stored.link.seq >= 1


def test_very_long_parts_are_shortened_not_refused(acting, alice):
    acting(alice)
    event = audit_record(
        "x" * 300 + ".y", data={"note": "n" * 5000, "many": list(range(1000))}, sentence="s" * 2000
    )
    assert (len(event.action), len(event.sentence), len(event.data["note"])) == (80, 500, 500)
    assert len(event.data["many"]) == 200


def test_same_person_has_one_commitment_and_others_have_another(db):
    one, two = (Actor(kind="user", id=ref, label="A B", schema="alpha") for ref in ("1", "2"))
    events = [audit_record("a.b", actor=actor) for actor in (one, one, two)]
    assert events[0].actor == events[1].actor != events[2].actor
    assert events[0].actor_label == events[1].actor_label != events[2].actor_label


def test_commitments_of_one_person_differ_between_tenants(in_tenant, beta):
    actor = Actor(kind="user", id="7", label="A B")
    here = audit_record("a.b", actor=actor).actor
    with in_tenant(beta):
        there = audit_record("a.b", actor=actor).actor
    assert here != there
