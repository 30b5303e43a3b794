"""Seconds to create tenants and to deploy to many of them: Django's and django-tenants' way, and ours.

    .venv/bin/python benchmarks/tenancy.py --sizes 50 200

It makes a database of its own on the server of DATABASE_URL (or of a running `manage.py up`) and drops it at the
end. Stock is timed on at most --stock-limit schemas and scaled to the size, because it takes minutes; scaled figures
are marked with ~ (stock does the same work in each schema, one after the other). Single measurements, no intervals:
trust ratios, not digits.
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

    def create_stock(self, count: int = 3) -> float:
        """Median seconds in which django-tenants makes a tenant."""
        from django.db import connection

        from tenants.models import Plan, Tenant

        seconds = []
        for number in range(count):
            tenant = Tenant(schema_name=f"stock{number}", name=f"stock{number}", plan=Plan.objects.first())
            tenant.save()
            seconds.append(timed(lambda tenant=tenant: tenant.create_schema(verbosity=0)))
            tenant.delete(force_drop=True)
            connection.set_schema_to_public()
        return statistics.median(seconds)

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
        """Seconds of migrate_all, failing loudly."""
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
        for name in [name for name in sys.modules if name.startswith("bench_migrations")]:
            del sys.modules[name]
        self.templates.forget_template()

    def size(self, size: int) -> dict[str, Any]:
        """All figures at one number of tenants."""
        self.say(f"{size} tenants: creating")
        made = self.provision(size)
        self.say("  nothing to do")
        noop_ours = min(self.ours() for _ in range(3))
        command = self.command() if not self.fields else None
        noop_stock, noop_scaled = self.stock(size)
        self.say("  AddField with an index")
        self.add_field()
        add_ours = self.ours()
        self.add_field()
        add_stock, add_scaled = self.stock(size)
        self.ours()
        return {
            "tenants": size,
            "create_ours_s": statistics.median(made) if made else None,
            "created": len(made),
            "noop_stock_s": noop_stock, "noop_stock_scaled": noop_scaled, "noop_ours_s": noop_ours,
            "noop_command_s": command,
            "add_field_stock_s": add_stock, "add_field_stock_scaled": add_scaled, "add_field_ours_s": add_ours,
        }  # fmt: skip


def table(results: list[dict[str, Any]], create_stock: float, tables: int) -> str:
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
                line(f"create a tenant (to {found['tenants']})", create_stock, found["create_ours_s"])
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
        if found["noop_command_s"]:
            lines.append(
                f"{'no-op as a command':<26}{'':>12}{found['noop_command_s']:>12.2f}   (starts Python and Django)"
            )
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
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    options = parser.parse_args()
    if min(options.sizes) < 2 or options.stock_limit < 1:
        sys.exit("Sizes must be at least 2, and --stock-limit at least 1.")
    with own_database(), tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.stock_limit, Path(folder))
        bench.say("stock: creating tenants")
        create_stock = bench.create_stock()
        results = [bench.size(size) for size in sorted(options.sizes)]
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_tables WHERE schemaname = %s", [bench.names[0]])
            tables = cursor.fetchone()[0]
    if options.json:
        print(json.dumps({"tables": tables, "create_stock_s": create_stock, "sizes": results}, indent=2))
    else:
        print(table(results, create_stock, tables))


if __name__ == "__main__":
    main()
