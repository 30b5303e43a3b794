"""Closing what a killed process left open: its rows become `interrupted` and are charged at their bound.

What such a request really used is unknown. Charging the bound is never less than the truth, so no budget is ever
overspent; a settlement that still arrives corrects it downwards.
"""

from __future__ import annotations

import logging

from inference.ledger import database
from inference.ledger.lanes import lock_counters, uuid7_floor, write_counters
from tenants.quotas.accounting import Reservation, Used, Windows, settle

logger = logging.getLogger("signoff.ledger")

_BATCH = 500


def sweep(schema: str) -> int:
    """Close the open rows of processes whose lease has ended. Returns how many. Raises psycopg.Error.

    Any number of sweepers may run: a process's lease row is locked by one of them.
    """
    closed = 0
    while True:
        count, more = _sweep_once(schema)
        closed += count
        if not more:
            return closed


def _sweep_once(schema: str) -> tuple[int, bool]:
    worker = database.quoted(schema, "ledger_ledgerworker")
    entry = database.quoted(schema, "ledger_ledgerentry")
    closed, more = 0, False
    with database.cold() as connection, connection.transaction():
        dead = connection.execute(
            "SELECT id, oldest_at, lease_until, lease_until < clock_timestamp() - interval '10 minutes' "  # noqa: S608
            f"FROM {worker} WHERE lease_until < clock_timestamp() ORDER BY lease_until LIMIT 20 FOR UPDATE SKIP LOCKED"
        ).fetchall()
        for number, oldest, lease_until, long_gone in dead:
            # A process admits only while it holds its lease, so its rows lie between these two.
            rows = connection.execute(
                "SELECT id, created_at, reserved_in, reserved_out, reserved_nano, counters "  # noqa: S608
                f"FROM {entry} WHERE worker = %s AND status = 'open' AND id >= %s AND created_at >= %s "
                "AND created_at <= %s + interval '1 minute' ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED",
                [number, uuid7_floor(oldest), oldest, lease_until, _BATCH],
            ).fetchall()
            if rows:
                connection.execute(
                    f"UPDATE {entry} SET status = 'interrupted', error_code = 'process_ended', "  # noqa: S608
                    "cost_nano = reserved_nano, tokens_in = reserved_in, tokens_out = reserved_out, "
                    "finished_at = clock_timestamp() WHERE id = ANY(%s) AND created_at >= %s AND status = 'open'",
                    [[row[0] for row in rows], oldest],
                )
                counters = sorted({one for row in rows for one in row[5]})
                states = {one.id: one for one in lock_counters(connection, schema, counters)}
                for _, created_at, tokens_in, tokens_out, cost, touched in rows:
                    windows = Windows.at(created_at.timestamp())
                    booked = Reservation(
                        tokens_in, tokens_out, cost, windows.minute, windows.day, windows.month
                    )
                    settle(
                        [states[one] for one in touched if one in states],
                        booked,
                        Used(tokens_in, tokens_out, cost),
                    )
                write_counters(connection, schema, list(states.values()))
                closed += len(rows)
                more = more or len(rows) == _BATCH
            elif long_gone:
                connection.execute(f"DELETE FROM {worker} WHERE id = %s", [number])  # noqa: S608
    if closed:
        logger.warning(
            "closed requests of a process that ended", extra={"schema_name": schema, "rows": closed}
        )
    return closed, more
