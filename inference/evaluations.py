"""Planning and starting evaluations. Called through `inference.services`; carried out by
`inference.executors`."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from django.conf import settings

from core.evidence.models import Run
from core.evidence.services import RunCreated, run_create, run_plan_digest
from inference.data.schema import Item, sample_order
from inference.errors import EvaluationInvalid
from inference.limits import plan_limit
from inference.models import Dataset, DatasetVersion, Release

PLAN_FORMAT = 1
# Items that are also answered alone, one at a time, to time a query. Twenty bound the median, and p95 from
# below.
LATENCY_ITEMS = 20
LATENCY_MAX_TOKENS = 16
LATENCY_WARMUP = 2
DEFAULT_SPLIT = "test"
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """An evaluation before it has a run. `digest` finds the run that measures the same."""

    release: Release
    dataset_version: DatasetVersion
    plan: dict[str, Any]
    digest: str
    seed: int
    total_items: int


@functools.cache
def code_version() -> str:
    """Digest of the source files that decide an outcome: engines and scoring."""
    found = hashlib.sha256()
    for folder in ("engines", "evaluation"):
        for path in sorted((_HERE / folder).rglob("*.py")):
            found.update(f"{path.relative_to(_HERE)}\n".encode() + path.read_bytes() + b"\x00")
    return f"sha256:{found.hexdigest()}"


@functools.cache
def machine_class() -> str:
    """The kind of machine that measures: setting MACHINE_CLASS, or this machine's architecture, CPU and
    cores."""
    if settings.MACHINE_CLASS:
        return str(settings.MACHINE_CLASS)
    model = platform.processor() or "unknown CPU"
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{platform.machine()}, {model}, {os.cpu_count() or 1} cores"


def evaluation_plan(
    *,
    release: Release,
    dataset_version: DatasetVersion,
    sample_size: int = 0,
    seed: int = 0,
    split: str | None = None,
    latency_items: int = LATENCY_ITEMS,
    latency_max_tokens: int = LATENCY_MAX_TOKENS,
) -> EvaluationPlan:
    """What an evaluation would measure; starts nothing.

    sample_size: items to score, chosen by `seed`; 0 or more than there are means all. The choice depends on
    seed and item keys only, so two releases meet the same items and a larger sample contains a smaller one.
    split: None is "test", or every split where the dataset has no "test". latency_items: of the sample, how
    many are also timed alone (none for plain text, which is no query). Raises EvaluationInvalid with a
    message per field.
    """
    dataset = dataset_version.dataset
    splits: dict[str, int] = dataset_version.splits or {}
    errors: dict[str, list[str]] = {}
    if split is None:
        split = DEFAULT_SPLIT if splits.get(DEFAULT_SPLIT) else ""
    available = splits.get(split, 0) if split else dataset_version.item_count
    if not available:
        known = ", ".join(f"{name} ({count})" for name, count in sorted(splits.items())) or "none"
        errors["split"] = [f"{dataset.name} has no items in the split “{split}”. Splits: {known}."]
    if not _whole(sample_size, 0, 10_000_000):
        errors["sample_size"] = [f"Must be a whole number of at least 0 (0: all items), got {sample_size!r}."]
    if not _whole(seed, 0, 2**63 - 1):
        errors["seed"] = [f"Must be a whole number from 0 to 2^63-1, got {seed!r}."]
    if not _whole(latency_items, 0, 100_000):
        errors["latency_items"] = [f"Must be a whole number of at least 0, got {latency_items!r}."]
    if not _whole(latency_max_tokens, 1, 4096):
        errors["latency_max_tokens"] = [f"Must be a whole number from 1 to 4096, got {latency_max_tokens!r}."]
    if errors:
        name, messages = next(iter(errors.items()))
        raise EvaluationInvalid(f"This evaluation cannot be planned. {name}: {messages[0]}", fields=errors)
    n = min(sample_size, available) if sample_size else available
    timed = 0 if dataset.kind == Dataset.Kind.TEXT else min(latency_items, n)
    plan = {
        "format": PLAN_FORMAT,
        "release": release.digest,
        "model": release.model_version.digest,
        "config": release.config,
        "dataset": {"slug": dataset.slug, "kind": dataset.kind, "digest": dataset_version.digest},
        "sample": {"split": split, "n": n, "seed": seed},
        "latency": {"n": timed, "max_tokens": latency_max_tokens, "warmup": LATENCY_WARMUP},
        "price_usd_per_compute_s": release.model_version.price_usd_per_compute_s,
        "engine": {"dtype": settings.ENGINE_DTYPE, "url": settings.ENGINE_URL},
        "code_version": code_version(),
        "machine": machine_class(),
    }
    return EvaluationPlan(
        release=release,
        dataset_version=dataset_version,
        plan=plan,
        digest=run_plan_digest(kind=Run.Kind.EVALUATION, subject_digest=release.digest, seed=seed, plan=plan),
        seed=seed,
        total_items=n,
    )


def _whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def evaluation_request(
    *,
    release: Release,
    dataset_version: DatasetVersion,
    sample_size: int = 0,
    seed: int = 0,
    split: str | None = None,
    latency_items: int = LATENCY_ITEMS,
    latency_max_tokens: int = LATENCY_MAX_TOKENS,
    force: bool = False,
    reuse_within: timedelta | None = None,
    permission: str = "run.start",
) -> RunCreated:
    """Start an evaluation, or find the one that measures the same; says which. Arguments as `evaluation_plan`
    and `core.evidence.services.run_create`. Raises Forbidden, EvaluationInvalid, RunLimitReached."""
    wanted = evaluation_plan(
        release=release,
        dataset_version=dataset_version,
        sample_size=sample_size,
        seed=seed,
        split=split,
        latency_items=latency_items,
        latency_max_tokens=latency_max_tokens,
    )
    return run_create(
        kind=Run.Kind.EVALUATION,
        subject_digest=release.digest,
        subject_label=str(release)[:200],
        dataset_slug=dataset_version.dataset.slug,
        dataset_digest=dataset_version.digest,
        dataset_label=str(dataset_version)[:200],
        plan=wanted.plan,
        total_items=wanted.total_items,
        seed=seed,
        force=force,
        reuse_within=reuse_within,
        daily_limit=plan_limit("max_runs_per_day"),
        permission=permission,
    )


def evaluation_start(**arguments: Any) -> Run:
    """`evaluation_request` for callers who do not mind whether the run was there already."""
    return evaluation_request(**arguments).run


@dataclass(frozen=True, slots=True)
class _Key:
    """As much of an item as choosing a sample needs."""

    id: str


def sample_keys(dataset_version: DatasetVersion, *, split: str, n: int, seed: int) -> list[str]:
    """Keys of the sampled items in the plan's order: the same for every release, machine and import order."""
    items = dataset_version.items.all()
    if split:
        items = items.filter(split=split)
    keys = [cast(Item, _Key(key)) for key in items.values_list("key", flat=True)]
    return [item.id for item in sample_order(keys, seed=seed)[:n]]
