"""The database refuses changes; what somebody with every right changes all the same is found and named."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from django.db import ProgrammingError, connection, transaction

from core.audit.append_only import TABLES
from core.audit.chain import GENESIS, HEAD_TYPE, event_digest, head_payload, link_hash
from core.audit.models import AppendOnlyError, AuditEvent, AuditHead, AuditLink
from core.audit.services import audit_record, audit_sequence, event_document
from core.audit.verification import audit_verify
from core.security.actor import SYSTEM, use_actor
from core.security.dsse import envelope_create
from core.security.keys import generate_private_key, keyid_of, private_key_encrypt, public_key_pem
from core.security.models import TenantSigningKey
from core.security.services import tenant_key_rotate

pytestmark = pytest.mark.django_db


@pytest.fixture
def log(db: None) -> list[AuditLink]:
    """Ten events, chained, with a signed head over them; the last ten links."""
    with use_actor(SYSTEM):
        for number in range(10):
            audit_record("thing.done", data={"number": number})
    audit_sequence(sign=True)
    assert audit_verify().ok
    return list(AuditLink.objects.order_by("-seq")[:10])[::-1]


@pytest.fixture
def tamper(db: None) -> Callable[..., None]:
    """Run SQL as a superuser who has switched the triggers off, and on again afterwards."""

    def run(*statements: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica")
            for statement in statements:
                cursor.execute(statement)
            cursor.execute("SET LOCAL session_replication_role = DEFAULT")

    return run


def kinds() -> set[str]:
    return {problem.kind for problem in audit_verify().problems}


# ------------------------------------------------------------------ refusal
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {0} SET {1} = {1}",
        "DELETE FROM {0}",
        "TRUNCATE {0}",
        "TRUNCATE {0} CASCADE",
        "DELETE FROM {0} WHERE false",
    ],
)
def test_database_refuses_to_change_the_log(log, table, statement):
    column = {"audit_auditevent": "action", "audit_auditlink": "hash", "audit_audithead": "hash"}[table]
    with (
        pytest.raises(ProgrammingError, match="append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement.format(table, column))


def test_public_schema_is_guarded_too(operator):
    connection.set_schema_to_public()
    with use_actor(SYSTEM):
        audit_record("thing.done")
    with pytest.raises(ProgrammingError, match="append-only"), transaction.atomic():
        AuditEvent.objects.update(action="x")


def test_models_refuse_before_the_database_does(log):
    for row in (AuditEvent.objects.first(), log[0], AuditHead.objects.first()):
        with pytest.raises(AppendOnlyError):
            row.save()
        with pytest.raises(AppendOnlyError):
            row.delete()


def test_guard_names_no_schema():
    """Replaying a dump under another schema name must give a guard of that schema's own."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT p.pronamespace::regnamespace::text, t.tgrelid::regclass::text, p.prosrc FROM pg_trigger t "
            "JOIN pg_proc p ON p.oid = t.tgfoid WHERE p.proname = 'audit_refuse_change'"
        )
        rows = cursor.fetchall()
    mine = [row for row in rows if row[0] == "alpha"]
    assert len(mine) == len(TABLES)
    assert all("alpha" not in source and "public" not in source for _, _, source in rows)


# ------------------------------------------------------------------ tampering that is found
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("sentence", "'something else'"),
        ("action", "'other.done'"),
        ("data", "'{\"number\": 99}'"),
        ("at", "at + interval '1 microsecond'"),
        ("actor_kind", "'user'"),
        ("actor", "repeat('a', 64)"),
        ("actor_label", "repeat('a', 64)"),
        ("actor_roles", "ARRAY['admin']"),
        ("target_type", "'x.y'"),
        ("target_id", "'7'"),
        ("target_label", "'x'"),
        ("target_is_subject", "NOT target_is_subject"),
        ("source", "'row'"),
        ("correlation_id", "'x'"),
    ],
)
def test_changed_event_is_named(log, tamper, column, value):
    victim = log[4]
    tamper(f"UPDATE audit_auditevent SET {column} = {value} WHERE id = {victim.event_id}")
    (problem,) = audit_verify().problems
    assert (problem.kind, problem.seq, problem.event) == ("event_changed", victim.seq, victim.event_id)
    assert str(victim.event_id) in problem.sentence


def test_every_column_of_an_event_is_under_its_digest():
    """A column added later must enter the document, or it could be changed unseen."""
    documented = set(event_document(AuditEvent(pk=1, actor_kind="system", action="a.b")))
    assert documented == {field.name for field in AuditEvent._meta.concrete_fields}


def test_removed_event_is_named(log, tamper):
    tamper(f"DELETE FROM audit_auditevent WHERE id = {log[3].event_id}")
    (problem,) = audit_verify().problems
    assert (problem.kind, problem.seq) == ("event_removed", log[3].seq)


def test_event_removed_with_its_link_is_named(log, tamper):
    tamper(
        f"DELETE FROM audit_auditevent WHERE id = {log[3].event_id}",
        f"DELETE FROM audit_auditlink WHERE seq = {log[3].seq}",
    )
    problems = audit_verify().problems
    assert [(problem.kind, problem.seq) for problem in problems] == [("link_removed", log[3].seq)]


def test_exchanged_events_are_named_as_a_changed_order(log, tamper):
    one, two = log[2], log[6]
    tamper(
        f"UPDATE audit_auditlink SET event_id = -1 WHERE seq = {one.seq}",
        f"UPDATE audit_auditlink SET event_id = {one.event_id} WHERE seq = {two.seq}",
        f"UPDATE audit_auditlink SET event_id = {two.event_id} WHERE seq = {one.seq}",
    )
    problems = audit_verify().problems
    assert {(problem.kind, problem.seq) for problem in problems} == {
        ("order_changed", one.seq),
        ("order_changed", two.seq),
    }


def test_exchanged_links_are_named_as_a_changed_order(log, tamper):
    one, two = log[2], log[6]
    swap = "UPDATE audit_auditlink SET event_id = {0}, event_digest = '{1}' WHERE seq = {2}"
    tamper(
        f"UPDATE audit_auditlink SET event_id = -1 WHERE seq = {one.seq}",
        swap.format(one.event_id, one.event_digest, two.seq),
        swap.format(two.event_id, two.event_digest, one.seq),
    )
    assert kinds() == {"order_changed"}


def test_exchanged_contents_are_named_as_changed(log, tamper):
    one, two = log[2], log[6]
    tamper(
        f"UPDATE audit_auditevent SET data = '{{\"number\": 6}}' WHERE id = {one.event_id}",
        f"UPDATE audit_auditevent SET data = '{{\"number\": 2}}' WHERE id = {two.event_id}",
    )
    problems = audit_verify().problems
    assert {problem.seq for problem in problems} == {one.seq, two.seq}


@pytest.mark.parametrize("column", ["hash", "prev_hash", "event_digest"])
def test_changed_link_is_named(log, tamper, column):
    tamper(f"UPDATE audit_auditlink SET {column} = repeat('0', 64) WHERE seq = {log[5].seq}")
    assert "link_changed" in kinds()
    assert log[5].seq in {problem.seq for problem in audit_verify().problems}


def rewrite_from(tamper: Callable[..., None], start: int) -> None:
    """Recompute every digest and hash from link `start`, as a careful forger would."""
    previous = AuditLink.objects.filter(seq=start - 1).values_list("hash", flat=True).first() or GENESIS
    for link in AuditLink.objects.filter(seq__gte=start).order_by("seq").select_related("event"):
        digest = event_digest(event_document(link.event))
        fresh = link_hash(link.seq, previous, digest)
        tamper(
            f"UPDATE audit_auditlink SET event_digest = '{digest}', prev_hash = '{previous}', hash = '{fresh}' "
            f"WHERE seq = {link.seq}"
        )
        previous = fresh


def test_carefully_rewritten_chain_contradicts_its_signed_head(log, tamper):
    tamper(f"UPDATE audit_auditevent SET sentence = 'forged' WHERE id = {log[1].event_id}")
    rewrite_from(tamper, log[1].seq)
    assert kinds() == {"chain_rewritten"}


def test_head_changed_to_fit_the_rewritten_chain_is_named(log, tamper):
    tamper(f"UPDATE audit_auditevent SET sentence = 'forged' WHERE id = {log[1].event_id}")
    rewrite_from(tamper, log[1].seq)
    last = AuditLink.objects.order_by("-seq").first()
    tamper(f"UPDATE audit_audithead SET hash = '{last.hash}' WHERE seq = {last.seq}")
    assert kinds() == {"head_forged"}


@pytest.mark.parametrize("slip_in_key", [False, True], ids=["unknown key", "own key put among ours"])
def test_head_signed_with_a_key_of_the_forgers_own_is_named(log, tamper, slip_in_key):
    head = AuditHead.objects.order_by("-number").first()
    key = generate_private_key()
    if slip_in_key:
        TenantSigningKey.objects.create(
            keyid=keyid_of(key),
            public_pem=public_key_pem(key).decode(),
            private_encrypted=private_key_encrypt(key, "a secret of the forger's own"),
            is_active=False,
            retired_at="2026-01-01T00:00Z",
        )
    payload = head_payload(schema="alpha", number=head.number, seq=head.seq, hash=head.hash, signed_at="x")
    envelope = json.dumps(envelope_create(payload, HEAD_TYPE, key))
    tamper(f"UPDATE audit_audithead SET envelope = '{envelope}' WHERE number = {head.number}")
    report = audit_verify()
    assert not report.ok
    if slip_in_key:
        assert keyid_of(key)[:12] in report.unchecked[0]
    else:
        assert {problem.kind for problem in report.problems} == {"head_forged"}


@pytest.mark.parametrize(
    "envelope", ["{}", "null", "[]", '{"payload": "!", "payloadType": "x", "signatures": []}', '"x"']
)
def test_head_that_is_no_envelope_is_named(log, tamper, envelope):
    tamper(f"UPDATE audit_audithead SET envelope = '{envelope}'")
    assert "head_forged" in kinds()


def test_end_cut_off_contradicts_the_head(log, tamper):
    tamper(
        f"DELETE FROM audit_auditevent WHERE id = {log[-1].event_id}",
        f"DELETE FROM audit_auditlink WHERE seq = {log[-1].seq}",
    )
    assert kinds() == {"log_truncated"}


def test_end_cut_off_and_overwritten_contradicts_the_head(log, tamper):
    tamper(
        f"DELETE FROM audit_auditevent WHERE id = {log[-1].event_id}",
        f"DELETE FROM audit_auditlink WHERE seq = {log[-1].seq}",
    )
    with use_actor(SYSTEM):
        audit_record("thing.done", data={"number": 9})
    assert kinds() == {"chain_rewritten"}


def test_removed_head_is_named(log, tamper):
    with use_actor(SYSTEM):
        audit_record("thing.done")
    audit_sequence(sign=True)
    first = AuditHead.objects.order_by("number").first()
    tamper(f"DELETE FROM audit_audithead WHERE number = {first.number}")
    assert kinds() == {"head_removed"}


def test_event_added_past_the_service_is_named(log):
    event = AuditEvent.objects.create(actor_kind="user", action="review.signed", sentence="signed")
    (problem,) = audit_verify().problems
    assert (problem.kind, problem.event) == ("event_unlinked", event.pk)


@pytest.mark.parametrize("table", TABLES)
def test_disabled_guard_is_named(log, table):
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    (problem,) = audit_verify().problems
    assert problem.kind == "guard_missing"
    assert table in problem.sentence


def test_nothing_is_signed_over_a_log_with_problems(log, tamper):
    heads = AuditHead.objects.count()
    with use_actor(SYSTEM):
        audit_record("thing.done")
    tamper(f"UPDATE audit_auditevent SET sentence = 'forged' WHERE id = {log[1].event_id}")
    assert not audit_verify().ok
    assert AuditHead.objects.count() == heads


def test_changed_secret_key_is_reported_as_unchecked_not_as_tampering(log, settings):
    settings.SECRET_KEY = "another-secret-of-enough-length"
    report = audit_verify()
    assert report.problems == []
    assert "SECRET_KEY" in report.unchecked[0]
    settings.SECRET_KEY_FALLBACKS = ["dev"]


def test_rotated_key_still_verifies_what_it_signed(log):
    old = TenantSigningKey.objects.get(is_active=True).keyid
    assert tenant_key_rotate().keyid != old
    with use_actor(SYSTEM):
        audit_record("thing.done")
    audit_sequence(sign=True)
    assert audit_verify().ok


def test_hundreds_of_problems_are_counted_not_listed(log, tamper, monkeypatch):
    monkeypatch.setattr("core.audit.verification.MAX_PROBLEMS", 3)
    tamper("UPDATE audit_auditevent SET sentence = 'forged'")
    report = audit_verify()
    assert len(report.problems) == 3
    assert report.more_problems >= 7
    assert json.dumps(report.as_json())
