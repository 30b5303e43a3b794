"""How items become outcomes: one scorer per kind of item, over any engine.

Metrics by kind (names and meaning are in docs/datasets.md):
    multiple_choice: accuracy, accuracy_norm, nll_gold
    generation: exact_match, token_f1
    reference: nll_gold
    text: nll_text
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from inference.data.schema import (
    GenerationItem,
    Item,
    ItemKind,
    MultipleChoiceItem,
    ReferenceItem,
    TextItem,
    slices_of,
)
from inference.engines.base import (
    ChatMessage,
    Engine,
    GenerateRequest,
    LogLikelihood,
    LogLikelihoodRequest,
)
from inference.engines.errors import EngineNotAble
from inference.evaluation.config import LatencyParams, ScoringParams
from inference.evaluation.outcomes import ItemOutcome, LatencySample

METRICS: dict[ItemKind, tuple[str, ...]] = {
    ItemKind.MULTIPLE_CHOICE: ("accuracy", "accuracy_norm", "nll_gold"),
    ItemKind.GENERATION: ("exact_match", "token_f1"),
    ItemKind.REFERENCE: ("nll_gold",),
    ItemKind.TEXT: ("nll_text",),
}
NOT_FINITE = "The model gave NaN or infinity here."


def score_batch(
    engine: Engine, kind: ItemKind | str, items: Sequence[Item], params: ScoringParams | None = None
) -> list[ItemOutcome]:
    """Score items of one kind, in their order. The outcome of an item does not depend on its neighbours.

    Every model gets an outcome for every item, however broken it is: a value that would be NaN or infinite is
    None, ``finite`` is False and ``note`` says why; a share is then 0.0, since no right answer was given.

    Raises:
        EngineNotAble: the engine lacks what the kind needs (see ``requires``).
        TypeError: an item is not of the kind.
    """
    kind = ItemKind(kind)
    params = params or ScoringParams()
    ensure_able(engine, kind, params)
    for item in items:
        if item.kind is not kind:
            raise TypeError(f"Item {item.id} is of kind {item.kind}, not {kind}.")
    return _SCORERS[kind](engine, items, params)


def requires(kind: ItemKind | str, params: ScoringParams | None = None) -> set[str]:
    """Names of the engine capabilities that scoring this kind needs."""
    needed = {"generate"} if ItemKind(kind) is ItemKind.GENERATION else {"loglikelihood"}
    if params is not None and params.prompt.chat and ItemKind(kind) is not ItemKind.TEXT:
        needed.add("chat")
    return needed


def ensure_able(engine: Engine, kind: ItemKind | str, params: ScoringParams | None = None) -> None:
    """Raises EngineNotAble, naming what is missing, before any work is done."""
    offered = engine.capabilities()
    missing = sorted(name for name in requires(kind, params) if not getattr(offered, name))
    if missing:
        raise EngineNotAble(
            f"{ItemKind(kind).value} items need {' and '.join(missing)}, which this engine "
            f"({engine.identity.name}) does not offer."
        )


def _messages(params: ScoringParams, text: str) -> tuple[ChatMessage, ...]:
    turns = [ChatMessage("system", params.prompt.system)] if params.prompt.system else []
    for example in params.examples:
        turns.append(ChatMessage("user", params.prompt.render(example.input, example.context)))
        turns.append(ChatMessage("assistant", example.target))
    return (*turns, ChatMessage("user", text))


def _plain_prompt(params: ScoringParams, text: str) -> str:
    shown = [
        params.prompt.render(example.input, example.context) + params.target_delimiter + example.target
        for example in params.examples
    ]
    return "\n\n".join([*shown, text])


def _context(engine: Engine, item: Item, params: ScoringParams) -> tuple[str, str]:
    """The text before the judged continuation, and what joins the two."""
    rendered = params.prompt.render(item.main_text, item.context)
    if not params.prompt.chat:
        return _plain_prompt(params, rendered), params.target_delimiter
    template: Callable[..., str] | None = getattr(engine, "apply_chat_template", None)
    if template is None:
        raise EngineNotAble(
            f"The engine {engine.identity.name} keeps its chat template to itself, so log-likelihoods after "
            "a chat "
            "prompt cannot be had from it. Turn chat off in the prompt template."
        )
    # A chat template ends exactly where the answer starts; a further space would be a token of its own.
    return template(_messages(params, rendered)), ""


def _totals(parts: Sequence[LogLikelihood]) -> dict[str, Any]:
    return {"tokens_in": sum(p.tokens_in for p in parts), "compute_s": sum(p.compute_s for p in parts)}


def _truncated(parts: Sequence[LogLikelihood]) -> tuple[str, dict[str, Any]]:
    most = max((part.truncated_tokens for part in parts), default=0)
    if not most:
        return "", {}
    return f"{most} leading tokens did not fit the context window.", {"truncated_tokens": most}


def _score_multiple_choice(engine: Engine, items: Sequence[Item], params: ScoringParams) -> list[ItemOutcome]:
    """Log-likelihood of each choice after the prompt.

    ``accuracy``: the choice with the highest total log-likelihood is the right one. ``accuracy_norm``: the
    same with the total divided by the choice's length in UTF-8 bytes, which takes away the advantage of short
    choices. Both as in lm-evaluation-harness (acc, acc_norm). ``nll_gold``: nats per token of the right
    choice.
    """
    requests: list[LogLikelihoodRequest] = []
    for item in items:
        assert isinstance(item, MultipleChoiceItem)
        context, joint = _context(engine, item, params)
        requests += [LogLikelihoodRequest(context, joint + choice) for choice in item.choices]
    results = iter(engine.loglikelihood(requests))
    outcomes: list[ItemOutcome] = []
    for item in items:
        assert isinstance(item, MultipleChoiceItem)
        parts = [next(results) for _ in item.choices]
        totals = [part.sum_logprob for part in parts]
        note, detail = _truncated(parts)
        gold = parts[item.answer].nll_per_token
        finite = all(total is not None for total in totals)
        if finite:
            values = [total for total in totals if total is not None]
            per_byte = [v / len(c.encode()) for v, c in zip(values, item.choices, strict=True)]
            chosen = values.index(max(values))
            chosen_norm = per_byte.index(max(per_byte))
            output = item.choices[chosen]
            metrics: dict[str, float | None] = {
                "accuracy": float(chosen == item.answer),
                "accuracy_norm": float(chosen_norm == item.answer),
                "nll_gold": gold,
            }
            detail |= {"chosen": chosen, "chosen_norm": chosen_norm}
        else:
            output, note = "", f"{NOT_FINITE} {note}".strip()
            metrics = {"accuracy": 0.0, "accuracy_norm": 0.0, "nll_gold": gold}
        detail["logprobs"] = [None if t is None else round(t, 6) for t in totals]
        outcomes.append(
            ItemOutcome(
                item.id, metrics, output, slices_of(item), finite, note, detail=detail, **_totals(parts)
            )
        )
    return outcomes


def _score_reference(engine: Engine, items: Sequence[Item], params: ScoringParams) -> list[ItemOutcome]:
    """``nll_gold``: nats per token of the reference text after the prompt."""
    requests = []
    for item in items:
        assert isinstance(item, ReferenceItem)
        context, joint = _context(engine, item, params)
        requests.append(LogLikelihoodRequest(context, joint + item.reference))
    return _nll_outcomes(items, engine.loglikelihood(requests), "nll_gold")


def _score_text(engine: Engine, items: Sequence[Item], params: ScoringParams) -> list[ItemOutcome]:
    """``nll_text``: nats per token of the plain text after the beginning-of-text token. No template is
    applied."""
    requests = []
    for item in items:
        assert isinstance(item, TextItem)
        requests.append(LogLikelihoodRequest("", item.text))
    return _nll_outcomes(items, engine.loglikelihood(requests), "nll_text")


def _nll_outcomes(items: Sequence[Item], parts: Sequence[LogLikelihood], metric: str) -> list[ItemOutcome]:
    outcomes = []
    for item, part in zip(items, parts, strict=True):
        note, detail = _truncated([part])
        if not part.finite:
            note = f"{NOT_FINITE} {note}".strip()
        detail["scored_tokens"] = part.n_tokens
        outcomes.append(
            ItemOutcome(
                item.id, {metric: part.nll_per_token}, "", slices_of(item), part.finite, note, detail=detail,
                **_totals([part]),
            )
        )  # fmt: skip
    return outcomes


def generate_request(item: Item, params: ScoringParams) -> GenerateRequest:
    """What a user of the release would send for this item (after the evaluation's examples, if any)."""
    rendered = params.prompt.render(item.main_text, item.context)
    decoding = params.decoding
    return GenerateRequest(
        prompt="" if params.prompt.chat else _plain_prompt(params, rendered),
        messages=_messages(params, rendered) if params.prompt.chat else (),
        max_tokens=decoding.max_tokens,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        seed=decoding.seed,
        stop=decoding.stop,
    )


def _score_generation(engine: Engine, items: Sequence[Item], params: ScoringParams) -> list[ItemOutcome]:
    """``exact_match`` and ``token_f1`` (best over accepted answers) of the generated text, both after
    normalising."""
    answers = engine.generate([generate_request(item, params) for item in items])
    outcomes = []
    for item, answer in zip(items, answers, strict=True):
        assert isinstance(item, GenerationItem)
        metrics: dict[str, float | None] = {
            "exact_match": exact_match(answer.text, item.answers) if answer.finite else 0.0,
            "token_f1": token_f1(answer.text, item.answers) if answer.finite else 0.0,
        }
        note = "" if answer.finite else NOT_FINITE
        detail: dict[str, Any] = {"finish_reason": answer.finish_reason}
        if answer.truncated_tokens:
            note = f"{note} {answer.truncated_tokens} leading tokens did not fit the context window.".strip()
            detail["truncated_tokens"] = answer.truncated_tokens
        outcomes.append(
            ItemOutcome(
                item.id, metrics, answer.text, slices_of(item), answer.finite, note,
                tokens_in=answer.tokens_in, tokens_out=answer.tokens_out, compute_s=answer.compute_s,
                detail=detail,
            )
        )  # fmt: skip
    return outcomes


_SCORERS: dict[ItemKind, Callable[[Engine, Sequence[Item], ScoringParams], list[ItemOutcome]]] = {
    ItemKind.MULTIPLE_CHOICE: _score_multiple_choice,
    ItemKind.GENERATION: _score_generation,
    ItemKind.REFERENCE: _score_reference,
    ItemKind.TEXT: _score_text,
}

# ---- comparing texts ---------------------------------------------------------------------------------------

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = set(string.punctuation) | set("“”‘’«»…–—")


def normalise_answer(text: str) -> str:
    """Lower case, NFKC, without punctuation, English articles and extra spaces (the SQuAD rules)."""
    text = unicodedata.normalize("NFKC", text).lower()
    text = "".join(char for char in text if char not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(text: str, answers: Sequence[str]) -> float:
    """1.0 when the normalised text equals a normalised accepted answer.

    An answer that normalises to nothing (it is only punctuation, say) is compared as it stands.
    """
    mine = normalise_answer(text)
    for answer in answers:
        wanted = normalise_answer(answer)
        if (wanted and mine == wanted) or (not wanted and text.strip() == answer.strip()):
            return 1.0
    return 0.0


def token_f1(text: str, answers: Sequence[str]) -> float:
    """Best harmonic mean of word precision and recall over the accepted answers, in [0, 1]."""
    mine = Counter(normalise_answer(text).split())
    best = 0.0
    for answer in answers:
        wanted = Counter(normalise_answer(answer).split())
        common = sum((mine & wanted).values())
        if common:
            precision, recall = common / sum(mine.values()), common / sum(wanted.values())
            best = max(best, 2 * precision * recall / (precision + recall))
    return max(best, exact_match(text, answers))


# ---- latency and cost --------------------------------------------------------------------------------------


def cost_usd(compute_s: float, usd_per_compute_s: float) -> float | None:
    """Cost of measured compute; None when the price is not known (0)."""
    return compute_s * usd_per_compute_s if usd_per_compute_s > 0 else None


def measure_latency(
    engine: Engine,
    items: Sequence[Item],
    params: ScoringParams | None = None,
    latency: LatencyParams | None = None,
    on_sample: Callable[[LatencySample], None] | None = None,
) -> list[LatencySample]:
    """Time each item as one interactive request: alone, from call to last token, ``latency.max_tokens`` at
    most.

    The first ``latency.warmup`` items are run once before and not counted (caches, lazy initialisation), then
    every item is timed once, in order. ``latency_ms`` is what a caller of the engine waits (queue and
    tokenising included), measured around the call; batched scoring times are never called latency. Works for
    every kind of item: the request is the rendered prompt (for plain text, the text itself). Decoding is
    greedy so that two releases of equal speed do equal work, unless their answers differ in length: report
    ``tokens_out`` beside it.
    """
    import time
    from dataclasses import replace

    params = params or ScoringParams()
    latency = latency or LatencyParams()
    if not engine.capabilities().generate:
        raise EngineNotAble(
            f"Latency is measured by generating, which {engine.identity.name} does not offer."
        )
    decoding = replace(params.decoding, max_tokens=latency.max_tokens, temperature=0.0, top_p=1.0)
    plain = replace(params, decoding=decoding)
    requests = [generate_request(item, plain) for item in items]
    for request in requests[: latency.warmup]:
        engine.generate([request])
    samples = []
    for item, request in zip(items, requests, strict=True):
        started = time.perf_counter()
        (answer,) = engine.generate([request])
        waited_ms = (time.perf_counter() - started) * 1000
        sample = LatencySample(
            key=item.id,
            latency_ms=waited_ms,
            first_token_ms=answer.queue_ms + answer.first_token_ms,
            tokens_in=answer.tokens_in,
            tokens_out=answer.tokens_out,
            compute_s=answer.compute_s,
            cost_usd=cost_usd(answer.compute_s, latency.usd_per_compute_s),
        )
        samples.append(sample)
        if on_sample:
            on_sample(sample)
    return samples
