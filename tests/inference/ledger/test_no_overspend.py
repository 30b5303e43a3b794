"""Hundreds of concurrent requests in several processes that are killed at random: no budget is ever overspent."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from urllib.parse import quote

import pytest
from django.conf import settings
from django.db import connection

from inference.ledger.lanes import Lane
from inference.ledger.models import LedgerEntry
from inference.ledger.sweeping import sweep
from tenants.quotas.accounting import Windows
from tenants.quotas.models import Counter
from tests.inference.ledger.helpers import limit_write

PROCESSES, THREADS, KILLS = 3, 70, 6
# Nano-USD per day. A request is bound by at most 14,000.
CEILINGS = {
    ("tenant", ""): 9_000_000,
    ("product", "p"): 8_500_000,
    ("team", "blue"): 3_000_000,
    ("key", "k1"): 2_500_000,
    ("user", "*"): 2_000_000,
}
CONCURRENT = 12


def _start(path: Path, seed: int) -> subprocess.Popen[bytes]:
    database = connection.settings_dict
    address = (
        f"postgres://{quote(database['USER'])}:{quote(database['PASSWORD'])}@{database['HOST']}:{database['PORT']}/"
        f"{database['NAME']}"
    )
    return subprocess.Popen(
        [sys.executable, "-m", "tests.inference.ledger.hammer", "alpha", str(path), str(seed), str(THREADS)],
        env={**os.environ, "DATABASE_URL": address, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        cwd=settings.BASE_DIR,
    )


def _wait_up(path: Path, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        if path.exists() and b"up" in path.read_bytes():
            return
        assert process.poll() is None, "the process ended by itself"
        time.sleep(0.05)
    pytest.fail("the process did not start")


def test_no_budget_is_overspent_whoever_is_killed_whenever(ledger: Lane, tmp_path: Path) -> None:
    for (kind, name), ceiling in CEILINGS.items():
        limit_write(kind, name, cost_per_day_nano=ceiling)
    limit_write("key", "k2", concurrent=CONCURRENT)
    choose = random.Random(7)
    files: list[Path] = []
    running: list[tuple[subprocess.Popen[bytes], Path]] = []

    def add() -> None:
        path = tmp_path / f"{len(files)}"
        files.append(path)
        running.append((_start(path, len(files)), path))

    try:
        for _ in range(PROCESSES):
            add()
        for process, path in running:
            _wait_up(path, process)
        for _ in range(KILLS):
            time.sleep(choose.uniform(0.2, 0.9))
            victim, _ = running.pop(choose.randrange(len(running)))
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            add()
            _wait_up(running[-1][1], running[-1][0])
    finally:
        for process, _ in running:
            process.kill()
        for process, _ in running:
            process.wait()

    # Leases last 1.5 s; the servers' sides of killed connections end by themselves.
    for _ in range(200):
        sweep("alpha")
        if not LedgerEntry.objects.filter(status="open").exists():
            break
        time.sleep(0.1)
    assert not LedgerEntry.objects.filter(status="open").exists()

    spent: dict[tuple[str, str, int], int] = defaultdict(int)
    tokens: dict[tuple[str, str, int], int] = defaultdict(int)
    rows = {str(one.pk): one for one in LedgerEntry.objects.all()}
    for one in rows.values():
        day = Windows.at(one.created_at.timestamp()).day
        assert 0 <= one.cost_nano <= one.reserved_nano
        for kind, name in (
            ("tenant", ""), ("product", one.product), ("team", one.team), ("key", one.key_id), ("user", one.end_user),
        ):  # fmt: skip
            if kind == "tenant" or name:
                spent[kind, name, day] += one.cost_nano
                tokens[kind, name, day] += one.tokens_in + one.tokens_out

    # Overspend is zero at every scope.
    for (kind, name, _), total in spent.items():
        ceiling = CEILINGS.get((kind, name), CEILINGS.get((kind, "*")))
        assert ceiling is None or total <= ceiling, (kind, name, total)
    # The budgets were really fought over.
    assert (
        max(spent["key", "k1", day] for kind, _, day in spent if kind == "key") > 0.9 * CEILINGS["key", "k1"]
    )
    statuses = {
        status: sum(one.status == status for one in rows.values())
        for status in ("refused", "interrupted", "ok")
    }
    assert all(statuses.values()), statuses

    # Nothing is still booked, and the counters are exactly the sums of the ledger: nothing twice, nothing lost.
    for node in Counter.objects.filter(model=""):
        assert (node.open, node.open_cost_nano) == (0, 0), node
        assert node.cost_day_nano == spent[node.scope_kind, node.scope_id, node.day], node
        assert node.tokens_day == tokens[node.scope_kind, node.scope_id, node.day], node

    # What reached a client is in the ledger, at the cost the client was told.
    reached = 0
    for path in files:
        for line in path.read_text().splitlines():
            what, *rest = line.split()
            if what == "up":
                continue
            assert rest[0] in rows
            if what == "d" and len(rest) == 2:
                assert rows[rest[0]].cost_nano == int(rest[1])
                reached += 1
    assert reached > 200

    # Never more of k2 at once than its limit.
    events: list[tuple[float, int]] = []
    for one in rows.values():
        if one.key_id == "k2" and one.status != "refused":
            assert one.finished_at is not None
            events += [(one.created_at.timestamp(), 1), (one.finished_at.timestamp(), -1)]
    most = now = 0
    for _, step in sorted(events):
        now += step
        most = max(most, now)
    assert 0 < most <= CONCURRENT
