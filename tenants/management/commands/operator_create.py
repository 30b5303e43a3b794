"""`manage.py operator_create`: a person of the operators' site, who then makes tenants in the browser."""

from __future__ import annotations

import getpass
import sys
from typing import Any

from django.core.management.base import CommandParser
from django_tenants.utils import get_public_schema_name, schema_context

from core.errors import Invalid
from tenants.accounts.services import user_create
from tenants.management.base import TenancyCommand


class Command(TenancyCommand):
    """Exit codes: 0 made; 1 refused, with the reason."""

    help = (
        "Make an operator: asks for the password, or reads it from standard input when that is no terminal."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--email", required=True)
        parser.add_argument("--name", required=True)

    def run(self, **options: Any) -> None:
        if sys.stdin.isatty():
            password = getpass.getpass("Password (at least 12 characters): ")
            if password != getpass.getpass("Again: "):
                raise Invalid("The two passwords differ. Nothing was made.")
        else:
            password = sys.stdin.readline().rstrip("\n")
        with schema_context(get_public_schema_name()):
            user = user_create(
                email=options["email"],
                name=options["name"],
                roles=["operator"],
                password=password,
                must_change_password=False,
            )
        self.answer(
            {"email": user.email, "name": user.name},
            f"Made the operator {user.email}.",
            as_json=options["as_json"],
        )
