"""The Celery app. Each task names its queue; each message carries its tenant's schema (tenants/celery.py)."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "core.settings")


class Queues:
    """What each queue is for."""

    INFERENCE = "inference"  # Runs: they load a model; one at a time per process
    DOCUMENTS = "documents"  # PDFs and exports
    DEFAULT = "default"  # short housekeeping


def route(
    name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any
) -> dict[str, str] | None:
    """The queue a task names: `@shared_task(runs_on=Queues.INFERENCE)`."""
    named = getattr(task or app.tasks.get(name), "runs_on", None)
    return {"queue": named} if named else None


app = Celery("signoff", task_cls="tenants.celery:TenantTask")
app.conf.update(
    broker_url=settings.BROKER_URL,
    broker_transport_options={"visibility_timeout": settings.CELERY_VISIBILITY_TIMEOUT_S},
    broker_connection_retry_on_startup=True,
    # Results live in PostgreSQL; nothing reads the broker's.
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_default_queue=Queues.DEFAULT,
    task_routes=(route,),
    task_create_missing_queues=True,
    task_always_eager=settings.CELERY_EAGER,
    task_eager_propagates=True,
    worker_hijack_root_logger=False,
    worker_send_task_events=False,
    timezone="UTC",
)
app.autodiscover_tasks(["workers"])
# Load the task class with the app: its module also stamps messages that are sent by name, without a task.
app.Task  # noqa: B018 (the property imports it)
