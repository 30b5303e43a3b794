"""Limits with what is used of them now, and where keys stand."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass

from django.db.models import QuerySet

from tenants.accounts.models import ApiKey
from tenants.db import connection
from tenants.quotas.accounting import Windows, duration_words, money
from tenants.quotas.errors import LimitNotFound
from tenants.quotas.models import Counter, KeyPlacement, Limit
from tenants.resolver import tenant_by_schema


@dataclass(frozen=True)
class Figure:
    """One figure of a limit with its use. `unit`: requests, tokens or nano-USD. `booked`: part of `used`, of calls
    still running. `resets_s`: seconds to the next window; None for what frees itself (running requests)."""

    name: str
    label: str
    unit: str
    limit: int
    used: int
    booked: int = 0
    resets_s: float | None = None
    alarm_at: int | None = None

    @property
    def left(self) -> int:
        """What is left, never below zero."""
        return max(0, self.limit - self.used)

    @property
    def percent(self) -> int:
        """Share used in percent, rounded down, at most 100; a limit of zero is used up."""
        return min(100, 100 * self.used // self.limit) if self.limit else 100

    @property
    def variant(self) -> str:
        """Look of its bar: fail when used up, inconclusive past the alarm, pass below."""
        if self.used >= self.limit:
            return "fail"
        return "inconclusive" if self.alarm_at is not None and self.used >= self.alarm_at else "pass"

    @property
    def words(self) -> str:
        """E.g. `1.20 USD of 5.00 USD`."""
        if self.unit == "nano-USD":
            return f"{money(self.used)} of {money(self.limit)}"
        return f"{self.used:,} of {self.limit:,} {self.unit}"

    @property
    def left_words(self) -> str:
        """What is left and when it resets."""
        left = money(self.left) if self.unit == "nano-USD" else f"{self.left:,}"
        if self.resets_s is None:
            return f"{left} free"
        return f"{left} left, resets in {duration_words(self.resets_s)}"


@dataclass(frozen=True)
class LimitUse:
    """One limit with its figures. `node`: for a limit of each node, the one that has used most ("" for none)."""

    label: str
    figures: tuple[Figure, ...]
    limit: Limit | None = None
    node: str = ""
    nodes: int = 0
    allowed_models: tuple[str, ...] = ()

    @property
    def is_plan(self) -> bool:
        """Whether the limit is of the tenant's plan and not of its own."""
        return self.limit is None

    @property
    def fullest(self) -> Figure | None:
        """The figure nearest to its limit."""
        return max(self.figures, key=lambda one: one.percent, default=None)


def limit_list() -> QuerySet[Limit]:
    """Every limit of the tenant."""
    return Limit.objects.all()


def limit_get(pk: int) -> Limit:
    """One limit. Raises LimitNotFound."""
    found = Limit.objects.filter(pk=pk).first()
    if found is None:
        raise LimitNotFound("This limit does not exist; it may have been removed.")
    return found


def placement_list() -> QuerySet[KeyPlacement]:
    """Where keys stand; keys that were never placed are not listed."""
    return KeyPlacement.objects.all()


def placement_of(key_id: str) -> KeyPlacement:
    """Where a key stands; an empty one for a key that was never placed."""
    return KeyPlacement.objects.filter(key_id=key_id).first() or KeyPlacement(key_id=key_id)


def keys_placed() -> list[tuple[ApiKey, KeyPlacement]]:
    """Every key that is not revoked, with where it stands."""
    placed = {one.key_id: one for one in KeyPlacement.objects.all()}
    return [
        (key, placed.get(key.key_id) or KeyPlacement(key_id=key.key_id))
        for key in ApiKey.objects.filter(revoked_at=None).select_related("created_by")
    ]


def limits_with_use(*, now: datetime.datetime | None = None) -> list[LimitUse]:
    """The plan's limits, then the tenant's, each with what is used in the current windows."""
    windows = Windows.at((now or datetime.datetime.now(datetime.UTC)).timestamp())
    limits = list(Limit.objects.all())
    kinds = {one.scope_kind for one in limits} | {"tenant", "key"}
    counters = _by_node(Counter.objects.filter(scope_kind__in=kinds))
    found = list(_plan_use(counters, windows))
    order = {"tenant": 0, "product": 1, "team": 2, "pilot": 3, "key": 4, "user": 5}
    for limit in sorted(limits, key=lambda one: (order[one.scope_kind], one.scope_id, one.model)):
        found.append(_use(limit, counters, windows))
    return found


Nodes = dict[tuple[str, str], list[Counter]]


def _by_node(rows: Iterable[Counter]) -> Nodes:
    found: Nodes = {}
    for row in rows:
        found.setdefault((row.scope_kind, row.model), []).append(row)
    return found


def _use(limit: Limit, counters: Nodes, windows: Windows) -> LimitUse:
    rows = counters.get((limit.scope_kind, limit.model), [])
    if limit.scope_id == "*":
        candidates = [(row, figures_of(limit, row, windows)) for row in rows]
        best = max(candidates, key=lambda one: max((f.percent for f in one[1]), default=0), default=None)
        row, figures = best if best else (None, figures_of(limit, None, windows))
        return LimitUse(
            limit.label,
            figures,
            limit,
            row.scope_id if row else "",
            len(candidates),
            tuple(limit.allowed_models),
        )
    row = next((one for one in rows if one.scope_id == limit.scope_id), None)
    return LimitUse(
        limit.label, figures_of(limit, row, windows), limit, allowed_models=tuple(limit.allowed_models)
    )


def _plan_use(counters: Nodes, windows: Windows) -> Iterable[LimitUse]:
    tenant = tenant_by_schema(str(connection.schema_name))
    plan = tenant.plan if tenant else None
    if plan is None:
        return
    if plan.tokens_per_day is not None:
        limit = Limit(scope_kind="tenant", tokens_per_day=plan.tokens_per_day)
        row = next(iter(counters.get(("tenant", ""), [])), None)
        yield LimitUse(f"the organisation, by the plan {plan.name}", figures_of(limit, row, windows))
    if plan.requests_per_minute is not None:
        limit = Limit(scope_kind="key", scope_id="*", requests_per_minute=plan.requests_per_minute)
        use = _use(limit, counters, windows)
        yield LimitUse(f"each API key, by the plan {plan.name}", use.figures, node=use.node, nodes=use.nodes)


def figures_of(limit: Limit, row: Counter | None, windows: Windows) -> tuple[Figure, ...]:
    """The figures a limit has, with the use of one node in the current windows."""
    minute = row if row is not None and row.minute == windows.minute else None
    day = row if row is not None and row.day == windows.day else None
    month = row if row is not None and row.month == windows.month else None
    booked = row.open_cost_nano if row is not None else 0
    share = limit.alarm_share
    to_minute, to_day, to_month = windows.until_minute_s(), windows.until_day_s(), windows.until_month_s()
    cost_day = day.cost_day_nano if day else 0
    cost_month = month.cost_month_nano if month else 0
    every = (
        (
            "requests_per_minute",
            "Requests per minute",
            "requests",
            minute.requests_minute if minute else 0,
            0,
            to_minute,
        ),
        (
            "tokens_in_per_minute",
            "Input tokens per minute",
            "tokens",
            minute.tokens_in_minute if minute else 0,
            0,
            to_minute,
        ),
        (
            "tokens_out_per_minute",
            "Output tokens per minute",
            "tokens",
            minute.tokens_out_minute if minute else 0,
            0,
            to_minute,
        ),
        ("concurrent", "Running at once", "requests", row.open if row else 0, 0, None),
        ("tokens_per_day", "Tokens per day", "tokens", day.tokens_day if day else 0, 0, to_day),
        ("cost_per_day_nano", "Money per day", "nano-USD", cost_day, min(booked, cost_day), to_day),
        ("cost_per_month_nano", "Money per month", "nano-USD", cost_month, min(booked, cost_month), to_month),
    )
    found = []
    for name, label, unit, used, held, resets in every:
        value = getattr(limit, name)
        if value is not None:
            alarm = int(share * value) if unit == "nano-USD" else None
            found.append(Figure(name, label, unit, value, used, held, resets, alarm))
    return tuple(found)
