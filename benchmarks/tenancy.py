"""Seconds to create tenants and to deploy to many of them: Django's and django-tenants' way, and ours.

    .venv/bin/python benchmarks/tenancy.py --sizes 50 200

It makes a database of its own on the server of DATABASE_URL (or of a running `manage.py up`) and drops it at the
end. Stock is timed on at most --stock-limit schemas and scaled to the size, because it takes minutes; scaled figures
are marked with ~ (stock does the same work in each schema, one after the other). Stock and ours take turns, at the
same number of tenants, --rounds times; what is printed are medians. No intervals: trust ratios, not digits.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

ADD_FIELD = """
from django.db import migrations, models
class Migration(migrations.Migration):
    dependencies = [("accounts", "{previous}")]
    operations = [migrations.AddField("user", "{field}", models.CharField(max_length=40, default="", db_index=True))]
"""


@contextlib.contextmanager
def own_database() -> Iterator[str]:
    """A database of this run on the configured server; DATABASE_URL names it while the block runs."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "core.settings")
    os.environ.setdefault("LOG_LEVEL", "ERROR")
    import psycopg
    from environs import Env

    from core.platform.paths import runtime_env_file

    if runtime_env_file().is_file():
        Env().read_env(str(runtime_env_file()), recurse=False)
    url = os.environ.get("DATABASE_URL")
    if not url:
        sys.exit(
            "Set DATABASE_URL to a PostgreSQL server on which a database may be made, or run make up first."
        )
    base, _, _ = url.rpartition("/")
    name = f"bench_tenancy_{os.getpid()}"
    with psycopg.connect(f"{base}/postgres", autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    os.environ["DATABASE_URL"] = f"{base}/{name}"
    try:
        yield name
    finally:
        with contextlib.suppress(Exception):
            from django.db import connection, connections

            connections.close_all()
            connection.close_pool()
        with psycopg.connect(f"{base}/postgres", autocommit=True) as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def timed(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes, its printing swallowed."""
    started = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        work()
    return time.monotonic() - started


class Bench:
    """One run of the benchmark on a database that holds nothing yet."""

    def __init__(self, stock_limit: int, folder: Path) -> None:
        import django

        django.setup()
        from tenants import migrating, schema_templates

        self.migrating, self.templates = migrating, schema_templates
        self.stock_limit = stock_limit
        self.folder = folder
        self.names: list[str] = []
        self.fields = 0
        with contextlib.redirect_stdout(io.StringIO()):
            migrating.migrate_all()
            schema_templates.template_ensure()

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def provision(self, size: int) -> list[float]:
        """Tenants up to `size`; seconds of each that was made."""
        from core.security.actor import SYSTEM, use_actor
        from tenants.services import tenant_provision

        seconds = []
        with use_actor(SYSTEM):
            while len(self.names) < size:
                name = f"bench{len(self.names):05d}"
                seconds.append(
                    timed(lambda name=name: tenant_provision(schema_name=name, name=name, plan="team"))
                )
                self.names.append(name)
                if len(self.names) % 50 == 0:
                    self.say(f"  {len(self.names)} tenants")
        return seconds

    def create_stock(self) -> float:
        """Seconds in which django-tenants makes a tenant, beside those there are."""
        from django.db import connection

        from tenants.models import Plan, Tenant

        tenant = Tenant(schema_name="stock", name="stock", plan=Plan.objects.first())
        tenant.save()
        seconds = timed(lambda: tenant.create_schema(verbosity=0))
        tenant.delete(force_drop=True)
        connection.set_schema_to_public()
        return seconds

    def stock(self, size: int) -> tuple[float, bool]:
        """Seconds of stock migrate_schemas over `size` schemas, and whether they are scaled."""
        from django_tenants.migration_executors import get_executor
        from django_tenants.utils import get_tenant_base_migrate_command_class

        some = self.names[: min(size, self.stock_limit)]
        parser = get_tenant_base_migrate_command_class()().create_parser("manage.py", "migrate")
        options = vars(parser.parse_args(["--verbosity", "0", "--no-input", "--skip-checks", "--no-color"]))
        options.pop("args", None)
        executor = get_executor("standard")((), options)
        seconds = timed(lambda: executor.run_migrations(tenants=list(some)))
        return seconds * size / len(some), len(some) < size

    def ours(self) -> float:
        """Seconds of migrate_all, the files read as in a new process; ends the benchmark when a schema fails."""
        self.templates.forget_template()
        reports = []
        seconds = timed(lambda: reports.append(self.migrating.migrate_all()))
        failed = reports[0].failed
        if failed:
            sys.exit(f"{failed[0].schema} failed: {failed[0].error}")
        return seconds

    def command(self) -> float:
        """Seconds of `manage.py migrate_tenants` as a command, starting Python and Django included."""
        return timed(
            lambda: subprocess.run(
                [sys.executable, str(ROOT / "manage.py"), "migrate_tenants", "--json"],
                check=True,
                capture_output=True,
                cwd=ROOT,
            )
        )

    def add_field(self) -> None:
        """One more migration: a CharField with an index on the users' table."""
        from django.conf import settings

        from tenants.accounts import migrations

        package = self.folder / "bench_migrations"
        if not package.exists():
            package.mkdir()
            (package / "__init__.py").write_text("")
            for original in Path(migrations.__path__[0]).glob("[0-9]*.py"):
                (package / original.name).write_text(original.read_text())
            sys.path.insert(0, str(self.folder))
        previous = sorted(package.glob("[0-9]*.py"))[-1].stem
        self.fields += 1
        (package / f"{9000 + self.fields}_bench.py").write_text(
            ADD_FIELD.format(previous=previous, field=f"bench_{self.fields}")
        )
        settings.MIGRATION_MODULES = {"accounts": "bench_migrations"}
        self.forget_files()

    def remove_fields(self) -> None:
        """Forget the added migrations, so that a new process finds every schema at head again."""
        from django.conf import settings
        from django.db import connection

        for name in [*self.names, "public"]:
            with connection.cursor() as cursor:
                for number in range(1, self.fields + 1):
                    cursor.execute(f'ALTER TABLE "{name}".accounts_user DROP COLUMN IF EXISTS bench_{number}')
                cursor.execute(f"DELETE FROM \"{name}\".django_migrations WHERE name LIKE '9%_bench'")
        settings.MIGRATION_MODULES = {}
        for added in (self.folder / "bench_migrations").glob("9*_bench.py"):
            added.unlink()
        self.fields = 0
        self.forget_files()

    def forget_files(self) -> None:
        """Make this process read the migrations again."""
        for name in [name for name in sys.modules if name.startswith("bench_migrations")]:
            del sys.modules[name]
        self.templates.forget_template()

    def size(self, size: int, rounds: int) -> dict[str, Any]:
        """All figures at one number of tenants."""
        self.say(f"{size} tenants: creating")
        stock_made = [self.create_stock()]
        made = self.provision(size)[-50:]
        stock_made += [self.create_stock() for _ in range(2)]
        self.say("  nothing to do")
        noop_ours, noop_stock, commands = [], [], []
        for _ in range(rounds):
            noop_ours.append(self.ours())
            commands.append(self.command())
            seconds, noop_scaled = self.stock(size)
            noop_stock.append(seconds)
        self.say("  AddField with an index")
        add_ours, add_stock = [], []
        for _ in range(rounds):
            self.add_field()
            add_ours.append(self.ours())
            self.add_field()
            seconds, add_scaled = self.stock(size)
            add_stock.append(seconds)
            self.ours()
        self.remove_fields()
        return {
            "tenants": size,
            "create_stock_s": statistics.median(stock_made),
            "create_ours_s": statistics.median(made) if made else None,
            "created": len(made),
            "noop_stock_s": statistics.median(noop_stock), "noop_stock_scaled": noop_scaled,
            "noop_ours_s": statistics.median(noop_ours), "noop_command_s": statistics.median(commands),
            "add_field_stock_s": statistics.median(add_stock), "add_field_stock_scaled": add_scaled,
            "add_field_ours_s": statistics.median(add_ours),
        }  # fmt: skip


def table(results: list[dict[str, Any]], tables: int) -> str:
    """The figures as lines for a person."""
    lines = [
        f"{tables} tables per tenant. Seconds.",
        "",
        f"{'':<26}{'stock':>12}{'ours':>12}{'times faster':>15}",
    ]

    def line(what: str, stock: float, ours: float, scaled: bool = False) -> str:
        mark = "~" if scaled else ""
        return f"{what:<26}{mark + format(stock, '.2f'):>12}{ours:>12.3f}{stock / ours:>15.0f}"

    for found in results:
        if found["create_ours_s"]:
            lines.append(
                line(
                    f"create a tenant (to {found['tenants']})",
                    found["create_stock_s"],
                    found["create_ours_s"],
                )
            )
        lines.append(
            line(
                f"no-op, {found['tenants']} schemas",
                found["noop_stock_s"],
                found["noop_ours_s"],
                found["noop_stock_scaled"],
            )
        )
        lines.append(
            line(
                f"AddField, {found['tenants']} schemas",
                found["add_field_stock_s"],
                found["add_field_ours_s"],
                found["add_field_stock_scaled"],
            )
        )
    largest = results[-1]
    lines += [
        "",
        f"manage.py migrate_tenants as a command, nothing to do, {largest['tenants']} schemas: "
        f"{largest['noop_command_s']:.2f} s wall (Python and Django start in it).",
    ]
    return "\n".join(lines)


def main() -> None:
    """Read the options, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[50, 200],
        help="numbers of tenants, growing (default: 50 200)",
    )
    parser.add_argument(
        "--stock-limit", type=int, default=50, help="schemas stock is timed on before scaling (default: 50)"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="times each deploy is measured; medians are printed (default: 3)",
    )
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    options = parser.parse_args()
    if min(options.sizes) < 2 or options.stock_limit < 1 or options.rounds < 1:
        sys.exit("Sizes must be at least 2, and --stock-limit and --rounds at least 1.")
    with own_database(), tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.stock_limit, Path(folder))
        results = [bench.size(size, options.rounds) for size in sorted(options.sizes)]
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_tables WHERE schemaname = %s", [bench.names[0]])
            tables = cursor.fetchone()[0]
    if options.json:
        print(json.dumps({"tables": tables, "sizes": results}, indent=2))
    else:
        print(table(results, tables))


if __name__ == "__main__":
    main()
