"""`manage.py tenant_deactivate acme`: let nobody in any more; data stays."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from tenants.management.base import TenancyCommand
from tenants.services import tenant_deactivate, tenant_get


class Command(TenancyCommand):
    help = "Deactivate a tenant: its people and API keys are refused; its data stays."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("schema_name")
        parser.add_argument("--reason", default="", help="kept for the operators")

    def run(self, **options: Any) -> None:
        tenant = tenant_deactivate(tenant=tenant_get(options["schema_name"]), reason=options["reason"])
        self.answer(
            {"schema": tenant.schema_name, "status": tenant.status}, f"{tenant.name} is deactivated.",
            as_json=options["as_json"],
        )  # fmt: skip
