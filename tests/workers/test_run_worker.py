"""Runs in real worker processes, on the real broker, with the real model: killed, resumed, delivered twice."""

from __future__ import annotations

import json
import math
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.conf import settings
from django.db import connection
from django.utils import timezone

from core.evidence.models import Run
from core.evidence.services import run_cancel
from core.security.actor import SYSTEM, use_actor
from inference.executors import SCORED_PER_BATCH
from inference.models import DatasetVersion, Release
from inference.services import (
    dataset_import,
    evaluation_start,
    model_register_packaged,
    product_create,
    release_create,
)
from workers import tasks
from workers.services import requeue_expired_everywhere

pytestmark = [pytest.mark.model, pytest.mark.django_db(transaction=True)]

# Seconds; short, so that the test need not wait for a dead worker's lease.
LEASE_S = "4"
# Seconds. Only a bound for a run that hangs; loading the model takes minutes where many tests share the machine.
PATIENCE_S = 540


@pytest.fixture(autouse=True)
def _as_signoff(transactional_db: None) -> Iterator[None]:
    with use_actor(SYSTEM):
        yield


@pytest.fixture
def release(model_store: Any) -> Release:
    model = model_register_packaged().model_version
    return release_create(
        product=product_create(slug="assistant", name="Assistant"), version="1.0.0", model_version=model
    )


def _sentences(count: int) -> DatasetVersion:
    """Short plain texts: the quickest items to score."""
    rows = [
        json.dumps({"id": f"s{number}", "text": f"The shelf holds {number} books."})
        for number in range(count)
    ]
    return dataset_import(slug="shelf", kind="text", file="\n".join(rows).encode(), format="jsonl").version


def _stored_or_ended(run: Run) -> bool:
    return run.items.exists() or not Run.objects.get(pk=run.pk).is_active


def _log(*workers: Any) -> str:
    return "\n".join(worker.log.read_text(errors="replace")[-4000:] for worker in workers)


def test_a_worker_killed_half_way_loses_and_repeats_nothing(
    release: Release, start_worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    total = 5 * SCORED_PER_BATCH
    version = _sentences(total)
    first = start_worker("inference", RUN_LEASE_S=LEASE_S)
    run = evaluation_start(release=release, dataset_version=version)

    eventually(lambda: _stored_or_ended(run), timeout_s=PATIENCE_S)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = dict(run.items.values_list("key", "created_at"))
    run.refresh_from_db()
    assert run.status == "running" and 0 < len(before) < total, run.error + _log(first)

    second = start_worker("inference", RUN_LEASE_S=LEASE_S)
    # The broker still thinks the first worker has the message; only the lease brings the run back.
    eventually(requeue_expired_everywhere, timeout_s=PATIENCE_S)
    eventually(lambda: not Run.objects.get(pk=run.pk).is_active, timeout_s=PATIENCE_S)

    run.refresh_from_db()
    assert run.status == "succeeded", run.error + run.error_detail + _log(second)
    keys = Counter(run.items.values_list("key", flat=True))
    assert len(keys) == total and set(keys.values()) == {1}
    kept = dict(run.items.filter(key__in=before).values_list("key", "created_at"))
    assert kept == before, "items stored before the kill were written again"
    measured = run.measurements.get(metric="nll_text", slice="")
    mean = math.fsum(item.metrics["nll_text"] for item in run.items.all()) / total
    assert measured.n == total and measured.value == pytest.approx(mean)
    assert run.summary["items"] == total and run.attempts == 2


def test_a_run_delivered_twice_to_two_workers_is_done_once(
    release: Release, start_worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    version = _sentences(24)
    run = evaluation_start(release=release, dataset_version=version)
    for _ in range(3):
        tasks.run_execute.delay(connection.schema_name, str(run.pk))
    workers = [start_worker("inference"), start_worker("inference")]

    eventually(lambda: not Run.objects.get(pk=run.pk).is_active, timeout_s=PATIENCE_S)

    run.refresh_from_db()
    assert run.status == "succeeded", run.error + _log(*workers)
    assert run.items.count() == 24 and run.attempts == 1
    assert run.measurements.filter(metric="nll_text", slice="").count() == 1


def test_a_worker_told_to_stop_hands_its_run_to_the_next(
    release: Release, start_worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    version = _sentences(30 * SCORED_PER_BATCH)
    first = start_worker("inference")
    run = evaluation_start(release=release, dataset_version=version)
    eventually(lambda: _stored_or_ended(run), timeout_s=PATIENCE_S)

    first.send_signal(signal.SIGTERM)
    eventually(lambda: Run.objects.get(pk=run.pk).status == "queued", timeout_s=PATIENCE_S)

    run.refresh_from_db()
    assert run.lease_owner == "" and 0 < run.items.count() < run.total_items, _log(first)
    run_cancel(run_id=run.pk)


def test_cancelling_reaches_a_worker(
    release: Release, start_worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    worker = start_worker("inference")
    run = evaluation_start(release=release, dataset_version=_sentences(30 * SCORED_PER_BATCH))
    eventually(lambda: _stored_or_ended(run), timeout_s=PATIENCE_S)

    run_cancel(run_id=run.pk)
    eventually(lambda: not Run.objects.get(pk=run.pk).is_active, timeout_s=PATIENCE_S)

    run.refresh_from_db()
    assert run.status == "cancelled" and 0 < run.items.count() < run.total_items, _log(worker)


def test_messages_for_nobody_are_errors_and_not_loops(
    release: Release, start_worker: Callable[..., Any], eventually: Callable[..., Any], beta: Any
) -> None:
    worker = start_worker("inference")
    gone = "00000000-0000-0000-0000-000000000000"
    tasks.run_execute.delay(connection.schema_name, gone)
    tasks.run_execute.apply_async(args=["nowhere", gone], headers={"tenant_schema": "nowhere"})
    tasks.run_execute.apply_async(args=["beta", gone])  # its header says alpha
    run = evaluation_start(release=release, dataset_version=_sentences(2))

    eventually(lambda: not Run.objects.get(pk=run.pk).is_active, timeout_s=PATIENCE_S)

    log = worker.log.read_text(errors="replace")
    assert Run.objects.get(pk=run.pk).status == "succeeded", log
    assert "run that is gone" in log and "'nowhere', which is no tenant" in log and "WrongTenant" in log
    assert log.count("received") == 4


def test_a_message_that_was_lost_is_sent_again(
    release: Release, start_worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    run = evaluation_start(release=release, dataset_version=_sentences(2))
    with redis.Redis.from_url(settings.BROKER_URL) as broker:
        broker.flushdb()
    worker = start_worker("inference")
    assert requeue_expired_everywhere() == 0
    Run.objects.filter(pk=run.pk).update(enqueued_at=timezone.now() - timedelta(minutes=2))

    assert requeue_expired_everywhere() == 1
    eventually(lambda: not Run.objects.get(pk=run.pk).is_active, timeout_s=PATIENCE_S)
    assert Run.objects.get(pk=run.pk).status == "succeeded", _log(worker)
