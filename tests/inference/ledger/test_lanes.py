"""Admission and settlement against a real database."""

from __future__ import annotations

import datetime
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from django.db import DatabaseError, connection

from inference.ledger import database, lanes
from inference.ledger.errors import LedgerUnavailable, Refused
from inference.ledger.lanes import Lane, NewEntry, Settlement, uuid7_floor
from inference.ledger.models import LedgerEntry, LedgerWorker
from inference.ledger.partitions import month_start, partition_name, partitions_ensure
from inference.ledger.sealing import Payload
from inference.ledger.sweeping import sweep
from tests.inference.ledger.helpers import admit, counter, row, settle

Write = Callable[..., None]


def _expire(lane: Lane) -> None:
    """The process is gone: its lease has ended and nothing renews it."""
    LedgerWorker.objects.filter(pk=lane.worker).update(
        lease_until=datetime.datetime.now(datetime.UTC) - datetime.timedelta(milliseconds=1)
    )


def test_an_admitted_request_has_a_row_and_its_bound_is_booked_everywhere(ledger: Lane) -> None:
    one = admit(ledger, team="t", tokens_in=10, tokens_out=20, cost_nano=500)
    stored = row(one.entry_id)
    assert (stored.status, stored.reserved_nano, stored.key_id, stored.worker) == (
        "open",
        500,
        "k1",
        ledger.worker,
    )
    for kind, name in (("tenant", ""), ("product", "triage"), ("team", "t"), ("key", "k1")):
        node = counter(kind, name)
        assert (node.open, node.open_cost_nano, node.cost_day_nano, node.tokens_day) == (1, 500, 500, 30)


def test_settling_returns_what_was_not_used(ledger: Lane) -> None:
    one = admit(ledger, tokens_in=10, tokens_out=20, cost_nano=500)
    charged = settle(
        ledger, one, tokens_in=9, tokens_out=3, cost_nano=120, total_ms=12.5, guards={"input": {"ok": True}}
    )
    stored, node = row(one.entry_id), counter("key", "k1")
    assert charged == stored.cost_nano == node.cost_day_nano == node.cost_month_nano == 120
    assert (stored.status, stored.tokens_out, stored.total_ms, stored.guards) == (
        "ok",
        3,
        12.5,
        {"input": {"ok": True}},
    )
    assert (node.open, node.open_cost_nano, node.tokens_day, node.requests_minute) == (0, 0, 12, 1)
    assert stored.finished_at is not None


def test_a_cost_above_the_bound_is_charged_at_the_bound(ledger: Lane) -> None:
    one = admit(ledger, cost_nano=100)
    assert settle(ledger, one, cost_nano=10_000) == 100
    assert counter("key", "k1").cost_day_nano == 100


def test_settling_twice_changes_nothing(ledger: Lane) -> None:
    one = admit(ledger, cost_nano=100)
    settle(ledger, one, cost_nano=60)
    assert settle(ledger, one, cost_nano=10, status="failed") == 60
    assert row(one.entry_id).status == "ok" and counter("key", "k1").cost_day_nano == 60


def test_two_settlements_of_one_request_in_the_same_batch_count_once(ledger: Lane) -> None:
    ones = [admit(ledger, cost_nano=100) for _ in range(8)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda one: settle(ledger, one, cost_nano=10), ones * 2))
    node = counter("key", "k1")
    assert (node.cost_day_nano, node.open, node.open_cost_nano) == (80, 0, 0)


def test_a_refusal_is_in_the_ledger_with_its_reason_and_books_nothing(ledger: Lane, limit: Write) -> None:
    limit("key", "k1", cost_per_day_nano=150)
    admit(ledger, cost_nano=100)
    with pytest.raises(Refused) as caught:
        admit(ledger, cost_nano=100)
    refused = caught.value
    assert (refused.limit, refused.scope, refused.status) == ("cost_per_day", ("key", "k1"), 429)
    assert "daily budget of the API key k1" in refused.message
    assert refused.headers["Retry-After"] == "1"  # a running request stands in the way
    stored = row(refused.entry_id)
    assert (stored.status, stored.http_status, stored.error_code) == ("refused", 429, "limit_cost_per_day")
    assert stored.policy_reason.startswith("The daily budget")
    assert counter("key", "k1").open == 1


def test_a_changed_limit_holds_from_the_next_admission_on(ledger: Lane, limit: Write) -> None:
    admit(ledger, cost_nano=100)
    limit("tenant", cost_per_day_nano=150)
    with pytest.raises(Refused):
        admit(ledger, cost_nano=100)
    limit("tenant", cost_per_day_nano=200)
    admit(ledger, cost_nano=100)


def test_each_key_has_its_own_share_of_a_limit_for_each(ledger: Lane, limit: Write) -> None:
    limit("key", "*", concurrent=1)
    one = admit(ledger, key="a")
    admit(ledger, key="b")
    with pytest.raises(Refused) as caught:
        admit(ledger, key="a")
    assert "this API key" in caught.value.message.lower() or "This API key" in caught.value.message
    settle(ledger, one)
    admit(ledger, key="a")


def test_a_limit_of_a_model_pattern_counts_only_its_models(ledger: Lane, limit: Write) -> None:
    limit("tenant", "", "triage", cost_per_day_nano=100)
    admit(ledger, cost_nano=100)
    with pytest.raises(Refused):
        admit(ledger, cost_nano=1)
    admit(ledger, cost_nano=100, model="drafts@1.0.0")
    assert counter("tenant", "", "triage").cost_day_nano == 100
    assert counter("tenant").cost_day_nano == 200


def test_the_plan_limits_the_organisation_and_each_key(ledger: Lane) -> None:
    from django_tenants.utils import schema_context

    from tenants.models import Plan

    with schema_context("public"):
        Plan.objects.update(requests_per_minute=2, tokens_per_day=100)
    lanes.forget()
    lane = lanes.lane("alpha")
    admit(lane, tokens_in=40)
    with pytest.raises(Refused, match="by your plan"):
        admit(lane, tokens_in=61)
    admit(lane, tokens_in=1)
    with pytest.raises(Refused, match="2 requests per minute"):
        admit(lane)


def test_rate_limit_headers_count_down(ledger: Lane, limit: Write) -> None:
    limit("key", "k1", requests_per_minute=10)
    left = [admit(ledger).headers["x-ratelimit-remaining-requests"] for _ in range(3)]
    # A minute may end in between; then the count starts again.
    assert left[0] == "9" and left[1:] in (["8", "7"], ["9", "8"], ["8", "9"])


def test_a_dead_process_is_charged_the_bound_and_its_places_are_free_again(
    ledger: Lane, limit: Write
) -> None:
    limit("key", "k1", concurrent=1)
    one = admit(ledger, tokens_in=5, tokens_out=7, cost_nano=100)
    _expire(ledger)
    assert sweep("alpha") == 1
    stored, node = row(one.entry_id), counter("key", "k1")
    assert (stored.status, stored.cost_nano, stored.tokens_out, stored.error_code) == (
        "interrupted", 100, 7, "process_ended",
    )  # fmt: skip
    assert (node.open, node.open_cost_nano, node.cost_day_nano) == (0, 0, 100)
    assert sweep("alpha") == 0


def test_a_live_process_is_not_swept(ledger: Lane) -> None:
    one = admit(ledger, cost_nano=100)
    ledger.touch()
    assert sweep("alpha") == 0 and row(one.entry_id).status == "open"


def test_a_late_settlement_lowers_the_charge_once(ledger: Lane) -> None:
    one = admit(ledger, tokens_out=50, cost_nano=100)
    _expire(ledger)
    sweep("alpha")
    assert settle(ledger, one, tokens_out=20, cost_nano=30) == 30
    stored, node = row(one.entry_id), counter("key", "k1")
    assert (stored.status, stored.cost_nano, stored.tokens_out) == ("ok", 30, 20)
    assert (node.cost_day_nano, node.tokens_day, node.open) == (30, 20, 0)
    assert settle(ledger, one, tokens_out=1, cost_nano=1) == 30
    assert counter("key", "k1").cost_day_nano == 30


def test_a_late_settlement_never_raises_the_charge(ledger: Lane) -> None:
    one = admit(ledger, cost_nano=100)
    _expire(ledger)
    sweep("alpha")
    assert settle(ledger, one, cost_nano=5_000) == 100


def test_a_process_that_slept_through_its_lease_takes_a_new_one_before_it_admits(ledger: Lane) -> None:
    admit(ledger)
    _expire(ledger)
    ledger._lease_until = 0.0  # its own clock says the same
    one = admit(ledger, cost_nano=10)
    assert LedgerWorker.objects.get(pk=ledger.worker).lease_until > one.created_at
    assert sweep("alpha") == 0


def test_a_recorded_request_is_final_and_free(ledger: Lane) -> None:
    entry_id = ledger.record(
        NewEntry(key_id="k1", policy_reason="not from here"), Settlement("refused", 403, "denied")
    )
    stored = row(entry_id)
    assert (stored.status, stored.http_status, stored.cost_nano, stored.policy_reason) == (
        "refused", 403, 0, "not from here",
    )  # fmt: skip
    with pytest.raises(ValueError, match="must be admitted"):
        ledger.record(NewEntry(), Settlement(cost_nano=1))
    with pytest.raises(ValueError, match="ends as one of"):
        ledger.record(NewEntry(), Settlement(status="open"))


def test_text_that_a_database_cannot_hold_is_cleaned_and_cut(ledger: Lane) -> None:
    entry_id = ledger.record(
        NewEntry(conversation="a\x00b\ud800", request_id="r" * 500, model="m" * 500), Settlement()
    )
    stored = row(entry_id)
    assert stored.conversation == "ab?" and len(stored.request_id) == 64 and len(stored.model) == 160


def test_one_operation_the_database_refuses_does_not_fail_the_others(ledger: Lane) -> None:
    ready = threading.Barrier(9)

    def run(number: int) -> str:
        ready.wait()
        try:
            # More than a smallint holds.
            ledger.record(NewEntry(), Settlement(http_status=10**6 if number == 0 else 200))
        except LedgerUnavailable:
            return "refused"
        return "written"

    with ThreadPoolExecutor(9) as pool:
        found = sorted(pool.map(run, range(9)))
    assert found == ["refused"] + ["written"] * 8


def test_a_settlement_with_values_no_database_holds_is_written_without_them(ledger: Lane) -> None:
    one = admit(ledger, cost_nano=9)
    guards = {"a": "\x00\ud800", "b": {1, 2}, "c": 2**80}
    settle(ledger, one, cost_nano=4, tokens_in=-5, total_ms=float("nan"), guards=guards)
    stored = row(one.entry_id)
    assert (stored.status, stored.cost_nano, stored.tokens_in, stored.total_ms) == ("ok", 4, 0, 0.0)
    assert stored.guards == {"a": "?", "b": [1, 2], "c": 2**63 - 1}


def test_ids_are_in_the_order_of_time_and_ranges_of_time_are_ranges_of_ids(ledger: Lane) -> None:
    ones = [admit(ledger) for _ in range(20)]
    ids = [one.entry_id for one in ones]
    assert ids == sorted(ids) and len(set(ids)) == 20
    middle = ones[10].created_at
    after = LedgerEntry.objects.filter(id__gte=uuid7_floor(middle)).count()
    assert after == LedgerEntry.objects.filter(created_at__gte=middle).count() == 10


def test_a_settled_row_can_be_neither_changed_nor_deleted(ledger: Lane) -> None:
    one = admit(ledger, cost_nano=10)
    settle(ledger, one, cost_nano=5)
    with pytest.raises(DatabaseError, match="final"):
        LedgerEntry.objects.filter(pk=one.entry_id).update(cost_nano=0)
    with pytest.raises(DatabaseError, match="final"):
        LedgerEntry.objects.filter(pk=one.entry_id).delete()


def test_rows_of_two_tenants_never_meet(ledger: Lane) -> None:
    admit(lanes.lane("beta"), cost_nano=7)
    assert LedgerEntry.objects.count() == 0
    with database.cold() as one:
        found = one.execute("SELECT count(*), max(reserved_nano) FROM beta.ledger_ledgerentry").fetchone()
    assert found == (1, 7)


def test_a_dead_connection_is_replaced_without_anyone_noticing(ledger: Lane) -> None:
    one = admit(ledger, cost_nano=10)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'signoff-ledger'"
        )
    assert settle(ledger, one, cost_nano=4) == 4
    admit(ledger)


def test_a_commit_in_doubt_is_refused_and_closed_when_it_turns_up(
    ledger: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    admit(ledger)  # the lane is warm
    real = database.Session.run

    def cut_after_commit(self: database.Session, statements: object) -> object:
        found = real(self, statements)  # type: ignore[arg-type]
        if statements[-1] == lanes.COMMIT:  # type: ignore[index]
            self.broken = self.unknown = True
            raise psycopg.OperationalError("the answer was lost")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(database.Session, "run", cut_after_commit)
        with pytest.raises(LedgerUnavailable):
            admit(ledger, key="k2", cost_nano=50)
    assert counter("key", "k2").open == 1  # it had been committed
    ledger.touch()
    node = counter("key", "k2")
    assert (node.open, node.cost_day_nano, node.open_cost_nano) == (0, 0, 0)
    assert LedgerEntry.objects.get(key_id="k2").status == "failed"


def test_settlements_survive_a_commit_in_doubt(ledger: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    one = admit(ledger, cost_nano=50)
    real = database.Session.run
    cuts = [True]

    def cut_once(self: database.Session, statements: object) -> object:
        found = real(self, statements)  # type: ignore[arg-type]
        if cuts and statements[-1] == lanes.COMMIT:  # type: ignore[index]
            cuts.clear()
            self.broken = self.unknown = True
            raise psycopg.OperationalError("the answer was lost")
        return found

    monkeypatch.setattr(database.Session, "run", cut_once)
    assert settle(ledger, one, cost_nano=20) == 20
    assert counter("key", "k1").cost_day_nano == 20


def test_prompt_and_output_are_kept_sealed_in_the_same_transaction(ledger: Lane) -> None:
    from inference.ledger.models import LedgerPayload
    from inference.ledger.selectors import payload_read

    one = admit(ledger)
    settle(ledger, one, payload=Payload(b"a secret prompt", b"an answer", 7))
    stored = LedgerPayload.objects.get(pk=one.entry_id)
    assert b"secret" not in bytes(stored.prompt)
    assert (stored.expires_at - one.created_at).days == 7
    assert payload_read(one.entry_id) == ("a secret prompt", "an answer")


def test_a_forked_child_does_not_use_its_parents_lanes(ledger: Lane) -> None:
    import os

    admit(ledger)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # No tidy end: pytest's own must not run twice.
        other = lanes.lane("alpha")
        os.write(writer, b"1" if other is not ledger and not database._stack.idle else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    assert os.read(reader, 1) == b"1"
    os.close(reader)
    admit(ledger)


def test_rows_go_to_the_partition_of_their_month(ledger: Lane) -> None:
    one = admit(ledger)
    with database.cold() as other:
        found = other.execute("SELECT tableoid::regclass::text FROM alpha.ledger_ledgerentry").fetchone()
    assert found is not None and found[0] == f"alpha.{partition_name(month_start(one.created_at))}"


def test_rows_of_the_default_partition_move_into_the_new_month(ledger: Lane) -> None:
    far = datetime.datetime(2031, 5, 6, tzinfo=datetime.UTC)
    LedgerEntry.objects.create(id=uuid.uuid4(), created_at=far, status="ok")
    assert partitions_ensure("alpha", now=far) == [
        "ledger_ledgerentry_y2031m05",
        "ledger_ledgerentry_y2031m06",
    ]
    assert partitions_ensure("alpha", now=far) == []
    with database.cold() as other:
        found = other.execute("SELECT tableoid::regclass::text FROM alpha.ledger_ledgerentry").fetchall()
    assert found == [("alpha.ledger_ledgerentry_y2031m05",)]
    with pytest.raises(DatabaseError, match="final"):
        LedgerEntry.objects.filter(created_at=far).delete()
