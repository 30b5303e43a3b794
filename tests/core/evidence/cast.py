"""Evidence the tests share: random gates of every kind of criterion, and dossiers made from them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import core.evidence.dossier
from core.evidence.dossier import build_dossier_zip, dossier_freeze, signature_payload
from core.evidence.verdicts import (
    CriterionSpec,
    GateReport,
    PairedSample,
    UnpairedMeasurement,
    Waiver,
    apply_waivers,
    decide_gate,
)
from core.security.dsse import MANIFEST_PAYLOAD_TYPE, SIGNATURE_PAYLOAD_TYPE, envelope_create
from core.security.keys import keyid_of, public_key_pem

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
Evidence = PairedSample | UnpairedMeasurement | None


def load_verifier() -> ModuleType:
    """The verifier as a module, the way a stranger has it: from its file."""
    path = core.evidence.dossier.__file__.replace("dossier.py", "dossier_verify/verify.py")
    spec = importlib.util.spec_from_file_location("dossier_verifier", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def spec(key: str = "accuracy", rule: Mapping[str, Any] | None = None, **more: Any) -> CriterionSpec:
    """A blocking non-inferiority criterion on accuracy with a margin of 5 points, unless told otherwise."""
    fields: dict[str, Any] = {
        "title": key.capitalize(),
        "area": "quality",
        "metric": "accuracy",
        "dataset": "piqa",
        "slice": "",
        "rule": rule or non_inferior(0.05, "higher_is_better"),
        "playbook": "rollback-model",
    }
    return CriterionSpec(key=key, **{**fields, **more})


def non_inferior(
    margin: float, direction: str = "lower_is_better", scale: str = "difference", **more: Any
) -> dict:
    """A non-inferiority rule."""
    return {"type": "non_inferiority", "margin": margin, "direction": direction, "scale": scale, **more}


def bound(op: str, value: float, **more: Any) -> dict[str, Any]:
    """A bound rule."""
    return {"type": "bound", "op": op, "bound": value, **more}


def binary(worse: int, better: int, n: int, **more: Any) -> PairedSample:
    """Accuracy items: ``worse`` turned wrong, ``better`` turned right, the rest alternately right and wrong in both."""
    rest = [float(row % 2) for row in range(n - worse - better)]
    return PairedSample(
        keys=[f"item-{row}" for row in range(n)],
        baseline=[1.0] * worse + [0.0] * better + rest,
        candidate=[0.0] * worse + [1.0] * better + rest,
        kind="binary",
        **more,
    )


def continuous(baseline: Any, candidate: Any, **more: Any) -> PairedSample:
    """Continuous items with made-up keys."""
    return PairedSample(
        keys=[f"item-{row}" for row in range(len(baseline))], baseline=baseline, candidate=candidate, **more
    )


def decide(specs: list[CriterionSpec], samples: Mapping[str, Evidence], **more: Any) -> GateReport:
    """``decide_gate`` at a fixed time with a fixed seed."""
    return decide_gate(specs, samples, **{"now": NOW, "ages": {}, "seed": 11, **more})


def random_gate(seed: int, largest: int = 80) -> tuple[list[CriterionSpec], dict[str, Evidence], GateReport]:
    """A gate of one to seven criteria of all kinds, with harm, damage, gaps and stale evidence among them."""
    rng = np.random.default_rng(seed)
    specs: list[CriterionSpec] = []
    samples: dict[str, Evidence] = {}
    ages: dict[str, float | None] = {}
    for number in range(int(rng.integers(1, 8))):
        key = f"c{number}"
        n = int(rng.integers(0, largest))
        harm = float(rng.choice([0.0, 0.0, 0.03, 0.3]))
        kind = str(
            rng.choice(["accuracy", "nll", "latency", "tokens", "percentile", "bound", "mean", "p", "single"])
        )
        more: dict[str, Any] = {
            "alpha": float(rng.choice([0.05, 0.05, 0.025, 0.1])),
            "severity": str(rng.choice(["blocking", "blocking", "advisory"])),
            "max_age_days": None if rng.random() < 0.7 else 10.0,
            "slice": "" if rng.random() < 0.8 else "law",
        }
        right = (rng.random(n) < 0.6).astype(float)
        flipped = np.where(rng.random(n) < 0.1 + harm, 0.0, right)
        cost = rng.lognormal(1, 0.5, n)
        worse = cost * (1 + harm) + (rng.normal(0, 0.2, n) if rng.random() < 0.8 else 0)
        binary_kind = kind in ("accuracy", "bound")
        before, after = (
            (right, flipped) if binary_kind else (cost, worse if kind != "tokens" else cost / (1 + harm))
        )
        after = after.astype(object)
        if n and rng.random() < 0.1:
            after[int(rng.integers(n))] = rng.choice([None, float("nan"), float("inf")])
        sample: Evidence = PairedSample(
            keys=[f"k{row}" for row in range(n)],
            baseline=before,
            candidate=after,
            slices=[["law"] if rng.random() < 0.5 else ["medicine", "hard"] for _ in range(n)],
            clusters=[f"d{row // 3}" for row in range(n)] if rng.random() < 0.2 else None,
            kind="binary" if binary_kind else "continuous",
            complete=bool(rng.random() < 0.95),
        )
        rules = {
            "accuracy": non_inferior(0.1, "higher_is_better"),
            "nll": non_inferior(0.2),
            "latency": non_inferior(0.1, scale="ratio"),
            "tokens": non_inferior(0.1, "higher_is_better", "ratio"),
            "percentile": non_inferior(0.2, scale=str(rng.choice(["ratio", "difference"])), statistic="p90"),
            "bound": bound(">=", 0.4),
            "mean": bound("<=", 3.5),
            "p": bound("<=", 5.0, statistic=str(rng.choice(["p50", "p95"]))),
            "single": bound("<=", 2.0),
        }
        if kind == "single":
            value = float(rng.normal(2, 0.3))
            sample = UnpairedMeasurement(
                value, value - 0.2, value + 0.2, n=9, level=float(rng.choice([0.95, 0.5]))
            )
            if rng.random() < 0.5:
                sample = UnpairedMeasurement(value, stated=bool(rng.random() < 0.7), source="contract")
        specs.append(spec(key, rules[kind], metric="accuracy" if binary_kind else "nll_gold", **more))
        samples[key] = None if rng.random() < 0.08 else sample
        ages[key] = None if rng.random() < 0.2 else float(rng.uniform(0, 14))
    report = decide(
        specs, samples, ages=ages, seed=seed, stale={"c1": "the dataset changed"} if seed % 9 == 0 else {}
    )
    return specs, samples, report


def dossier_of(
    specs: list[CriterionSpec],
    samples: Mapping[str, Evidence],
    report: GateReport,
    waivers: tuple[Waiver, ...] = (),
) -> tuple[dict[str, Any], dict[str, dict[str, Any]], str]:
    """A frozen dossier, its raw numbers and its digest."""
    raw = {key: evidence.to_raw() for key, evidence in samples.items() if evidence is not None}
    dossier = {
        "tenant": "summit",
        "product": {"slug": "document-assistant"},
        "candidate": {"version": "1.1.0"},
        "baseline": {"version": "1.0.0"},
        "gate": {"slug": "quality", "version": 1, "criteria": [one.to_dict() for one in specs]},
        "gate_report": {**report.to_dict(), "with_waivers": apply_waivers(report, waivers, NOW).to_dict()},
        "waivers": [waiver.to_dict() for waiver in waivers],
        "checklist": [],
        "poll": ["pmo", "security"],
    }
    frozen, digest = dossier_freeze(dossier, raw)
    return frozen, raw, digest


def archive_of(
    dossier: dict[str, Any], raw: dict[str, dict[str, Any]], digest: str, signatures: int = 1
) -> bytes:
    """The exported zip, signed by :data:`KEY`."""
    envelopes = [
        envelope_create(
            signature_payload(
                dossier_digest=digest,
                signer=f"alice-{number}",
                role="pmo",
                position="go",
                signed_at=NOW.isoformat(),
            ),
            SIGNATURE_PAYLOAD_TYPE,
            KEY,
        )
        for number in range(signatures)
    ]
    return build_dossier_zip(
        dossier,
        raw,
        envelopes,
        {keyid_of(KEY): public_key_pem(KEY)},
        b"%PDF-1.7 not really\n",
        lambda manifest: envelope_create(manifest, MANIFEST_PAYLOAD_TYPE, KEY),
    )
