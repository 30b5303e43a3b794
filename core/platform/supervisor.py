"""Keeps a set of children running, restarts what dies, and stops all of them in order."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from core.platform import processes
from core.platform.services import EmbeddedServices, Postgres, ServiceProblem, Valkey, Workspace

# Seconds before the 1st, 2nd, ... restart in a row; a child that ran for a minute starts the count again.
_BACK_OFF_S = (0.2, 1.0, 2.0, 5.0, 10.0, 30.0)
_SETTLED_S = 60.0
# Seconds of silence at starting and stopping a service after which a line says why.
_SLOW_S = 8.0
# Bytes of one child's log before it is moved aside (one old one is kept).
_LOG_LIMIT = 50 * 2**20
# Lines of one child shown on the console in any ten seconds; the rest are in its log.
_SHOWN_LINES = 8
_SHOWN_WINDOW_S = 10.0


class Interrupted(Exception):
    """The person, or the system, asked the supervisor to stop."""


class Console:
    """Plain lines for a person, each with the time since the start."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._broken = False

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.began

    def line(self, text: str) -> None:
        """Write a line now. A closed terminal is no reason to die half way through stopping the children."""
        if self._broken:
            return
        try:
            sys.stdout.write(f"[{self.elapsed_s:7.1f} s] {text}\n")
            sys.stdout.flush()
        except (OSError, ValueError):
            self._broken = True

    def plain(self, text: str = "") -> None:
        """Write text as it is."""
        if self._broken:
            return
        try:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        except (OSError, ValueError):
            self._broken = True


# ------------------------------------------------------------------ logs
_ERROR = re.compile(r"\b(ERROR|CRITICAL|FATAL|PANIC)\b|^Traceback \(most recent call last\)|^MemoryError")
# PostgreSQL calls a refused row an ERROR; those are the application's business and appear in its own log.
_ERROR_OF_POSTGRES = re.compile(r"\b(FATAL|PANIC):")
# What every orderly stop and restart says.
_EXPECTED = re.compile(
    r"terminating connection due to administrator command|the database system is (starting up|shutting down)"
    r"|terminating walreceiver|terminating background worker"
)


class LogTail:
    """Reads what a child adds to its log file, and picks the lines that belong on the console."""

    def __init__(self, path: Path, *, everything: bool = False, postgres: bool = False) -> None:
        self.path = path
        self.everything = everything
        self._error = _ERROR_OF_POSTGRES if postgres else _ERROR
        self._offset = path.stat().st_size if path.exists() else 0
        self._rest = b""
        self._shown: list[float] = []
        self._hidden = 0

    def new_lines(self) -> list[str]:
        """Complete lines written since the last call."""
        try:
            size = self.path.stat().st_size
            if size < self._offset:  # moved aside
                self._offset = 0
                self._rest = b""
            if size == self._offset:
                return []
            with self.path.open("rb") as handle:
                handle.seek(self._offset)
                data = self._rest + handle.read(2**20)
                self._offset = handle.tell()
        except OSError:
            return []
        *lines, self._rest = data.split(b"\n")
        return [line.decode(errors="replace").rstrip("\r") for line in lines]

    def console_lines(self) -> list[str]:
        """The new lines a person should see: all of a step's, only the errors of a service's."""
        lines = self.new_lines()
        if self.everything:
            return lines
        now = time.monotonic()
        self._shown = [when for when in self._shown if now - when < _SHOWN_WINDOW_S]
        wanted = []
        for line in lines:
            text = self._told(line)
            if text is None:
                continue
            if len(self._shown) >= _SHOWN_LINES:
                self._hidden += 1
                continue
            self._shown.append(now)
            wanted.append(text)
        if self._hidden and not self._shown:
            wanted.append(f"... and {self._hidden} more in {self.path}")
            self._hidden = 0
        return wanted

    def _told(self, line: str) -> str | None:
        """How a line is shown, or None when it is not an error."""
        if line.startswith("{"):
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if record.get("levelname") not in {"ERROR", "CRITICAL"}:
                    return None
                cause = str(record.get("exc_info") or "").strip().splitlines()
                return f"{record.get('message', '')}{f' ({cause[-1]})' if cause else ''}"
        if self._error.search(line) and not _EXPECTED.search(line):
            return line
        return None


def limit_log(path: Path) -> None:
    """Move a log that has grown large aside, in place: the child goes on writing to the emptied file."""
    try:
        if path.stat().st_size > _LOG_LIMIT:
            shutil.copyfile(path, path.with_suffix(".old.log"))
            os.truncate(path, 0)
    except OSError:
        return


# ------------------------------------------------------------------ children
@dataclass
class Program:
    """One long-running child: what to run, how to know that it is well, how to end it.

    nice: increment of niceness. grace_s: seconds between the polite signal and the end. ready_line: text in
    the log that means it is up; `probe` is asked when there is one.
    """

    name: str
    command: Sequence[str]
    stop_signal: int = signal.SIGTERM
    grace_s: float = 10.0
    nice: int = 0
    ready_line: str = ""
    probe: Callable[[], bool] | None = None
    environ: Mapping[str, str] = field(default_factory=dict)


class Child:
    """A program and its process of the moment."""

    def __init__(self, program: Program, workspace: Workspace) -> None:
        self.program = program
        self.log = workspace.log(program.name)
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.failures = 0
        self.restart_at: float | None = None
        self._log_start = 0
        self.log.touch()
        self.tail = LogTail(self.log)

    def start(self, environ: Mapping[str, str], cwd: Path) -> None:
        limit_log(self.log)
        self._log_start = self.log.stat().st_size
        with self.log.open("ab") as output:
            self.process = processes.spawn(
                self.program.command,
                output=output,
                env={**environ, **self.program.environ},
                cwd=cwd,
                nice=self.program.nice,
                # A supervisor that was killed cannot follow up a polite request.
                death_signal=signal.SIGKILL,
            )
        self.started_at = time.monotonic()
        self.restart_at = None

    def healthy(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            return False
        if self.program.probe is not None:
            return self.program.probe()
        if self.program.ready_line:
            with contextlib.suppress(OSError), self.log.open("rb") as handle:
                size = self.log.stat().st_size
                handle.seek(self._log_start if self._log_start <= size else 0)
                return self.program.ready_line.encode() in handle.read()
            return False
        return True

    def stop(self) -> None:
        if self.process is not None:
            processes.stop(self.process, signum=self.program.stop_signal, grace_s=self.program.grace_s)
            self.process = None


class Supervisor:
    """Runs the embedded services and the programs, from the main thread.

    Every wait goes through `tick`, so that a child that dies is seen, errors are shown and a signal is obeyed
    whatever the supervisor is busy with.
    """

    def __init__(
        self,
        *,
        workspace: Workspace,
        services: EmbeddedServices,
        environ: Mapping[str, str],
        console: Console,
        cwd: Path,
    ) -> None:
        self.workspace = workspace
        self.services = services
        self.environ = dict(environ)
        self.console = console
        self.cwd = cwd
        self.children: list[Child] = []
        self.steps: list[subprocess.Popen[bytes]] = []
        self._signals: list[int] = []
        self._service_restarts: dict[str, tuple[int, float]] = {}
        self._service_tails: dict[str, LogTail] = {}
        self._recorded: list[int] | None = None

    # -------------------------------------------------------------- signals
    def listen(self) -> None:
        """Obey Ctrl-C, SIGTERM and a closed terminal; a second signal ends the children without waiting."""
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, self._on_signal)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._signals.append(signum)

    @property
    def interrupted(self) -> bool:
        return bool(self._signals)

    # -------------------------------------------------------------- services
    def start_services(self) -> list[str]:
        """Start the embedded services; their names with what they say of themselves."""
        started = []
        for name, service in self._services():
            self._check_signals()
            self._service_tails[name] = LogTail(self.workspace.log(name), postgres=name == "postgres")
            with self._said_when_slow(f"{name} is still starting; after a crash it recovers its data first"):
                service.start()
            self._record()
            started.append(f"{name} on 127.0.0.1:{service.port}")
        return started

    @contextlib.contextmanager
    def _said_when_slow(self, line: str) -> Iterator[None]:
        """Tell `line` when the block takes longer than a person waits without wondering."""
        notice = threading.Timer(_SLOW_S, self.console.line, [line])
        notice.daemon = True
        notice.start()
        try:
            yield
        finally:
            notice.cancel()

    def _services(self) -> list[tuple[str, Postgres | Valkey]]:
        found: list[tuple[str, Postgres | Valkey]] = []
        if self.services.postgres:
            found.append(("postgres", self.services.postgres))
        if self.services.broker:
            found.append(("broker", self.services.broker))
        if self.services.cache:
            found.append(("cache", self.services.cache))
        return found

    def _revive_services(self) -> None:
        for name, service in self._services():
            if service.process is None:
                if name not in self._service_restarts:
                    continue  # not started yet
                failures, at = self._service_restarts[name]
                if time.monotonic() < at:
                    continue
            else:
                code = service.process.poll()
                if code is None:
                    continue
                failures = self._service_restarts.get(name, (0, 0.0))[0]
                self.console.line(f"{name} ended ({_ending(code)}); starting it again")
                processes.kill_group(service.process)
                service.process = None
            try:
                service.start()
            except ServiceProblem as problem:
                delay = _BACK_OFF_S[min(failures, len(_BACK_OFF_S) - 1)]
                self._service_restarts[name] = (failures + 1, time.monotonic() + delay)
                self.console.line(f"{name}: {problem} Trying again in {delay:g} s.")
            else:
                self._service_restarts[name] = (0, 0.0)
                self._record()
                self.console.line(
                    f"{name} runs again (pid {service.process.pid if service.process else '?'})"
                )

    # -------------------------------------------------------------- children
    def add(self, program: Program) -> Child:
        """Start a program and look after it from now on."""
        child = Child(program, self.workspace)
        self.children.append(child)
        child.start(self.environ, self.cwd)
        self._record()
        return child

    def _revive_children(self) -> None:
        now = time.monotonic()
        for child in self.children:
            if child.process is not None:
                code = child.process.poll()
                if code is None:
                    continue
                # What it had started itself must not work on beside its successor.
                processes.kill_group(child.process)
                child.process = None
                if now - child.started_at > _SETTLED_S:
                    child.failures = 0
                delay = _BACK_OFF_S[min(child.failures, len(_BACK_OFF_S) - 1)]
                child.failures += 1
                child.restart_at = now + delay
                hint = f"; see {child.log}" if child.failures > 2 else ""
                self.console.line(
                    f"{child.program.name} ended ({_ending(code)}); starting it again in {delay:g} s{hint}"
                )
            if child.restart_at is not None and now >= child.restart_at:
                child.start(self.environ, self.cwd)
                self._record()
                self.console.line(
                    f"{child.program.name} started again (pid {child.process.pid if child.process else '?'})"
                )

    # -------------------------------------------------------------- one turn
    def tick(self, *, revive: bool = True) -> None:
        """Look at everything once.

        Raises:
            Interrupted: a signal asked to stop.
        """
        self._check_signals()
        if revive:
            self._revive_services()
            self._revive_children()
        self._relay()
        self._check_signals()

    def _check_signals(self) -> None:
        if self._signals:
            raise Interrupted

    def _relay(self) -> None:
        for name, tail in self._service_tails.items():
            for line in tail.console_lines():
                self.console.line(f"{name} | {line}")
        for child in self.children:
            for line in child.tail.console_lines():
                self.console.line(f"{child.program.name} | {line}")

    # -------------------------------------------------------------- waiting
    def wait_healthy(self, children: Sequence[Child], *, timeout_s: float) -> list[str]:
        """Wait until all are well; the names of those that are not in time."""
        processes.wait_until(
            lambda: all(child.healthy() for child in children),
            timeout_s=timeout_s,
            interval_s=0.1,
            step=self.tick,
        )
        return [child.program.name for child in children if not child.healthy()]

    def run_step(self, name: str, command: Sequence[str], *, show: bool = True) -> int:
        """Run a command to its end, its lines on the console as they come; its exit code.

        Raises:
            Interrupted: a signal asked to stop; the command is ended first.
        """
        log = self.workspace.log(name)
        limit_log(log)
        log.touch()
        tail = LogTail(log, everything=True)
        with log.open("ab") as output:
            process = processes.spawn(
                command,
                output=output,
                env={**self.environ, "PYTHONUNBUFFERED": "1"},
                cwd=self.cwd,
                death_signal=signal.SIGKILL,
            )
        self.steps.append(process)
        try:
            while process.poll() is None:
                self.tick()
                self._show(name, tail, show)
                time.sleep(0.05)
            self._show(name, tail, show)
            return process.returncode
        finally:
            processes.stop(process, grace_s=3.0)
            self.steps.remove(process)

    def _show(self, name: str, tail: LogTail, show: bool) -> None:
        for line in tail.console_lines():
            if show and line.strip():
                self.console.line(f"{name} | {line}")

    def run_forever(self) -> None:
        """Look after the children until a signal comes."""
        while True:
            self.tick()
            time.sleep(0.2)

    # -------------------------------------------------------------- the end
    def stop_all(self) -> None:
        """Stop the programs in the reverse order of their start, then the services, the database last."""
        signals = len(self._signals)
        for child in reversed(self.children):
            if child.process is None:
                continue
            if len(self._signals) > signals:
                processes.kill_group(child.process)
            child.stop()
        self.children.clear()
        with self._said_when_slow("the database is writing its data to disk; this may take some minutes"):
            self.services.stop()
        self._children_file.unlink(missing_ok=True)

    # -------------------------------------------------------------- leftovers
    @property
    def _children_file(self) -> Path:
        return self.workspace.root / "children.json"

    def _record(self) -> None:
        """Note the process groups, so that the next `up` can end what a crash left."""
        groups = [child.process.pid for child in self.children if child.process is not None]
        if groups != self._recorded:
            self._children_file.write_text(json.dumps(groups))
            self._recorded = groups

    def clear_leftovers(self) -> int:
        """End what is left of the process groups of a supervisor that was killed; how many processes.

        A group's number cannot be given to another process while a member lives, and each of our groups is
        also a session, so a member of that session is surely ours.
        """
        try:
            groups = {int(group) for group in json.loads(self._children_file.read_text())}
        except (OSError, ValueError, TypeError):
            return 0
        left = [
            pid for pid in processes.pids() if processes.session(pid) in groups and processes.is_alive(pid)
        ]
        ours = [pid for pid in left if _is_ours(pid, self.cwd)]
        for pid in ours:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        processes.wait_until(lambda: not any(processes.is_alive(pid) for pid in ours), timeout_s=5.0)
        self._children_file.unlink(missing_ok=True)
        return len(ours)


def _is_ours(pid: int, cwd: Path) -> bool:
    """Whether a process was started in our checkout: after a reboot the recorded numbers are others'."""
    return processes.working_directory(pid) == cwd.resolve()


def _ending(code: int) -> str:
    """An exit code in words."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
