"""Executing runs: batches, leases, cancelling, failing, resuming, recovering."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from core.evidence import executors, services
from core.evidence.errors import ExecutorFailure, RunNotFound, RunStateRefuses
from core.evidence.models import Measurement, Run, RunItem
from core.evidence.selectors import run_progress
from core.evidence.services import run_cancel, run_execute, run_requeue_expired, run_retry
from core.security.actor import SYSTEM, use_actor
from tests.core.evidence.run_cast import counting, smoke_run


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    before = dict(executors._registry)
    counting()
    with use_actor(SYSTEM):
        yield
    executors._registry.clear()
    executors._registry.update(before)


def _keys(run: Run) -> list[str]:
    return list(run.items.order_by("ordinal").values_list("key", flat=True))


def _expire(run: Run) -> None:
    Run.objects.filter(pk=run.pk).update(lease_expires_at=timezone.now() - timedelta(seconds=1))


def test_a_run_stores_each_item_once_and_measures_them(db: None) -> None:
    executor = counting()
    run = smoke_run(items=5).run

    assert run_execute(run_id=run.pk) == "succeeded"

    run.refresh_from_db()
    assert _keys(run) == [f"item-{number}" for number in range(5)]
    assert (run.status, run.lease_owner, run.environment["engine"]) == ("succeeded", "", "counting")
    assert run.summary == {"compute_s": 2.5}
    measured = run.measurements.get()
    assert (measured.value, measured.n, measured.subject_digest) == (0.6, 5, run.subject_digest)
    assert executor.closed == 1


def test_a_second_delivery_changes_nothing(db: None) -> None:
    executor = counting()
    run = smoke_run().run
    run_execute(run_id=run.pk)
    before = Run.objects.values().get(pk=run.pk)

    assert run_execute(run_id=run.pk) == "nothing to do"

    assert Run.objects.values().get(pk=run.pk) == before
    assert len(executor.worked_on) == 6 and Measurement.objects.count() == 1


def test_a_delivery_while_another_worker_has_the_run_does_nothing(db: None) -> None:
    answers: list[str] = []

    def deliver_again(numbers: list[int]) -> None:
        answers.append(run_execute(run_id=run.pk))

    executor = counting(deliver_again)
    run = smoke_run().run

    assert run_execute(run_id=run.pk) == "succeeded"
    assert answers == ["nothing to do"] * 3
    assert len(executor.worked_on) == 6


def test_a_run_that_is_gone_is_an_error_and_nothing_else(db: None) -> None:
    for run_id in ("00000000-0000-0000-0000-000000000000", "nonsense"):
        with pytest.raises(RunNotFound):
            run_execute(run_id=run_id)


def test_a_kind_that_is_no_longer_known_fails_the_run_with_a_sentence(db: None) -> None:
    run = smoke_run().run
    del executors._registry[Run.Kind.SMOKE]

    assert run_execute(run_id=run.pk) == "failed"

    run.refresh_from_db()
    assert "smoke" in run.error and run.status == "failed"


def test_a_stale_owner_cannot_write(db: None) -> None:
    def taken_over(numbers: list[int]) -> None:
        if numbers[0] == 2:
            Run.objects.filter(pk=run.pk).update(lease_owner="another:1:worker")

    counting(taken_over)
    run = smoke_run().run

    assert run_execute(run_id=run.pk) == "lease lost"

    run.refresh_from_db()
    assert _keys(run) == ["item-0", "item-1"]
    assert run.status == "running" and run.lease_owner == "another:1:worker"
    assert not run.measurements.exists()


def test_a_stale_owner_cannot_fail_a_run_that_another_has(db: None) -> None:
    def taken_over(numbers: list[int]) -> None:
        Run.objects.filter(pk=run.pk).update(lease_owner="another:1:worker")
        raise RuntimeError("too late")

    counting(taken_over)
    run = smoke_run().run

    assert run_execute(run_id=run.pk) == "lease lost"
    run.refresh_from_db()
    assert run.status == "running" and not run.error


def test_cancelling_a_queued_run_ends_it_at_once(db: None) -> None:
    executor = counting()
    run = smoke_run().run
    run_cancel(run_id=run.pk)

    assert run_execute(run_id=run.pk) == "nothing to do"
    run.refresh_from_db()
    assert run.status == "cancelled" and executor.worked_on == []


def test_cancelling_a_running_run_keeps_what_is_stored_and_measures_nothing(db: None) -> None:
    def cancel(numbers: list[int]) -> None:
        if numbers[0] == 2:
            run_cancel(run_id=run.pk)
            run_cancel(run_id=run.pk)

    counting(cancel)
    run = smoke_run(items=8).run

    assert run_execute(run_id=run.pk) == "cancelled"
    run.refresh_from_db()
    assert len(_keys(run)) == 4 and run.status == "cancelled"
    assert not Measurement.objects.exists()


def test_an_ended_run_cannot_be_cancelled(db: None) -> None:
    run = smoke_run().run
    run_execute(run_id=run.pk)
    with pytest.raises(RunStateRefuses):
        run_cancel(run_id=run.pk)


def test_a_failure_tells_people_a_sentence_and_withholds_what_may_quote_an_item(db: None) -> None:
    def fail(numbers: list[int]) -> None:
        raise ValueError("cannot read: the patient's name is Erika")

    counting(fail)
    run = smoke_run().run

    assert run_execute(run_id=run.pk) == "failed"
    run.refresh_from_db()
    assert "ValueError" in run.error and "Erika" not in run.error + run.error_detail
    assert "run_cast.py" in run.error_detail
    assert not any("Erika" in event.message for event in run.events.all())


def test_a_retried_run_resumes_without_repeating_items(db: None) -> None:
    def fail_once(numbers: list[int]) -> None:
        if numbers[0] == 4:
            raise ExecutorFailure("The engine went away.")

    counting(fail_once)
    run = smoke_run(items=6).run
    assert run_execute(run_id=run.pk) == "failed"
    run.refresh_from_db()
    assert run.error == "The engine went away."

    executor = counting()
    run_retry(run_id=run.pk)
    assert run_execute(run_id=run.pk) == "succeeded"

    assert executor.worked_on == ["item-4", "item-5"]
    run.refresh_from_db()
    assert run.error == "" and len(_keys(run)) == 6


@pytest.mark.parametrize("status", ["queued", "running", "succeeded"])
def test_only_a_failed_or_cancelled_run_can_be_retried(db: None, status: str) -> None:
    run = smoke_run().run
    Run.objects.filter(pk=run.pk).update(status=status, finished_at=timezone.now())
    with pytest.raises(RunStateRefuses):
        run_retry(run_id=run.pk)


def test_a_failed_run_cannot_be_retried_beside_a_live_one_of_its_plan(db: None) -> None:
    run = smoke_run().run
    Run.objects.filter(pk=run.pk).update(status="failed", finished_at=timezone.now())
    assert smoke_run().created
    with pytest.raises(RunStateRefuses):
        run_retry(run_id=run.pk)


def test_an_expired_lease_is_requeued_and_the_run_finishes_elsewhere(db: None) -> None:
    class Killed(BaseException):
        """Stands for the end of the process: nothing after it runs, not even handing the lease back."""

    def die(numbers: list[int]) -> None:
        if numbers[0] == 2:
            raise Killed

    counting(die)
    run = smoke_run().run
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(services, "_lease_release", lambda lease: None)
        run_execute(run_id=run.pk)
    assert run_requeue_expired() == []  # its lease is still good
    _expire(run)
    executor = counting()

    assert run_requeue_expired() == [run.pk]
    assert run_execute(run_id=run.pk) == "succeeded"

    run.refresh_from_db()
    assert executor.worked_on == [f"item-{number}" for number in range(2, 6)]
    assert len(_keys(run)) == len(set(_keys(run))) == 6 and run.attempts == 2


def test_a_worker_told_to_stop_hands_the_run_back(db: None) -> None:
    def stop(numbers: list[int]) -> None:
        raise SystemExit

    counting(stop)
    run = smoke_run().run
    with pytest.raises(SystemExit):
        run_execute(run_id=run.pk)

    run.refresh_from_db()
    assert (run.status, run.lease_owner, run.attempts) == ("queued", "", 0)
    assert run_requeue_expired() == [run.pk]


def test_a_run_that_kills_its_workers_is_failed_in_the_end(db: None) -> None:
    run = smoke_run().run
    for _ in range(services.MAX_ATTEMPTS):
        assert services._lease_take(run.pk) is not None
        _expire(run)
    assert services._lease_take(run.pk) is None
    run.refresh_from_db()
    assert run.status == "failed" and "memory" in run.error


def test_a_run_being_cancelled_ends_although_its_worker_is_gone(db: None) -> None:
    run = smoke_run().run
    services._lease_take(run.pk)
    run_cancel(run_id=run.pk)
    _expire(run)

    assert run_requeue_expired() == []
    run.refresh_from_db()
    assert run.status == "cancelled"


def test_a_lost_message_is_sent_again_with_growing_patience(db: None) -> None:
    run = smoke_run().run
    assert run_requeue_expired() == []
    late = timezone.now() - timedelta(seconds=services.MESSAGE_LOST_AFTER_S + 1)

    Run.objects.filter(pk=run.pk).update(enqueued_at=late)
    assert run_requeue_expired() == [run.pk]
    Run.objects.filter(pk=run.pk).update(enqueued_at=late)
    assert run_requeue_expired() == []


def test_a_run_whose_items_disappeared_fails_instead_of_measuring_less(db: None) -> None:
    class Short:
        def open(self, view: Any) -> Any:
            session = counting().open(view)
            session.execute = lambda done: iter([])  # type: ignore[method-assign]
            return session

    executors.register(Run.Kind.SMOKE, Short())  # type: ignore[arg-type]
    run = smoke_run().run
    assert run_execute(run_id=run.pk) == "failed"
    run.refresh_from_db()
    assert run.error.startswith("0 of 6 planned items")


def test_progress_is_counted_from_rows_and_numbers_are_provisional(db: None) -> None:
    seen: list[Any] = []

    def look(numbers: list[int]) -> None:
        seen.append(run_progress(Run.objects.get(pk=run.pk)))

    counting(look)
    run = smoke_run(items=6).run
    assert run_progress(run).waiting_before == 0
    run_execute(run_id=run.pk)

    assert [(one.done, one.total) for one in seen] == [(0, 6), (2, 6), (4, 6)]
    assert seen[0].provisional == () and seen[0].rate_per_s is None
    assert seen[2].provisional[0].n == 4 and seen[2].eta_s > 0
    after = run_progress(Run.objects.get(pk=run.pk))
    assert (after.share, after.provisional, after.is_active) == (1.0, (), False)


@pytest.mark.django_db(transaction=True)
def test_two_workers_at_once_do_the_work_of_one(settings: Any) -> None:
    executor = counting()
    run = smoke_run(items=20).run
    schema = connection.schema_name
    barrier = threading.Barrier(4)
    outcomes: list[str] = []

    def work() -> None:
        try:
            connection.set_schema(schema)
            barrier.wait(timeout=20)
            with use_actor(SYSTEM):
                outcomes.append(run_execute(run_id=run.pk))
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["nothing to do"] * 3 + ["succeeded"]
    assert len(executor.worked_on) == 20 == RunItem.objects.count()


@pytest.mark.django_db(transaction=True)
def test_the_heartbeat_keeps_a_slow_batch_alive(settings: Any) -> None:
    settings.RUN_LEASE_S = 2
    ends: list[Any] = []
    renewed = threading.Event()

    def slow(numbers: list[int]) -> None:
        if numbers[0] == 0:
            first = Run.objects.get(pk=run.pk).lease_expires_at
            for _ in range(400):
                if Run.objects.get(pk=run.pk).lease_expires_at != first:
                    renewed.set()
                    break
                threading.Event().wait(0.05)
            ends.append(run_requeue_expired())

    counting(slow)
    run = smoke_run().run

    assert run_execute(run_id=run.pk) == "succeeded"
    assert renewed.is_set() and ends == [[]]
