"""Events in pieces, addresses, answers: the parts without a socket."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.upstreams.answers import event_of, usage_clean
from inference.upstreams.breaker import Breaker
from inference.upstreams.endpoint import BadAddress, address_refusal, locate
from inference.upstreams.errors import UpstreamBroken
from inference.upstreams.sse import EventTooLarge, SseParser

STREAM = (
    b"\xef\xbb\xbf: comment\r\n\r\ndata: one\r\ndata:two\r\rdata: three\n\nevent: x\nid: 1\nretry: 5\ndata: four\n\n"
    b"data: five\n\ndata: six\n\nnothing\n\ndata\n\ndata: cut off"
)
EVENTS = [b"one\ntwo", b"three", b"four", b"five", b"six", b""]


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_events_do_not_depend_on_how_the_bytes_are_cut(cuts: list[int]) -> None:
    parser = SseParser()
    found = []
    edges = [0, *sorted(cuts), len(STREAM)]
    for start, end in itertools.pairwise(edges):
        found += parser.feed(STREAM[start:end])
    assert found == EVENTS


@given(st.lists(st.binary(max_size=30), max_size=30))
def test_no_bytes_break_the_event_parser(pieces: list[bytes]) -> None:
    whole, parts = SseParser(), SseParser()
    one = whole.feed(b"".join(pieces))
    several = [event for piece in pieces for event in parts.feed(piece)]
    assert one == several


def test_an_event_is_bounded_however_it_comes() -> None:
    for piece in (b"x" * 10, b"data: x\n"):
        parser = SseParser(max_bytes=1000)
        with pytest.raises(EventTooLarge):
            for _ in range(1000):
                parser.feed(piece)


NAMES = ["choices", "delta", "usage", "error", "content", "index", "prompt_tokens", "text", "finish_reason"]
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
)


@given(VALUES)
def test_any_event_is_either_refused_or_safe_to_index(value: Any) -> None:
    try:
        event = event_of(json.dumps(value).encode())
    except Exception as error:
        assert type(error).__module__ == "inference.upstreams.errors", error
        return
    for choice in event["choices"]:
        assert isinstance(choice["index"], int)
        assert isinstance((choice.get("delta") or {}).get("content") or "", str)


@pytest.mark.parametrize(
    ("usage", "kept"),
    [
        ({"prompt_tokens": 1, "completion_tokens": 2}, True),
        ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": -1}, True),
        ({"prompt_tokens": 1, "completion_tokens": None}, True),
        ({"prompt_tokens": 1.5, "completion_tokens": 2}, False),
        ({"prompt_tokens": True, "completion_tokens": 2}, False),
        ({"prompt_tokens": -1, "completion_tokens": 2}, False),
        ({"prompt_tokens": 1, "completion_tokens": 10**12}, False),
        ({}, False),
        ([], False),
        ("many", False),
    ],
)
def test_usage_is_kept_only_when_it_can_be_true(usage: Any, kept: bool) -> None:
    body = {"usage": usage}
    usage_clean(body)
    assert ("usage" in body) is kept
    if kept:
        counts = body["usage"]
        assert counts["total_tokens"] == counts["prompt_tokens"] + counts["completion_tokens"]


def test_an_event_that_is_no_json_is_refused() -> None:
    for data in (b"", b"NaN", b"{", b"[]", b'{"choices": 7}', b'{"choices": [3]}'):
        with pytest.raises(UpstreamBroken):
            event_of(data)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/v1",
        "http:///v1",
        "//host/v1",
        "http://user:password@host/v1",
        "http://host/v1?x=1",
        "http://host/v1#x",
        "http://host:0/v1",
        "http://host:99999/v1",
        "http://host/v1\r\nX: y",
        "http://ho st/v1",
        "http://[::1/v1",
        "",
        "http://h/" + "x" * 600,
    ],
)
def test_urls_that_cannot_be_meant_are_refused(url: str) -> None:
    with pytest.raises(BadAddress):
        locate(url)


def test_a_url_is_taken_apart() -> None:
    found = locate("https://engine.example:8443/api/v1/")
    assert (found.tls, found.host, found.port, found.path) == (True, "engine.example", 8443, "/api/v1")
    assert found.authority == "engine.example:8443"
    assert locate("http://[::1]:9/v1").authority == "[::1]:9" and locate("http://x/v1").authority == "x"


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "fe80::1%eth0",
        "::ffff:169.254.169.254",
        "2002:a9fe:a9fe::",
        "fd00:ec2::254",
        "100.100.100.200",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
def test_metadata_and_nobodys_addresses_are_refused(address: str) -> None:
    assert address_refusal(address, 80)


def test_own_services_are_refused_and_private_engines_are_not() -> None:
    assert address_refusal("127.0.0.1", 5432, own_ports={5432})
    assert address_refusal("::1", 5432, own_ports={5432})
    assert not address_refusal("127.0.0.1", 9000, own_ports={5432})
    assert not address_refusal("10.1.2.3", 5432, own_ports={5432})
    assert address_refusal("10.1.2.3", 80, blocked=["10.0.0.0/8"])
    assert address_refusal("10.1.2.3", 80, blocked=["not a network"])


# ---------------------------------------------------------------------- breaker
def test_a_breaker_opens_on_failures_in_a_row_and_closes_on_a_success() -> None:
    breaker = Breaker(consecutive=3, pause_s=10)
    assert [breaker.failed(1.0) for _ in range(3)] == [False, False, True]
    assert breaker.state(2.0) == "open" and not breaker.admits(2.0) and breaker.wait_s(2.0) >= 9
    assert breaker.state(13.5) == "half-open" and breaker.admits(13.5)
    breaker.begin()
    assert not breaker.admits(13.5), "one request tries it, not all"
    breaker.succeeded(14.0)
    assert breaker.closed and breaker.admits(14.0)


def test_a_failed_probe_doubles_the_pause_up_to_a_bound() -> None:
    breaker = Breaker(consecutive=1, pause_s=1, max_pause_s=4)
    breaker.failed(0.0)
    now, pauses = 0.0, []
    for _ in range(5):
        now = breaker.open_until
        breaker.begin()
        assert breaker.failed(now)
        pauses.append(breaker.open_until - now)
    assert 2 <= pauses[0] <= 2.4 and 4 <= pauses[1] <= 4.8 and max(pauses) <= 4.8


def test_a_share_of_failures_opens_it_too() -> None:
    breaker = Breaker(consecutive=100, minimum=10, share=0.5)
    opened = []
    for number in range(20):
        opened.append(breaker.failed(number / 10))
        if not breaker.closed:
            break
        breaker.succeeded(number / 10)
    assert opened[-1] and 5 <= len(opened) <= 6


@pytest.mark.parametrize(
    ("given", "kept"),
    [(12.5, 12.5), (0, 0), (-1, None), ("12", None), (True, None), (1e12, None), (None, None)],
)
def test_the_engines_time_is_kept_when_it_is_one(given, kept):
    from inference.upstreams.answers import usage_clean

    body = {"usage": {"prompt_tokens": 1, "completion_tokens": 2, "compute_ms": given}}
    usage_clean(body)

    assert body["usage"].get("compute_ms") == kept
