"""The torch engine gives the same numbers however requests are batched, and they are the model's own."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from inference.engines.base import ChatMessage, EngineOptions, GenerateRequest, LogLikelihoodRequest
from inference.engines.cache import EngineCache
from inference.engines.errors import BadRequest
from inference.engines.torch_engine import TorchEngine

QUESTION = "Question: What do people use to cut paper?\nAnswer:"
CHOICES = (" scissors", " a spoon", " the colour of the sky in the evening", " water")
REQUESTS = [
    *[LogLikelihoodRequest(QUESTION, choice) for choice in CHOICES],
    LogLikelihoodRequest("", "Plain text without any context."),
    LogLikelihoodRequest("The capital of France is", " Paris"),
    *[LogLikelihoodRequest("Two plus two is", choice) for choice in (" four", " five")],
]


def _definition(engine: TorchEngine, context: str, continuation: str) -> float:
    """Sum of log softmax at the continuation's positions, written out without any shortcut of the engine."""
    import torch

    tokenizer, model = engine._tokenizer, engine._model
    before = tokenizer(context, add_special_tokens=False)["input_ids"]
    whole = tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
    after = whole[len(before) :]
    before = before or [tokenizer.bos_token_id]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([before + after])).logits[0].double()
    chances = torch.log_softmax(logits, dim=-1)
    return sum(float(chances[len(before) - 1 + i, token]) for i, token in enumerate(after))


def test_loglikelihood_equals_the_definition(smollm_engine: TorchEngine) -> None:
    found = smollm_engine.loglikelihood(REQUESTS)
    for request, result in zip(REQUESTS, found, strict=True):
        assert result.sum_logprob == pytest.approx(
            _definition(smollm_engine, request.context, request.continuation), abs=2e-3
        )


def test_batched_and_shared_equals_one_by_one(smollm_engine: TorchEngine) -> None:
    assert smollm_engine.environment()["prefix_sharing"] is True
    together = smollm_engine.loglikelihood(REQUESTS)
    for request, result in zip(REQUESTS, together, strict=True):
        (alone,) = smollm_engine.loglikelihood([request])
        assert result.sum_logprob == pytest.approx(alone.sum_logprob, abs=2e-3)
        assert (result.n_tokens, result.is_greedy) == (alone.n_tokens, alone.is_greedy)


def test_prefix_sharing_changes_no_number(smollm_engine: TorchEngine) -> None:
    shared = smollm_engine.loglikelihood(REQUESTS)
    smollm_engine._share, kept = False, smollm_engine._share
    try:
        apart = smollm_engine.loglikelihood(REQUESTS)
    finally:
        smollm_engine._share = kept
    for a, b in zip(shared, apart, strict=True):
        assert a.sum_logprob == pytest.approx(b.sum_logprob, abs=2e-3)


def test_projecting_only_continuation_positions_changes_no_number(tiny_engine: TorchEngine) -> None:
    fast = tiny_engine.loglikelihood(REQUESTS)
    tiny_engine._fast_head, kept = False, tiny_engine._fast_head
    try:
        slow = tiny_engine.loglikelihood(REQUESTS)
    finally:
        tiny_engine._fast_head = kept
    assert kept is True
    for a, b in zip(fast, slow, strict=True):
        assert a.sum_logprob == pytest.approx(b.sum_logprob, abs=1e-3)


def test_a_trailing_space_belongs_to_the_continuation(smollm_engine: TorchEngine) -> None:
    spaced, plain = smollm_engine.loglikelihood(
        [
            LogLikelihoodRequest("The capital of France is ", "Paris"),
            LogLikelihoodRequest("The capital of France is", " Paris"),
        ]
    )
    assert spaced == replace(plain, compute_s=spaced.compute_s)


def test_the_model_knows_the_capital_of_france(smollm_engine: TorchEngine) -> None:
    words = (" Paris", " London", " bread", " seven")
    results = smollm_engine.loglikelihood(
        [LogLikelihoodRequest("The capital of France is", w) for w in words]
    )
    scores = [result.nll_per_token for result in results]
    assert scores.index(min(scores)) == 0  # type: ignore[type-var]


def test_greedy_is_what_generation_does(smollm_engine: TorchEngine) -> None:
    prompt = "Once upon a time, there was a"
    (answer,) = smollm_engine.generate([GenerateRequest(prompt=prompt, max_tokens=3)])
    (same, other) = smollm_engine.loglikelihood(
        [LogLikelihoodRequest(prompt, answer.text), LogLikelihoodRequest(prompt, " bananas")]
    )
    assert answer.tokens_out == 3
    assert same.is_greedy and not other.is_greedy


def test_a_long_context_is_cut_from_the_left_and_reported(tiny_engine: TorchEngine) -> None:
    words = " ".join(f"word{i}" for i in range(200))
    cut, tail = tiny_engine.loglikelihood(
        [LogLikelihoodRequest(words, " end"), LogLikelihoodRequest("short", " end")]
    )
    assert cut.truncated_tokens > 0 and tail.truncated_tokens == 0
    assert cut.n_tokens == tail.n_tokens == 1
    (alone,) = tiny_engine.loglikelihood([LogLikelihoodRequest(words, " end")])
    assert cut.sum_logprob == pytest.approx(alone.sum_logprob, abs=1e-3)


def test_a_continuation_longer_than_the_window_is_scored_at_its_end(tiny_engine: TorchEngine) -> None:
    (result,) = tiny_engine.loglikelihood([LogLikelihoodRequest("", "many words here " * 100)])
    assert result.n_tokens == 64
    assert result.truncated_tokens > 100
    assert result.finite


def test_batched_generation_equals_one_by_one(smollm_engine: TorchEngine) -> None:
    requests = [
        GenerateRequest(prompt="Once upon a time", max_tokens=12),
        GenerateRequest(
            prompt="The three primary colours, as every painter knows very well, are", max_tokens=6
        ),
        GenerateRequest(messages=(ChatMessage("user", "Say hello."),), max_tokens=10),
    ]
    together = smollm_engine.generate(requests)
    for request, result in zip(requests, together, strict=True):
        (alone,) = smollm_engine.generate([request])
        assert (result.text, result.tokens_out, result.finish_reason) == (
            alone.text,
            alone.tokens_out,
            alone.finish_reason,
        )


def test_a_common_beginning_is_computed_once_and_changes_nothing(smollm_engine: TorchEngine) -> None:
    examples = (
        "Question: what colour is grass?\nAnswer: green\n\nQuestion: what colour is coal?\nAnswer: black\n\n"
    )
    requests = [
        GenerateRequest(prompt=f"{examples}Question: {question}\nAnswer:", max_tokens=4, stop=("\n",))
        for question in ("what colour is snow?", "what is the colour of a clear sky at noon?", "and milk?")
    ]
    together = smollm_engine.generate(requests)
    assert [g.text for g in together] == [smollm_engine.generate([r])[0].text for r in requests]
    assert all(g.tokens_in > 20 for g in together)


def test_sampling_repeats_with_its_seed_and_not_with_another(smollm_engine: TorchEngine) -> None:
    base = GenerateRequest(prompt="A list of animals:", max_tokens=12, temperature=1.2, top_p=0.95, seed=5)
    first, again, other = smollm_engine.generate([base, base, replace(base, seed=6)])
    assert first.text == again.text
    assert first.text != other.text


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(smollm_engine: TorchEngine) -> None:
    (free,) = smollm_engine.generate([GenerateRequest(prompt="One, two, three,", max_tokens=12)])
    stop = free.text[4:7]
    (stopped,) = smollm_engine.generate(
        [GenerateRequest(prompt="One, two, three,", max_tokens=12, stop=(stop,))]
    )
    assert stopped.finish_reason == "stop"
    assert stopped.text == free.text[: free.text.index(stop)]


def test_a_stream_says_the_same_in_pieces(smollm_engine: TorchEngine) -> None:
    request = GenerateRequest(prompt="One, two, three,", max_tokens=10, stop=("ten",))
    chunks = list(smollm_engine.stream(request))
    (whole,) = smollm_engine.generate([request])
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert len(chunks) > 3
    assert chunks[-1].final is not None and chunks[-1].final.tokens_out == whole.tokens_out


def test_times_are_ordered_and_shares_add_up(tiny_engine: TorchEngine) -> None:
    answers = tiny_engine.generate([GenerateRequest(prompt=f"number {i}", max_tokens=3) for i in range(40)])
    for answer in answers:
        assert 0 <= answer.first_token_ms <= answer.total_ms
        assert answer.queue_ms >= 0 and answer.compute_s > 0
    assert max(a.queue_ms for a in answers) > min(
        a.total_ms for a in answers
    )  # three batches, one after another


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": ""},
        {"prompt": "x", "messages": (ChatMessage("user", "y"),)},
        {"prompt": "x", "max_tokens": 0},
        {"prompt": "x", "temperature": -1},
        {"prompt": "x", "top_p": 0},
        {"prompt": "x", "stop": ("",)},
    ],
)
def test_a_wrong_request_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        GenerateRequest(**values)  # type: ignore[arg-type]


def test_more_tokens_than_the_context_are_refused(tiny_engine: TorchEngine) -> None:
    with pytest.raises(BadRequest, match="context has 64 tokens"):
        tiny_engine.generate([GenerateRequest(prompt="x", max_tokens=64)])


def test_the_environment_names_what_changes_numbers(smollm_engine: TorchEngine) -> None:
    facts = smollm_engine.environment()
    assert facts["dtype"] == "float32"
    assert {"cpu_model", "threads", "torch", "transformers", "device"} <= set(facts)


def test_auto_dtype_is_settled_by_measuring(tiny_stored) -> None:  # type: ignore[no-untyped-def]
    from inference.engines.base import EngineIdentity

    engine = TorchEngine(tiny_stored.path, EngineIdentity(tiny_stored.digest, "tiny"), EngineOptions())
    facts = engine.environment()
    calibration = facts["calibration"]
    assert facts["dtype"] == calibration["dtype"]
    wins = calibration["bfloat16_ms"] * 1.2 <= calibration["float32_ms"]
    assert facts["dtype"] == ("bfloat16" if wins else "float32")


def test_embeddings_are_unit_vectors_that_put_like_with_like(tiny_engine: TorchEngine) -> None:
    texts = ["The cat sleeps on the sofa.", "A kitten is napping on the couch.", "Interest rates rose again."]
    vectors = tiny_engine.embed(texts)
    assert vectors.shape == (3, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]
    assert np.allclose(tiny_engine.embed(texts[:1])[0], vectors[0], atol=1e-5)
    assert tiny_engine.embed([]).shape == (0, 384)


def test_the_cache_keeps_the_last_used_and_loads_each_once(tiny_engine: TorchEngine) -> None:
    cache, loads = EngineCache(capacity=2), []

    def load(name: str):  # type: ignore[no-untyped-def]
        def loader() -> TorchEngine:
            loads.append(name)
            return tiny_engine

        return loader

    for name in ("a", "b", "a", "c"):
        cache.get(name, load(name))
    assert cache.keys() == ["a", "c"]
    threads = [threading.Thread(target=lambda: cache.get("d", load("d"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == ["a", "b", "c", "d"]


def test_a_model_of_nan_gives_none_and_no_crash(tiny_copy, store) -> None:  # type: ignore[no-untyped-def]
    from safetensors.torch import load_file, save_file

    from inference.engines.base import EngineIdentity

    state = load_file(str(tiny_copy / "model.safetensors"))
    state["model.norm.weight"][:] = float("nan")
    save_file(state, str(tiny_copy / "model.safetensors"), metadata={"format": "pt"})
    model = store.import_directory(tiny_copy)
    engine = TorchEngine(model.path, EngineIdentity(model.digest, "broken"), EngineOptions(dtype="float32"))
    (score,) = engine.loglikelihood([LogLikelihoodRequest("a", " b")])
    (answer,) = engine.generate([GenerateRequest(prompt="a", max_tokens=3)])
    assert score.sum_logprob is None and not score.is_greedy
    assert not answer.finite and answer.finish_reason == "error"
