"""Bringing hundreds of schemas to the migrations on disk without running Django's migrate in each.

Running migrate costs a quarter of a second per schema even when there is nothing to do, nearly all of it Python
rendering models. But schemas that stand at the same migrations need the same SQL. So:

1. One statement digests every schema's django_migrations. Those at head are done.
2. The others are grouped by digest. The first of a group, the canary, is migrated by Django's own executor, with a
   schema editor that writes down each statement.
3. The others replay what was written down, each in a transaction of its own that first checks, under a lock, that
   the schema still stands where its group stood.
4. A group whose migrations cannot be replayed (they compute with rows, or run outside a transaction) is migrated by
   the ordinary executor, schema by schema, spread over processes. So is a schema in which the replay fails.

Interrupted at any point, every schema is either before or after a migration; the next run goes on from there.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import multiprocessing
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg
from django.apps import apps as global_apps
from django.contrib.auth.management import (  # type: ignore[attr-defined]
    _get_all_permissions,
    create_permissions,
)
from django.contrib.contenttypes.management import create_contenttypes, inject_rename_contenttypes_operations
from django.core.management.base import CommandError
from django.core.management.sql import emit_post_migrate_signal, emit_pre_migrate_signal
from django.db import DatabaseError, OperationalError, connections, router, transaction
from django.db.migrations import Migration, operations
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.operations.base import Operation
from django.db.migrations.recorder import MigrationRecorder
from django.db.migrations.state import ModelState, ProjectState
from django.db.models.signals import post_migrate, pre_migrate
from django_tenants.signals import schema_migrated, schema_pre_migration
from django_tenants.utils import get_public_schema_name, schema_context

from tenants.db import connection
from tenants.models import Tenant
from tenants.schema_templates import disk_loader, disk_migrations, migrate_schema_stock, migrations_digest

logger = logging.getLogger("signoff.migrations")

# Seconds a statement of a replay waits for a lock before the schema is tried again.
LOCK_TIMEOUT_S = 5.0
_LOCK_ATTEMPTS = 3
# A back-end keeps the catalogue of every schema it touched; after this many it is closed.
_SCHEMAS_PER_CONNECTION = 150
# Schemas in one statement; each takes a few entries of the server's lock table.
_SCHEMAS_PER_STATEMENT = 1000
# SQLSTATE of a replay that finds its schema elsewhere than its group was.
_MOVED = "SG001"


# ------------------------------------------------------------------ where schemas stand
@dataclass(frozen=True)
class Head:
    """Where one schema stands: digest of its django_migrations, the newest entry, how many there are."""

    digest: str
    newest: str
    count: int
    at_head: bool


def _digest_sql() -> str:
    # Same text as schema_templates.migrations_digest; "C" sorts by bytes, as Python sorts by code points.
    return (
        "md5(coalesce(string_agg(DISTINCT (app || '.' || name) COLLATE \"C\", ',' "
        "ORDER BY (app || '.' || name) COLLATE \"C\"), ''))"
    )


def heads(names: Sequence[str]) -> dict[str, Head]:
    """Where each of these schemas stands, by one statement. Schemas without django_migrations are left out."""
    target = migrations_digest(disk_migrations())
    quote = connection.ops.quote_name
    found: dict[str, Head] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.relname = 'django_migrations' AND c.relkind = 'r' AND n.nspname = ANY(%s)",
            [list(names)],
        )
        present = [name for (name,) in cursor.fetchall()]
        for start in range(0, len(present), _SCHEMAS_PER_STATEMENT):
            chunk = present[start : start + _SCHEMAS_PER_STATEMENT]
            parts = []
            for index, name in enumerate(chunk):
                table = f"{quote(name)}.django_migrations"
                parts.append(
                    f"SELECT {index}, {_digest_sql()}, "  # noqa: S608 (quoted names from the catalogue)
                    f"coalesce((SELECT app || '.' || name FROM {table} ORDER BY id DESC LIMIT 1), ''), "
                    f"count(*) FROM {table}"
                )
            cursor.execute(" UNION ALL ".join(parts))
            for index, digest, newest, count in cursor.fetchall():
                found[chunk[index]] = Head(digest, newest, count, digest == target)
    return found


def schema_names() -> list[str]:
    """Schemas of all tenants, by name; deactivated ones too, so that they can be switched on again any time."""
    with schema_context(get_public_schema_name()):
        return list(Tenant.objects.order_by("schema_name").values_list("schema_name", flat=True))


# ------------------------------------------------------------------ outcomes
@dataclass
class SchemaResult:
    """What happened to one schema.

    action: `none` (was at head), `canary`, `replayed`, `ordinary`, `failed`, or `pending` (only with --check).
    """

    schema: str
    action: str
    seconds: float = 0.0
    migrations: list[str] = field(default_factory=list)
    error: str = ""


@dataclass
class Report:
    """What happened to all of them. `seconds` is the whole, without starting Python."""

    results: list[SchemaResult]
    seconds: float
    target: str

    @property
    def failed(self) -> list[SchemaResult]:
        return [result for result in self.results if result.action == "failed"]

    @property
    def pending(self) -> list[SchemaResult]:
        return [result for result in self.results if result.action == "pending"]

    def count(self) -> dict[str, int]:
        """Number of schemas per action."""
        counts: dict[str, int] = {}
        for result in self.results:
            counts[result.action] = counts.get(result.action, 0) + 1
        return counts

    def document(self) -> dict[str, Any]:
        """For --json."""
        return {
            "target": self.target,
            "seconds": round(self.seconds, 3),
            "counts": self.count(),
            "schemas": [asdict(result) for result in self.results],
        }


Progress = Callable[[int, int, SchemaResult], None]


# ------------------------------------------------------------------ what can be replayed
_REPLAYABLE_MODULES = ("django.db.migrations.operations.", "django.contrib.postgres.operations")


def why_not_replayable(migration: Migration) -> str:
    """Reason why this migration needs the ordinary executor in each schema, or "" when it can be replayed."""
    if not migration.atomic:
        return f"{migration} is not atomic"
    for operation in migration.operations:
        reason = _operation_reason(operation, migration.app_label)
        if reason:
            return f"{migration}: {reason}"
    return ""


def _operation_reason(operation: Operation, app_label: str) -> str:
    if isinstance(operation, operations.SeparateDatabaseAndState):
        for inner in operation.database_operations:
            if reason := _operation_reason(inner, app_label):
                return reason
        return ""
    if isinstance(operation, operations.RunPython):
        if operation.code is operations.RunPython.noop:
            return ""
        if not router.allow_migrate(connection.alias, app_label, **operation.hints):
            return ""  # of an app that tenants do not have: it does not run here either way
        return "runs Python"
    if isinstance(operation, operations.RenameModel):
        return "renames a model (its content type is a row)"
    module = type(operation).__module__
    if not f"{module}.".startswith(_REPLAYABLE_MODULES) and module not in _REPLAYABLE_MODULES:
        return f"{type(operation).__name__} is not one of Django's operations"
    return ""


@dataclass
class Recording:
    """What a canary executed, per migration, and the rows its migration left in bookkeeping tables."""

    digest: str
    plan: list[str]
    steps: list[list[str]] = field(default_factory=list)
    applied: list[tuple[str, str]] = field(default_factory=list)
    content_types: list[tuple[str, str]] = field(default_factory=list)
    permissions: list[tuple[str, str, str, str]] = field(default_factory=list)


@contextmanager
def _recording_editor(sink: list[str]) -> Iterator[None]:
    """While the block runs, schema editors of this connection also append each statement's final text to `sink`."""
    stock: Any = connection.SchemaEditorClass

    class RecordingEditor(stock):
        def execute(self, sql: Any, params: Any = ()) -> None:
            text = str(sql)
            if params is not None:
                # As the PostgreSQL editor does: DDL takes no bound parameters.
                text = self.connection.ops.compose_sql(text, params)
            sink.append(text)
            super().execute(sql, params)

    connection.SchemaEditorClass = RecordingEditor
    try:
        yield
    finally:
        connection.SchemaEditorClass = stock


# ------------------------------------------------------------------ the ordinary way, once and shared
class _Executor(MigrationExecutor):
    """Django's executor for one schema, with the files read once per process rather than three times per schema."""

    def __init__(self) -> None:
        disk = disk_loader()
        if disk.replacements:
            # Where a squashed migration stands in the graph depends on what the schema has applied.
            super().__init__(connection)
            return
        self.connection = connection
        self.recorder = MigrationRecorder(connection)
        # It exists, see _executor; Django would list all tables of the schema to find out.
        self.recorder._has_table = True  # type: ignore[attr-defined]
        self.progress_callback = None
        self.loader = copy.copy(disk)
        self.loader.connection = connection
        self.loader.applied_migrations = self.recorder.applied_migrations()  # type: ignore[assignment]

    def check_consistent_history(self) -> None:
        """Raises InconsistentMigrationHistory when a migration was applied before one it depends on."""
        graph, applied = self.loader.graph, self.loader.applied_migrations
        known = [key for key in applied if key in graph.nodes]
        if any(parent not in applied for key in known for parent in graph.node_map[key].parents):
            self.loader.check_consistent_history(connection)


def _executor(schema_name: str) -> _Executor:
    """The executor for a schema; leaves the connection standing in it.

    Raises:
        CommandError: two migrations of an app are the last, as Django's command does.
    """
    if not _has_table(schema_name, "django_migrations"):
        # Without public on the path, or its table would be found.
        connection.set_schema(schema_name, include_public=False)
        MigrationRecorder(connection).ensure_schema()
    connection.set_schema(schema_name)
    executor = _Executor()
    executor.check_consistent_history()
    if conflicts := executor.loader.detect_conflicts():
        names = "; ".join(f"{', '.join(names)} in {app}" for app, names in conflicts.items())
        raise CommandError(f"Conflicting migrations: {names}. Run manage.py makemigrations --merge.")
    return executor


def plan_of(schema_name: str) -> list[Migration]:
    """Migrations that the ordinary executor would apply in this schema, in order."""
    previous = connection.tenant
    try:
        executor = _executor(schema_name)
        return [migration for migration, _ in executor.migration_plan(executor.loader.graph.leaf_nodes())]
    finally:
        connection.set_tenant(previous)


# The state before a deploy, rendered: the graph it belongs to, what is applied, the state. Rendering the models is
# most of what the executor costs, and public and the canary usually stand at the same migrations.
_rendered: tuple[Any, frozenset[tuple[str, str]], ProjectState] | None = None


def _state_before(executor: _Executor) -> ProjectState:
    """A copy of the project state of what this executor's schema has applied, with its models rendered."""
    global _rendered
    applied = frozenset(executor.loader.applied_migrations)
    if _rendered is None or _rendered[0] is not executor.loader.graph or _rendered[1] != applied:
        state = executor._create_project_state(with_applied_migrations=True)  # type: ignore[attr-defined]
        state.apps  # noqa: B018 (renders)
        _rendered = (executor.loader.graph, applied, state)
    return _rendered[2].clone()


def _forget_state() -> None:
    global _rendered
    _rendered = None


def _migrate_ordinary(
    schema_name: str, recording: Recording | None = None, *, lean: bool = False
) -> list[str]:
    """What `manage.py migrate` does, in one schema; with `recording`, written down as it happens.

    Args:
        lean: leave out what has no effect when nobody but Django listens to pre_migrate and post_migrate, no
            migration of the plan runs Python and none renames a model: the first signal, and the second where no
            content type or permission is missing. The caller knows.
    """
    previous = connection.tenant
    try:
        executor = _executor(schema_name)
        targets = executor.loader.graph.leaf_nodes()
        plan = executor.migration_plan(targets)
        before = _bookkeeping() if recording else None
        if lean:
            state = _state_before(executor)
        else:
            state = executor._create_project_state(with_applied_migrations=True)  # type: ignore[attr-defined]
            emit_pre_migrate_signal(0, False, connection.alias, apps=state.apps, plan=plan)
            state = state.clone()
        if recording is None:
            state = executor.migrate(targets, plan=plan, state=state)
        else:
            steps = recording.steps
            sink: list[str] = []

            def progress(action: str, migration: Any = None, fake: bool = False) -> None:
                if action == "apply_success":
                    steps.append(list(sink))
                    sink.clear()

            executor.progress_callback = progress  # type: ignore[assignment]
            with _recording_editor(sink):
                state = executor.migrate(targets, plan=plan, state=state)
        if not lean or _bookkeeping_lacks(state):
            _after_migrations(state, plan)
        if recording is not None and before is not None:
            after = _bookkeeping()
            recording.applied = [row for row in after[0] if row not in set(before[0])]
            recording.content_types = [row for row in after[1] if row not in set(before[1])]
            recording.permissions = [row for row in after[2] if row not in set(before[2])]
        return [f"{migration.app_label}.{migration.name}" for migration, _ in plan]
    finally:
        connection.set_tenant(previous)


def _after_migrations(state: ProjectState, plan: Any) -> None:
    """Send post_migrate as Django's command does: content types and permissions are made by its receivers."""
    state.clear_delayed_apps_cache()
    post_apps = state.apps
    # Real models, so that receivers of the signal find their relations (as Django's command does).
    with post_apps.bulk_update():
        keys = [(model.app_label, model.name_lower) for model in post_apps.real_models]
        for key in keys:
            post_apps.unregister_model(*key)
    post_apps.render_multiple([ModelState.from_model(global_apps.get_model(*key)) for key in keys])
    # Models may be shared with the state of another schema, where the same content type has another number.
    with suppress(LookupError):
        post_apps.get_model("contenttypes", "ContentType").objects.clear_cache()
    emit_post_migrate_signal(0, False, connection.alias, apps=post_apps, plan=plan)


def _bookkeeping_lacks(state: ProjectState) -> bool:
    """Whether a model of `state` has no content type yet, or no row for one of its permissions."""
    _, content_types, permissions = _bookkeeping()
    types = set(content_types)
    codes = {(app, model, codename) for app, model, codename, _ in permissions}
    for config in global_apps.get_app_configs():
        if config.models_module is None or config.label not in state.apps.app_configs:
            continue
        for model in state.apps.get_app_config(config.label).get_models():
            options = model._meta
            key = (options.app_label, str(options.model_name))
            if key not in types:
                return True
            if any((*key, codename) not in codes for codename, _ in _get_all_permissions(options)):
                return True
    return False


def _has_table(schema_name: str, table: str) -> bool:
    quote = connection.ops.quote_name
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [f"{quote(schema_name)}.{quote(table)}"])
        return bool(cursor.fetchone()[0])


def _bookkeeping() -> tuple[list[Any], list[Any], list[Any]]:
    """Rows of django_migrations, django_content_type and auth_permission, in the order they were made."""
    schema = connection.schema_name
    with connection.cursor() as cursor:
        cursor.execute("SELECT app, name FROM django_migrations ORDER BY id")
        migrations = cursor.fetchall()
        if not (_has_table(schema, "django_content_type") and _has_table(schema, "auth_permission")):
            return migrations, [], []
        cursor.execute("SELECT app_label, model FROM django_content_type ORDER BY id")
        types = cursor.fetchall()
        cursor.execute(
            "SELECT t.app_label, t.model, p.codename, p.name FROM auth_permission p "
            "JOIN django_content_type t ON t.id = p.content_type_id ORDER BY p.id"
        )
        return migrations, types, cursor.fetchall()


# ------------------------------------------------------------------ replay
def _literal(value: str) -> str:
    return str(psycopg.sql.Literal(value).as_string(connection.connection))


def _lock_number(schema_name: str) -> int:
    text = f"signoff:migrate:{schema_name}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


class Replay:
    """A recording as one string of SQL per schema."""

    # A name that no recorded statement can hold by chance.
    _MARK = "@schema-7f1c2a@"

    def __init__(self, recording: Recording, *, lock_timeout_s: float) -> None:
        connection.ensure_connection()
        body: list[str] = []
        for step in recording.steps:
            body += [statement.rstrip().rstrip(";") for statement in step]
            # Each migration was a transaction of its own: checks it deferred were made at its end.
            body += ["SET CONSTRAINTS ALL IMMEDIATE", "SET CONSTRAINTS ALL DEFERRED"]
        for app, name in recording.applied:
            body.append(
                f"INSERT INTO django_migrations (app, name, applied) VALUES ({_literal(app)}, {_literal(name)}, now())"  # noqa: S608
            )
        body += [self._content_type(*row) for row in recording.content_types]
        body += [self._permission(*row) for row in recording.permissions]
        # A statement may end in a comment, so the semicolon stands on a line of its own.
        self._body = "".join(f"{statement}\n;\n" for statement in body if statement.strip())
        self._digest = recording.digest
        self._lock_timeout_ms = int(lock_timeout_s * 1000)

    @staticmethod
    def _content_type(app: str, model: str) -> str:
        # Not ON CONFLICT, which would use up a number of the sequence each time.
        values = f"{_literal(app)}, {_literal(model)}"
        return (
            f"INSERT INTO django_content_type (app_label, model) SELECT {values} WHERE NOT EXISTS "  # noqa: S608
            f"(SELECT 1 FROM django_content_type WHERE (app_label, model) = ({values}))"
        )

    @staticmethod
    def _permission(app: str, model: str, codename: str, name: str) -> str:
        return (
            "INSERT INTO auth_permission (name, content_type_id, codename) "  # noqa: S608
            f"SELECT {_literal(name)}, t.id, {_literal(codename)} FROM django_content_type t "
            f"WHERE (t.app_label, t.model) = ({_literal(app)}, {_literal(model)}) AND NOT EXISTS "
            f"(SELECT 1 FROM auth_permission p WHERE p.content_type_id = t.id AND p.codename = {_literal(codename)})"
        )

    def text(self, schema_name: str) -> str:
        """The whole for one schema, to be executed inside a transaction."""
        quoted = connection.ops.quote_name(schema_name)
        return (
            # Names are quoted, the rest is a recording of our own migrations.
            f"SET LOCAL lock_timeout = {self._lock_timeout_ms};\n"  # noqa: S608
            f"SET LOCAL search_path = {quoted}, {connection.ops.quote_name(get_public_schema_name())};\n"
            f"SELECT pg_advisory_xact_lock({_lock_number(schema_name)});\n"
            f"DO $check$ BEGIN IF (SELECT {_digest_sql()} FROM {quoted}.django_migrations) IS DISTINCT FROM "
            f"{_literal(self._digest)} THEN RAISE EXCEPTION 'the schema moved' USING ERRCODE = '{_MOVED}'; "
            f"END IF; END $check$;\n{self._body}"
        )


def _replay_one(replay: Replay, schema_name: str, plan: list[str]) -> SchemaResult | None:
    """Replay in one schema. None: it cannot be replayed here, use the ordinary way."""
    started = time.monotonic()
    for attempt in range(1, _LOCK_ATTEMPTS + 1):
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(replay.text(schema_name))
        except DatabaseError as error:
            state = getattr(error.__cause__, "sqlstate", "") or ""
            if state == "55P03":  # lock_not_available
                if attempt < _LOCK_ATTEMPTS:
                    time.sleep(0.2 * attempt)
                    continue
                return SchemaResult(
                    schema_name, "failed", time.monotonic() - started, [],
                    f"A table stayed locked for {_LOCK_ATTEMPTS} times {replay._lock_timeout_ms / 1000:g} s. "
                    "End the long transaction, then run this again.",
                )  # fmt: skip
            if state != _MOVED:
                logger.warning(
                    "replay failed, migrating the ordinary way",
                    extra={"schema_name": schema_name, "error": str(error)},
                )
            return None
        return SchemaResult(schema_name, "replayed", time.monotonic() - started, list(plan))
    return None


# ------------------------------------------------------------------ the deploy
def _other_receivers() -> bool:
    """Whether someone else listens to pre_migrate or post_migrate: then a replay would leave their work undone."""
    known = {create_contenttypes, create_permissions, inject_rename_contenttypes_operations}
    for signal in (pre_migrate, post_migrate):
        for entry in signal.receivers:  # (key, receiver or weak reference to it, …)
            receiver = entry[1]() if isinstance(entry[1], weakref.ReferenceType) else entry[1]
            if receiver is not None and receiver not in known:
                return True
    return False


def _ordinary_one(schema_name: str, recording: Recording | None = None) -> SchemaResult:
    """Migrate one schema the ordinary way, under its lock. Never raises for a failing migration."""
    started = time.monotonic()
    number = _lock_number(schema_name)
    action = "canary" if recording is not None else "ordinary"
    try:
        _lock(number)
        try:
            head = heads([schema_name]).get(schema_name)
            if head is not None and head.at_head:
                return SchemaResult(schema_name, "none", time.monotonic() - started)
            if head is None and not _schema_exists(schema_name):
                return SchemaResult(
                    schema_name, "failed", time.monotonic() - started, [],
                    "The schema does not exist. Delete the tenant, or restore its schema from a backup.",
                )  # fmt: skip
            if recording is not None:
                recording.digest = head.digest if head else ""
            # A canary's plan can be replayed and nobody else listens, or it would be none.
            applied = _migrate_ordinary(schema_name, recording, lean=recording is not None)
            return SchemaResult(schema_name, action, time.monotonic() - started, applied)
        finally:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [number])
    except Exception as error:  # whatever one tenant's data makes of a migration, the others go on
        logger.exception("migration failed", extra={"schema_name": schema_name})
        if not connection.in_atomic_block:
            connection.close()
        message = f"{type(error).__name__}: {error}".strip()
        return SchemaResult(schema_name, "failed", time.monotonic() - started, [], message[:2000])


def _schema_exists(schema_name: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [schema_name])
        return cursor.fetchone() is not None


def _drop_connections() -> None:
    """Close this thread's connection and the pool, so that a forked child starts with neither."""
    connections.close_all()
    connections[connection.alias].close_pool()  # type: ignore[attr-defined]  # of the PostgreSQL backend


def _forget_connections() -> None:
    """In a forked child: start without any connection of the parent, and without closing one of the parent's."""
    for wrapper in connections.all(initialized_only=True):
        wrapper.connection = None


def _lock(number: int) -> None:
    """Take a schema's lock for this session; once more when the connection turns out to be dead."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [number])
    except OperationalError:
        if connection.in_atomic_block:
            raise
        connection.close()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [number])


def _ordinary_many(names: Sequence[str], jobs: int) -> Iterator[SchemaResult]:
    """The ordinary way in many schemas. It is bound by Python, so it is spread over processes."""
    jobs = min(jobs, len(names))
    if jobs <= 1 or connection.in_atomic_block:
        for name in names:
            yield _ordinary_one(name)
        return
    _drop_connections()
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_forget_connections) as pool:
        futures = {pool.submit(_ordinary_one, name): name for name in names}
        for future in as_completed(futures):
            try:
                yield future.result()
            except Exception as error:  # a worker that was killed
                yield SchemaResult(futures[future], "failed", 0.0, [], f"The worker process ended: {error}")


def _replay_many(
    replay: Replay, names: Sequence[str], plan: list[str], jobs: int
) -> Iterator[tuple[str, SchemaResult | None]]:
    """Replay in many schemas at once; the database does the work, so threads are enough."""
    jobs = min(jobs, len(names))
    if jobs <= 1 or connection.in_atomic_block:
        for name in names:
            yield name, _replay_one(replay, name, plan)
        return
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in names:
        todo.put(name)
    done: queue.SimpleQueue[tuple[str, SchemaResult | None] | BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        served = 0
        try:
            while True:
                try:
                    name = todo.get_nowait()
                except queue.Empty:
                    return
                done.put((name, _replay_one(replay, name, plan)))
                served += 1
                if served % _SCHEMAS_PER_CONNECTION == 0 and connection.connection is not None:
                    # Really closed, not put back: its catalogue cache has grown with every schema.
                    connection.connection.close()
                    connection.close()
        except BaseException as error:
            done.put(error)
        finally:
            connections.close_all()
            done.put(None)

    threads = [threading.Thread(target=work, name=f"replay-{index}") for index in range(jobs)]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            item = done.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        # Interrupted (Ctrl-C): begin no further schema; those begun are finished.
        while True:
            try:
                todo.get_nowait()
            except queue.Empty:
                break
        for thread in threads:
            thread.join()


def default_jobs() -> int:
    """Schemas migrated at once when nothing is said: the processors, at least 2, at most 8."""
    return min(8, max(2, os.cpu_count() or 1))


def public_ensure() -> SchemaResult:
    """Bring the public schema to head, before any tenant."""
    public = get_public_schema_name()
    started = time.monotonic()
    with schema_context(public):
        head = heads([public]).get(public)
        if head is not None and head.at_head:
            return SchemaResult(public, "none", time.monotonic() - started)
        number = _lock_number(public)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [number])
        try:
            schema_pre_migration.send(sender=public_ensure, schema_name=public)
            if (
                head is not None
                and not _other_receivers()
                and not any(map(why_not_replayable, plan_of(public)))
            ):
                applied = _migrate_ordinary(public, lean=True)
            else:
                before = _applied(public)
                migrate_schema_stock(public)
                applied = sorted(_applied(public) - before)
        finally:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [number])
        schema_migrated.send(sender=public_ensure, schema_name=public)
        return SchemaResult(public, "ordinary", time.monotonic() - started, applied)


def _applied(schema_name: str) -> set[str]:
    if schema_name not in heads([schema_name]):
        return set()
    with schema_context(schema_name), connection.cursor() as cursor:
        cursor.execute("SELECT app || '.' || name FROM django_migrations")
        return {name for (name,) in cursor.fetchall()}


def status(names: Iterable[str] | None = None) -> Report:
    """Where all schemas stand, changing nothing: `none` (at head), `pending` or `failed` (no schema)."""
    started = time.monotonic()
    public = get_public_schema_name()
    found = heads([public, *_names(names)]) if _has_tenants() else heads([public])
    order = [public, *(_names(names) if _has_tenants() else [])]
    plans: dict[str, list[str]] = {}
    results = []
    for name in order:
        head = found.get(name)
        if head is None:
            missing = name != public and not _schema_exists(name)
            results.append(
                SchemaResult(name, "failed", error="The schema does not exist.") if missing
                else SchemaResult(name, "pending", migrations=["all"])
            )  # fmt: skip
            continue
        if head.at_head:
            results.append(SchemaResult(name, "none"))
            continue
        # The router decides by schema, so public's plan is not a tenant's.
        key = head.digest if name != public else "public"
        if key not in plans:
            plans[key] = [f"{migration.app_label}.{migration.name}" for migration in plan_of(name)]
        results.append(SchemaResult(name, "pending" if plans[key] else "none", migrations=plans[key]))
    return Report(results, time.monotonic() - started, migrations_digest(disk_migrations()))


def _has_tenants() -> bool:
    """Whether the public schema has its tables yet."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s)", [f"{get_public_schema_name()}.{Tenant._meta.db_table}"])
        return bool(cursor.fetchone()[0])


def _names(names: Iterable[str] | None) -> list[str]:
    return schema_names() if names is None else list(names)


def migrate_all(
    *,
    names: Iterable[str] | None = None,
    jobs: int | None = None,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    progress: Progress | None = None,
) -> Report:
    """Bring public and then the tenants' schemas to the migrations on disk.

    Args:
        names: schemas; None is every tenant. Public always goes first.
        jobs: schemas at a time.
        progress: called with (done, total, result) after each schema that was not at head.
    Returns:
        One result per schema. A failing schema does not stop the others.
    """
    started = time.monotonic()
    jobs = jobs or default_jobs()
    results: dict[str, SchemaResult] = {}
    public = public_ensure()
    results[public.schema] = public
    order = _names(names)
    with schema_context(get_public_schema_name()):
        found = heads(order)
        groups: dict[str, list[str]] = {}
        for name in order:
            head = found.get(name)
            if head is not None and head.at_head:
                results[name] = SchemaResult(name, "none")
            else:
                groups.setdefault(head.digest if head else "", []).append(name)
        total = sum(len(members) for members in groups.values())
        done = 0
        if progress is not None and public.action != "none":
            progress(0, total, public)

        def finish(result: SchemaResult) -> None:
            nonlocal done
            done += 1
            results[result.schema] = result
            if result.migrations:
                schema_migrated.send(sender=migrate_all, schema_name=result.schema)
            if progress is not None:
                progress(done, total, result)

        try:
            for digest, members in groups.items():
                for result in _migrate_group(digest, members, jobs=jobs, lock_timeout_s=lock_timeout_s):
                    finish(result)
        finally:
            _forget_state()
    ordered = [results[name] for name in [public.schema, *order] if name in results]
    return Report(ordered, time.monotonic() - started, migrations_digest(disk_migrations()))


def _migrate_group(
    digest: str, members: list[str], *, jobs: int, lock_timeout_s: float
) -> Iterator[SchemaResult]:
    """Migrate schemas that all stand at the same migrations."""
    for name in members:
        schema_pre_migration.send(sender=migrate_all, schema_name=name)
    present = [name for name in members if _schema_exists(name)] if not digest else list(members)
    for name in members:
        if name not in present:
            yield _ordinary_one(name)  # says that it is missing
    if not present:
        return
    plan = plan_of(present[0])
    reasons = [reason for migration in plan if (reason := _reason_in(present[0], migration))]
    if not plan:
        # Nothing to apply, but a squashed migration to be marked: the executor does that.
        yield from _ordinary_many(present, jobs)
        return
    if reasons or not digest or _other_receivers():
        logger.info("migrating the ordinary way", extra={"reason": "; ".join(reasons)[:500]})
        yield from _ordinary_many(present, jobs)
        return
    todo = list(present)
    recording: Recording | None = None
    while todo:
        canary = todo.pop(0)
        attempt = Recording(digest, [f"{migration.app_label}.{migration.name}" for migration in plan])
        result = _ordinary_one(canary, attempt)
        yield result
        if result.action == "canary" and attempt.digest == digest and len(attempt.steps) == len(plan):
            recording = attempt
            break
    if recording is None or not todo:
        return
    replay = Replay(recording, lock_timeout_s=lock_timeout_s)
    ordinary: list[str] = []
    for name, replayed in _replay_many(replay, todo, recording.plan, jobs):
        if replayed is None:
            ordinary.append(name)
        else:
            yield replayed
    if ordinary:
        yield from _ordinary_many(ordinary, jobs)


def _reason_in(schema_name: str, migration: Migration) -> str:
    with schema_context(schema_name):
        return why_not_replayable(migration)
