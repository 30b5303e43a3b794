"""A tenant's data as one zip: JSON lines per table, and a manifest with digests. No credentials."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from django.db import transaction
from django.utils import timezone
from django_tenants.utils import schema_context

from tenants.db import connection
from tenants.models import Tenant

# Tables that hold nothing but credentials, or other people's addresses at the door.
WITHHELD_TABLES = re.compile(r"django_session|axes_.*")
# Columns that hold credentials or key material, wherever they are. (tokens_in is no token.)
WITHHELD_COLUMNS = re.compile(
    r"(.*_)?(password|secret|secret_sha256|private_key|private|salt|token)(_[a-z0-9]+)?"
)
_ROWS_PER_FETCH = 500


@dataclass(frozen=True)
class Export:
    """What was written: the file, its SHA-256, how many tables and rows."""

    path: Path
    sha256: str
    tables: int
    rows: int


def export_schema(tenant: Tenant, path: Path) -> Export:
    """Write the archive. One snapshot: all tables are as they were at one moment.

    The manifest names each file with rows, bytes and SHA-256, and what was withheld. A file that was begun and not
    finished is removed. Raises FileExistsError.
    """
    files: list[dict[str, object]] = []
    withheld: list[str] = []
    try:
        with (
            zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED, compresslevel=6) as archive,
            schema_context(tenant.schema_name),
            transaction.atomic(),
        ):
            with connection.cursor() as cursor:
                if not _nested():
                    cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                columns = _columns(tenant.schema_name)
            for table, names in columns.items():
                if WITHHELD_TABLES.fullmatch(table):
                    withheld.append(table)
                    continue
                kept = [name for name in names if not WITHHELD_COLUMNS.fullmatch(name)]
                withheld += [f"{table}.{name}" for name in names if name not in kept]
                files.append(_write_table(archive, tenant.schema_name, table, kept))
            manifest = {
                "format": "signoff-tenant-export/1",
                "tenant": {"schema": tenant.schema_name, "name": tenant.name, "plan": tenant.plan_id,
                           "domains": _domains(tenant)},
                "exported_at": timezone.now().isoformat(),
                "files": files,
                "withheld": withheld,
            }  # fmt: skip
            archive.writestr("manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    except FileExistsError:
        raise
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return Export(path, digest.hexdigest(), len(files), sum(int(str(file["rows"])) for file in files))


def _nested() -> bool:
    # The isolation level can only be set by the first statement of a transaction.
    return len(connection.savepoint_ids) > 0


def _domains(tenant: Tenant) -> list[str]:
    return list(tenant.domains.order_by("domain").values_list("domain", flat=True))


def _columns(schema_name: str) -> dict[str, list[str]]:
    """Columns of each table of the schema, in their order."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT c.relname, a.attname
            FROM pg_class c
            JOIN pg_namespace n ON n.oid = c.relnamespace
            JOIN pg_attribute a ON a.attrelid = c.oid
            WHERE n.nspname = %s AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
            ORDER BY c.relname, a.attnum
            """,
            [schema_name],
        )
        tables: dict[str, list[str]] = {}
        for table, column in cursor.fetchall():
            tables.setdefault(table, []).append(column)
    return tables


def _write_table(
    archive: zipfile.ZipFile, schema_name: str, table: str, columns: list[str]
) -> dict[str, object]:
    quote = connection.ops.quote_name
    names = ", ".join(quote(name) for name in columns)
    rows = size = 0
    digest = hashlib.sha256()
    file_name = f"tables/{table}.jsonl"
    with archive.open(file_name, "w", force_zip64=True) as out, connection.chunked_cursor() as cursor:
        # Identifiers come from the catalogue and are quoted; the first column is the key in every table of ours.
        cursor.execute(
            f"SELECT row_to_json(t)::text FROM (SELECT {names} FROM {quote(schema_name)}.{quote(table)} ORDER BY 1) t"  # noqa: S608
        )
        while batch := cursor.fetchmany(_ROWS_PER_FETCH):
            for (line,) in batch:
                data = f"{line}\n".encode()
                out.write(data)
                digest.update(data)
                rows += 1
                size += len(data)
    return {"name": file_name, "rows": rows, "bytes": size, "sha256": digest.hexdigest()}
