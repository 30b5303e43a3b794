"""Sequences that share a batch do not know it: each gets what transformers gives it alone."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from inference.engines.base import LogLikelihoodRequest
from inference.engines.serving.problems import ServingProblem
from inference.engines.serving.registry import ServedModel
from inference.engines.serving.sampling import Sampling
from inference.engines.serving.watermark import Watermark
from inference.engines.torch_engine import TorchEngine
from inference.model_store import StoredModel
from tests.inference.engines.serving.conftest import Asked, plain_model, reference

FAST = [
    "llama",
    "llama with llama3 rope",
    "llama with biases",
    "llama, own head, one key head",
    "mistral",
    "qwen2",
]
REAL_PROMPTS = [
    "The capital of France is",
    "Question: What do people use to cut paper?\nAnswer:",
    "Once upon a time, in a small village near the sea, there lived",
    "def fibonacci(n):\n    ",
    "1, 2, 3, 4,",
    "<|im_start|>user\nName three colours.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nName three animals.<|im_end|>\n<|im_start|>assistant\n",
    "Die Hauptstadt von Deutschland ist",
    "The",
]


def _prompts(count: int, seed: int, longest: int = 60) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(100, 40000) for _ in range(chance.randrange(1, longest))] for _ in range(count)]


def _staggered(served: ServedModel, prompts: list[list[int]], max_tokens: list[int]) -> list[Asked]:
    """Run all prompts in one batch that they join at different times: each waits for a token of another."""
    asked: list[Asked] = []
    for at, (prompt, limit) in enumerate(zip(prompts, max_tokens, strict=True)):
        asked.append(Asked(served, prompt, max_tokens=limit).submit())
        if at % 3 == 2 and not asked[at - 1].pieces:
            asked[at - 1].next()
    return [one.wait() for one in asked]


@pytest.mark.parametrize("name", FAST)
def test_greedy_tokens_equal_transformers_in_any_mix(
    name: str, tiny_models: Callable[[str], StoredModel], serve: Callable[..., ServedModel]
) -> None:
    stored = tiny_models(name)
    served, model = serve(stored), plain_model(stored)
    assert served.facts()["runner"] == "llama", served.why_not_fast
    prompts = _prompts(24, seed=5)
    limits = [random.Random(at).randrange(1, 24) for at in range(24)]
    for one, prompt, limit in zip(_staggered(served, prompts, limits), prompts, limits, strict=True):
        assert one.tokens == reference(model, prompt, limit, served.ends)


@pytest.mark.model
def test_real_model_equals_transformers_token_for_token(
    served_smollm: ServedModel, smollm_engine: TorchEngine
) -> None:
    assert served_smollm.facts()["runner"] == "llama"
    prompts = [served_smollm.encode(text, param="prompt") for text in REAL_PROMPTS]
    for one, prompt in zip(_staggered(served_smollm, prompts, [10] * len(prompts)), prompts, strict=True):
        assert one.tokens == reference(smollm_engine._model, prompt, 10, served_smollm.ends)


@pytest.mark.parametrize("name", ["gpt2", "mistral with a window"])
def test_unknown_architectures_fall_back_to_transformers(
    name: str, tiny_models: Callable[[str], StoredModel], serve: Callable[..., ServedModel]
) -> None:
    stored = tiny_models(name)
    served, model = serve(stored), plain_model(stored)
    assert served.facts()["runner"] == "transformers"
    assert served.facts()["why_not_fast"]
    prompts = _prompts(8, seed=2)
    for one, prompt in zip(_staggered(served, prompts, [9] * 8), prompts, strict=True):
        assert one.tokens == reference(model, prompt, 9, served.ends)


def test_long_prompts_are_computed_in_parts_between_the_steps_of_others(
    tiny_models: Callable[[str], StoredModel], serve: Callable[..., ServedModel]
) -> None:
    stored = tiny_models("llama")
    served, model = serve(stored, prefill_tokens=16), plain_model(stored)
    prompts = [*_prompts(5, seed=8), *[prompt * 3 for prompt in _prompts(3, seed=9)]]
    for one, prompt in zip(_staggered(served, prompts, [8] * 8), prompts, strict=True):
        assert one.tokens == reference(model, prompt, 8, served.ends)


def test_a_shared_beginning_is_computed_once_and_changes_nothing(
    tiny_models: Callable[[str], StoredModel], serve: Callable[..., ServedModel]
) -> None:
    stored = tiny_models("llama")
    served, model = serve(stored, slots=3), plain_model(stored)
    beginning = _prompts(1, seed=3, longest=2)[0] * 40
    prompts = [[*beginning, *rest] for rest in _prompts(9, seed=4, longest=9)]
    asked = [Asked(served, prompt).submit() for prompt in prompts]
    for one, prompt in zip(asked, prompts, strict=True):
        assert one.wait().tokens == reference(model, prompt, 12, served.ends)
    assert served.loop.counters.shared_tokens >= 8 * len(beginning)
    assert served.loop.counters.prefilled_tokens <= len(beginning) + 9 * 10


def test_a_seed_gives_the_same_text_whatever_the_neighbours(tiny: ServedModel) -> None:
    sampling = Sampling(temperature=0.9, top_p=0.9, seed=42)
    prompt = _prompts(1, seed=1)[0]
    alone = Asked(tiny, prompt, sampling=sampling, max_tokens=16).submit().wait().tokens
    others = [
        Asked(tiny, other, sampling=Sampling(temperature=1.3, seed=at), max_tokens=30).submit()
        for at, other in enumerate(_prompts(3, seed=6))
    ]
    crowded = Asked(tiny, prompt, sampling=sampling, max_tokens=16).submit().wait().tokens
    assert crowded == alone
    assert (
        Asked(tiny, prompt, sampling=Sampling(temperature=0.9, top_p=0.9, seed=43), max_tokens=16)
        .submit()
        .wait()
        .tokens
        != alone
    )
    for other in others:
        other.wait()


def test_a_cancelled_sequence_costs_no_further_step(
    tiny: ServedModel, eventually: Callable[..., Any]
) -> None:
    counters = tiny.loop.counters
    one = Asked(
        tiny, [500, 600, 700], max_tokens=2000, sampling=Sampling(temperature=0.0, logit_bias=((2, -100.0),))
    )
    one.submit()
    for _ in range(5):
        one.next()
    one.job.cancel()
    while not one.pieces[-1].finish:
        one.next()
    assert one.finish == "cancelled"
    eventually(lambda: tiny.loop.idle)
    steps, decoded = counters.steps, counters.decoded_tokens
    assert len(one.tokens) < 2000
    # The loop is at rest: a further request costs exactly its own steps.
    Asked(
        tiny, [5000], max_tokens=3, sampling=Sampling(temperature=0.0, logit_bias=((2, -100.0),))
    ).submit().wait()
    eventually(lambda: tiny.loop.idle)
    assert counters.steps - steps == 3  # the prompt, which gives the first token, and two decodes
    assert counters.decoded_tokens - decoded == 2


def test_a_waiting_sequence_that_is_cancelled_never_gets_a_slot(tiny: ServedModel) -> None:
    bias = Sampling(temperature=0.0, logit_bias=((2, -100.0),))
    running = [Asked(tiny, [900 + at], max_tokens=60, sampling=bias).submit() for at in range(4)]
    waiting = Asked(tiny, [77], max_tokens=60, sampling=bias).submit()
    waiting.job.cancel()
    waiting.wait()
    assert (waiting.finish, waiting.tokens) == ("cancelled", [])
    for one in running:
        assert len(one.wait().tokens) == 60


def test_a_full_queue_refuses_with_a_time_to_wait(
    tiny_models: Callable[[str], StoredModel], serve: Callable[..., ServedModel]
) -> None:
    served = serve(tiny_models("llama"), slots=1, queue_limit=2, context=2048)
    bias = Sampling(temperature=0.0, logit_bias=((2, -100.0),))
    asked = [Asked(served, [900], max_tokens=2000, sampling=bias).submit()]
    asked[0].next()
    asked += [Asked(served, [901 + at], max_tokens=1, sampling=bias).submit() for at in range(2)]
    with pytest.raises(ServingProblem) as refused:
        Asked(served, [950], max_tokens=1).submit()
    assert refused.value.status == 429
    assert (refused.value.retry_after_s or 0) >= 1
    asked[0].job.cancel()
    for one in asked[1:]:
        assert len(one.wait().tokens) == 1


def test_stop_strings_end_the_text_before_them_and_never_show(tiny: ServedModel) -> None:
    prompt = _prompts(1, seed=12)[0]
    sampling = Sampling(temperature=0.0, logit_bias=((2, -100.0),))
    whole = Asked(tiny, prompt, max_tokens=30, sampling=sampling).submit().wait().text
    for start in range(3, len(whole) - 4, 5):
        stop = whole[start : start + 4]
        one = (
            Asked(tiny, prompt, max_tokens=30, sampling=sampling, stops=(stop, "never there")).submit().wait()
        )
        assert one.text == whole[: whole.index(stop)]
        assert one.finish == "stop"


def test_pieces_hold_whole_characters_and_add_up(served_smollm: ServedModel) -> None:
    text = "naïve café — 日本語のテキスト 🎉👩‍🚀 Ελληνικά 𝔘𝔫𝔦𝔠𝔬𝔡𝔢"
    ids = served_smollm.encode(text, param="prompt")
    from inference.engines.serving.text import Detokeniser

    detokeniser = Detokeniser(served_smollm.decode)
    pieces = [detokeniser.push(token) for token in ids] + [detokeniser.finish()]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert any(not piece for piece in pieces[:-1]), "no character here takes more than one token"


def test_random_tokens_become_the_text_that_decoding_them_all_gives(tiny: ServedModel) -> None:
    from inference.engines.serving.text import Detokeniser

    for ids in _prompts(30, seed=21):
        detokeniser = Detokeniser(tiny.decode)
        text = "".join([*map(detokeniser.push, ids), detokeniser.finish()])
        assert text == tiny.decode(ids)


def test_prompt_log_probabilities_equal_the_evaluation_engine(
    served_smollm: ServedModel, smollm_engine: TorchEngine
) -> None:
    context, continuation = "The capital of France is", " Paris, of course."
    (expected,) = smollm_engine.loglikelihood([LogLikelihoodRequest(context, continuation)])
    ids = served_smollm.encode(context + continuation, param="prompt")
    before = len(served_smollm.encode(context, param="prompt"))
    one = (
        Asked(
            served_smollm,
            ids,
            max_tokens=0,
            sampling=Sampling(temperature=0.0, logprobs=1),
            score_prompt=True,
        )
        .submit()
        .wait()
    )
    scores = one.pieces[-1].prompt
    assert [scored.token for scored in scores] == ids[1:]
    found = sum(scored.logprob or 0.0 for scored in scores[before - 1 :])
    assert found == pytest.approx(expected.sum_logprob, abs=2e-3)


def test_log_probabilities_are_the_models_own(
    tiny: ServedModel, tiny_models: Callable[[str], StoredModel]
) -> None:
    import torch

    prompt = [400, 500, 600]
    sampling = Sampling(temperature=0.7, seed=5, logprobs=3, logit_bias=((123, 5.0),))
    one = Asked(tiny, prompt, max_tokens=5, sampling=sampling).submit().wait()
    scores = [scored for piece in one.pieces for scored in piece.tokens]
    with torch.inference_mode():
        logits = plain_model(tiny_models("llama"))(torch.tensor([prompt + one.tokens])).logits[0]
    chances = torch.log_softmax(logits.double(), dim=-1)[len(prompt) - 1 : -1]
    for row, scored in zip(chances, scores, strict=True):
        assert scored.logprob == pytest.approx(float(row[scored.token]), abs=1e-4)
        assert [token for token, _ in scored.top] == row.topk(3).indices.tolist()


def test_sampling_follows_the_chances_of_the_model(tiny: ServedModel) -> None:
    import torch

    from inference.engines.serving.sampling import Sampler

    sampler = Sampler(8)
    logits = torch.log(torch.tensor([[0.4, 0.3, 0.2, 0.05, 0.05, 0.0, 0.0, 0.0]]))
    drawn = {}
    for top_p, allowed in ((1.0, {0, 1, 2, 3, 4}), (0.65, {0, 1}), (0.0, {0})):
        chooser = sampler.chooser(Sampling(temperature=1.0, top_p=top_p, seed=1), last_token=0)
        picks = [sampler.choose(logits, [chooser])[0] for _ in range(3000)]
        tokens = [scored.token for scored in picks if scored is not None]
        assert set(tokens) == allowed
        drawn[top_p] = tokens
    assert drawn[1.0].count(0) / 3000 == pytest.approx(0.4, abs=0.05)
    assert drawn[0.65].count(0) / 3000 == pytest.approx(4 / 7, abs=0.05)


def test_a_broken_model_fails_its_own_request_only(
    tiny_models: Callable[[str], StoredModel], serve: Callable[..., ServedModel]
) -> None:
    import torch

    served = serve(tiny_models("llama"))
    poison = 31000
    with torch.inference_mode():
        served.runner._embed = served.runner._embed.clone()  # the head keeps its own
        served.runner._embed[poison] = float("nan")
    healthy = _prompts(3, seed=30)
    good = [Asked(served, prompt, max_tokens=20).submit() for prompt in healthy]
    bad = Asked(served, [500, poison, 600], max_tokens=20).submit().wait()
    assert bad.pieces[-1].problem is not None
    assert bad.pieces[-1].problem.code == "model_not_finite"
    model = plain_model(tiny_models("llama"))
    for one, prompt in zip(good, healthy, strict=True):
        assert one.wait().tokens == reference(model, prompt, 20, served.ends)
    # The slot that held NaN serves the next prompt as if nothing had been.
    again = [Asked(served, prompt, max_tokens=20).submit() for prompt in [*healthy, *_prompts(1, seed=31)]]
    assert all(one.wait().finish for one in again)


def test_a_failing_step_ends_its_requests_and_the_loop_goes_on(
    tiny_models: Callable[[str], StoredModel],
    serve: Callable[..., ServedModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served = serve(tiny_models("llama"))

    def broken(*_: object) -> None:
        raise RuntimeError("out of something")

    with monkeypatch.context() as patched:
        patched.setattr(served.runner, "_forward", broken)
        one = Asked(served, [500]).submit().wait()
        assert one.pieces[-1].problem is not None
        assert one.pieces[-1].problem.status == 500
        assert "out of something" not in one.pieces[-1].problem.message
    assert Asked(served, [500]).submit().wait().finish in {"stop", "length"}


def test_transformers_detector_finds_our_watermark(tiny: ServedModel, served_smollm: ServedModel) -> None:
    import torch
    from transformers import WatermarkDetector, WatermarkingConfig

    key = int("8f3a61c2", 16)
    prompt = served_smollm.encode("Write a story about a lighthouse.", param="prompt")
    texts = {}
    for name, mark in (("marked", Watermark(key, 0.25, 4.0)), ("plain", None)):
        sampling = Sampling(temperature=1.0, seed=3, watermark=mark, logit_bias=((2, -100.0),))
        texts[name] = Asked(served_smollm, prompt, max_tokens=60, sampling=sampling).submit().wait().tokens
    config = type(
        "Config", (), {"vocab_size": served_smollm.vocabulary, "bos_token_id": 1, "is_encoder_decoder": False}
    )()
    detector = WatermarkDetector(
        model_config=config,
        device="cpu",
        watermarking_config=WatermarkingConfig(greenlist_ratio=0.25, hashing_key=key, context_width=1),
    )
    found = {name: detector(torch.tensor([ids]), return_dict=True) for name, ids in texts.items()}
    assert float(found["marked"].z_score[0]) > 4.0
    assert float(found["plain"].z_score[0]) < 3.0


def test_a_schema_is_followed(served_smollm: ServedModel) -> None:
    import json

    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "size": {"type": "integer", "maximum": 99}},
        "required": ["colour", "size"],
        "additionalProperties": False,
    }
    ids = served_smollm.encode("Describe a ball as JSON:", param="prompt")
    one = (
        Asked(
            served_smollm,
            ids,
            max_tokens=40,
            sampling=Sampling(temperature=1.0, seed=9),
            grammar=served_smollm.grammar(schema),
        )
        .submit()
        .wait()
    )
    answer = json.loads(one.text)
    assert answer["colour"] in {"red", "blue"}
    assert isinstance(answer["size"], int)
    assert one.finish == "stop"


def test_two_threads_may_submit_at_once(tiny: ServedModel) -> None:
    prompts = _prompts(12, seed=40)
    expected = [Asked(tiny, prompt, max_tokens=6).submit().wait().tokens for prompt in prompts]
    found: dict[int, list[int]] = {}

    def run(at: int) -> None:
        found[at] = Asked(tiny, prompts[at], max_tokens=6).submit().wait().tokens

    threads = [threading.Thread(target=run, args=(at,)) for at in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[at] for at in range(12)] == expected
