"""The lane of a tenant: every admission and settlement of this process, combined into few transactions.

Flat combining: a caller queues its operation; whoever finds the lane free carries out everything queued as one
transaction, while others wait for their result. Under load a commit is shared by tens of requests; alone, a request
waits for nobody. One transaction:

1. settle: UPDATE the rows that are still open (a row closed by the sweeper is not touched here);
2. lock the counters of all operations, in the order of their ids;
3. decide each admission in order of arrival, in pure Python (tenants.quotas.accounting);
4. write the counters back and insert the new rows, refusals included; COMMIT.

Results are handed out after the commit, so what a caller was told is on disk. A process killed at any point leaves
either nothing or an open row with its bound booked; the sweeper (inference/ledger/sweeping.py) closes that once the
process's lease has ended. Why overspend is impossible: a bound is booked under the lock of every counter it touches,
nothing ever charges more than its bound, and a window's counter only falls by what a settlement returns to it.

Limits cannot be stale: each change raises a version on the organisation's counter, which every admission locks.
"""

from __future__ import annotations

import datetime
import logging
import math
import os
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import orjson
import psycopg

from inference.ledger import database, sealing
from inference.ledger.errors import LedgerUnavailable, Refused
from inference.ledger.partitions import partitions_ensure
from tenants.quotas.accounting import (
    KINDS,
    CounterState,
    Headroom,
    LimitSpec,
    Need,
    Node,
    Refusal,
    Reservation,
    Scope,
    Tree,
    Used,
    Windows,
    alarms,
    correct,
    headroom,
    reserve,
    settle,
)

logger = logging.getLogger("signoff.ledger")

# Seconds a process's open rows outlive it.
LEASE_S = 15.0
# Seconds after which a request that nobody settled is given up, though its process lives.
MAX_OPEN_S = 3600.0
# Seconds for which limits of the plan are remembered (limits of the tenant are never stale).
PLAN_TTL_S = 5.0
MAX_BATCH = 128
_ATTEMPTS = 6
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_RANK = {kind: rank for rank, kind in enumerate(KINDS)}


# ------------------------------------------------------------------ what callers give and get
@dataclass(slots=True)
class NewEntry:
    """What is known of a request when it is admitted. Texts that are too long are cut."""

    request_id: str = ""
    traceparent: str = ""
    conversation: str = ""
    key_id: str = ""
    end_user: str = ""
    product: str = ""
    team: str = ""
    pilot: str = ""
    release_id: int | None = None
    release_version: str = ""
    release_digest: str = ""
    model: str = ""
    channel: str = ""
    route: str = ""
    stream: bool = False
    policy_version: str = ""
    policy_reason: str = ""
    price_id: int | None = None
    bytes_in: int = 0
    prompt_digest: str = ""
    # The document the policy decided on; no prompt text. {} is stored for what is no JSON or above the bound.
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Settlement:
    """How a request ended. Units: tokens, nano-USD, milliseconds, bytes.

    `cost_nano` above the booked bound is charged at the bound. `stages`: [name, start ms, length ms] for the timeline.
    """

    status: str = "ok"
    http_status: int = 200
    error_code: str = ""
    guards: Mapping[str, Any] = field(default_factory=dict)
    redactions: Mapping[str, Any] = field(default_factory=dict)
    cache: str = "off"
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    cost_nano: int = 0
    queue_ms: float = 0.0
    first_token_ms: float = 0.0
    total_ms: float = 0.0
    overhead_ms: float = 0.0
    upstream_ms: float = 0.0
    upstream: str = ""
    bytes_out: int = 0
    prompt_digest: str = ""
    output_digest: str = ""
    stages: Sequence[Sequence[Any]] = ()
    # Kept sealed, for this many days, when given.
    payload: sealing.Payload | None = None


@dataclass(frozen=True, slots=True)
class Admission:
    """A request may run: its row exists and its bound is booked."""

    entry_id: uuid.UUID
    created_at: datetime.datetime
    headroom: Headroom
    reserved_nano: int
    # Budgets past their soft alarm, e.g. ("key day 83%",).
    alarms: tuple[str, ...] = ()

    @property
    def headers(self) -> dict[str, str]:
        """The `x-ratelimit-*` headers of the tightest limits."""
        return self.headroom.headers()


FINAL = frozenset({"ok", "refused", "failed", "cancelled", "interrupted"})

# ------------------------------------------------------------------ SQL
_ADMIT_COLUMNS = {
    "id": "uuid", "created_at": "timestamptz", "request_id": "text", "traceparent": "text", "conversation": "text",
    "key_id": "text", "end_user": "text", "product": "text", "team": "text", "pilot": "text", "release_id": "bigint",
    "release_version": "text", "release_digest": "text", "model": "text", "channel": "text", "route": "text",
    "stream": "boolean", "policy_version": "text", "policy_reason": "text", "price_id": "bigint", "bytes_in": "bigint",
    "prompt_digest": "text", "reserved_in": "bigint", "reserved_out": "bigint", "reserved_nano": "bigint",
    "attributes": "jsonb", "worker": "uuid", "counters": "bigint[]",
}  # fmt: skip
_SETTLE_COLUMNS = {
    "status": "text", "http_status": "smallint", "error_code": "text", "guards": "jsonb", "redactions": "jsonb",
    "cache": "text", "tokens_in": "bigint", "tokens_out": "bigint", "tokens_cached": "bigint", "cost_nano": "bigint",
    "queue_ms": "double precision", "first_token_ms": "double precision", "total_ms": "double precision",
    "overhead_ms": "double precision", "upstream_ms": "double precision", "upstream": "text", "bytes_out": "bigint",
    "prompt_digest": "text", "output_digest": "text", "stages": "jsonb",
}  # fmt: skip
_RECORD_COLUMNS = {
    **{name: kind for name, kind in _ADMIT_COLUMNS.items() if name not in {"worker", "counters"}},
    **_SETTLE_COLUMNS,
    "finished_at": "timestamptz",
}
# Longest texts, as the migration has them.
_LENGTHS = {
    "request_id": 64, "traceparent": 64, "conversation": 128, "key_id": 16, "end_user": 32, "product": 60, "team": 80,
    "pilot": 40, "release_version": 60, "release_digest": 71, "model": 160, "channel": 60, "route": 24,
    "policy_version": 80, "policy_reason": 300, "prompt_digest": 64, "error_code": 60, "upstream": 120,
    "output_digest": 64, "cache": 8,
}  # fmt: skip
_COUNTER_COLUMNS = (
    "minute", "requests_minute", "tokens_in_minute", "tokens_out_minute", "day", "tokens_day", "cost_day_nano",
    "month", "cost_month_nano", "open", "open_cost_nano",
)  # fmt: skip


def _recordset(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in columns.items())


class _Sql:
    """The statements of one tenant."""

    def __init__(self, schema: str) -> None:
        entry = database.quoted(schema, "ledger_ledgerentry")
        counter = database.quoted(schema, "quotas_counter")
        payload = database.quoted(schema, "ledger_ledgerpayload")
        names = ", ".join(_ADMIT_COLUMNS)
        self.admit = (
            f"INSERT INTO {entry} ({names}) SELECT {names} "  # noqa: S608 (quoted names, own columns)
            f"FROM json_to_recordset($1::json) AS v({_recordset(_ADMIT_COLUMNS)})"
        ).encode()
        names = ", ".join(_RECORD_COLUMNS)
        # The same row again after a connection that broke in the commit: written once.
        self.record = (
            f"INSERT INTO {entry} ({names}) SELECT {names} "  # noqa: S608
            f"FROM json_to_recordset($1::json) AS v({_recordset(_RECORD_COLUMNS)}) ON CONFLICT DO NOTHING"
        ).encode()
        columns = {"id": "uuid", "created_at": "timestamptz", **_SETTLE_COLUMNS}
        assigned = ", ".join(
            "prompt_digest = coalesce(nullif(v.prompt_digest, ''), e.prompt_digest)"
            if name == "prompt_digest"
            else f"{name} = v.{name}"
            for name in _SETTLE_COLUMNS
        )
        self.settle = (
            f"UPDATE {entry} e SET {assigned}, finished_at = clock_timestamp() "  # noqa: S608
            f"FROM json_to_recordset($1::json) AS v({_recordset(columns)}) "
            "WHERE e.id = v.id AND e.created_at = v.created_at AND e.status = 'open' RETURNING e.id"
        ).encode()
        self.settle_late = self.settle.replace(b"e.status = 'open'", b"e.status = 'interrupted'")
        self.lock = (
            f"SELECT id, {', '.join(_COUNTER_COLUMNS)}, limits_version FROM {counter} "  # noqa: S608
            "WHERE id = ANY($1::bigint[]) ORDER BY id FOR UPDATE"
        ).encode()
        self.clock = b"SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
        arrays = ", ".join(f"${index}::bigint[]" for index in range(1, len(_COUNTER_COLUMNS) + 2))
        self.counters = (
            f"UPDATE {counter} c SET {', '.join(f'{name} = v.{name}' for name in _COUNTER_COLUMNS)} "  # noqa: S608
            f"FROM unnest({arrays}) AS v(id, {', '.join(_COUNTER_COLUMNS)}) WHERE c.id = v.id"
        ).encode()
        self.payload = (
            f"INSERT INTO {payload} (entry_id, created_at, expires_at, key_id, prompt, output) "  # noqa: S608
            "SELECT entry_id, created_at, expires_at, key_id, decode(prompt, 'hex'), decode(output, 'hex') "
            "FROM json_to_recordset($1::json) AS v(entry_id uuid, created_at timestamptz, expires_at timestamptz, "
            "key_id uuid, prompt text, output text) ON CONFLICT DO NOTHING"
        ).encode()


BEGIN = (b"BEGIN", ())
COMMIT = (b"COMMIT", ())
ROLLBACK = (b"ROLLBACK", ())


# ------------------------------------------------------------------ operations
@dataclass(slots=True)
class _Booked:
    """A running request of this process."""

    reservation: Reservation
    counters: tuple[int, ...]
    since: float


class _Op:
    __slots__ = (
        "booked", "created_at", "done", "entry", "entry_id", "error", "gate", "keys", "kind", "need", "nodes", "result",
        "scopes", "sealed", "settlement",
    )  # fmt: skip

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.entry: NewEntry | None = None
        self.need: Need | None = None
        self.scopes: Sequence[Scope] = ()
        self.settlement: Settlement | None = None
        self.sealed: sealing.SealedPayload | None = None
        self.entry_id: uuid.UUID | None = None
        self.created_at: datetime.datetime | None = None
        self.booked: _Booked | None = None
        self.keys: list[tuple[str, str, str]] = []
        self.nodes: list[tuple[LimitSpec, ...]] = []
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.gate = threading.Lock()
        self.gate.acquire()


class _Moved(Exception):
    """Limits or counters changed under a batch: start it again."""


class Lane:
    """Admissions and settlements of one tenant in this process. Safe for any number of threads."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self._sql = _Sql(schema)
        self._mutex = threading.Lock()
        self._queue: deque[_Op] = deque()
        self._leading = False
        self._tree: Tree | None = None
        self._tree_until = 0.0
        self._counter_ids: dict[tuple[str, str, str], int] = {}
        self._tenant_counter = 0
        self.worker = uuid.uuid4()
        # Until when (monotonic seconds) this process surely holds its lease.
        self._lease_until = 0.0
        self._lease_lock = threading.Lock()
        self.inflight: dict[uuid.UUID, tuple[datetime.datetime, _Booked]] = {}
        # Rows whose commit was in doubt, to be closed when found.
        self._doubtful: deque[tuple[uuid.UUID, datetime.datetime]] = deque()
        self._prepared = False
        self.last_used = time.monotonic()
        # Figures for benchmarks and tests.
        self.batches = 0
        self.operations = 0

    # ---------------------------------------------------------------- the interface
    def admit(self, entry: NewEntry, need: Need, scopes: Sequence[Scope]) -> Admission:
        """Book a request's bound on every scope and open its ledger row; durable before return.

        Args:
            scopes: as tenants.quotas.scopes.scopes_of gives them.
        Raises:
            Refused: a limit refuses; the refusal is in the ledger. LedgerUnavailable: nothing was booked that stays.
        """
        op = _Op("admit")
        op.entry, op.need, op.scopes = entry, need, scopes
        found = self._submit(op)
        assert isinstance(found, Admission)
        return found

    def settle(self, entry_id: uuid.UUID, created_at: datetime.datetime, settlement: Settlement) -> int:
        """Close a request's row and return what was booked but not used; durable before return.

        Settling twice changes nothing. Of a row the sweeper closed meanwhile, the charge is only ever lowered.
        Returns the nano-USD charged. Raises LedgerUnavailable; the row then stays open and is charged at its bound
        when the process's lease ends, unless settled again before.
        """
        if settlement.status not in FINAL:
            raise ValueError(f"A request ends as one of {sorted(FINAL)}, not {settlement.status!r}.")
        # An engine that reports nonsense must not lower what others have used.
        settlement.tokens_in = max(0, settlement.tokens_in)
        settlement.tokens_out = max(0, settlement.tokens_out)
        settlement.tokens_cached = max(0, settlement.tokens_cached)
        settlement.cost_nano = max(0, settlement.cost_nano)
        op = _Op("settle")
        op.entry_id, op.created_at, op.settlement = entry_id, created_at, settlement
        if settlement.payload is not None:
            op.sealed = self._sealed(entry_id, settlement.payload)
        return int(self._submit(op))

    def record(self, entry: NewEntry, settlement: Settlement) -> uuid.UUID:
        """Write the row of a request that never reserved (denied, blocked); durable before return. Returns its id.

        Raises ValueError for a settlement with a cost: what costs is admitted first. LedgerUnavailable.
        """
        if settlement.cost_nano:
            raise ValueError("A request that costs money must be admitted before it is served.")
        if settlement.status not in FINAL:
            raise ValueError(f"A request ends as one of {sorted(FINAL)}, not {settlement.status!r}.")
        op = _Op("record")
        op.entry, op.settlement = entry, settlement
        op.created_at = datetime.datetime.now(datetime.UTC)
        op.entry_id = _uuid7(op.created_at)
        if settlement.payload is not None:
            op.sealed = self._sealed(op.entry_id, settlement.payload)
        self._submit(op)
        return op.entry_id

    def touch(self) -> None:
        """Renew this process's lease and close what nobody will: doubtful rows and requests open for too long."""
        with self._lease_lock:
            begun = time.monotonic()
            oldest = min((at for at, _ in list(self.inflight.values())), default=None)
            table = database.quoted(self.schema, "ledger_ledgerworker")
            with database.cold() as connection:
                # Nothing that is admitted from now on is older than now, less a batch in progress.
                connection.execute(
                    f"INSERT INTO {table} (id, lease_until, oldest_at, host, pid) "  # noqa: S608 (quoted name)
                    "VALUES (%(id)s, clock_timestamp() + %(lease)s, "
                    "least(%(oldest)s, clock_timestamp() - interval '1 minute'), %(host)s, %(pid)s) "
                    "ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until, oldest_at = excluded.oldest_at",
                    {
                        "id": self.worker,
                        "lease": datetime.timedelta(seconds=LEASE_S),
                        "oldest": oldest,
                        "host": socket.gethostname()[:120],
                        "pid": os.getpid(),
                    },
                )
            self._lease_until = begun + LEASE_S * 0.7
        self._close_forgotten()

    def rest(self) -> None:
        """Give the lease back when nothing runs; the next admission takes a new one."""
        with self._lease_lock:
            if self.inflight or self._doubtful or self._queue:
                return
            self._lease_until = 0.0
            table = database.quoted(self.schema, "ledger_ledgerworker")
            with database.cold() as connection:
                # Ended, not deleted: a row that slipped in meanwhile is found by the sweeper.
                connection.execute(
                    f"UPDATE {table} SET lease_until = clock_timestamp() WHERE id = %s",  # noqa: S608
                    [self.worker],
                )

    # ---------------------------------------------------------------- combining
    def _submit(self, op: _Op) -> Any:
        with self._mutex:
            self._queue.append(op)
            lead = not self._leading
            if lead:
                self._leading = True
        if not lead:
            op.gate.acquire()
        if not op.done:
            self._lead(op)
        if op.error is not None:
            raise op.error
        return op.result

    def _lead(self, own: _Op) -> None:
        """Carry out one batch, the caller's operation among it, then hand the lead on."""
        with self._mutex:
            queue = self._queue
            batch = [queue.popleft() for _ in range(min(len(queue), MAX_BATCH))]
        try:
            self._execute(batch)
        except BaseException as error:
            for op in batch:
                if op.result is None and op.error is None:
                    op.error = _unavailable(error)
            if not isinstance(error, Exception):
                raise
        finally:
            with self._mutex:
                following = self._queue[0] if self._queue else None
                if following is None:
                    self._leading = False
            # The next batch begins while this one's callers wake.
            if following is not None:
                following.gate.release()
            for op in batch:
                op.done = True
                if op is not own:
                    op.gate.release()

    def _execute(self, batch: list[_Op]) -> None:
        self.last_used = time.monotonic()
        self.batches += 1
        self.operations += len(batch)
        if not self._prepared:
            partitions_ensure(self.schema)
            _keeper_start()
            self._prepared = True
        if time.monotonic() > self._lease_until and any(op.kind == "admit" for op in batch):
            self.touch()
        try:
            late = self._transact(batch)
        except psycopg.OperationalError as error:
            if len(batch) > 1 and error.sqlstate in {"40001", "40P01", "55P03", "57014"}:
                late = self._singly(batch)
            else:
                raise
        except (psycopg.Error, TypeError, ValueError):
            # One operation that cannot be written must not fail the others.
            late = self._singly(batch)
        for op in late:
            try:
                op.result = self._settle_late(op)
            except psycopg.Error as error:
                op.error = _unavailable(error)

    def _singly(self, batch: list[_Op]) -> list[_Op]:
        late: list[_Op] = []
        for op in batch:
            try:
                late += self._transact([op], scrub=True)
            except (psycopg.Error, TypeError, ValueError, LedgerUnavailable) as error:
                op.result, op.error = None, _unavailable(error)
        return late

    def _transact(self, batch: list[_Op], *, scrub: bool = False) -> list[_Op]:
        """One transaction, again when limits or counters moved or the connection was dead. Returns late settles.

        `scrub`: make values that JSON or the database cannot hold into such that they can.
        """
        pending = batch
        for attempt in range(_ATTEMPTS):
            committing = False
            try:
                nodes = self._plan(pending)
                with database.session() as session:
                    step = _Transaction(self, session, pending, nodes, scrub=scrub)
                    try:
                        step.begin()
                    except _Moved:
                        session.run([ROLLBACK])
                        continue
                    committing = True
                    return step.finish()
            except psycopg.OperationalError as error:
                if not database.connection_lost(error):
                    raise
                if committing:
                    # Whether the commit happened is unknown: settlements and records can be repeated, admissions
                    # cannot; they are refused, and closed should they turn up.
                    kept = []
                    for op in pending:
                        if op.kind == "admit":
                            op.result = None
                            op.error = _unavailable(error)
                            if op.entry_id is not None and op.created_at is not None:
                                self.inflight.pop(op.entry_id, None)
                                self._doubtful.append((op.entry_id, op.created_at))
                        else:
                            kept.append(op)
                    pending = kept
                    if not pending:
                        return []
                if attempt >= 2:
                    raise
                time.sleep(0.05 * (attempt + 1))
        raise LedgerUnavailable("The limits keep changing faster than requests can be admitted. Try again.")

    # ---------------------------------------------------------------- limits and counters
    def _plan(self, batch: list[_Op]) -> dict[tuple[str, str, str], int]:
        """Find each admission's counters and limits; make counters that do not exist yet."""
        admits = [op for op in batch if op.kind == "admit"]
        if not admits:
            return {}
        tree = self._tree
        if tree is None or time.monotonic() > self._tree_until:
            tree = self._load_tree()
        ids = self._counter_ids
        missing: set[tuple[str, str, str]] = set()
        for op in admits:
            assert op.need is not None
            op.keys, op.nodes = [], []
            scopes = op.scopes
            if not scopes or scopes[0].kind != "tenant":
                scopes = (
                    Scope("tenant"),
                    *sorted((one for one in scopes if one.kind != "tenant"), key=lambda one: _RANK[one.kind]),
                )
            for scope in scopes:
                for pattern, specs in tree.nodes(scope, op.need.model):
                    key = (scope.kind, scope.id, pattern)
                    op.keys.append(key)
                    op.nodes.append(specs)
                    if key not in ids:
                        missing.add(key)
        if missing:
            self._make_counters(missing)
        return ids

    def _load_tree(self) -> Tree:
        limit = database.quoted(self.schema, "quotas_limit")
        counter = database.quoted(self.schema, "quotas_counter")
        with database.cold() as connection:
            # The version before the limits: a change in between is then noticed by the next batch.
            row = connection.execute(
                f"INSERT INTO {counter} AS c (scope_kind, scope_id, model) VALUES ('tenant', '', '') "  # noqa: S608
                "ON CONFLICT (scope_kind, scope_id, model) DO UPDATE SET limits_version = c.limits_version "
                "RETURNING limits_version, id"
            ).fetchone()
            assert row is not None
            found = connection.execute(
                "SELECT scope_kind, scope_id, model, requests_per_minute, tokens_in_per_minute, "  # noqa: S608
                "tokens_out_per_minute, concurrent, tokens_per_day, cost_per_day_nano, cost_per_month_nano, "
                f"alarm_share, allowed_models, id FROM {limit}"
            ).fetchall()
            plan = connection.execute(
                "SELECT p.requests_per_minute, p.tokens_per_day FROM public.tenants_tenant t "
                "JOIN public.tenants_plan p ON p.slug = t.plan_id WHERE t.schema_name = %s",
                [self.schema],
            ).fetchone()
        names = [one.name for one in fields(LimitSpec) if one.name != "source"]
        specs = [
            LimitSpec(**{**dict(zip(names, one, strict=True)), "allowed_models": tuple(one[11] or ())})
            for one in found
        ]
        specs += plan_specs(plan[0], plan[1]) if plan else []
        self._tenant_counter = row[1]
        self._counter_ids["tenant", "", ""] = row[1]
        self._tree = tree = Tree(specs, version=row[0])
        self._tree_until = time.monotonic() + PLAN_TTL_S
        return tree

    def _make_counters(self, missing: set[tuple[str, str, str]]) -> None:
        counter = database.quoted(self.schema, "quotas_counter")
        kinds, ids, models = zip(*sorted(missing), strict=True)
        arrays = [list(kinds), list(ids), list(models)]
        with database.cold() as connection:
            connection.execute(
                f"INSERT INTO {counter} (scope_kind, scope_id, model) "  # noqa: S608 (quoted name)
                "SELECT * FROM unnest(%s::text[], %s::text[], %s::text[]) ON CONFLICT DO NOTHING",
                arrays,
            )
            rows = connection.execute(
                f"SELECT c.scope_kind, c.scope_id, c.model, c.id FROM {counter} c "  # noqa: S608
                "JOIN unnest(%s::text[], %s::text[], %s::text[]) AS v(kind, id, model) "
                "ON (c.scope_kind, c.scope_id, c.model) = (v.kind, v.id, v.model)",
                arrays,
            ).fetchall()
        if len(self._counter_ids) > 200_000:
            tenant = self._counter_ids.get(("tenant", "", ""), 0)
            self._counter_ids.clear()
            self._counter_ids["tenant", "", ""] = tenant
        for kind, scope_id, model, number in rows:
            self._counter_ids[kind, scope_id, model] = number

    # ---------------------------------------------------------------- rare cases
    def _sealed(self, entry_id: uuid.UUID, payload: sealing.Payload) -> sealing.SealedPayload:
        try:
            return sealing.payload_seal(self.schema, entry_id, payload)
        except psycopg.Error as error:
            raise _unavailable(error) from error

    def _settle_late(self, op: _Op) -> int:
        """Settle a row that is not open: swept meanwhile, settled before, or of another process."""
        assert op.settlement is not None and op.entry_id is not None and op.created_at is not None
        entry = database.quoted(self.schema, "ledger_ledgerentry")
        with database.cold() as connection, connection.transaction():
            row = connection.execute(
                "SELECT status, cost_nano, tokens_in, tokens_out, reserved_in, reserved_out, "  # noqa: S608
                f"reserved_nano, counters FROM {entry} WHERE id = %s AND created_at = %s FOR UPDATE",
                [op.entry_id, op.created_at],
            ).fetchone()
            if row is None:
                raise LedgerUnavailable(f"The ledger has no row {op.entry_id}.")
            status, cost, tokens_in, tokens_out, reserved_in, reserved_out, reserved, counters = row
            if status not in {"open", "interrupted"}:
                return int(cost)  # settled before: once is enough
            windows = Windows.at(op.created_at.timestamp())
            booked = Reservation(
                reserved_in, reserved_out, reserved, windows.minute, windows.day, windows.month
            )
            settlement = op.settlement
            used = Used(settlement.tokens_in, settlement.tokens_out, settlement.cost_nano)
            states = lock_counters(connection, self.schema, counters)
            if status == "open":
                charged = settle(states, booked, used)
            else:
                charged = correct(states, booked, Used(tokens_in, tokens_out, cost), used)
            write_counters(connection, self.schema, states)
            text = self._sql.settle if status == "open" else self._sql.settle_late
            connection.execute(
                text.decode().replace("$1", "%s"),
                [_dumps_scrubbed([_settled_row(op.entry_id, op.created_at, settlement, charged)]).decode()],
            )
            if op.sealed is not None:
                connection.execute(
                    self._sql.payload.decode().replace("$1", "%s"),
                    [orjson.dumps([_payload_row(op)]).decode()],
                )
        self.inflight.pop(op.entry_id, None)
        return charged

    def _close_forgotten(self) -> None:
        now = time.monotonic()
        old = [
            (entry_id, at)
            for entry_id, (at, booked) in list(self.inflight.items())
            if now - booked.since > MAX_OPEN_S
        ]
        for entry_id, at in old:
            booked = self.inflight[entry_id][1].reservation
            logger.error("a request was never settled", extra={"entry": str(entry_id)})
            self.settle(
                entry_id, at,
                Settlement(
                    status="interrupted", http_status=0, error_code="never_settled", tokens_in=booked.tokens_in,
                    tokens_out=booked.tokens_out, cost_nano=booked.cost_nano,
                ),
            )  # fmt: skip
        for _ in range(len(self._doubtful)):
            entry_id, at = self._doubtful.popleft()
            op = _Op("settle")
            op.entry_id, op.created_at = entry_id, at
            op.settlement = Settlement(status="failed", http_status=503, error_code="ledger_unavailable")
            try:
                self._settle_late(op)
            except LedgerUnavailable:
                continue  # the commit did not happen
            except psycopg.Error:
                self._doubtful.append((entry_id, at))
                raise


class _Transaction:
    """One attempt at one batch."""

    def __init__(
        self,
        lane: Lane,
        session: database.Session,
        batch: list[_Op],
        ids: Mapping[tuple[str, str, str], int],
        *,
        scrub: bool = False,
    ) -> None:
        self.lane = lane
        self.dumps = _dumps_scrubbed if scrub else orjson.dumps
        self.session = session
        self.admits = [op for op in batch if op.kind == "admit"]
        self.settles = [op for op in batch if op.kind == "settle"]
        self.records = [op for op in batch if op.kind == "record"]
        self.ids = ids
        self.states: dict[int, CounterState] = {}
        self.settled: set[uuid.UUID] = set()
        self.now_us = 0
        # Settlements of this process's running requests; others take the slow way.
        self.fast: list[_Op] = []

    def begin(self) -> None:
        """Settle open rows, lock counters, read the clock. Raises _Moved."""
        lane, sql = self.lane, self.lane._sql
        statements: list[database.Statement] = [BEGIN]
        wanted: set[int] = set()
        rows = []
        for op in self.settles:
            assert op.entry_id is not None and op.created_at is not None and op.settlement is not None
            known = lane.inflight.get(op.entry_id)
            if known is None or op.entry_id in self.settled:
                continue
            op.booked = known[1]
            self.fast.append(op)
            self.settled.add(op.entry_id)
            wanted.update(op.booked.counters)
            charge = min(op.settlement.cost_nano, op.booked.reservation.cost_nano)
            rows.append(_settled_row(op.entry_id, op.created_at, op.settlement, charge))
        self.settled.clear()
        needed: set[int] = set()
        for op in self.admits:
            needed.update(self.ids[key] for key in op.keys)
        wanted |= needed
        if rows:
            statements.append((sql.settle, (self.dumps(rows),)))
        if wanted:
            statements.append((sql.lock, (_array(wanted),)))
        statements.append((sql.clock, ()))
        results = self.session.run(statements)
        position = 1
        if rows:
            result = results[position]
            position += 1
            for index in range(result.ntuples):
                self.settled.add(uuid.UUID((result.get_value(index, 0) or b"").decode()))
        if wanted:
            result = results[position]
            position += 1
            states = self.states
            value = result.get_value
            version = None
            tenant = lane._tenant_counter
            for index in range(result.ntuples):
                numbers = [int(value(index, column) or 0) for column in range(13)]
                states[numbers[0]] = CounterState(*numbers[:12])
                if numbers[0] == tenant:
                    version = numbers[12]
            if self.admits:
                tree = lane._tree
                if needed - states.keys():
                    lane._counter_ids.clear()
                    lane._tree = None
                    raise _Moved
                if tree is None or version != tree.version:
                    lane._tree = None
                    raise _Moved
        self.now_us = int(results[position].get_value(0, 0) or 0)

    def finish(self) -> list[_Op]:
        """Decide, write, commit, and hand over the results. Returns settlements that found their row not open."""
        lane, sql = self.lane, self.lane._sql
        late = [op for op in self.settles if op not in self.fast]
        touched: set[int] = set()
        outcomes: list[tuple[_Op, Any]] = []
        for op in self.fast:
            assert op.booked is not None and op.settlement is not None and op.entry_id is not None
            if op.entry_id not in self.settled:
                late.append(op)
                continue
            states = [self.states[number] for number in op.booked.counters if number in self.states]
            touched.update(op.booked.counters)
            used = Used(op.settlement.tokens_in, op.settlement.tokens_out, op.settlement.cost_nano)
            outcomes.append((op, settle(states, op.booked.reservation, used)))
        opened: list[dict[str, Any]] = []
        recorded: list[dict[str, Any]] = []
        now_us = self.now_us
        windows = Windows.at(now_us / 1e6)
        for op in self.admits:
            assert op.need is not None and op.entry is not None
            nodes: list[Node] = [
                (self.states[self.ids[key]], specs) for key, specs in zip(op.keys, op.nodes, strict=True)
            ]
            # A microsecond apart, so that ids keep the order of arrival.
            created_at = _EPOCH + datetime.timedelta(microseconds=now_us)
            now_us += 1
            op.created_at = created_at
            op.entry_id = entry_id = _uuid7(created_at)
            found = reserve(nodes, op.need, windows)
            row = _entry_row(op.entry, entry_id, created_at)
            if isinstance(found, Refusal):
                settlement = Settlement(
                    status="refused", http_status=found.status, error_code=f"limit_{found.limit}"[:60]
                )
                recorded.append(
                    {**row, **_settled_row(entry_id, created_at, settlement, 0), "finished_at": created_at}
                )
                # What the row was refused for stays readable in the explorer.
                if not row["policy_reason"]:
                    recorded[-1]["policy_reason"] = _clean(found.message)[:300]
                outcomes.append((op, Refused(found, entry_id, headroom(nodes, windows))))
                continue
            counters = tuple(self.ids[key] for key in op.keys)
            touched.update(counters)
            row["reserved_in"], row["reserved_out"] = found.tokens_in, found.tokens_out
            row["reserved_nano"] = found.cost_nano
            row["worker"], row["counters"] = lane.worker, counters
            opened.append(row)
            op.booked = _Booked(found, counters, time.monotonic())
            outcomes.append(
                (
                    op,
                    Admission(entry_id, created_at, headroom(nodes, windows), found.cost_nano, alarms(nodes)),
                )
            )
        for op in self.records:
            assert op.entry is not None and op.settlement is not None
            assert op.entry_id is not None and op.created_at is not None
            row = _entry_row(op.entry, op.entry_id, op.created_at)
            settled = _settled_row(op.entry_id, op.created_at, op.settlement, 0)
            settled["prompt_digest"] = settled["prompt_digest"] or row["prompt_digest"]
            recorded.append({**row, **settled, "finished_at": op.created_at})
            outcomes.append((op, True))
        statements: list[database.Statement] = []
        touched &= self.states.keys()
        if touched:
            statements.append((sql.counters, _counter_arrays(self.states, touched)))
        if opened:
            statements.append((sql.admit, (self.dumps(opened),)))
        if recorded:
            statements.append((sql.record, (self.dumps(recorded),)))
        payloads = [_payload_row(op) for op, _ in outcomes if op.sealed is not None]
        if payloads:
            statements.append((sql.payload, (self.dumps(payloads),)))
        statements.append(COMMIT)
        # Known as running before the commit: the lease must cover a row from the instant it exists.
        for op, outcome in outcomes:
            if isinstance(outcome, Admission) and op.booked is not None:
                lane.inflight[outcome.entry_id] = (outcome.created_at, op.booked)
        try:
            self.session.run(statements)
        except psycopg.Error:
            for _, outcome in outcomes:
                if isinstance(outcome, Admission) and not self.session.unknown:
                    lane.inflight.pop(outcome.entry_id, None)
            raise
        for op, outcome in outcomes:
            if isinstance(outcome, Refused):
                op.error = outcome
            else:
                op.result = outcome
            if op.kind == "settle" and op.entry_id is not None:
                lane.inflight.pop(op.entry_id, None)
        return late


# ------------------------------------------------------------------ rows
def _clean(text: str) -> str:
    """Text the database takes: no NUL, no lone surrogates."""
    if text.isascii():
        return text.replace("\x00", "") if "\x00" in text else text
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


MAX_ATTRIBUTES_BYTES = 16_384


def _attributes(given: Mapping[str, Any]) -> orjson.Fragment:
    """The document as JSON that PostgreSQL takes: without null characters, within the bound."""
    try:
        text = orjson.dumps(given)
        if b"\\u0000" in text:
            text = text.replace(b"\\u0000", b" ") if b"\\\\u0000" not in text else b"{}"
    except (TypeError, ValueError):
        text = b"{}"
    return orjson.Fragment(text if len(text) <= MAX_ATTRIBUTES_BYTES else b"{}")


def _scrubbed(value: Any) -> Any:
    """The same value with what JSON and the database cannot hold replaced."""
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return max(-(2**63), min(2**63 - 1, value))
    if isinstance(value, float):
        return value if math.isfinite(value) else 0.0
    if isinstance(value, Mapping):
        return {_clean(str(key)): _scrubbed(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_scrubbed(one) for one in value]
    if isinstance(value, uuid.UUID | datetime.datetime):
        return value
    return _clean(str(value))


def _dumps_scrubbed(rows: Any) -> bytes:
    return orjson.dumps(_scrubbed(rows))


def _entry_row(entry: NewEntry, entry_id: uuid.UUID, created_at: datetime.datetime) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": entry_id,
        "created_at": created_at,
        "release_id": entry.release_id,
        "stream": entry.stream,
        "price_id": entry.price_id,
        "bytes_in": entry.bytes_in,
        "attributes": _attributes(entry.attributes),
        "reserved_in": 0,
        "reserved_out": 0,
        "reserved_nano": 0,
    }
    for name in _ENTRY_TEXTS:
        text = getattr(entry, name)
        if text:
            text = _clean(text)
            length = _LENGTHS[name]
            if len(text) > length:
                text = text[:length]
        row[name] = text
    return row


_ENTRY_TEXTS = (
    "request_id", "traceparent", "conversation", "key_id", "end_user", "product", "team", "pilot", "release_version",
    "release_digest", "model", "channel", "route", "policy_version", "policy_reason", "prompt_digest",
)  # fmt: skip


def _settled_row(
    entry_id: uuid.UUID, created_at: datetime.datetime, settlement: Settlement, charged: int
) -> dict[str, Any]:
    one = settlement
    return {
        "id": entry_id,
        "created_at": created_at,
        "status": one.status,
        "http_status": one.http_status,
        "error_code": _clean(one.error_code)[:60],
        "guards": one.guards,
        "redactions": one.redactions,
        "cache": one.cache[:8],
        "tokens_in": one.tokens_in,
        "tokens_out": one.tokens_out,
        "tokens_cached": one.tokens_cached,
        "cost_nano": charged,
        "queue_ms": one.queue_ms,
        "first_token_ms": one.first_token_ms,
        "total_ms": one.total_ms,
        "overhead_ms": one.overhead_ms,
        "upstream_ms": one.upstream_ms,
        "upstream": _clean(one.upstream)[:120],
        "bytes_out": one.bytes_out,
        "prompt_digest": one.prompt_digest[:64],
        "output_digest": one.output_digest[:64],
        "stages": one.stages,
    }


def _payload_row(op: _Op) -> dict[str, Any]:
    assert op.sealed is not None and op.entry_id is not None and op.created_at is not None
    return {
        "entry_id": op.entry_id,
        "created_at": op.created_at,
        "expires_at": sealing.expiry(op.created_at, op.sealed.retain_days),
        "key_id": op.sealed.key_id,
        "prompt": op.sealed.prompt.hex(),
        "output": op.sealed.output.hex(),
    }


def _array(numbers: Any) -> bytes:
    return b"{%s}" % ",".join(map(str, numbers)).encode()


def _counter_arrays(states: Mapping[int, CounterState], touched: set[int]) -> tuple[bytes, ...]:
    rows = [
        (
            one.id, one.minute, one.requests, one.tokens_in, one.tokens_out, one.day, one.tokens_day, one.cost_day,
            one.month, one.cost_month, one.open, one.open_cost,
        )
        for one in (states[number] for number in touched)
    ]  # fmt: skip
    return tuple(_array(column) for column in zip(*rows, strict=True))


def lock_counters(
    connection: psycopg.Connection[Any], schema: str, numbers: Sequence[int]
) -> list[CounterState]:
    """Lock these counters, in the order of their ids, in the connection's transaction."""
    sql = _sql_of(schema)
    rows = connection.execute(sql.lock.decode().replace("$1", "%s"), [list(numbers)]).fetchall()
    return [CounterState(*row[:12]) for row in rows]


def write_counters(connection: psycopg.Connection[Any], schema: str, states: Sequence[CounterState]) -> None:
    """Write locked counters back."""
    if not states:
        return
    by_id = {one.id: one for one in states}
    arrays = [array.decode() for array in _counter_arrays(by_id, set(by_id))]
    text = _sql_of(schema).counters.decode()
    for index in range(len(arrays), 0, -1):
        text = text.replace(f"${index}::", "%s::")
    connection.execute(text, arrays)


_sqls: dict[str, _Sql] = {}


def _sql_of(schema: str) -> _Sql:
    found = _sqls.get(schema)
    if found is None:
        found = _sqls[schema] = _Sql(schema)
    return found


def _uuid7(at: datetime.datetime) -> uuid.UUID:
    """UUID version 7 (RFC 9562) of an instant, with its microseconds in the bits after the milliseconds."""
    us = (at - _EPOCH) // _MICROSECOND
    ms, rest = divmod(us, 1000)
    random = int.from_bytes(os.urandom(8), "big") & ((1 << 62) - 1)
    return uuid.UUID(int=(ms << 80) | (0x7000 | (rest * 4096 // 1000)) << 64 | (0b10 << 62) | random)


_MICROSECOND = datetime.timedelta(microseconds=1)


def uuid7_floor(at: datetime.datetime) -> uuid.UUID:
    """The smallest id a row of this instant or later can have: turns a time range into a range of ids."""
    us = (at - _EPOCH) // _MICROSECOND
    ms, rest = divmod(us, 1000)
    return uuid.UUID(int=(ms << 80) | (0x7000 | (rest * 4096 // 1000)) << 64 | (0b10 << 62))


def plan_specs(requests_per_minute: int | None, tokens_per_day: int | None) -> list[LimitSpec]:
    """Limits of a plan: requests per minute of each key, tokens per day of the organisation."""
    specs = []
    if requests_per_minute is not None:
        specs.append(LimitSpec("key", "*", requests_per_minute=requests_per_minute, source="plan"))
    if tokens_per_day is not None:
        specs.append(LimitSpec("tenant", "", tokens_per_day=tokens_per_day, source="plan"))
    return specs


def _unavailable(error: BaseException) -> BaseException:
    if isinstance(error, LedgerUnavailable | Refused) or not isinstance(error, Exception):
        return error
    logger.error("the ledger could not be written", extra={"error": repr(error)[:500]})
    found = LedgerUnavailable(
        "The ledger cannot be written now, so the request was not carried out. Try again."
    )
    found.__cause__ = error
    return found


# ------------------------------------------------------------------ one lane per tenant, one keeper per process
_lanes: dict[str, Lane] = {}
_lanes_lock = threading.Lock()
_keeper: threading.Thread | None = None


def lane(schema: str) -> Lane:
    """The lane of a tenant in this process."""
    found = _lanes.get(schema)
    if found is None:
        with _lanes_lock:
            found = _lanes.setdefault(schema, Lane(schema))
    return found


def forget() -> None:
    """Drop every lane (tests that drop the database under them)."""
    with _lanes_lock:
        _lanes.clear()
    database.close_all()
    sealing.forget()


def _fresh_after_fork() -> None:
    # The parent's running requests are the parent's; locks it held would never be released here.
    global _lanes, _lanes_lock, _keeper
    _lanes, _lanes_lock, _keeper = {}, threading.Lock(), None


os.register_at_fork(after_in_child=_fresh_after_fork)


def _keeper_start() -> None:
    global _keeper
    with _lanes_lock:
        if _keeper is None or not _keeper.is_alive():
            _keeper = threading.Thread(target=_keep, name="ledger-keeper", daemon=True)
            _keeper.start()


def _keep() -> None:
    """Renew leases and sweep, for ever: a third of a lease apart."""
    from inference.ledger.sweeping import sweep

    while True:
        time.sleep(LEASE_S / 3)
        for one in list(_lanes.values()):
            try:
                if one.inflight or one._doubtful or time.monotonic() - one.last_used < 2 * LEASE_S:
                    one.touch()
                    sweep(one.schema)
                elif one._lease_until:
                    one.rest()
            except Exception:
                # The database may be away for a while; admissions fail meanwhile, and this goes on trying.
                logger.exception("lease not renewed", extra={"schema_name": one.schema})
