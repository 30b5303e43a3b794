"""What the scheduler rings, and how often. Seconds."""

from __future__ import annotations

from typing import Any

REQUEUE_EVERY_S = 5.0
AUDIT_EVERY_S = 2.0
HEADS_EVERY_S = 30.0
BATCHES_EVERY_S = 5.0
UPSTREAMS_EVERY_S = 30.0
SWEEP_EVERY_S = 5.0
LEDGER_EVERY_S = 60.0


def _every(task: str, seconds: float, **arguments: Any) -> dict[str, Any]:
    # A tick that could not be taken in time is dropped: the next one does the same, and no pile grows while
    # no worker is up.
    return {
        "task": f"workers.tasks.{task}",
        "schedule": seconds,
        "kwargs": arguments,
        "options": {"expires": max(seconds * 2, 10)},
    }


SCHEDULE: dict[str, dict[str, Any]] = {
    "requeue-expired": _every("requeue_expired", REQUEUE_EVERY_S),
    "batches-requeue": _every("batches_requeue", BATCHES_EVERY_S),
    "upstreams-check": _every("upstreams_check", UPSTREAMS_EVERY_S),
    "ledger-sweep": _every("ledger_sweep", SWEEP_EVERY_S),
    "ledger-maintain": _every("ledger_maintain", LEDGER_EVERY_S),
    "audit-sequence": _every("audit_sequence", AUDIT_EVERY_S),
    "audit-heads": _every("audit_sequence", HEADS_EVERY_S, heads=True),
}
