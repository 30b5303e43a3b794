"""Connections of the ledger: psycopg without the ORM, one small stack per process, prepared statements.

Two kinds. A `Session` speaks libpq's pipeline mode directly: a batch of statements goes out in one write and comes
back in one read, for about 10 µs of Python per statement. `cold()` is an ordinary psycopg connection for what is rare.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import connection as django_connection
from psycopg import pq
from psycopg.errors import error_from_result

# Seconds after which a connection is replaced: its back-end keeps the catalogue of every schema it has touched.
_MAX_LIFETIME_S = 600.0
_MAX_IDLE = 8
# Connections a process may use at once; a caller waits for one.
_MAX_OPEN = 16
# Seconds a reply of the server may take before the connection is given up.
_REPLY_TIMEOUT_S = 20.0
# Tables are small when plans are first made and large later, so plans that would not scale are ruled out. A process
# that stops in mid-transaction must not hold the locks of a tenant for ever.
_OPTIONS = (
    "-c search_path=pg_catalog -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off "
    "-c statement_timeout=10000 -c idle_in_transaction_session_timeout=10000 -c synchronous_commit=on "
    "-c plan_cache_mode=force_generic_plan"
)

Statement = tuple[bytes, Sequence[bytes | None]]
Address = tuple[str, ...]


def quoted(schema: str, table: str) -> str:
    """`"schema"."table"`, safe to put into a statement."""
    return psycopg.sql.Identifier(schema, table).as_string(None)


def _address() -> Address:
    configured = django_connection.settings_dict
    return tuple(str(configured[name] or "") for name in ("HOST", "PORT", "USER", "PASSWORD", "NAME"))


def _connect(address: Address) -> psycopg.Connection[Any]:
    host, port, user, password, name = address
    options = django_connection.settings_dict.get("OPTIONS", {})
    security = {
        key: options[key] for key in ("sslmode", "sslrootcert", "sslcert", "sslkey") if key in options
    }
    return psycopg.connect(
        host=host or None,
        port=port or None,
        user=user or None,
        password=password or None,
        dbname=name,
        autocommit=True,
        connect_timeout=5,
        tcp_user_timeout=20_000,
        application_name="signoff-ledger",
        options=_OPTIONS,
        **security,
    )


def connection_lost(error: psycopg.Error) -> bool:
    """Whether an error means that the server, not the statement, failed."""
    if not isinstance(error, psycopg.OperationalError):
        return False
    return error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))


class Session:
    """One connection in pipeline mode. Not for two threads at once."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.opened = time.monotonic()
        self._connection = _connect(address)
        self._pg = self._connection.pgconn
        self._names: dict[bytes, bytes] = {}
        self._poll = select.poll()
        self._poll.register(self._pg.socket, select.POLLIN)
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()
        # Not to be used again; and whether what was last sent took effect is unknown.
        self.broken = False
        self.unknown = False

    def run(self, statements: Sequence[Statement]) -> list[pq.abc.PGresult]:
        """Send all, read all. The first error stops what follows it and is raised once all is read.

        Raises:
            psycopg.Error: of the server, by its class. With `unknown` set the connection is gone, and with it the
                answer whether the statements took effect.
        """
        pg = self._pg
        names = self._names
        new: list[bytes] = []
        expected: list[bool] = []
        try:
            for text, parameters in statements:
                name = names.get(text)
                if name is None:
                    name = names[text] = b"s%d" % len(names)
                    new.append(text)
                    pg.send_prepare(name, text)
                    expected.append(False)
                pg.send_query_prepared(name, parameters)
                expected.append(True)
            pg.pipeline_sync()
            self._flush()
            results: list[pq.abc.PGresult] = []
            failed: pq.abc.PGresult | None = None
            for wanted in expected:
                result = self._next()
                assert result is not None
                status = result.status
                if status == pq.ExecStatus.FATAL_ERROR and failed is None:
                    failed = result
                if wanted:
                    results.append(result)
                while self._next() is not None:
                    pass
            sync = self._next()
            assert sync is not None and sync.status == pq.ExecStatus.PIPELINE_SYNC
        except (psycopg.OperationalError, OSError, AssertionError) as error:
            self.broken = self.unknown = True
            if isinstance(error, psycopg.OperationalError):
                raise
            raise psycopg.OperationalError(f"The connection to the database is broken: {error!r}") from error
        except BaseException:
            self.broken = self.unknown = True  # interrupted in between: replies are still to come
            raise
        if failed is not None:
            for text in new:  # whether they were prepared is not worth finding out
                names.pop(text, None)
            if new:
                self.broken = True
            refusal = error_from_result(failed)
            if connection_lost(refusal):
                self.broken = self.unknown = True
            raise refusal
        return results

    def _flush(self) -> None:
        pg = self._pg
        while pg.flush():
            self._poll.modify(pg.socket, select.POLLIN | select.POLLOUT)
            ready = self._poll.poll(_REPLY_TIMEOUT_S * 1000)
            self._poll.modify(pg.socket, select.POLLIN)
            if not ready:
                raise psycopg.OperationalError("The database takes no more data.")
            if ready[0][1] & select.POLLIN:
                pg.consume_input()

    def _next(self) -> pq.abc.PGresult | None:
        pg = self._pg
        while pg.is_busy():
            if not self._poll.poll(_REPLY_TIMEOUT_S * 1000):
                raise psycopg.OperationalError(f"The database has not replied for {_REPLY_TIMEOUT_S:g} s.")
            pg.consume_input()
        return pg.get_result()

    def close(self) -> None:
        """End the connection; what is uncommitted is rolled back by the server."""
        self.broken = True
        self._connection.close()


class _Stack:
    """Open sessions of this process; the most recently used is taken first."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.idle: list[Session] = []
        self.cold: list[tuple[psycopg.Connection[Any], float, Address]] = []
        self.room = threading.BoundedSemaphore(_MAX_OPEN)


_stack = _Stack()


def _fresh_after_fork() -> None:
    # Sockets of the parent belong to the parent: neither used nor closed here.
    global _stack
    _stack = _Stack()


os.register_at_fork(after_in_child=_fresh_after_fork)


@contextmanager
def session() -> Iterator[Session]:
    """A pipeline session, back on the stack afterwards unless broken. Raises psycopg.OperationalError."""
    stack = _stack
    address = _address()
    if not stack.room.acquire(timeout=_REPLY_TIMEOUT_S):
        raise psycopg.OperationalError("All connections of the ledger are busy.")
    taken: Session | None = None
    try:
        while taken is None:
            with stack.lock:
                taken = stack.idle.pop() if stack.idle else None
            if taken is None:
                taken = Session(address)
            elif taken.address != address or time.monotonic() - taken.opened > _MAX_LIFETIME_S:
                taken.close()
                taken = None
        try:
            yield taken
        except BaseException:
            # Perhaps in mid-transaction: closing is the surest way out, and errors are rare.
            taken.close()
            raise
    finally:
        if taken is not None and not taken.broken:
            with stack.lock:
                keep = len(stack.idle) < _MAX_IDLE
                if keep:
                    stack.idle.append(taken)
            if not keep:
                taken.close()
        elif taken is not None:
            taken.close()
        stack.room.release()


@contextmanager
def cold() -> Iterator[psycopg.Connection[Any]]:
    """An ordinary connection in autocommit mode, for what is rare. Raises psycopg.OperationalError."""
    stack = _stack
    address = _address()
    found: psycopg.Connection[Any] | None = None
    since = time.monotonic()
    while found is None:
        with stack.lock:
            entry = stack.cold.pop() if stack.cold else None
        if entry is None:
            found, since = _connect(address), time.monotonic()
        else:
            found, since, of = entry
            if of != address or found.closed or time.monotonic() - since > _MAX_LIFETIME_S:
                found.close()
                found = None
            elif time.monotonic() - since > 1:
                try:
                    found.execute("SELECT 1")  # a server that was restarted is noticed here
                except psycopg.OperationalError:
                    found.close()
                    found = None
    try:
        yield found
    except BaseException:
        found.close()
        raise
    with stack.lock:
        if len(stack.cold) < 2 and not found.closed:
            stack.cold.append((found, since, address))
            return
    found.close()


def close_all() -> None:
    """Close what is idle; for tests that drop the database."""
    stack = _stack
    with stack.lock:
        sessions, stack.idle = stack.idle, []
        connections, stack.cold = stack.cold, []
    for one in sessions:
        one.close()
    for connection, _, _ in connections:
        connection.close()
