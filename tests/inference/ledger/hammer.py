"""One process that admits and settles as fast as it can until it is killed.

`python -m tests.inference.ledger.hammer SCHEMA FILE SEED THREADS`. What a client would have received goes to FILE, a
line each, only after the ledger said it is durable: `s <id>` when a first byte may leave, `d <id> <nano>` at the end.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time


def main(schema: str, path: str, seed: int, threads: int) -> None:
    import django

    django.setup()
    from inference.ledger import lanes
    from inference.ledger.errors import LedgerUnavailable, Refused
    from tenants.quotas.accounting import Need
    from tenants.quotas.scopes import scopes_of

    lanes.LEASE_S = 1.5
    lane = lanes.lane(schema)
    out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def client(number: int) -> None:
        choose = random.Random(seed * 1000 + number)
        while True:
            key, team = choose.choice(["k1", "k2", "k3"]), choose.choice(["", "blue"])
            user = choose.choice(["", "u1", "u2"])
            tokens_in, tokens_out = choose.randint(1, 200), choose.randint(1, 400)
            bound = tokens_in * 10 + tokens_out * 30
            entry = lanes.NewEntry(
                key_id=key, team=team, product="p", end_user=user, model="p@1", request_id="h"
            )
            scopes = scopes_of(key_id=key, product="p", team=team, end_user=user)
            try:
                one = lane.admit(entry, Need(tokens_in, tokens_out, bound, model="p@1"), scopes)
            except Refused:
                time.sleep(choose.random() * 0.02)
                continue
            except LedgerUnavailable:
                continue
            os.write(out, f"s {one.entry_id}\n".encode())
            time.sleep(choose.random() * 0.03)
            used_in, used_out = choose.randint(0, tokens_in), choose.randint(0, tokens_out)
            cost = used_in * 10 + used_out * 30
            if choose.random() < 0.05:
                cost = bound * 10  # an engine that reports more than it may
            status = choose.choice(["ok", "ok", "ok", "failed", "cancelled"])
            try:
                charged = lane.settle(
                    one.entry_id, one.created_at,
                    lanes.Settlement(status, tokens_in=used_in, tokens_out=used_out, cost_nano=cost),
                )  # fmt: skip
            except LedgerUnavailable:
                continue
            os.write(out, f"d {one.entry_id} {charged}\n".encode())

    for number in range(threads):
        threading.Thread(target=client, args=(number,), daemon=True).start()
    os.write(out, b"up\n")
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
