"""The doctor: each finding says what is wrong and the one command that mends it, and it never falls over."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys

import pytest
from django.conf import settings

from core.platform import doctor


def manage(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "core.settings", **environ},
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def held_port():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_json_names_every_check_and_agrees_with_the_exit_code(free_port):
    done = manage("doctor", "--json", PORT=str(free_port))

    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["ok"] else 1)
    names = {finding["name"] for finding in report["findings"]}
    assert {
        "python",
        "packages",
        "libraries",
        "fonts",
        "data directory",
        "disk",
        "clock",
        "database",
    } <= names
    assert all(finding["ok"] or finding["mend"] for finding in report["findings"])


def test_a_busy_port_is_named_with_its_holder_and_a_free_one(held_port):
    done = manage("doctor", "--json", PORT=str(held_port))

    assert done.returncode == 1
    finding = next(f for f in json.loads(done.stdout)["findings"] if f["name"] == "port of the web server")
    assert f"Port {held_port}" in finding["detail"] and f"(pid {os.getpid()})" in finding["detail"]
    free = int(re.fullmatch(r"PORT=(\d+) make up", finding["mend"])[1])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free))


def test_up_stops_with_one_line_before_it_starts_anything(held_port, data_root):
    done = manage("up", "--no-demo", "--port", str(held_port), SIGNOFF_DATA_DIR=str(data_root))

    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if "problem" in line]
    assert len(lines) == 1 and f"Port {held_port}" in lines[0] and "To mend it: PORT=" in lines[0]


def test_a_port_that_is_no_number_is_one_line(data_root):
    done = manage("up", "--no-demo", PORT="eighty", SIGNOFF_DATA_DIR=str(data_root))

    assert done.returncode == 1
    assert done.stdout.strip() == (
        "PORT is 'eighty'; a port lies between 1 and 65535. To mend it: unset PORT"
    )


def test_a_missing_library_names_the_package():
    finding = doctor.check_libraries(["libpango-1.0.so.0", "libdoes-not-exist.so.9"])

    assert not finding.ok
    assert "libdoes-not-exist.so.9" in finding.detail and "libpango" not in finding.detail
    assert "install" in finding.mend


def test_no_font_is_a_problem(tmp_path):
    assert not doctor.check_fonts([str(tmp_path)]).ok
    (tmp_path / "a.ttf").touch()
    assert doctor.check_fonts([str(tmp_path)]).ok


def test_packages_that_are_missing_or_old_are_named(tmp_path):
    (tmp_path / "requirements.txt").write_text(
        "django==1.0\nno-such-package-at-all==1\n# a comment\n-r other.txt\n"
    )

    finding = doctor.check_packages(tmp_path)

    assert not finding.ok
    assert "not installed: no-such-package-at-all" in finding.detail
    assert "(pinned: 1.0)" in finding.detail
    assert finding.mend == "make install"


def test_a_local_version_satisfies_its_pin(tmp_path):
    # torch 2.13.0+cpu is what `torch==2.13.0` means on a machine without a GPU.
    (tmp_path / "requirements.txt").write_text("torch==2.13.0\n")

    assert doctor.check_packages(tmp_path).ok


def test_too_little_disk_says_how_much_is_needed(tmp_path):
    finding = doctor.check_disk(tmp_path / "not" / "there", needed=2**60)

    assert not finding.ok and "1073741824 GiB are needed" in finding.detail


def test_a_clock_behind_the_checkout_is_a_problem(tmp_path):
    (tmp_path / "manage.py").touch()
    os.utime(tmp_path / "manage.py", (4e9, 4e9))

    assert not doctor.check_clock(tmp_path).ok


def test_an_unreachable_database_is_shown_without_its_password(free_port):
    finding = doctor.check_database(f"postgres://me:hush@127.0.0.1:{free_port}/db")

    assert not finding.ok
    assert "hush" not in finding.detail + finding.mend
    assert f"me@127.0.0.1:{free_port}" in finding.detail


def test_a_broker_that_refuses_us_is_a_problem(free_port):
    finding = doctor.check_valkey("broker", "BROKER_URL", f"redis://127.0.0.1:{free_port}/0")

    assert not finding.ok and finding.mend == "check BROKER_URL, or unset it"


def test_the_services_of_this_run_are_found_well():
    assert doctor.check_database(settings.DATABASE_URL.rpartition("/")[0] + "/postgres").ok
    assert doctor.check_valkey("broker", "BROKER_URL", settings.BROKER_URL).ok


def test_a_check_that_falls_over_is_a_finding(monkeypatch, data_root):
    def broken() -> doctor.Finding:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(doctor, "check_fonts", broken)

    findings = doctor.examine(root=data_root, environ={})

    assert any("no such thing" in finding.detail for finding in findings)


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("weasyprint", "doctor"),
        ("django", "doctor"),
        ("django", "up"),
        ("celery", "up"),
    ],
)
def test_a_broken_installation_is_told_without_a_traceback(package, command, tmp_path, data_root):
    # A package of that name that cannot be imported, before the real one on the path.
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise OSError('cannot load library')")
    with socket.socket() as holder:  # so that `up` does not go on to start anything
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        done = manage(
            command,
            PYTHONPATH=str(tmp_path),
            PORT=str(holder.getsockname()[1]),
            SIGNOFF_DATA_DIR=str(data_root),
        )

    assert "Traceback" not in done.stdout + done.stderr
    assert "To mend it:" in done.stdout
