"""`manage.py tenant_create acme --name "Acme Ltd" --plan team --admin-email ada@acme.example`."""

from __future__ import annotations

import time
from typing import Any

from django.core.management.base import CommandParser

from tenants.accounts.services import password_generate
from tenants.management.base import TenancyCommand
from tenants.services import tenant_provision


class Command(TenancyCommand):
    help = "Create a tenant: schema, address and, when an address is given, its first admin."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("schema_name", help="short name: small letters, digits and underscores")
        parser.add_argument("--name", required=True, help="name as people read it")
        parser.add_argument("--plan", default="team", help="slug of the plan (default: team)")
        parser.add_argument(
            "--domain", default=None, help="host name (default: the short name under BASE_DOMAIN)"
        )
        parser.add_argument("--admin-email", default=None, help="e-mail address of the first admin")
        parser.add_argument("--admin-name", default="Admin", help="their name")
        parser.add_argument(
            "--admin-password", default=None, help="their password (default: one is made and printed)"
        )

    def run(self, **options: Any) -> None:
        email = options["admin_email"]
        password = options["admin_password"] or (password_generate() if email else None)
        started = time.monotonic()
        tenant = tenant_provision(
            schema_name=options["schema_name"], name=options["name"], plan=options["plan"], domain=options["domain"],
            admin_email=email, admin_name=options["admin_name"], admin_password=password,
        )  # fmt: skip
        seconds = time.monotonic() - started
        document = {"schema": tenant.schema_name, "name": tenant.name, "plan": tenant.plan_id, "url": tenant.url(),
                    "seconds": round(seconds, 3)}  # fmt: skip
        lines = [f"{tenant.name} is created in {seconds:.2f} s: {tenant.url()}"]
        if email:
            document |= {"admin_email": email.strip().lower()}
            lines.append(f"First admin: {email.strip().lower()}")
            if not options["admin_password"]:
                document |= {"admin_password": password}
                lines.append(f"Password (shown once, must be changed at the first sign-in): {password}")
        self.answer(document, *lines, as_json=options["as_json"])
