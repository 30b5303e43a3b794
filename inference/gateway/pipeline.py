"""One request from the parsed call to the bytes that leave, in the gateway's order:

route → policy → redact and guard → reserve (the ledger row exists from here) → canary, cache → engine → redact and
guard → settle → bytes. Whatever happens after the reservation, exactly one settlement follows; an answer leaves
after it, a stream's last event too, and a stream's first event leaves after the row was written.

Redaction comes before the reservation, because it may lengthen a prompt and the bound must hold for what the engine
is sent (docs/decisions/redact-before-reserving.md).
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, cast

import orjson
import psycopg

from inference.caches.plan import CachePlan, cache_plan
from inference.caches.replay import replay_chunks
from inference.gateway import background, knobs, telemetry
from inference.gateway.contract import (
    ENGINE_PATHS,
    Call,
    Caller,
    GatewayProblem,
    RouteName,
    RouteTarget,
    Usage,
    policy_attributes,
)
from inference.gateway.protocol.answers import (
    DONE,
    dumps,
    event,
    output_text,
    problem_event,
    usage_document,
    usage_read,
)
from inference.gateway.protocol.requests import call_parse, engine_body, release_applied, tokens_in_bound
from inference.gateway.release_config import GatewayConfig
from inference.gateway.routing import target_choose
from inference.gateway.tokens import readable, tokens_in_exact
from inference.guards.errors import UnknownProfile
from inference.guards.filtering import RequestFilter
from inference.guards.selectors import guard_set
from inference.guards.texts import has_token_prompts
from inference.ledger.errors import LedgerUnavailable, Refused
from inference.ledger.lanes import Admission, NewEntry, Settlement, lane
from inference.ledger.prices import bound_nano, cost_nano, price_of
from inference.ledger.sealing import Payload, salted_digest
from inference.policies.engine import PolicyDecision, decide
from inference.upstreams.client import Stream
from inference.upstreams.errors import UpstreamBusy, UpstreamError, UpstreamRejected
from inference.upstreams.routing import Upstreams
from tenants.quotas.accounting import Need, Scope
from tenants.quotas.scopes import end_user_digest, scopes_of

logger = logging.getLogger("signoff.gateway")

# Seconds a call may take, in all and for each output token it may ask for: what a price of compute is bounded with.
_BASE_S = 60.0
_PER_TOKEN_S = 1.0
_LONGEST_S = 900.0
_OBJECTS = {
    "chat.completions": "chat.completion",
    "responses": "chat.completion",
    "completions": "text_completion",
}


@dataclass(slots=True)
class Reply:
    """What goes back: a body, or a stream of server-sent events."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: Iterator[bytes] | None = None


@lru_cache(maxsize=1024)
def _gateway_config(release_digest: str, text: bytes) -> GatewayConfig:
    return GatewayConfig.from_dict(orjson.loads(text)) if text else GatewayConfig()


def gateway_config(target: RouteTarget) -> GatewayConfig:
    """The release's switches; parsed once per release."""
    given = target.config.get("gateway")
    return _gateway_config(target.release_digest, orjson.dumps(given) if given else b"")


class Exchange:
    """One request. Make it, call :meth:`run` once."""

    def __init__(self, call: Call, caller: Caller, *, began: float | None = None) -> None:
        self.call = call
        self.caller = caller
        self.began = time.perf_counter() if began is None else began
        self.lane = lane(caller.schema)
        self.settlement = Settlement()
        self.stages: list[list[Any]] = []
        self.upstream_s = 0.0
        self.settled = False
        self.out_bound = 0
        self.in_bound = 0
        self.sent = bytearray()
        self.keep_texts = False
        self.answered_bytes = 0
        self.prompt = b""
        self.plan: CachePlan | None = None
        self.filtered = False
        self.filter: RequestFilter
        self.asked_body = b""

    # ------------------------------------------------------------------ before the engine
    def run(self) -> Reply:
        """Serve the call. Raises GatewayProblem for every refusal and failure; the ledger has it by then."""
        call, caller = self.call, self.caller
        target = self.target = target_choose(call, caller)
        self.config = gateway_config(target)
        self.request_digest = knobs.request_digest(call.body) if self.config.receipts else ""
        if self.config.cache.semantic:
            self.asked_body = dumps(call.body)  # as the client sent it, should it have to be asked again
        release_applied(call, target)
        self._mark("route")
        self.attributes = policy_attributes(call, caller, target)
        decision = self.decision = decide(caller.schema, self.attributes)
        self._mark("policy")
        entry = self._entry(decision)
        if not decision.allowed:
            self._record_refusal(entry, 403, "policy_denied")
            raise GatewayProblem(
                403,
                f"The policy {decision.version} denies this request. {decision.reason}",
                code="policy_denied",
                type="permission_error",
            )
        self._check_throttle(entry)
        self._filter_request(entry)
        self._reserve(entry)
        try:
            return self._serve()
        except GatewayProblem as problem:
            self._settle_failure("failed", problem)
            problem.headers.update(self._headers())
            raise
        except UpstreamError as error:
            told = upstream_problem(error)
            self._settle_failure("failed", told)
            told.headers.update(self._headers())
            raise told from error
        except BaseException:
            self._settle_failure("failed", _internal())
            raise

    def _entry(self, decision: PolicyDecision) -> NewEntry:
        call, caller, target = self.call, self.caller, self.target
        self.end_user = end_user_digest(caller.key_id, call.user)
        self.prompt = dumps(
            {name: call.body[name] for name in ("messages", "prompt", "input") if name in call.body}
        )
        return NewEntry(
            request_id=call.request_id,
            traceparent=call.traceparent,
            conversation=call.conversation,
            key_id=caller.key_id,
            end_user=self.end_user,
            product=target.product,
            team=caller.team,
            pilot=caller.pilot,
            release_id=target.release_id,
            release_version=target.release_version,
            release_digest=target.release_digest,
            model=call.model,
            channel=target.channel,
            route=call.route,
            stream=call.stream,
            policy_version=decision.version,
            policy_reason=decision.reason,
            bytes_in=call.body_bytes,
            prompt_digest=salted_digest(caller.schema, self.prompt),
            attributes=self.attributes,
        )

    def _record_refusal(self, entry: NewEntry, status: int, code: str) -> None:
        """One final row for a call that is refused before anything was reserved."""
        end = self.settlement
        end.status, end.http_status, end.error_code = "refused", status, code
        end.total_ms = end.overhead_ms = (time.perf_counter() - self.began) * 1000
        end.stages = self.stages
        self._note_filter()
        self._ledger(lambda: self.lane.record(entry, end))

    def _filter_request(self, entry: NewEntry) -> None:
        """Redact the call's texts and ask the guards. Raises GatewayProblem when it may not go on."""
        call = self.call
        try:
            self.guards = guard_set(self.caller.schema, self.decision.redact or self.config.guards)
        except UnknownProfile as error:
            # A release or policy that names a profile which is gone must not run without one.
            self._record_refusal(entry, 503, "guard_profile_missing")
            raise GatewayProblem(
                503,
                f"{error.message} The request was not served.",
                code="guard_profile_missing",
                type="server_error",
            ) from error
        self.filter = RequestFilter(self.guards)
        self.filtered = True
        body = call.body
        read = readable(self.target, call) if self.guards.acts_on_input and has_token_prompts(body) else body
        if read is None:
            self._record_refusal(entry, 400, "unreadable_prompt")
            raise GatewayProblem(
                400,
                "Token ids cannot be read by this tenant's redaction. Send the prompt as text.",
                code="unreadable_prompt",
                param="input" if call.route == "embeddings" else "prompt",
            )
        found = self.filter.filter_request(read)
        if found.blocked:
            self._record_refusal(entry, 400, "content_blocked")
            raise GatewayProblem(400, found.reason, code="content_blocked")
        # Token ids go on as they came, unless there was something in them to redact.
        call.body = body if read is not body and found.body == read else found.body
        self._mark("redact")

    def _check_throttle(self, entry: NewEntry) -> None:
        """Slow a key down that looks like it copies the model."""
        if not self.config.extraction:
            return
        throttle = knobs.extraction_wait_s(self.caller)
        if throttle is not None:
            self._record_refusal(entry, 429, "extraction_suspected")
            raise GatewayProblem(
                429,
                "This key's requests look like an attempt to copy the model and are slowed down. "
                "Ask an admin of the tenant.",
                code="extraction_suspected",
                type="rate_limit_error",
                retry_after_s=throttle,
            )

    def _reserve(self, entry: NewEntry) -> None:
        call, caller, target = self.call, self.caller, self.target
        price = self.price = self._ledger(lambda: price_of(target.model_version_id, schema=caller.schema))
        entry.price_id = price.id
        # Counted where the model's tokenizer is at hand; elsewhere bounded by the prompt's bytes, about four times
        # that.
        counted = tokens_in_exact(target, call)
        self.in_bound = tokens_in_bound(call) if counted is None else min(counted, tokens_in_bound(call))
        self.out_bound = 0 if call.route == "embeddings" else (call.max_tokens or 0) * call.n
        self.allowed_s = min(_LONGEST_S, _BASE_S + _PER_TOKEN_S * self.out_bound)
        scopes = scopes_of(
            key_id=caller.key_id,
            product=target.product,
            team=caller.team,
            pilot=caller.pilot,
            end_user=self.end_user,
        )
        self.admission = self._admit(entry, scopes)
        self._mark("reserve")

    def _admit(self, entry: NewEntry, scopes: Sequence[Scope]) -> Admission:
        compute_s = self.allowed_s if self.price.uses_compute else 0.0
        need = Need(
            tokens_in=self.in_bound,
            tokens_out=self.out_bound,
            cost_nano=bound_nano(self.price, self.in_bound, self.out_bound, compute_s=compute_s),
            model=self.target.label,
        )
        try:
            return self.lane.admit(entry, need, scopes)
        except Refused as refusal:
            headers = {name: value for name, value in refusal.headers.items() if name != "Retry-After"}
            kind = "insufficient_quota" if refusal.code == "insufficient_quota" else "rate_limit_error"
            raise GatewayProblem(
                refusal.status,
                refusal.message,
                code=refusal.code,
                type="permission_error" if refusal.status == 403 else kind,
                param="model" if refusal.status == 403 else None,
                retry_after_s=refusal.retry_after_s,
                headers=headers,
            ) from None
        except LedgerUnavailable as error:
            raise _unavailable(error) from error

    def _ledger(self, work: Any) -> Any:
        try:
            return work()
        except (LedgerUnavailable, psycopg.Error) as error:
            raise _unavailable(error) from error

    def _mark(self, name: str, since: float | None = None) -> None:
        now = (time.perf_counter() - self.began) * 1000
        start = (
            since if since is not None else (self.stages[-1][1] + self.stages[-1][2] if self.stages else 0.0)
        )
        self.stages.append([name, round(start, 3), round(now - start, 3)])

    # ------------------------------------------------------------------ serving
    def _serve(self) -> Reply:
        call, decision = self.call, self.decision
        self.keep_texts = decision.retain_days > 0
        planted = knobs.canary_answer(self.target, call) if self.config.canaries else None
        if planted is not None:
            return self._from_store(planted, "off")
        plan = self.plan = cache_plan(
            call,
            self.caller,
            self.target,
            config=self.config.cache,
            allowed=decision.cache,
            policy_version=decision.version,
            guard_version=f"{self.guards.name}:{self.guards.digest}"[:80],
        )
        if plan is not None:
            hit = plan.lookup()
            self._mark("cache")
            if hit is not None:
                reply = self._from_store(hit.answer, hit.kind)
                if plan.shadow_due():
                    background.run(self._ask_again)
                return reply
        body = engine_body(call)
        if self.config.watermark and call.route != "embeddings":
            body["watermark"] = knobs.watermark_parameters(self.caller.schema)
        pool = Upstreams.for_route(self.target)
        deadline = time.monotonic() + self.allowed_s
        asked = time.perf_counter()
        path = ENGINE_PATHS[call.route]
        if call.stream:
            try:
                stream = pool.stream(
                    path, body, tenant=self.caller.schema, traceparent=call.traceparent, deadline=deadline
                )
            finally:
                self.upstream_s += time.perf_counter() - asked
            self.settlement.upstream = stream.upstream
            self.settlement.queue_ms = stream.queue_ms
            self._mark("engine: first event")
            return Reply(200, self._headers(), stream=_Closing(self._stream(stream), stream))
        try:
            answer = pool.complete(
                path, body, tenant=self.caller.schema, traceparent=call.traceparent, deadline=deadline
            )
        finally:
            self.upstream_s += time.perf_counter() - asked
        self.settlement.upstream = answer.upstream
        self.settlement.queue_ms = answer.queue_ms
        self.settlement.first_token_ms = answer.first_byte_ms
        self._mark("engine")
        return self._answered(answer.body)

    def _answered(self, body: dict[str, Any]) -> Reply:
        """A whole answer of the engine: filter it, settle, send it."""
        call = self.call
        usage = usage_read(body, tokens_in_bound=self.in_bound, tokens_out_bound=self.out_bound)
        if usage is None:
            usage = self._estimate(_text_bytes(body))
        if call.route == "embeddings":
            document = self._embeddings_document(body, usage)
        else:
            document, _, _ = self.filter.filter_response(body)
            self._mark("filter answer")
            document = self._named(document, _OBJECTS[call.route], usage)
            self._remember(document)
        return self._deliver(document, usage, cache="off" if self.plan is None else "miss")

    def _embeddings_document(self, body: dict[str, Any], usage: Usage) -> dict[str, Any]:
        return {
            "object": "list",
            "data": body["data"],
            "model": self.target.label,
            "usage": usage_document(usage, self.call),
        }

    def _named(self, document: dict[str, Any], kind: str, usage: Usage) -> dict[str, Any]:
        prefix = "cmpl-" if kind == "text_completion" else "chatcmpl-"
        return {
            "id": f"{prefix}{secrets.token_hex(14)}",
            "object": kind,
            "created": int(time.time()),
            "model": self.target.label,
            "choices": document["choices"],
            "usage": usage_document(usage, self.call),
        }

    def _deliver(self, document: dict[str, Any], usage: Usage, *, cache: str, charge: bool = True) -> Reply:
        receipt = self._receipt(lambda: knobs.output_digest(document))
        body = dumps(document)
        self._settle("ok", 200, usage, cache=cache, output=body, charge=charge)
        headers = self._headers()
        if receipt:
            headers[knobs.RECEIPT_HEADER] = receipt
        return Reply(200, headers, body)

    def _receipt(self, digest: Callable[[], str]) -> str:
        """The signed receipt of an answer, "" where the release gives none."""
        if not self.config.receipts:
            return ""
        return knobs.receipt_sign(
            self.caller.schema,
            self.call,
            self.target,
            self.decision.version,
            str(self.admission.entry_id),
            self.request_digest,
            digest(),
        )

    # ------------------------------------------------------------------ streams
    def _stream(self, stream: Stream) -> Iterator[bytes]:
        """The engine's events, filtered, as bytes; settles before the last of them."""
        call = self.call
        kind = "text_completion" if call.route == "completions" else "chat.completion.chunk"
        prefix = "cmpl-" if call.route == "completions" else "chatcmpl-"
        head = {
            "id": f"{prefix}{secrets.token_hex(14)}",
            "object": kind,
            "created": int(time.time()),
            "model": self.target.label,
        }
        filters = self.filter.stream()
        gathered = knobs.StreamedOutput() if self.config.receipts or self.plan is not None else None
        usage: Usage | None = None
        pieces = 0
        first = True
        status, problem = "ok", None
        try:
            waiting = time.perf_counter()
            try:
                for chunk in stream:
                    now = time.perf_counter()
                    self.upstream_s += now - waiting
                    found = usage_read(chunk, tokens_in_bound=self.in_bound, tokens_out_bound=self.out_bound)
                    usage = found or usage
                    if chunk["choices"]:
                        pieces += len(chunk["choices"])
                        for out in filters.push(chunk):
                            if first:
                                first = False
                                self.settlement.first_token_ms = (now - self.began) * 1000
                            yield self._emit(head, out, gathered)
                        # A piece is at least a token, but for the first and the last of each choice.
                        if filters.blocked or pieces > self.out_bound + 4 * call.n:
                            break  # the engine says what it may not, or more than it was asked for
                    waiting = time.perf_counter()
            finally:
                stream.close()
            for out in filters.finish():
                yield self._emit(head, out, gathered)
        except UpstreamError as error:
            status, problem = "failed", upstream_problem(error)
        except Exception:
            logger.exception("a stream failed", extra={"request_id": call.request_id})
            status, problem = "failed", _internal()
        except GeneratorExit:
            self._settle(
                "cancelled",
                499,
                usage or self._estimate(self.answered_bytes),
                cache="off",
                output=bytes(self.sent),
            )
            raise
        usage = usage or self._estimate(self.answered_bytes)
        self._mark("engine: stream")
        if problem is not None:
            sent = bytes(self.sent)
            with suppress(GatewayProblem):  # logged; the row is closed when the lease ends
                self._settle(status, problem.status, usage, cache="off", output=sent, error=problem.code)
            yield problem_event(problem)
            return
        tail: list[bytes] = []
        if call.include_usage:
            tail.append(event({**head, "choices": [], "usage": usage_document(usage, call)}))
        receipt = self._receipt(gathered.digest) if gathered is not None else ""
        if receipt:
            tail.append(event({**head, "choices": [], "signoff": {"receipt": receipt}}))
        if gathered is not None and self.plan is not None and not filters.blocked:
            self._remember(self._named({"choices": gathered.choices(kind)}, _OBJECTS[call.route], usage))
        try:
            self._settle(
                "ok", 200, usage, cache="off" if self.plan is None else "miss", output=bytes(self.sent),
                error="content_filter" if filters.blocked else "",
            )  # fmt: skip
        except GatewayProblem as failure:
            yield problem_event(failure)
            return
        cost = f": cost_usd={self.settlement.cost_nano / 1e9:.9f} overhead_ms={self.settlement.overhead_ms:.2f}\n\n"
        tail.append(cost.encode())
        tail.append(DONE)
        yield b"".join(tail)

    def _emit(self, head: dict[str, Any], chunk: dict[str, Any], gathered: Any) -> bytes:
        document = {**head, "choices": chunk["choices"]}
        if gathered is not None:
            gathered.add(document)
        self.answered_bytes += _text_bytes(document)
        data = event(document)
        self.sent += data
        return data

    # ------------------------------------------------------------------ caches
    def _remember(self, document: dict[str, Any]) -> None:
        """Keep a finished answer, unless originals of this very request were put back into it."""
        if self.plan is not None and not self.filter.restores:
            self.plan.store(document, clean=self.filter.clean)

    def _ask_again(self) -> None:
        """Ask the engine what a semantic hit would have been: a call like any other, with its own row and charge."""
        assert self.plan is not None
        call = self.call
        body = orjson.loads(self.asked_body)
        body.pop("stream", None)
        body.pop("stream_options", None)
        again = replace(
            call,
            body=body,
            stream=False,
            include_usage=False,
            cache_control="no-store",
            request_id=f"shadow_{secrets.token_hex(12)}",
        )
        try:
            reply = Exchange(again, self.caller).run()
        except GatewayProblem:
            return  # refused by a budget, or no engine: nothing was learnt
        self.plan.shadow_record(orjson.loads(reply.body))

    def _from_store(self, answer: Mapping[str, Any], cache: str) -> Reply:
        """Give a stored or planted answer: no engine, no tokens of its own, but a row in the ledger like any other."""
        call = self.call
        given = answer.get("usage") or {}
        shown = {name: given.get(name, 0) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
        document = {
            **self._named({"choices": answer["choices"]}, _OBJECTS[call.route], Usage()),
            "usage": shown,
        }
        if not call.stream:
            return self._deliver(document, Usage(), cache=cache, charge=False)
        chunks = replay_chunks(document, include_usage=call.include_usage)
        receipt = self._receipt(lambda: knobs.output_digest(document))
        if receipt:
            head = {name: chunks[0][name] for name in ("id", "object", "created", "model")}
            chunks.append({**head, "choices": [], "signoff": {"receipt": receipt}})
        body = b"".join(event(chunk) for chunk in chunks)
        self._settle("ok", 200, Usage(), cache=cache, output=body, charge=False)
        return Reply(200, self._headers(), stream=iter([body, DONE]))

    # ------------------------------------------------------------------ settling
    def _estimate(self, answered_bytes: int) -> Usage:
        """When the engine does not say: the prompt's bound, and a token for each byte of what it wrote."""
        return Usage(tokens_in=self.in_bound, tokens_out=min(self.out_bound, answered_bytes), estimated=True)

    def _settle(
        self,
        status: str,
        http_status: int,
        usage: Usage,
        *,
        cache: str,
        output: bytes = b"",
        error: str = "",
        charge: bool = True,
    ) -> None:
        if self.settled:
            return
        self.settled = True
        total = (time.perf_counter() - self.began) * 1000
        end = self.settlement
        end.status, end.http_status, end.error_code, end.cache = status, http_status, error, cache
        end.tokens_in, end.tokens_out, end.tokens_cached = (
            usage.tokens_in,
            usage.tokens_out,
            usage.tokens_cached,
        )
        end.cost_nano = min(cost_nano(self.price, usage), self.admission.reserved_nano) if charge else 0
        end.total_ms = total
        end.upstream_ms = self.upstream_s * 1000
        end.overhead_ms = max(0.0, total - end.upstream_ms)
        end.bytes_out = len(output)
        self._note_filter()
        if output:
            end.output_digest = salted_digest(self.caller.schema, output)
        end.stages = self.stages
        if self.keep_texts and (output or self.prompt):
            end.payload = Payload(self.prompt, output, self.decision.retain_days)
        try:
            self.lane.settle(self.admission.entry_id, self.admission.created_at, end)
        except LedgerUnavailable as problem:
            # The row stays open and is charged at its bound when the lease ends; what is not settled is not sent.
            logger.error("a request could not be settled", extra={"request_id": self.call.request_id})
            raise _unavailable(problem) from problem
        if telemetry.enabled():
            telemetry.span_record(
                self.call,
                self.caller,
                self.target,
                end,
                policy_version=self.decision.version,
                entry_id=str(self.admission.entry_id),
                stages=self.stages,
            )
        if self.config.extraction and status == "ok":
            knobs.extraction_observe(self.caller, self.call.body, usage.tokens_out)

    def _note_filter(self) -> None:
        if self.filtered:
            summary = self.filter.summary()
            self.settlement.redactions = {"prompt": summary["input"], "output": summary["output"]}
            self.settlement.guards = {
                name: summary[name] for name in ("profile", "verdicts", "blocked", "blocked_direction")
            }

    def _settle_failure(self, status: str, problem: GatewayProblem) -> None:
        """Release what was reserved: nothing reached the client."""
        if self.settled:
            return
        try:
            self._settle(status, problem.status, Usage(), cache="off", error=problem.code, charge=False)
        except GatewayProblem:
            logger.error("a failed request could not be settled", extra={"request_id": self.call.request_id})

    def _headers(self) -> dict[str, str]:
        headers = self.admission.headers
        headers["x-signoff-release"] = self.target.label
        headers["x-signoff-policy"] = self.decision.version
        end = self.settlement
        if self.settled:
            headers["x-signoff-cache"] = end.cache
            headers["x-signoff-cost-usd"] = f"{end.cost_nano / 1e9:.9f}"
            headers["x-signoff-overhead-ms"] = f"{end.overhead_ms:.2f}"
            headers["openai-processing-ms"] = f"{end.total_ms:.0f}"
        else:
            headers["x-signoff-cache"] = "off" if self.plan is None else "miss"
            headers["x-signoff-overhead-ms"] = (
                f"{((time.perf_counter() - self.began) - self.upstream_s) * 1000:.2f}"
            )
        return headers


def _text_bytes(document: dict[str, Any]) -> int:
    """UTF-8 bytes of an answer's texts."""
    return len(output_text(document).encode("utf-8", "replace"))


class _Closing:
    """A stream whose ``close`` (the client went away) reaches the engine at once and the ledger always."""

    def __init__(self, events: Iterator[bytes], stream: Stream) -> None:
        self._events = events
        self._stream = stream
        self._begun = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._begun = True
        return next(self._events)

    def close(self) -> None:
        self._stream.close()
        if not self._begun:
            # A generator that never ran has no `finally` to reach.
            next(self._events, None)
        self._events.close()  # type: ignore[attr-defined]


def upstream_problem(error: UpstreamError) -> GatewayProblem:
    """What a client is told when the engine fails."""
    if isinstance(error, UpstreamRejected):
        return GatewayProblem(error.status, error.message, code=error.code, param=error.param)
    kind = "rate_limit_error" if isinstance(error, UpstreamBusy) else "server_error"
    return GatewayProblem(
        error.status, error.message, code=error.code, type=kind, retry_after_s=error.retry_after_s
    )


def _unavailable(error: Exception) -> GatewayProblem:
    logger.error("the ledger is not available: %s", type(error).__name__)
    return GatewayProblem(
        503,
        "The request was not served, because it could not be written to the ledger. Try again.",
        code="ledger_unavailable",
        type="server_error",
        retry_after_s=2.0,
    )


def _internal() -> GatewayProblem:
    return GatewayProblem(
        500, "The gateway failed on this request.", code="internal_error", type="server_error"
    )


def serve_once(
    caller: Caller, body: dict[str, Any], route: str, *, request_id: str = ""
) -> tuple[int, dict[str, Any]]:
    """One item of a batch through the same pipeline: (HTTP status, body). Streams are refused.

    Used by workers; raises nothing a client should see, so that one bad item does not end its batch.
    """
    try:
        call = call_parse(cast(RouteName, route), dict(body), body_bytes=len(dumps(body)))
        if call.stream:
            raise GatewayProblem(400, "A batch does not stream.", code="invalid_value", param="stream")
        call.request_id = request_id or f"req_{secrets.token_hex(12)}"
        call.traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
        reply = Exchange(call, caller).run()
        return reply.status, orjson.loads(reply.body)
    except GatewayProblem as problem:
        return problem.status, problem.body()
