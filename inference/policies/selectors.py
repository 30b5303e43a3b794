"""What pages and REST read of policies: versions, statistics of decisions, dry runs, simulations."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Count
from django.utils import timezone

from core.errors import Invalid
from core.evidence.statistics.proportions import wilson_interval
from core.schema import current_schema
from core.security.permissions import require
from inference.ledger.models import LedgerEntry
from inference.policies import engine
from inference.policies.analysis import analyse
from inference.policies.defaults import DEFAULT_POLICY, DEFAULT_TESTS, DEFAULT_VERSION
from inference.policies.keys import key_function
from inference.policies.models import PolicyBundle
from inference.policies.outputs import OUTPUTS, PolicyDecision, denied_for, unmet
from inference.policies.sandbox import questions_ask

MAX_DRY_RUN_ROWS = 5000
# Error code of a ledger row that the policy refused.
DENIED_CODE = "policy_denied"
STATISTICS_DAYS = 7


@dataclass(frozen=True, slots=True)
class Source:
    """A policy to look at or to ask: a stored version, or the default."""

    version: str
    policy: str
    data: dict[str, Any]
    tests: str
    cases: list[Any]
    bundle: PolicyBundle | None = None


def active_bundle() -> PolicyBundle | None:
    """The version in force; None while the default is."""
    return PolicyBundle.objects.filter(status=PolicyBundle.Status.ACTIVE).first()


def source_of(bundle: PolicyBundle | None) -> Source:
    """The text of a version; of the default for None."""
    if bundle is None:
        return Source(DEFAULT_VERSION, DEFAULT_POLICY, {}, DEFAULT_TESTS, [])
    return Source(bundle.label, bundle.policy, bundle.data, bundle.tests, bundle.cases, bundle)


# ------------------------------------------------------------------ statistics
@dataclass(frozen=True, slots=True)
class ReasonCount:
    """Denials with one reason by one version. ``share`` is of all decisions counted."""

    version: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """Decisions of the ledger's last days. ``low``/``high``: 95% Wilson interval of the share denied."""

    since: dt.datetime
    total: int
    denied: int
    share: float | None
    low: float | None
    high: float | None
    reasons: list[ReasonCount]


def decision_statistics(*, days: int = STATISTICS_DAYS) -> Statistics:
    """How many calls were allowed and denied, and why. Needs policy.view."""
    require("policy.view")
    since = timezone.now() - dt.timedelta(days=days)
    rows = LedgerEntry.objects.filter(created_at__gte=since).exclude(policy_version="").order_by()
    total = rows.count()
    denials = rows.filter(error_code=DENIED_CODE)
    reasons = [
        ReasonCount(*row)
        for row in denials.values_list("policy_version", "policy_reason")
        .annotate(count=Count("id"))
        .order_by("-count", "policy_reason")[:20]
    ]
    denied = denials.count()
    if not total:
        return Statistics(since, 0, 0, None, None, None, [])
    interval = wilson_interval(denied, total)
    return Statistics(since, total, denied, denied / total, interval.low, interval.high, reasons)


# ------------------------------------------------------------------ dry run
@dataclass(slots=True)
class DryReason:
    """Calls that would be denied for one reason, with the newest of them."""

    reason: str
    count: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a version would have said of past calls.

    ``looked_at`` rows had their attributes kept; ``skipped`` had not. ``would_deny`` of them would be denied
    (``share``, 95% Wilson interval ``low``..``high``), ``newly_denied`` of these were allowed then;
    ``newly_allowed`` were denied then and would not be. ``error``: why it ended early.
    """

    version: str
    looked_at: int
    skipped: int
    would_deny: int
    newly_denied: int
    newly_allowed: int
    share: float | None
    low: float | None
    high: float | None
    reasons: list[DryReason]
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "version": self.version,
            "looked_at": self.looked_at,
            "skipped": self.skipped,
            "would_deny": self.would_deny,
            "newly_denied": self.newly_denied,
            "newly_allowed": self.newly_allowed,
            "share": self.share,
            "low": self.low,
            "high": self.high,
            "reasons": [
                {"reason": one.reason, "count": one.count, "examples": one.examples} for one in self.reasons
            ],
            "error": self.error,
        }


def dry_run(source: Source, *, rows: int = 500) -> DryRun:
    """Ask a version about the last rows of the ledger. Needs policy.view. Raises Invalid for a wrong number."""
    require("policy.view")
    if not 1 <= rows <= MAX_DRY_RUN_ROWS:
        raise Invalid(
            f"Look at 1 to {MAX_DRY_RUN_ROWS:,} calls.", fields={"rows": [f"From 1 to {MAX_DRY_RUN_ROWS}."]}
        )
    # The newest by the time-ordered id; of all partitions the index gives them at once.
    found = list(
        LedgerEntry.objects.exclude(policy_version="")
        .order_by("-id")
        .values("id", "created_at", "request_id", "key_id", "error_code", "attributes")[:rows]
    )
    kept = [row for row in found if row["attributes"]]
    analysis = analyse(source.policy)
    key_of = key_function(analysis)
    # Calls alike in what the policy reads get one evaluation; conditions are checked on each.
    keys = [key_of(row["attributes"]) for row in kept]
    documents: dict[bytes, dict[str, Any]] = {}
    for key, row in zip(keys, kept, strict=True):
        documents.setdefault(key, row["attributes"])
    answers, error = (
        questions_ask(
            policy=source.policy, data=source.data, documents=list(documents.values()), version=source.version
        )
        if documents
        else ([], "")
    )
    decisions = {key: _decision(answer) for key, answer in zip(documents, answers, strict=False)}
    reasons: dict[str, DryReason] = {}
    counted = denied = newly_denied = newly_allowed = 0
    for key, row in zip(keys, kept, strict=True):
        decision = decisions.get(key)
        if decision is None:
            continue
        counted += 1
        if decision.allowed and (missing := unmet(decision, row["attributes"])):
            decision = denied_for(decision, missing)
        was_denied = row["error_code"] == DENIED_CODE
        if decision.allowed:
            newly_allowed += was_denied
            continue
        denied += 1
        newly_denied += not was_denied
        reason = reasons.setdefault(decision.reason, DryReason(decision.reason))
        reason.count += 1
        if len(reason.examples) < 3:
            reason.examples.append(
                {
                    "id": str(row["id"]),
                    "request_id": row["request_id"],
                    "key_id": row["key_id"],
                    "at": row["created_at"].isoformat(),
                    "denied_then": was_denied,
                }
            )
    interval = wilson_interval(denied, counted) if counted else None
    return DryRun(
        version=source.version,
        looked_at=counted,
        skipped=len(found) - len(kept),
        would_deny=denied,
        newly_denied=newly_denied,
        newly_allowed=newly_allowed,
        share=denied / counted if counted else None,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        reasons=sorted(reasons.values(), key=lambda one: -one.count),
        error=error,
    )


def _decision(answer: Mapping[str, Any]) -> PolicyDecision:
    """The decision of an answer before the call's own conditions."""
    given = dict(answer["unconditioned"])
    given["cache"] = tuple(given["cache"])
    return PolicyDecision(**given)


# ------------------------------------------------------------------ simulation
@dataclass(frozen=True, slots=True)
class Simulation:
    """One decision explained: what was read, what each rule gave, how long it took.

    ``cached``: the gateway's own answer came from memory (only for the version in force).
    """

    decision: PolicyDecision
    reads: list[tuple[str, Any]]
    rules: list[tuple[str, Any, bool]]
    took_us: int
    cached: bool | None
    error: str = ""


def simulate(source: Source, attributes: Mapping[str, Any], *, is_active: bool) -> Simulation:
    """Ask a version about one call. Needs policy.view. Raises Invalid when the attributes are no JSON object."""
    require("policy.view")
    if not isinstance(attributes, Mapping):
        raise Invalid("Attributes are a JSON object.", fields={"attributes": ["This is no JSON object."]})
    answers, error = questions_ask(
        policy=source.policy, data=source.data, documents=[attributes], version=source.version
    )
    cached = None
    if answers:
        given = {**answers[0]["decision"], "cache": tuple(answers[0]["decision"]["cache"])}
        decision, document = PolicyDecision(**given), answers[0]["document"]
        took = int(answers[0]["took_us"])
    else:
        decision, document, took = PolicyDecision(False, error, source.version, failed=True), None, 0
    if is_active:
        # The gateway's own answer, which a remote OPA may give and which may come from memory.
        decision = engine.decide(current_schema(), attributes)
        cached = decision.cached
    rules = document if isinstance(document, dict) else {}
    return Simulation(
        decision=decision,
        reads=[(path, _value(attributes, path)) for path in analyse(source.policy).reads],
        rules=[(name, rules[name], name in OUTPUTS) for name in sorted(rules, key=_output_first)],
        took_us=took,
        cached=cached,
        error=error,
    )


def _output_first(name: str) -> tuple[int, str]:
    return (OUTPUTS.index(name) if name in OUTPUTS else len(OUTPUTS), name)


ABSENT = "absent"


def _value(attributes: Mapping[str, Any], path: str) -> Any:
    value: Any = attributes
    for step in path.split(".")[1:]:
        if not isinstance(value, Mapping) or step not in value:
            return ABSENT
        value = value[step]
    return value
