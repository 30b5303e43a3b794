"""Check a receipt with a public key, without a database: the same file customers copy (receipt_check.py)."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand

from inference.knobs import receipt_check


class Command(BaseCommand):
    help = "Check a signed receipt: RECEIPT --key public.pem [--request body.json] [--answer answer.json]"
    requires_system_checks: list[str] = []

    def run_from_argv(self, argv: list[str]) -> None:
        """Arguments are those of receipt_check.py."""
        sys.exit(receipt_check.main(argv[2:]))

    def handle(self, *args: Any, **options: Any) -> None:
        """Not reached: run_from_argv answers."""
