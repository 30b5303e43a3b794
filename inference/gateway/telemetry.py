"""OpenTelemetry spans of the gateway, with gen_ai attributes and without any text.

On only when OTEL_EXPORTER_OTLP_ENDPOINT (or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) is set: a span is made after its
request is settled, from what the ledger has, so requests do not wait for it. Exported in batches by a thread; a
collector that is away loses spans and delays nobody.

Source: OpenTelemetry semantic conventions for generative AI, client and server spans.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from inference.gateway.contract import Call, Caller, RouteTarget

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from inference.ledger.lanes import Settlement

_OPERATIONS = {
    "chat.completions": "chat",
    "responses": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
}
_lock = threading.Lock()
_tracer: Tracer | None = None
_decided = False


def enabled() -> bool:
    """Whether spans go anywhere."""
    if not _decided:
        _start()
    return _tracer is not None


def _start() -> None:
    global _tracer, _decided
    with _lock:
        if _decided:
            return
        _decided = True
        if not (
            os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
            or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        ):
            return
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = TracerProvider(resource=Resource.create({"service.name": "signoff-gateway"}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        _tracer = provider.get_tracer("signoff.gateway")


def use_tracer(tracer: Tracer | None) -> None:
    """Send spans to this tracer from now on; None switches them off."""
    global _tracer, _decided
    with _lock:
        _tracer, _decided = tracer, True


def span_record(
    call: Call,
    caller: Caller,
    target: RouteTarget,
    settlement: Settlement,
    *,
    policy_version: str,
    entry_id: str,
    stages: Sequence[Sequence[Any]],
) -> None:
    """One span for a settled request, a child for each of its stages. Holds no prompt, no output, no user."""
    tracer = _tracer
    if tracer is None:
        return
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        SpanKind,
        Status,
        StatusCode,
        TraceFlags,
        set_span_in_context,
    )

    ended = time.time_ns()
    began = ended - round(settlement.total_ms * 1e6)
    _, trace_id, parent_id, _ = call.traceparent.split("-")
    parent = SpanContext(int(trace_id, 16), int(parent_id, 16), is_remote=True, trace_flags=TraceFlags(1))
    operation = _OPERATIONS[call.route]
    span = tracer.start_span(
        f"{operation} {target.label}",
        context=set_span_in_context(NonRecordingSpan(parent)),
        kind=SpanKind.SERVER,
        start_time=began,
        attributes={
            "gen_ai.operation.name": operation,
            "gen_ai.request.model": call.model,
            "gen_ai.response.model": target.label,
            "gen_ai.usage.input_tokens": settlement.tokens_in,
            "gen_ai.usage.output_tokens": settlement.tokens_out,
            "http.response.status_code": settlement.http_status,
            "signoff.tenant": caller.schema,
            "signoff.key": caller.key_id,
            "signoff.release.digest": target.release_digest,
            "signoff.policy.version": policy_version,
            "signoff.cache": settlement.cache,
            "signoff.cost_usd": settlement.cost_nano / 1e9,
            "signoff.ledger_id": entry_id,
            "signoff.request_id": call.request_id,
        },
    )
    if settlement.error_code:
        span.set_attribute("error.type", settlement.error_code)
    if settlement.status == "failed":
        span.set_status(Status(StatusCode.ERROR, settlement.error_code))
    inside = set_span_in_context(span)
    for name, start_ms, length_ms in stages:
        start = began + round(start_ms * 1e6)
        tracer.start_span(str(name), context=inside, start_time=start).end(
            end_time=start + round(length_ms * 1e6)
        )
    span.end(end_time=ended)
