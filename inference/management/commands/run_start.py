"""`manage.py run_start`: start an evaluation of a release on a dataset, and wait for it if asked."""

from __future__ import annotations

import sys
import time
from typing import Any

from django.core.management.base import CommandParser

from core.evidence.models import Measurement, Run
from core.evidence.selectors import Progress, run_measurements, run_progress
from inference.evaluations import LATENCY_ITEMS
from inference.management.base import ProgressLine, TenantCommand
from inference.selectors import dataset_version_get, release_resolve
from inference.services import evaluation_request

# Seconds without any worker taking the run before the command says so.
_NOBODY_S = 20


class Command(TenantCommand):
    """Exit codes: 0 started (with --wait: succeeded), 1 refused (with --wait: failed or cancelled), 2 wrong
    arguments."""

    help = "Evaluate a release on a dataset. A run that measures the same is reused unless --force."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--release", required=True, help="product/version, version, id or digest")
        parser.add_argument("--dataset", required=True, help="short name of the dataset")
        parser.add_argument("--dataset-version", type=int, help="default: the newest")
        parser.add_argument(
            "--sample", type=int, default=0, metavar="N", help="items to score; 0 means all (default)"
        )
        parser.add_argument("--seed", type=int, default=0, help="chooses the items (default 0)")
        parser.add_argument("--split", help="default: test, or all where there is no test")
        parser.add_argument(
            "--latency-items",
            type=int,
            default=LATENCY_ITEMS,
            metavar="N",
            help="items timed alone (default %(default)s)",
        )
        parser.add_argument("--force", action="store_true", help="measure again although it was measured")
        parser.add_argument(
            "--wait", action="store_true", help="until the run ends; Ctrl-C leaves it running"
        )

    def run(self, **options: Any) -> None:
        run, created = evaluation_request(
            release=release_resolve(options["release"]),
            dataset_version=dataset_version_get(options["dataset"], options["dataset_version"]),
            sample_size=options["sample"],
            seed=options["seed"],
            split=options["split"],
            latency_items=options["latency_items"],
            force=options["force"],
        )
        if options["wait"] and run.is_active:
            self._wait(run, silent=options["as_json"])
            run.refresh_from_db()
        found = list(run_measurements(run, slices=False))
        done = run_progress(run, provisional=False)
        self.answer(
            {
                "id": str(run.pk),
                "created": created,
                "status": run.status,
                "items": {"done": done.done, "total": done.total},
                "error": run.error,
                "summary": run.summary,
                "measurements": [
                    {
                        "metric": one.metric,
                        "value": one.value,
                        "unit": one.unit,
                        "n": one.n,
                        "low": one.low,
                        "high": one.high,
                        "level": one.level,
                        "method": one.method,
                    }
                    for one in found
                ],
            },
            f"{'Started' if created else 'Found'}: {run} (id {run.pk}), {run.get_status_display().lower()}, "
            f"{done.done} of {done.total} items",
            *([f"  {run.error}"] if run.error else []),
            *[f"  {_line(one)}" for one in found],
            as_json=options["as_json"],
        )
        if options["wait"] and run.status != Run.Status.SUCCEEDED:
            sys.exit(1)

    def _wait(self, run: Run, *, silent: bool) -> None:
        line = ProgressLine(self.stderr, silent=silent)
        began = time.monotonic()
        while run.is_active:
            progress = run_progress(run, provisional=False)
            waiting = run.status == Run.Status.QUEUED and time.monotonic() - began > _NOBODY_S
            line.show(_progress(progress) + ("; is a worker up? (manage.py up)" if waiting else ""))
            time.sleep(0.5)
            run.refresh_from_db()
        line.end()


def _progress(progress: Progress) -> str:
    left = f", about {progress.eta_s:.0f} s left" if progress.eta_s else ""
    ahead = f", {progress.waiting_before} runs before it" if progress.waiting_before else ""
    return f"{progress.status}: {progress.done} of {progress.total} items{left}{ahead}"


def _line(one: Measurement) -> str:
    if one.value is None:
        return f"{one.metric:<16} no value (n = 0)"
    interval = ""
    if one.low is not None or one.high is not None:
        low = f"{one.low:.4g}" if one.low is not None else "unbounded"
        high = f"{one.high:.4g}" if one.high is not None else "unbounded"
        interval = f" [{low}, {high}] {one.level:.0%}"
    return f"{one.metric:<16} {one.value:.4g} {one.unit}{interval}, n = {one.n}, {one.method}"
