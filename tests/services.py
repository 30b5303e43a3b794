"""The PostgreSQL and Valkey that the tests run against.

With DATABASE_URL, BROKER_URL and CACHE_URL set, those. Otherwise embedded ones, in a directory that is kept
between runs (the template database in it takes a while to build), or in a temporary one when another test run
holds that. Started by the process that pytest was called as; its xdist workers inherit the addresses.
"""

from __future__ import annotations

import atexit
import os
import random
import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from core.platform import processes
from core.platform.paths import data_dir
from core.platform.services import (
    EmbeddedServices,
    Postgres,
    ServiceProblem,
    Valkey,
    Workspace,
    service_owner,
)

# Nothing here survives the machine, so nothing need reach its disk.
_THROW_AWAY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_wal_size": "2GB"}
# Databases of the broker and the cache; one of each per xdist worker.
_DATABASES = 32
_PORTS = (15600, 16600)


def ensure_services() -> None:
    """Put the addresses of the services, a data directory and a secret into the environment."""
    os.environ.setdefault("SECRET_KEY", "tests-only-and-not-secret-" + "x" * 32)
    kept = Path(os.environ.get("SIGNOFF_TEST_DIR") or data_dir() / "tests")
    names = ("DATABASE_URL", "BROKER_URL", "CACHE_URL")
    if not all(os.environ.get(name) for name in names):
        for name, url in _start_embedded(kept).urls().items():
            os.environ.setdefault(name, url)
        os.environ["SIGNOFF_TEST_OWN_BROKER"] = "1"
    # Not the developer's own data directory, nor the addresses that a running `up` left there.
    os.environ["SIGNOFF_DATA_DIR"] = str(kept / "data")
    (kept / "data").mkdir(parents=True, exist_ok=True)
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker.startswith("gw") and os.environ.get("SIGNOFF_TEST_OWN_BROKER"):
        for name in ("BROKER_URL", "CACHE_URL"):
            parts = urlsplit(os.environ[name])
            os.environ[name] = urlunsplit(parts._replace(path=f"/{(int(worker[2:]) + 1) % _DATABASES}"))


def _start_embedded(kept: Path) -> EmbeddedServices:
    workspace = Workspace(kept, owner=service_owner())
    try:
        workspace.prepare()
        workspace.lock()
    except ServiceProblem:
        workspace = Workspace(Path(tempfile.mkdtemp(prefix="signoff-tests-")), owner=service_owner())
        workspace.prepare()
        workspace.lock()
        atexit.register(shutil.rmtree, workspace.root, ignore_errors=True)
    # Drawn at random, so that two runs that start together rarely look at the same one.
    first = random.randrange(*_PORTS, 10)
    # Nothing listens yet, so each is looked for above the one before.
    postgres = processes.free_port(first, 20000)
    broker = processes.free_port(postgres + 1, 20000)
    cache = processes.free_port(broker + 1, 20000)
    services = EmbeddedServices(
        workspace=workspace,
        postgres=Postgres(workspace, port=postgres, settings=_THROW_AWAY),
        broker=Valkey(workspace, name="broker", port=broker, evicts=False, databases=_DATABASES),
        cache=Valkey(workspace, name="cache", port=cache, evicts=True, databases=_DATABASES),
    )
    atexit.register(services.stop)
    assert services.postgres is not None and services.broker is not None and services.cache is not None
    try:
        services.postgres.start()
    except ServiceProblem:
        # Without fsync a machine that lost its power may leave a broken directory; it holds nothing of value.
        shutil.rmtree(services.postgres.data, ignore_errors=True)
        services.postgres.start()
    services.broker.start()
    services.cache.start()
    return services
