"""Child processes that cannot outlive their supervisor, and what /proc knows about other processes.

Linux only. Imports only the standard library: this runs before anything is known to be installed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
_LISTEN = "0A"  # state column of /proc/net/tcp
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Owner:
    """The uid and gid a service runs under, and the name of that user."""

    name: str
    uid: int
    gid: int


def die_with_parent(signum: int = signal.SIGKILL) -> None:
    """Ask the kernel to send this process `signum` when the thread that started it ends.

    Call it after any change of uid: the kernel clears the setting when credentials change.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)


def spawn(
    command: Sequence[str],
    *,
    output: IO[bytes] | int,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    owner: Owner | None = None,
    death_signal: int = signal.SIGTERM,
    nice: int = 0,
) -> subprocess.Popen[bytes]:
    """Start a child in a process group of its own that dies when this process does.

    Call it from the main thread only: the kernel watches the *thread* that started the child. The own group
    keeps a terminal's Ctrl-C from the children, so that the supervisor stops them in order.

    Args:
        output: file or descriptor that takes both stdout and stderr.
        owner: user to become (needs root); None keeps the present one.
        death_signal: what the child gets when this process ends without stopping it.
        nice: increment of niceness (0 to 19).
    """
    parent = os.getpid()

    def prepare() -> None:
        if nice:
            os.nice(nice)
        die_with_parent(death_signal)
        if os.getppid() != parent:  # the parent died between fork and prctl
            os._exit(1)

    return subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=None if env is None else dict(env),
        cwd=cwd,
        user=owner.uid if owner else None,
        group=owner.gid if owner else None,
        extra_groups=[] if owner else None,
        umask=0o077 if owner else -1,
        start_new_session=True,
        preexec_fn=prepare,
    )


def stop(process: subprocess.Popen[bytes], *, signum: int = signal.SIGTERM, grace_s: float = 10.0) -> None:
    """Stop a child of `spawn` and whatever is left of its process group.

    Args:
        signum: the polite signal, sent to the child alone.
        grace_s: seconds until the whole group is killed.
    """
    if process.poll() is None:
        process.send_signal(signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace_s)
    kill_group(process)
    process.wait()


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill every process left in the group of a child of `spawn`."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


# ------------------------------------------------------------------ what /proc knows
def pids() -> Iterator[int]:
    """Every process id at this moment."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


def command_line(pid: int) -> list[str]:
    """Arguments of a process; empty when it is gone, is a zombie or belongs to the kernel."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [part.decode(errors="replace") for part in raw.split(b"\0") if part]


def state(pid: int) -> str:
    """State letter of a process (R, S, D, Z, ...); empty when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[0]


def session(pid: int) -> int:
    """Session id of a process; 0 when it is gone."""
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return 0


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    return state(pid) not in {"", "Z", "X"}


def working_directory(pid: int) -> Path | None:
    """Working directory of a process, or None when it is gone or not ours to ask."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return None


def pids_working_in(directory: Path, *, program: str) -> list[int]:
    """Live processes in the working directory `directory` whose program or title begins with `program`."""
    target = directory.resolve()
    found = []
    for pid in pids():
        if working_directory(pid) != target or not is_alive(pid):
            continue
        arguments = command_line(pid)
        if arguments and Path(arguments[0].split()[0].rstrip(":")).name.startswith(program):
            found.append(pid)
    return found


def wait_until(
    condition: Callable[[], bool],
    *,
    timeout_s: float,
    interval_s: float = 0.05,
    step: Callable[[], None] | None = None,
) -> bool:
    """Poll `condition` until it holds; False when `timeout_s` seconds went by. `step` runs between polls."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        if step is not None:
            step()
        time.sleep(interval_s)
    return True


# ------------------------------------------------------------------ ports
def port_is_free(port: int, *, host: str = "127.0.0.1") -> bool:
    """Whether this process could listen on the port now.

    Raises:
        PermissionError: the port is below 1024 and this user may not bind it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do; without it a port with connections in TIME_WAIT looks busy after a quick restart.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except PermissionError:
            raise
        except OSError:
            return False
    return True


def port_owner(port: int) -> str:
    """Who listens on a TCP port, as "nginx (pid 812)"; empty when it is another user's and cannot be told."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            if columns[3] == _LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{columns[9]}]")
    if not inodes:
        return ""
    for pid in pids():
        try:
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                if str(descriptor.readlink()) in inodes:
                    arguments = command_line(pid)
                    return f"{Path(arguments[0]).name if arguments else 'a process'} (pid {pid})"
        except OSError:
            continue
    return ""


def free_port(start: int, stop_before: int) -> int:
    """The first port in [start, stop_before) that can be listened on.

    Raises:
        OSError: all of them are taken.
    """
    for port in range(start, stop_before):
        if port_is_free(port):
            return port
    raise OSError(f"No free port between {start} and {stop_before - 1}.")
