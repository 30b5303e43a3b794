"""Recompute the audit log of one tenant or of all, and name whatever is not as it was written."""

from __future__ import annotations

import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django_tenants.utils import get_tenant_model, schema_context

from core.audit.verification import audit_verify

EXIT_TAMPERED = 1
EXIT_UNCHECKED = 2


class Command(BaseCommand):
    help = (
        "Verify the audit log: every event's digest, the chain over them and the signed heads. "
        "Exit code 0: everything is as written. 1: tampering, each instance named. 2: it could not be checked."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        which = parser.add_mutually_exclusive_group()
        which.add_argument(
            "--tenant", metavar="SCHEMA", help="schema of one tenant; 'public' is the operators' log"
        )
        which.add_argument(
            "--all", action="store_true", help="every tenant and the operators' log (the default)"
        )
        parser.add_argument("--json", action="store_true", help="print the reports as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        with schema_context("public"):
            known = list(
                get_tenant_model().objects.order_by("schema_name").values_list("schema_name", flat=True)
            )
        if "public" not in known:
            known.insert(0, "public")
        wanted = [options["tenant"]] if options["tenant"] else known
        if options["tenant"] and options["tenant"] not in known:
            raise CommandError(
                f"There is no tenant with the schema {options['tenant']!r}. Known: {', '.join(known)}.",
                returncode=EXIT_UNCHECKED,
            )
        reports = []
        for schema in wanted:
            with schema_context(schema):
                report = audit_verify()
            reports.append(report)
            if not options["json"]:
                mark = self.style.SUCCESS("ok") if report.ok else self.style.ERROR("FAILED")
                self.stdout.write(f"{schema}: {mark}. {report.sentence()}")
                for problem in report.problems:
                    self.stdout.write(f"  {problem.kind}: {problem.sentence}")
                if report.more_problems:
                    self.stdout.write(f"  and {report.more_problems} more")
        if options["json"]:
            self.stdout.write(json.dumps([report.as_json() for report in reports], indent=2))
        if any(report.problems for report in reports):
            sys.exit(EXIT_TAMPERED)
        if any(report.unchecked for report in reports):
            sys.exit(EXIT_UNCHECKED)
