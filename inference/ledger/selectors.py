"""Reading the ledger: requests, usage and cost by any dimension, prices, and sealed prompts."""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Avg, Count, F, Max, Min, Q, QuerySet, StdDev, Sum, Value
from django.db.models.functions import Concat, TruncDay
from django.utils import timezone

from core.schema import current_schema
from inference.ledger import sealing
from inference.ledger.errors import EntryNotFound, PayloadGone
from inference.ledger.lanes import uuid7_floor
from inference.ledger.models import DataKey, EntryStatus, LedgerEntry, LedgerPayload, ModelPrice

# Two-sided 95 %.
_Z = 1.959963984540054


# ------------------------------------------------------------------ requests
def entries_between(
    start: datetime.datetime | None, end: datetime.datetime | None = None
) -> QuerySet[LedgerEntry]:
    """Requests from `start` on and before `end`, newest first; a range of time is a range of the primary key."""
    rows = LedgerEntry.objects.all().order_by("-id")
    if start is not None:
        # Both: the first prunes partitions, the second uses the index.
        rows = rows.filter(created_at__gte=start, id__gte=uuid7_floor(start))
    if end is not None:
        rows = rows.filter(created_at__lt=end, id__lt=uuid7_floor(end))
    return rows


def entry_get(entry_id: uuid.UUID | str) -> LedgerEntry:
    """One request by its ledger id. Raises EntryNotFound."""
    try:
        found = LedgerEntry.objects.filter(pk=entry_id).first()
    except (ValueError, TypeError):
        found = None
    if found is None:
        raise EntryNotFound("The ledger has no such request. It may be older than what is kept.")
    return found


def entries_of_conversation(entry: LedgerEntry, *, limit: int = 50) -> QuerySet[LedgerEntry]:
    """Other requests of the same conversation and key, oldest first; none when the request has no conversation."""
    if not entry.conversation:
        return LedgerEntry.objects.none()
    return (
        LedgerEntry.objects.filter(conversation=entry.conversation, key_id=entry.key_id)
        .filter(
            created_at__gte=entry.created_at - datetime.timedelta(days=31),
            created_at__lte=entry.created_at + datetime.timedelta(days=31),
        )
        .exclude(pk=entry.pk)
        .order_by("id")[:limit]
    )


# ------------------------------------------------------------------ sealed payloads
def payload_exists(entry_id: uuid.UUID) -> bool:
    """Whether prompt and output of a request are kept and their key is not destroyed."""
    return LedgerPayload.objects.filter(
        pk=entry_id, key__destroyed_at=None, expires_at__gt=timezone.now()
    ).exists()


def payload_read(entry_id: uuid.UUID) -> tuple[str, str]:
    """Prompt and output in clear. Raises PayloadGone. Callers check the permission and record who looked
    (inference.ledger.services.payload_open does both)."""
    row = LedgerPayload.objects.select_related("key").filter(pk=entry_id).first()
    if row is None or row.expires_at <= timezone.now():
        raise PayloadGone("The prompt and output of this request were not kept, or their time has passed.")
    if row.key.destroyed_at is not None:
        raise PayloadGone("The key that sealed this prompt was destroyed; nobody can read it any more.")
    schema = current_schema()
    key = sealing.unwrap(schema, row.key_id, row.key.wrapped)
    prompt, output = (
        sealing.payload_open(schema, entry_id, key, bytes(sealed), field).decode("utf-8", "replace")
        for sealed, field in ((row.prompt, b"prompt"), (row.output, b"output"))
    )
    return prompt, output


def data_keys() -> QuerySet[DataKey]:
    """The tenant's data keys with how many payloads each seals."""
    return DataKey.objects.annotate(sealed=Count("payloads"))


# ------------------------------------------------------------------ usage
# Dimension -> (words, expression or field).
DIMENSIONS: dict[str, str] = {
    "day": "Day",
    "product": "Product",
    "release": "Release",
    "model": "Model asked for",
    "key": "API key",
    "team": "Team",
    "user": "End user",
    "route": "Route",
    "status": "Outcome",
    "cache": "Cache",
}
_FIELDS = {
    "product": "product", "model": "model", "key": "key_id", "team": "team", "user": "end_user", "route": "route",
    "status": "status", "cache": "cache",
}  # fmt: skip


@dataclass(frozen=True)
class UsageRow:
    """Use of one value of a dimension. Money in nano-USD, latency in milliseconds."""

    value: str
    requests: int
    answered: int
    tokens_in: int
    tokens_out: int
    tokens_cached: int
    cost_nano: int
    latency_ms: float | None

    @property
    def tokens(self) -> int:
        """Input and output tokens."""
        return self.tokens_in + self.tokens_out


@dataclass(frozen=True)
class Mean:
    """A mean with its interval (normal approximation, 95 %) and n; None where there is nothing to average."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def _mean(average: Any, deviation: Any, n: int) -> Mean:
    if not n or average is None:
        return Mean(None, None, None, 0)
    value = float(average)
    if n < 2 or deviation is None:
        return Mean(value, None, None, n)
    half = _Z * float(deviation) / math.sqrt(n)
    return Mean(value, max(0.0, value - half), value + half, n)


def usage_by(rows: QuerySet[LedgerEntry], dimension: str, *, limit: int = 1000) -> list[UsageRow]:
    """Use grouped by a dimension of DIMENSIONS; days in order, others by cost, then requests. Raises KeyError."""
    rows = rows.order_by()
    if dimension == "day":
        keyed = rows.annotate(value=TruncDay("created_at", tzinfo=datetime.UTC))
    elif dimension == "release":
        keyed = rows.annotate(value=Concat("product", Value("@"), "release_version"))
    else:
        keyed = rows.annotate(value=F(_FIELDS[dimension]))
    answered = Q(status=EntryStatus.OK)
    grouped = keyed.values("value").annotate(
        requests=Count("id"),
        answered=Count("id", filter=answered),
        input=Sum("tokens_in"),
        output=Sum("tokens_out"),
        cached=Sum("tokens_cached"),
        cost=Sum("cost_nano"),
        latency=Avg("total_ms", filter=answered),
    )
    grouped = (
        grouped.order_by("value") if dimension == "day" else grouped.order_by("-cost", "-requests", "value")
    )
    return [
        UsageRow(
            _shown(one["value"], dimension), one["requests"], one["answered"], int(one["input"] or 0),
            int(one["output"] or 0), int(one["cached"] or 0), int(one["cost"] or 0), one["latency"],
        )
        for one in grouped[:limit]
    ]  # fmt: skip


def _shown(value: Any, dimension: str) -> str:
    if isinstance(value, datetime.datetime):
        return value.date().isoformat()
    text = str(value or "")
    return "" if dimension == "release" and text.endswith("@") else text


def usage_total(rows: QuerySet[LedgerEntry]) -> UsageRow:
    """Everything together."""
    answered = Q(status=EntryStatus.OK)
    one = rows.order_by().aggregate(
        requests=Count("id"),
        answered=Count("id", filter=answered),
        input=Sum("tokens_in"),
        output=Sum("tokens_out"),
        cached=Sum("tokens_cached"),
        cost=Sum("cost_nano"),
        latency=Avg("total_ms", filter=answered),
    )
    return UsageRow(
        "", one["requests"], one["answered"], int(one["input"] or 0), int(one["output"] or 0), int(one["cached"] or 0),
        int(one["cost"] or 0), one["latency"],
    )  # fmt: skip


def cost_per_query(rows: QuerySet[LedgerEntry]) -> Mean:
    """Nano-USD per answered request."""
    one = (
        rows.order_by()
        .filter(status=EntryStatus.OK)
        .aggregate(mean=Avg("cost_nano"), spread=StdDev("cost_nano", sample=True), n=Count("id"))
    )
    return _mean(one["mean"], one["spread"], one["n"])


def cost_per_conversation(rows: QuerySet[LedgerEntry]) -> Mean:
    """Nano-USD per conversation: requests that name one, grouped by key and conversation."""
    sums = (
        rows.order_by()
        .exclude(conversation="")
        .values("key_id", "conversation")
        .annotate(total=Sum("cost_nano"))
        .values_list("total", flat=True)
    )
    one = sums.aggregate(mean=Avg("total"), spread=StdDev("total", sample=True), n=Count("total"))
    return _mean(one["mean"], one["spread"], one["n"])


def entry_bounds(rows: QuerySet[LedgerEntry]) -> tuple[datetime.datetime | None, datetime.datetime | None]:
    """First and last moment of these rows."""
    one = rows.order_by().aggregate(first=Min("created_at"), last=Max("created_at"))
    return one["first"], one["last"]


# ------------------------------------------------------------------ the timeline of one request
@dataclass(frozen=True)
class Stage:
    """One stage of a request: when it began after the request came in, how long it took (milliseconds), in words."""

    name: str
    start_ms: float
    length_ms: float
    text: str = ""
    variant: str = "neutral"


_STAGES = {
    "authenticate": "Key checked",
    "route": "Release chosen",
    "policy": "Policy decided",
    "reserve": "Budget booked, row opened",
    "redact_in": "Prompt redacted and guarded",
    "input": "Prompt redacted and guarded",
    "cache": "Caches asked",
    "upstream": "Engine answered",
    "engine": "Engine answered",
    "redact_out": "Answer redacted and guarded",
    "output": "Answer redacted and guarded",
    "settle": "Cost settled",
}


def stages_of(entry: LedgerEntry) -> list[Stage]:
    """The stages the gateway noted; without notes, what the timings of the row tell."""
    found: list[Stage] = []
    for one in entry.stages if isinstance(entry.stages, list) else []:
        if (
            isinstance(one, list)
            and len(one) >= 3
            and all(isinstance(number, int | float) for number in one[1:3])
        ):
            name = str(one[0])
            found.append(
                Stage(
                    _STAGES.get(name, name.replace("_", " ").capitalize()),
                    one[1],
                    one[2],
                    *map(str, one[3:4]),
                )
            )
    if found:
        return found
    if entry.queue_ms:
        found.append(Stage("Waited for the engine", 0.0, entry.queue_ms))
    if entry.upstream_ms:
        found.append(Stage("Engine answered", entry.queue_ms, entry.upstream_ms, entry.upstream))
    return found


# ------------------------------------------------------------------ prices
def price_list() -> QuerySet[ModelPrice]:
    """Every price, newest date first within a model version."""
    return ModelPrice.objects.select_related("model_version").order_by(
        "model_version__name", "-valid_from", "-id"
    )


def choices_of(field: str, rows: QuerySet[LedgerEntry], *, limit: int = 200) -> Sequence[str]:
    """Distinct values of a field among rows, for a filter."""
    return sorted(filter(None, rows.order_by().values_list(field, flat=True).distinct()[:limit]))
