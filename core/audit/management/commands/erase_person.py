"""Erase the tie between a person and the audit log's commitments."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django_tenants.utils import get_tenant_model, schema_context

from core.audit.services import person_erase
from core.security.actor import SYSTEM, use_actor


class Command(BaseCommand):
    help = (
        "Make one person's (or key's, or customer's) entries in the audit log anonymous for good. "
        "The log still verifies afterwards. This cannot be undone."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", metavar="SCHEMA", required=True)
        parser.add_argument("--kind", default="user", choices=["user", "operator", "api_key", "customer"])
        parser.add_argument("ref", help="primary key of the user, key or customer")
        parser.add_argument(
            "--yes", action="store_true", help="do it; without this only say what would happen"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        schema = options["tenant"]
        with schema_context("public"):
            if schema != "public" and not get_tenant_model().objects.filter(schema_name=schema).exists():
                raise CommandError(f"There is no tenant with the schema {schema!r}.", returncode=2)
        if not options["yes"]:
            raise CommandError(
                f"This would erase {options['kind']} {options['ref']} from the audit log of {schema} for good. "
                "Say it again with --yes.",
                returncode=2,
            )
        with schema_context(schema), use_actor(SYSTEM):
            erased = person_erase(kind=options["kind"], ref=options["ref"])
        self.stdout.write("Erased." if erased else "Nothing to erase: the log has no tie to this subject.")
