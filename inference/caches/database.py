"""Connections of the request path: psycopg without the ORM, schema-qualified, kept open, prepared statements.

A stale connection (server restarted, database copied) is thrown away and the statement tried once more.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psycopg
from django.db import connection as django_connection
from psycopg import sql

# Seconds after which a connection is replaced: its back-end keeps the catalogue of every schema it has touched.
_MAX_LIFETIME_S = 600.0
_MAX_IDLE = 8

T = TypeVar("T")
Connection = psycopg.Connection[Any]


class Connections:
    """A stack of open connections of one process; the most recently used is taken first."""

    def __init__(self) -> None:
        self._idle: deque[tuple[Connection, float, tuple[Any, ...]]] = deque()
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def _address(self) -> tuple[Any, ...]:
        configured = django_connection.settings_dict
        return tuple(str(configured[name] or "") for name in ("HOST", "PORT", "USER", "PASSWORD", "NAME"))

    def _open(self, address: tuple[Any, ...]) -> Connection:
        host, port, user, password, name = address
        opened = psycopg.connect(
            host=host or None,
            port=port or None,
            user=user or None,
            password=password or None,
            dbname=name,
            autocommit=True,
            prepare_threshold=0,
            application_name="signoff-cache",
            # What is lost with the server's memory is asked again; nothing here is worth a flush to disk.
            options="-c synchronous_commit=off -c statement_timeout=2000 -c search_path=pg_catalog",
        )
        opened.prepared_max = 500
        return opened

    def run(self, work: Callable[[Connection], T]) -> T:
        """``work(connection)``; once more on a new connection when the first turns out to be dead.

        Raises psycopg.Error.
        """
        address = self._address()
        if self._pid != os.getpid():  # a fork must not share its parent's sockets
            self._idle, self._pid = deque(), os.getpid()
        while True:
            try:
                opened, since, of = self._idle.pop()
                fresh = False
            except IndexError:
                opened, since, of, fresh = self._open(address), time.monotonic(), address, True
            if of != address or time.monotonic() - since > _MAX_LIFETIME_S or opened.closed:
                opened.close()
                continue
            try:
                result = work(opened)
            except psycopg.OperationalError:
                dead = opened.closed or opened.broken
                if not dead:
                    self._idle.append((opened, since, of))
                    raise
                opened.close()
                if fresh:
                    raise
                self.close()
                continue
            except BaseException:
                opened.close()
                raise
            if len(self._idle) < _MAX_IDLE:
                self._idle.append((opened, since, of))
            else:
                opened.close()
            return result

    def close(self) -> None:
        """Close what is idle."""
        while True:
            try:
                self._idle.pop()[0].close()
            except IndexError:
                return


CONNECTIONS = Connections()


def one(statement: sql.Composed, values: Sequence[Any]) -> tuple[Any, ...] | None:
    """First row of a statement, or None. Raises psycopg.Error."""
    return CONNECTIONS.run(lambda opened: opened.execute(statement, values, binary=True).fetchone())


def many(statement: sql.Composed, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """All rows of a statement. Raises psycopg.Error."""
    return CONNECTIONS.run(lambda opened: opened.execute(statement, values, binary=True).fetchall())


def execute(statement: sql.Composed, values: Sequence[Any]) -> int:
    """Rows that a statement changed. Raises psycopg.Error."""
    return CONNECTIONS.run(lambda opened: opened.execute(statement, values).rowcount)
