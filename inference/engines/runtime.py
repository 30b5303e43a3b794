"""The machine under the torch engines: offline switches, threads, and which dtype is fastest here."""

from __future__ import annotations

import os
import platform
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

# Before transformers is imported anywhere: nothing in this process may ask the network for a model.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TQDM_DISABLE", "1")  # the GGUF converter draws its own progress bar
# Before torch is imported: its OpenMP threads sleep at a barrier instead of spinning. Measured on two cores shared
# with the web server and the database: 82 ms for a decoding step instead of 290 to 390.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# bf16 loses three decimal digits; it must earn that by being at least this much faster.
BF16_MIN_SPEEDUP = 1.2
CALIBRATION_ROWS = 256
CALIBRATION_REPEATS = 3

_calibration_lock = threading.Lock()
_calibrations: dict[tuple[str, int, int, int], dict[str, Any]] = {}


def quiet_transformers() -> None:
    """No progress bars or advice on stderr: a worker's log is for its own messages."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


@lru_cache(maxsize=1)
def cpu_facts() -> dict[str, Any]:
    """CPU model, cores and the instruction sets that decide matrix speed; unknown parts are "" or []."""
    model, flags = platform.processor(), set()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                model = value.strip()
            elif name.strip() == "flags":
                flags = set(value.split())
                break
    wanted = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
    return {
        "cpu_model": model or platform.machine(),
        "cpu_cores": os.cpu_count() or 1,
        "cpu_features": [name for name in wanted if name in flags],
    }


def calibrate_dtype(*, hidden: int, intermediate: int, device: str) -> dict[str, Any]:
    """Time a feed-forward product of the model's shape in fp32 and bf16, once per process and shape.

    Returns:
        ``{"dtype": ..., "float32_ms": ..., "bfloat16_ms": ...}``; the best of three products each.
    CPUs without AVX-512 or AMX emulate bf16 and can be many times slower with it, so no table can decide
    this.
    """
    import torch

    key = (device, hidden, intermediate, torch.get_num_threads())
    with _calibration_lock:
        if key in _calibrations:
            return _calibrations[key]
        found: dict[str, Any] = {}
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            generator = torch.Generator().manual_seed(0)
            left = torch.randn(CALIBRATION_ROWS, hidden, generator=generator).to(device, dtype)
            right = torch.randn(intermediate, hidden, generator=generator).to(device, dtype)
            best = float("inf")
            with torch.inference_mode():
                for attempt in range(CALIBRATION_REPEATS + 1):
                    started = time.perf_counter()
                    torch.nn.functional.linear(left, right)
                    if device != "cpu":
                        torch.cuda.synchronize()
                    elapsed = time.perf_counter() - started
                    if attempt:  # the first one warms up
                        best = min(best, elapsed)
                    if elapsed > 1.0:
                        best = min(best, elapsed)
                        break
            found[f"{name}_ms"] = round(best * 1000, 3)
        faster = found["bfloat16_ms"] * BF16_MIN_SPEEDUP <= found["float32_ms"]
        found["dtype"] = "bfloat16" if faster else "float32"
        _calibrations[key] = found
        return found
