"""`manage.py up`, for `manage.py help`; manage.py itself calls core.platform.up before Django."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand

from core.platform import up


class Command(BaseCommand):
    help = "Runs the whole platform (services, web, workers, scheduler, demo) until Ctrl-C."
    requires_system_checks: list[str] = []

    def run_from_argv(self, argv: list[str]) -> None:
        sys.exit(up.main(argv[2:]))

    def handle(self, *args: Any, **options: Any) -> None:
        sys.exit(up.main([]))
