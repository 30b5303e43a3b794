"""Items become outcomes: by hand cases on a scripted engine, and on the real model and a damaged copy of
it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest

from inference.data.public import load
from inference.data.schema import (
    GenerationItem,
    Item,
    MultipleChoiceItem,
    ReferenceItem,
    TextItem,
    sample_items,
)
from inference.engines.base import (
    Capabilities,
    EngineIdentity,
    EngineOptions,
    GenerateRequest,
    Generation,
    LogLikelihood,
    LogLikelihoodRequest,
)
from inference.engines.errors import EngineNotAble
from inference.evaluation import (
    DecodingConfig,
    Example,
    LatencyParams,
    PromptTemplate,
    ScoringParams,
    cost_usd,
    measure_latency,
    requires,
    score_batch,
)
from inference.evaluation.scoring import exact_match, normalise_answer, token_f1
from inference.model_store import StoredModel


class ScriptedEngine:
    """Answers from a table and remembers what it was asked. A real class of the interface, without a
    model."""

    def __init__(
        self, logprobs: dict[str, float | None] | None = None, text: str = "", *, finite: bool = True
    ) -> None:
        self.logprobs, self.text, self.finite = logprobs or {}, text, finite
        self.asked: list[Any] = []
        self.identity = EngineIdentity("", "scripted")

    def capabilities(self) -> Capabilities:
        return Capabilities(generate=bool(self.text), loglikelihood=bool(self.logprobs))

    def loglikelihood(self, requests: Sequence[LogLikelihoodRequest]) -> list[LogLikelihood]:
        self.asked += requests
        return [
            LogLikelihood(self.logprobs[r.continuation], 2, False, 5, truncated_tokens=0, compute_s=0.5)
            for r in requests
        ]

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        self.asked += requests
        return [
            Generation(self.text, "stop", 7, 3, 1.0, 2.0, 9.0, 0.01, finite=self.finite) for _ in requests
        ]


QUESTION = MultipleChoiceItem("q", "Which?", ("no", "yes indeed"), 1, slices=("easy",))


def test_a_choice_is_taken_by_total_and_by_length() -> None:
    engine = ScriptedEngine({" no": -3.0, " yes indeed": -4.0})
    (outcome,) = score_batch(engine, "multiple_choice", [QUESTION])  # type: ignore[arg-type]
    # By total "no" wins (-3 against -4); per byte "yes indeed" does (-1.5 against -0.4).
    assert outcome.metrics == {"accuracy": 0.0, "accuracy_norm": 1.0, "nll_gold": 2.0}
    assert outcome.output == "no"
    assert outcome.slices == ("easy", "length:short", "choices:2")
    assert (outcome.tokens_in, outcome.compute_s, outcome.finite) == (10, 1.0, True)


@pytest.mark.parametrize("broken", [" no", " yes indeed"])
def test_not_a_number_counts_as_wrong_and_its_likelihood_is_null(broken: str) -> None:
    engine = ScriptedEngine({" no": -9.0, " yes indeed": -1.0} | {broken: None})
    (outcome,) = score_batch(engine, "multiple_choice", [QUESTION])  # type: ignore[arg-type]
    assert outcome.metrics["accuracy"] == 0.0
    assert outcome.metrics["nll_gold"] == (None if broken == " yes indeed" else 0.5)
    assert not outcome.finite and "NaN" in outcome.note
    json.dumps(outcome.as_dict(), allow_nan=False)


def test_the_releases_template_and_the_examples_reach_the_model() -> None:
    engine = ScriptedEngine({" yes": -1.0, " no": -2.0})
    item = MultipleChoiceItem("q", "Is it?", ("yes", "no"), 0, context="It is.")
    params = ScoringParams(
        prompt=PromptTemplate("Q: {question}\nA:"), examples=(Example("Was it?", "no", "It was not."),)
    )
    score_batch(engine, "multiple_choice", [item], params)  # type: ignore[arg-type]
    assert engine.asked[0].context == "It was not.\n\nQ: Was it?\nA: no\n\nIt is.\n\nQ: Is it?\nA:"


def test_plain_text_is_scored_without_any_template() -> None:
    engine = ScriptedEngine({"Words.": -6.0})
    params = ScoringParams(prompt=PromptTemplate("Q: {input}"))
    (outcome,) = score_batch(engine, "text", [TextItem("t", "Words.")], params)  # type: ignore[arg-type]
    assert engine.asked == [LogLikelihoodRequest("", "Words.")]
    assert outcome.metrics == {"nll_text": 3.0}


def test_a_reference_is_scored_after_its_prompt() -> None:
    engine = ScriptedEngine({" Short.": -5.0})
    (outcome,) = score_batch(engine, "reference", [ReferenceItem("r", "Sum up.", "Short.")])  # type: ignore[arg-type]
    assert outcome.metrics == {"nll_gold": 2.5}


def test_generation_is_compared_after_normalising() -> None:
    engine = ScriptedEngine(text=" The  Eiffel Tower!")
    item = GenerationItem("g", "What?", ("eiffel tower", "tour Eiffel"))
    params = ScoringParams(decoding=DecodingConfig(max_tokens=5, stop=("\n",), seed=3))
    (outcome,) = score_batch(engine, "generation", [item], params)  # type: ignore[arg-type]
    assert outcome.metrics == {"exact_match": 1.0, "token_f1": 1.0}
    assert (outcome.tokens_out, outcome.output) == (3, " The  Eiffel Tower!")
    assert engine.asked == [GenerateRequest(prompt="What?", max_tokens=5, stop=("\n",), seed=3)]


def test_a_broken_generation_is_wrong_and_says_so() -> None:
    engine = ScriptedEngine(text="x", finite=False)
    (outcome,) = score_batch(engine, "generation", [GenerationItem("g", "What?", ("x",))])  # type: ignore[arg-type]
    assert outcome.metrics["exact_match"] == 0.0 and not outcome.finite


@pytest.mark.parametrize(
    ("text", "answers", "exact", "f1"),
    [
        ("Paris", ["paris."], 1.0, 1.0),
        ("the Paris", ["Paris"], 1.0, 1.0),
        ("Paris, France", ["Paris"], 0.0, 2 / 3),
        ("", ["Paris"], 0.0, 0.0),
        ("", ["the"], 0.0, 0.0),
        ("the", ["the"], 1.0, 1.0),
        ("!", ["?"], 0.0, 0.0),
        ("ＰＡＲＩＳ", ["paris"], 1.0, 1.0),
        ("a b b", ["b b b"], 0.0, 2 * 1 * (2 / 3) / (1 + 2 / 3)),
        ("no", ["yes", "no"], 1.0, 1.0),
    ],
)
def test_exact_match_and_f1_by_hand(text: str, answers: list[str], exact: float, f1: float) -> None:
    assert exact_match(text, answers) == exact
    assert token_f1(text, answers) == pytest.approx(f1)


def test_normalising_twice_changes_nothing() -> None:
    once = normalise_answer(" An  “Apple”, the-pie…")
    assert once == normalise_answer(once) == "apple thepie"


def test_an_engine_without_the_ability_is_refused_before_any_work() -> None:
    engine = ScriptedEngine(text="x")
    with pytest.raises(EngineNotAble, match="loglikelihood"):
        score_batch(engine, "multiple_choice", [QUESTION])  # type: ignore[arg-type]
    assert engine.asked == []
    assert requires("generation", ScoringParams(prompt=PromptTemplate(chat=True))) == {"generate", "chat"}


def test_items_of_another_kind_are_a_programming_error() -> None:
    with pytest.raises(TypeError, match="not text"):
        score_batch(ScriptedEngine({"x": -1.0}), "text", [QUESTION])  # type: ignore[arg-type]


def test_latency_is_timed_one_by_one_after_the_warm_up() -> None:
    engine = ScriptedEngine(text="x")
    items: list[Item] = [TextItem(str(i), f"text {i}") for i in range(4)]
    seen: list[str] = []
    samples = measure_latency(
        engine,  # type: ignore[arg-type]
        items,
        latency=LatencyParams(max_tokens=8, warmup=2, usd_per_compute_s=2.0),
        on_sample=lambda sample: seen.append(sample.key),
    )
    assert [sample.key for sample in samples] == seen == ["0", "1", "2", "3"]
    assert len(engine.asked) == 6
    assert all(request.max_tokens == 8 and request.temperature == 0 for request in engine.asked)
    assert all(s.latency_ms > 0 and s.cost_usd == pytest.approx(0.02) for s in samples)


def test_a_cost_without_a_price_is_unknown_and_not_zero() -> None:
    assert cost_usd(3.0, 0.0) is None
    assert cost_usd(3.0, 0.5) == 1.5


# ---- the real model ----------------------------------------------------------------------------------------

PARAMS = ScoringParams(prompt=PromptTemplate("Question: {input}\nAnswer:"))


@pytest.mark.timeout(300)
def test_outcomes_do_not_depend_on_the_batch(smollm_engine) -> None:  # type: ignore[no-untyped-def]
    items = sample_items(load("commonsenseqa"), n=6, seed=0)
    together = score_batch(smollm_engine, "multiple_choice", items, PARAMS)
    apart = [score_batch(smollm_engine, "multiple_choice", [item], PARAMS)[0] for item in items]
    for a, b in zip(together, apart, strict=True):
        assert a.key == b.key and a.metrics["accuracy"] == b.metrics["accuracy"]
        assert a.metrics["nll_gold"] == pytest.approx(b.metrics["nll_gold"], abs=1e-3)
    assert all(outcome.compute_s > 0 for outcome in together)


@pytest.mark.timeout(300)
def test_real_damage_shows_in_the_likelihood_of_plain_text(
    smollm_engine,
    smollm: StoredModel,
    smollm_store,  # type: ignore[no-untyped-def]
) -> None:
    from scipy.stats import wilcoxon

    from inference.engines.torch_engine import TorchEngine
    from inference.transforms import apply_transform

    made = apply_transform(smollm_store, smollm, "quantize_rtn", {"bits": 3, "group_size": 32})
    damaged = TorchEngine(made.path, EngineIdentity(made.digest, "damaged"), EngineOptions(dtype="float32"))
    items = sample_items(load("wiki-sentences"), n=40, seed=0)
    before = [o.metrics["nll_text"] for o in score_batch(smollm_engine, "text", items)]
    after = [o.metrics["nll_text"] for o in score_batch(damaged, "text", items)]
    deltas = [a - b for a, b in zip(after, before, strict=True) if a is not None and b is not None]
    assert len(deltas) == 40 and all(math.isfinite(delta) for delta in deltas)
    assert wilcoxon(deltas, alternative="greater").pvalue < 1e-6


@pytest.mark.timeout(300)
def test_chat_prompts_are_scored_after_the_models_own_template(smollm_engine) -> None:  # type: ignore[no-untyped-def]
    item = GenerationItem("g", "What is the capital of France?", ("Paris",))
    chat = ScoringParams(
        prompt=PromptTemplate("{input} Answer with one word.", chat=True),
        decoding=DecodingConfig(max_tokens=12),
    )
    (outcome,) = score_batch(smollm_engine, "generation", [item], chat)
    assert "Paris" in outcome.output
    choice = MultipleChoiceItem("m", item.prompt, ("Paris", "Rome"), 0)
    (scored,) = score_batch(smollm_engine, "multiple_choice", [choice], chat)
    assert scored.metrics["accuracy"] == 1.0
