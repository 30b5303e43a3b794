"""Fixtures of the tenancy tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.security.actor import SYSTEM, Actor, use_actor


@pytest.fixture
def as_system() -> Iterator[Actor]:
    """Service calls of the test are made by the system."""
    with use_actor(SYSTEM) as actor:
        yield actor
