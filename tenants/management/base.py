"""What the tenant commands share: the system as actor, clear errors, and `--json`."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from core.errors import DomainError
from core.security.actor import Actor, use_actor

# Whoever can run commands on this machine holds the keys of the database anyway.
COMMAND_LINE = Actor(kind="system", label="command line")


class TenancyCommand(BaseCommand):
    """A command whose refusals are one clear line (exit code 1) and whose answer can be JSON."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", dest="as_json", help="answer as one JSON document")

    def handle(self, *args: Any, **options: Any) -> str | None:
        try:
            with use_actor(COMMAND_LINE):
                self.run(**options)
        except DomainError as error:
            if options.get("as_json"):
                self.stdout.write(
                    json.dumps({"error": error.code, "detail": error.message, "fields": error.fields})
                )
            raise CommandError(error.message) from error
        return None

    def run(self, **options: Any) -> None:
        """The command's work; raise DomainError to refuse."""
        raise NotImplementedError

    def answer(self, document: dict[str, Any], *lines: str, as_json: bool) -> None:
        """Print the document with --json, the lines otherwise."""
        if as_json:
            self.stdout.write(json.dumps(document, indent=2, default=str))
        else:
            for line in lines:
                self.stdout.write(line)
