"""The arithmetic of limits: book an upper bound before a call, correct it afterwards. Pure: no clock, no database.

A *counter* holds what one node of the tree of limits has used in the current minute, day and month (UTC), with
the bounds of calls still running already inside. Because a bound is booked before the call and a correction only
ever lowers money, no order of events can push a window over its ceiling.

Units: tokens; money in nano-USD (1e-9 USD, whole numbers); minutes, days and months counted from the epoch.
"""

from __future__ import annotations

import fnmatch
import functools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

NANO = 1_000_000_000
MINUTE_S = 60
DAY_S = 86_400
# Seconds a caller is told to wait when only calls still running stand in the way.
RUNNING_RETRY_S = 1.0

# From wide to narrow; of two limits that refuse, the narrower one is named.
KINDS = ("tenant", "product", "team", "pilot", "key", "user")


@dataclass(frozen=True, slots=True)
class Scope:
    """A node of the tree of limits, such as ("key", "9f3c…"). `id` is "" for the tenant."""

    kind: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Need:
    """Upper bound of what one call may use. `model` is what limits by model compare with."""

    tokens_in: int = 0
    tokens_out: int = 0
    cost_nano: int = 0
    requests: int = 1
    model: str = ""

    def __post_init__(self) -> None:
        if self.tokens_in < 0 or self.tokens_out < 0 or self.cost_nano < 0 or self.requests < 0:
            raise ValueError(f"A need is never negative: {self!r}")


@dataclass(frozen=True, slots=True)
class LimitSpec:
    """One limit as arithmetic reads it; None means not limited.

    `scope_id` "*" holds for each node of the kind by itself. `model` is a pattern with * and ?; "" is every model.
    `source` is "limit" or "plan".
    """

    kind: str
    scope_id: str = ""
    model: str = ""
    requests_per_minute: int | None = None
    tokens_in_per_minute: int | None = None
    tokens_out_per_minute: int | None = None
    concurrent: int | None = None
    tokens_per_day: int | None = None
    cost_per_day_nano: int | None = None
    cost_per_month_nano: int | None = None
    alarm_share: float = 0.8
    allowed_models: tuple[str, ...] = ()
    source: str = "limit"
    limit_id: int = 0


@dataclass(frozen=True, slots=True)
class Windows:
    """The fixed windows an instant lies in, and the instant: seconds since the epoch."""

    minute: int
    day: int
    month: int
    now: float

    @classmethod
    def at(cls, now: float) -> Windows:
        """Windows of an instant, in UTC."""
        day = int(now // DAY_S)
        return cls(int(now // MINUTE_S), day, _month_of_day(day), now)

    def until_minute_s(self) -> float:
        """Seconds to the next minute."""
        return (self.minute + 1) * MINUTE_S - self.now

    def until_day_s(self) -> float:
        """Seconds to the next midnight UTC."""
        return (self.day + 1) * DAY_S - self.now

    def until_month_s(self) -> float:
        """Seconds to the first of the next month UTC."""
        year, month = divmod(self.month + 1, 12)
        return datetime(year, month + 1, 1, tzinfo=UTC).timestamp() - self.now


@functools.lru_cache(maxsize=64)
def _month_of_day(day: int) -> int:
    when = datetime.fromtimestamp(day * DAY_S, UTC)
    return when.year * 12 + when.month - 1


@dataclass(slots=True)
class CounterState:
    """What one node has used. Windows older than now are emptied by :meth:`roll`."""

    id: int = 0
    minute: int = 0
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    day: int = 0
    tokens_day: int = 0
    cost_day: int = 0
    month: int = 0
    cost_month: int = 0
    # Calls running now, and the money booked for them.
    open: int = 0
    open_cost: int = 0

    def roll(self, windows: Windows) -> None:
        """Begin new windows where time has passed on; never back, should a clock step back."""
        if windows.minute > self.minute:
            self.minute = windows.minute
            self.requests = self.tokens_in = self.tokens_out = 0
        if windows.day > self.day:
            self.day = windows.day
            self.tokens_day = self.cost_day = 0
        if windows.month > self.month:
            self.month = windows.month
            self.cost_month = 0


@dataclass(frozen=True, slots=True)
class Reservation:
    """What was booked on every counter of a call, and in which windows."""

    tokens_in: int
    tokens_out: int
    cost_nano: int
    minute: int
    day: int
    month: int


@dataclass(frozen=True, slots=True)
class Used:
    """What a call really used."""

    tokens_in: int = 0
    tokens_out: int = 0
    cost_nano: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Which limit refused, and what the caller can do. `retry_after_s` None: waiting does not help."""

    limit: str
    kind: str
    scope_id: str
    message: str
    retry_after_s: float | None
    spec: LimitSpec

    @property
    def status(self) -> int:
        """HTTP status: 403 for a model that is not allowed, 429 for the rest."""
        return 403 if self.limit == "allowed_models" else 429

    @property
    def code(self) -> str:
        """The word an OpenAI client sees."""
        if self.limit == "allowed_models":
            return "model_not_allowed"
        return "insufficient_quota" if self.limit in _QUOTAS else "rate_limit_exceeded"


@dataclass(frozen=True, slots=True)
class Headroom:
    """The tightest limits of a call, for rate-limit headers; None where nothing limits."""

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_s: float | None = None
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_s: float | None = None

    def headers(self) -> dict[str, str]:
        """The `x-ratelimit-*` headers OpenAI clients read."""
        found: dict[str, str] = {}
        if self.limit_requests is not None and self.reset_requests_s is not None:
            found["x-ratelimit-limit-requests"] = str(self.limit_requests)
            found["x-ratelimit-remaining-requests"] = str(self.remaining_requests)
            found["x-ratelimit-reset-requests"] = duration_text(self.reset_requests_s)
        if self.limit_tokens is not None and self.reset_tokens_s is not None:
            found["x-ratelimit-limit-tokens"] = str(self.limit_tokens)
            found["x-ratelimit-remaining-tokens"] = str(self.remaining_tokens)
            found["x-ratelimit-reset-tokens"] = duration_text(self.reset_tokens_s)
        return found


_QUOTAS = frozenset({"tokens_per_day", "cost_per_day", "cost_per_month"})

Node = tuple[CounterState, Sequence[LimitSpec]]


@functools.lru_cache(maxsize=4096)
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))


def model_matches(pattern: str, model: str) -> bool:
    """Whether a limit's pattern covers a model: "" covers all; otherwise * and ? as in file names.

    A pattern without a version also covers its versions: `triage` covers `triage@1.2.0`.
    """
    if not pattern or pattern == model:
        return True
    if "@" in model and "@" not in pattern and _pattern(pattern).match(model.partition("@")[0]):
        return True
    return _pattern(pattern).match(model) is not None


def reserve(nodes: Sequence[Node], need: Need, windows: Windows) -> Reservation | Refusal:
    """Book `need` on every counter, or change nothing and say which limit refuses.

    Args:
        nodes: the counter of each scope with the limits that hold for it, from wide to narrow.
    """
    for state, _ in nodes:
        state.roll(windows)
    refusal: Refusal | None = None
    for state, specs in nodes:
        for spec in specs:
            found = _refusal(state, spec, need, windows)
            # The one that keeps the caller waiting longest is the one worth naming.
            if found is not None and (refusal is None or _wait(found) >= _wait(refusal)):
                refusal = found
    if refusal is not None:
        return refusal
    tokens = need.tokens_in + need.tokens_out
    for state, _ in nodes:
        state.requests += need.requests
        state.tokens_in += need.tokens_in
        state.tokens_out += need.tokens_out
        state.tokens_day += tokens
        state.cost_day += need.cost_nano
        state.cost_month += need.cost_nano
        state.open += 1
        state.open_cost += need.cost_nano
    return Reservation(
        need.tokens_in, need.tokens_out, need.cost_nano, windows.minute, windows.day, windows.month
    )


def _wait(refusal: Refusal) -> float:
    return math.inf if refusal.retry_after_s is None else refusal.retry_after_s


def settle(states: Iterable[CounterState], reservation: Reservation, used: Used) -> int:
    """Replace the booked bound by what was used, in the windows it was booked in; ends the call.

    Money above the bound is not charged. Returns the nano-USD charged.
    """
    charged = min(used.cost_nano, reservation.cost_nano)
    for state in states:
        state.open = max(0, state.open - 1)
        state.open_cost = max(0, state.open_cost - reservation.cost_nano)
        _shift(
            state,
            reservation,
            used.tokens_in - reservation.tokens_in,
            used.tokens_out - reservation.tokens_out,
            charged - reservation.cost_nano,
        )
    return charged


def correct(states: Iterable[CounterState], reservation: Reservation, charged: Used, used: Used) -> int:
    """A late settle of a call that was closed in its absence: lower what was charged, never raise it.

    The call no longer counts as running, so only the windows change. Returns the nano-USD now charged.
    """
    cost = min(used.cost_nano, charged.cost_nano)
    tokens_in = min(used.tokens_in, charged.tokens_in)
    tokens_out = min(used.tokens_out, charged.tokens_out)
    for state in states:
        _shift(
            state,
            reservation,
            tokens_in - charged.tokens_in,
            tokens_out - charged.tokens_out,
            cost - charged.cost_nano,
        )
    return cost


def _shift(state: CounterState, booked: Reservation, tokens_in: int, tokens_out: int, cost: int) -> None:
    # A window that has passed is history: what was booked in it is not taken from its successor.
    if state.minute == booked.minute:
        state.tokens_in = max(0, state.tokens_in + tokens_in)
        state.tokens_out = max(0, state.tokens_out + tokens_out)
    if state.day == booked.day:
        state.tokens_day = max(0, state.tokens_day + tokens_in + tokens_out)
        state.cost_day = max(0, state.cost_day + cost)
    if state.month == booked.month:
        state.cost_month = max(0, state.cost_month + cost)


# ------------------------------------------------------------------ refusing in words
def _refusal(state: CounterState, spec: LimitSpec, need: Need, windows: Windows) -> Refusal | None:
    if spec.allowed_models and not any(model_matches(one, need.model) for one in spec.allowed_models):
        return Refusal(
            "allowed_models", spec.kind, spec.scope_id,
            f"The model {need.model!r} is not allowed for {scope_words(spec)}. "
            f"Allowed: {', '.join(spec.allowed_models)}.",
            None, spec,
        )  # fmt: skip
    if spec.concurrent is not None and state.open + 1 > spec.concurrent:
        return Refusal(
            "concurrent", spec.kind, spec.scope_id,
            f"{scope_words(spec, capital=True)} may have {_count(spec.concurrent, 'request')} running at once and has "
            f"{state.open:,}. Wait for one to end.",
            None if spec.concurrent == 0 else RUNNING_RETRY_S, spec,
        )  # fmt: skip
    limit = spec.requests_per_minute
    if limit is not None and state.requests + need.requests > limit:
        wait = windows.until_minute_s()
        return Refusal(
            "requests_per_minute", spec.kind, spec.scope_id,
            f"{scope_words(spec, capital=True)} may make {_count(limit, 'request')} per minute and has made "
            f"{state.requests:,}. The next minute begins in {duration_words(wait)}.",
            wait if limit >= need.requests else None, spec,
        )  # fmt: skip
    for name, limit, used, wanted, word in (
        ("tokens_in_per_minute", spec.tokens_in_per_minute, state.tokens_in, need.tokens_in, "input tokens"),
        ("tokens_out_per_minute", spec.tokens_out_per_minute, state.tokens_out, need.tokens_out, "output tokens"),
    ):  # fmt: skip
        if limit is not None and used + wanted > limit:
            return _tokens(spec, name, limit, used, wanted, f"{word} per minute", windows.until_minute_s())
    if spec.tokens_per_day is not None:
        wanted = need.tokens_in + need.tokens_out
        if state.tokens_day + wanted > spec.tokens_per_day:
            return _tokens(
                spec, "tokens_per_day", spec.tokens_per_day, state.tokens_day, wanted, "tokens per day",
                windows.until_day_s(),
            )  # fmt: skip
    for name, limit, used, word, wait in (
        ("cost_per_day", spec.cost_per_day_nano, state.cost_day, "daily", windows.until_day_s()),
        ("cost_per_month", spec.cost_per_month_nano, state.cost_month, "monthly", windows.until_month_s()),
    ):
        if limit is not None and used + need.cost_nano > limit:
            return _money(state, spec, need, name, limit, used, word, wait)
    return None


def _tokens(
    spec: LimitSpec, name: str, limit: int, used: int, wanted: int, what: str, wait: float
) -> Refusal:
    if wanted > limit:
        return Refusal(
            name, spec.kind, spec.scope_id,
            f"This request may use {wanted:,} tokens, more than the {limit:,} {what} of {scope_words(spec)}. "
            "Send less text or a smaller max_tokens.",
            None, spec,
        )  # fmt: skip
    return Refusal(
        name, spec.kind, spec.scope_id,
        f"{scope_words(spec, capital=True)} has {limit:,} {what}; {used:,} are used or booked and this request may use "
        f"{wanted:,}. They reset in {duration_words(wait)}.",
        wait, spec,
    )  # fmt: skip


def _money(
    state: CounterState, spec: LimitSpec, need: Need, name: str, limit: int, used: int, word: str, wait: float
) -> Refusal:
    begin = f"The {word} budget of {scope_words(spec)} is {money(limit)}"
    if need.cost_nano > limit:
        return Refusal(
            name, spec.kind, spec.scope_id,
            f"{begin}, and this request alone may cost {money(need.cost_nano)}. Use a smaller max_tokens.",
            None, spec,
        )  # fmt: skip
    spent = max(0, used - state.open_cost)
    # When the calls still running end, part of what is booked for them comes back.
    soon = spent + need.cost_nano <= limit and state.open > 0
    return Refusal(
        name, spec.kind, spec.scope_id,
        f"{begin}: {money(spent)} spent, {money(used - spent)} booked for {_count(state.open, 'running request')}, and "
        f"this request may cost {money(need.cost_nano)}. "
        + ("Try again when one has ended." if soon else f"The budget resets in {duration_words(wait)}."),
        RUNNING_RETRY_S if soon else wait, spec,
    )  # fmt: skip


def scope_words(spec: LimitSpec, *, capital: bool = False) -> str:
    """The scope as a caller would name it."""
    words = {
        "tenant": "your organisation",
        "product": f"the product {spec.scope_id}",
        "team": f"the team {spec.scope_id}",
        "pilot": f"the pilot {spec.scope_id}",
        "key": f"the API key {spec.scope_id}",
        "user": "this end user",
    }.get(spec.kind, spec.kind)
    if spec.scope_id == "*":
        words = {"key": "this API key", "user": "this end user"}.get(spec.kind, f"this {spec.kind}")
    if spec.source == "plan":
        words = f"{words} (by your plan)"
    if spec.model:
        words = f"{words} for models {spec.model}"
    return words[0].upper() + words[1:] if capital else words


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def money(nano: int) -> str:
    """Nano-USD as dollars with the digits that matter, e.g. `0.000012 USD`."""
    usd = nano / NANO
    if usd == 0:
        return "0 USD"
    digits = 2 if usd >= 1 else min(9, 1 - math.floor(math.log10(usd)))
    return f"{usd:,.{digits}f} USD"


def duration_words(seconds: float) -> str:
    """`45 s`, `3 min`, `5 h 12 min`, `4 d 3 h`; rounded up."""
    whole = math.ceil(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes = math.ceil(whole / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def duration_text(seconds: float) -> str:
    """A duration in the form OpenAI's rate-limit headers use, e.g. `1s`, `6m0s`, `5h0m1s`; rounded up."""
    whole = max(0, math.ceil(seconds))
    if whole < 60:
        return f"{whole}s"
    minutes, s = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{s}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{s}s"


def headroom(nodes: Sequence[Node], windows: Windows) -> Headroom:
    """What is left after this call at the limits nearest to refusing."""
    requests: tuple[int, int, float] | None = None
    tokens: tuple[int, int, float] | None = None
    for state, specs in nodes:
        for spec in specs:
            limit = spec.requests_per_minute
            if limit is not None:
                left = max(0, limit - state.requests)
                if requests is None or left < requests[1]:
                    requests = (limit, left, windows.until_minute_s())
            for limit, used, daily in (
                (spec.tokens_in_per_minute, state.tokens_in, False),
                (spec.tokens_out_per_minute, state.tokens_out, False),
                (spec.tokens_per_day, state.tokens_day, True),
            ):
                if limit is not None:
                    left = max(0, limit - used)
                    if tokens is None or left < tokens[1]:
                        tokens = (limit, left, windows.until_day_s() if daily else windows.until_minute_s())
    return Headroom(*(requests or (None, None, None)), *(tokens or (None, None, None)))


def alarms(nodes: Sequence[Node]) -> tuple[str, ...]:
    """Budgets whose soft alarm is reached, as `<scope> <window> <share>%`, e.g. `key day 83%`."""
    found = []
    for state, specs in nodes:
        for spec in specs:
            for limit, used, word in (
                (spec.cost_per_day_nano, state.cost_day, "day"),
                (spec.cost_per_month_nano, state.cost_month, "month"),
            ):
                if limit and used >= spec.alarm_share * limit:
                    found.append(f"{spec.kind} {word} {100 * used // limit}%")
    return tuple(found)


class Tree:
    """The limits of a tenant, found by scope."""

    def __init__(self, specs: Iterable[LimitSpec], *, version: int = 0) -> None:
        self.version = version
        self.specs = tuple(specs)
        self._by_scope: dict[tuple[str, str], list[LimitSpec]] = {}
        for spec in self.specs:
            self._by_scope.setdefault((spec.kind, spec.scope_id), []).append(spec)
        self._found: dict[tuple[str, str, str], tuple[tuple[str, tuple[LimitSpec, ...]], ...]] = {}

    def nodes(self, scope: Scope, model: str) -> tuple[tuple[str, tuple[LimitSpec, ...]], ...]:
        """(model pattern, limits) of every counter of this scope that a call of this model touches.

        The counter of all models ("") always comes first, with or without limits.
        """
        key = (scope.kind, scope.id, model)
        found = self._found.get(key)
        if found is None:
            specs = list(self._by_scope.get((scope.kind, scope.id), ()))
            if scope.id:
                # A limit of each node, under the node's own name.
                specs += self._by_scope.get((scope.kind, "*"), ())
            patterns: dict[str, list[LimitSpec]] = {"": []}
            for spec in specs:
                if model_matches(spec.model, model):
                    patterns.setdefault(spec.model, []).append(spec)
            found = tuple((pattern, tuple(some)) for pattern, some in patterns.items())
            if len(self._found) > 20_000:
                self._found.clear()
            self._found[key] = found
        return found
