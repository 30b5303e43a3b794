"""The ledger's monthly partitions, made ahead of time."""

from __future__ import annotations

import datetime

import psycopg
from psycopg import sql

from inference.ledger import database

PARENT = "ledger_ledgerentry"


def month_start(at: datetime.datetime, offset: int = 0) -> datetime.datetime:
    """First instant (UTC) of the month of `at`, `offset` months on."""
    number = at.year * 12 + at.month - 1 + offset
    return datetime.datetime(number // 12, number % 12 + 1, 1, tzinfo=datetime.UTC)


def partition_name(start: datetime.datetime) -> str:
    """Name of a month's table, e.g. `ledger_ledgerentry_y2026m11`."""
    return f"{PARENT}_y{start.year:04d}m{start.month:02d}"


def partitions_ensure(schema: str, *, now: datetime.datetime | None = None, ahead: int = 1) -> list[str]:
    """Make the partition of the current month and of `ahead` months after it; returns the names made now.

    Rows the default partition holds for such a month are moved into it, in the same transaction. Safe to call at any
    time and by several processes; a ledger too busy to be locked for two seconds is left for the next call.
    """
    at = now or datetime.datetime.now(datetime.UTC)
    wanted = {partition_name(month_start(at, offset)): month_start(at, offset) for offset in range(ahead + 1)}
    with database.cold() as connection:
        present = {
            row[0]
            for row in connection.execute(
                "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
                "WHERE n.nspname = %s AND c.relname = ANY(%s)",
                [schema, list(wanted)],
            )
        }
        made = []
        for name, start in wanted.items():
            if name not in present and _make(connection, schema, name, start):
                made.append(name)
        return made


def _make(
    connection: psycopg.Connection[tuple[object, ...]], schema: str, name: str, start: datetime.datetime
) -> bool:
    end = month_start(start, 1)
    parent, table = sql.Identifier(schema, PARENT), sql.Identifier(schema, name)
    default = sql.Identifier(schema, f"{PARENT}_default")
    bounds = [sql.Literal(start.isoformat()), sql.Literal(end.isoformat())]
    try:
        with connection.transaction():
            connection.execute("SET LOCAL lock_timeout = '2s'")
            connection.execute("SET LOCAL enable_seqscan = on")
            connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"signoff:ledger:{schema}"]
            )
            # Attached rather than made in place: that locks out only the default partition's readers and writers.
            connection.execute(
                sql.SQL(
                    "CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS) WITH (fillfactor = 70)"
                ).format(table, parent)
            )
            connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(default))
            connection.execute("SET LOCAL signoff.ledger_move = 'on'")
            connection.execute(
                sql.SQL(
                    "WITH moved AS (DELETE FROM {} WHERE created_at >= {} AND created_at < {} RETURNING *) "
                    "INSERT INTO {} SELECT * FROM moved"
                ).format(default, *bounds, table)
            )
            connection.execute(
                sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
                    parent, table, *bounds
                )
            )
    except (psycopg.errors.DuplicateTable, psycopg.errors.LockNotAvailable):
        return False
    return True
