"""Gates over evaluations: versions of criteria, the plan of a check, its runs and its verdict.

The path is always the same, from the page, REST and the command line: `gate_plan` says what has to be measured and
what that can detect, `gate_check_start` starts or reuses the runs, `gate_verdict_compute` pairs their items and asks
the pure rules of `core.evidence.verdicts`. Documented in docs/design/gates.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from core.evidence.models import Criterion, Gate, GateVerdict, Run
from inference.models import Dataset, DatasetVersion, Product, Release


@dataclass(frozen=True, slots=True)
class PlannedEvaluation:
    """One evaluation a gate needs. `run` is the finished or live run that already has this plan, or None."""

    role: str  # "candidate" or "baseline"
    release: Release
    dataset_version: DatasetVersion
    # Items to score; 0 means all of the test split.
    sample_size: int
    n: int
    seed: int
    criteria: tuple[str, ...]
    run: Run | None = None


@dataclass(frozen=True, slots=True)
class CriterionPower:
    """What a criterion can detect with `n` pairs, stated before the run.

    `power`: chance to pass a candidate that is truly equal. `mde`: the smallest true loss that is
    noticed with the criterion's power, in the metric's unit. Both None when nothing can be said, and `basis` why.
    """

    criterion: Criterion
    n: int
    power: float | None
    mde: float | None
    basis: str
    sentence: str


@dataclass(frozen=True, slots=True)
class GatePlan:
    """Everything a gate check will do, before it does it."""

    gate: Gate
    candidate: Release
    baseline: Release
    evaluations: tuple[PlannedEvaluation, ...]
    power: tuple[CriterionPower, ...]
    # Sentences about criteria that cannot be measured at all (a dataset without items, say).
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GateCheck:
    """A gate check as it stands: its plan, its runs, and the verdict once there is one."""

    plan: GatePlan
    runs: tuple[Run, ...]
    done_items: int
    total_items: int
    verdict: GateVerdict | None = None
    missing: tuple[PlannedEvaluation, ...] = field(default=())

    @property
    def active(self) -> bool:
        """Whether any of its runs may still change."""
        return any(run.is_active for run in self.runs)


def gate_create(
    *,
    slug: str,
    title: str,
    criteria: Sequence[Mapping[str, Any]],
    description: str = "",
    alpha: float = 0.05,
) -> Gate:
    """The first version of a gate. Raises Invalid (messages by field) or Conflict when the slug is taken."""
    raise NotImplementedError


def gate_revise(
    *,
    slug: str,
    title: str,
    criteria: Sequence[Mapping[str, Any]],
    description: str = "",
    alpha: float = 0.05,
) -> Gate:
    """The next version of a gate, or the current one when nothing changed. Raises Invalid or NotFound."""
    raise NotImplementedError


def gate_default(*, product: Product, datasets: Iterable[Dataset], sample_size: int = 200) -> Gate:
    """Create (or bring up to date) the quality gate `<product>-quality` over these datasets."""
    raise NotImplementedError


def gate_plan(gate: Gate, candidate: Release, baseline: Release) -> GatePlan:
    """What must be evaluated for this gate, and what each criterion can detect with it. Starts nothing."""
    raise NotImplementedError


def gate_check_start(*, gate: Gate, candidate: Release, baseline: Release) -> GateCheck:
    """Start the evaluations that are missing, reuse those that are there. Harmless to repeat."""
    raise NotImplementedError


def gate_check_view(*, gate: Gate, candidate: Release, baseline: Release) -> GateCheck:
    """The check as it stands, starting nothing."""
    raise NotImplementedError


def gate_verdict_compute(
    *, gate: Gate, candidate: Release, baseline: Release, now: datetime | None = None
) -> GateVerdict:
    """Judge the gate from finished runs and keep the verdict; the same inputs give the row that is there.

    A criterion whose evidence is missing is `not_run`; that is a verdict too, and it does not pass.
    """
    raise NotImplementedError


def gate_verdict_latest(
    *, gate_slug: str, candidate_digest: str, baseline_digest: str = ""
) -> GateVerdict | None:
    """The newest stored verdict of any version of the gate on this pair; None when there is none."""
    raise NotImplementedError


def gate_verdict_current(gate_verdict: GateVerdict, now: datetime | None = None) -> tuple[str, list[str]]:
    """The verdict as it counts today: its own status, or `stale` with every reason as a sentence."""
    raise NotImplementedError


def raw_numbers(gate_verdict: GateVerdict) -> dict[str, dict[str, Any]]:
    """Criterion key to the raw document its verdict was computed from, for the dossier."""
    raise NotImplementedError
