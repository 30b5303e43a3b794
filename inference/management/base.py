"""What this app's commands share: `--tenant`, refusals as one clear line, progress on standard error."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError
from django_tenants.utils import get_public_schema_name, schema_context, tenant_context

from core.errors import DomainError
from core.security.actor import Actor, use_actor
from tenants.management.base import TenancyCommand
from tenants.models import Tenant
from tenants.resolver import tenant_by_schema


class TenantCommand(TenancyCommand):
    """A command that works in one tenant. Exit codes: 0 done, 1 refused, 2 wrong arguments."""

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        single = settings.DEPLOYMENT_MODE == "single"
        parser.add_argument(
            "--tenant",
            required=not single,
            default=settings.SINGLE_TENANT_SCHEMA if single else None,
            metavar="SCHEMA",
            help="schema of the tenant, for example summit",
        )

    def handle(self, *args: Any, **options: Any) -> str | None:
        try:
            tenant = _tenant(options["tenant"])
            # Whoever runs commands here is the system; the audit log names the login, which is no tenant's person.
            actor = Actor(kind="system", label="command line", schema=tenant.schema_name)
            with tenant_context(tenant), use_actor(actor):
                self.run(**options)
        except DomainError as error:
            if options.get("as_json"):
                document = {
                    "error": error.code,
                    "detail": error.message,
                    "fields": error.fields,
                    **error.extra,
                }
                self.stdout.write(json.dumps(document, indent=2, default=str))
            else:
                self.tell_details(error)
            raise CommandError(error.message) from error
        except DatabaseError as error:
            line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise CommandError(
                f"The database refused: {line}. Is Signoff up? Try manage.py doctor."
            ) from error
        return None

    def tell_details(self, error: DomainError) -> None:
        """Further lines of a refusal, on standard error; the last line is the sentence itself."""
        for name, messages in error.fields.items():
            for message in messages:
                if message not in error.message:
                    self.stderr.write(f"  {name}: {message}")


def _tenant(schema: str) -> Tenant:
    tenant = tenant_by_schema(schema) if "\x00" not in schema else None
    if tenant is None:
        with schema_context(get_public_schema_name()):
            known = list(
                Tenant.objects.exclude(schema_name=get_public_schema_name())
                .order_by("schema_name")
                .values_list("schema_name", flat=True)[:10]
            )
        there = f"There are: {', '.join(known)}." if known else "There are none yet: manage.py up makes two."
        raise CommandError(f"There is no tenant “{schema}”. {there}")
    if not tenant.is_active:
        raise CommandError(f"The tenant {schema} is deactivated. Activate it first.")
    return tenant


class ProgressLine:
    """One line on standard error that says how far a long job is; silent with --json, plain lines in a pipe."""

    def __init__(self, stream: Any, *, silent: bool) -> None:
        self._stream, self._silent = stream, silent
        self._terminal = bool(getattr(stream, "isatty", lambda: False)()) and "NO_COLOR" not in os.environ
        self._last = 0.0
        self._text = ""

    def show(self, text: str, *, now: bool = False) -> None:
        """Show `text`, at most four times a second in a terminal and every ten seconds in a pipe."""
        wait_s = 0.25 if self._terminal else 10.0
        moment = time.monotonic()
        if self._silent or text == self._text or (not now and moment - self._last < wait_s):
            return
        self._last, self._text = moment, text
        if self._terminal:
            self._stream.write(f"\r\x1b[K{text}", ending="")
            self._stream.flush()
        else:
            self._stream.write(text)

    def end(self) -> None:
        """Leave the line as it is and go to the next."""
        if self._terminal and self._text and not self._silent:
            self._stream.write("")
