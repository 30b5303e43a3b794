"""Tasks carry their tenant, and are refused without one. The last tests use the real broker."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from celery.signals import before_task_publish
from django.db import connection
from django_tenants.utils import schema_context

from core.celery import app
from core.security.actor import current_actor
from tenants.celery import HEADER, TenantMissing, stamp_schema
from tenants.services import tenant_deactivate

pytestmark = pytest.mark.django_db

SEEN: list[tuple[str, str]] = []


def look() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_schema()")
        return str(cursor.fetchone()[0])


@app.task(name="tests.look")
def look_task() -> str:
    """Where a tenant's task runs."""
    SEEN.append((look(), current_actor().kind))
    return look()


@app.task(name="tests.look_public", tenant_scope="public")
def look_public_task() -> str:
    """Where a public task runs."""
    return look()


@app.task(name="tests.nested")
def nested_task() -> str:
    """A task that calls another."""
    return str(look_task.apply().get())


@app.task(name="tests.fail")
def fail_task() -> None:
    """A task that breaks half way."""
    connection.set_schema("beta")
    raise ZeroDivisionError


def message(**headers: Any) -> dict[str, Any]:
    """What a worker would be given."""
    return {"headers": headers} if headers else {}


def test_a_task_runs_in_the_tenant_of_its_message(beta: Any) -> None:
    assert look_task.apply(**message(tenant_schema="beta")).get() == "beta"
    assert connection.schema_name == "alpha"
    assert SEEN[-1] == ("beta", "system")
    assert current_actor().kind == "anonymous"


def test_a_task_queued_in_a_tenant_stays_there() -> None:
    headers: dict[str, Any] = {}
    with schema_context("beta"):
        stamp_schema(headers=headers)
    assert headers == {HEADER: "beta"}


def test_what_public_sends_carries_nothing() -> None:
    headers: dict[str, Any] = {}
    with schema_context("public"):
        stamp_schema(headers=headers)
    assert headers == {}


def test_queueing_without_a_tenant_is_refused() -> None:
    with schema_context("public"), pytest.raises(TenantMissing, match="without a tenant"):
        look_task.delay()


@pytest.mark.parametrize("schema", [None, "", "public", "nothing", "Alpha", "alpha; drop", 7, ["alpha"]])
def test_a_message_with_no_or_a_wrong_tenant_is_refused(schema: Any) -> None:
    before = len(SEEN)
    with schema_context("public"), pytest.raises(TenantMissing):
        look_task.apply(headers={HEADER: schema}).get()
    assert len(SEEN) == before


def test_a_deactivated_tenants_task_is_refused(beta: Any, as_system: Any) -> None:
    tenant_deactivate(tenant=beta)
    with pytest.raises(TenantMissing, match="deactivated"):
        look_task.apply(headers={HEADER: "beta"}).get()


def test_a_public_task_says_so_and_runs_there() -> None:
    assert look_public_task.apply(headers={HEADER: "beta"}).get() == "public"
    assert connection.schema_name == "alpha"


def test_a_failing_task_leaves_its_thread_where_it_was() -> None:
    with pytest.raises(ZeroDivisionError):
        fail_task.apply(headers={HEADER: "alpha"}).get()
    assert connection.schema_name == "alpha"
    with schema_context("public"):
        with pytest.raises(ZeroDivisionError):
            fail_task.apply(headers={HEADER: "alpha"}).get()
        assert look() == "public"


def test_calling_a_task_as_a_function_stays_in_the_tenant_one_is_in() -> None:
    assert look_task() == "alpha"
    with schema_context("public"), pytest.raises(TenantMissing):
        look_task()


def test_every_way_of_sending_stamps_the_message(settings: Any) -> None:
    sent: list[dict[str, Any]] = []

    def catch(sender: Any = None, headers: Any = None, **_: Any) -> None:
        sent.append(dict(headers))

    before_task_publish.connect(catch)
    queue = f"test-{uuid.uuid4().hex}"
    try:
        with schema_context("beta"):
            look_task.apply_async(queue=queue)
            look_task.s().set(queue=queue).apply_async()
            (look_task.si().set(queue=queue) | look_task.si().set(queue=queue)).apply_async()
            app.send_task("tests.unknown", queue=queue)
    finally:
        before_task_publish.disconnect(catch)
        with app.connection_for_write() as broker:
            channel = broker.default_channel
            channel.queue_delete(queue)
    assert [headers[HEADER] for headers in sent] == ["beta"] * 4


@pytest.mark.django_db(transaction=True)
def test_a_real_worker_runs_in_the_tenant_and_refuses_the_rest(start_worker: Any) -> None:
    """Messages through the broker: one right, and three that must not run anywhere."""
    from core.platform import processes

    worker = start_worker(queues="probe")
    log = worker.log
    right, forged, missing, unknown = (str(uuid.uuid4()) for _ in range(4))

    def send(run_id: str, headers: dict[str, Any]) -> None:
        # From public, as a scheduler would: only the header names a tenant.
        with schema_context("public"):
            app.send_task(
                "workers.tasks.run_execute",
                args=["alpha", run_id],
                queue="probe",
                headers=headers,
                task_id=run_id,
            )

    def said(identity: str) -> str:
        return " ".join(line for line in log.read_text(errors="replace").splitlines() if identity in line)

    send(right, {HEADER: "alpha"})
    send(forged, {HEADER: "beta"})
    send(missing, {})
    send(unknown, {HEADER: "nobody"})
    everything = {
        right: "that is gone",
        forged: "WrongTenant",
        missing: "names no tenant",
        unknown: "is no tenant",
    }
    done = processes.wait_until(
        lambda: all(words in said(identity) for identity, words in everything.items()), timeout_s=30
    )
    assert done, log.read_text(errors="replace")


@pytest.mark.django_db(transaction=True)
def test_the_header_survives_the_broker(settings: Any) -> None:
    queue = f"test-{uuid.uuid4().hex}"
    with schema_context("beta"):
        look_task.apply_async(queue=queue)
    with app.connection_for_read() as broker:
        received = broker.SimpleQueue(queue).get(timeout=10)
        received.ack()
        broker.default_channel.queue_delete(queue)
    assert received.headers[HEADER] == "beta"
