"""Maintenance over all tenants: who is entered, who is left alone, and what one tenant's trouble does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from django_tenants.utils import schema_context

from core.audit.models import AuditEvent, AuditLink
from core.audit.services import audit_record
from core.evidence import executors
from core.evidence.models import Run
from core.security.actor import SYSTEM, use_actor
from inference.models import Registration
from inference.registration import ABANDONED_AFTER_S, registration_requeue_stale
from tenants.models import Tenant
from tests.core.evidence.run_cast import counting, smoke_run
from workers import services
from workers.scan import schemas_where


@pytest.fixture(autouse=True)
def _as_signoff(db: None) -> Iterator[None]:
    before = dict(executors._registry)
    counting()
    with use_actor(SYSTEM):
        yield
    executors._registry.clear()
    executors._registry.update(before)


def _lost_run(schema: str) -> Run:
    with schema_context(schema):
        run = smoke_run().run
        Run.objects.filter(pk=run.pk).update(enqueued_at=timezone.now() - timedelta(hours=2))
        return run


def test_lost_runs_of_every_active_tenant_come_back(beta: Any) -> None:
    _lost_run("alpha")
    _lost_run("beta")
    assert services.requeue_expired_everywhere() == 2
    assert services.requeue_expired_everywhere() == 0
    assert connection.schema_name == "alpha"


def test_a_deactivated_tenant_is_left_alone(beta: Any) -> None:
    _lost_run("beta")
    with schema_context("public"):
        Tenant.objects.filter(pk=beta.pk).update(status="deactivated", deactivated_at=timezone.now())
    assert services.requeue_expired_everywhere() == 0


def test_a_healthy_run_costs_no_visit(monkeypatch: Any) -> None:
    smoke_run()
    monkeypatch.setattr(services, "_in_each", lambda schemas, work: schemas)
    assert services.requeue_expired_everywhere() == []  # type: ignore[comparison-overlap]


def test_one_tenants_trouble_does_not_stop_the_others(beta: Any, monkeypatch: Any) -> None:
    _lost_run("alpha")
    _lost_run("beta")
    from core.evidence import services as runs

    real = runs.run_requeue_expired

    def trouble() -> Any:
        if connection.schema_name == "alpha":
            raise RuntimeError("alpha is broken")
        return real()

    monkeypatch.setattr(runs, "run_requeue_expired", trouble)
    assert services.requeue_expired_everywhere() == 1


def test_a_schema_without_the_table_does_not_spoil_the_question(beta: Any) -> None:
    _lost_run("alpha")
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE beta.evidence_run CASCADE")
    assert services.requeue_expired_everywhere() == 1


def test_a_question_that_fails_for_one_schema_is_answered_for_the_others(beta: Any) -> None:
    _lost_run("alpha")
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE beta.evidence_run RENAME COLUMN status TO condition")
    found = schemas_where(table="evidence_run", condition="status = 'queued'", active_only=True)
    assert found == ["alpha"]


def test_the_audit_log_of_every_schema_is_extended(beta: Any) -> None:
    for schema in ("alpha", "beta", "public"):
        with schema_context(schema):
            audit_record("thing.done")
    assert services.audit_sequence_everywhere() >= 3
    for schema in ("alpha", "beta", "public"):
        with schema_context(schema):
            assert AuditLink.objects.count() == AuditEvent.objects.count() > 0
    assert services.audit_sequence_everywhere() == 0


def test_abandoned_registrations_end_and_lost_ones_are_sent_again() -> None:
    old = timezone.now() - timedelta(seconds=ABANDONED_AFTER_S + 1)
    begun = Registration.objects.create(action="packaged", status="running", started_at=old)
    lost = Registration.objects.create(action="packaged", enqueued_at=old)
    fresh = Registration.objects.create(action="packaged")

    assert services.registrations_requeue_everywhere() == 2
    assert registration_requeue_stale() == 0

    states = dict(Registration.objects.values_list("pk", "status"))
    assert states == {begun.pk: "failed", lost.pk: "queued", fresh.pk: "queued"}
