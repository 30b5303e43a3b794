"""A template database with both test tenants, built once per set of migrations, copied per test process."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import psycopg
from django.apps import apps
from django.conf import settings
from django.core.management import call_command
from django.db import connection, connections
from psycopg import sql

# Raise it when what the template holds changes without a migration or a file below changing.
_TEMPLATE_VERSION = 1
TENANTS = {"alpha": "Alpha Ltd", "beta": "Beta GmbH"}


def _digest() -> str:
    """What the template's content depends on: migrations, and the code that provisions a tenant."""
    files: set[Path] = {Path(__file__)}
    for config in apps.get_app_configs():
        with contextlib.suppress(ImportError):
            module = import_module(f"{config.name}.migrations")
            files.update(Path(path) for root in module.__path__ for path in Path(root).glob("*.py"))
    root = Path(settings.BASE_DIR)
    files.update(path for path in (root / "tenants").glob("*.py"))
    found = hashlib.sha256(f"{_TEMPLATE_VERSION} {settings.DEPLOYMENT_MODE} {settings.BASE_DOMAIN}".encode())
    for path in sorted(files):
        found.update(str(path).encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


@contextlib.contextmanager
def _maintenance() -> Iterator[psycopg.Connection[Any]]:
    """A connection to the server's own database, outside any transaction."""
    configured = settings.DATABASES["default"]
    with psycopg.connect(
        host=configured["HOST"],
        port=configured["PORT"] or 5432,
        user=configured["USER"],
        password=configured["PASSWORD"],
        dbname="postgres",
        autocommit=True,
    ) as admin:
        yield admin


def _exists(admin: psycopg.Connection[Any], name: str) -> bool:
    return admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is not None


def _drop(admin: psycopg.Connection[Any], name: str) -> None:
    admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _use(name: str) -> None:
    """Point Django at a database of the server."""
    connections.close_all()
    settings.DATABASES["default"]["NAME"] = name
    connection.settings_dict["NAME"] = name


class TestDatabase:
    """The database of one test process.

    Args:
        name: of the database; it is dropped when it exists.
        base: name that all processes of this run share; the template is named after it.
    """

    __test__ = False

    def __init__(self, name: str, *, base: str) -> None:
        self.name = name
        self.base = base
        self.template = f"{base[:40]}_tpl_{_digest()}"

    def create(self) -> None:
        """Build the template when there is none yet, and copy it. One process at a time."""
        with _maintenance() as admin:
            admin.execute("SELECT pg_advisory_lock(hashtext(%s))", [self.base])
            if not _exists(admin, self.template):
                self._build(admin)
            self._copy(admin)
        _use(self.name)

    def restore(self) -> None:
        """Put the database back to the template's content, after a test that committed."""
        connections.close_all()
        with _maintenance() as admin:
            self._copy(admin)

    def drop(self) -> None:
        connections.close_all()
        with _maintenance() as admin:
            _drop(admin, self.name)

    def _copy(self, admin: psycopg.Connection[Any]) -> None:
        copy = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
            sql.Identifier(self.name), sql.Identifier(self.template)
        )
        for attempt in range(20):
            _drop(admin, self.name)
            try:
                admin.execute(copy)
                return
            except (psycopg.errors.ObjectInUse, psycopg.errors.DuplicateDatabase):
                if attempt == 19:
                    raise
                time.sleep(0.1)

    def _build(self, admin: psycopg.Connection[Any]) -> None:
        rows = admin.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE %s", [f"{self.base[:40]}\\_tpl\\_%"]
        ).fetchall()
        for (old,) in rows:
            _drop(admin, old)
        building = f"{self.base[:40]}_tpl_new"
        _drop(admin, building)
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(building)))
        _use(building)
        _populate()
        connections.close_all()
        admin.execute(
            sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                sql.Identifier(building), sql.Identifier(self.template)
            )
        )


def _populate() -> None:
    from core.security.actor import SYSTEM, use_actor
    from tenants.models import Domain

    connection.set_schema_to_public()
    call_command("migrate_schemas", schema_name="public", verbosity=0, interactive=False)
    with use_actor(SYSTEM):
        for schema, name in TENANTS.items():
            connection.set_schema_to_public()
            tenant = _provision(schema, name)
            for domain in (f"{schema}.testserver", f"{schema}.localhost"):
                Domain.objects.get_or_create(domain=domain, defaults={"tenant": tenant, "is_primary": False})
    connection.set_schema_to_public()


def _provision(schema: str, name: str) -> Any:
    from tenants.models import Plan, Tenant

    plan = Plan.objects.order_by("position").last()  # the largest: tests about limits set their own
    assert plan is not None
    try:
        from tenants.services import tenant_provision
    except ImportError:
        tenant = Tenant(schema_name=schema, name=name, plan=plan)
        tenant.auto_create_schema = True
        tenant.save(verbosity=0)
        return tenant
    return tenant_provision(schema_name=schema, name=name, plan=plan)
