"""A causal language model on this machine: PyTorch and transformers, offline, safetensors only.

How scoring is made fast without changing a number is told in docs/design/engines.md: each context is computed
once for all its continuations, rows are sorted by length, and the vocabulary projection (a fifth of the cost
here) is done only where a continuation token is judged.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inference.engines import runtime
from inference.engines.base import (
    Capabilities,
    ChatMessage,
    EngineIdentity,
    EngineOptions,
    GenerateRequest,
    Generation,
    LogLikelihood,
    LogLikelihoodRequest,
    StreamChunk,
)
from inference.engines.errors import BadRequest, EngineNotAble, EngineUnavailable

# Rows of logits held at once: 256 rows of 49,152 fp32 values are 50 MB.
LOGIT_ROWS = 256
# Longest context used when the model's configuration does not say.
FALLBACK_CONTEXT = 2048
# Tokens common to all prompts of a batch from which computing them once pays.
MIN_SHARED_PREFIX = 16


@dataclass(slots=True)
class _Target:
    """One continuation inside a row: its tokens, and which request it answers."""

    request: int
    tokens: list[int]
    tokens_in: int
    truncated: int


@dataclass(slots=True)
class _Row:
    """One sequence of a forward pass: a context and the continuations that share it."""

    context: list[int]
    targets: list[_Target] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.context) + sum(len(target.tokens) - 1 for target in self.targets)


@dataclass(slots=True)
class _Decoding:
    """State of one request while its batch is decoded."""

    index: int
    request: GenerateRequest
    prompt: list[int]
    truncated: int
    generator: Any = None
    out: list[int] = field(default_factory=list)
    text: str = ""
    finish: str = ""
    finite: bool = True
    first_token_s: float = 0.0
    total_s: float = 0.0


class TorchEngine:
    """One loaded model. ``directory`` holds config.json, safetensors and tokenizer (see
    inference.model_store)."""

    def __init__(
        self, directory: Path, identity: EngineIdentity, options: EngineOptions | None = None
    ) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        runtime.quiet_transformers()
        started = time.perf_counter()
        self._torch = torch
        self._lock = threading.RLock()
        self.options = options = options or EngineOptions()
        if options.threads > 0:
            torch.set_num_threads(options.threads)
        self._device = options.device
        if self._device == "auto":
            self._device = "cuda" if torch.cuda.is_available() else "cpu"
        if self._device == "cuda" and not torch.cuda.is_available():
            raise EngineUnavailable("The engine is configured for CUDA, but torch sees no CUDA device here.")
        # 512 keeps the activations of a pass in the CPU's last-level cache: measured 20-40% faster than
        # 2,048.
        self.batch_tokens = options.batch_tokens or (512 if self._device == "cpu" else 16_384)
        path = str(directory)
        offline: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            config = AutoConfig.from_pretrained(path, **offline)
            self._calibration = self._choose_dtype(config)
            self._dtype = getattr(torch, self._calibration["dtype"])
            model: Any = AutoModelForCausalLM.from_pretrained(
                path, dtype=self._dtype, use_safetensors=True, attn_implementation="sdpa", **offline
            )
            self._tokenizer: Any = AutoTokenizer.from_pretrained(path, **offline)
        except EngineUnavailable:
            raise
        except Exception as error:
            raise EngineUnavailable(f"The model {identity.name} could not be loaded: {error}") from error
        self._model = model.eval().to(self._device)
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)
        self._base = self._model.base_model
        self._head = self._model.get_output_embeddings()
        self._vocab = int(self._head.weight.shape[0]) if self._head is not None else 0
        self._max_context = self._context_window(config, options)
        self._prefix = self._special_prefix()
        self._eos = self._end_tokens()
        self.identity = identity
        self.load_s = time.perf_counter() - started
        self._fast_head, self._share = self._self_check()

    # ---- facts ---------------------------------------------------------------------------------------------

    def capabilities(self) -> Capabilities:
        return Capabilities(
            generate=True,
            loglikelihood=True,
            embed=True,
            stream=True,
            chat=bool(getattr(self._tokenizer, "chat_template", None)),
        )

    def environment(self) -> dict[str, Any]:
        """What may change a result or a timing. Compare two releases only with equal ``dtype`` and
        ``device``."""
        import transformers

        return {
            "engine": "torch",
            "device": self._device,
            "dtype": str(self._dtype).removeprefix("torch."),
            "dtype_requested": self.options.dtype,
            "calibration": self._calibration,
            "threads": self._torch.get_num_threads(),
            "torch": self._torch.__version__,
            "transformers": transformers.__version__,
            "max_context": self._max_context,
            "batch_tokens": self.batch_tokens,
            "generate_batch": self.options.generate_batch,
            "prefix_sharing": self._share,
            "continuation_logits_only": self._fast_head,
            **runtime.cpu_facts(),
        }

    def close(self) -> None:
        with self._lock:
            self._model = self._base = self._head = None

    def _choose_dtype(self, config: Any) -> dict[str, Any]:
        if self.options.dtype != "auto":
            return {"dtype": self.options.dtype}
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        hidden = int(getattr(text, "hidden_size", 0) or 576)
        intermediate = int(getattr(text, "intermediate_size", 0) or hidden * 4)
        return runtime.calibrate_dtype(
            hidden=min(hidden, 4096), intermediate=min(intermediate, 16384), device=self._device
        )

    @staticmethod
    def _context_window(config: Any, options: EngineOptions) -> int:
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        own = int(
            getattr(text, "max_position_embeddings", 0) or getattr(text, "n_positions", 0) or FALLBACK_CONTEXT
        )
        return min(own, options.max_context) if options.max_context > 0 else own

    def _special_prefix(self) -> list[int]:
        """Tokens the tokenizer itself puts before every text (often one BOS; none for SmolLM2)."""
        plain = self._encode_plain(["a"])[0]
        special = list(self._tokenizer("a")["input_ids"])
        for start in range(len(special)):
            if special[start : start + len(plain)] == plain:
                return special[:start]
        return []

    def _end_tokens(self) -> set[int]:
        ends: set[int] = set()
        for source in (getattr(self._model, "generation_config", None), self._model.config, self._tokenizer):
            value = getattr(source, "eos_token_id", None)
            if isinstance(value, int):
                ends.add(value)
            elif isinstance(value, list | tuple):
                ends.update(int(token) for token in value)
        return ends

    def _self_check(self) -> tuple[bool, bool]:
        """Do the two shortcuts give this architecture's own answers? Returns (continuation logits only,
        sharing).

        Architectures that scale or cap their logits, or that build attention in their own way, would be wrong
        with them, silently. So they are tried on a few tokens, and switched off when they differ from the
        plain model.
        """
        torch = self._torch
        low = 0.08 if self._dtype != torch.float32 else 1e-3
        size = min(self._vocab or 100, 1000)
        ids = [(7 * i + 3) % size for i in range(9)]
        with torch.inference_mode():
            try:
                tensor = torch.tensor([ids[:6]], device=self._device)
                plain = self._model(input_ids=tensor, use_cache=False).logits[0].float()
                fast = self._head(self._base(input_ids=tensor, use_cache=False)[0][0]).float()
                scale = max(1.0, float(plain.abs().max()))
                fast_head = bool((plain - fast).abs().max() <= low * scale)
            except Exception:  # any shape or signature surprise means: take the plain way
                fast_head = False
            if not self.options.share_prefix:
                return fast_head, False
            try:
                alone = [
                    _Row(ids[:4], [_Target(0, ids[4:7], 7, 0)]),
                    _Row(ids[:4], [_Target(1, ids[6:9], 7, 0)]),
                ]
                together = [
                    _Row(ids[:4], [_Target(0, ids[4:7], 7, 0), _Target(1, ids[6:9], 7, 0)]),
                ]
                expected = self._score_rows(alone, fast_head=fast_head)
                shared = self._score_rows(together, fast_head=fast_head)
                same = all(
                    a is not None and b is not None and abs(a - b) <= low * max(1.0, abs(a))
                    for (a, _), (b, _) in ((expected[i], shared[i]) for i in (0, 1))
                )
            except Exception:
                same = False
        return fast_head, same

    # ---- text and tokens -----------------------------------------------------------------------------------

    def _encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded = self._tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
        )
        return [list(ids) for ids in encoded["input_ids"]]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text without special tokens."""
        return [len(ids) for ids in self._encode_plain(texts)]

    def apply_chat_template(self, messages: Sequence[ChatMessage]) -> str:
        """The prompt text of a conversation, ending where the assistant's answer starts."""
        if not self.capabilities().chat:
            raise EngineNotAble(f"The model {self.identity.name} has no chat template; send a plain prompt.")
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # templates raise for roles or orders they do not know
            raise BadRequest(f"The model's chat template refuses this conversation: {error}") from error
        return str(text)

    def _with_prefix(self, ids: list[int]) -> list[int]:
        """Add the tokenizer's own leading tokens, unless the text (a chat template, say) already starts
        so."""
        if self._prefix and ids[: len(self._prefix)] != self._prefix:
            return self._prefix + ids
        return ids

    def _first_token(self) -> int:
        """What stands before a text that has no context: BOS, else EOS, as lm-evaluation-harness does."""
        for name in ("bos_token_id", "eos_token_id"):
            value = getattr(self._tokenizer, name, None)
            if isinstance(value, int):
                return value
        return next(iter(self._eos), 0)

    # ---- log-likelihood ------------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[LogLikelihoodRequest]) -> list[LogLikelihood]:
        """Log-likelihood of each continuation after its context, in the order of the requests."""
        rows = self._rows(requests)
        results: list[LogLikelihood | None] = [None] * len(requests)
        rows.sort(key=len, reverse=True)
        with self._lock, self._torch.inference_mode():
            for batch in self._batches(rows):
                started = time.perf_counter()
                scored = self._score_rows(batch, fast_head=self._fast_head)
                elapsed = time.perf_counter() - started
                work = sum(len(row) for row in batch)
                for row in batch:
                    context_share = len(row.context) / len(row.targets)
                    for target in row.targets:
                        total, greedy = scored[target.request]
                        share = (context_share + len(target.tokens) - 1) / work
                        results[target.request] = LogLikelihood(
                            sum_logprob=total,
                            n_tokens=len(target.tokens),
                            is_greedy=greedy,
                            tokens_in=target.tokens_in,
                            truncated_tokens=target.truncated,
                            compute_s=elapsed * share,
                        )
        assert all(result is not None for result in results)
        return [result for result in results if result is not None]

    def _rows(self, requests: Sequence[LogLikelihoodRequest]) -> list[_Row]:
        """Tokenise, cut from the left to the context window, and group by equal context."""
        contexts: list[str] = []
        wholes: list[str] = []
        for request in requests:
            context, continuation = request.context, request.continuation
            # Trailing spaces belong to the next token, so they move over: "Answer: " + "a" is "Answer:" + "
            # a".
            spaces = len(context) - len(context.rstrip())
            if spaces:
                continuation = context[-spaces:] + continuation
                context = context[:-spaces]
            contexts.append(context)
            wholes.append(context + continuation)
        unique = list(dict.fromkeys(contexts))
        context_ids = dict(zip(unique, self._encode_plain(unique), strict=True))
        whole_ids = self._encode_plain(wholes)
        limit = self._max_context + 1  # the last continuation token is judged, never fed
        groups: dict[tuple[int, ...], _Row] = {}
        rows: list[_Row] = []
        for index, (context, whole) in enumerate(zip(contexts, whole_ids, strict=True)):
            before = context_ids[context]
            after = whole[len(before) :] or whole[-1:]
            if not after:
                raise BadRequest("A continuation has no token in this model's vocabulary.")
            before = self._with_prefix(before) if before else (self._prefix or [self._first_token()])
            tokens_in = len(before) + len(after)
            cut = max(0, tokens_in - limit)
            truncated = cut
            if cut:
                dropped = min(cut, len(before) - 1)
                before = before[dropped:]
                if cut > dropped:  # the continuation alone is too long: its own head becomes context
                    after = after[cut - dropped :]
                    if len(after) > self._max_context:
                        after = after[-self._max_context :]
            target = _Target(index, after, tokens_in, truncated)
            key = tuple(before) if self._may_share() else (*before, -1 - index)
            row = groups.get(key)
            if row is None or len(row) + len(after) - 1 > max(self.batch_tokens, len(before)):
                row = groups[key] = _Row(before)  # a full row stays in the list; the key points at the newest
                rows.append(row)
            row.targets.append(target)
        return rows

    def _may_share(self) -> bool:
        return self._share and self.options.share_prefix

    def _batches(self, rows: list[_Row]) -> Iterator[list[_Row]]:
        """Consecutive rows (sorted longest first) whose padded size stays within ``batch_tokens``."""
        batch: list[_Row] = []
        for row in rows:
            if batch and (len(batch) + 1) * len(batch[0]) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _score_rows(self, rows: list[_Row], *, fast_head: bool) -> dict[int, tuple[float | None, bool]]:
        """One forward pass. Returns per request (sum of log-probabilities or None, all tokens greedy).

        Rows are padded on the right: a causal model never looks there, so no mask is needed. A row whose
        context is shared gets a mask in which each continuation sees the context and itself, at the positions
        it would have alone.
        """
        torch = self._torch
        width = max(len(row) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        where: list[tuple[int, int]] = []  # (row, column) of hidden states to project
        asked: list[tuple[int, int, int]] = []  # (index into where, token, request)
        shared = any(len(row.targets) > 1 for row in rows)
        extra: dict[str, Any] = {}
        if shared:
            positions = torch.zeros(len(rows), width, dtype=torch.long)
            allowed = torch.zeros(len(rows), 1, width, width, dtype=torch.bool)
            causal = torch.ones(width, width, dtype=torch.bool).tril()
        for r, row in enumerate(rows):
            size = len(row.context)
            ids[r, :size] = torch.tensor(row.context)
            if shared:
                positions[r, :size] = torch.arange(size)
                allowed[r, 0, :size, :size] = causal[:size, :size]
            where.append((r, size - 1))
            first = len(where) - 1
            column = size
            for target in row.targets:
                fed = target.tokens[:-1]
                end = column + len(fed)
                if fed:
                    ids[r, column:end] = torch.tensor(fed)
                    if shared:
                        positions[r, column:end] = torch.arange(size, size + len(fed))
                        allowed[r, 0, column:end, :size] = True
                        allowed[r, 0, column:end, column:end] = causal[: len(fed), : len(fed)]
                asked.append((first, target.tokens[0], target.request))
                for offset, token in enumerate(target.tokens[1:]):
                    where.append((r, column + offset))
                    asked.append((len(where) - 1, token, target.request))
                column = end
            if shared:  # padding sees itself, since a row that sees nothing would be NaN
                rest = torch.arange(column, width)
                allowed[r, 0, rest, rest] = True
        if shared:
            lowest = torch.finfo(self._dtype).min
            mask = torch.zeros(allowed.shape, dtype=self._dtype).masked_fill_(~allowed, lowest)
            extra = {
                "attention_mask": mask.to(self._device),
                "position_ids": positions.to(self._device),
            }
        ids = ids.to(self._device)
        row_index = torch.tensor([r for r, _ in where], device=self._device)
        column_index = torch.tensor([c for _, c in where], device=self._device)
        if fast_head:
            hidden = self._base(input_ids=ids, use_cache=False, **extra)[0][row_index, column_index]
        else:
            hidden = self._model(input_ids=ids, use_cache=False, **extra).logits[row_index, column_index]
        state_index = torch.tensor([i for i, _, _ in asked], device=self._device)
        tokens = torch.tensor([t for _, t, _ in asked], device=self._device)
        # A token id beyond the vocabulary (a tokenizer larger than its model) has no probability.
        known = tokens < (self._vocab or hidden.shape[-1])
        safe = torch.where(known, tokens, torch.zeros_like(tokens))
        values = torch.empty(len(asked), dtype=torch.float64)
        greedy = torch.empty(len(asked), dtype=torch.bool)
        for start in range(0, len(where), LOGIT_ROWS):
            part = hidden[start : start + LOGIT_ROWS]
            logits = (self._head(part) if fast_head else part).float()
            normaliser = torch.logsumexp(logits, dim=-1)
            best = logits.argmax(dim=-1)
            mine = ((state_index >= start) & (state_index < start + LOGIT_ROWS)).nonzero().flatten()
            local = state_index[mine] - start
            chosen = logits[local, safe[mine]] - normaliser[local]
            values[mine.cpu()] = torch.where(known[mine], chosen, torch.nan).double().cpu()
            greedy[mine.cpu()] = (best[local] == tokens[mine]).cpu()
        out: dict[int, tuple[float | None, bool]] = {}
        sums: dict[int, float] = {}
        all_greedy: dict[int, bool] = {}
        for (_, _, request), value, is_best in zip(asked, values.tolist(), greedy.tolist(), strict=True):
            sums[request] = sums.get(request, 0.0) + value
            all_greedy[request] = all_greedy.get(request, True) and is_best
        for request, total in sums.items():
            finite = bool(np.isfinite(total))
            out[request] = (total if finite else None, all_greedy[request] and finite)
        return out

    # ---- generation ----------------------------------------------------------------------------------------

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """Answer each request; requests of similar length are decoded together, at most ``generate_batch`` at
        once."""
        arrived = time.perf_counter()
        states = self._prepare(requests)
        results: list[Generation | None] = [None] * len(requests)
        states.sort(key=lambda state: len(state.prompt))
        with self._lock:
            for batch in self._decode_batches(states):
                began = time.perf_counter()
                for _ in self._decode(batch, began):
                    pass
                elapsed = time.perf_counter() - began
                work = sum(len(state.prompt) + len(state.out) for state in batch)
                for state in batch:
                    share = (len(state.prompt) + len(state.out)) / work
                    results[state.index] = self._finished(
                        state, queue_s=began - arrived, compute_s=elapsed * share
                    )
        assert all(result is not None for result in results)
        return [result for result in results if result is not None]

    def _decode_batches(self, states: list[_Decoding]) -> Iterator[list[_Decoding]]:
        """Consecutive states (sorted shortest first): at most ``generate_batch``, fewer when prompts are
        long."""
        most_tokens = 4 * self.batch_tokens
        batch: list[_Decoding] = []
        for state in states:
            full = len(batch) >= self.options.generate_batch
            if batch and (full or (len(batch) + 1) * len(state.prompt) > most_tokens):
                yield batch
                batch = []
            batch.append(state)
        if batch:
            yield batch

    def stream(self, request: GenerateRequest) -> Iterator[StreamChunk]:
        """Text as it appears. Half characters and the beginning of a stop string are held back until
        decided."""
        arrived = time.perf_counter()
        (state,) = self._prepare([request])
        sent = 0
        hold = max((len(text) for text in request.stop), default=1) - 1
        with self._lock:
            began = time.perf_counter()
            for _ in self._decode([state], began, incremental=True):
                ready = len(state.text) if state.finish else len(state.text.rstrip("\ufffd")) - hold
                if ready > sent:
                    yield StreamChunk(state.text[sent:ready])
                    sent = ready
            elapsed = time.perf_counter() - began
        yield StreamChunk("", self._finished(state, queue_s=began - arrived, compute_s=elapsed))

    def _prepare(self, requests: Sequence[GenerateRequest]) -> list[_Decoding]:
        texts = [self.apply_chat_template(r.messages) if r.messages else r.prompt for r in requests]
        states: list[_Decoding] = []
        for index, (request, ids) in enumerate(zip(requests, self._encode_plain(texts), strict=True)):
            room = self._max_context - request.max_tokens
            if room < 1:
                raise BadRequest(
                    f"max_tokens is {request.max_tokens}, but the context has {self._max_context} tokens. "
                    f"Ask for at most {self._max_context - 1}."
                )
            ids = self._with_prefix(ids) or [self._first_token()]
            cut = max(0, len(ids) - room)
            states.append(_Decoding(index=index, request=request, prompt=ids[cut:], truncated=cut))
        return states

    def _finished(self, state: _Decoding, *, queue_s: float, compute_s: float) -> Generation:
        finish: Any = state.finish or "length"
        return Generation(
            text=state.text,
            finish_reason=finish,
            tokens_in=len(state.prompt),
            tokens_out=len(state.out),
            queue_ms=queue_s * 1000,
            first_token_ms=state.first_token_s * 1000,
            total_ms=state.total_s * 1000,
            compute_s=compute_s,
            truncated_tokens=state.truncated,
            finite=state.finite,
        )

    def _decode(self, states: list[_Decoding], began: float, *, incremental: bool = False) -> Iterator[None]:
        """Decode a batch to its end; yields after every step. Prompts are padded on the left; finished rows
        leave."""
        torch = self._torch
        from transformers import DynamicCache

        active = list(states)
        for state in active:
            if state.request.temperature > 0:
                state.generator = torch.Generator().manual_seed(state.request.seed)
        # A long beginning common to all prompts (few-shot examples, a chat system turn) is computed once.
        shared = _common_prefix([state.prompt for state in active]) if self._may_share() else 0
        if shared < MIN_SHARED_PREFIX or len(active) == 1:
            shared = 0
        width = max(len(state.prompt) for state in active) - shared
        ids = torch.full((len(active), width), min(self._eos, default=0), dtype=torch.long)
        own = torch.zeros(len(active), width, dtype=torch.long)
        for r, state in enumerate(active):
            rest = state.prompt[shared:]
            ids[r, width - len(rest) :] = torch.tensor(rest)
            own[r, width - len(rest) :] = 1
        padded = bool((own == 0).any())
        cache: Any = DynamicCache(config=self._model.config)
        if shared:
            prefix = torch.tensor([active[0].prompt[:shared]], device=self._device)
            with torch.inference_mode():
                self._base(input_ids=prefix, past_key_values=cache, use_cache=True)
                cache.batch_repeat_interleave(len(active))
        mask = torch.cat([own.new_ones(len(active), shared), own], dim=1)
        positions = (own.cumsum(1) - 1).clamp(min=0) + shared
        ids, mask, positions = (tensor.to(self._device) for tensor in (ids, mask, positions))
        while active:
            with torch.inference_mode():
                kwargs: dict[str, Any] = {"attention_mask": mask} if padded else {}
                inputs = {
                    "input_ids": ids,
                    "position_ids": positions,
                    "past_key_values": cache,
                    "use_cache": True,
                }
                if self._fast_head:
                    hidden = self._base(**inputs, **kwargs)[0]
                    logits = self._head(hidden[:, -1]).float().cpu()
                else:
                    logits = self._model(**inputs, **kwargs).logits[:, -1].float().cpu()
            keep: list[int] = []
            tokens: list[int] = []
            now = time.perf_counter() - began
            for r, state in enumerate(active):
                token = self._pick(logits[r], state)
                if not state.out and not state.first_token_s:
                    state.first_token_s = now
                state.total_s = now
                if token is None:
                    state.finish, state.finite = "error", False
                elif token in self._eos:
                    state.finish = "stop"
                else:
                    state.out.append(token)
                    if incremental or state.request.stop:
                        self._read_text(state)
                    if not state.finish and len(state.out) >= state.request.max_tokens:
                        state.finish = "length"
                if not state.finish:
                    keep.append(r)
                    tokens.append(int(token or 0))
                elif not (state.request.stop and state.finish == "stop" and state.text):
                    self._read_text(state)
            yield
            if len(keep) < len(active):
                if not keep:
                    break
                chosen = torch.tensor(keep, device=self._device)
                cache.batch_select_indices(chosen)
                mask, positions = mask[chosen], positions[chosen]
                active = [active[r] for r in keep]
            ids = torch.tensor(tokens, device=self._device).unsqueeze(1)
            mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
            positions = positions[:, -1:] + 1

    def _pick(self, logits: Any, state: _Decoding) -> int | None:
        """The next token of one row, or None when the model gave NaN or infinity (minus infinity is
        allowed)."""
        torch = self._torch
        request = state.request
        if bool(torch.isnan(logits).any()) or bool(torch.isposinf(logits).any()):
            return None
        if request.temperature == 0:
            return int(logits.argmax())
        chances = torch.softmax(logits.double() / request.temperature, dim=-1)
        if not bool(torch.isfinite(chances).all()):
            return None
        if request.top_p < 1.0:
            ordered, order = chances.sort(descending=True)
            beyond = ordered.cumsum(0) - ordered >= request.top_p
            ordered[beyond] = 0.0
            return int(order[torch.multinomial(ordered, 1, generator=state.generator)])
        return int(torch.multinomial(chances, 1, generator=state.generator))

    def _read_text(self, state: _Decoding) -> None:
        """Text so far; the first stop string in it ends the answer before that string."""
        text = self._tokenizer.decode(state.out, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        found = [at for at in (text.find(stop) for stop in state.request.stop) if at >= 0]
        if found:
            text = text[: min(found)]
            state.finish = "stop"
        state.text = text

    # ---- embeddings ----------------------------------------------------------------------------------------

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """By the process's one MiniLM, whatever model this engine runs: vectors of all releases are
        comparable."""
        from inference.engines.embeddings import shared_embedder

        return shared_embedder().embed(texts)


def _common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Length of the longest common beginning that leaves every prompt at least one token of its own."""
    limit = min(len(prompt) for prompt in prompts) - 1
    first = prompts[0]
    for position in range(limit):
        if any(prompt[position] != first[position] for prompt in prompts):
            return position
    return max(limit, 0)
