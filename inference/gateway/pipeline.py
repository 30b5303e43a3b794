"""One request from the parsed call to the bytes that leave, in the gateway's order:

route → policy → reserve (the ledger row exists from here) → redact and guard → canary, cache → engine → redact and
guard → settle → bytes. Whatever happens after the reservation, exactly one settlement follows; an answer leaves
after it, a stream's last event too, and a stream's first event leaves after the row was written.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

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
from inference.gateway.protocol.requests import engine_body, release_applied, tokens_in_bound
from inference.gateway.release_config import GatewayConfig
from inference.gateway.routing import target_choose
from inference.gateway.tokens import tokens_in_exact
from inference.guards.errors import UnknownProfile
from inference.guards.filtering import RequestFilter
from inference.guards.selectors import guard_set
from inference.ledger.errors import LedgerUnavailable, Refused
from inference.ledger.lanes import Admission, NewEntry, Settlement, lane
from inference.ledger.prices import bound_nano, cost_nano, price_of
from inference.ledger.sealing import Payload, salted_digest
from inference.policies.engine import PolicyDecision, decide
from inference.upstreams.client import Stream
from inference.upstreams.errors import UpstreamBusy, UpstreamError, UpstreamRejected
from inference.upstreams.routing import Upstreams
from tenants.quotas.accounting import Need
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


class Blocked(GatewayProblem):
    """Redaction or a guard refuses the content of a request."""


@lru_cache(maxsize=1024)
def _gateway_config(release_digest: str, text: bytes) -> GatewayConfig:
    return GatewayConfig.from_dict(orjson.loads(text)) if text else GatewayConfig()


def gateway_config(target: RouteTarget) -> GatewayConfig:
    """The release's switches; parsed once per release."""
    given = target.config.get("gateway")
    return _gateway_config(target.release_digest, orjson.dumps(given) if given else b"")


class Exchange:
    """One request. Make it, call :meth:`run` once."""

    def __init__(self, call: Call, caller: Caller, *, began: float | None = None, batch: str = "") -> None:
        self.call = call
        self.caller = caller
        self.began = time.perf_counter() if began is None else began
        self.batch = batch
        self.lane = lane(caller.schema)
        self.settlement = Settlement()
        self.stages: list[list[Any]] = []
        self.upstream_s = 0.0
        self.settled = False
        self.out_bound = 0
        self.in_bound = 0
        self.sent = bytearray()
        self.keep_texts = False
        self.answered_text = ""
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
            self._record_refusal(entry, 403, "policy_denied", decision)
            raise GatewayProblem(
                403,
                f"The policy {decision.version} denies this request. {decision.reason}",
                code="policy_denied",
                type="permission_error",
            )
        self._check_throttle(entry)
        self._reserve(entry)
        try:
            return self._serve()
        except GatewayProblem as problem:
            refused = isinstance(problem, Blocked)
            self._settle_failure("refused" if refused else "failed", problem)
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

    def _record_refusal(self, entry: NewEntry, status: int, code: str, decision: PolicyDecision) -> None:
        total = (time.perf_counter() - self.began) * 1000
        self._ledger(
            lambda: self.lane.record(
                entry,
                Settlement(
                    status="refused",
                    http_status=status,
                    error_code=code,
                    total_ms=total,
                    overhead_ms=total,
                    stages=self.stages,
                ),
            )
        )

    def _check_throttle(self, entry: NewEntry) -> None:
        """Slow a key down that looks like it copies the model."""
        if not self.config.extraction:
            return
        throttle = knobs.extraction_wait_s(self.caller)
        if throttle is not None:
            self._record_refusal(entry, 429, "extraction_suspected", self.decision)
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
        self.in_bound = tokens_in_bound(call)
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

    def _admit(self, entry: NewEntry, scopes: Any) -> Admission:
        exact = False
        while True:
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
                # The bound counts bytes; a tokenizer, where the model is at hand, counts about a quarter of that.
                counted = None if exact else tokens_in_exact(self.target, self.call)
                if counted is not None and counted < self.in_bound and "tokens" in refusal.limit + "cost":
                    self.in_bound, exact = counted, True
                    continue
                headers = dict(refusal.headers)
                headers.pop("Retry-After", None)
                raise GatewayProblem(
                    refusal.status,
                    refusal.message,
                    code=refusal.code,
                    type="insufficient_quota"
                    if refusal.code == "insufficient_quota"
                    else "rate_limit_error"
                    if refusal.status == 429
                    else "permission_error",
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
        try:
            guards = guard_set(self.caller.schema, decision.redact or self.config.guards)
        except UnknownProfile as error:
            # A release or policy that names a profile which is gone must not run without one.
            raise GatewayProblem(
                503,
                f"{error.message} The request was not served.",
                code="guard_profile_missing",
                type="server_error",
            ) from error
        self.filter = RequestFilter(guards)
        self.filtered = True
        filtered = self.filter.filter_request(call.body)
        if filtered.blocked:
            raise Blocked(400, filtered.reason, code="content_blocked")
        call.body = filtered.body
        self._mark("redact")
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
            guard_version=f"{guards.name}:{guards.digest}"[:80],
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
            return Reply(200, self._headers(), stream=_Closing(self._stream(stream), stream, self))
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
            usage = self._estimate(output_text(body))
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

    def _deliver(self, document: dict[str, Any], usage: Usage, *, cache: str) -> Reply:
        receipt = ""
        if self.config.receipts:
            receipt = knobs.receipt_sign(
                self.caller.schema,
                self.call,
                self.target,
                self.decision.version,
                str(self.admission.entry_id),
                self.request_digest,
                knobs.output_digest(document),
            )
        body = dumps(document)
        self._settle("ok", 200, usage, cache=cache, output=body, bytes_out=len(body))
        headers = self._headers()
        if receipt:
            headers[knobs.RECEIPT_HEADER] = receipt
        return Reply(200, headers, body)

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
                        if filters.blocked or pieces > 4 * self.out_bound + 16:
                            break  # the engine says more than it was asked for, or what it may not
                    waiting = time.perf_counter()
            finally:
                stream.close()
            for out in filters.finish():
                yield self._emit(head, out, gathered)
        except UpstreamError as error:
            status, problem = "failed", upstream_problem(error)
        except GeneratorExit:
            self._settle(
                "cancelled",
                499,
                usage or self._estimate(self.answered_text),
                cache="off",
                output=bytes(self.sent),
            )
            raise
        usage = usage or self._estimate(self.answered_text)
        self._mark("engine: stream")
        if problem is not None:
            last = [problem_event(problem)]
            self._settle(
                status, problem.status, usage, cache="off", output=bytes(self.sent), error=problem.code
            )
            yield from last
            return
        tail: list[bytes] = []
        if call.include_usage:
            tail.append(event({**head, "choices": [], "usage": usage_document(usage, call)}))
        if self.config.receipts and gathered is not None:
            receipt = knobs.receipt_sign(
                self.caller.schema,
                call,
                self.target,
                self.decision.version,
                str(self.admission.entry_id),
                self.request_digest,
                gathered.digest(),
            )
            tail.append(event({**head, "choices": [], "signoff": {"receipt": receipt}}))
        if gathered is not None and self.plan is not None and not filters.blocked:
            self._remember(self._named({"choices": gathered.choices(kind)}, _OBJECTS[call.route], usage))
        self._settle(
            "ok", 200, usage, cache="off" if self.plan is None else "miss", output=bytes(self.sent),
            error="content_filter" if filters.blocked else "",
        )  # fmt: skip
        cost = f": cost_usd={self.settlement.cost_nano / 1e9:.9f} overhead_ms={self.settlement.overhead_ms:.2f}\n\n"
        tail.append(cost.encode())
        tail.append(DONE)
        yield b"".join(tail)

    def _emit(self, head: dict[str, Any], chunk: dict[str, Any], gathered: Any) -> bytes:
        document = {**head, "choices": chunk["choices"]}
        if gathered is not None:
            gathered.add(document)
        self.answered_text += output_text(document)
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
        document = dict(answer)
        document["id"] = f"chatcmpl-{secrets.token_hex(14)}"
        document["created"] = int(time.time())
        document["model"] = self.target.label
        given = answer.get("usage") or {}
        usage = Usage()
        shown = {
            "prompt_tokens": given.get("prompt_tokens", 0),
            "completion_tokens": given.get("completion_tokens", 0),
            "total_tokens": given.get("total_tokens", 0),
        }
        document["usage"] = shown
        if call.stream:
            chunks = replay_chunks(document, include_usage=call.include_usage)
            body = b"".join(event(chunk) for chunk in chunks)
            self._settle("ok", 200, usage, cache=cache, output=body, bytes_out=len(body), charge=False)
            return Reply(200, self._headers(), stream=iter([body, DONE]))
        body = dumps(document)
        self._settle("ok", 200, usage, cache=cache, output=body, bytes_out=len(body), charge=False)
        return Reply(200, self._headers(), body)

    # ------------------------------------------------------------------ settling
    def _estimate(self, text: str) -> Usage:
        """When the engine does not say: the prompt's bound, and a token for each byte of what it wrote."""
        return Usage(
            tokens_in=self.in_bound,
            tokens_out=min(self.out_bound, len(text.encode("utf-8", "replace"))),
            estimated=True,
        )

    def _settle(
        self,
        status: str,
        http_status: int,
        usage: Usage,
        *,
        cache: str,
        output: bytes = b"",
        bytes_out: int | None = None,
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
        end.bytes_out = len(output) if bytes_out is None else bytes_out
        if self.filtered:
            summary = self.filter.summary()
            end.redactions = {"prompt": summary["input"], "output": summary["output"]}
            end.guards = {
                name: summary[name] for name in ("profile", "verdicts", "blocked", "blocked_direction")
            }
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


class _Closing:
    """A stream whose ``close`` (the client went away) reaches the engine at once and the ledger always."""

    def __init__(self, events: Iterator[bytes], stream: Stream, exchange: Exchange) -> None:
        self._events = events
        self._stream = stream
        self._exchange = exchange
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
    caller: Caller, body: dict[str, Any], route: str, *, batch: str, request_id: str = ""
) -> tuple[int, dict[str, Any]]:
    """One item of a batch through the same pipeline: (HTTP status, body). Streams are refused.

    Used by workers; raises nothing a client should see, so that one bad item does not end its batch.
    """
    from inference.gateway.protocol.requests import call_parse

    try:
        raw = len(dumps(body))
        call = call_parse(route, dict(body), body_bytes=raw)  # type: ignore[arg-type]
        if call.stream:
            raise GatewayProblem(400, "A batch does not stream.", code="invalid_value", param="stream")
        call.request_id = request_id or f"req_{secrets.token_hex(12)}"
        call.traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
        reply = Exchange(call, caller, batch=batch).run()
        return reply.status, orjson.loads(reply.body)
    except GatewayProblem as problem:
        return problem.status, problem.body()
