"""`manage.py tenant_activate acme`: let people and keys in again."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from tenants.management.base import TenancyCommand
from tenants.services import tenant_activate, tenant_get


class Command(TenancyCommand):
    help = "Activate a tenant that was deactivated."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("schema_name")

    def run(self, **options: Any) -> None:
        tenant = tenant_activate(tenant=tenant_get(options["schema_name"]))
        self.answer(
            {"schema": tenant.schema_name, "status": tenant.status}, f"{tenant.name} is active.",
            as_json=options["as_json"],
        )  # fmt: skip
