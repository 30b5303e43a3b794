"""Every task of the project: its queue, its scope, its docstring; and what a worker's parent process imports."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from celery.app.task import Task
from django.conf import settings

from core.celery import Queues, app
from workers.schedule import SCHEDULE

QUEUES = {value for name, value in vars(Queues).items() if name.isupper()}


def _tasks() -> list[Task[Any, Any]]:
    app.loader.import_default_modules()
    return [task for name, task in sorted(app.tasks.items()) if not name.startswith(("celery.", "tests."))]


@pytest.mark.parametrize("task", _tasks(), ids=lambda task: str(task.name))
def test_a_task_names_its_queue_and_scope_and_answers_the_three_questions(task: Any) -> None:
    assert task.runs_on in QUEUES
    assert app.amqp.router.route({}, task.name, (), {}, task_type=task)["queue"].name == task.runs_on
    assert task.tenant_scope in {"tenant", "public"}
    text = task.run.__doc__ or ""
    assert "Runs twice" in text and "gone" in text and "Worker dies" in text
    assert task.acks_late and task.reject_on_worker_lost and task.ignore_result


def test_there_are_tasks() -> None:
    assert {"workers.tasks.run_execute", "workers.tasks.requeue_expired"} <= {task.name for task in _tasks()}


def test_the_schedule_rings_public_tasks_that_exist_and_drops_missed_ticks() -> None:
    known = {task.name: task for task in _tasks()}
    assert app.conf.beat_schedule.keys() >= SCHEDULE.keys()
    for entry in app.conf.beat_schedule.values():
        assert known[entry["task"]].tenant_scope == "public"
        assert entry["options"]["expires"] > 0


def test_a_message_outlives_no_run_on_the_broker() -> None:
    assert app.conf.broker_transport_options["visibility_timeout"] >= 24 * 3600
    assert app.conf.worker_prefetch_multiplier == 1


def test_a_worker_starts_without_a_model_library() -> None:
    """The parent of a forked pool must stay small, and torch must not be forked after it started threads."""
    program = (
        "import sys; from core.celery import app; app.loader.init_worker(); app.finalize(); list(app.tasks);"
        "print(sorted({'torch', 'transformers', 'tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=settings.BASE_DIR, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
