"""`manage.py demo`: what `up` calls to make the demo tenants and to run the main job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from core.errors import DomainError
from workers.demo import DemoFailed, demo_prepare, demo_run


class Command(BaseCommand):
    help = "Makes the demo tenants (--prepare) and runs the main job in the first (--run). Safe to repeat."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--prepare", action="store_true", help="make the tenants and people that are missing"
        )
        parser.add_argument("--run", action="store_true", help="run the main job, or what is left of it")
        parser.add_argument("--summary", metavar="FILE", help="write sites and log-ins to this file, as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        if not (options["prepare"] or options["run"]):
            raise CommandError("Say what to do: --prepare, --run or both.")
        try:
            if options["prepare"]:
                summary = demo_prepare(say=self.say)
                if options["summary"]:
                    Path(options["summary"]).write_text(json.dumps(summary, indent=2))
            if options["run"]:
                for line in demo_run(say=self.say):
                    self.say(line)
        except (DemoFailed, DomainError) as error:
            raise CommandError(str(error)) from error

    def say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()
