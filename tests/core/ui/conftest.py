"""Requests without a database: the kernel's pages depend on no table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.http import HttpRequest
from django.test import RequestFactory

from core.security.actor import Actor, use_actor


@pytest.fixture(autouse=True)
def _own_urls(settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.core.ui.urls"


@pytest.fixture
def make_request() -> Callable[..., HttpRequest]:
    """`make_request("/releases/", role="pmo")`: a GET request by somebody of this role."""
    from contextlib import ExitStack

    stack = ExitStack()

    def make(path: str = "/", role: str = "pmo", **headers: Any) -> HttpRequest:
        request = RequestFactory().get(path, SERVER_NAME="localhost", **headers)
        actor = (
            Actor(kind="user", id="1", label="Alice Ahn", roles=(role,)) if role else Actor(kind="anonymous")
        )
        request.actor = actor  # type: ignore[attr-defined]
        stack.enter_context(use_actor(actor))
        return request

    yield make  # type: ignore[misc]
    stack.close()
