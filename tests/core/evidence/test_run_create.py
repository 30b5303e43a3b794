"""Creating runs: frozen plans, reuse, limits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from core.audit.models import AuditEvent
from core.errors import Forbidden
from core.evidence import executors
from core.evidence.errors import RunKindUnknown, RunLimitReached, RunPlanInvalid
from core.evidence.models import Run
from core.evidence.services import run_create, run_execute
from core.security.actor import SYSTEM, use_actor
from tests.core.evidence.run_cast import counting, smoke_run


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    before = dict(executors._registry)
    counting()
    yield
    executors._registry.clear()
    executors._registry.update(before)


def test_a_run_says_who_asked_and_is_in_the_audit_log(db: None, acting: Any, user_with: Any) -> None:
    engineer = user_with("engineer")
    acting(engineer)

    run = run_create(
        kind=Run.Kind.SMOKE, subject_digest="sha256:s", subject_label="S", plan={"a": 1}, total_items=1
    ).run

    assert (run.requested_by_kind, run.requested_by_id) == ("user", str(engineer.pk))
    assert AuditEvent.objects.filter(action="run.created", target_id=str(run.pk)).count() == 1


def test_an_auditor_cannot_start_a_run(db: None, acting: Any, bob: Any) -> None:
    acting(bob)
    with pytest.raises(Forbidden):
        run_create(kind=Run.Kind.SMOKE, subject_digest="sha256:s", subject_label="S", plan={}, total_items=1)
    assert not Run.objects.exists()


def test_a_double_click_finds_the_live_run(db: None) -> None:
    first, second = smoke_run(), smoke_run()
    assert first.created and not second.created
    assert first.run.pk == second.run.pk


def test_a_finished_run_is_reused_unless_forced_or_too_old(db: None) -> None:
    run = smoke_run().run
    run_execute(run_id=run.pk)

    assert smoke_run().run.pk == run.pk
    forced = smoke_run(force=True)
    assert forced.created and forced.run.pk != run.pk
    run_execute(run_id=forced.run.pk)
    Run.objects.update(finished_at=timezone.now() - timedelta(days=2))
    assert smoke_run(reuse_within=timedelta(days=1)).created


def test_a_failed_run_is_not_reused(db: None) -> None:
    run = smoke_run().run
    Run.objects.filter(pk=run.pk).update(status=Run.Status.FAILED, finished_at=timezone.now())
    assert smoke_run().created


@pytest.mark.parametrize("field", ["plan", "seed", "total_items", "subject_digest"])
def test_the_database_refuses_to_change_a_frozen_plan(db: None, field: str) -> None:
    run = smoke_run().run
    new: Any = {"plan": {"items": 7}, "seed": 5, "total_items": 7, "subject_digest": "sha256:other"}[field]
    with pytest.raises(DatabaseError), transaction.atomic():
        Run.objects.filter(pk=run.pk).update(**{field: new})
    with pytest.raises(TypeError):
        setattr(run, field, new)
        run.save(update_fields=[field])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"kind": "juggling"}, RunKindUnknown),
        ({"total_items": 0}, RunPlanInvalid),
        ({"plan": {"x": float("nan")}}, RunPlanInvalid),
    ],
    ids=["unknown kind", "nothing to measure", "no canonical form"],
)
def test_a_run_that_cannot_be_is_refused(db: None, change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        smoke_run(**change)
    assert not Run.objects.exists()


def test_the_daily_limit_counts_new_runs_only(db: None) -> None:
    smoke_run(items=1, daily_limit=2)
    smoke_run(items=1, daily_limit=2)
    smoke_run(items=2, daily_limit=2)
    with pytest.raises(RunLimitReached):
        smoke_run(items=3, daily_limit=2)
    assert Run.objects.count() == 2


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("daily_limit", [None, 3], ids=["by constraint", "by lock"])
def test_people_who_click_at_the_same_time_get_one_run(daily_limit: int | None) -> None:
    schema = connection.schema_name
    barrier = threading.Barrier(6)
    found: list[Any] = []

    def click() -> None:
        try:
            connection.set_schema(schema)
            barrier.wait(timeout=20)
            with use_actor(SYSTEM):
                found.append(smoke_run(daily_limit=daily_limit))
        finally:
            connection.close()

    threads = [threading.Thread(target=click) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({created.run.pk for created in found}) == 1
    assert sum(created.created for created in found) == 1
    assert Run.objects.count() == 1
