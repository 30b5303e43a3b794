"""Spans say what happened and hold no text."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from inference.gateway import telemetry

PROMPT = "a sentence nobody else would write"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def spans():
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry.use_tracer(provider.get_tracer("test"))
    yield exporter
    telemetry.use_tracer(None)


def test_a_request_is_one_span_in_the_callers_trace_without_its_text(gateway, spans, rows):
    gateway.client().chat.completions.create(
        model="helper",
        messages=[{"role": "user", "content": PROMPT}],
        user="anna",
        extra_headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"},
    )

    [row] = rows()
    found = spans.get_finished_spans()
    [served] = [span for span in found if span.name == "chat helper@1.0.0"]
    assert served.context.trace_id == int(TRACE, 16)
    assert served.attributes["gen_ai.usage.output_tokens"] == row.tokens_out
    assert served.attributes["signoff.ledger_id"] == str(row.id)
    assert {span.parent.span_id for span in found if span is not served} == {served.context.span_id}
    told = " ".join(span.to_json() for span in found)
    assert PROMPT not in told and "quick brown" not in told and "anna" not in told
    assert gateway.stub.seen.last_headers["traceparent"].split("-")[1] == TRACE
