"""Measure what the gateway adds to a request, beside LiteLLM's proxy, on the same engine in the same run.

    python benchmarks/gateway.py --litellm /path/to/venv/bin/litellm

LiteLLM needs an environment of its own (its pins differ from ours):

    python -m venv /path/to/venv && /path/to/venv/bin/pip install 'litellm[proxy]'

The engine is a stub that answers at once (benchmarks/gateway_stub.py): what is measured beyond it is the gateway.
Ours runs as `up` runs it (granian, one worker) with key, policy, quota and budget reservation, redaction of a
1 kB prompt and of the answer, and the ledger on; LiteLLM's with one worker and its master key only, since its own
keys need a database engine that it downloads. Load comes from wrk (apt install wrk), or from a client in this file
when wrk is absent. Targets take turns within each round, so that all see the same machine; figures are medians over
rounds, added latency is the difference to the stub asked directly in the same round.

Services: DATABASE_URL (a new database is made beside it), BROKER_URL and CACHE_URL when set; else embedded ones in a
temporary directory, durable as in production.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
BODIES = 64
CHAT = "/v1/chat/completions"
# About 1 kB of what people write, with personal data in it; {n} makes each one different.
PROMPT = (
    "Please answer this message of a customer in two sentences, politely and without promising anything. "
    "My name is Anna Muster{n} and I ordered a coffee machine on the third of the month, number A-{n}-77. "
    "It was to arrive last Friday but nobody came. I waited at home the whole day and called twice; the line was "
    "busy. You can write to anna.muster{n}@mail.example or call +44 20 7946 {n:04d} after six. The card I paid with "
    "is 4111 1111 1111 1111. A neighbour says that your van was in our street at noon but drove on. I need the machine "
    "on the twentieth for a party of forty people, so please tell me whether it comes before that day, whether I can "
    "fetch it myself from the depot, and what happens with the express delivery that I paid for and did not get. If "
    "it cannot come in time I would rather have my money back and buy one in a shop in town. I have been a customer "
    "since 2014 and this is the first time that something like this happens, which I say so that you know that I do "
    "not complain for fun. Thank you for looking into it soon."
)


# ---------------------------------------------------------------------- processes
@dataclass
class Server:
    """A program under test. ``key`` and ``model`` are what a client of it sends."""

    name: str
    port: int
    key: str
    model: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def pids(self) -> list[int]:
        """The process and its descendants."""
        if self.process is None:
            return []
        parents: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError, IndexError, ValueError):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    parents.setdefault(int(fields[1]), []).append(int(entry.name))
        found, queue = [], [self.process.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            queue += parents.get(pid, [])
        return found

    def rss_mb(self) -> float:
        """Resident memory of the largest process: the worker; MB (1e6 bytes)."""
        sizes = [0.0]
        for pid in self.pids():
            with contextlib.suppress(OSError, AttributeError):
                text = Path(f"/proc/{pid}/status").read_text()
                match = re.search(r"VmRSS:\s+(\d+) kB", text)
                sizes.append(int(match.group(1)) * 1024 / 1e6 if match else 0.0)
        return max(sizes)

    def cpu_s(self) -> float:
        """Processor time used so far by all its processes, seconds."""
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError, IndexError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(command: list[str], *, log: Path, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=env, cwd=ROOT, start_new_session=True
        )


def stop(process: subprocess.Popen[bytes] | None) -> None:
    if process is None or process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def body_of(model: str, number: int, *, stream: bool) -> bytes:
    document: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT.format(n=number)}],
        "max_tokens": 64,
    }
    if stream:
        document["stream"] = True
    return json.dumps(document, separators=(",", ":")).encode()


def wait_ready(server: Server, log: Path, *, timeout_s: float = 300.0) -> None:
    """Until it answers a request well; both kinds, so that lazy imports are behind it."""
    until = time.monotonic() + timeout_s
    last = ""
    while time.monotonic() < until:
        if server.process is not None and server.process.poll() is not None:
            raise SystemExit(f"{server.name} ended:\n{log.read_text(errors='replace')[-3000:]}")
        try:
            for stream in (False, True):
                request = urllib.request.Request(
                    f"http://{server.host}{CHAT}",
                    data=body_of(server.model, 0, stream=stream),
                    headers={"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"},
                )
                with urllib.request.urlopen(request, timeout=20) as response:
                    text = response.read()
                    if (b"[DONE]" in text) is not stream:
                        raise SystemExit(f"{server.name} answered wrongly: {text[:500]!r}")
            return
        except urllib.error.HTTPError as error:
            last = f"{error.code}: {error.read()[:1000]!r}"
        except OSError as error:
            last = str(error)
        time.sleep(0.5)
    raise SystemExit(f"{server.name} does not answer: {last}\n{log.read_text(errors='replace')[-3000:]}")


# ---------------------------------------------------------------------- what ours needs
@contextlib.contextmanager
def services(folder: Path) -> Iterator[dict[str, str]]:
    """Addresses of PostgreSQL and Valkey with an empty database."""
    names = ("DATABASE_URL", "BROKER_URL", "CACHE_URL")
    if all(os.environ.get(name) for name in names):
        import psycopg
        from psycopg import sql

        url = urlsplit(os.environ["DATABASE_URL"])
        name = f"signoff_bench_{secrets.token_hex(4)}"
        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield {
                **{one: os.environ[one] for one in names},
                "DATABASE_URL": urlunsplit(url._replace(path=f"/{name}")),
            }
        finally:
            with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        return
    from core.platform.services import EmbeddedServices, Postgres, Valkey, Workspace, service_owner

    workspace = Workspace(folder / "services", owner=service_owner())
    workspace.prepare()
    workspace.lock()
    embedded = EmbeddedServices(
        workspace=workspace,
        postgres=Postgres(workspace, port=free_port()),
        broker=Valkey(workspace, name="broker", port=free_port(), evicts=False),
        cache=Valkey(workspace, name="cache", port=free_port(), evicts=True),
    )
    for one in (embedded.postgres, embedded.broker, embedded.cache):
        if one is not None:
            one.start()
    try:
        yield dict(embedded.urls())
    finally:
        embedded.stop()


SEED = """
import datetime, json
from django.utils import timezone
from django_tenants.utils import schema_context
from core.security.actor import SYSTEM, use_actor
from tenants.services import tenant_provision
from tenants.accounts.services import api_key_create
from inference.models import ModelVersion
from inference.releases import channel_set, product_create, release_create
from inference.ledger.models import ModelPrice
from tenants.quotas.models import Limit

with use_actor(SYSTEM):
    from tenants.models import Plan
    plan = Plan.objects.order_by("position").last()
    # Limits stay in force, but higher than what the measurement uses.
    plan.requests_per_minute, plan.tokens_per_day = 2_000_000_000, 10**12
    plan.save()
    tenant_provision(schema_name="bench", name="Bench", plan=plan.slug)
    with schema_context("bench"):
        product = product_create(slug="assistant", name="Assistant")
        model = ModelVersion.objects.create(name="stub", digest="sha256:" + "0" * 64)
        release = release_create(product=product, version="1.0.0", model_version=model)
        channel_set(product=product, environment="production", release=release)
        ModelPrice.objects.create(
            model_version=model, valid_from=timezone.now() - datetime.timedelta(days=1),
            input_nano_per_mtok=10**8, output_nano_per_mtok=4 * 10**8,
        )
        issued = api_key_create(name="bench", scopes=["gateway.call"])
        for kind, name in (("tenant", ""), ("key", "*")):
            Limit.objects.create(
                scope_kind=kind, scope_id=name, requests_per_minute=2_000_000_000, concurrent=1_000_000,
                tokens_in_per_minute=10**12, tokens_out_per_minute=10**12, tokens_per_day=10**12,
                cost_per_day_nano=10**15, cost_per_month_nano=10**16,
            )
print("KEY=" + issued.text)
"""


def seed(env: dict[str, str], log: Path) -> str:
    """Migrate, make a tenant with a release, prices, limits and a key. Returns the key."""
    with log.open("wb") as output:
        subprocess.run(
            [sys.executable, "manage.py", "migrate_tenants"],
            env=env,
            cwd=ROOT,
            check=True,
            stdout=output,
            stderr=output,
        )
    done = subprocess.run(
        [sys.executable, "manage.py", "shell", "-v", "0", "-c", SEED],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    match = re.search(r"KEY=(\S+)", done.stdout)
    if match is None:
        raise SystemExit(f"The tenant could not be made:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    return match.group(1)


# ---------------------------------------------------------------------- load
@dataclass
class Sample:
    """One load on one target: latencies in milliseconds, requests a second, processor ms per request."""

    n: int
    errors: int
    p50: float
    p99: float
    rate: float
    cpu_ms: float = 0.0


WRK = """
local bodies = {}
for line in io.lines(os.getenv("BODIES")) do bodies[#bodies + 1] = line end
local n = 0
wrk.method = "POST"
wrk.headers["Authorization"] = "Bearer " .. os.getenv("KEY")
wrk.headers["Content-Type"] = "application/json"
request = function()
  n = n + 1
  return wrk.format(nil, nil, nil, bodies[n % #bodies + 1])
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
"""


def load_wrk(server: Server, clients: int, seconds: float, *, stream: bool, folder: Path) -> Sample:
    script, bodies = folder / "wrk.lua", folder / f"bodies-{server.name}-{stream}.jsonl"
    script.write_text(WRK)
    bodies.write_bytes(
        b"\n".join(body_of(server.model, number, stream=stream) for number in range(BODIES)) + b"\n"
    )
    done = subprocess.run(
        [
            "wrk",
            "-t1",
            f"-c{clients}",
            f"-d{seconds:g}s",
            "--timeout",
            "30s",
            "-s",
            str(script),
            f"http://{server.host}{CHAT}",
        ],
        env={**os.environ, "BODIES": str(bodies), "KEY": server.key},
        capture_output=True,
        text=True,
        check=True,
    )
    match = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", done.stdout)
    if match is None:
        raise SystemExit(f"wrk said nothing of use:\n{done.stdout}\n{done.stderr}")
    count, micros, errors, p50, p99 = (int(group) for group in match.groups())
    return Sample(count, errors, p50 / 1000, p99 / 1000, count / (micros / 1e6))


async def _client(
    server: Server, until: float, *, stream: bool, offset: int, whole: list[float], first: list[float]
) -> int:
    """Ask again and again on one connection; latencies in ms of the whole answer and of its first content."""
    errors = 0
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    number = offset
    while time.perf_counter() < until:
        body = body_of(server.model, number % BODIES, stream=stream)
        number += 1
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: {server.host}\r\nAuthorization: Bearer {server.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        began = time.perf_counter()
        writer.write(head.encode() + body)
        headers = (await reader.readuntil(b"\r\n\r\n")).lower()
        errors += b" 200 " not in headers[:20]
        length = re.search(rb"content-length: (\d+)", headers)
        if length:
            await reader.readexactly(int(length.group(1)))
        else:
            seen = False
            while True:
                size = int((await reader.readuntil(b"\r\n")).strip(), 16)
                data = await reader.readexactly(size + 2)
                if not seen and b'"content":"' in data.replace(b'": "', b'":"').replace(b'"content":""', b""):
                    seen = True
                    first.append((time.perf_counter() - began) * 1000)
                if size == 0:
                    break
        whole.append((time.perf_counter() - began) * 1000)
    writer.close()
    return errors


def load_own(server: Server, clients: int, seconds: float, *, stream: bool) -> tuple[Sample, list[float]]:
    """The same with a client in Python: slower than wrk, but it sees the first content of a stream."""

    async def run() -> tuple[Sample, list[float]]:
        whole: list[float] = []
        first: list[float] = []
        began = time.perf_counter()
        errors = await asyncio.gather(
            *(
                _client(server, began + seconds, stream=stream, offset=7 * index, whole=whole, first=first)
                for index in range(clients)
            )
        )
        took = time.perf_counter() - began
        cuts = statistics.quantiles(whole, n=100) if len(whole) > 1 else whole * 99
        return Sample(len(whole), sum(errors), cuts[49], cuts[98], len(whole) / took), first

    return asyncio.run(run())


# ---------------------------------------------------------------------- report
@dataclass
class Report:
    """All samples of a run, by target, kind and clients."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    first_ms: dict[str, list[float]] = field(default_factory=dict)
    rss_mb: dict[str, float] = field(default_factory=dict)

    def of(self, target: str, kind: str, clients: int) -> Sample | None:
        """Medians over the rounds; n and errors are sums."""
        rows = self.samples.get(f"{target}/{kind}/{clients}")
        if not rows:
            return None
        middle = statistics.median
        return Sample(
            sum(row.n for row in rows),
            sum(row.errors for row in rows),
            middle(row.p50 for row in rows),
            middle(row.p99 for row in rows),
            middle(row.rate for row in rows),
            middle(row.cpu_ms for row in rows),
        )


def table(report: Report, targets: list[str], clients: list[int]) -> str:
    lines = [
        "| load | target | n | errors | requests/s | p50 ms | p99 ms | added p50 ms | added p99 ms | CPU ms/request |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in ("plain", "stream"):
        for count in clients:
            base = report.of("stub", kind, count)
            for target in ["stub", *targets]:
                row = report.of(target, kind, count)
                if row is None or base is None:
                    continue
                added = (
                    ("–", "–")
                    if target == "stub"
                    else (f"{row.p50 - base.p50:.2f}", f"{row.p99 - base.p99:.2f}")
                )
                lines.append(
                    f"| {kind}, {count} | {target} | {row.n:,} | {row.errors} | {row.rate:,.0f} | {row.p50:.2f} | "
                    f"{row.p99:.2f} | {added[0]} | {added[1]} | {row.cpu_ms:.2f} |"
                )
    return "\n".join(lines)


def goals(report: Report, clients: list[int]) -> str:
    """The product's goals, each met or missed. Added latency: at one client, where nothing queues."""
    lines = ["| goal | figure | wanted | |", "|---|---|---|---|"]

    def row(name: str, value: float, wanted: float, *, above: bool) -> None:
        met = value >= wanted if above else value <= wanted
        sign = "≥" if above else "≤"
        lines.append(f"| {name} | {value:.2f} | {sign} {wanted:g} | {'met' if met else '**missed**'} |")

    for kind, factor in (("plain", 5.0), ("stream", 8.0)):
        for count in clients:
            stub, ours, theirs = (report.of(name, kind, count) for name in ("stub", "ours", "litellm"))
            if stub is None or ours is None or theirs is None:
                continue
            if count == 1:
                share = (ours.p50 - stub.p50) / max(1e-9, theirs.p50 - stub.p50)
                row(f"{kind}, {count}: added p50, share of LiteLLM's", share, 1 / 3, above=False)
            row(f"{kind}, {count}: throughput, times LiteLLM's", ours.rate / theirs.rate, factor, above=True)
            row(f"{kind}, {count}: p99, share of LiteLLM's", ours.p99 / theirs.p99, 1.0, above=False)
    if "ours" in report.rss_mb and "litellm" in report.rss_mb:
        row(
            "memory per worker, share of LiteLLM's",
            report.rss_mb["ours"] / report.rss_mb["litellm"],
            1.0,
            above=False,
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--litellm", default="", help="the litellm program of its own environment; empty: without"
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=6.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-ours", action="store_true")
    parser.add_argument(
        "--generator", choices=["wrk", "own"], default="wrk" if shutil.which("wrk") else "own"
    )
    parser.add_argument("--json", type=Path, default=None, help="write all samples here")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="signoff-bench-"))
    running: list[Server] = []
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [stop(server.process) for server in running])
        stack.callback(lambda: shutil.rmtree(folder, ignore_errors=True))
        granian = [
            sys.executable,
            "-m",
            "granian",
            "--no-ws",
            "--host",
            "127.0.0.1",
            "--log-level",
            "warning",
        ]
        stub = Server("stub", free_port(), "none", "stub")
        running.append(stub)
        stub.process = start(
            [
                *granian,
                "--interface",
                "asgi",
                "--workers",
                "1",
                "--port",
                str(stub.port),
                "benchmarks.gateway_stub:application",
            ],
            log=folder / "stub.log",
        )
        wait_ready(stub, folder / "stub.log")
        targets = [stub]
        if not options.without_ours:
            addresses = stack.enter_context(services(folder))
            # Stopped before the services, on which it depends.
            env = {
                **os.environ,
                **addresses,
                "SECRET_KEY": secrets.token_urlsafe(48),
                "SIGNOFF_DATA_DIR": str(folder / "data"),
                "DJANGO_SETTINGS_MODULE": "core.settings",
                "ENGINE_URL": f"http://{stub.host}/v1",
                "DEPLOYMENT_MODE": "multi",
                "LOG_LEVEL": "WARNING",
            }
            (folder / "data").mkdir()
            ours = Server("ours", free_port(), seed(env, folder / "seed.log"), "assistant")
            env["GATEWAY_PORT"] = str(ours.port)
            stack.callback(lambda: stop(ours.process))
            ours.process = start(
                [
                    *granian,
                    *("--interface", "wsgi", "--workers", "1", "--blocking-threads", "128"),
                    *("--port", str(ours.port), "inference.gateway.wsgi:application"),
                ],
                log=folder / "ours.log",
                env=env,
            )
            wait_ready(ours, folder / "ours.log")
            targets.append(ours)
        if options.litellm:
            theirs = Server("litellm", free_port(), "sk-bench", "bench")
            config = folder / "litellm.json"  # YAML is a superset of JSON
            config.write_text(
                json.dumps(
                    {
                        "model_list": [
                            {
                                "model_name": "bench",
                                "litellm_params": {
                                    "model": "openai/stub",
                                    "api_base": f"http://{stub.host}/v1",
                                    "api_key": "none",
                                },
                            }
                        ],
                        "general_settings": {"master_key": theirs.key},
                        "litellm_settings": {"telemetry": False},
                    }
                )
            )
            running.append(theirs)
            theirs.process = start(
                [
                    options.litellm,
                    "--config",
                    str(config),
                    "--host",
                    "127.0.0.1",
                    "--port",
                    str(theirs.port),
                    "--num_workers",
                    "1",
                ],
                log=folder / "litellm.log",
                env={
                    # A database address of ours would make it look for its own tables there.
                    **{name: value for name, value in os.environ.items() if name != "DATABASE_URL"},
                    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                    "LITELLM_LOG": "ERROR",
                },
            )
            wait_ready(theirs, folder / "litellm.log")
            targets.append(theirs)
        report = measure(targets, options, folder)
        names = [target.name for target in targets if target.name != "stub"]
        print(f"{platform.platform()}, {os.cpu_count()} cores, load generator {options.generator}, "
              f"{options.rounds} rounds of {options.seconds:g} s; latency is until the whole answer\n")  # fmt: skip
        print(table(report, names, options.clients))
        print(
            "\n| target | first content of a stream, p50 ms (n), 1 client | memory of the worker, MB |\n|---|---|---|"
        )
        for target in targets:
            times = report.first_ms.get(target.name, [])
            first = f"{statistics.median(times):.2f} ({len(times)})" if times else "–"
            print(f"| {target.name} | {first} | {report.rss_mb[target.name]:.0f} |")
        if len(names) == 2:
            print("\n" + goals(report, options.clients))
        if options.json:
            options.json.write_text(
                json.dumps({key: [asdict(one) for one in rows] for key, rows in report.samples.items()})
            )


def measure(targets: list[Server], options: argparse.Namespace, folder: Path) -> Report:
    report = Report()
    total = options.rounds * 2 * len(options.clients)
    step = 0
    for turn in range(options.rounds):
        for kind in ("plain", "stream"):
            for clients in options.clients:
                step += 1
                print(f"{step}/{total}: {kind}, {clients} clients", file=sys.stderr, flush=True)
                order = targets[turn % len(targets) :] + targets[: turn % len(targets)]
                for target in order:
                    before = target.cpu_s()
                    if options.generator == "wrk":
                        sample = load_wrk(
                            target, clients, options.seconds, stream=kind == "stream", folder=folder
                        )
                    else:
                        sample, _ = load_own(target, clients, options.seconds, stream=kind == "stream")
                    sample.cpu_ms = (target.cpu_s() - before) * 1000 / max(1, sample.n)
                    report.samples.setdefault(f"{target.name}/{kind}/{clients}", []).append(sample)
        for target in targets:
            _, first = load_own(target, 1, 2.0, stream=True)
            report.first_ms.setdefault(target.name, []).extend(first)
    for target in targets:
        report.rss_mb[target.name] = target.rss_mb()
    return report


if __name__ == "__main__":
    main()
