"""The supervisor: what dies comes back, what is stopped stays stopped, and nothing outlives it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from core.platform import processes
from core.platform.supervisor import LogTail, limit_log

# A supervisor of two programs; the first starts a helper of its own, as a web server starts its workers.
SCRIPT = """
    import sys
    from pathlib import Path
    from core.platform.services import EmbeddedServices, Workspace
    from core.platform.supervisor import Console, Interrupted, Program, Supervisor
    root = Path(sys.argv[1])
    workspace = Workspace(root)
    workspace.prepare()
    workspace.lock()
    supervisor = Supervisor(
        workspace=workspace, services=EmbeddedServices(workspace, None, None, None),
        environ={}, console=Console(), cwd=root,
    )
    supervisor.listen()
    print("cleared", supervisor.clear_leftovers(), flush=True)
    body = "import subprocess, sys, time; print('is up', flush=True); "
    helper = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    try:
        for name, code in (("web", body + helper), ("worker", body)):
            supervisor.add(Program(
                name, [sys.executable, "-c", code + "time.sleep(600)"], ready_line="is up", grace_s=2.0,
            ))
        print("late", supervisor.wait_healthy(supervisor.children, timeout_s=30), flush=True)
        supervisor.run_forever()
    except Interrupted:
        pass
    finally:
        supervisor.stop_all()
    print("stopped", flush=True)
"""


def running_in(root: Path) -> list[int]:
    """The children of a supervisor: they work in its directory."""
    return processes.pids_working_in(root, program="python")


def leads_its_session(pid: int) -> bool:
    """Whether it is one of the supervisor's own children, not a helper of theirs; False when it is gone."""
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(pid) == pid
    return False


@pytest.fixture
def supervisor(data_root):
    """Starts the script; gives its process and a way to wait for a line of its output."""
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SCRIPT), str(data_root)],
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)

        def line_with(text: str) -> str:
            for line in process.stdout:
                if text in line:
                    return line
            raise AssertionError(f"ended without saying {text!r}")

        line_with("late []")
        process.line_with = line_with
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
    for pid in running_in(data_root):  # a helper outlives its killed starter until the next supervisor comes
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_that_dies_is_started_again_and_said_so(supervisor, data_root, eventually, signum):
    process = supervisor()
    victim = eventually(lambda: [p for p in running_in(data_root) if leads_its_session(p)])[-1]

    os.kill(victim, signum)

    said = process.line_with("ended (killed by")
    assert signal.Signals(signum).name in said
    again = process.line_with("started again (pid ")
    assert processes.is_alive(int(again.rpartition("pid ")[2].strip(")\n")))
    assert not processes.is_alive(victim)


def test_what_a_killed_child_had_started_does_not_work_on(supervisor, data_root, eventually):
    process = supervisor()
    helper = eventually(lambda: [p for p in running_in(data_root) if os.getsid(p) != p])[0]

    os.kill(os.getsid(helper), signal.SIGKILL)

    process.line_with("web started again")
    eventually(lambda: not processes.is_alive(helper), timeout_s=10)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_and_leaves_no_process(supervisor, data_root, signum):
    process = supervisor()
    assert running_in(data_root)

    process.send_signal(signum)

    assert process.wait(timeout=30) == 0
    assert running_in(data_root) == []


def test_children_die_with_a_killed_supervisor_and_the_next_one_clears_the_rest(
    supervisor, data_root, eventually
):
    process = supervisor()
    process.kill()
    process.wait()

    # The children go by themselves; what one of them had started has no such promise.
    eventually(lambda: not [p for p in running_in(data_root) if leads_its_session(p)], timeout_s=10)
    helpers = running_in(data_root)
    supervisor()

    assert helpers
    assert not any(processes.is_alive(pid) for pid in helpers)


class TestConsole:
    """Which lines of a child's log a person sees."""

    @pytest.mark.parametrize(
        ("line", "shown"),
        [
            ('{"levelname": "ERROR", "message": "disk full"}', "disk full"),
            (
                '{"levelname": "ERROR", "message": "failed", "exc_info": "Traceback\\nValueError: no"}',
                "failed (ValueError: no)",
            ),
            ('{"levelname": "INFO", "message": "ERROR is only a word here"}', None),
            ("[2026-11-23 06:00:00: ERROR/MainProcess] consumer: Cannot connect", "consumer: Cannot connect"),
            ("Traceback (most recent call last):", "Traceback (most recent call last):"),
            ("2026-11-23 [7] FATAL:  the database system is starting up", None),
            ("listening on 127.0.0.1:8000", None),
        ],
    )
    def test_of_a_program(self, tmp_path, line, shown):
        log = tmp_path / "web.log"
        tail = LogTail(log)
        log.write_text(line + "\n")

        lines = tail.console_lines()

        assert (shown is None and lines == []) or (shown is not None and lines[0].endswith(shown))

    def test_of_postgres_a_refused_row_is_not_news(self, tmp_path):
        log = tmp_path / "postgres.log"
        tail = LogTail(log, postgres=True)
        log.write_text("2026 [7] ERROR:  duplicate key value\n2026 [7] FATAL:  out of memory\n")

        assert tail.console_lines() == ["2026 [7] FATAL:  out of memory"]

    def test_a_flood_is_cut_off(self, tmp_path):
        log = tmp_path / "web.log"
        tail = LogTail(log)
        log.write_text("ERROR again\n" * 1000)

        assert 0 < len(tail.console_lines()) < 20

    def test_what_was_there_before_is_old_news(self, tmp_path):
        log = tmp_path / "web.log"
        log.write_text("ERROR yesterday\n")

        assert LogTail(log).console_lines() == []

    def test_a_log_that_was_moved_aside_is_read_from_its_start(self, tmp_path, monkeypatch):
        log = tmp_path / "web.log"
        log.write_text("x" * 100)
        tail = LogTail(log)
        monkeypatch.setattr("core.platform.supervisor._LOG_LIMIT", 50)

        limit_log(log)
        with log.open("a") as handle:
            handle.write("ERROR new\n")

        assert tail.console_lines() == ["ERROR new"]
        assert (tmp_path / "web.old.log").read_text() == "x" * 100
