"""From the loop's pieces to OpenAI's answers, whole and streamed."""

from __future__ import annotations

import queue
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from inference.engines.serving.loop import Job, Piece, make_job
from inference.engines.serving.problems import ServingProblem, bad, failed
from inference.engines.serving.protocol import DEFAULT_CHAT_TOKENS, Ask
from inference.engines.serving.registry import ServedModel
from inference.engines.serving.sampling import Sampling, Scored


@dataclass(slots=True)
class _Choice:
    """What is known of one choice so far."""

    job: Job
    prompt_text: str = ""
    text: str = ""
    finish: str = ""
    tokens: list[Scored] = field(default_factory=list)
    prompt_scores: tuple[Scored, ...] = ()
    shown: int = 0  # characters of text (echo included) before the next token, for text_offset


class Answer:
    """One request being answered: submits its jobs, collects their pieces, shapes the JSON."""

    def __init__(self, served: ServedModel, ask: Ask, *, queue_wait: float = 0.0) -> None:
        self._served = served
        self._ask = ask
        self._sink: queue.SimpleQueue[Piece] = queue.SimpleQueue()
        prefix = "chatcmpl-" if ask.chat else "cmpl-"
        self.id = prefix + uuid.uuid4().hex
        self._created = int(time.time())
        self._echo_scores = ask.echo and ask.sampling.logprobs is not None
        for token, _ in ask.sampling.logit_bias:
            if token >= served.vocabulary:
                raise bad("logit_bias", f"logit_bias: the model has no token {token}.")
        self._choices = self._prepare()
        self._open = len(self._choices)

    # ---- before ------------------------------------------------------------------------------------------------

    def _prepare(self) -> list[_Choice]:
        ask, served = self._ask, self._served
        if ask.chat:
            prompts = [(served.chat(ask.messages), "")]
            param = "messages"
        else:
            param = "prompt"
            prompts = []
            for prompt in ask.prompts:
                if isinstance(prompt, str):
                    prompts.append((served.encode(prompt, param=param), prompt))
                else:
                    ids = served.checked(list(prompt), param=param)
                    prompts.append((ids, served.decode_all(ids) if ask.echo else ""))
        choices: list[_Choice] = []
        for ids, text in prompts:
            room = served.context - len(ids)
            wanted = ask.max_tokens
            if wanted is None:
                wanted = max(1, min(DEFAULT_CHAT_TOKENS, room))
            # The last token chosen is never fed, so it needs no place; scoring alone may fill the context.
            if wanted > room + 1 or (wanted > 0 and room < 0):
                raise bad(
                    param,
                    f"The model's context holds {served.context} tokens; {len(ids)} are in the {param} and "
                    f"{wanted} are asked for.",
                    code="context_length_exceeded",
                )
            if room < 0:
                raise bad(
                    param,
                    f"The model's context holds {served.context} tokens; {len(ids)} are in the {param}.",
                    code="context_length_exceeded",
                )
            for _ in range(ask.n):
                index = len(choices)
                sampling = ask.sampling
                job = make_job(
                    index=index,
                    prompt=ids,
                    sampling=Sampling(
                        temperature=sampling.temperature,
                        top_p=sampling.top_p,
                        seed=ask.seed_of(index),
                        logit_bias=sampling.logit_bias,
                        logprobs=sampling.logprobs,
                        watermark=sampling.watermark,
                    ),
                    max_tokens=wanted,
                    stops=ask.stops,
                    decode=served.decode,
                    sink=self._sink,
                    grammar=served.grammar(ask.json_schema) if ask.json_mode else None,
                    score_prompt=self._echo_scores,
                )
                choices.append(_Choice(job, prompt_text=text if ask.echo else ""))
        return choices

    def start(self) -> None:
        """Queue the work. Raises ServingProblem 429 when the queue is full."""
        self._served.loop.submit([choice.job for choice in self._choices])

    def cancel(self) -> None:
        """Stop working for this request; the loop drops it at its next step."""
        for choice in self._choices:
            if not choice.job.done:
                choice.job.cancel()

    @property
    def compute_ms(self) -> float:
        """This request's share of the steps' time."""
        return round(1000 * sum(choice.job.compute_s for choice in self._choices), 3)

    @property
    def queue_ms(self) -> float:
        """The longest wait of a choice for a slot."""
        return round(1000 * max((choice.job.queue_s for choice in self._choices), default=0.0), 3)

    def usage(self) -> dict[str, Any]:
        """OpenAI's usage, with our times. A prompt counts once however many choices continue it."""
        jobs = [choice.job for choice in self._choices]
        prompts = jobs[:: self._ask.n]
        tokens_in = sum(len(job.prompt) for job in prompts)
        tokens_out = sum(len(job.out) for job in jobs)
        return {
            "prompt_tokens": tokens_in,
            "completion_tokens": tokens_out,
            "total_tokens": tokens_in + tokens_out,
            "prompt_tokens_details": {"cached_tokens": sum(job.shared for job in prompts)},
            "compute_ms": self.compute_ms,
            "queue_ms": self.queue_ms,
        }

    # ---- pieces ------------------------------------------------------------------------------------------------

    def pieces(self) -> Iterator[tuple[_Choice, Piece]]:
        """Pieces of all choices as they come, until each is finished. Raises ServingProblem."""
        while self._open:
            piece = self._sink.get()
            if piece.problem is not None:
                self.cancel()
                raise piece.problem
            choice = self._choices[piece.index]
            choice.text += piece.text
            choice.tokens.extend(piece.tokens)
            if piece.prompt:
                choice.prompt_scores = piece.prompt
            if piece.finish:
                choice.finish = piece.finish
                self._open -= 1
                if piece.finish == "cancelled":
                    raise failed("The request was cancelled.", code="cancelled")
            yield choice, piece

    def whole(self) -> dict[str, Any]:
        """The complete answer. Raises ServingProblem."""
        for _ in self.pieces():
            pass
        choices = []
        for choice in self._choices:
            shaped: dict[str, Any] = {"index": choice.job.index, "finish_reason": choice.finish}
            if self._ask.chat:
                shaped["message"] = {"role": "assistant", "content": choice.text, "refusal": None}
                shaped["logprobs"] = self._chat_logprobs(choice.tokens)
            else:
                shaped["text"] = choice.prompt_text + choice.text
                shaped["logprobs"] = self._completion_logprobs(
                    choice, choice.tokens, with_prompt=self._ask.echo
                )
            choices.append(shaped)
        return {
            "id": self.id,
            "object": "chat.completion" if self._ask.chat else "text_completion",
            "created": self._created,
            "model": self._ask.model,
            "system_fingerprint": self._fingerprint,
            "choices": choices,
            "usage": self.usage(),
        }

    @property
    def _fingerprint(self) -> str:
        digest = self._served.identity.digest.removeprefix("sha256:")[:12]
        return (
            f"fp_{digest}_{self._served.environment['dtype']}{getattr(self._served.runner, 'quantise', '')}"
        )

    def chunks(self) -> Iterator[dict[str, Any]]:
        """The answer as OpenAI's stream of chunks, usage last when asked for. Raises ServingProblem."""
        ask = self._ask
        if ask.chat:
            for choice in self._choices:
                yield self._chunk(choice, {"delta": {"role": "assistant", "content": ""}})
        started = set()
        for choice, piece in self.pieces():
            first = choice.job.index not in started
            started.add(choice.job.index)
            if ask.chat:
                logprobs = self._chat_logprobs(piece.tokens)
                if piece.text or logprobs is not None:
                    yield self._chunk(choice, {"delta": {"content": piece.text}, "logprobs": logprobs})
                if piece.finish:
                    yield self._chunk(choice, {"delta": {}, "finish_reason": piece.finish})
            else:
                text = (choice.prompt_text if first else "") + piece.text
                logprobs = self._completion_logprobs(choice, piece.tokens, with_prompt=first and ask.echo)
                if text or logprobs is not None or piece.finish:
                    yield self._chunk(
                        choice,
                        {"text": text, "logprobs": logprobs, "finish_reason": piece.finish or None},
                    )
        if ask.include_usage:
            yield {**self._frame(), "choices": [], "usage": self.usage()}

    def _frame(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "chat.completion.chunk" if self._ask.chat else "text_completion",
            "created": self._created,
            "model": self._ask.model,
            "system_fingerprint": self._fingerprint,
        }

    def _chunk(self, choice: _Choice, part: dict[str, Any]) -> dict[str, Any]:
        shaped = {"index": choice.job.index, "logprobs": None, "finish_reason": None, **part}
        frame = {**self._frame(), "choices": [shaped]}
        if self._ask.include_usage:
            frame["usage"] = None
        return frame

    # ---- log-probabilities -------------------------------------------------------------------------------------

    def _spelled(self, token: int) -> str:
        text = self._served.decode_all([token])
        if "\ufffd" in text:  # part of a character: tokens stay distinct by their id
            return f"token_id:{token}"
        return text

    def _chat_logprobs(self, tokens: Sequence[Scored]) -> dict[str, Any] | None:
        if self._ask.sampling.logprobs is None:
            return None
        ends = self._served.ends
        content = []
        for scored in tokens:
            if scored.token in ends:
                continue
            content.append(
                {
                    **self._entry(scored.token, scored.logprob),
                    "top_logprobs": [self._entry(token, value) for token, value in scored.top],
                }
            )
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        text = self._served.decode_all([token])
        known = "\ufffd" not in text
        return {
            "token": text if known else f"token_id:{token}",
            "logprob": logprob if logprob is not None else -9999.0,
            "bytes": list(text.encode()) if known else None,
        }

    def _completion_logprobs(
        self, choice: _Choice, tokens: Sequence[Scored], *, with_prompt: bool
    ) -> dict[str, Any] | None:
        """The four parallel lists. An end token is listed, with an empty place in the text, as vLLM does: scoring
        by echo counts on one entry per token."""
        asked = self._ask.sampling.logprobs
        if asked is None:
            return None
        names: list[str] = []
        values: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        offsets: list[int] = []
        if with_prompt and self._echo_scores:
            prompt = choice.job.prompt
            offsets.extend(self._prompt_offsets(choice))
            names.extend(self._spelled(token) for token in prompt)
            values.append(None)
            tops.append(None)
            for scored in choice.prompt_scores:
                values.append(scored.logprob)
                tops.append(self._top(scored))
        if with_prompt:
            choice.shown = len(choice.prompt_text)
        for scored in tokens:
            names.append(self._spelled(scored.token))
            values.append(scored.logprob)
            tops.append(self._top(scored))
            offsets.append(choice.shown)
            choice.shown += len(self._served.decode([scored.token]))
        return {
            "tokens": names,
            "token_logprobs": values,
            "top_logprobs": tops if asked else None,
            "text_offset": offsets,
        }

    def _top(self, scored: Scored) -> dict[str, float]:
        top = {self._spelled(token): value for token, value in scored.top}
        if scored.logprob is not None:
            top.setdefault(self._spelled(scored.token), scored.logprob)
        return top

    def _prompt_offsets(self, choice: _Choice) -> list[int]:
        """Where each token of the prompt begins in its text, in characters."""
        served, prompt = self._served, choice.job.prompt
        if getattr(served.tokenizer, "is_fast", False):
            encoded = served.tokenizer(
                choice.prompt_text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
            leading = len(prompt) - len(encoded["input_ids"])
            if leading >= 0 and list(encoded["input_ids"]) == prompt[leading:]:
                return [0] * leading + [int(start) for start, _ in encoded["offset_mapping"]]
        offsets, at = [], 0
        for token in prompt:
            offsets.append(min(at, len(choice.prompt_text)))
            at += len(served.decode_all([token]))
        return offsets


__all__ = ["Answer", "ServingProblem"]
