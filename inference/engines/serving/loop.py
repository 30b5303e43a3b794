"""The batch loop: one thread that feeds prompts and next tokens to a model, step after step.

Sequences join and leave between any two steps. A step feeds every decoding sequence its next token and, beside
them, up to ``prefill_tokens`` tokens of prompts that wait. Slots 0 .. n-1 are always the decoding ones, so that
their keys and values are one contiguous part of the cache.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from inference.engines.serving.problems import ServingProblem, failed
from inference.engines.serving.runner import Decode, Runner, Segment
from inference.engines.serving.sampling import Chooser, Grammar, Sampler, Sampling, Scored
from inference.engines.serving.text import Detokeniser, StopFilter

logger = logging.getLogger(__name__)

# Tokens two prompts must begin with in common for the second to take the first's keys and values.
MIN_SHARED_PREFIX = 16
# Rows of logits held at once when a whole prompt is scored: 128 rows of 49,152 fp32 values are 25 MB.
LOGIT_ROWS = 128


class TurnLock:
    """A lock whose waiters get it in the order they came, so that two models' loops alternate."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._held = False

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the lock."""
        mine: threading.Event | None = None
        with self._guard:
            if self._held:
                mine = threading.Event()
                self._waiting.append(mine)
            else:
                self._held = True
        if mine is not None:
            mine.wait()
        try:
            yield
        finally:
            with self._guard:
                if self._waiting:
                    self._waiting.popleft().set()
                else:
                    self._held = False


@dataclass(frozen=True, slots=True)
class Piece:
    """Something new of a sequence: text that is certain, and the tokens chosen since the last piece."""

    index: int
    text: str = ""
    tokens: tuple[Scored, ...] = ()
    prompt: tuple[Scored, ...] = ()
    finish: str = ""  # "stop" or "length" in the last piece
    problem: ServingProblem | None = None


@dataclass(slots=True, eq=False)
class Job:
    """One prompt on its way. The loop's thread alone changes what is below the
    line."""

    index: int
    prompt: list[int]
    sampling: Sampling
    max_tokens: int
    detokeniser: Detokeniser
    stops: StopFilter
    sink: queue.SimpleQueue[Piece]
    grammar: Grammar | None = None
    score_prompt: bool = False
    cancelled: bool = False
    arrived: float = field(default_factory=time.perf_counter)
    # ------------------------------------------------------------------
    slot: int = -1
    fed: int = 0  # positions in the cache
    shared: int = 0  # of them, taken from another prompt
    out: list[int] = field(default_factory=list)
    chooser: Chooser | None = None
    prompt_scores: list[Scored] = field(default_factory=list)
    queue_s: float = 0.0
    compute_s: float = 0.0
    done: bool = False

    def cancel(self) -> None:
        """Leave the batch at the next step. Any thread may call this, at any time."""
        self.cancelled = True


@dataclass(slots=True)
class Counters:
    """What the loop did since it started."""

    steps: int = 0
    decoded_tokens: int = 0
    prefilled_tokens: int = 0
    shared_tokens: int = 0
    cancelled: int = 0
    finished: int = 0
    busy_s: float = 0.0


class BatchLoop:
    """Continuous batching over one runner."""

    def __init__(
        self,
        runner: Runner,
        *,
        ends: frozenset[int],
        turn: TurnLock | None = None,
        prefill_tokens: int = 512,
        queue_limit: int = 64,
    ) -> None:
        self._runner = runner
        self._ends = ends
        self._turn = turn or TurnLock()
        self._prefill_tokens = prefill_tokens
        self.queue_limit = queue_limit
        self._sampler = Sampler(runner.vocabulary)
        self._waiting: deque[Job] = deque()
        self._decoding: list[Job] = []  # in the order of their slots, from 0
        self._filling: list[Job] = []  # in the order of their slots, after the decoding ones
        # Tokens whose keys and values each slot holds, also after its sequence left.
        self._held: list[list[int]] = [[] for _ in range(runner.slots)]
        self.counters = Counters()
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="batch-loop", daemon=True)
        self._thread.start()

    # ---- asked by other threads --------------------------------------------------------------------------------

    def submit(self, sequences: Sequence[Job]) -> None:
        """Queue the sequences of one request. Raises ServingProblem 429 when the queue is full.

        A request that alone is longer than the queue is taken when the queue is empty.
        """
        with self._wake:
            if self._closing:
                raise ServingProblem(
                    503,
                    "The model is being unloaded; try again.",
                    code="unavailable",
                    kind="server_error",
                    retry_after_s=1,
                )
            if self._waiting and len(self._waiting) + len(sequences) > self.queue_limit:
                raise ServingProblem(
                    429,
                    f"The engine's queue is full ({len(self._waiting)} sequences wait, {self.active} are decoded).",
                    code="engine_busy",
                    kind="rate_limit_error",
                    retry_after_s=self._patience_s(),
                )
            self._waiting.extend(sequences)
            self._wake.notify()

    @property
    def active(self) -> int:
        """Sequences in slots."""
        return len(self._decoding) + len(self._filling)

    @property
    def waiting(self) -> int:
        """Sequences that have no slot yet."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Nothing to do."""
        with self._wake:
            return not self._waiting and not self.active

    def close(self) -> None:
        """End the thread; what is under way fails with 503."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout=30)

    def _patience_s(self) -> float:
        """Rough seconds until a place in the queue is free: the waiting sequences at the pace so far."""
        done = max(1, self.counters.finished)
        pace = self.counters.busy_s / done if self.counters.finished else 1.0
        return min(60.0, max(1.0, round(pace * len(self._waiting), 1)))

    # ---- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._closing and not self._waiting and not self.active:
                    self._wake.wait()
                if self._closing:
                    self._fail_all(
                        ServingProblem(
                            503, "The model was unloaded.", code="unavailable", kind="server_error"
                        )
                    )
                    return
            try:
                self._drop_cancelled()
                self._admit()
                if self.active:
                    with self._turn.turn():
                        self._step()
            except Exception:
                # The traceback has shapes and names, never a prompt's text.
                logger.exception("A step of the engine failed")
                self._fail_all(failed("The engine failed on this batch; try again."))

    def _fail_all(self, problem: ServingProblem) -> None:
        with self._wake:
            gone = [*self._decoding, *self._filling, *self._waiting]
            self._decoding, self._filling = [], []
            self._waiting.clear()
            self._held = [[] for _ in range(self._runner.slots)]
        for slot in range(self._runner.slots):
            with contextlib.suppress(Exception):
                self._runner.clear(slot)
        for sequence in gone:
            sequence.done = True
            sequence.sink.put(Piece(sequence.index, problem=problem))

    def _drop_cancelled(self) -> None:
        with self._wake:
            left = [s for s in self._waiting if s.cancelled]
            for sequence in left:
                self._waiting.remove(sequence)
        for sequence in [s for s in [*self._decoding, *self._filling] if s.cancelled]:
            self._leave(sequence)
            left.append(sequence)
        for sequence in left:
            sequence.done = True
            self.counters.cancelled += 1
            sequence.sink.put(Piece(sequence.index, finish="cancelled"))

    def _admit(self) -> None:
        """Give waiting sequences slots, first come first served."""
        while self.active < self._runner.slots:
            with self._wake:
                if not self._waiting:
                    return
                sequence = self._waiting[0]
            slot = self.active
            if self._runner.shares_prefix and not sequence.score_prompt:
                # Another prompt with this beginning is being computed: wait for it instead of doing it twice.
                reach = max((_common(sequence.prompt, s.prompt) for s in self._filling), default=0)
                source, length = self._best_prefix(sequence.prompt)
                if reach >= max(MIN_SHARED_PREFIX, 2 * length):
                    return
                if length >= MIN_SHARED_PREFIX:
                    if source != slot:
                        self._runner.copy_prefix(source, slot, length)
                    sequence.fed = sequence.shared = length
                    self.counters.shared_tokens += length
            with self._wake:
                self._waiting.popleft()
                sequence.slot = slot
                self._filling.append(sequence)
            self._held[slot] = list(sequence.prompt[: sequence.fed])
            sequence.queue_s = time.perf_counter() - sequence.arrived
            sequence.chooser = self._sampler.chooser(
                sequence.sampling, last_token=sequence.prompt[-1], grammar=sequence.grammar
            )

    def _best_prefix(self, prompt: Sequence[int]) -> tuple[int, int]:
        """(slot, tokens) of the longest beginning of the prompt in the cache; its last token is always fed."""
        best = (0, 0)
        for slot, held in enumerate(self._held):
            length = min(_common(prompt, held), len(prompt) - 1)
            if length > best[1]:
                best = (slot, length)
        return best

    def _segments(self) -> list[tuple[Job, Segment]]:
        budget = self._prefill_tokens if not self._decoding else max(64, self._prefill_tokens // 2)
        found: list[tuple[Job, Segment]] = []
        for sequence in self._filling:
            if budget <= 0:
                break
            tokens = sequence.prompt[sequence.fed : sequence.fed + budget]
            budget -= len(tokens)
            found.append(
                (sequence, Segment(sequence.slot, sequence.fed, tokens, every=sequence.score_prompt))
            )
        return found

    def _step(self) -> None:
        began = time.perf_counter()
        decoding = list(self._decoding)
        decodes = [Decode(s.out[-1], len(s.prompt) + len(s.out) - 1) for s in decoding]
        chosen = self._segments()
        logits, hidden = self._runner.step(decodes, [segment for _, segment in chosen])
        for sequence, decode in zip(decoding, decodes, strict=True):
            self._held[sequence.slot].append(decode.token)
        picked: list[tuple[Job, Scored | None]] = []
        if logits is not None:
            choosers = [s.chooser for s in decoding if s.chooser is not None]
            picked.extend(zip(decoding, self._sampler.choose(logits, choosers), strict=True))
        first_rows = []
        ready: list[Job] = []
        for (sequence, segment), rows in zip(chosen, hidden, strict=True):
            self._held[sequence.slot].extend(segment.tokens)
            sequence.fed += len(segment.tokens)
            if segment.every:
                self._score_prompt(sequence, segment, rows)
            if sequence.fed == len(sequence.prompt):
                ready.append(sequence)
                first_rows.append(rows[-1:])
        generating = [(s, rows) for s, rows in zip(ready, first_rows, strict=True) if s.max_tokens > 0]
        if generating:
            import torch

            found = self._runner.head(torch.cat([rows for _, rows in generating]))
            choosers = [s.chooser for s, _ in generating if s.chooser is not None]
            picked.extend(zip([s for s, _ in generating], self._sampler.choose(found, choosers), strict=True))
        for sequence in ready:
            self._promote(sequence)
        elapsed = time.perf_counter() - began
        work = len(decodes) + sum(len(segment.tokens) for _, segment in chosen)
        for sequence in decoding:
            sequence.compute_s += elapsed / work
        for sequence, segment in chosen:
            sequence.compute_s += elapsed * len(segment.tokens) / work
        counters = self.counters
        counters.steps += 1
        counters.decoded_tokens += len(decodes)
        counters.prefilled_tokens += work - len(decodes)
        counters.busy_s += elapsed
        for sequence in ready:
            if sequence.max_tokens == 0:
                self._finish(sequence, "length", Piece(sequence.index, prompt=tuple(sequence.prompt_scores)))
        for sequence, scored in picked:
            self._take(sequence, scored)

    def _score_prompt(self, sequence: Job, segment: Segment, rows: Any) -> None:
        """Log-probabilities of the prompt's tokens that follow the segment's positions."""
        following = sequence.prompt[segment.start + 1 : segment.start + len(segment.tokens) + 1]
        for start in range(0, len(following), LOGIT_ROWS):
            part = following[start : start + LOGIT_ROWS]
            logits = self._runner.head(rows[start : start + len(part)])
            sequence.prompt_scores.extend(self._sampler.score(logits, part, sequence.sampling.logprobs or 0))

    def _promote(self, sequence: Job) -> None:
        """Move a sequence whose prompt is computed to the end of the decoding slots."""
        target = len(self._decoding)
        other = self._filling[0]
        if other is not sequence:
            at = self._filling.index(sequence)
            self._swap(sequence.slot, target)
            other.slot, sequence.slot = sequence.slot, target
            self._filling[at] = other
        with self._wake:
            self._filling.pop(0)
            self._decoding.append(sequence)

    def _leave(self, sequence: Job) -> None:
        """Free a slot and close the gap; what the slot held stays for prompts that begin the same way."""
        group = self._decoding if sequence in self._decoding else self._filling
        at = group.index(sequence)
        with self._wake:
            last = group[-1]
            if last is not sequence:
                self._swap(sequence.slot, last.slot)
                sequence.slot, last.slot = last.slot, sequence.slot
                group[at] = last
            group.pop()
            if group is self._decoding and self._filling:
                # The gap is now before the prompts that are still computed: the last of them fills it.
                mover = self._filling.pop()
                self._swap(sequence.slot, mover.slot)
                sequence.slot, mover.slot = mover.slot, sequence.slot
                self._filling.insert(0, mover)
        sequence.slot = -1

    def _swap(self, a: int, b: int) -> None:
        self._runner.swap(a, b, max(len(self._held[a]), len(self._held[b])))
        self._held[a], self._held[b] = self._held[b], self._held[a]

    # ---- tokens become text --------------------------------------------------------------------------------------

    def _take(self, sequence: Job, scored: Scored | None) -> None:
        """Deliver one chosen token, and let the sequence leave when it is finished."""
        prompt = tuple(sequence.prompt_scores) if not sequence.out else ()
        if scored is None:
            slot = sequence.slot
            self._held[slot] = []
            self._runner.clear(slot)
            problem = failed(
                "The model produced numbers that are not finite; this model version is broken.",
                code="model_not_finite",
            )
            self._finish(sequence, "error", Piece(sequence.index, problem=problem))
            return
        token = scored.token
        sequence.out.append(token)
        tokens = (scored,)
        if token in self._ends:
            # An end token belongs to the log-probabilities but has no text.
            self._finish(sequence, "stop", Piece(sequence.index, tokens=tokens, prompt=prompt), flush=True)
            return
        text = sequence.stops.push(sequence.detokeniser.push(token))
        complete = sequence.grammar.accept(token) if sequence.grammar is not None else False
        if sequence.stops.stopped:
            self._finish(sequence, "stop", Piece(sequence.index, text, tokens, prompt))
        elif complete:
            self._finish(sequence, "stop", Piece(sequence.index, text, tokens, prompt), flush=True)
        elif len(sequence.out) >= sequence.max_tokens:
            self._finish(sequence, "length", Piece(sequence.index, text, tokens, prompt), flush=True)
        else:
            sequence.sink.put(Piece(sequence.index, text, tokens, prompt))

    def _finish(self, sequence: Job, finish: str, piece: Piece, *, flush: bool = False) -> None:
        text = piece.text
        if flush:
            text += sequence.stops.push(sequence.detokeniser.finish())
            if sequence.stops.stopped:
                finish = "stop"
            else:
                text += sequence.stops.finish()
        self._leave(sequence)
        sequence.done = True
        self.counters.finished += 1
        sequence.sink.put(
            Piece(sequence.index, text, piece.tokens, piece.prompt, finish=finish, problem=piece.problem)
        )


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    shorter = min(len(a), len(b))
    return next((at for at in range(shorter) if a[at] != b[at]), shorter)


def make_job(
    *,
    index: int,
    prompt: Sequence[int],
    sampling: Sampling,
    max_tokens: int,
    stops: Sequence[str],
    decode: Callable[[Sequence[int]], str],
    sink: queue.SimpleQueue[Piece],
    grammar: Grammar | None = None,
    score_prompt: bool = False,
) -> Job:
    """A job ready to be submitted. ``max_tokens`` 0 only scores the prompt."""
    return Job(
        index=index,
        prompt=list(prompt),
        sampling=sampling,
        max_tokens=max_tokens,
        detokeniser=Detokeniser(decode, prompt),
        stops=StopFilter(stops),
        sink=sink,
        grammar=grammar,
        score_prompt=score_prompt,
    )
