"""Gates over evaluations: versions of criteria, the plan of a check, its runs and its verdict.

The path is always the same, from the page, REST and the command line: `gate_plan` says what has to be
measured and what that can detect, `gate_check_start` starts or reuses the runs, `gate_verdict_compute` pairs
their items and asks the pure rules of `core.evidence.verdicts`. Documented in docs/design/gates.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction

from core.audit.services import audit_record
from core.errors import Conflict, Invalid, NotFound
from core.evidence.models import Criterion, Gate, GateVerdict, Run
from core.security.actor import current_actor
from core.security.canonical import digest
from core.security.permissions import require
from inference.gate_criteria import FIELDS, SLUG, criteria_clean
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

    `power`: chance to pass a candidate that is truly equal. `mde`: the smallest true loss that is noticed with
    the criterion's power, in the metric's unit. Both None when nothing can be said, and `basis` why.
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
    require("gate.edit")
    content = _content_clean(slug=slug, title=title, criteria=criteria, description=description, alpha=alpha)
    if Gate.objects.filter(slug=content.slug).exists():
        raise Conflict(
            f"There is already a gate {content.slug}. Edit it (that makes its next version) or choose another "
            "short name.",
            fields={"slug": ["This short name is taken."]},
        )
    return _version_add(content, version=1, action="gate.created")


def gate_revise(
    *,
    slug: str,
    title: str,
    criteria: Sequence[Mapping[str, Any]],
    description: str = "",
    alpha: float = 0.05,
) -> Gate:
    """The next version of a gate, or the current one when nothing changed. Raises Invalid or NotFound.

    Verdicts of the version before go stale when the rules differ, not when only words do.
    """
    require("gate.edit")
    content = _content_clean(slug=slug, title=title, criteria=criteria, description=description, alpha=alpha)
    current = gate_get(slug)
    if (current.digest, current.title, current.description) == (
        content.digest,
        content.title,
        content.description,
    ):
        return current
    return _version_add(content, version=current.version + 1, action="gate.revised")


def gate_get(slug: str, *, version: int | None = None) -> Gate:
    """The newest version of a gate, or the one asked for. Raises NotFound naming what exists."""
    versions = Gate.objects.filter(slug=slug)
    found = (
        (versions.filter(version=version) if version is not None else versions).order_by("-version").first()
    )
    if found is None:
        known = sorted(set(Gate.objects.values_list("slug", flat=True)))
        wanted = slug if version is None else f"{slug} version {version}"
        raise NotFound(f"There is no gate {wanted}. There are: {', '.join(known) or 'none yet'}.")
    return found


def gate_as_dict(gate: Gate) -> dict[str, Any]:
    """The gate as `--gate file.json`, REST and the edit form take it."""
    return {
        "slug": gate.slug,
        "title": gate.title,
        "description": gate.description,
        "alpha": gate.alpha,
        "criteria": [criterion_as_dict(criterion) for criterion in gate.criteria.all()],
    }


def criterion_as_dict(criterion: Criterion) -> dict[str, Any]:
    """Every field a criterion is written with."""
    return {name: getattr(criterion, name) for name in FIELDS}


@dataclass(frozen=True, slots=True)
class _Content:
    slug: str
    title: str
    description: str
    alpha: float
    criteria: list[dict[str, Any]]
    digest: str


def _content_clean(*, slug: str, title: str, criteria: Any, description: str, alpha: Any) -> _Content:
    """Everything a version holds, checked. Raises Invalid with a message per field."""
    errors: dict[str, list[str]] = {}
    slug, title, description = str(slug).strip(), str(title).strip(), str(description).strip()
    if not SLUG.match(slug):
        errors["slug"] = [f"{slug!r} is not a short name: lower-case letters, digits, - and _, at most 80."]
    if not 1 <= len(title) <= 120:
        errors["title"] = [f"Give a title of 1 to 120 characters, got {len(title)}."]
    if len(description) > 4000:
        errors["description"] = [f"At most 4,000 characters, got {len(description):,}."]
    try:
        level = float(alpha)
    except (TypeError, ValueError):
        level = math.nan
    if not 0 < level < 0.5:
        errors["alpha"] = [f"Must lie between 0 and 0.5, got {alpha!r}."]
    datasets = dict(Dataset.objects.values_list("slug", "kind"))
    cleaned, criterion_errors = criteria_clean(
        list(criteria) if isinstance(criteria, Sequence) and not isinstance(criteria, str) else criteria,
        datasets=datasets,
    )
    errors.update(criterion_errors)
    if errors:
        count = sum(len(messages) for messages in errors.values())
        first = next(iter(errors.items()))
        raise Invalid(
            f"The gate was not saved: {count} {'field is' if count == 1 else 'fields are'} not valid. "
            f"First, {first[0]}: {first[1][0]}",
            fields=errors,
        )
    return _Content(
        slug=slug,
        title=title,
        description=description,
        alpha=level,
        criteria=cleaned,
        digest=digest({"alpha": level, "criteria": cleaned}),
    )


def _version_add(content: _Content, *, version: int, action: str) -> Gate:
    try:
        with transaction.atomic():
            gate = Gate.objects.create(
                slug=content.slug,
                version=version,
                title=content.title,
                description=content.description,
                digest=content.digest,
                alpha=content.alpha,
                created_by_label=current_actor().label,
            )
            Criterion.objects.bulk_create(
                Criterion(gate=gate, ordinal=ordinal, **fields)
                for ordinal, fields in enumerate(content.criteria)
            )
            audit_record(
                action,
                target=gate,
                data={
                    "slug": gate.slug,
                    "version": version,
                    "digest": gate.digest,
                    "criteria": [fields["key"] for fields in content.criteria],
                },
            )
    except IntegrityError as error:
        raise Conflict(
            f"Somebody saved version {version} of {content.slug} a moment ago. Look at it, then save again."
        ) from error
    return gate


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
