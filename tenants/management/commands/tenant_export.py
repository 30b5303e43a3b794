"""`manage.py tenant_export acme --output acme.zip`: all data as JSON lines, with a manifest of digests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from tenants.management.base import TenancyCommand
from tenants.services import tenant_export, tenant_get


def export_to(schema_name: str, output: str) -> Any:
    """Export a tenant to a path that does not exist yet. Raises CommandError."""
    path = Path(output)
    try:
        return tenant_export(tenant=tenant_get(schema_name), path=path)
    except FileExistsError:
        raise CommandError(f"{path} exists already. Choose another file; nothing was written.") from None
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}.") from error


class Command(TenancyCommand):
    help = "Export all rows of a tenant as a zip of JSON lines. Passwords, keys and sessions are left out."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("schema_name")
        parser.add_argument("--output", required=True, metavar="FILE", help="zip file to make")

    def run(self, **options: Any) -> None:
        export = export_to(options["schema_name"], options["output"])
        self.answer(
            {"path": str(export.path), "sha256": export.sha256, "tables": export.tables, "rows": export.rows},
            f"{export.rows} rows of {export.tables} tables in {export.path} (SHA-256 {export.sha256}).",
            as_json=options["as_json"],
        )  # fmt: skip
