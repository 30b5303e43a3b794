"""`manage.py api_key create|list|revoke --tenant acme …`: API keys of a tenant, for automation."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from django_tenants.utils import get_public_schema_name, schema_context

from tenants.accounts import selectors, services
from tenants.accounts.models import ApiKey
from tenants.management.base import TenancyCommand
from tenants.services import tenant_get


def _document(key: ApiKey) -> dict[str, Any]:
    def moment(value: Any) -> str | None:
        return value.isoformat() if value else None

    return {
        "key_id": key.key_id, "name": key.name, "scopes": key.scopes, "state": key.state,
        "created_at": moment(key.created_at), "expires_at": moment(key.expires_at),
        "last_used_at": moment(key.last_used_at), "revoked_at": moment(key.revoked_at),
    }  # fmt: skip


class Command(TenancyCommand):
    help = "Create, list or revoke API keys of a tenant."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("action", choices=["create", "list", "revoke"])
        parser.add_argument("key_id", nargs="?", default=None, help="of the key to revoke")
        parser.add_argument(
            "--tenant", required=True, metavar="SCHEMA", help="short name of the tenant; public for operators"
        )
        parser.add_argument("--name", default="command line", help="what the key is for")
        parser.add_argument(
            "--scopes", default="", help='separated by commas, for example "run.*,release.view" or "*.view"'
        )
        parser.add_argument("--expires-in", type=int, default=None, metavar="DAYS", help="default: never")

    def run(self, **options: Any) -> None:
        schema = options["tenant"]
        if schema != get_public_schema_name():
            tenant_get(schema)
        with schema_context(schema):
            getattr(self, options["action"])(options)

    def create(self, options: dict[str, Any]) -> None:
        """Issue a key and print its text, once."""
        days = options["expires_in"]
        if days is not None and not 0 < days <= 36500:
            raise CommandError(f"--expires-in is {days}; it must be between 1 and 36500 days.")
        issued = services.api_key_create(
            name=options["name"], scopes=options["scopes"].split(","),
            expires_at=timezone.now() + timedelta(days=days) if days else None,
        )  # fmt: skip
        self.answer(
            {**_document(issued.key), "key": issued.text},
            issued.text,
            f"{issued.key.name}: {', '.join(issued.key.scopes)}. Keep the text above; it is not shown again.",
            as_json=options["as_json"],
        )

    def list(self, options: dict[str, Any]) -> None:
        """Print all keys without their secrets."""
        keys = list(selectors.keys())
        lines = [f"{key.key_id} {key.state:<8} {key.name}: {', '.join(key.scopes)}" for key in keys]
        self.answer(
            {"keys": [_document(key) for key in keys]}, *(lines or ["No keys."]), as_json=options["as_json"]
        )

    def revoke(self, options: dict[str, Any]) -> None:
        """Refuse a key from now on."""
        if not options["key_id"]:
            raise CommandError("Say which key: manage.py api_key revoke KEY_ID --tenant …")
        key = services.api_key_revoke(key_id=options["key_id"])
        self.answer(_document(key), f"{key.name} is revoked.", as_json=options["as_json"])
