"""`manage.py migrate_tenants`: bring public and every tenant's schema to the migrations on disk, fast."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from django.core.checks import Tags
from django.core.management.base import BaseCommand, CommandError, CommandParser

from core.security.actor import use_actor
from tenants import migrating, schema_templates
from tenants.checks import TENANCY
from tenants.management.base import COMMAND_LINE
from tenants.migrating import SchemaResult

_WORDS = {
    "none": "at head",
    "canary": "migrated (canary)",
    "replayed": "replayed",
    "ordinary": "migrated",
    "failed": "FAILED",
    "pending": "behind",
}


class Command(BaseCommand):
    """Exit codes: 0 all schemas at head; 1 some failed, or are behind with --check."""

    help = (
        "Migrate public and every tenant's schema. Schemas at head cost nothing; the others get the statements of "
        "one of them replayed. Can be interrupted and run again at any time."
    )

    # Whether tables would go to the right schema. The other checks belong to `manage.py check`: they load every page
    # and the API, which takes longer than a deploy with nothing to do.
    requires_system_checks = [TENANCY, Tags.models]

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--check", action="store_true", help="change nothing; exit 1 when a schema is behind"
        )
        parser.add_argument(
            "--status", action="store_true", help="change nothing; list every schema and where it stands"
        )
        parser.add_argument(
            "--schema", action="append", dest="schemas", metavar="NAME", help="only this tenant (repeatable)"
        )
        parser.add_argument(
            "--jobs", type=int, default=None, help="schemas at a time (default: processors, 2 to 8)"
        )
        parser.add_argument(
            "--lock-timeout", type=float, default=migrating.LOCK_TIMEOUT_S, metavar="SECONDS",
            help="how long a statement waits for a table in use before the schema is tried again (default %(default)s)",
        )  # fmt: skip
        parser.add_argument(
            "--json", action="store_true", dest="as_json", help="one JSON document on standard output"
        )
        parser.add_argument(
            "--no-template",
            action="store_true",
            help="do not renew the template from which new tenants are made",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["jobs"] is not None and options["jobs"] < 1:
            raise CommandError(f"--jobs is {options['jobs']}; it must be at least 1.")
        if options["lock_timeout"] <= 0:
            raise CommandError(
                f"--lock-timeout is {options['lock_timeout']}; it must be more than 0 seconds."
            )
        names = options["schemas"]
        if names is not None:
            known = set(migrating.schema_names())
            unknown = [name for name in names if name not in known]
            if unknown:
                raise CommandError(
                    f"No tenant has the schema {', '.join(unknown)}. manage.py tenant_list shows them."
                )
        with use_actor(COMMAND_LINE):
            if options["check"] or options["status"]:
                self.show(names, options)
            else:
                self.migrate(names, options)

    def show(self, names: list[str] | None, options: dict[str, Any]) -> None:
        report = migrating.status(names)
        if options["as_json"]:
            self.stdout.write(json.dumps(report.document(), indent=2))
        else:
            for result in report.results:
                if options["status"] or result.action != "none":
                    self.stdout.write(self._line(result))
            behind = len(report.pending) + len(report.failed)
            self.stdout.write(
                f"{len(report.results)} schemas, {behind} behind, looked up in {report.seconds:.2f} s."
            )
        if options["check"] and (report.pending or report.failed):
            sys.exit(1)

    def migrate(self, names: list[str] | None, options: dict[str, Any]) -> None:
        verbose = not options["as_json"]
        width = 0
        last = 0.0

        def progress(done: int, total: int, result: SchemaResult) -> None:
            nonlocal width, last
            if not verbose:
                return
            width = len(str(total))
            now = time.monotonic()
            # Failures always; otherwise a line per schema for a person, ten a second for a log.
            if (
                result.action == "failed"
                or done in (0, 1, total)
                or options["verbosity"] > 1
                or now - last > 0.1
            ):
                last = now
                self.stdout.write(f"[{done:>{width}}/{total}] {self._line(result)}")

        report = migrating.migrate_all(
            names=names, jobs=options["jobs"], lock_timeout_s=options["lock_timeout"], progress=progress
        )
        template = ""
        if not options["no_template"] and not report.failed:
            started = time.monotonic()
            if schema_templates.template_ensure():
                template = f" Template for new tenants renewed in {time.monotonic() - started:.1f} s."
        if options["as_json"]:
            self.stdout.write(json.dumps(report.document(), indent=2))
        else:
            counts = report.count()
            words = ", ".join(f"{count} {_WORDS[action]}" for action, count in counts.items())
            self.stdout.write(f"{len(report.results)} schemas in {report.seconds:.2f} s: {words}.{template}")
        if report.failed:
            if not options["as_json"]:
                names_failed = ", ".join(result.schema for result in report.failed[:10])
                more = f" and {len(report.failed) - 10} more" if len(report.failed) > 10 else ""
                self.stderr.write(
                    f"Failed: {names_failed}{more}. Mend the cause and run migrate_tenants again."
                )
            sys.exit(1)

    def _line(self, result: SchemaResult) -> str:
        detail = ""
        if result.error:
            detail = f": {result.error.splitlines()[0]}"
        elif result.action == "pending" or (result.migrations and result.action != "none"):
            shown = ", ".join(result.migrations[:3]) + (
                f" and {len(result.migrations) - 3} more" if len(result.migrations) > 3 else ""
            )
            detail = f": {shown}"
        timing = f" in {result.seconds:.3f} s" if result.action in {"canary", "replayed", "ordinary"} else ""
        return f"{result.schema} {_WORDS[result.action]}{timing}{detail}"
