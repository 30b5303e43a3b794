"""`manage.py tenant_delete acme --confirm "Acme Ltd" [--export acme.zip]`. It cannot be undone."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser

from tenants.management.base import TenancyCommand
from tenants.management.commands.tenant_export import export_to
from tenants.services import tenant_delete, tenant_get


class Command(TenancyCommand):
    help = "Delete a tenant with everything it has. Asks for the tenant's name, typed."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("schema_name")
        parser.add_argument(
            "--confirm", default=None, metavar="NAME", help="the tenant's name (asked for when missing)"
        )
        parser.add_argument(
            "--export", default=None, metavar="FILE", help="export its data to this zip first"
        )

    def run(self, **options: Any) -> None:
        tenant = tenant_get(options["schema_name"])
        confirmation = options["confirm"]
        if confirmation is None:
            if not sys.stdin.isatty():
                raise CommandError(
                    f"Pass --confirm with the tenant's name, {tenant.name!r}. Nothing was deleted."
                )
            confirmation = input(f"Everything of {tenant.name} is lost. Type its name to delete it: ")
        if confirmation.strip() == tenant.name and options["export"]:
            export_to(tenant.schema_name, options["export"])
        tenant_delete(tenant=tenant, confirmation=confirmation)
        document = {"schema": tenant.schema_name, "deleted": True, "export": options["export"]}
        self.answer(document, f"{tenant.name} is deleted.", as_json=options["as_json"])
