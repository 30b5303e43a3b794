"""Data directories and ports for services that these tests start themselves."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.platform.services import Postgres, Valkey, Workspace, service_owner


@pytest.fixture
def data_root() -> Iterator[Path]:
    """A data directory that the services' user can reach (pytest's own are closed to others)."""
    root = Path(tempfile.mkdtemp(prefix="signoff-platform-"))
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def workspace(data_root: Path) -> Iterator[Workspace]:
    made = Workspace(data_root, owner=service_owner())
    made.prepare()
    made.lock()
    yield made
    made.unlock()


@pytest.fixture
def new_port() -> Callable[[], int]:
    """Each call is a port that nobody listens on."""
    held = []

    def port() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            held.append(int(probe.getsockname()[1]))
        return held[-1]

    return port


@pytest.fixture
def postgres(workspace: Workspace, new_port: Callable[[], int]) -> Iterator[Postgres]:
    """A PostgreSQL of this test's own, not started yet."""
    server = Postgres(workspace, port=new_port(), settings={"fsync": "off", "shared_buffers": "32MB"})
    yield server
    server.stop()


@pytest.fixture
def broker(workspace: Workspace, new_port: Callable[[], int]) -> Iterator[Valkey]:
    """A broker of this test's own, not started yet."""
    server = Valkey(workspace, name="broker", port=new_port(), evicts=False)
    yield server
    server.stop()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root can")
