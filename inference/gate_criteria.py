"""What a criterion may say: the metrics that exist, the rules over them, and their canonical form. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

SLUG = re.compile(r"^[a-z0-9](?:[a-z0-9_-]{0,78}[a-z0-9])?$")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric an evaluation reports. `kinds`: dataset kinds that yield it; empty for every kind."""

    name: str
    label: str
    unit: str
    higher_is_better: bool
    kinds: tuple[str, ...]
    definition: str
    area: str = "quality"


METRICS: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric(
            "accuracy",
            "Accuracy",
            "share",
            True,
            ("multiple_choice",),
            "Share of items whose right choice has the highest log-likelihood.",
        ),
        Metric(
            "accuracy_norm",
            "Accuracy per character",
            "share",
            True,
            ("multiple_choice",),
            "Share of items whose right choice has the highest log-likelihood per character of the choice.",
        ),
        Metric(
            "token_f1",
            "Token F1",
            "score",
            True,
            ("generation",),
            "Overlap of the generated words with the best accepted answer, from 0 to 1.",
        ),
        Metric(
            "exact_match",
            "Exact match",
            "share",
            True,
            ("generation",),
            "Share of items whose generated text equals an accepted answer after normalisation.",
        ),
        Metric(
            "nll_gold",
            "NLL of the gold answer",
            "nats/token",
            False,
            ("multiple_choice", "reference"),
            "Mean negative log-likelihood per token of the right answer; it moves long before accuracy does.",
        ),
        Metric(
            "nll_text",
            "NLL of plain text",
            "nats/token",
            False,
            ("text",),
            "Mean negative log-likelihood per token of text written by people, without a prompt.",
        ),
        Metric(
            "latency_ms",
            "Latency",
            "ms",
            False,
            (),
            "Time to answer one query.",
            area="reliability",
        ),
        Metric(
            "cost_usd",
            "Cost per query",
            "USD",
            False,
            (),
            "Measured compute seconds of one query times the price of a second.",
            area="cost",
        ),
        Metric(
            "tokens_per_s",
            "Throughput",
            "tokens/s",
            True,
            (),
            "Tokens per second of compute.",
            area="reliability",
        ),
    )
}


def metric_named(name: str) -> Metric | None:
    """What is known of a metric by name, percentiles included (`latency_ms_p95`); None for an unknown one."""
    mean, _, percentile = name.rpartition("_p")
    if name in METRICS or not percentile.isdigit() or mean not in METRICS:
        return METRICS.get(name)
    about = METRICS[mean]
    return replace(about, name=name, label=f"{about.label} p{percentile}")


RULE_TYPES: Final = ("non_inferiority", "bound")
SCALES: Final = ("difference", "ratio")
STATISTICS: Final = ("mean", "p50", "p90", "p95", "p99")
OPERATORS: Final = (">=", "<=")
AREAS: Final = ("quality", "reliability", "cost", "security", "pilot", "rollback")
SEVERITIES: Final = ("blocking", "advisory")
ROLES: Final = ("admin", "pmo", "engineer", "security", "legal")
FIELDS: Final = (
    "key",
    "title",
    "area",
    "metric",
    "dataset",
    "slice",
    "rule",
    "alpha",
    "power",
    "severity",
    "max_age_days",
    "owner_role",
    "playbook",
    "sample_size",
)
MAX_CRITERIA: Final = 60


def _number(value: Any) -> float | None:
    """A finite float from a JSON or form value, or None when it is not one."""
    if isinstance(value, bool) or value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number == int(number) else None


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words) if words else "none yet"


def rule_clean(rule: Any, metric: Metric | None) -> tuple[dict[str, Any], dict[str, str]]:
    """The canonical rule, and messages by field (`rule.margin` …). An unusable rule gives an empty one."""
    if not isinstance(rule, Mapping):
        return {}, {"rule": 'Must be an object such as {"type": "non_inferiority", "margin": 0.02}.'}
    errors: dict[str, str] = {}
    kind = str(rule.get("type", "non_inferiority"))
    if kind not in RULE_TYPES:
        return {}, {"rule.type": f"{kind!r} is not a type of rule. Known are {_listed(RULE_TYPES)}."}
    allowed = {
        "non_inferiority": {"type", "margin", "direction", "scale", "statistic"},
        "bound": {"type", "op", "bound", "statistic"},
    }[kind]
    for name in sorted(set(rule) - allowed):
        errors[f"rule.{name}"] = f"Is not known for a {kind} rule. Known are {_listed(sorted(allowed))}."
    statistic = str(rule.get("statistic") or "mean")
    if statistic not in STATISTICS:
        errors["rule.statistic"] = f"{statistic!r} is not known. Known are {_listed(STATISTICS)}."
    elif statistic != "mean" and metric is not None and metric.unit == "share":
        errors["rule.statistic"] = f"A share such as {metric.name} has only the mean."
    cleaned: dict[str, Any]
    if kind == "bound":
        bound = _number(rule.get("bound"))
        default_op = ">=" if metric is None or metric.higher_is_better else "<="
        op = str(rule.get("op") or default_op)
        if op not in OPERATORS:
            errors["rule.op"] = f"{op!r} is not known. Known are {_listed(OPERATORS)}."
        if bound is None:
            errors["rule.bound"] = f"Must be a finite number, got {rule.get('bound')!r}."
        elif metric is not None and metric.unit == "share" and not 0 <= bound <= 1:
            errors["rule.bound"] = f"{metric.label} is a share from 0 to 1, got {bound:g}."
        cleaned = {"type": kind, "op": op, "bound": bound}
    else:
        scale = str(rule.get("scale") or "difference")
        margin = _number(rule.get("margin"))
        higher = metric is None or metric.higher_is_better
        direction = str(rule.get("direction") or ("higher_is_better" if higher else "lower_is_better"))
        if direction not in ("higher_is_better", "lower_is_better"):
            errors["rule.direction"] = (
                f"{direction!r} is not known. Known are higher_is_better, lower_is_better."
            )
        if scale not in SCALES:
            errors["rule.scale"] = f"{scale!r} is not known. Known are {_listed(SCALES)}."
        elif margin is None:
            errors["rule.margin"] = f"Must be a finite number, got {rule.get('margin')!r}."
        elif scale == "difference" and margin <= 0:
            errors["rule.margin"] = (
                f"Must be above 0, got {margin:g}: it is how much worse the candidate may be."
            )
        elif scale == "difference" and metric is not None and metric.unit == "share" and margin >= 1:
            errors["rule.margin"] = (
                f"{metric.label} is a share from 0 to 1; a margin of {margin:g} allows anything."
            )
        elif scale == "ratio" and margin <= 0:
            errors["rule.margin"] = (
                f"Must be above 0, got {margin:g}: 0.1 allows 10 % worse than the baseline."
            )
        if scale == "ratio" and direction == "higher_is_better" and margin is not None and margin >= 1:
            errors.setdefault("rule.margin", "Must be below 1 where higher is better: 0.1 allows 10 % less.")
        if scale == "ratio" and metric is not None and metric.unit == "share":
            errors["rule.scale"] = f"{metric.label} is a share; compare shares by their difference."
        cleaned = {"type": kind, "margin": margin, "direction": direction, "scale": scale}
    if statistic != "mean":
        cleaned["statistic"] = statistic
    return cleaned, errors


def criterion_key(metric: str, dataset: str, slice_name: str, statistic: str, kind: str) -> str:
    """A readable key made of what the criterion is about: `piqa-nll_gold`, `piqa-latency_ms-p95`."""
    parts = [
        dataset,
        metric,
        "" if statistic == "mean" else statistic,
        slice_name,
        "" if kind == "non_inferiority" else kind,
    ]
    text = "-".join(part for part in parts if part)
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:80]


def criteria_clean(
    criteria: Any, *, datasets: Mapping[str, str], alpha: float = 0.05
) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """Check and complete a list of criteria.

    Args:
        criteria: list of objects with the fields of `FIELDS`; `metric` and `rule` are needed, the rest have
            defaults (docs/design/gates.md).
        datasets: slug to kind of every dataset that exists.
        alpha: of criteria that name none.
    Returns:
        the canonical criteria (each with every field), and messages keyed by `criteria.<index>.<field>`; the
        first is meaningless when there are messages.
    """
    errors: dict[str, list[str]] = {}
    if not isinstance(criteria, list) or not criteria:
        return [], {"criteria": ["A gate needs at least one criterion: a list of objects."]}
    if len(criteria) > MAX_CRITERIA:
        return [], {"criteria": [f"A gate may have {MAX_CRITERIA} criteria, got {len(criteria)}."]}
    cleaned: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for index, raw in enumerate(criteria):
        prefix = f"criteria.{index}"

        def refuse(field: str, message: str, prefix: str = prefix) -> None:
            errors.setdefault(f"{prefix}.{field}" if field else prefix, []).append(message)

        if not isinstance(raw, Mapping):
            refuse("", "Must be an object with at least metric and rule.")
            continue
        for name in sorted(set(map(str, raw)) - set(FIELDS)):
            refuse(name, f"Is not known here. Known are {_listed(FIELDS)}.")
        name = str(raw.get("metric") or "")
        metric = METRICS.get(name)
        if metric is None:
            refuse("metric", f"{name!r} is not a metric. Known are {_listed(sorted(METRICS))}.")
        dataset = str(raw.get("dataset") or "")
        if not dataset:
            refuse("dataset", f"Choose the dataset to measure on: {_listed(sorted(datasets))}.")
        elif dataset not in datasets:
            refuse("dataset", f"There is no dataset {dataset!r}. There are: {_listed(sorted(datasets))}.")
        elif metric is not None and metric.kinds and datasets[dataset] not in metric.kinds:
            fitting = [
                key for key, item in METRICS.items() if not item.kinds or datasets[dataset] in item.kinds
            ]
            refuse(
                "metric",
                f"{dataset} is a dataset of kind {datasets[dataset]}, which yields no {name}. "
                f"It yields {_listed(fitting)}.",
            )
        rule, rule_errors = rule_clean(raw.get("rule"), metric)
        for field, message in rule_errors.items():
            refuse(field, message)
        slice_name = str(raw.get("slice") or "")
        if len(slice_name) > 80:
            refuse("slice", "The name of a slice has at most 80 characters.")
        values = {
            "alpha": (_number(alpha if raw.get("alpha") in (None, "") else raw["alpha"]), 0.0005, 0.25),
            "power": (_number(raw.get("power", 0.8)), 0.01, 0.9999),
        }
        for field, (number, low, high) in values.items():
            if number is None or not low <= number <= high or number == 1:
                refuse(field, f"Must lie between {low:g} and {high:g}, got {raw.get(field)!r}.")
        counts = {
            "max_age_days": (_whole(raw.get("max_age_days", 30)), 1, 3650),
            "sample_size": (_whole(raw.get("sample_size", 0)), 0, 1_000_000),
        }
        for field, (whole, least, most) in counts.items():
            if whole is None or not least <= whole <= most:
                refuse(field, f"Must be a whole number from {least} to {most:,}, got {raw.get(field)!r}.")
        area = str(raw.get("area") or (metric.area if metric else "quality"))
        severity = str(raw.get("severity") or "blocking")
        owner = str(raw.get("owner_role") or "engineer")
        for field, value, known in (
            ("area", area, AREAS),
            ("severity", severity, SEVERITIES),
            ("owner_role", owner, ROLES),
        ):
            if value not in known:
                refuse(field, f"{value!r} is not known. Known are {_listed(known)}.")
        playbook = str(raw.get("playbook") or "")
        if playbook and not SLUG.match(playbook):
            refuse("playbook", f"{playbook!r} is not a slug: lower-case letters, digits, - and _.")
        key = str(
            raw.get("key")
            or criterion_key(
                name, dataset, slice_name, str(rule.get("statistic", "mean")), str(rule.get("type", ""))
            )
        )
        if not SLUG.match(key):
            refuse("key", f"{key!r} is not a key: lower-case letters, digits, - and _, at most 80.")
        elif key in seen:
            refuse("key", f"{key!r} is also the key of criterion {seen[key] + 1}; two rules need two keys.")
        seen.setdefault(key, index)
        title = str(raw.get("title") or "").strip() or default_title(metric, dataset, slice_name, rule)
        if len(title) > 160:
            refuse("title", f"A title has at most 160 characters, got {len(title)}.")
        cleaned.append(
            {
                "key": key,
                "title": title,
                "area": area,
                "metric": name,
                "dataset": dataset,
                "slice": slice_name,
                "rule": rule,
                "alpha": values["alpha"][0],
                "power": values["power"][0],
                "severity": severity,
                "max_age_days": counts["max_age_days"][0],
                "owner_role": owner,
                "playbook": playbook,
                "sample_size": counts["sample_size"][0],
            }
        )
    return cleaned, errors


def default_title(metric: Metric | None, dataset: str, slice_name: str, rule: Mapping[str, Any]) -> str:
    """ "Accuracy on piqa not worse than baseline" and the like."""
    label = metric.label if metric else "Metric"
    statistic = str(rule.get("statistic", "mean"))
    if statistic != "mean":
        label = f"{label} {statistic}"
    where = f" on {dataset}" + (f", slice {slice_name}" if slice_name else "")
    if rule.get("type") == "bound":
        words = "at least" if rule.get("op") == ">=" else "at most"
        return f"{label}{where} {words} {rule.get('bound')}"
    return f"{label}{where}"
