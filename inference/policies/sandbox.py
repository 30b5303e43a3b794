"""Texts that nobody has tried yet run in a process of their own.

A policy that the embedded interpreter cannot digest may end the process it runs in; one that computes for ever
would take a thread for good. So a new version is compiled and tested, and a draft is asked, in a short-lived
process with limits on time and memory and with an empty environment. What passed there is what the gateway loads.

``python -m inference.policies.sandbox`` reads one JSON request from standard input and writes JSON lines.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

ROOT = Path(__file__).resolve().parents[2]
# Limits of one run: seconds of the wall clock and of the processor, bytes in memory.
WALL_S = 30
CPU_S = 20
MEMORY_BYTES = 1024**3
# Exit status that says the memory was used up.
MEMORY_STATUS = 75
MAX_OUTPUT_BYTES = 64 * 1024**2
# Runs at once in this process; more wait.
_slots = threading.BoundedSemaphore(2)


@dataclass(slots=True)
class Trial:
    """What a trial found. ``problems``: {part, line, message}; ``results``: one per test; ``ok``: all passed."""

    problems: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Compiles, and every test passed."""
        return not self.problems and all(result["passed"] for result in self.results)

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The tests that did not pass."""
        return [result for result in self.results if not result["passed"]]

    def as_dict(self) -> dict[str, Any]:
        """JSON form, as it is stored and sent."""
        return {"ok": self.ok, "problems": self.problems, "results": self.results}


def _run(request: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """The lines of a run and, when it did not end as it should, why."""
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with _slots:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "inference.policies.sandbox"],
                input=orjson.dumps(request),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
                env=environment,
                timeout=WALL_S,
                check=False,
            )
            output, code = done.stdout, done.returncode
        except subprocess.TimeoutExpired as expired:
            output, code = expired.stdout or b"", None
    lines = []
    for line in output[:MAX_OUTPUT_BYTES].splitlines():
        try:
            lines.append(orjson.loads(line))
        except orjson.JSONDecodeError:  # cut off by the end of the process
            break
    if any("done" in line or "problem" in line for line in lines[-1:]):
        return lines, ""
    step = next((line["step"] for line in reversed(lines) if "step" in line), "start")
    if code is None or code == -24:  # SIGXCPU
        why = f"took longer than {CPU_S} s of computing"
    elif code == MEMORY_STATUS:
        why = f"used more than {MEMORY_BYTES // 1024**2} MB of memory"
    elif code and code < 0:
        why = f"ended the interpreter (signal {-code}); rewrite it with simpler expressions"
    else:
        why = f"ended the interpreter (status {code})"
    return lines, f"The step “{step}” {why}."


def trial_run(
    *,
    policy: str,
    data: Mapping[str, Any],
    tests: str,
    cases: Sequence[Mapping[str, Any]],
    probes: Sequence[Mapping[str, Any]] = (),
) -> Trial:
    """Compile a policy and run its tests in a process of its own."""
    from inference.policies.trials import static_problems

    static = static_problems(policy=policy, tests=tests, cases=cases)
    if static:
        return Trial([{"part": part, "line": one.line, "message": one.message} for part, one in static])
    lines, broken = _run(
        {
            "kind": "trial",
            "policy": policy,
            "data": dict(data),
            "tests": tests,
            "cases": list(cases),
            "probes": list(probes),
        }
    )
    trial = Trial(
        [line["problem"] for line in lines if "problem" in line],
        [line["result"] for line in lines if "result" in line],
    )
    if broken:
        trial.problems.append({"part": "policy", "line": 0, "message": broken})
    return trial


def questions_ask(
    *, policy: str, data: Mapping[str, Any], documents: Sequence[Mapping[str, Any]], version: str
) -> tuple[list[dict[str, Any]], str]:
    """The answers of a policy on documents, in order ({decision, document, took_us}), and why there are fewer."""
    from inference.policies.analysis import analyse

    problems = analyse(policy).problems
    if problems:
        return [], str(problems[0])
    lines, broken = _run(
        {
            "kind": "questions",
            "policy": policy,
            "data": dict(data),
            "documents": list(documents),
            "version": version,
        }
    )
    problem = next((line["problem"]["message"] for line in lines if "problem" in line), "")
    return [line for line in lines if "decision" in line], broken or problem


def _watch_memory() -> None:
    page = resource.getpagesize()
    while True:
        if int(Path("/proc/self/statm").read_text().split()[1]) * page > MEMORY_BYTES:
            os._exit(MEMORY_STATUS)
        time.sleep(0.02)


def main() -> None:
    """The process itself."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_OUTPUT_BYTES, MAX_OUTPUT_BYTES))
    # The interpreter's allocator reserves more address space than any machine has memory, so what is really in
    # use is watched instead of limited.
    threading.Thread(target=_watch_memory, daemon=True).start()
    from inference.policies.trials import run_questions, run_trial

    request = orjson.loads(sys.stdin.buffer.read())
    run = run_trial if request["kind"] == "trial" else run_questions
    for line in run(request):
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
