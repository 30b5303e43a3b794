"""What redaction and guards did lately, counted from the ledger. It holds counts, never texts."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from django.db import connection
from django.utils import timezone

from core.evidence.statistics.proportions import wilson_interval
from core.security.permissions import require
from core.security.redaction import ENTITIES
from inference.ledger.models import LedgerEntry

DAYS = 30


@dataclass(frozen=True, slots=True)
class FindingCount:
    """Replacements of one entity in one direction, and the requests that had any."""

    entity: str
    title: str
    direction: str
    replaced: int
    requests: int


@dataclass(frozen=True, slots=True)
class BlockCount:
    """Requests refused by one guard or entity."""

    what: str
    direction: str
    requests: int


@dataclass(frozen=True, slots=True)
class GuardStatistics:
    """Of ``total`` requests since ``since``. Shares carry a 95% Wilson interval; None of nothing."""

    since: dt.datetime
    total: int
    touched: int
    refused: int
    share: float | None
    low: float | None
    high: float | None
    findings: list[FindingCount]
    blocks: list[BlockCount]


def guard_statistics(*, days: int = DAYS) -> GuardStatistics:
    """Findings by entity, refusals by guard. Needs guard.view."""
    require("guard.view")
    since = timezone.now() - dt.timedelta(days=days)
    rows = LedgerEntry.objects.filter(created_at__gte=since).exclude(guards={}).order_by()
    total = rows.count()
    refused_rows = rows.filter(guards__blocked__isnull=False).exclude(guards__blocked=None)
    refused = refused_rows.count()
    touched, findings = _findings(since)
    blocks = [
        BlockCount(str(what), str(direction or "input"), number)
        for (what, direction), number in _grouped(refused_rows)
    ]
    if not total:
        return GuardStatistics(since, 0, 0, 0, None, None, None, findings, blocks)
    interval = wilson_interval(refused, total)
    return GuardStatistics(
        since, total, touched, refused, refused / total, interval.low, interval.high, findings, blocks
    )


def _grouped(rows: Any) -> list[tuple[tuple[Any, Any], int]]:
    from django.db.models import Count

    counted = (
        rows.values_list("guards__blocked", "guards__blocked_direction")
        .annotate(number=Count("id"))
        .order_by("-number")[:30]
    )
    return [((what, direction), number) for what, direction, number in counted]


def _findings(since: dt.datetime) -> tuple[int, list[FindingCount]]:
    table = connection.ops.quote_name(LedgerEntry._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT way.key, one.key, sum(one.value::bigint), count(*) FROM {table}, "  # noqa: S608 (our own name)
            "jsonb_each(redactions) AS way, "
            "jsonb_each_text(CASE jsonb_typeof(way.value) WHEN 'object' THEN way.value ELSE '{}'::jsonb END) AS one "
            "WHERE created_at >= %s AND one.value ~ '^[0-9]{1,12}$' GROUP BY 1, 2 ORDER BY 3 DESC, 2 LIMIT 200",
            [since],
        )
        found = cursor.fetchall()
        cursor.execute(
            f"SELECT count(*) FROM {table} WHERE created_at >= %s AND redactions::text ~ ': [0-9]'",  # noqa: S608
            [since],
        )
        touched = int(cursor.fetchone()[0])
    findings = []
    for direction, entity, replaced, requests in found:
        known = ENTITIES.get(entity)
        findings.append(
            FindingCount(
                entity, known.title if known else "Own pattern", direction, int(replaced), int(requests)
            )
        )
    return touched, findings
