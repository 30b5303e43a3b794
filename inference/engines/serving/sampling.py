"""From logits to tokens: each row by its own parameters and its own random numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from inference.engines.serving.watermark import GreenLists, Watermark

# Tokens looked at for top_p before the whole vocabulary is sorted (a sort of 49,152 takes milliseconds).
NUCLEUS_FIRST_LOOK = 256


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose tokens. ``temperature`` 0 is greedy. ``logprobs``: how many alternatives to report; None for
    no log-probabilities at all, 0 for those of the chosen tokens only."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    watermark: Watermark | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """A token, its log-probability in nats by the model itself (before temperature, bias and watermark), and the
    likeliest alternatives."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Grammar(Protocol):
    """Restricts what may come next (see inference.engines.serving.grammar)."""

    def mask(self) -> Any:
        """Boolean tensor (vocabulary,): what may come next."""
        ...

    def accept(self, token: int) -> bool:
        """Take a token; True when the text is complete."""
        ...


@dataclass(slots=True)
class Chooser:
    """The sampling state of one sequence."""

    sampling: Sampling
    generator: Any = None
    bias: Any = None
    grammar: Grammar | None = None
    last_token: int = field(default=0)


class Sampler:
    """Chooses one token per row of a batch of logits."""

    def __init__(self, vocabulary: int) -> None:
        import torch

        self._torch = torch
        self._greens = GreenLists(vocabulary)

    def chooser(self, sampling: Sampling, *, last_token: int, grammar: Grammar | None = None) -> Chooser:
        """State of a new sequence. ``last_token``: the prompt's last."""
        torch = self._torch
        chooser = Chooser(sampling, grammar=grammar, last_token=last_token)
        if sampling.temperature > 0:
            chooser.generator = torch.Generator().manual_seed(sampling.seed % 2**63)
        if sampling.logit_bias:
            tokens, values = zip(*sampling.logit_bias, strict=True)
            chooser.bias = (torch.tensor(tokens), torch.tensor(values, dtype=torch.float32))
        return chooser

    def score(self, logits: Any, tokens: Sequence[int], top: int) -> list[Scored]:
        """Log-probabilities of the given tokens, one per row, with the ``top`` likeliest beside each."""
        torch = self._torch
        rows = torch.arange(len(tokens))
        logprobs = torch.log_softmax(logits, dim=-1)
        own = logprobs[rows, torch.tensor(tokens)].tolist()
        if not top:
            return [Scored(token, _number(value)) for token, value in zip(tokens, own, strict=True)]
        values, indices = logprobs.topk(top, dim=-1)
        return [
            Scored(token, _number(value), tuple(zip(ids, map(float, chances), strict=True)))
            for token, value, ids, chances in zip(tokens, own, indices.tolist(), values.tolist(), strict=True)
        ]

    def choose(self, logits: Any, choosers: Sequence[Chooser]) -> list[Scored | None]:
        """One token per row; None where the model gave NaN or infinity."""
        torch = self._torch
        peak = logits.amax(dim=-1)
        finite = torch.isfinite(peak).tolist()
        shaped = self._shaped(logits, choosers)
        tokens = shaped.argmax(dim=-1).tolist()
        sampled = [i for i, c in enumerate(choosers) if c.sampling.temperature > 0 and finite[i]]
        if sampled:
            drawn = self._draw(shaped[sampled], [choosers[i] for i in sampled])
            for i, token in zip(sampled, drawn, strict=True):
                tokens[i] = token
        out: list[Scored | None] = []
        for i, (chooser, token) in enumerate(zip(choosers, tokens, strict=True)):
            if not finite[i]:
                out.append(None)
                continue
            chooser.last_token = token
            if chooser.sampling.logprobs is None:
                out.append(Scored(token))
            else:
                out.extend(self.score(logits[i : i + 1], [token], chooser.sampling.logprobs))
        return out

    def _shaped(self, logits: Any, choosers: Sequence[Chooser]) -> Any:
        """Logits with bias, watermark and grammar; the given ones stay as they are."""
        shaped = logits
        for i, chooser in enumerate(choosers):
            mark = chooser.sampling.watermark
            if chooser.bias is None and mark is None and chooser.grammar is None:
                continue
            if shaped is logits:
                shaped = logits.clone()
            if chooser.bias is not None:
                shaped[i].index_add_(0, *chooser.bias)
            if mark is not None:
                shaped[i] += mark.delta * self._greens.mask(mark, chooser.last_token)
            if chooser.grammar is not None:
                shaped[i].masked_fill_(~chooser.grammar.mask(), -math.inf)
        return shaped

    def _draw(self, logits: Any, choosers: Sequence[Chooser]) -> list[int]:
        """A token per row by the inverse of its own cumulated chances, with one random number of its own."""
        torch = self._torch
        heat = torch.tensor([[c.sampling.temperature] for c in choosers], dtype=torch.float64)
        chances = torch.softmax(logits.double() / heat, dim=-1)
        draws = [float(torch.rand(1, generator=c.generator, dtype=torch.float64)) for c in choosers]
        tokens: list[int] = [0] * len(choosers)
        nucleus = [i for i, c in enumerate(choosers) if c.sampling.top_p < 1.0]
        whole = [i for i, c in enumerate(choosers) if c.sampling.top_p >= 1.0]
        if whole:
            picked = self._inverse(chances[whole], [draws[i] for i in whole])
            for i, at in zip(whole, picked, strict=True):
                tokens[i] = at
        for i in nucleus:
            row, share = chances[i], choosers[i].sampling.top_p
            values, order = row.topk(min(NUCLEUS_FIRST_LOOK, row.numel()))
            if float(values.sum()) < share:
                values, order = row.sort(descending=True, stable=True)
            inside = values.cumsum(0) - values < share
            inside[0] = True
            kept = torch.where(inside, values, torch.zeros_like(values))
            (at,) = self._inverse(kept.unsqueeze(0), [draws[i]])
            tokens[i] = int(order[at])
        return tokens

    def _inverse(self, chances: Any, draws: Sequence[float]) -> list[int]:
        """Index per row where the cumulated chances pass the draw's share of their total; never one of chance 0."""
        torch = self._torch
        sums = chances.cumsum(dim=-1)
        wanted = torch.tensor(draws, dtype=torch.float64).unsqueeze(1) * sums[:, -1:]
        found = torch.searchsorted(sums, wanted, right=True).squeeze(1)
        last = (chances > 0).long().cumsum(dim=-1).argmax(dim=-1)
        return [int(v) for v in torch.minimum(found, last).tolist()]


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
