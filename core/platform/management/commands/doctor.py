"""`manage.py doctor`, for `manage.py help`; manage.py itself calls core.platform.doctor before Django."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand

from core.platform import doctor


class Command(BaseCommand):
    help = "Says what this machine lacks for running Signoff, with the command that mends each."
    requires_system_checks: list[str] = []

    def run_from_argv(self, argv: list[str]) -> None:
        sys.exit(doctor.main(argv[2:]))

    def handle(self, *args: Any, **options: Any) -> None:
        sys.exit(doctor.main([]))
