"""A review over real verdicts: a healthy candidate, its gate, and people who may sign."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from core.security.actor import SYSTEM, use_actor
from governance.models import ChecklistItem, Review
from governance.services import review_create
from inference.gates import gate_verdict_compute
from tests.inference.gate_data import World, damaged, finish_run, healthy, make_world

PASSWORD = "correct-horse-battery-9"


def measured_world(candidate: Callable[[int], Any] = healthy) -> World:
    """Both releases evaluated and the gate judged."""
    world = make_world()
    finish_run(world.baseline, world.versions["questions"], healthy)
    finish_run(world.candidate, world.versions["questions"], candidate)
    with use_actor(SYSTEM):
        gate_verdict_compute(gate=world.gate, candidate=world.candidate, baseline=world.baseline)
    return world


def open_review(world: World, *roles: str) -> Review:
    """A review opened by the system with its entrance criteria confirmed."""
    with use_actor(SYSTEM):
        review = review_create(
            candidate=world.candidate,
            baseline=world.baseline,
            gate_slug=world.gate.slug,
            required_roles=roles or ("pmo",),
        )
    ChecklistItem.objects.filter(review=review, kind="entrance").update(status="done")
    return review


@pytest.fixture
def world(db: None) -> World:
    """Releases whose gate passes."""
    return measured_world()


@pytest.fixture
def damaged_world(db: None) -> World:
    """Releases whose gate fails."""
    return measured_world(damaged)


@pytest.fixture
def review(world: World) -> Review:
    """An open review that waits for the PMO."""
    return open_review(world)
