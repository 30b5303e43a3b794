"""From measurements to verdicts: pure functions, no Django, no clock, no randomness beyond the seed given.

``decide_gate`` judges every criterion of a gate and the gate itself; ``apply_waivers`` shows the same with
waivers.
How verdicts are decided, why, and with what error rates: docs/design/evidence.md. The dossier's ``verify.py``
holds a second implementation of these rules; a change here that changes a number needs a new :data:`METHOD`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core.evidence.statistics import (
    DEFAULT_RESAMPLES,
    BinaryTest,
    InsufficientEvidence,
    MeanTest,
    Resampler,
    clopper_pearson_interval,
    holm,
    log_ratio_test,
    mean_test,
    paired_binary_detectable,
    paired_binary_power,
    paired_continuous_detectable,
    paired_continuous_power,
    paired_percentile_test,
    percentile,
    percentile_interval,
    percentile_n_needed,
    tango_interval,
    wilson_interval,
)
from core.evidence.statistics.distributions import t_quantile
from core.evidence.statistics.types import finite_or_none

__all__ = [
    "METHOD",
    "STATUSES",
    "CriterionReport",
    "CriterionSpec",
    "GateReport",
    "PairedSample",
    "UnpairedMeasurement",
    "WaivedReport",
    "Waiver",
    "apply_waivers",
    "criterion_plan_sentence",
    "decide_gate",
    "metric_unit",
]

METHOD = "signoff.verdict/1"
"""Name of the rules in this module, recorded in every report."""

Status = Literal["pass", "fail", "inconclusive", "not_run", "stale"]
STATUSES: tuple[Status, ...] = ("pass", "fail", "inconclusive", "not_run", "stale")
Comparison = Literal["better", "non-inferior", "regression", "inconclusive", ""]

_UNITS = {
    "accuracy": "share",
    "exact_match": "share",
    "nll_gold": "nats/token",
    "nll_text": "nats/token",
    "latency_ms": "ms",
    "cost_usd": "USD",
    "tokens_per_s": "tokens/s",
}
_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
_LARGEST = 1e100
"""A magnitude beyond this is treated like infinity: its square would be infinite."""
_EPSILON = 1e-12
"""Slack when a p-value is compared with alpha, so that 100/2000 is 0.05 in any arithmetic."""


def metric_unit(metric: str) -> str:
    """Unit of a metric by name; an unknown metric has the unit ``""``."""
    return _UNITS.get(metric, "")


@dataclass(frozen=True)
class CriterionSpec:
    """One criterion of a gate.

    Attributes:
        rule: ``{"type": "bound", "op": ">=" | "<=", "bound": x}`` or ``{"type": "non_inferiority", "margin":
            m, "direction": "higher_is_better" | "lower_is_better", "scale": "difference" | "ratio"}``; either
            may add ``"statistic"``: ``mean`` (default), ``p50``, ``p90``, ``p95`` or ``p99``. Bounds and
            difference margins are in the metric's unit, ratio margins are shares (0.1: at most 10% worse).
        alpha: one-sided error of passing wrongly and, over the whole gate, of failing wrongly.
        power: the power the measurement is planned for.
        slice: "" for all items.
        max_age_days: evidence older than this is stale; None never expires.
        playbook: name or slug of what to do when it fails; "" for none.
    Raises: ValueError naming the key and the field.
    """

    key: str
    title: str
    area: str
    metric: str
    dataset: str
    slice: str
    rule: Mapping[str, Any]
    alpha: float = 0.05
    power: float = 0.8
    severity: str = "blocking"
    max_age_days: float | None = None
    owner_role: str = ""
    playbook: str = ""

    def __post_init__(self) -> None:
        def refuse(what: str) -> ValueError:
            return ValueError(f"Criterion {self.key!r}: {what}.")

        if not self.key:
            raise ValueError("A criterion needs a key.")
        if not _is_number(self.alpha) or not 0.0005 <= self.alpha <= 0.25:
            raise refuse(f"alpha must lie between 0.0005 and 0.25, got {self.alpha!r}")
        if not _is_number(self.power) or not 0 < self.power < 1:
            raise refuse(f"power must lie strictly between 0 and 1, got {self.power!r}")
        if self.severity not in ("blocking", "advisory"):
            raise refuse(f"severity must be blocking or advisory, got {self.severity!r}")
        if self.max_age_days is not None and not (_is_number(self.max_age_days) and self.max_age_days > 0):
            raise refuse(f"max_age_days must be above 0 or empty, got {self.max_age_days!r}")
        rule = self.rule
        if rule.get("statistic", "mean") not in ("mean", *_PERCENTILES):
            raise refuse(f"statistic must be mean, p50, p90, p95 or p99, got {rule.get('statistic')!r}")
        if rule.get("type") == "bound":
            if rule.get("op") not in (">=", "<="):
                raise refuse(f"op must be >= or <=, got {rule.get('op')!r}")
            if not _is_number(rule.get("bound")):
                raise refuse(f"bound must be a finite number, got {rule.get('bound')!r}")
        elif rule.get("type") == "non_inferiority":
            if rule.get("direction") not in ("higher_is_better", "lower_is_better"):
                raise refuse(
                    f"direction must be higher_is_better or lower_is_better, got {rule.get('direction')!r}"
                )
            if rule.get("scale", "difference") not in ("difference", "ratio"):
                raise refuse(f"scale must be difference or ratio, got {rule.get('scale')!r}")
            margin = rule.get("margin")
            if not isinstance(margin, (int, float)) or not _is_number(margin) or not margin > 0:
                raise refuse(f"margin must be a finite number above 0, got {margin!r}")
            if rule.get("scale") == "ratio" and rule["direction"] == "higher_is_better" and margin >= 1:
                raise refuse(f"a ratio margin must be below 1 where higher is better, got {margin!r}")
        else:
            raise refuse(f"rule type must be bound or non_inferiority, got {rule.get('type')!r}")

    @property
    def comparative(self) -> bool:
        """Whether the rule compares with the baseline."""
        return bool(self.rule["type"] == "non_inferiority")

    def to_dict(self) -> dict[str, Any]:
        """JSON form, as frozen in a dossier's ``gate.criteria``."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**values, "rule": dict(self.rule)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CriterionSpec:
        """Inverse of :meth:`to_dict`. Raises ValueError for a wrong field, TypeError for an unknown one."""
        return cls(**dict(data))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _as_float(value: Any) -> float | None:
    return None if value is None else float(value)


def _raw_number(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


@dataclass(frozen=True)
class PairedSample:
    """The same items through baseline and candidate.

    Attributes:
        keys: n distinct item keys.
        baseline, candidate: n numbers each; None is "not measured", NaN and infinity are kept as what they
        are.
        slices: per item its slice names; a single text counts as one; empty when there are none.
        clusters: per item the cluster it belongs to, or None when items are independent.
        kind: ``binary`` (0 or 1) or ``continuous``.
        complete: False when fewer items were measured than planned, which makes any pass inconclusive.
    Raises: ValueError when lengths differ, a key repeats, or a binary value is neither 0 nor 1.
    """

    keys: Sequence[str]
    baseline: Sequence[float | None]
    candidate: Sequence[float | None]
    slices: Sequence[Sequence[str] | str] = ()
    clusters: Sequence[str] | None = None
    kind: str = "continuous"
    complete: bool = True

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "keys", tuple(str(key) for key in self.keys))
        put(self, "baseline", tuple(_as_float(value) for value in self.baseline))
        put(self, "candidate", tuple(_as_float(value) for value in self.candidate))
        put(
            self,
            "slices",
            tuple(
                (names,) if isinstance(names, str) else tuple(str(name) for name in names)
                for names in self.slices
            ),
        )
        if self.clusters is not None:
            put(self, "clusters", tuple(str(label) for label in self.clusters))
        n = len(self.keys)
        for name in ("baseline", "candidate"):
            if len(getattr(self, name)) != n:
                raise ValueError(
                    f"{name} must have one value per key: expected {n}, got {len(getattr(self, name))}."
                )
        if self.slices and len(self.slices) != n:
            raise ValueError(f"slices must have one entry per key: expected {n}, got {len(self.slices)}.")
        if self.clusters is not None and len(self.clusters) != n:
            raise ValueError(f"clusters must have one label per key: expected {n}, got {len(self.clusters)}.")
        if len(set(self.keys)) != n:
            raise ValueError(f"keys must be distinct; {n - len(set(self.keys))} of {n} repeat another.")
        if self.kind not in ("binary", "continuous"):
            raise ValueError(f"kind must be binary or continuous, got {self.kind!r}.")
        if self.kind == "binary":
            for value in (*self.baseline, *self.candidate):
                if value is not None and math.isfinite(value) and value not in (0.0, 1.0):
                    raise ValueError(f"A binary value must be 0 or 1, got {value!r}; use kind='continuous'.")

    def to_raw(self) -> dict[str, Any]:
        """The document kept under ``raw/`` in a dossier; numbers that JSON cannot hold are written as
        text."""
        return {
            "schema": "signoff.raw/1",
            "evidence": "paired",
            "kind": self.kind,
            "complete": self.complete,
            "keys": list(self.keys),
            "baseline": [_raw_number(value) for value in self.baseline],
            "candidate": [_raw_number(value) for value in self.candidate],
            "slices": [list(names) for names in self.slices],
            "clusters": None if self.clusters is None else list(self.clusters),
        }

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any]) -> PairedSample:
        """Inverse of :meth:`to_raw`."""
        return cls(
            keys=raw["keys"],
            baseline=raw["baseline"],
            candidate=raw["candidate"],
            slices=raw["slices"],
            clusters=raw["clusters"],
            kind=raw["kind"],
            complete=raw["complete"],
        )

    def of_slice(self, name: str) -> PairedSample:
        """Only the items of a slice; all of them for "" or when the sample carries no slices."""
        if not name or not self.slices:
            return self
        return self._take([position for position, names in enumerate(self.slices) if name in names])

    def _take(self, rows: Sequence[int]) -> PairedSample:
        return PairedSample(
            keys=[self.keys[row] for row in rows],
            baseline=[self.baseline[row] for row in rows],
            candidate=[self.candidate[row] for row in rows],
            slices=[self.slices[row] for row in rows] if self.slices else (),
            clusters=None if self.clusters is None else [self.clusters[row] for row in rows],
            kind=self.kind,
            complete=self.complete,
        )


@dataclass(frozen=True)
class UnpairedMeasurement:
    """One value of the candidate for a bound: measured with an interval, or *stated* by a named person.

    Attributes:
        value, low, high: in ``unit``; ``low`` and ``high`` None when there is no interval (only a stated
            value is then decided, by the value alone, and the sentence says so).
        level: two-sided level of the interval; at least ``1 - 2 alpha`` of the criterion or nothing is
        decided.
        n: items behind the value; 0 or None when stated.
        baseline: the baseline's value, to be shown beside it.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    level: float = 0.95
    unit: str = ""
    stated: bool = False
    source: str = ""
    baseline: float | None = None

    def to_raw(self) -> dict[str, Any]:
        """The document kept under ``raw/`` in a dossier."""
        data = {"schema": "signoff.raw/1", "evidence": "unpaired", **asdict(self)}
        for name in ("value", "low", "high", "baseline"):
            data[name] = _raw_number(_as_float(data[name]))
        return data

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any]) -> UnpairedMeasurement:
        """Inverse of :meth:`to_raw`."""
        data = {key: value for key, value in raw.items() if key not in ("schema", "evidence")}
        for name in ("value", "low", "high", "baseline"):
            data[name] = _as_float(data[name])
        return cls(**data)


@dataclass(frozen=True)
class CriterionReport:
    """Verdict over one criterion, with the sentence that explains it and every number in it.

    For a comparison ``observed``, ``low`` and ``high`` are the *worsening* of the candidate: positive is
    worse, the threshold is the margin; in the metric's unit, or as a share of the baseline on the ratio
    scale. For a bound they are the candidate's value. ``low`` and ``high`` are one-sided bounds at alpha each
    (two-sided ``level``), None where the data give no bound. ``p_value`` is evidence of a regression
    (worsening above 0), ``p_adjusted`` the same after Holm over the gate, ``p_non_inferior`` evidence that
    the worsening is below the margin; None for bounds. ``power_at_margin``: probability that a truly equal
    candidate is shown non-inferior with this n and spread. ``detectable``: smallest true worsening found with
    the criterion's power, before multiplicity.
    """

    key: str
    title: str
    status: Status
    comparison: Comparison
    sentence: str
    severity: str
    observed: float | None = None
    baseline: float | None = None
    candidate: float | None = None
    low: float | None = None
    high: float | None = None
    level: float | None = None
    threshold: float | None = None
    n: int = 0
    unit: str = ""
    scale: str = ""
    p_value: float | None = None
    p_adjusted: float | None = None
    p_non_inferior: float | None = None
    power_at_margin: float | None = None
    detectable: float | None = None
    n_needed: int | None = None
    attribution: Mapping[str, Any] = field(default_factory=dict)
    method: str = ""
    playbook: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON form (no NaN, no infinity)."""
        return asdict(self)


@dataclass(frozen=True)
class GateReport:
    """Verdict over a gate and all its criteria. ``ages``: days per criterion as they were when it was
    decided."""

    status: Status
    sentence: str
    criteria: tuple[CriterionReport, ...]
    now: datetime
    seed: int
    resamples: int
    alpha: float
    ages: Mapping[str, float | None]
    stale: Mapping[str, str]
    method: str = METHOD

    def criterion(self, key: str) -> CriterionReport:
        """The report of one criterion. Raises KeyError for a key the gate does not have."""
        for report in self.criteria:
            if report.key == key:
                return report
        raise KeyError(key)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, as frozen in a dossier's ``gate_report``."""
        return {
            "method": self.method,
            "status": self.status,
            "sentence": self.sentence,
            "now": self.now.isoformat(),
            "seed": self.seed,
            "resamples": self.resamples,
            "alpha": self.alpha,
            "ages": dict(self.ages),
            "stale": dict(self.stale),
            "criteria": [report.to_dict() for report in self.criteria],
        }


@dataclass
class _Judged:
    """A criterion on its way to a verdict."""

    spec: CriterionSpec
    report: CriterionReport
    test: Any = None  # BinaryTest, MeanTest or PercentileTest, once there is one
    threshold: float = 0.0  # the margin on the test's scale
    notes: list[str] = field(default_factory=list)
    stale: str = ""


# --- wording
# ---------------------------------------------------------------------------------------------------


def _digits(value: float) -> str:
    """Four significant digits, plainly written."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else ("unbounded")
    decimals = min(12, max(0, 3 - math.floor(math.log10(abs(value)))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _value_text(value: float | None, unit: str) -> str:
    if value is None or not math.isfinite(value):
        return "unbounded" if value is not None else "unknown"
    if unit == "share":
        return f"{100 * value:.1f}%"
    return f"{_digits(value)} {unit}".rstrip()


def _change_text(value: float | None, unit: str, scale: str) -> str:
    """A worsening as words, without the word worse."""
    if value is None or not math.isfinite(value):
        return "unbounded"
    if scale == "ratio":
        return f"{100 * value:.1f}%"
    return f"{100 * value:.1f} points" if unit == "share" else f"{_digits(value)} {unit}".rstrip()


def _range_text(low: float | None, high: float | None, unit: str, scale: str | None) -> str:
    """An interval with its unit said once. ``scale`` None: values, else worsenings."""

    def show(value: float) -> str:
        return _value_text(value, unit) if scale is None else _change_text(value, unit, scale)

    first = "unbounded" if low is None else show(low)
    last = "unbounded" if high is None else show(high)
    if low is not None and high is not None and " " in first:
        first = first.split(" ", 1)[0]
    return f"{first} to {last}"


def _p_text(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else f"{p:.1e}"


def _items(n: int, noun: str = "item") -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _next_step(spec: CriterionSpec, status: str) -> str:
    owner = f" Owner: {spec.owner_role}." if spec.owner_role else ""
    if status == "fail":
        if spec.playbook:
            return f" Do not release; follow the playbook “{spec.playbook}”.{owner}"
        return f" Do not release this candidate.{owner}"
    return owner


# --- evidence
# --------------------------------------------------------------------------------------------------


def _statistic_name(spec: CriterionSpec) -> str:
    return str(spec.rule.get("statistic", "mean"))


def _usable(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and abs(value) <= _LARGEST


def _blank(spec: CriterionSpec, status: Status, sentence: str, **more: Any) -> CriterionReport:
    rule = spec.rule
    shown: dict[str, Any] = {
        "threshold": float(rule["margin"] if spec.comparative else rule["bound"]),
        "scale": str(rule.get("scale", "difference")) if spec.comparative else "",
        "level": 1 - 2 * spec.alpha,
        "unit": metric_unit(spec.metric),
    }
    shown.update(more)
    return CriterionReport(
        key=spec.key,
        title=spec.title,
        status=status,
        comparison="" if not spec.comparative else ("regression" if status == "fail" else "inconclusive"),
        sentence=sentence,
        severity=spec.severity,
        playbook=spec.playbook,
        **shown,
    )


def _damage(spec: CriterionSpec, sample: PairedSample) -> CriterionReport | None:
    """The report when some value is missing or not a number; None when all are usable."""
    n = len(sample.keys)
    broken = [
        key
        for key, before, after in zip(sample.keys, sample.baseline, sample.candidate, strict=True)
        if after is not None and not _usable(after) and (_usable(before) or not spec.comparative)
    ]
    if broken:
        named = ", ".join(broken[:3])
        return _blank(
            spec,
            "fail",
            f"Fail: the candidate gives no finite number (NaN or infinity) on {_items(len(broken))} of "
            f"{n}, first "
            f"{named}. A model that cannot be scored is damaged.{_next_step(spec, 'fail')}",
            n=n,
            attribution={"not_finite": broken[:20], "not_finite_count": len(broken)},
            method="count of non-finite",
        )
    missing = sum(value is None for value in sample.candidate)
    if spec.comparative:
        missing = sum(
            before is None or after is None
            for before, after in zip(sample.baseline, sample.candidate, strict=True)
        )
        unusable = sum(value is not None and not _usable(value) for value in sample.baseline)
        if unusable:
            return _blank(
                spec,
                "inconclusive",
                f"Inconclusive: the baseline gives no finite number on {_items(unusable)} of {n}, so "
                f"there is nothing "
                "sound to compare with. Choose another baseline or repair its evaluation.",
                n=n,
            )
    if missing:
        return _blank(
            spec,
            "inconclusive",
            f"Inconclusive: {_items(missing)} of {n} {'has' if missing == 1 else 'have'} no result yet. "
            "Finish the run, then decide again.",
            n=n,
        )
    return None


def _arrays(sample: PairedSample) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.array(sample.baseline, dtype=float), np.array(sample.candidate, dtype=float)


def _sign(spec: CriterionSpec) -> float:
    """+1 where a larger value is worse."""
    if spec.comparative:
        return 1.0 if spec.rule["direction"] == "lower_is_better" else -1.0
    return 1.0 if spec.rule["op"] == "<=" else -1.0


def _spread(values: NDArray[np.float64]) -> float:
    """What an unseen item might differ by: the spread of the values, else their size, else 1."""
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    size = float(np.abs(values).max())
    return spread if spread > 1e-12 * size and spread > 1e-100 else (size if size > 1e-100 else 1.0)


def _compare(spec: CriterionSpec, sample: PairedSample, resampler: Resampler) -> tuple[Any, float, str]:
    """``(test of the worsening, margin on the test's scale, method)``. Raises InsufficientEvidence,
    ValueError."""
    baseline, candidate = _arrays(sample)
    sign, margin, scale = _sign(spec), float(spec.rule["margin"]), spec.rule.get("scale", "difference")
    q = _PERCENTILES.get(_statistic_name(spec))
    by_cluster = " by cluster" if sample.clusters is not None else ""
    first, second = (candidate, baseline) if sign > 0 else (baseline, candidate)
    threshold = margin
    if scale == "ratio":
        threshold = math.log1p(margin) if sign > 0 else -math.log1p(-margin)
    if q is not None:
        if sample.clusters is not None:
            raise ValueError("percentiles of clustered items are not supported; use the mean")
        needed = percentile_n_needed(q, alpha=spec.alpha)
        if len(baseline) < needed:
            raise InsufficientEvidence(
                f"{_statistic_name(spec)} needs at least {needed} items, there are {len(baseline)}"
            )
        test: Any = paired_percentile_test(first, second, resampler=resampler, q=q, ratio=scale == "ratio")
        return test, threshold, f"paired percentile bootstrap of {_statistic_name(spec)}"
    if scale == "ratio":
        ratio = log_ratio_test(first, second, resampler=resampler, clusters=sample.clusters)
        return ratio, threshold, f"studentised paired bootstrap of the log ratio{by_cluster}"
    if sample.kind == "binary" and sample.clusters is None:
        worse = int(np.count_nonzero(first > second))
        better = int(np.count_nonzero(first < second))
        return BinaryTest(worse, better, len(first)), threshold, "Tango score bound, exact McNemar test"
    test = mean_test(
        sign * (candidate - baseline), resampler=resampler, clusters=sample.clusters, scale=_spread(baseline)
    )
    return test, threshold, f"studentised paired bootstrap{by_cluster}"


def _display(spec: CriterionSpec, value: float) -> float | None:
    """A value on the test's scale as shown: log ratios become shares of the baseline."""
    if spec.comparative and spec.rule.get("scale") == "ratio" and math.isfinite(value):
        value = math.expm1(value) if _sign(spec) > 0 else -math.expm1(-value)
    return finite_or_none(value)


def _centre(spec: CriterionSpec, values: NDArray[np.float64]) -> float:
    q = _PERCENTILES.get(_statistic_name(spec))
    return float(values.mean()) if q is None else percentile(values, q)


def _power(spec: CriterionSpec, test: Any, threshold: float) -> tuple[float | None, float | None]:
    """Power at the margin and detectable worsening, given the spread observed; None where there is no
    formula."""
    if isinstance(test, BinaryTest):
        discordance = min(1.0, test.sd**2)
        power = paired_binary_power(
            test.n, discordance=discordance, margin=min(threshold, 1 - 1e-9), alpha=spec.alpha
        )
        return power, paired_binary_detectable(
            test.n, discordance=discordance, alpha=spec.alpha, power=spec.power
        )
    if isinstance(test, MeanTest) and not test.degenerate:
        power = paired_continuous_power(test.groups, sd=test.sd, margin=threshold, alpha=spec.alpha)
        found = paired_continuous_detectable(test.groups, sd=test.sd, alpha=spec.alpha, power=spec.power)
        return power, _display(spec, found)
    return None, None


def _items_needed(spec: CriterionSpec, test: Any, threshold: float) -> int | None:
    """Items for a clear answer if the truth is what was observed; None when unknown or beyond reach."""
    if isinstance(test, BinaryTest):
        sd, have = test.sd, test.n
    elif isinstance(test, MeanTest) and not test.degenerate:
        sd, have = test.sd * math.sqrt(test.n / test.groups), test.n
    else:
        return None
    normal = NormalDist()
    gap = threshold - test.estimate if test.estimate < threshold else test.estimate
    if gap <= 0:
        return None
    needed = ((normal.inv_cdf(1 - spec.alpha) + normal.inv_cdf(spec.power)) * sd / gap) ** 2
    return max(have + 1, math.ceil(needed)) if needed < 1e7 else None


def _attribution(spec: CriterionSpec, sample: PairedSample) -> dict[str, Any]:
    """Where the change is: worst slices with intervals (uncorrected, for orientation) and the items that
    moved most."""
    baseline, candidate = _arrays(sample)
    sign, level = _sign(spec), 1 - 2 * spec.alpha
    comparative = spec.comparative
    change = sign * (candidate - baseline) if comparative else sign * candidate
    by_slice: dict[str, list[int]] = {}
    for row, names in enumerate(sample.slices):
        for name in set(names):
            by_slice.setdefault(name, []).append(row)
    slices: list[dict[str, Any]] = []
    for name, rows in by_slice.items():
        part = change[rows]
        low: float | None = None
        high: float | None = None
        if sample.kind == "binary" and comparative:
            low, high, _ = tango_interval(
                int((part > 0).sum()), int((part < 0).sum()), len(rows), level=level
            )
        elif sample.kind == "binary":
            low, high, _ = wilson_interval(int(candidate[rows].sum()), len(rows), level=level)
        elif len(rows) > 1:
            test_part = part if comparative else candidate[rows]
            half = _t_quantile(spec.alpha, len(rows)) * float(test_part.std(ddof=1)) / math.sqrt(len(rows))
            low, high = float(test_part.mean()) - half, float(test_part.mean()) + half
        slices.append(
            {
                "slice": name,
                "n": len(rows),
                "observed": float(part.mean() if comparative else candidate[rows].mean()),
                "low": low,
                "high": high,
                "level": level,
                "_worst": float(part.mean()),
            }
        )
    # Slices of a few items jump about; the worst by its share of the total change comes first.
    slices.sort(key=lambda entry: (-(entry["_worst"] * (entry["n"] if comparative else 1)), entry["slice"]))
    for entry in slices:
        del entry["_worst"]
    order = np.argsort(-change, kind="stable")[:10]
    moved = [
        {
            "key": sample.keys[row],
            "baseline": finite_or_none(sample.baseline[row]),
            "candidate": sample.candidate[row],
        }
        for row in order
        if not comparative or change[row] > 0
    ]
    result: dict[str, Any] = {"slices": slices[:5], "items": moved}
    if comparative:
        result["worse"], result["better"] = int((change > 0).sum()), int((change < 0).sum())
    return result


def _t_quantile(alpha: float, n: int) -> float:
    return -t_quantile(n - 1, alpha)


def _attribution_text(
    spec: CriterionSpec, sample_kind: str, attribution: Mapping[str, Any], unit: str
) -> str:
    parts = []
    slices = attribution.get("slices") or []
    if slices and (spec.comparative and slices[0]["observed"] > 0):
        worst = slices[0]
        interval = ""
        if worst["low"] is not None:
            reach = _range_text(worst["low"], worst["high"], unit, "difference")
            interval = f", {100 * worst['level']:g}% interval {reach}"
        parts.append(
            f"Worst slice: {worst['slice']} ({_change_text(worst['observed'], unit, 'difference')} worse, "
            f"n={worst['n']}{interval})."
        )
    items = attribution.get("items") or []
    if spec.comparative and items:
        named = ", ".join(str(item["key"]) for item in items[:3])
        if sample_kind == "binary":
            parts.append(
                f"{_items(attribution['worse'])} turned worse and {attribution['better']} better; first: "
                f"{named}."
            )
        else:
            parts.append(f"{attribution['worse']} of the items are worse; moved most: {named}.")
    return (" " + " ".join(parts)) if parts else ""


# --- judging
# ---------------------------------------------------------------------------------------------------


def _prepare(
    spec: CriterionSpec, evidence: PairedSample | UnpairedMeasurement | None, resampler: Resampler, stale: str
) -> _Judged:
    """Everything about a criterion that does not depend on the others."""
    judged = _Judged(spec, _blank(spec, "not_run", ""), stale=stale)
    if evidence is None:
        judged.report = _blank(
            spec,
            "not_run",
            f"Not run: there is no evidence for {spec.metric}"
            f"{' on ' + spec.dataset if spec.dataset else ''}. Run the evaluation, then decide again."
            f"{_next_step(spec, 'not_run')}",
        )
        return judged
    if isinstance(evidence, UnpairedMeasurement):
        judged.report = _judge_unpaired(spec, evidence)
        return judged
    sample = evidence.of_slice(spec.slice)
    if not sample.keys:
        where = f" in slice {spec.slice}" if spec.slice else ""
        judged.report = _blank(
            spec, "not_run", f"Not run: there are no items{where}, and a rate over nothing is not a rate."
        )
        return judged
    damaged = _damage(spec, sample)
    if damaged is not None:
        judged.report = damaged
        return judged
    try:
        with np.errstate(all="ignore"):
            if spec.comparative:
                _judge_comparison(judged, sample, resampler)
            else:
                judged.report = _judge_bound(spec, sample, resampler)
    except InsufficientEvidence as error:
        judged.report, judged.test = _too_little(spec, sample, str(error)), None
    except ValueError as error:
        judged.report, judged.test = (
            _blank(spec, "inconclusive", f"Inconclusive: {str(error).rstrip('.')}.", n=len(sample.keys)),
            None,
        )
    return judged


def _too_little(spec: CriterionSpec, sample: PairedSample, why: str) -> CriterionReport:
    return _blank(
        spec,
        "inconclusive",
        f"Inconclusive: too little evidence ({why.rstrip('.')}). Evaluate more "
        f"items.{_next_step(spec, 'inconclusive')}",
        n=len(sample.keys),
        unit=_unit_of(spec, sample),
    )


def _unit_of(spec: CriterionSpec, sample: PairedSample) -> str:
    return "share" if sample.kind == "binary" else metric_unit(spec.metric)


def _judge_unpaired(spec: CriterionSpec, measured: UnpairedMeasurement) -> CriterionReport:
    if spec.comparative:
        return _blank(
            spec,
            "not_run",
            "Not run: this criterion compares item by item with the baseline, and only a single value was "
            "given.",
            candidate=finite_or_none(measured.value),
            unit=measured.unit or metric_unit(spec.metric),
        )
    unit = measured.unit or metric_unit(spec.metric)
    shown: dict[str, Any] = {
        "observed": finite_or_none(measured.value),
        "candidate": finite_or_none(measured.value),
        "baseline": finite_or_none(measured.baseline),
        "n": measured.n or 0,
        "unit": unit,
        "level": measured.level,
    }
    if not _usable(measured.value):
        return _blank(
            spec,
            "fail",
            f"Fail: the value is not a finite number (NaN or infinity).{_next_step(spec, 'fail')}",
            method="single value",
            **shown,
        )
    stated = (
        f" Stated, not measured{f' (source: {measured.source})' if measured.source else ''}."
        if measured.stated
        else ""
    )
    low, high = measured.low, measured.high
    if low is None and high is None:
        if not measured.stated:
            return _blank(
                spec,
                "inconclusive",
                f"Inconclusive: {_value_text(measured.value, unit)} was measured without an interval, so "
                f"nobody can "
                "say how sure it is. Measure it again with one.",
                method="single value",
                **shown,
            )
        low = high = measured.value
        shown["level"] = None
    elif measured.level < 1 - 2 * spec.alpha - _EPSILON:
        return _blank(
            spec,
            "inconclusive",
            f"Inconclusive: the interval given is at {100 * measured.level:g}%, the criterion asks for "
            f"{100 * (1 - 2 * spec.alpha):g}%.",
            low=finite_or_none(low),
            high=finite_or_none(high),
            method="single value",
            **shown,
        )
    return _bound_report(
        spec,
        measured.value,
        -math.inf if low is None else low,
        math.inf if high is None else high,
        "stated value" if measured.stated else "given interval",
        stated,
        **shown,
    )


def _bound_report(
    spec: CriterionSpec, value: float, low: float, high: float, method: str, note: str, **more: Any
) -> CriterionReport:
    op, bound = spec.rule["op"], float(spec.rule["bound"])
    at_least = op == ">="
    if (low >= bound) if at_least else (high <= bound):
        status: Status = "pass"
    elif (high < bound) if at_least else (low > bound):
        status = "fail"
    else:
        status = "inconclusive"
    unit, n, level = more["unit"], more["n"], more["level"]
    words = {
        "pass": f"Pass: the whole interval is {'at or above' if at_least else 'at or below'} the bound",
        "fail": f"Fail: the whole interval is {'below' if at_least else 'above'} the bound",
        "inconclusive": "Inconclusive: the interval reaches over the bound",
    }
    if level is None:
        words = {"pass": "Pass: the value keeps the bound", "fail": "Fail: the value breaks the bound"}
    name = _statistic_name(spec)
    interval = (
        ""
        if level is None
        else (
            f" ({100 * level:g}% interval "
            f"{_range_text(finite_or_none(low), finite_or_none(high), unit, None)})"
        )
    )
    over = f" over {_items(n)}" if n else ""
    more_needed = " Evaluate more items." if status == "inconclusive" else ""
    sentence = (
        f"{words[status]} of {_value_text(bound, unit)}. {spec.metric} "
        f"{'' if name == 'mean' else name + ' '}is "
        f"{_value_text(value, unit)}{interval}{over}.{note}{more_needed}{_next_step(spec, status)}"
    )
    return _blank(
        spec, status, sentence, low=finite_or_none(low), high=finite_or_none(high), method=method, **more
    )


def _judge_bound(spec: CriterionSpec, sample: PairedSample, resampler: Resampler) -> CriterionReport:
    candidate = np.array(sample.candidate, dtype=float)
    baseline = [value for value in sample.baseline if value is not None and _usable(value)]
    level, q = 1 - 2 * spec.alpha, _PERCENTILES.get(_statistic_name(spec))
    n = len(candidate)
    value = _centre(spec, candidate)
    if q is not None:
        if sample.clusters is not None:
            raise ValueError("percentiles of clustered items are not supported; use the mean.")
        interval = percentile_interval(candidate, q, level=level)
        low, high, method = interval.low, interval.high, "distribution-free order statistics"
    elif sample.kind == "binary" and sample.clusters is None:
        exact = clopper_pearson_interval(int(candidate.sum()), n, level=level)
        low, high, method = exact.low, exact.high, "exact binomial (Clopper-Pearson)"
    else:
        test = mean_test(candidate, resampler=resampler, clusters=sample.clusters, scale=_spread(candidate))
        low, high = test.lower(spec.alpha), test.upper(spec.alpha)
        method = "studentised bootstrap" + (" by cluster" if sample.clusters is not None else "")
        if sample.kind == "binary":
            low, high = max(low, 0.0), min(high, 1.0)
    complete_baseline = len(baseline) == n and n > 0
    report = _bound_report(
        spec,
        value,
        low,
        high,
        method,
        "",
        observed=value,
        candidate=value,
        baseline=_centre(spec, np.array(baseline)) if complete_baseline else None,
        n=n,
        unit=_unit_of(spec, sample),
        level=level,
    )
    return replace(report, attribution=_bound_attribution(spec, sample, complete_baseline))


def _bound_attribution(spec: CriterionSpec, sample: PairedSample, complete_baseline: bool) -> dict[str, Any]:
    if complete_baseline:
        return _attribution(spec, sample)
    zeros = PairedSample(
        keys=sample.keys,
        baseline=[0.0] * len(sample.keys),
        candidate=sample.candidate,
        slices=sample.slices,
        kind=sample.kind,
    )
    attribution = _attribution(spec, zeros)
    for item in attribution["items"]:
        item["baseline"] = None
    return attribution


def _judge_comparison(judged: _Judged, sample: PairedSample, resampler: Resampler) -> None:
    """Fill in all numbers of a comparison; the verdict waits for Holm."""
    spec = judged.spec
    test, threshold, method = _compare(spec, sample, resampler)
    baseline, candidate = _arrays(sample)
    low, high = test.lower(spec.alpha), test.upper(spec.alpha)
    p_worse, p_below = test.p_greater(0.0), test.p_less(threshold)
    if not all(math.isfinite(value) for value in (test.estimate, p_worse, p_below)):
        raise ValueError("the numbers are too large or too small to compute with.")
    power, detectable = _power(spec, test, threshold)
    judged.test, judged.threshold = test, threshold
    judged.report = _blank(
        spec,
        "inconclusive",
        "",
        observed=_display(spec, test.estimate),
        baseline=_centre(spec, baseline),
        candidate=_centre(spec, candidate),
        low=_display(spec, low),
        high=_display(spec, high),
        n=len(sample.keys),
        unit=_unit_of(spec, sample),
        p_value=p_worse,
        p_non_inferior=p_below,
        power_at_margin=power,
        detectable=detectable,
        n_needed=None,
        attribution=_attribution(spec, sample),
        method=method,
    )
    judged.notes = [sample.kind]


def _decide_comparison(judged: _Judged, p_adjusted: float, p_better: float) -> CriterionReport:
    """The verdict of a comparison, given its p-values after Holm."""
    spec, report = judged.spec, judged.report
    alpha = spec.alpha + _EPSILON
    assert report.p_non_inferior is not None and report.p_value is not None
    shown = report.p_non_inferior <= alpha
    regression = p_adjusted <= alpha
    status: Status
    comparison: Comparison
    if shown:
        status, comparison = "pass", "better" if p_better <= alpha else "non-inferior"
    elif regression:
        status, comparison = "fail", "regression"
    else:
        status, comparison = "inconclusive", "inconclusive"
    unit, scale = report.unit, report.scale
    margin = _change_text(report.threshold, unit, scale)
    head = {
        "better": "Pass, better: the candidate is better than the baseline",
        "non-inferior": f"Pass, non-inferior: the worsening is shown to be below the margin of {margin}",
        "regression": "Fail, regression: the candidate is worse than the baseline beyond chance, "
        f"and the worsening is not shown to be below the margin of {margin}",
        "inconclusive": f"Inconclusive: the worsening is neither shown to be below the margin of "
        f"{margin} nor beyond chance",
    }[comparison]
    observed = report.observed or 0.0
    direction = "worse" if observed > 0 else ("better" if observed < 0 else "no different")
    amount = "" if observed == 0 else f"{_change_text(abs(observed), unit, scale)} "
    assert report.level is not None
    body = (
        f" {spec.metric}{'' if _statistic_name(spec) == 'mean' else ' ' + _statistic_name(spec)}"
        f"{' on ' + spec.dataset if spec.dataset else ''}{' / ' + spec.slice if spec.slice else ''} is "
        f"{_value_text(report.candidate, unit)} against {_value_text(report.baseline, unit)} over "
        f"{_items(report.n, 'paired item')}: {amount}{direction} ({100 * report.level:g}% interval of the "
        f"worsening "
        f"{_range_text(report.low, report.high, unit, scale)}; p of a regression {_p_text(report.p_value)}, "
        f"{_p_text(p_adjusted)} after Holm)."
    )
    if comparison == "non-inferior" and regression:
        body += " It is measurably worse, within the margin."
    n_needed = None
    tail = ""
    if report.power_at_margin is not None:
        tail = f" Power at the margin: {100 * report.power_at_margin:.0f}% (planned {100 * spec.power:.0f}%)."
    if status != "pass":
        tail += _attribution_text(spec, judged.notes[0], report.attribution, unit)
    if status == "inconclusive":
        n_needed = _items_needed(spec, judged.test, judged.threshold)
        if n_needed is not None:
            tail += f" About {_items(n_needed)} would settle it if the truth is what was observed."
        else:
            tail += " More items are needed to settle it."
    return replace(
        report,
        status=status,
        comparison=comparison,
        p_adjusted=p_adjusted,
        n_needed=n_needed,
        sentence=f"{head}.{body}{tail}{_next_step(spec, status)}",
    )


def _age_days(age: float | datetime | None, now: datetime) -> float | None:
    if isinstance(age, datetime):
        return (now - age).total_seconds() / 86400
    return None if age is None else float(age)


def _stale_reason(spec: CriterionSpec, age: float | None, reason: str) -> str:
    if reason:
        return reason.rstrip(".")
    if spec.max_age_days is None:
        return ""
    if age is None or not math.isfinite(age):
        return "the age of the evidence is not known"
    if age > spec.max_age_days:
        return f"the evidence is {age:.1f} days old and may be at most {spec.max_age_days:g}"
    return ""


def gate_status(pairs: Iterable[tuple[str, str]]) -> Status:
    """Status of a gate from ``(severity, status)`` per criterion: the first of fail, inconclusive, not_run
    and stale that a blocking criterion has, pass only when all pass, not_run when nothing is blocking."""
    blocking = [status for severity, status in pairs if severity == "blocking"]
    order: tuple[Status, ...] = ("fail", "inconclusive", "not_run", "stale")
    for status in order:
        if status in blocking:
            return status
    return "pass" if blocking else "not_run"


def _gate_sentence(status: Status, reports: Sequence[CriterionReport]) -> str:
    blocking = [report for report in reports if report.severity == "blocking"]
    if not blocking:
        return "Not run: the gate has no blocking criterion, so there is nothing that could pass."
    if status == "pass":
        return (
            f"Pass: all {len(blocking)} blocking criteria pass."
            if len(blocking) > 1
            else ("Pass: the one blocking criterion passes.")
        )
    word = {"fail": "fail", "inconclusive": "inconclusive", "not_run": "not run", "stale": "stale"}
    named = {
        kind: [report.title or report.key for report in blocking if report.status == kind] for kind in word
    }
    parts = [f"{len(titles)} {word[kind]} ({', '.join(titles)})" for kind, titles in named.items() if titles]
    head = word[status].capitalize()
    return f"{head}: of {len(blocking)} blocking criteria {'; '.join(parts)}."


def decide_gate(
    specs: Sequence[CriterionSpec],
    samples: Mapping[str, PairedSample | UnpairedMeasurement | None],
    *,
    now: datetime,
    ages: Mapping[str, float | datetime | None],
    seed: int,
    stale: Mapping[str, str] | None = None,
    resamples: int | None = None,
) -> GateReport:
    """Judge every criterion of a gate and the gate.

    A comparison passes when the worsening is shown to be below its margin at one-sided alpha; all must pass,
    so no correction is needed (intersection-union test). It fails when it does not pass and is worse than
    zero beyond chance after Holm over the gate's comparisons; a gate over equal models therefore fails with
    probability at most alpha. A bound passes or fails when the whole interval lies on one side. Anything else
    is inconclusive, and says how many items would settle it.

    Args:
        samples: criterion key -> evidence; a missing key or None is ``not_run``.
        now: aware; recorded, and used to turn datetimes in ``ages`` into days.
        ages: criterion key -> age of the evidence in days, or when it was made. A criterion with
        ``max_age_days`` whose
            age is missing is stale: unknown age is not fresh.
        seed: for the resamples; any whole number.
        stale: criterion key -> why its evidence no longer counts ("the dataset changed").
        resamples: for tests; by default 1,999, more for gates of very many criteria.
    Raises: ValueError when ``now`` is naive or two criteria share a key. Bad evidence never raises: it is an
        explained verdict other than pass.
    Source: Berger (1982), Technometrics 24, 295-300 (intersection-union); Holm (1979).
    """
    if now.tzinfo is None:
        raise ValueError("now must carry a time zone.")
    if len({spec.key for spec in specs}) != len(specs):
        raise ValueError("Two criteria of the gate share a key.")
    alpha = min((spec.alpha for spec in specs), default=0.05)
    family = sum(spec.comparative for spec in specs)
    if resamples is None:
        resamples = min(19999, max(DEFAULT_RESAMPLES, math.ceil(4 * family / alpha) - 1))
    resampler = Resampler(seed, resamples)
    days = {spec.key: _age_days(ages.get(spec.key), now) for spec in specs}
    days = {key: value if value is None or math.isfinite(value) else None for key, value in days.items()}
    reasons = {spec.key: (stale or {}).get(spec.key, "") for spec in specs}
    judged = [
        _prepare(
            spec, samples.get(spec.key), resampler, _stale_reason(spec, days[spec.key], reasons[spec.key])
        )
        for spec in specs
    ]
    tested = [one for one in judged if one.test is not None and not one.stale]
    if tested:
        worse = holm([one.test.p_greater(0.0) for one in tested])
        better = holm([one.test.p_less(0.0) for one in tested])
        for one, p_worse, p_better in zip(tested, worse, better, strict=True):
            one.report = _decide_comparison(one, p_worse, p_better)
    for one in judged:
        evidence = samples.get(one.spec.key)
        if isinstance(evidence, PairedSample) and not evidence.complete and one.report.status == "pass":
            one.report = replace(
                one.report,
                status="inconclusive",
                comparison="inconclusive" if one.spec.comparative else "",
                sentence="Inconclusive: the run did not finish. So far: " + one.report.sentence,
            )
        if one.stale and one.report.status != "not_run":
            one.report = replace(
                one.report,
                status="stale",
                comparison="inconclusive" if one.spec.comparative else "",
                sentence=f"Stale: {one.stale}. Run the evaluation again, then decide again."
                f"{_next_step(one.spec, 'stale')}",
            )
    reports = tuple(one.report for one in judged)
    status = gate_status((report.severity, report.status) for report in reports)
    return GateReport(
        status=status,
        sentence=_gate_sentence(status, reports),
        criteria=reports,
        now=now,
        seed=seed,
        resamples=resamples,
        alpha=max((spec.alpha for spec in specs), default=0.05),
        ages=days,
        stale={key: reason for key, reason in reasons.items() if reason},
    )


def criterion_plan_sentence(
    spec: CriterionSpec, *, n: int, discordance: float | None = None, sd: float | None = None
) -> str:
    """What a comparison with n items will be able to show, said before the run.

    Args:
        discordance: expected share of items that flip either way (binary metrics).
        sd: expected standard deviation of the paired differences, in the metric's unit (continuous metrics).
    Raises: InsufficientEvidence for too small an n; ValueError when the criterion is not a comparison of
        means or shares on the difference scale, or when not exactly one of ``discordance`` and ``sd`` is
        given.
    """
    if (
        not spec.comparative
        or spec.rule.get("scale", "difference") != "difference"
        or _statistic_name(spec) != "mean"
    ):
        raise ValueError(
            f"Criterion {spec.key!r} is not a comparison of means by difference; its power is not planned."
        )
    if (discordance is None) == (sd is None):
        raise ValueError("Give either discordance or sd.")
    margin = float(spec.rule["margin"])
    found: float | None
    if discordance is not None:
        power = paired_binary_power(n, discordance=discordance, margin=margin, alpha=spec.alpha)
        found = paired_binary_detectable(n, discordance=discordance, alpha=spec.alpha, power=spec.power)
        unit, assumed = "share", f"if {100 * discordance:.0f}% of the items flip"
    else:
        assert sd is not None
        power = paired_continuous_power(n, sd=sd, margin=margin, alpha=spec.alpha)
        found = paired_continuous_detectable(n, sd=sd, alpha=spec.alpha, power=spec.power)
        unit = metric_unit(spec.metric)
        assumed = f"if differences have a standard deviation of {_value_text(sd, unit)}"
    detect = (
        "no worsening can be detected"
        if found is None
        else (
            f"a worsening of {_change_text(found, unit, 'difference')} is detected with "
            f"{100 * spec.power:.0f}% probability"
        )
    )
    verdict = (
        ""
        if power >= spec.power
        else f" That is below the {100 * spec.power:.0f}% asked for: plan more items."
    )
    return (
        f"With {_items(n, 'paired item')}, {assumed}, an equal candidate passes the margin of "
        f"{_change_text(margin, unit, 'difference')} with {100 * power:.0f}% probability, and "
        f"{detect}.{verdict}"
    )


# --- waivers
# ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Waiver:
    """An expiring, reasoned exception to one criterion. ``expires_at`` is aware; at that instant it has
    expired."""

    criterion: str
    reason: str
    expires_at: datetime
    approved_by: str = ""
    requested_by: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON form, as frozen in a dossier's ``waivers``."""
        return {**asdict(self), "expires_at": self.expires_at.isoformat()}


@dataclass(frozen=True)
class WaivedReport:
    """The gate's status without and with waivers; both are always shown.

    ``applied``: criteria waived. ``refused``: criterion and why its waiver does not count.
    """

    status: Status
    status_with_waivers: Status
    applied: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]
    now: datetime
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form, as frozen in a dossier's ``gate_report.with_waivers``."""
        return {
            "status": self.status,
            "status_with_waivers": self.status_with_waivers,
            "applied": list(self.applied),
            "refused": [list(pair) for pair in self.refused],
            "now": self.now.isoformat(),
            "sentence": self.sentence,
        }


def apply_waivers(report: GateReport, waivers: Sequence[Waiver], now: datetime) -> WaivedReport:
    """The gate's status with and without the waivers that count at ``now``.

    A waiver counts when it names a criterion of the gate that does not pass, has a reason, has not expired,
    and was not approved by the person who requested it. A waived criterion no longer blocks; its own verdict
    is unchanged.

    Raises: ValueError when ``now`` or an expiry is naive.
    """
    if now.tzinfo is None or any(waiver.expires_at.tzinfo is None for waiver in waivers):
        raise ValueError("now and every expires_at must carry a time zone.")
    by_key = {one.key: one for one in report.criteria}
    applied: set[str] = set()
    refused: list[tuple[str, str]] = []
    for waiver in waivers:
        one = by_key.get(waiver.criterion)
        if one is None:
            refused.append((waiver.criterion, "the gate has no such criterion"))
        elif one.status == "pass":
            refused.append((waiver.criterion, "the criterion passes without it"))
        elif not waiver.reason.strip():
            refused.append((waiver.criterion, "it gives no reason"))
        elif waiver.requested_by and waiver.requested_by == waiver.approved_by:
            refused.append((waiver.criterion, "it was approved by the person who requested it"))
        elif waiver.expires_at <= now:
            refused.append(
                (waiver.criterion, f"it expired {waiver.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC")
            )
        else:
            applied.add(waiver.criterion)
    with_waivers = gate_status(
        (one.severity, "pass" if one.key in applied else one.status) for one in report.criteria
    )
    titles = [one.title or one.key for one in report.criteria if one.key in applied]
    words = {"not_run": "not run"}
    sentence = f"Without waivers: {words.get(report.status, report.status)}."
    if titles:
        sentence += (
            f" With {len(titles)} waived ({', '.join(titles)}): {words.get(with_waivers, with_waivers)}."
        )
    else:
        sentence += " No waiver applies."
    return WaivedReport(
        status=report.status,
        status_with_waivers=with_waivers,
        applied=tuple(one.key for one in report.criteria if one.key in applied),
        refused=tuple(refused),
        now=now,
        sentence=sentence,
    )
