"""The reference deployment runs the same processes as `up`, and docs name what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from django.conf import settings

from core.celery import Queues
from core.platform.services import EmbeddedServices, Workspace
from core.platform.supervisor import Console, Supervisor
from core.platform.up import _Flow

ROOT = Path(settings.BASE_DIR)


@pytest.fixture
def programs(data_root):
    workspace = Workspace(data_root)
    services = EmbeddedServices(workspace, None, None, None)
    supervisor = Supervisor(workspace=workspace, services=services, environ={}, console=Console(), cwd=ROOT)
    flow = _Flow(supervisor, {}, Console(), host="127.0.0.1", port=8000)
    return {program.name: list(program.command) for program in flow._programs()}


@pytest.fixture
def compose():
    return yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]


def test_the_containers_are_the_programs_of_up(programs, compose):
    assert set(programs) <= set(compose)


@pytest.mark.parametrize("name", ["worker-inference", "worker-documents"])
def test_a_worker_is_started_alike_in_both(name, programs, compose):
    ours = programs[name][programs[name].index("celery") :]

    assert sorted(compose[name]["command"]) == sorted(ours)


def test_every_queue_has_a_worker(programs):
    served = set()
    for command in programs.values():
        if "--queues" in command:
            served |= set(command[command.index("--queues") + 1].split(","))

    assert served == {value for name, value in vars(Queues).items() if name.isupper()}


def test_every_make_target_in_the_handbook_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"`make ([a-z-]+)", (ROOT / "docs/operations.md").read_text()))

    assert named and named <= targets
