"""Gates over evaluations: versions of criteria, and the one place to import gate functions from.

The path is always the same, from the page, REST and the command line: `gate_plan` says what has to be
measured and what that can detect, `gate_check_start` starts or reuses the runs, `gate_verdict_compute` pairs
their items and asks the pure rules of `core.evidence.verdicts`. Documented in docs/design/gates.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import IntegrityError, transaction

from core.audit.services import audit_record
from core.errors import Conflict, Invalid, NotFound
from core.evidence.models import Criterion, Gate
from core.evidence.statistics import paired_binary_power
from core.security.actor import current_actor
from core.security.canonical import digest
from core.security.permissions import require
from inference.gate_criteria import FIELDS, SLUG, criteria_clean
from inference.gate_planning import (
    GATE_SEED,
    CriterionPower,
    GateCheck,
    GatePlan,
    PlannedEvaluation,
    criterion_power,
    criterion_spec,
    dataset_versions_latest,
    gate_check_start,
    gate_check_view,
    gate_plan,
)
from inference.gate_verdicts import (
    gate_report_document,
    gate_verdict_compute,
    gate_verdict_current,
    gate_verdict_latest,
    gate_verdict_settle,
    raw_numbers,
)
from inference.models import Dataset, Product

__all__ = [
    "GATE_SEED",
    "CriterionPower",
    "GateCheck",
    "GatePlan",
    "PlannedEvaluation",
    "criterion_as_dict",
    "criterion_power",
    "criterion_spec",
    "default_criteria",
    "gate_as_dict",
    "gate_check_start",
    "gate_check_view",
    "gate_create",
    "gate_default",
    "gate_for_product",
    "gate_get",
    "gate_plan",
    "gate_report_document",
    "gate_revise",
    "gate_verdict_compute",
    "gate_verdict_current",
    "gate_verdict_latest",
    "gate_verdict_settle",
    "raw_numbers",
]


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
            f"There is already a gate {content.slug}. Edit it (that makes its next version) or choose "
            "another short name.",
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
    if not 0.0005 <= level <= 0.25:
        errors["alpha"] = [f"Must lie between 0.0005 and 0.25, got {alpha!r}."]
    datasets = dict(Dataset.objects.values_list("slug", "kind"))
    cleaned, criterion_errors = criteria_clean(
        list(criteria) if isinstance(criteria, Sequence) and not isinstance(criteria, str) else criteria,
        datasets=datasets,
        alpha=level,
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


# ------------------------------------------------------------------ the default gate
# Declared margins of the default gate. NLL margins are small because NLL is measured to a few thousandths
# where accuracy is known to a few hundredths (docs/design/gates.md gives the figures behind each).
ACCURACY_MARGIN = 0.05
NLL_GOLD_MARGIN = 0.05
NLL_TEXT_MARGIN = 0.03
# Latency and cost are measured on shared machines: the margin of 100 % leaves room for noisy neighbours, and
# both are advisory.
LATENCY_MARGIN = 1.0
COST_MARGIN = 1.0


# Margins a share may get by default: the narrowest that an equal candidate passes with this probability, when
# three of a hundred answers flip by chance.
SHARE_MARGINS = (ACCURACY_MARGIN, 0.075, 0.10, 0.15, 0.20)
SHARE_POWER, SHARE_DISCORDANCE = 0.8, 0.03


def share_margin(n: int) -> float:
    """The default margin of a share measured on `n` items; with few items a narrow one could never be passed."""
    for margin in SHARE_MARGINS:
        if n >= 2 and paired_binary_power(n, discordance=SHARE_DISCORDANCE, margin=margin) >= SHARE_POWER:
            return margin
    return SHARE_MARGINS[-1]


def default_criteria(
    datasets: Iterable[Dataset], *, sample_size: int | Mapping[str, int] = 200, playbook: str = ""
) -> list[dict[str, Any]]:
    """Criteria that catch a damaged model on these datasets: accuracy or exact match beside NLL canaries.

    sample_size: items per dataset, for all or by slug (200 where a slug is missing); 0 means the test split.
    """
    ordered = sorted(datasets, key=lambda dataset: dataset.slug)
    versions = dataset_versions_latest({dataset.slug for dataset in ordered})
    sizes = {
        d.slug: sample_size if isinstance(sample_size, int) else sample_size.get(d.slug, 200) for d in ordered
    }

    def share(dataset: Dataset) -> float:
        version = versions.get(dataset.slug)
        there = version.splits.get("test") or version.item_count if version is not None else 200
        return share_margin(min(sizes[dataset.slug] or there, there))

    criteria: list[dict[str, Any]] = []

    def compare(dataset: Dataset, metric: str, margin: float, **more: Any) -> None:
        rule = {"type": "non_inferiority", "margin": margin, **more.pop("rule", {})}
        criteria.append(
            {
                "metric": metric,
                "dataset": dataset.slug,
                "rule": rule,
                "sample_size": sizes[dataset.slug],
                "playbook": playbook,
                **more,
            }
        )

    for dataset in ordered:
        if dataset.kind == Dataset.Kind.MULTIPLE_CHOICE:
            compare(dataset, "accuracy", share(dataset))
            compare(dataset, "nll_gold", NLL_GOLD_MARGIN)
        elif dataset.kind == Dataset.Kind.GENERATION:
            compare(dataset, "exact_match", share(dataset))
        elif dataset.kind == Dataset.Kind.REFERENCE:
            compare(dataset, "nll_gold", NLL_GOLD_MARGIN)
        else:
            compare(dataset, "nll_text", NLL_TEXT_MARGIN)
    timed = next((d for d in ordered if d.kind == Dataset.Kind.GENERATION), ordered[0] if ordered else None)
    if timed is not None:
        compare(
            timed,
            "latency_ms",
            LATENCY_MARGIN,
            rule={"scale": "ratio", "statistic": "p95"},
            severity="advisory",
        )
        compare(timed, "cost_usd", COST_MARGIN, rule={"scale": "ratio"}, severity="advisory")
    return criteria


def gate_default(
    *,
    product: Product,
    datasets: Iterable[Dataset],
    sample_size: int | Mapping[str, int] = 200,
    playbook: str = "",
) -> Gate:
    """Create (or bring up to date) the quality gate `<product>-quality` over these datasets."""
    slug = f"{product.slug}-quality"
    content: dict[str, Any] = {
        "slug": slug,
        "title": f"Quality of {product.name}"[:120],
        "criteria": default_criteria(datasets, sample_size=sample_size, playbook=playbook),
        "description": "Accuracy beside its NLL canaries on every dataset; latency and cost as advice.",
    }
    if Gate.objects.filter(slug=slug).exists():
        return gate_revise(**content)
    return gate_create(**content)


def gate_for_product(product: Product) -> Gate:
    """The product's own gate: `<product>-quality`, else the only gate there is. Raises NotFound."""
    own = Gate.objects.filter(slug=f"{product.slug}-quality").order_by("-version").first()
    if own is not None:
        return own
    slugs = sorted(set(Gate.objects.values_list("slug", flat=True)))
    if len(slugs) == 1:
        return gate_get(slugs[0])
    raise NotFound(
        f"{product.name} has no gate {product.slug}-quality. Name one of: {', '.join(slugs) or 'none yet'}."
    )
