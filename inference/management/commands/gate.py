"""`manage.py gate`: judge a candidate against its baseline; exit code 0 only when the gate passes."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django_tenants.utils import get_public_schema_name, schema_context, tenant_context

from core.errors import DomainError, NotFound
from core.evidence.models import Gate, GateVerdict, Run
from core.evidence.services import run_execute
from inference.gate_reports import (
    EXIT_UNDECIDED,
    EXIT_USAGE,
    exit_code,
    report_document,
    report_junit,
    report_table,
)
from inference.gates import (
    GateCheck,
    GatePlan,
    gate_check_start,
    gate_check_view,
    gate_create,
    gate_for_product,
    gate_get,
    gate_plan,
    gate_revise,
    gate_verdict_compute,
    gate_verdict_current,
)
from inference.management.base import ProgressLine, TenantCommand
from inference.models import Product, Release
from inference.selectors import product_get
from tenants.models import Tenant

# Seconds between two looks at the runs, and after which a missing worker is mentioned.
POLL_S = 1.0
WORKER_PATIENCE_S = 10
WORKER_COMMAND = "celery -A core.celery worker --queues inference,default,documents"
_DIGEST = re.compile(r"^(sha256:)?[0-9a-f]{6,64}$")


class Command(TenantCommand):
    """Exit codes: 0 the gate passes; 1 it fails; 2 wrong arguments; 3 inconclusive, not run or stale."""

    help = (
        "Judge a candidate release against its baseline: start the evaluations that are missing, reuse the others, "
        "print the verdict table. Exit code 0 only on pass, 1 fail, 2 wrong arguments, 3 not decided."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        for action in parser._actions:
            if action.dest == "tenant":
                action.required = False
                action.help = "schema of the tenant (default: the only one that has these releases)"
        parser.add_argument(
            "--product", default="", help="short name of the product (default: the only one that fits)"
        )
        parser.add_argument("--candidate", required=True, help="version or digest of the candidate release")
        parser.add_argument(
            "--baseline", required=True, help="version or digest of the release it is compared with"
        )
        parser.add_argument(
            "--gate",
            default="",
            help="short name of a gate, or a JSON file with one (default: PRODUCT-quality)",
        )
        parser.add_argument("--junit", metavar="FILE", default="", help="also write the verdict as JUnit XML")
        parser.add_argument(
            "--no-wait", action="store_true", help="start what is missing and leave (exit code 3)"
        )
        parser.add_argument(
            "--inline", action="store_true", help="evaluate in this process instead of a worker"
        )
        parser.add_argument(
            "--timeout", type=float, default=3600, metavar="S", help="seconds to wait (default 3600)"
        )

    def handle(self, *args: Any, **options: Any) -> str | None:
        # Only a verdict of fail may exit with 1: a refusal is a wrong argument, told apart by CI.
        try:
            if options["timeout"] <= 0:
                raise CommandError("--timeout must be above 0 seconds.", returncode=EXIT_USAGE)
            options["tenant"] = options["tenant"] or _only_tenant(options)
            return super().handle(*args, **options)
        except CommandError as error:
            if error.returncode == 1:
                raise CommandError(str(error), returncode=EXIT_USAGE) from error
            raise

    def run(self, **options: Any) -> None:
        quiet = bool(options["as_json"])
        product, candidate = _release(options["candidate"], options["product"])
        _, baseline = _release(options["baseline"], product.slug)
        gate = self._gate(options["gate"], product)
        plan = gate_plan(gate, candidate, baseline)
        if not quiet:
            self._say_plan(plan)
        check = gate_check_start(gate=gate, candidate=candidate, baseline=baseline)
        if options["no_wait"] and check.active:
            self.answer(
                {
                    "status": "not_run",
                    "exit_code": EXIT_UNDECIDED,
                    "runs": [str(run.pk) for run in check.runs],
                },
                f"Started; {check.done_items} of {check.total_items} items are measured. Run the command again for "
                "the verdict.",
                as_json=quiet,
            )
            sys.exit(EXIT_UNDECIDED)
        if options["inline"]:
            self._inline(check, quiet)
        if not self._wait(check, options["timeout"], quiet):
            message = f"Not decided: the evaluations did not finish within {options['timeout']:g} seconds. They go on."
            if quiet:
                self.stdout.write(
                    json.dumps({"status": "not_run", "exit_code": EXIT_UNDECIDED, "detail": message})
                )
            raise CommandError(message, returncode=EXIT_UNDECIDED)
        verdict = gate_verdict_compute(gate=gate, candidate=candidate, baseline=baseline)
        status, reasons = gate_verdict_current(verdict)
        if options["junit"]:
            self._write(Path(options["junit"]), report_junit(verdict, status, reasons))
        self._tell(verdict, status, reasons, check, quiet)
        sys.exit(exit_code(status))

    # -------------------------------------------------------------- parts
    def _gate(self, name: str, product: Product) -> Gate:
        if not name:
            return gate_for_product(product)
        path = Path(name)
        if path.suffix == ".json" or "/" in name:
            return _gate_of_file(path)
        return gate_get(name)

    def _say_plan(self, plan: GatePlan) -> None:
        self.stdout.write(f"{plan.gate}: {plan.candidate} against {plan.baseline}")
        for sentence in plan.problems:
            self.stdout.write(f"  {sentence}")
        self.stdout.write("Before the run, what each criterion can show:")
        for one in plan.power:
            self.stdout.write(f"  {one.criterion.key}: {one.sentence}")

    def _inline(self, check: GateCheck, quiet: bool) -> None:
        line = ProgressLine(self.stderr, silent=quiet)
        for run in check.runs:
            if run.is_active:
                line.show(
                    f"evaluating {run.subject_label} on {run.dataset_label} in this process …", now=True
                )
                run_execute(run_id=run.pk)
        line.end()

    def _wait(self, check: GateCheck, timeout_s: float, quiet: bool) -> bool:
        """Follow the runs until none is active; False when the time is over."""
        line = ProgressLine(self.stderr, silent=quiet)
        started = time.monotonic()
        told = False
        plan = check.plan
        while check.active:
            waited = time.monotonic() - started
            if waited > timeout_s:
                line.end()
                return False
            if (
                not told
                and waited > WORKER_PATIENCE_S
                and not any(r.status == Run.Status.RUNNING for r in check.runs)
            ):
                told = True
                if not _worker_answers():
                    line.end()
                    self.stderr.write(
                        f"No worker answers. Start one with `make up`, or `{WORKER_COMMAND}`, or give --inline."
                    )
            running = sum(run.is_active for run in check.runs)
            line.show(
                f"measuring: {check.done_items} of {check.total_items} items, {running} evaluations under way, "
                f"{waited:.0f} s"
            )
            time.sleep(min(POLL_S, max(0.05, timeout_s - waited)))
            check = gate_check_view(gate=plan.gate, candidate=plan.candidate, baseline=plan.baseline)
        line.end()
        return True

    def _write(self, path: Path, content: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except OSError as error:
            raise CommandError(
                f"{path} cannot be written: {error.strerror or type(error).__name__}.", returncode=EXIT_USAGE
            ) from error

    def _tell(
        self, verdict: GateVerdict, status: str, reasons: list[str], check: GateCheck, quiet: bool
    ) -> None:
        failed = Run.objects.filter(pk__in=[run.pk for run in check.runs]).exclude(
            status=Run.Status.SUCCEEDED
        )
        problems = [f"{run}: {run.get_status_display().lower()}. {run.error}".strip() for run in failed]
        document = {**report_document(verdict, status, reasons), "problems": problems}
        self.answer(
            document,
            "",
            *report_table(verdict),
            "",
            *problems,
            *reasons,
            f"{status.replace('_', ' ').upper()}: {verdict.sentence}",
            as_json=quiet,
        )


def _release(text: str, product_slug: str) -> tuple[Product, Release]:
    """The release a person means, by version or digest. Raises NotFound that lists what exists."""
    releases = Release.objects.select_related("product", "model_version").order_by("-created_at")
    slug, separator, version = text.strip().rpartition("/")
    if separator:
        product_slug, text = slug, version
    if product_slug:
        releases = releases.filter(product=product_get(product_slug))
    wanted = text.strip()
    found = list(releases.filter(version=wanted)[:2]) if "\x00" not in wanted else []
    if not found and _DIGEST.match(wanted):
        prefix = wanted if wanted.startswith("sha256:") else f"sha256:{wanted}"
        found = list(releases.filter(digest__startswith=prefix)[:2])
        # Releases of one content under two versions are the same thing to measure.
        found = found[:1] if len({release.digest for release in found}) == 1 else found
    if len(found) == 1:
        return found[0].product, found[0]
    known = [f"{one.product.slug}/{one.version}" for one in releases[:12]]
    if found:
        raise NotFound(f"“{wanted}” fits several releases: name the product with --product.")
    raise NotFound(f"There is no release “{wanted}”. There are: {', '.join(known) or 'none yet'}.")


def _gate_of_file(path: Path) -> Gate:
    """Create the gate of a JSON file, or its next version when the file differs from what is stored."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(
            f"{path} cannot be read: {error.strerror or type(error).__name__}.", returncode=EXIT_USAGE
        ) from error
    except ValueError as error:
        raise CommandError(f"{path} is not JSON: {error}", returncode=EXIT_USAGE) from error
    if isinstance(content, list):
        content = {"criteria": content}
    if not isinstance(content, dict):
        raise CommandError(
            f"{path} must hold an object with criteria, or a list of them.", returncode=EXIT_USAGE
        )
    unknown = sorted(
        set(content) - {"slug", "title", "description", "alpha", "criteria", "version", "digest"}
    )
    if unknown:
        raise CommandError(f"{path}: {', '.join(unknown)} is not known in a gate.", returncode=EXIT_USAGE)
    stem = re.sub(r"[^a-z0-9_-]+", "-", path.stem.lower()).strip("-_") or "gate"
    slug = str(content.get("slug") or stem)
    fields = {
        "slug": slug,
        "title": str(content.get("title") or slug),
        "criteria": content.get("criteria"),
        "description": str(content.get("description") or ""),
        "alpha": content.get("alpha", 0.05),
    }
    return gate_revise(**fields) if Gate.objects.filter(slug=slug).exists() else gate_create(**fields)


def _only_tenant(options: dict[str, Any]) -> str:
    """The one tenant that has both releases. Raises CommandError when none or several have them."""
    with schema_context(get_public_schema_name()):
        found = Tenant.objects.exclude(schema_name=get_public_schema_name()).order_by("schema_name")
        tenants = [tenant for tenant in found if tenant.is_active]
    fitting = []
    for tenant in tenants:
        with tenant_context(tenant):
            try:
                product, _ = _release(options["candidate"], options["product"])
                _release(options["baseline"], product.slug)
            except DomainError:
                continue
            fitting.append(tenant.schema_name)
    if len(fitting) == 1:
        return str(fitting[0])
    there = ", ".join(tenant.schema_name for tenant in tenants[:10]) or "none yet"
    which = (
        f"Several tenants have these releases: {', '.join(fitting[:10])}."
        if fitting
        else (f"No tenant has both {options['candidate']} and {options['baseline']}. Tenants: {there}.")
    )
    raise CommandError(f"{which} Name one with --tenant.", returncode=EXIT_USAGE)


def _worker_answers() -> bool:
    """Whether any worker answers the broker within two seconds."""
    from core.celery import app

    try:
        return bool(app.control.ping(timeout=2.0))
    except Exception:
        # kombu's errors differ by transport; each means that no worker can be reached.
        return False
