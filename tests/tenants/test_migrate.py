"""Fast deploys give what Django's own migrate gives, whatever the migrations do and wherever they are interrupted."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django_tenants.signals import schema_migrated
from django_tenants.utils import schema_context

from core.security.actor import SYSTEM, use_actor
from tenants import migrating, schema_templates
from tenants.services import tenant_provision

pytestmark = pytest.mark.django_db(transaction=True)

HEADER = """
from django.db import migrations, models
class Migration(migrations.Migration):
    dependencies = [{dependencies}]
    {attributes}
    operations = [{operations}]
"""
ADD_FIELD = (
    'migrations.AddField("apikey", "colour", models.CharField(max_length=20, default="red", db_index=True))'
)
ADD_SECOND = 'migrations.AddField("user", "shoe_size", models.IntegerField(null=True))'
CREATE_MODEL = (
    'migrations.CreateModel("Badge", [("id", models.BigAutoField(primary_key=True)), ("text", models.CharField(max_length=9, unique=True)), '
    '("owner", models.ForeignKey("accounts.user", on_delete=models.CASCADE)), ("friends", models.ManyToManyField("accounts.user", related_name="+"))])'
)
ALTER = 'migrations.AlterField("user", "name", models.CharField(max_length=200, db_index=True))'
RENAME_FIELD = 'migrations.RenameField("apikey", "name", "title")'
REMOVE = 'migrations.RemoveField("apikey", "expires_at")'
CONSTRAINT = 'migrations.AddConstraint("apikey", models.CheckConstraint(condition=~models.Q(name=""), name="key_has_name"))'
INDEX = 'migrations.AddIndex("user", models.Index(fields=["name", "email"], name="user_name_mail"))'
RENAME_MODEL = 'migrations.RenameModel("ApiKey", "AccessKey")'
RUN_SQL = "migrations.RunSQL(\"UPDATE accounts_user SET name = name || ' 100%' -- a comment\", migrations.RunSQL.noop)"
RUN_SQL_PARAMS = 'migrations.RunSQL([("UPDATE accounts_user SET name = %s WHERE name = %s", ["Zoë", "Ada"])], migrations.RunSQL.noop)'
FUNCTION = (
    'migrations.RunSQL("CREATE FUNCTION shout(t text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN upper(t); END; $$; '
    'CREATE TRIGGER t_shout BEFORE UPDATE ON accounts_user FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();", migrations.RunSQL.noop)'
)
RUN_PYTHON = 'migrations.RunPython(lambda apps, editor: apps.get_model("accounts", "User").objects.update(time_zone="Asia/Tokyo"), migrations.RunPython.noop)'
RUN_NOOP = "migrations.RunPython(migrations.RunPython.noop, migrations.RunPython.noop)"
SEPARATE = f"migrations.SeparateDatabaseAndState(database_operations=[{RUN_PYTHON}], state_operations=[])"
NOT_ATOMIC = "atomic = False"
CONCURRENT = 'AddIndexConcurrently("user", models.Index(fields=["time_zone"], name="user_zone"))'

NAMES = ["alpha", "beta", "m2"]
STOCK = "m_stock"


@pytest.fixture
def schemas(transactional_db: None) -> list[str]:
    """The tenants of every test and two more; the last is migrated by Django's own command, for comparison."""
    connection.set_schema_to_public()
    for name in ("m2", STOCK):
        with use_actor(SYSTEM):
            tenant_provision(schema_name=name, name=name, plan="team")
    for name in [*NAMES, STOCK]:
        with schema_context(name), connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO accounts_user (password, email, name, roles, is_active, time_zone, must_change_password, created_at) "
                "VALUES ('', 'ada@example.com', 'Ada', '{admin}', true, 'UTC', false, '2026-01-01')"
            )
    return [*NAMES, STOCK]


@pytest.fixture
def write(tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`write([op, op], [op])` gives the app `accounts` one new migration for each list, outside the repository."""
    from tenants.accounts import migrations

    package = tmp_path / "synthetic_migrations"
    package.mkdir()
    (package / "__init__.py").write_text("")
    originals = sorted(Path(migrations.__path__[0]).glob("[0-9]*.py"))
    for original in originals:
        (package / original.name).write_text(original.read_text())
    monkeypatch.syspath_prepend(str(tmp_path))
    count = len(originals)

    def forget() -> None:
        for name in [name for name in sys.modules if name.startswith("synthetic_migrations")]:
            del sys.modules[name]
        schema_templates.forget_template()

    def add(*migrations: list[str], attributes: str = "") -> None:
        nonlocal count
        for operations in migrations:
            previous = sorted(package.glob("[0-9]*.py"))[-1].stem
            count += 1
            text = HEADER.format(
                dependencies=f'("accounts", "{previous}")',
                attributes=attributes,
                operations=", ".join(operations),
            )
            if CONCURRENT in operations:
                text = "from django.contrib.postgres.operations import AddIndexConcurrently\n" + text
            (package / f"{count:04d}_synthetic.py").write_text(text)
        settings.MIGRATION_MODULES = {"accounts": "synthetic_migrations"}
        forget()

    yield add
    forget()


def migrate(**options: Any) -> dict[str, Any]:
    """migrate_tenants with --json; the exit code is in "exit"."""
    out, code = StringIO(), 0
    options.setdefault("jobs", 2)
    try:
        call_command(
            "migrate_tenants", as_json=True, no_template=True, stdout=out, stderr=StringIO(), **options
        )
    except SystemExit as leave:
        code = int(leave.code or 0)
    finally:
        connection.set_schema_to_public()
    return {**json.loads(out.getvalue()), "exit": code}


def actions(report: dict[str, Any]) -> dict[str, str]:
    return {entry["schema"]: entry["action"] for entry in report["schemas"]}


def dump(schema: str) -> str:
    """pg_dump -s of a schema with its own name and comments taken out."""
    text = schema_templates.pg_dump("--schema-only", "--no-owner", "--schema", schema)
    kept = [
        line
        for line in text.splitlines()
        if line and not line.startswith(("--", "\\", "SET ", "SELECT pg_catalog.set"))
    ]
    # Where it qualifies a name; a column may be called like a tenant.
    return re.sub(rf"\b{schema}\.|\bSCHEMA {schema};", "SCHEMA.", "\n".join(kept))


def rows(schema: str, sql: str) -> list[Any]:
    with schema_context(schema), connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def bookkeeping(schema: str) -> tuple[Any, ...]:
    """django_migrations, content types and permissions, with their numbers."""
    return (
        rows(schema, "SELECT id, app, name FROM django_migrations ORDER BY id"),
        rows(schema, "SELECT id, app_label, model FROM django_content_type ORDER BY id"),
        rows(schema, "SELECT id, content_type_id, codename, name FROM auth_permission ORDER BY id"),
        rows(schema, "SELECT * FROM accounts_user ORDER BY id")[0][3:6],
    )


def migrate_stock(schema: str) -> None:
    call_command("migrate_schemas", schema_name=schema, verbosity=0, interactive=False)
    connection.set_schema_to_public()


# What the migrations do, whether they can be replayed.
SHAPES = {
    "schema and SQL": (
        [[ADD_FIELD], [ADD_SECOND, INDEX], [CONSTRAINT], [CREATE_MODEL], [RUN_SQL], [ALTER], [RUN_SQL_PARAMS], [FUNCTION],
         [RUN_NOOP, RENAME_FIELD, REMOVE]], "", True,
    ),
    "data and renamed models": ([[ADD_FIELD], [RUN_PYTHON], [SEPARATE, ADD_SECOND], [RENAME_MODEL]], "", False),
    "no transaction": ([[CONCURRENT]], NOT_ATOMIC, False),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=lambda name: name.replace(" ", "-"))
def test_the_result_is_that_of_djangos_own_migrate(
    schemas: list[str], write: Callable[..., None], shape: str
) -> None:
    migrations, attributes, replayable = SHAPES[shape]
    write(*migrations, attributes=attributes)
    migrate_stock(STOCK)
    report = migrate()
    assert report["exit"] == 0
    found = actions(report)
    assert found[STOCK] == "none"
    others = sorted(found[name] for name in NAMES)
    assert others == (["canary", "replayed", "replayed"] if replayable else ["ordinary"] * 3)
    expected, kept = dump(STOCK), bookkeeping(STOCK)
    for name in NAMES:
        assert dump(name) == expected, name
        assert bookkeeping(name) == kept, name
    assert set(actions(migrate()).values()) == {"none"}


def test_nothing_to_do_touches_nothing(schemas: list[str]) -> None:
    before = rows("alpha", "SELECT * FROM django_migrations")
    report = migrate()
    assert (report["exit"], set(actions(report).values())) == (0, {"none"})
    assert rows("alpha", "SELECT * FROM django_migrations") == before


def test_one_failing_schema_does_not_stop_the_others(schemas: list[str], write: Callable[..., None]) -> None:
    write([ADD_FIELD], [ADD_SECOND])
    with schema_context("beta"), connection.cursor() as cursor:
        cursor.execute("ALTER TABLE accounts_user ADD COLUMN shoe_size text")  # somebody's own change
    report = migrate()
    assert report["exit"] == 1
    found = actions(report)
    assert found["beta"] == "failed"
    assert set(found.values()) <= {"failed", "canary", "replayed", "ordinary"}
    assert [name for name, action in found.items() if action == "failed"] == ["beta"]
    failure = next(entry for entry in report["schemas"] if entry["schema"] == "beta")
    assert "shoe_size" in failure["error"]
    # What came before the failure is there; mended, the rest follows.
    with schema_context("beta"), connection.cursor() as cursor:
        cursor.execute("SELECT colour FROM accounts_apikey")
        cursor.execute("ALTER TABLE accounts_user DROP COLUMN shoe_size")
    report = migrate()
    assert report["exit"] == 0
    assert [name for name, action in actions(report).items() if action != "none"] == ["beta"]
    migrate_stock(STOCK)
    assert dump("beta") == dump(STOCK)


@pytest.mark.parametrize(
    ("operation", "attributes", "reason"),
    [
        (ADD_FIELD, "", ""),
        (ADD_SECOND, "", ""),
        (CREATE_MODEL, "", ""),
        (ALTER, "", ""),
        (RENAME_FIELD, "", ""),
        (REMOVE, "", ""),
        (CONSTRAINT, "", ""),
        (INDEX, "", ""),
        (RUN_SQL, "", ""),
        (RUN_NOOP, "", ""),
        (RENAME_MODEL, "", "renames a model"),
        (RUN_PYTHON, "", "runs Python"),
        (SEPARATE, "", "runs Python"),
        (f"migrations.SeparateDatabaseAndState([{SEPARATE}])", "", "runs Python"),
        (CONCURRENT, NOT_ATOMIC, "not atomic"),
        (
            'type("Own", (migrations.AddField,), {})("user", "x", models.IntegerField(null=True))',
            "",
            "not one of Django's",
        ),
    ],
)
def test_what_can_be_replayed(operation: str, attributes: str, reason: str) -> None:
    text = "from django.contrib.postgres.operations import AddIndexConcurrently\n" + HEADER.format(
        dependencies="", attributes=attributes, operations=operation
    )
    names: dict[str, Any] = {"__name__": "synthetic"}
    exec(text, names)
    found = migrating.why_not_replayable(names["Migration"]("x", "accounts"))
    assert (reason in found) if reason else (found == "")


def test_a_failing_canary_does_not_stop_the_others(schemas: list[str], write: Callable[..., None]) -> None:
    write([ADD_FIELD])
    with schema_context("alpha"), connection.cursor() as cursor:  # first by name
        cursor.execute("ALTER TABLE accounts_apikey ADD COLUMN colour text")
    report = migrate()
    assert report["exit"] == 1
    found = actions(report)
    assert found["alpha"] == "failed"
    assert sorted(set(found.values())) == ["canary", "failed", "ordinary", "replayed"]  # ordinary: public


def test_a_tenant_without_its_schema_is_named(schemas: list[str], write: Callable[..., None]) -> None:
    write([ADD_FIELD])
    with connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA m2 CASCADE")
    report = migrate()
    assert report["exit"] == 1
    failed = [entry for entry in report["schemas"] if entry["action"] == "failed"]
    assert [entry["schema"] for entry in failed] == ["m2"]
    assert "does not exist" in failed[0]["error"]


def test_an_interrupted_deploy_goes_on_where_it_was(
    schemas: list[str], write: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    write([ADD_FIELD], [ADD_SECOND])
    real, done = migrating._replay_one, []

    def interrupted(replay: Any, name: str, plan: list[str]) -> Any:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(name)
        return real(replay, name, plan)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(migrating, "_replay_one", interrupted)
        migrating.migrate_all(jobs=1)
    connection.set_schema_to_public()
    half = {
        name: ("accounts", "0003_synthetic") in [row[1:] for row in bookkeeping(name)[0]]
        for name in [*NAMES, STOCK]
    }
    assert sorted(half.values()) == [False, False, True, True]
    report = migrate()
    assert report["exit"] == 0
    expected = dump(STOCK)
    assert all(dump(name) == expected for name in NAMES)


def test_a_killed_replay_leaves_its_schema_as_it_was(
    schemas: list[str], write: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    write([ADD_FIELD])
    before = dump("m2")
    text = migrating.Replay.text

    def cut(self: Any, name: str) -> str:
        whole = text(self, name)
        return whole + "SELECT pg_terminate_backend(pg_backend_pid());" if name == "m2" else whole

    with monkeypatch.context() as patch:
        patch.setattr(migrating.Replay, "text", cut)
        report = migrate(jobs=1)
    # The connection went down in the middle: the ordinary way took over, from an untouched schema.
    assert actions(report)["m2"] in {"ordinary", "failed"}
    assert migrate()["exit"] == 0
    assert dump("m2") != before
    assert dump("m2") == dump("beta")


def test_a_schema_that_moved_meanwhile_is_not_touched_twice(
    schemas: list[str], write: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two deploys at once: the other one migrates a schema between our look and our replay."""
    write([ADD_FIELD])
    real, moved = migrating._replay_one, []

    def overtaken(replay: Any, name: str, plan: list[str]) -> Any:
        if not moved:
            moved.append(name)
            migrating._ordinary_one(name)
        return real(replay, name, plan)

    monkeypatch.setattr(migrating, "_replay_one", overtaken)
    report = migrate(jobs=1)
    assert report["exit"] == 0
    assert actions(report)[moved[0]] == "none"
    assert len({name for _, _, name in bookkeeping(moved[0])[0] if "synthetic" in name}) == 1


def test_two_deploys_at_once_end_well(schemas: list[str], write: Callable[..., None]) -> None:
    from django.db import connections

    write([ADD_FIELD], [CREATE_MODEL])
    reports: list[Any] = []

    def deploy() -> None:
        try:
            reports.append(migrating.migrate_all(jobs=1))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=deploy) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report.failed for report in reports] == [[], []]
    expected = dump(STOCK)
    for name in NAMES:
        assert dump(name) == expected
        synthetic = [row for row in bookkeeping(name)[0] if "synthetic" in row[2]]
        assert len(synthetic) == 2


def test_schemas_at_different_places_are_brought_to_the_same(
    schemas: list[str], write: Callable[..., None]
) -> None:
    write([ADD_FIELD])
    assert migrate(schemas=["alpha", "beta"])["exit"] == 0
    write([ADD_SECOND])
    report = migrate()
    assert report["exit"] == 0
    assert len({dump(name) for name in [*NAMES, STOCK]}) == 1
    assert [actions(report)[name] for name in [*NAMES, STOCK]] == ["canary", "replayed", "canary", "replayed"]


def test_a_locked_table_is_reported_and_the_others_go_on(
    schemas: list[str], write: Callable[..., None]
) -> None:
    import psycopg

    write([ADD_FIELD])
    parameters = connection.get_connection_params()
    with psycopg.connect(
        **{key: parameters[key] for key in ("dbname", "user", "password", "host", "port")}
    ) as other:
        other.execute("LOCK TABLE m2.accounts_apikey IN ACCESS EXCLUSIVE MODE")
        report = migrate(lock_timeout=0.05)
        other.rollback()
    assert report["exit"] == 1
    failed = [entry for entry in report["schemas"] if entry["action"] == "failed"]
    assert [entry["schema"] for entry in failed] == ["m2"]
    assert "locked" in failed[0]["error"]
    assert migrate()["exit"] == 0


def test_the_signal_is_sent_for_every_schema_that_changed(
    schemas: list[str], write: Callable[..., None]
) -> None:
    write([ADD_FIELD])
    told: list[str] = []

    def hear(schema_name: str, **_: Any) -> None:
        told.append(schema_name)

    schema_migrated.connect(hear)
    try:
        migrate()
        assert sorted(told) == sorted([*schemas, "public"])
        told.clear()
        migrate()
        assert told == []
    finally:
        schema_migrated.disconnect(hear)


# ------------------------------------------------------------------ --check, --status, options
def test_check_changes_nothing_and_exits_1_when_behind(
    schemas: list[str], write: Callable[..., None]
) -> None:
    assert migrate(check=True)["exit"] == 0
    write([ADD_FIELD])
    before = dump("alpha")
    report = migrate(check=True)
    assert report["exit"] == 1
    assert set(actions(report).values()) == {"pending"}
    assert report["schemas"][1]["migrations"] == ["accounts.0002_synthetic"]
    assert dump("alpha") == before
    migrate()
    assert migrate(check=True)["exit"] == 0


def test_status_lists_every_schema(schemas: list[str], write: Callable[..., None]) -> None:
    out = StringIO()
    call_command("migrate_tenants", status=True, stdout=out)
    assert len(out.getvalue().splitlines()) == len(schemas) + 1 + 1  # public, the sum
    assert "alpha at head" in out.getvalue()


def test_the_list_shows_who_is_behind(schemas: list[str], write: Callable[..., None]) -> None:
    from tenants.selectors import tenant_statuses, tenants_matching

    write([ADD_FIELD])
    assert {status.health for status in tenant_statuses(tenants_matching())} == {"behind"}


@pytest.mark.parametrize("options", [{"jobs": 0}, {"lock_timeout": 0}, {"schemas": ["nobody"]}])
def test_a_bad_option_is_refused(schemas: list[str], options: dict[str, Any]) -> None:
    with pytest.raises(CommandError):
        call_command("migrate_tenants", stdout=StringIO(), **options)


def test_a_new_tenant_gets_the_new_migrations(schemas: list[str], write: Callable[..., None]) -> None:
    write([ADD_FIELD])
    call_command("migrate_tenants", stdout=StringIO(), jobs=2)
    connection.set_schema_to_public()
    with use_actor(SYSTEM):
        tenant_provision(schema_name="late", name="Late", plan="team")
    assert dump("late") == dump("alpha")
    assert set(actions(migrate()).values()) == {"none"}
