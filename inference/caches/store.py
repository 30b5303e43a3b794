"""Lookup and storage of answers. Hot path: one statement, no ORM; a database that fails is a miss, never an error.

The partition comes first in every WHERE and every index, in a table of the tenant's own schema, and the answer is
sealed to its partition and digest: a row that strayed would not open.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np
import orjson
import psycopg
from django.conf import settings
from psycopg import sql

from core.security.fields import SealBroken, tenant_sealer
from inference.caches import database
from inference.caches.keys import Partition, RequestKey

logger = logging.getLogger("signoff.caches")

# Bytes of one stored answer; larger ones are not kept.
MAX_ANSWER_BYTES: Final = 256 * 1024
# Entries of one group that are compared by meaning, newest first.
_MAX_CANDIDATES: Final = 4000
_PURPOSE: Final = "cache-answer"
_FLUSH_S: Final = 2.0
_CLEAN_S: Final = 30.0

Kind = Literal["exact", "semantic"]


@dataclass(frozen=True, slots=True)
class Hit:
    """A stored answer. ``similarity``: cosine, 1 for an exact hit. ``answer``: the body as it was stored."""

    kind: Kind
    answer: dict[str, Any]
    entry_id: int
    similarity: float
    created_at: datetime

    @property
    def age_s(self) -> float:
        """Seconds since it was stored."""
        return max(0.0, (datetime.now(UTC) - self.created_at).total_seconds())


@lru_cache(maxsize=8192)
def _statement(schema: str, name: str, extension: str = "") -> sql.Composed:
    table = sql.Identifier(schema, "caches_cacheentry")
    if name == "exact":
        return sql.SQL(
            "SELECT id, answer, created_at, digest FROM {} WHERE partition = %b AND digest = %b AND expires_at > now()"
        ).format(table)
    if name == "nearest":
        vector, operator = sql.Identifier(extension, "vector"), sql.SQL("OPERATOR({}.<=>)").format(
            sql.Identifier(extension)
        )  # fmt: skip
        return sql.SQL(
            "SELECT e.id, e.answer, e.created_at, e.digest, 1 - near.distance FROM ("
            "SELECT id, embedding::{vector} {operator} %t::{vector} AS distance FROM ("
            'SELECT id, embedding FROM {table} WHERE partition = %b AND "group" = %b AND expires_at > now() '
            "ORDER BY id DESC LIMIT %s) AS recent ORDER BY distance, id DESC LIMIT 1) AS near "
            "JOIN {table} AS e ON e.id = near.id WHERE near.distance <= %s"
        ).format(table=table, vector=vector, operator=operator)
    if name == "vectors":
        return sql.SQL(
            'SELECT id, embedding FROM {} WHERE partition = %b AND "group" = %b AND expires_at > now() '
            "ORDER BY id DESC LIMIT %s"
        ).format(table)
    if name == "group":
        return sql.SQL('SELECT 1 FROM {} WHERE partition = %b AND "group" = %b LIMIT 1').format(table)
    if name == "index":
        return sql.SQL(
            'UPDATE {} SET "group" = %b, embedding = %t::real[] WHERE partition = %b AND digest = %b'
        ).format(table)
    if name == "by id":
        return sql.SQL(
            "SELECT id, answer, created_at, digest FROM {} WHERE partition = %b AND id = %s AND expires_at > now()"
        ).format(table)
    if name == "store":
        return sql.SQL(
            'INSERT INTO {} (partition, digest, "group", embedding, release_digest, policy_version, guard_version, '
            "scope, route, answer, size_bytes, tokens_in, tokens_out, created_at, expires_at, hits) "
            "VALUES (%b, %b, %b, %t::real[], %s, %s, %s, %s, %s, %b, %s, %s, %s, %s, %s, 0) "
            'ON CONFLICT (partition, digest) DO UPDATE SET "group" = EXCLUDED."group", '
            "embedding = EXCLUDED.embedding, answer = EXCLUDED.answer, size_bytes = EXCLUDED.size_bytes, "
            "tokens_in = EXCLUDED.tokens_in, tokens_out = EXCLUDED.tokens_out, created_at = EXCLUDED.created_at, "
            "expires_at = EXCLUDED.expires_at"
        ).format(table)
    if name == "hits":
        return sql.SQL(
            "UPDATE {} AS e SET hits = e.hits + h.n, last_hit_at = now() FROM "
            "unnest(%s::bigint[], %s::int[]) AS h(id, n) WHERE e.id = h.id"
        ).format(table)
    if name == "count":
        return sql.SQL(
            "INSERT INTO {} AS c (release_digest, day, exact_hits, semantic_hits, misses, stores, tokens_saved) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (release_digest, day) DO UPDATE SET "
            "exact_hits = c.exact_hits + EXCLUDED.exact_hits, "
            "semantic_hits = c.semantic_hits + EXCLUDED.semantic_hits, "
            "misses = c.misses + EXCLUDED.misses, stores = c.stores + EXCLUDED.stores, "
            "tokens_saved = c.tokens_saved + EXCLUDED.tokens_saved"
        ).format(sql.Identifier(schema, "caches_cachecounter"))
    if name == "expire":
        return sql.SQL(
            "DELETE FROM {t} WHERE id IN (SELECT id FROM {t} WHERE expires_at <= now() LIMIT 5000)"
        ).format(t=table)
    if name == "evict":
        # The least recently useful go first, until both bounds hold.
        return sql.SQL(
            "DELETE FROM {t} WHERE id IN (SELECT id FROM (SELECT id, "
            "row_number() OVER newest AS position, sum(size_bytes) OVER newest AS bytes FROM {t} "
            "WINDOW newest AS (ORDER BY coalesce(last_hit_at, created_at) DESC, id DESC)) AS ranked "
            "WHERE position > %s OR bytes > %s)"
        ).format(t=table)
    raise ValueError(name)


# ------------------------------------------------------------------ pgvector
_extension: dict[str, tuple[str, float]] = {}


def pgvector_schema() -> str:
    """Schema in which the pgvector extension stands; "" when the database has none. Asked once a minute."""
    from django.db import connection

    name = str(connection.settings_dict["NAME"])
    known = _extension.get(name)
    if known is not None and time.monotonic() - known[1] < 60:
        return known[0]
    row = database.one(
        sql.SQL(
            "SELECT n.nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace "
            "WHERE e.extname = 'vector'"
        ).format(),
        (),
    )
    found = str(row[0]) if row else ""
    _extension[name] = (found, time.monotonic())
    return found


# ------------------------------------------------------------------ lookup
def _place(partition: bytes, digest: bytes) -> bytes:
    return partition + digest


def _opened(
    partition: Partition, wall: bytes, row: Sequence[Any], kind: Kind, similarity: float
) -> Hit | None:
    try:
        plain = tenant_sealer(partition.schema, _PURPOSE).open(bytes(row[1]), _place(wall, bytes(row[3])))
    except SealBroken:
        return None
    return Hit(kind, orjson.loads(plain), int(row[0]), similarity, row[2])


def exact_lookup(partition: Partition, digest: bytes) -> Hit | None:
    """The answer stored in this partition under this digest, if it is still good. Never raises."""
    wall = partition.digest
    try:
        row = database.one(_statement(partition.schema, "exact"), (wall, digest))
    except psycopg.Error as error:
        _failed("exact lookup", error)
        return None
    hit = _opened(partition, wall, row, "exact", 1.0) if row else None
    if hit is not None:
        STATISTICS.hit(partition, hit)
    return hit


def semantic_lookup(
    partition: Partition, group: bytes, vector: np.ndarray, *, threshold: float, pgvector: bool | None = None
) -> Hit | None:
    """The nearest answer of this partition and group, if its cosine similarity reaches ``threshold``. Never raises.

    Args:
        group: of `keys.request_key`: same context, same numbers, names and negations.
        vector: 384 numbers of length 1.
        pgvector: False compares in this process; by default where the extension is installed, in PostgreSQL.
    """
    wall = partition.digest
    try:
        extension = pgvector_schema() if pgvector is not False else ""
        if extension:
            row = database.one(
                _statement(partition.schema, "nearest", extension),
                (_text(vector), wall, group, _MAX_CANDIDATES, 1 - threshold + 1e-9),
            )
            hit = _opened(partition, wall, row, "semantic", float(row[4])) if row else None
        else:
            hit = _nearest_here(partition, wall, group, vector, threshold)
    except psycopg.Error as error:
        _failed("semantic lookup", error)
        return None
    if hit is not None:
        STATISTICS.hit(partition, hit)
    return hit


def group_known(partition: Partition, group: bytes) -> bool:
    """Whether anything is stored that this request could be compared with. Never raises."""
    try:
        return database.one(_statement(partition.schema, "group"), (partition.digest, group)) is not None
    except psycopg.Error as error:
        _failed("semantic lookup", error)
        return False


def vector_add(partition: Partition, key: RequestKey, answer: Mapping[str, Any], vector: np.ndarray) -> None:
    """Make a stored answer findable by meaning, if it ended by itself and calls no tool. Raises psycopg.Error."""
    if key.group is not None and _says_all(answer):
        database.execute(
            _statement(partition.schema, "index"), (key.group, _array(vector), partition.digest, key.digest)
        )


def _says_all(answer: Mapping[str, Any]) -> bool:
    return all(choice.get("finish_reason") == "stop" for choice in answer.get("choices", ()))


def _array(vector: np.ndarray) -> str:
    return "{" + _text(vector)[1:-1] + "}"


def _text(vector: np.ndarray) -> str:
    return "[" + ",".join(map(repr, vector.astype(np.float64).round(7).tolist())) + "]"


def _nearest_here(
    partition: Partition, wall: bytes, group: bytes, vector: np.ndarray, threshold: float
) -> Hit | None:
    rows = database.many(_statement(partition.schema, "vectors"), (wall, group, _MAX_CANDIDATES))
    if not rows:
        return None
    stored = np.asarray([row[1] for row in rows], dtype=np.float32)
    likeness = stored @ vector / np.maximum(np.linalg.norm(stored, axis=1), 1e-9)
    best = int(likeness.argmax())
    if likeness[best] < threshold:
        return None
    row = database.one(_statement(partition.schema, "by id"), (wall, rows[best][0]))
    return _opened(partition, wall, row, "semantic", float(likeness[best])) if row else None


# ------------------------------------------------------------------ storage
def storable(key: RequestKey, answer: Mapping[str, Any]) -> bool:
    """Whether an answer is whole: each choice ended by itself, with tool calls, or at the length the client set."""
    if answer.get("error") is not None:
        return False
    if key.route == "embeddings":
        return bool(answer.get("data"))
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        return False
    good = {"stop", "tool_calls", "length"} if key.bounded else {"stop", "tool_calls"}
    return all(isinstance(choice, Mapping) and choice.get("finish_reason") in good for choice in choices)


def store(
    partition: Partition,
    key: RequestKey,
    answer: Mapping[str, Any],
    *,
    ttl_s: int,
    clean: bool,
    vector: np.ndarray | None = None,
) -> bool:
    """Keep an answer; True when it was kept. Never raises.

    Args:
        answer: body as it left for the client, before placeholders are put back.
        clean: the guards and the redaction of the output found nothing. Only such answers are kept.
        vector: of ``key.text``, to find it by meaning; only answers that ended by themselves are.
    """
    if not clean or not storable(key, answer):
        return False
    try:
        plain = orjson.dumps(answer)
    except TypeError:
        return False
    if len(plain) > MAX_ANSWER_BYTES:
        return False
    if vector is not None and not _says_all(answer):
        vector = None
    wall = partition.digest
    usage = answer.get("usage") or {}
    now = datetime.now(UTC)
    sealed = tenant_sealer(partition.schema, _PURPOSE).seal(plain, _place(wall, key.digest))
    group = key.group if vector is not None else None
    array = _array(vector) if vector is not None and group is not None else None
    try:
        database.execute(
            _statement(partition.schema, "store"),
            (
                wall, key.digest, group, array, partition.release_digest, partition.policy_version[:80],
                partition.guard_version[:80], partition.scope_kind, key.route, sealed, len(sealed),
                _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")), now,
                now + timedelta(seconds=ttl_s),
            ),
        )  # fmt: skip
    except psycopg.Error as error:
        _failed("store", error)
        return False
    STATISTICS.stored(partition)
    return True


def _count(value: object) -> int:
    return min(value, 2**31 - 1) if isinstance(value, int) and value > 0 else 0


_last_complaint = 0.0


def _failed(what: str, error: psycopg.Error) -> None:
    """Say it once a minute: a database that is away would otherwise fill the log."""
    global _last_complaint
    if time.monotonic() - _last_complaint > 60:
        _last_complaint = time.monotonic()
        logger.warning("cache %s failed; treated as a miss: %s", what, type(error).__name__)


# ------------------------------------------------------------------ counts
class Statistics:
    """Hits, misses and stores, counted here and added to the database every few seconds by a thread.

    A killed process loses the counts of its last seconds; the ledger has every request.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], list[int]] = {}
        self._hits: dict[str, dict[int, int]] = {}
        self._stores: dict[str, int] = {}
        self._thread: threading.Thread | None = None
        self._cleaned: dict[str, float] = {}

    def _of(self, partition: Partition) -> list[int]:
        return self._counts.setdefault((partition.schema, partition.release_digest), [0, 0, 0, 0, 0])

    def hit(self, partition: Partition, hit: Hit) -> None:
        """Count a hit and the tokens it saved."""
        usage = hit.answer.get("usage") or {}
        with self._lock:
            counts = self._of(partition)
            counts[0 if hit.kind == "exact" else 1] += 1
            counts[4] += _count(usage.get("total_tokens"))
            of = self._hits.setdefault(partition.schema, {})
            of[hit.entry_id] = of.get(hit.entry_id, 0) + 1
        self._start()

    def missed(self, partition: Partition) -> None:
        """Count a lookup that found nothing."""
        with self._lock:
            self._of(partition)[2] += 1
        self._start()

    def stored(self, partition: Partition) -> None:
        """Count an answer that was kept."""
        with self._lock:
            self._of(partition)[3] += 1
            self._stores[partition.schema] = self._stores.get(partition.schema, 0) + 1
        self._start()

    def _start(self) -> None:
        thread = self._thread
        if thread is None or not thread.is_alive():
            with self._lock:
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._run, name="cache-counts", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        while True:
            time.sleep(_FLUSH_S)
            self.flush()
            with self._lock:
                if not self._counts and not self._hits and not self._stores:
                    self._thread = None
                    return

    def flush(self) -> None:
        """Write what was counted, and hold the bounds of schemas that stored something. Never raises."""
        with self._lock:
            counts, self._counts = self._counts, {}
            hits, self._hits = self._hits, {}
            schemas = [
                schema
                for schema in self._stores
                if time.monotonic() - self._cleaned.get(schema, 0.0) > _CLEAN_S
            ]
            for schema in schemas:
                del self._stores[schema]
        today = datetime.now(UTC).date()
        try:
            for (schema, release), numbers in counts.items():
                database.execute(_statement(schema, "count"), (release, today, *numbers))
            for schema, of in hits.items():
                database.execute(_statement(schema, "hits"), (list(of), list(of.values())))
            for schema in schemas:
                self._cleaned[schema] = time.monotonic()
                bounds_hold(schema)
        except psycopg.Error as error:
            _failed("statistics", error)


STATISTICS = Statistics()


def bounds_hold(schema: str, *, max_entries: int | None = None, max_bytes: int | None = None) -> int:
    """Remove what has expired, then the least recently useful beyond the bounds; how many rows went.

    The bounds are per tenant: CACHE_MAX_ENTRIES rows and CACHE_MAX_BYTES bytes of answers. Raises psycopg.Error.
    """
    entries = max_entries if max_entries is not None else getattr(settings, "CACHE_MAX_ENTRIES", 20_000)
    size = max_bytes if max_bytes is not None else getattr(settings, "CACHE_MAX_BYTES", 256 * 1024 * 1024)
    gone = database.execute(_statement(schema, "expire"), ())
    return gone + database.execute(_statement(schema, "evict"), (entries, size))
