"""Releases, datasets and finished runs made through the real models, with numbers the test chooses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.utils import timezone

from core.evidence.models import Gate, Run, RunItem
from core.security.actor import SYSTEM, use_actor
from inference.evaluations import evaluation_plan
from inference.gates import GATE_SEED, gate_create
from inference.models import Dataset, DatasetItem, DatasetVersion, ModelVersion, Product, Release

SLICES = ("length:short", "length:long")
ENVIRONMENT = {"engine": "torch", "device": "cpu", "dtype": "float32", "torch": "2", "transformers": "5"}

Metrics = Callable[[int], dict[str, float | None]]


@dataclass
class World:
    """One product with two releases, a dataset of each kind asked for, and a gate over them."""

    product: Product
    baseline: Release
    candidate: Release
    versions: dict[str, DatasetVersion]
    gate: Gate


def sha(text: str) -> str:
    """A digest for something that needs one."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def make_dataset(slug: str, kind: str, n: int = 120, *, version: int = 1) -> DatasetVersion:
    """A dataset version with n items, every second one long."""
    dataset, _ = Dataset.objects.get_or_create(slug=slug, defaults={"name": slug.upper(), "kind": kind})
    made = DatasetVersion.objects.create(
        dataset=dataset,
        version=version,
        digest=sha(f"{slug} {version}"),
        item_count=n,
        splits={"test": n},
        slices={SLICES[0]: (n + 1) // 2, SLICES[1]: n // 2},
    )
    DatasetItem.objects.bulk_create(
        DatasetItem(
            dataset_version=made,
            key=f"{slug}-{i:04d}",
            ordinal=i,
            slices=[SLICES[i % 2]],
            content={"id": f"{slug}-{i:04d}", "question": f"Question {i}?"},
        )
        for i in range(n)
    )
    return made


def make_release(product: Product, version: str, *, model: str = "") -> Release:
    """A release on a model version of its own."""
    name = model or f"model of {version}"
    weights, _ = ModelVersion.objects.get_or_create(
        digest=sha(name), defaults={"name": name, "parameters": 135_000_000, "size_bytes": 270_000_000}
    )
    return Release.objects.create(
        product=product,
        version=version,
        model_version=weights,
        config={"prompt": {"template": "{input}"}, "decoding": {"max_tokens": 16}},
        digest=sha(f"{product.slug} {name} {version}"),
    )


def make_world(criteria: Sequence[dict[str, Any]] | None = None, *, n: int = 120) -> World:
    """Product "assistant", releases 1.0.0 and 1.1.0, dataset "questions", gate "assistant-quality"."""
    product = Product.objects.create(slug="assistant", name="Assistant")
    version = make_dataset("questions", Dataset.Kind.MULTIPLE_CHOICE, n)
    rules = criteria or [
        {
            "metric": "accuracy",
            "dataset": "questions",
            "rule": {"type": "non_inferiority", "margin": 0.05},
            "playbook": "rollback",
        },
        {
            "metric": "nll_gold",
            "dataset": "questions",
            "rule": {"type": "non_inferiority", "margin": 0.05},
            "playbook": "rollback",
        },
    ]
    with use_actor(SYSTEM):
        gate = gate_create(slug="assistant-quality", title="Quality", criteria=list(rules))
    return World(
        product,
        make_release(product, "1.0.0"),
        make_release(product, "1.1.0"),
        {"questions": version},
        gate,
    )


def finish_run(
    release: Release,
    version: DatasetVersion,
    metrics: Metrics,
    *,
    days_ago: float = 0,
    environment: dict[str, Any] | None = None,
    latency_items: int = 0,
    status: str = Run.Status.SUCCEEDED,
    items: int | None = None,
    latency_ms: Callable[[int], float] | None = None,
) -> Run:
    """A run of the plan a gate check would make, with items whose metrics are `metrics(ordinal)`."""
    wanted = evaluation_plan(
        release=release, dataset_version=version, seed=GATE_SEED, latency_items=latency_items
    )
    at = timezone.now() - timedelta(days=days_ago)
    run = Run.objects.create(
        kind=Run.Kind.EVALUATION,
        subject_digest=release.digest,
        subject_label=str(release),
        dataset_slug=version.dataset.slug,
        dataset_digest=version.digest,
        dataset_label=str(version),
        plan=wanted.plan,
        plan_digest=wanted.digest,
        seed=wanted.seed,
        status=status,
        total_items=wanted.total_items,
        started_at=at,
        finished_at=None if status in Run.ACTIVE else at,
        environment=environment or ENVIRONMENT,
    )
    RunItem.objects.bulk_create(
        RunItem(
            run=run,
            key=item.key,
            ordinal=item.ordinal,
            slices=item.slices,
            metrics=metrics(item.ordinal),
            output=f"Answer {item.ordinal} of {release.version}",
            latency_ms=latency_ms(item.ordinal) if latency_ms and item.ordinal < latency_items else None,
            compute_s=0.01,
        )
        for item in version.items.all()[: items if items is not None else None]
    )
    return run


def healthy(i: int) -> dict[str, float | None]:
    """Two thirds right, NLL around 2, the same at every call."""
    return {"accuracy": float(i % 3 != 0), "nll_gold": 2.0 + (i % 7) / 10}


def damaged(i: int) -> dict[str, float | None]:
    """Accuracy as before, NLL worse, and most of all on long items."""
    worse = 0.5 if i % 2 else 0.1
    return {"accuracy": float(i % 3 != 0), "nll_gold": 2.0 + (i % 7) / 10 + worse + (i % 5) / 50}
