"""A worker that dies while it works on a batch: ``python -m tests.inference.gateway.batch_worker BATCH AFTER``.

It answers AFTER lines, lets their results be written, and kills itself with SIGKILL in the middle of the next.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any


def main() -> None:
    """Carry the batch out until the end comes."""
    import django

    django.setup()
    from django_tenants.utils import schema_context

    from inference.gateway import batches
    from inference.gateway.models import BatchItem

    name, after = sys.argv[1], int(sys.argv[2])
    lock = threading.Lock()
    asked = 0

    def answer(caller: Any, body: dict[str, Any], route: str, **_: Any) -> tuple[int, dict[str, Any]]:
        nonlocal asked
        with lock:
            asked += 1
            mine = asked
        if mine > after:
            with schema_context("alpha"):
                while BatchItem.objects.filter(batch__public_id=name).count() < after:
                    time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGKILL)
        return 200, {"id": "x", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}

    batches.serve = answer  # type: ignore[assignment]
    with schema_context("alpha"):
        batches.batch_execute(public_id=name)


if __name__ == "__main__":
    main()
