"""Calls to engines that behave well and badly, over real sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from inference.upstreams.client import (
    Channel,
    Pool,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from inference.upstreams.endpoint import Endpoint
from inference.upstreams.fairness import Gate
from tests.inference.upstreams.stub import TEXT, Stub

CHAT = "/chat/completions"
SECRET = "sk-very-secret-key"


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as running:
        yield running


def channel_to(stub: Stub, **changes: Any) -> Channel:
    given: dict[str, Any] = {
        "id": "one",
        "name": "one",
        "url": stub.url,
        "model": "good",
        "api_key": SECRET,
        "first_byte_timeout_s": 0.5,
        "chunk_timeout_s": 0.4,
        "total_timeout_s": 3.0,
        **changes,
    }
    return Channel(Endpoint(**given))


def pool_to(stub: Stub, **changes: Any) -> tuple[Pool, Channel]:
    channel = channel_to(stub, **changes)
    return Pool(Gate([channel])), channel


def streamed(pool: Pool, **changes: Any) -> list[dict[str, Any]]:
    body = {"messages": [], "stream": True, "stream_options": {"include_usage": True}, **changes}
    with pool.stream(CHAT, body, tenant="t") as stream:
        return list(stream)


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


# ---------------------------------------------------------------------- good answers
def test_a_whole_answer_with_the_upstreams_name_of_the_model_and_its_key(stub: Stub) -> None:
    pool, _ = pool_to(stub, model="remote-name")
    answer = pool.complete(CHAT, {"model": "ours", "messages": []}, tenant="t", traceparent="00-a-b-01")
    assert answer.body["choices"][0]["message"]["content"] == TEXT
    assert answer.body["usage"]["total_tokens"] == 32 and answer.attempts == 1
    assert stub.seen.last_body["model"] == "remote-name"
    assert stub.seen.last_headers["authorization"] == f"Bearer {SECRET}"
    assert stub.seen.last_headers["traceparent"] == "00-a-b-01"


@pytest.mark.parametrize("body", [b"{}", b'{"messages":[]}'])
def test_bytes_without_a_model_get_one(stub: Stub, body: bytes) -> None:
    pool, _ = pool_to(stub, model='a "name"')
    pool.complete(CHAT, body, tenant="t")
    assert stub.seen.last_body["model"] == 'a "name"'


def test_one_connection_serves_one_request_after_the_other(stub: Stub) -> None:
    pool, _ = pool_to(stub)
    for _ in range(5):
        pool.complete(CHAT, {}, tenant="t")
        streamed(pool)
    assert stub.seen.connections == 1 and stub.seen.requests == 10


def test_a_dropped_kept_alive_connection_is_replaced_without_an_error() -> None:
    with Stub(drop_idle=True) as stub:
        pool, channel = pool_to(stub)
        for _ in range(4):
            assert pool.complete(CHAT, {}, tenant="t").attempts == 1
        assert channel.stats.failed == 0 and stub.seen.requests == 4


@pytest.mark.parametrize(
    "mode", ["good", "keepalive-stream", "crlf-stream", "multiline-stream", "bytes-stream", "no-done"]
)
def test_a_stream_is_the_same_however_it_is_cut_and_dressed(stub: Stub, mode: str) -> None:
    pool, channel = pool_to(stub, model=mode)
    events = streamed(pool)
    words = [event["choices"][0]["delta"].get("content", "") for event in events if event["choices"]]
    assert len(events) == 22 and "".join(words).strip().startswith(TEXT[:60])
    assert events[-1]["usage"] == {"prompt_tokens": 12, "completion_tokens": 20, "total_tokens": 32}
    assert channel.in_flight == 0


def test_closing_a_stream_stops_the_engine(stub: Stub) -> None:
    pool, channel = pool_to(stub, model="endless-stream")
    stream = pool.stream(CHAT, {"stream": True}, tenant="t")
    next(stream)
    stream.close()
    wait_until(lambda: stub.seen.aborted == 1 and stub.seen.in_flight == 0)
    made = stub.seen.events
    time.sleep(0.05)
    assert stub.seen.events == made
    assert channel.in_flight == 0 and channel.stats.aborted == 1 and channel.breaker.closed


def test_closing_from_another_thread_wakes_the_reader(stub: Stub) -> None:
    pool, channel = pool_to(stub, model="stall-stream", chunk_timeout_s=30.0, total_timeout_s=60.0)
    stream = pool.stream(CHAT, {"stream": True}, tenant="t")
    threading.Timer(0.1, stream.close).start()
    with pytest.raises(UpstreamBroken):
        list(stream)
    wait_until(lambda: channel.in_flight == 0)
    assert channel.breaker.closed


# ---------------------------------------------------------------------- hostile answers
@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("stall-headers", UpstreamTimeout),
        ("stall-body", UpstreamTimeout),
        ("garbage", UpstreamBroken),
        ("chunk-garbage", UpstreamBroken),
        ("invalid-json", UpstreamBroken),
        ("html", UpstreamBroken),
        ("html-json", UpstreamBroken),
        ("early-body", UpstreamBroken),
        ("close-first", UpstreamUnavailable),
        ("huge-body", UpstreamBroken),
        ("huge-header", UpstreamBroken),
        ("nan", UpstreamBroken),
        ("no-choices", UpstreamBroken),
        ("zero-choices", UpstreamBroken),
        ("null-body", UpstreamBroken),
        ("no-message", UpstreamBroken),
        ("number-content", UpstreamBroken),
        ("status-204", UpstreamBroken),
        ("status-301", UpstreamBroken),
        ("status-400", UpstreamRejected),
        ("status-400-leak", UpstreamRejected),
        ("status-401", UpstreamUnavailable),
        ("status-404", UpstreamUnavailable),
        ("status-422", UpstreamRejected),
        ("status-429", UpstreamBusy),
        ("status-500", UpstreamUnavailable),
        ("status-503", UpstreamUnavailable),
    ],
)
def test_each_bad_answer_has_its_error_and_no_secret_in_it(
    stub: Stub, mode: str, error: type[UpstreamError]
) -> None:
    pool, channel = pool_to(stub, model=mode)
    with pytest.raises(error) as caught:
        pool.complete(CHAT, {}, tenant="t")
    assert SECRET not in caught.value.message and str(stub.port) not in caught.value.message
    assert channel.in_flight == 0


@pytest.mark.parametrize(
    ("mode", "events", "error"),
    [
        ("stall-stream", 3, UpstreamTimeout),
        ("error-stream", 2, UpstreamBroken),
        ("error-first", 0, UpstreamBroken),
        ("named-error-stream", 2, UpstreamBroken),
        ("early-stream", 2, UpstreamBroken),
        ("early-chunk", 2, UpstreamBroken),
        ("garbage-stream", 2, UpstreamBroken),
        ("list-stream", 2, UpstreamBroken),
        ("number-content", 2, UpstreamBroken),
        ("chunk-garbage", 2, UpstreamBroken),
        ("huge-event", 2, UpstreamBroken),
        ("html", 0, UpstreamBroken),
        ("text-stream", 0, UpstreamBroken),
        ("stall-headers", 0, UpstreamTimeout),
        ("status-429", 0, UpstreamBusy),
    ],
)
def test_a_bad_stream_gives_what_came_and_then_its_error(
    stub: Stub, mode: str, events: int, error: type[UpstreamError]
) -> None:
    pool, channel = pool_to(stub, model=mode)
    seen: list[dict[str, Any]] = []
    with pytest.raises(error) as caught, pool.stream(CHAT, {"stream": True}, tenant="t") as stream:
        seen.extend(stream)
    assert "10.0.0.7" not in caught.value.message
    assert channel.in_flight == 0


def test_an_endless_stream_ends_with_its_time(stub: Stub) -> None:
    pool, channel = pool_to(stub, model="endless-stream", total_timeout_s=0.3)
    with pytest.raises(UpstreamTimeout):
        streamed(pool)
    wait_until(lambda: stub.seen.in_flight == 0)
    assert channel.in_flight == 0


@pytest.mark.parametrize("mode", ["negative-usage", "absurd-usage", "text-usage"])
def test_a_usage_nobody_counted_is_dropped(stub: Stub, mode: str) -> None:
    pool, _ = pool_to(stub, model=mode)
    assert "usage" not in pool.complete(CHAT, {}, tenant="t").body


@pytest.mark.parametrize("mode", ["duplicate-keys", "continue-first", "two-answers"])
def test_odd_answers_that_have_a_meaning_are_taken(stub: Stub, mode: str) -> None:
    pool, _ = pool_to(stub, model=mode)
    for _ in range(3):
        assert pool.complete(CHAT, {}, tenant="t").body["choices"][0]["message"]["content"] == TEXT


def test_a_refusals_words_retry_after_and_parameter_are_passed_on(stub: Stub) -> None:
    with pytest.raises(UpstreamRejected) as refused:
        pool_to(stub, model="status-422")[0].complete(CHAT, {}, tenant="t")
    assert refused.value.status == 422 and refused.value.param == "temperature"
    assert refused.value.message == "refused with 422"
    with pytest.raises(UpstreamBusy) as busy:
        pool_to(stub, model="status-429")[0].complete(CHAT, {}, tenant="t")
    assert busy.value.retry_after_s == 7.0


def test_nobody_listening_is_unavailable() -> None:
    with Stub() as stub:
        url = stub.url
    pool = Pool(Gate([Channel(Endpoint(id="x", name="x", url=url))]))
    with pytest.raises(UpstreamUnavailable, match="refuses connections"):
        pool.complete(CHAT, {}, tenant="t")


# ---------------------------------------------------------------------- trying again
@pytest.mark.parametrize("mode", ["status-500", "status-429", "html", "zero-choices", "close-first", "nan"])
def test_another_upstream_is_asked_when_one_fails(stub: Stub, mode: str) -> None:
    bad, good = channel_to(stub, id="bad", model=mode, weight=1000), channel_to(stub, id="good")
    pool = Pool(Gate([bad, good]))
    answer = pool.complete(CHAT, {}, tenant="t")
    assert answer.attempts == 2 and stub.seen.models == {mode: 1, "good": 1}
    assert bad.in_flight == good.in_flight == 0


def test_a_stream_that_fails_before_its_first_event_is_asked_elsewhere(stub: Stub) -> None:
    bad, good = channel_to(stub, id="bad", model="error-first", weight=1000), channel_to(stub, id="good")
    assert len(streamed(Pool(Gate([bad, good])))) == 22


def test_a_stream_that_fails_later_is_not_repeated(stub: Stub) -> None:
    bad, good = channel_to(stub, id="bad", model="early-stream", weight=1000), channel_to(stub, id="good")
    with pytest.raises(UpstreamBroken):
        streamed(Pool(Gate([bad, good])))
    assert stub.seen.models == {"early-stream": 1}


@pytest.mark.parametrize("mode", ["status-400", "stall-headers"])
def test_what_would_be_wrong_again_or_done_twice_is_not_repeated(stub: Stub, mode: str) -> None:
    bad, good = channel_to(stub, id="bad", model=mode, weight=1000), channel_to(stub, id="good")
    with pytest.raises(UpstreamError):
        Pool(Gate([bad, good])).complete(CHAT, {}, tenant="t")
    assert stub.seen.models == {mode: 1}


def test_the_only_upstream_is_asked_again_after_a_pause_when_it_was_overloaded() -> None:
    with Stub(fail_first=2) as stub:
        answer = pool_to(stub)[0].complete(CHAT, {}, tenant="t")
    assert answer.attempts == 3


# ---------------------------------------------------------------------- breaker
def test_what_keeps_failing_is_left_alone_and_tried_again_by_one_request() -> None:
    with Stub(fail_first=5) as stub:
        pool, channel = pool_to(stub)
        for _ in range(2):
            with pytest.raises(UpstreamUnavailable):
                pool.complete(CHAT, {}, tenant="t")
        asked = stub.seen.requests
        assert asked == 5 and not channel.breaker.closed
        with pytest.raises(UpstreamUnavailable, match="repeatedly") as refused:
            pool.complete(CHAT, {}, tenant="t")
        assert stub.seen.requests == asked and (refused.value.retry_after_s or 0) >= 1
        channel.breaker.open_until = 0.0  # the pause is over
        assert pool.complete(CHAT, {}, tenant="t").status == 200
        assert channel.breaker.closed


# ---------------------------------------------------------------------- limits and fairness
def test_no_more_requests_at_once_than_allowed() -> None:
    with Stub(delay_s=0.02) as stub:
        pool, _ = pool_to(stub, max_concurrency=3)
        threads = [
            threading.Thread(target=lambda: pool.complete(CHAT, {}, tenant="t"), daemon=True)
            for _ in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert stub.seen.most_in_flight == 3 and stub.seen.requests == 20


def arrived(gate: Gate[Channel], stub: Stub, count: int) -> None:
    wait_until(lambda: sum(gate.waiting().values()) + len(stub.seen.order) >= count)


def test_tenants_take_turns_and_each_tenants_requests_keep_their_order() -> None:
    with Stub(delay_s=0.03) as stub:
        channel = channel_to(stub, max_concurrency=1)
        gate = Gate([channel], max_wait_s=10)
        pool = Pool(gate)

        def ask(tenant: str, number: int) -> None:
            pool.complete(CHAT, {"user": f"{tenant}{number}"}, tenant=tenant)

        threads = []
        for tenant, count in (("a", 6), ("b", 2), ("c", 1)):
            for number in range(count):
                thread = threading.Thread(target=ask, args=(tenant, number), daemon=True)
                thread.start()
                threads.append(thread)
                arrived(gate, stub, len(threads))
        for thread in threads:
            thread.join(10)
    order = stub.seen.order
    for tenant in "abc":
        own = [name for name in order if name[0] == tenant]
        assert own == sorted(own)
    # b and c came after all of a's, but wait for one place each time, not for a's whole queue.
    assert max(order.index(name) for name in ("b0", "c0")) <= 5, order


def test_waiting_is_bounded_in_time_and_in_number() -> None:
    with Stub(delay_s=0.5) as stub:
        channel = channel_to(stub, max_concurrency=1, first_byte_timeout_s=5)
        pool = Pool(Gate([channel], max_waiting=1, max_wait_s=0.1))
        first = threading.Thread(target=lambda: pool.complete(CHAT, {}, tenant="a"), daemon=True)
        first.start()
        wait_until(lambda: channel.in_flight == 1)
        errors: list[UpstreamError] = []

        def late() -> None:
            try:
                pool.complete(CHAT, {}, tenant="a")
            except UpstreamError as error:
                errors.append(error)

        waiting = threading.Thread(target=late, daemon=True)
        waiting.start()
        wait_until(lambda: pool.gate.waiting() == {"a": 1})
        with pytest.raises(UpstreamBusy, match="Too many") as crowded:
            pool.complete(CHAT, {}, tenant="b")
        waiting.join(5)
        first.join(5)
    assert crowded.value.retry_after_s and isinstance(errors[0], UpstreamBusy)
    assert pool.gate.waiting() == {} and channel.in_flight == 0


def test_a_deadline_ends_the_wait() -> None:
    with Stub(delay_s=0.5) as stub:
        channel = channel_to(stub, max_concurrency=1, first_byte_timeout_s=5)
        pool = Pool(Gate([channel]))
        first = threading.Thread(target=lambda: pool.complete(CHAT, {}, tenant="a"), daemon=True)
        first.start()
        wait_until(lambda: channel.in_flight == 1)
        with pytest.raises(UpstreamTimeout):
            pool.complete(CHAT, {}, tenant="a", deadline=time.monotonic() + 0.05)
        first.join(5)


def test_requests_are_spread_by_weight(stub: Stub) -> None:
    heavy = channel_to(stub, id="heavy", model="heavy", weight=3)
    light = channel_to(stub, id="light", model="light", weight=1)
    pool = Pool(Gate([heavy, light]))
    for _ in range(40):
        pool.complete(CHAT, {}, tenant="t")
    assert stub.seen.models == {"heavy": 30, "light": 10}


def test_an_empty_pool_says_that_nothing_is_configured() -> None:
    with pytest.raises(UpstreamUnavailable, match="No engine"):
        Pool(Gate([])).complete(CHAT, {}, tenant="t")
