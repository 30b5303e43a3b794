"""What starting Django loads: every command, worker and test process pays for it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from django.conf import settings

# Libraries that take a good part of a second each, or hundreds of megabytes.
HEAVY = (
    "scipy",
    "plotly",
    "torch",
    "transformers",
    "weasyprint",
    "pandas",
    "sklearn",
    "celery",
    "redis",
    "segno",
)


def _loaded(program: str) -> set[str]:
    """Top-level modules of a fresh Python that ran `program` with our settings."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{program}\nimport sys\nprint('LOADED', *{{name.split('.')[0] for name in sys.modules}})",
        ],
        cwd=settings.BASE_DIR,
        env=None,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.rpartition("LOADED ")[2].split())


SETUP = "import os; os.environ['DJANGO_SETTINGS_MODULE'] = 'core.settings'\nimport django; django.setup()"


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    return _loaded(SETUP)


@pytest.mark.parametrize("library", HEAVY)
def test_starting_django_does_not_load(loaded: set[str], library: str) -> None:
    assert "django" in loaded
    assert library not in loaded


def test_the_checks_of_a_deploy_load_no_pages() -> None:
    """A deploy with nothing to do is done in less time than loading every page takes."""
    program = (
        f"{SETUP}\n"
        "from django.core.checks import run_checks\n"
        "from tenants.management.commands.migrate_tenants import Command\n"
        "assert not run_checks(tags=Command.requires_system_checks)\n"
        "import sys\n"
        "assert 'core.urls' not in sys.modules and 'core.urls_public' not in sys.modules"
    )
    assert not _loaded(program) & set(HEAVY)


def test_celery_has_its_schedule_and_stamps_messages_once_loaded() -> None:
    """They were given at Django's start-up; now they come with the app and its tasks."""
    program = (
        "from core.celery import app\n"
        "from celery.signals import before_task_publish, worker_shutting_down\n"
        "assert before_task_publish.receivers\n"
        "app.loader.init_worker()\n"
        "assert 'requeue-expired' in app.conf.beat_schedule\n"
        "assert worker_shutting_down.receivers"
    )
    assert "celery" in _loaded(program)
