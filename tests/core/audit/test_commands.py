"""verify_audit and erase_person as an operator runs them; and the copy of the newest head outside the database."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django_tenants.utils import schema_context

from core.audit.models import AuditEvent, AuditHead, AuditLink
from core.audit.services import audit_record, audit_sequence
from core.audit.verification import audit_verify
from core.security.actor import SYSTEM, use_actor


def verify(*arguments: str) -> tuple[int, str]:
    out, code = io.StringIO(), 0
    with schema_context("public"):
        try:
            call_command("verify_audit", *arguments, stdout=out, no_color=True)
        except SystemExit as left:
            code = int(str(left.code))
        except CommandError as error:
            return error.returncode, str(error)
    return code, out.getvalue()


def record(count: int = 1) -> None:
    with use_actor(SYSTEM):
        for _ in range(count):
            audit_record("thing.done")


def tamper(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute(statement)
        cursor.execute("SET session_replication_role = DEFAULT")


@pytest.mark.django_db
def test_whole_log_exits_with_zero():
    record(3)
    code, out = verify("--tenant", "alpha")
    assert code == 0
    assert out.startswith("alpha: ok. All ")


@pytest.mark.django_db
def test_every_tenant_and_the_operators_log_are_checked():
    code, out = verify("--all", "--json")
    assert code == 0
    assert {"public", "alpha", "beta"} <= {report["schema"] for report in json.loads(out)}


@pytest.mark.django_db
def test_tampering_is_named_and_exits_with_one():
    record(3)
    audit_sequence(sign=True)
    victim = AuditEvent.objects.order_by("-id")[0]
    tamper(f"UPDATE audit_auditevent SET action = 'forged' WHERE id = {victim.pk}")
    code, out = verify("--all")
    assert code == 1
    assert "alpha: FAILED" in out
    assert f"event_changed: Event {victim.pk}" in out
    assert "beta: ok" in out
    code, out = verify("--tenant", "alpha", "--json")
    assert code == 1
    (report,) = json.loads(out)
    assert report["problems"][0]["kind"] == "event_changed"


@pytest.mark.django_db
def test_unknown_tenant_exits_with_two():
    code, out = verify("--tenant", "nobody")
    assert code == 2
    assert "Known: " in out


@pytest.mark.django_db
def test_unreadable_key_exits_with_two(settings):
    record()
    audit_sequence(sign=True)
    settings.SECRET_KEY = "another-secret-of-enough-length"
    code, out = verify("--tenant", "alpha")
    assert code == 2
    assert "SECRET_KEY" in out


@pytest.mark.django_db
def test_erasing_asks_first(alice, acting):
    acting(alice)
    audit_record("thing.done")
    with schema_context("public"), pytest.raises(CommandError, match="--yes"):
        call_command("erase_person", str(alice.pk), tenant="alpha", kind="user")
    out = io.StringIO()
    with schema_context("public"):
        call_command("erase_person", str(alice.pk), tenant="alpha", kind="user", yes=True, stdout=out)
    assert out.getvalue().strip() == "Erased."
    assert audit_verify().ok


@pytest.mark.django_db(transaction=True)
def test_end_cut_off_with_everything_that_spoke_of_it_is_found_by_the_copy_outside(settings, tmp_path: Path):
    settings.DATA_DIR = tmp_path
    record(3)
    audit_sequence(sign=True)
    record(2)
    audit_sequence(sign=True)
    last = AuditLink.objects.order_by("-seq").first()
    head = AuditHead.objects.order_by("-number").first()
    assert len(list((tmp_path / "audit").glob("alpha.*.json"))) == 1
    tamper(f"DELETE FROM audit_audithead WHERE number = {head.number}")
    tamper(f"DELETE FROM audit_auditlink WHERE seq = {last.seq}")
    tamper(f"DELETE FROM audit_auditevent WHERE id = {last.event_id}")
    (problem,) = audit_verify().problems
    assert (problem.kind, problem.head) == ("log_truncated", head.number)
