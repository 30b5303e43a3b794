"""Fixtures of the tenancy tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import connection

from core.security.actor import SYSTEM, Actor, use_actor


@pytest.fixture
def as_system() -> Iterator[Actor]:
    """Service calls of the test are made by the system."""
    with use_actor(SYSTEM) as actor:
        yield actor


@pytest.fixture
def in_public(db: None) -> Iterator[None]:
    """The test stands in the public schema."""
    previous = connection.tenant
    connection.set_schema_to_public()
    yield
    connection.set_tenant(previous)
