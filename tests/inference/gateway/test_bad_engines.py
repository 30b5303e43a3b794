"""Whatever an engine does, the client is told, the row is closed, and nothing stays reserved."""

from __future__ import annotations

import time

import openai
import pytest

from inference.gateway import routing
from tenants.quotas.models import Counter
from tests.inference.gateway.conftest import release

MESSAGES = [{"role": "user", "content": "Say something."}]
WHOLE = [
    "stall-headers", "stall-body", "garbage", "invalid-json", "html", "early-body", "close-first", "status-204",
    "status-301", "status-401", "status-404", "status-500", "status-503", "nan", "no-choices", "null-body",
]  # fmt: skip
STREAMS = [
    "stall-stream", "error-stream", "error-first", "early-stream", "early-chunk", "garbage-stream", "list-stream",
    "number-content", "text-stream",
]  # fmt: skip


def open_calls(in_schema):
    with in_schema("alpha"):
        return sum(Counter.objects.values_list("open", flat=True))


def test_a_failed_answer_is_an_error_and_costs_nothing(gateway, in_schema, rows):
    for mode in WHOLE:
        with in_schema("alpha"):
            release(mode, gateway.stub)
    routing.forget()
    for mode in WHOLE:
        with pytest.raises(openai.APIStatusError) as caught:
            gateway.client().chat.completions.create(model=f"helper@1.0.0-{mode}", messages=MESSAGES)

        assert caught.value.status_code in {502, 503, 504}, mode
        row = rows()[-1]
        assert (row.status, row.cost_nano, row.tokens_out) == ("failed", 0, 0), mode
        assert row.error_code == caught.value.body["code"], mode
    assert len(rows()) == len(WHOLE)
    assert open_calls(in_schema) == 0


def test_a_failed_stream_says_so_and_is_closed(gateway, in_schema, rows):
    for mode in STREAMS:
        with in_schema("alpha"):
            release(mode, gateway.stub)
    routing.forget()
    for mode in STREAMS:
        with pytest.raises(openai.APIError):
            list(
                gateway.client().chat.completions.create(
                    model=f"helper@1.0.0-{mode}", messages=MESSAGES, stream=True
                )
            )

        assert rows()[-1].status == "failed", mode
    assert len(rows()) == len(STREAMS)
    assert open_calls(in_schema) == 0


def test_the_engines_refusal_names_the_parameter(gateway, in_schema, rows):
    with in_schema("alpha"):
        release("status-400", gateway.stub)
    with pytest.raises(openai.BadRequestError):
        gateway.client().chat.completions.create(model="helper@1.0.0-status-400", messages=MESSAGES)
    assert rows()[0].http_status == 400


@pytest.mark.parametrize("mode", ["absurd-usage", "negative-usage"])
def test_an_engine_cannot_charge_more_than_was_reserved(gateway, in_schema, rows, mode):
    with in_schema("alpha"):
        release(mode, gateway.stub)
    gateway.client().chat.completions.create(model=f"helper@1.0.0-{mode}", messages=MESSAGES, max_tokens=10)

    [row] = rows()
    assert row.status == "ok"
    assert 0 <= row.tokens_out <= 10
    assert 0 <= row.tokens_in <= row.reserved_in


def test_an_endless_stream_is_cut_at_what_was_reserved(gateway, in_schema, rows):
    with in_schema("alpha"):
        release("endless-stream", gateway.stub)
    chunks = list(
        gateway.client().chat.completions.create(
            model="helper@1.0.0-endless-stream", messages=MESSAGES, stream=True, max_tokens=5
        )
    )

    assert len(chunks) < 100
    assert rows()[0].tokens_out <= 5


def test_when_the_client_leaves_the_engine_stops_and_the_row_closes(gateway, in_schema, rows):
    gateway.stub.event_gap_s = 0.2
    gateway.stub.events = 500
    stream = gateway.client().chat.completions.create(model="helper", messages=MESSAGES, stream=True)
    next(iter(stream))
    stream.close()

    deadline = time.monotonic() + 20
    while (gateway.stub.seen.aborted == 0 or rows()[0].status == "open") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert gateway.stub.seen.aborted == 1
    assert rows()[0].status == "cancelled"
    assert open_calls(in_schema) == 0
