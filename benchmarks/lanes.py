"""Cost of an admission and its settlement: CPU of this process and time, alone and with many threads.

`python benchmarks/lanes.py [--schema acme] [--pairs 600]` against the configured database, in a tenant of its own that
is thrown away when `--schema` is not given. Each pair is two durable commits unless others share them.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "core.settings")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schema", default="", help="an existing tenant whose plan does not limit requests")
    parser.add_argument(
        "--pairs", type=int, default=600, help="admissions and settlements per line (default: 600)"
    )
    options = parser.parse_args()
    import django

    django.setup()
    from core.security.actor import SYSTEM, use_actor
    from tenants.models import Plan
    from tenants.services import tenant_delete, tenant_provision

    schema, made = options.schema, None
    if not schema:
        schema = f"lanes_{uuid.uuid4().hex[:8]}"
        with use_actor(SYSTEM):
            plan = Plan.objects.filter(requests_per_minute=None, tokens_per_day=None).first()
            plan = plan or Plan.objects.create(slug=schema.replace("_", "-"), name=f"Benchmark {schema}")
            made = tenant_provision(schema_name=schema, name=f"Benchmark {schema}", plan=plan)
    try:
        measure(schema, options.pairs)
    finally:
        if made is not None:
            from inference.ledger import lanes

            lanes.forget()
            with use_actor(SYSTEM):
                tenant_delete(tenant=made, confirmation=made.name)
            Plan.objects.filter(slug=schema.replace("_", "-")).delete()


def measure(schema: str, pairs: int) -> None:
    """Print a line per number of threads."""
    from inference.ledger.lanes import NewEntry, Settlement, lane
    from tenants.quotas.accounting import Need
    from tenants.quotas.scopes import end_user_digest, scopes_of

    one = lane(schema)
    user = end_user_digest("bench", "ann")
    scopes = scopes_of(key_id="bench", product="triage", team="blue", end_user=user)

    def pair() -> None:
        admission = one.admit(
            NewEntry(
                request_id="bench", key_id="bench", product="triage", team="blue", end_user=user, model="triage",
                route="chat.completions", policy_version="default-1", prompt_digest="0" * 64,
            ),
            Need(300, 400, 4_000_000, model="triage"),
            scopes,
        )  # fmt: skip
        one.settle(
            admission.entry_id, admission.created_at,
            Settlement(
                tokens_in=200, tokens_out=100, cost_nano=900_000, total_ms=12.0, output_digest="0" * 64,
                redactions={"prompt": {"EMAIL": 1}}, stages=[["upstream", 1.0, 9.0]],
            ),
        )  # fmt: skip

    for _ in range(30):
        pair()
    print(
        f"{'threads':>7} {'pairs':>6} {'CPU us/pair':>12} {'pairs/s':>8} {'p50 ms':>7} {'p99 ms':>7} {'per commit':>10}"
    )
    for threads in (1, 16, 64):
        each = max(1, pairs // threads)
        times: list[float] = []

        def work(each: int = each, times: list[float] = times) -> None:
            for _ in range(each):
                begun = time.perf_counter()
                pair()
                times.append((time.perf_counter() - begun) * 1e3)

        batches, operations = one.batches, one.operations
        cpu, begun = time.process_time(), time.perf_counter()
        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        cpu, took = time.process_time() - cpu, time.perf_counter() - begun
        times.sort()
        n = len(times)
        print(
            f"{threads:7d} {n:6d} {cpu / n * 1e6:12.0f} {n / took:8.0f} {times[n // 2]:7.2f} "
            f"{times[min(n - 1, int(n * 0.99))]:7.2f} {(one.operations - operations) / (one.batches - batches):10.1f}"
        )


if __name__ == "__main__":
    main()
