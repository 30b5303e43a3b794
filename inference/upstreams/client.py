"""Calls to OpenAI-compatible engines: which one, how patiently, how often, and what to make of the answer.

Blocking and cheap: one request is one ``sendall`` and about one ``recv`` per part of the answer, in the thread
that asks. A :class:`Channel` is one upstream with its idle connections, a :class:`Pool` what a release may use.
Nothing here logs or raises a prompt, an answer or a key.
"""

from __future__ import annotations

import random
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import orjson

from inference.upstreams.answers import answer_of, error_event, event_of, refusal_of
from inference.upstreams.breaker import Breaker
from inference.upstreams.connection import Connection, Dropped
from inference.upstreams.endpoint import Endpoint, locate
from inference.upstreams.errors import (
    UpstreamBroken,
    UpstreamBusy,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from inference.upstreams.fairness import Gate
from inference.upstreams.sse import EventTooLarge, SseParser

__all__ = [
    "Answer",
    "Channel",
    "Pool",
    "Stream",
    "UpstreamBroken",
    "UpstreamBusy",
    "UpstreamError",
    "UpstreamRejected",
    "UpstreamTimeout",
    "UpstreamUnavailable",
]

# Bytes of one whole answer (embeddings of a large batch are the largest), of a refusal's text, of one stream.
MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_REFUSAL_BYTES = 64 * 1024
MAX_STREAM_BYTES = 256 * 1024 * 1024
# Seconds. A connection idle for less than the first is used without looking at it first.
_TRUSTED_IDLE_S = 1.0
_MAX_IDLE_S = 30.0
_MAX_AGE_S = 600.0
# Attempts after the first, and the largest pause before one at the same upstream, seconds.
RETRIES = 2
_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. Times in milliseconds; ``upstream`` is the name of the one that answered.

    ``body`` is checked (see ``answers``): ``usage`` is present only when it can be believed.
    """

    status: int
    body: dict[str, Any]
    upstream: str
    queue_ms: float
    first_byte_ms: float
    total_ms: float
    attempts: int


@dataclass(slots=True)
class ChannelStats:
    """Counts since the process started. ``recent_ms``: first-byte times of the last answers."""

    answered: int = 0
    failed: int = 0
    aborted: int = 0
    last_error: str = ""
    last_error_at: float = 0.0
    last_answer_at: float = 0.0
    recent_ms: deque[float] = field(default_factory=lambda: deque(maxlen=128))


class Channel:
    """One upstream: its connections, its breaker, its count of requests under way.

    ``refuse``: see :meth:`Connection.open`.
    """

    def __init__(self, endpoint: Endpoint, *, refuse: Callable[[str, int], str] | None = None) -> None:
        self.endpoint = endpoint
        self.location = locate(endpoint.url)
        self.breaker = Breaker()
        self.in_flight = 0
        self.credit = 0.0
        self.weight = max(1, endpoint.weight)
        self.limit = max(1, endpoint.max_concurrency)
        self.stats = ChannelStats()
        self._refuse = refuse if endpoint.guarded else None
        self._context = ssl.create_default_context() if self.location.tls else None
        # list.append and list.pop are atomic; the last returned is the first reused.
        self._idle: list[Connection] = []
        self._closed = False
        self._heads: dict[str, bytes] = {}
        self._prefixes: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"<Channel {self.endpoint.name}>"

    # ------------------------------------------------------------------ connections
    def take(self, now: float) -> Connection | None:
        """An idle connection that is worth trying; None when there is none."""
        while True:
            try:
                found = self._idle.pop()
            except IndexError:
                return None
            idle_s = now - found.idle_since
            if (
                idle_s > _MAX_IDLE_S
                or now - found.born > _MAX_AGE_S
                or ((idle_s > _TRUSTED_IDLE_S or not found.complete) and not found.alive())
            ):
                found.close()
                continue
            return found

    def connect(self, deadline: float) -> Connection:
        """A new connection. Raises UpstreamUnavailable, UpstreamTimeout."""
        left = deadline - time.monotonic()
        timeout_s = min(self.endpoint.connect_timeout_s, left)
        if timeout_s <= 0:
            raise UpstreamTimeout("The request's time ran out before the engine was asked.", counts=False)
        return Connection.open(self.location, timeout_s=timeout_s, context=self._context, refuse=self._refuse)

    def keep(self, connection: Connection) -> None:
        """Take a connection back for the next request."""
        if self._closed or len(self._idle) >= self.limit:
            connection.close()
            return
        connection.idle_since = time.monotonic()
        self._idle.append(connection)

    def retire(self) -> None:
        """Close what is idle and keep nothing from now on. Requests under way end as they will."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    # ------------------------------------------------------------------ requests
    def request(
        self, method: str, path: str, body: bytes, *, traceparent: str = "", streamed: bool = False
    ) -> bytes:
        """The bytes of a whole HTTP request."""
        name = f"{method} {path} {streamed}"
        head = self._heads.get(name)
        if head is None:
            endpoint, location = self.endpoint, self.location
            lines = [
                f"{method} {location.path}{path} HTTP/1.1",
                f"Host: {location.authority}",
                f"Accept: {'text/event-stream' if streamed else 'application/json'}",
                "Accept-Encoding: identity",
                "User-Agent: signoff-gateway",
            ]
            if endpoint.api_key:
                lines.append(f"Authorization: Bearer {endpoint.api_key}")
            if method == "POST":
                lines.append("Content-Type: application/json")
            head = self._heads[name] = "\r\n".join(lines).encode("latin-1") + b"\r\n"
        if traceparent and traceparent.isascii() and traceparent.isprintable():
            head += b"traceparent: " + traceparent.encode("ascii") + b"\r\n"
        if method == "POST":
            return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
        return head + b"\r\n"

    def body_for(self, body: bytes | Mapping[str, Any], model: str) -> bytes:
        """The JSON to send, with this upstream's name of the model in it."""
        if isinstance(body, bytes):
            prefix = self._prefixes.get(model)
            if prefix is None:
                prefix = self._prefixes[model] = b'{"model":' + orjson.dumps(model) + b","
                if len(self._prefixes) > 1000:
                    self._prefixes.clear()
            if body[:1] != b"{":
                raise ValueError("The body must be a JSON object.")
            return prefix + body[1:] if body[1:2] != b"}" else prefix[:-1] + b"}"
        return orjson.dumps({**body, "model": model})

    def hidden(self) -> tuple[str, ...]:
        """Texts that no message to a caller may hold."""
        location = self.location
        return (self.endpoint.api_key, self.endpoint.url, f"{location.host}:{location.port}", location.host)

    def begin(self, request: bytes, *, deadline: float, first_byte_s: float) -> tuple[Connection, float]:
        """Send a request and read the answer's head. Gives the connection and the time of asking.

        A kept-alive connection that turns out to be closed is replaced once, without delay.
        """
        for fresh in (False, True):
            now = time.monotonic()
            connection = None if fresh else self.take(now)
            reused = connection is not None
            if connection is None:
                connection = self.connect(deadline)
                now = time.monotonic()
            left = deadline - now
            try:
                if left <= 0:
                    raise UpstreamTimeout(
                        "The request's time ran out before the engine was asked.", counts=False
                    )
                timeout_s = min(first_byte_s, left)
                connection.send(request, timeout_s=timeout_s)
                connection.read_head(timeout_s=timeout_s)
            except Dropped:
                connection.close()
                if reused:
                    continue
                raise
            except BaseException:
                connection.close()
                raise
            return connection, now
        raise AssertionError("not reached: a fresh connection raises or returns")

    def collect(self, connection: Connection, *, deadline: float, limit: int) -> bytes:
        """The rest of a body as one piece. Raises UpstreamBroken above ``limit`` bytes."""
        parts: list[bytes] = []
        chunk_s = self.endpoint.chunk_timeout_s
        while True:
            if connection.complete and not connection.pieces:
                break
            left = deadline - time.monotonic()
            if left <= 0:
                raise UpstreamTimeout("The engine's answer took longer than the time allowed.")
            part = connection.read(timeout_s=min(chunk_s, left))
            if part is None:
                break
            parts.append(part)
            if connection.received > limit:
                raise UpstreamBroken("The engine's answer is too large.", retry="")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def refusal(self, connection: Connection, *, deadline: float) -> UpstreamError:
        """Read an answer other than 200 and say what it means."""
        try:
            text = self.collect(
                connection, deadline=min(deadline, time.monotonic() + 5.0), limit=MAX_REFUSAL_BYTES
            )
        except UpstreamError:
            text = b""
        error = refusal_of(
            connection.status,
            text,
            retry_after=connection.headers.get(b"retry-after"),
            hide=self.hidden(),
        )
        if connection.reusable:
            self.keep(connection)
        else:
            connection.close()
        return error

    def noted(self, error: UpstreamError) -> None:
        """Remember a failure for the page."""
        if error.counts:
            self.stats.failed += 1
            self.stats.last_error = error.message
            self.stats.last_error_at = time.time()


class Stream:
    """An answer that comes in pieces: iterate for the parsed events, close (or leave the ``with``) to abort.

    The first event has arrived when the stream is handed out. Iteration ends after the engine's ``[DONE]``;
    :attr:`finished` is True then. Raises UpstreamBroken or UpstreamTimeout from the middle. Closing from another
    thread is allowed and wakes the reader, who gets UpstreamBroken.
    """

    __slots__ = (
        "_channel",
        "_chunk_s",
        "_closed",
        "_connection",
        "_deadline",
        "_events",
        "_gate",
        "_last_finish",
        "_lock",
        "_parser",
        "asked_at",
        "attempts",
        "finished",
        "first_byte_ms",
        "queue_ms",
        "status",
        "upstream",
    )

    def __init__(
        self, gate: Gate[Channel], channel: Channel, connection: Connection, *, deadline: float
    ) -> None:
        self._gate = gate
        self._channel = channel
        self._connection = connection
        self._deadline = deadline
        self._chunk_s = channel.endpoint.chunk_timeout_s
        self._parser = SseParser()
        self._events: deque[dict[str, Any]] = deque()
        self._closed = False
        self._last_finish = False
        self._lock = threading.Lock()
        self.finished = False
        self.status = connection.status
        self.upstream = channel.endpoint.name
        self.queue_ms = 0.0
        self.first_byte_ms = 0.0
        self.asked_at = 0.0
        self.attempts = 1

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        events = self._events
        if not events:
            if not self.finished:
                self._advance()
            if not events:
                self.close()
                raise StopIteration
        return events.popleft()

    def _prime(self, wait_s: float) -> None:
        """Read up to the first event. A failure leaves the place to the caller, who may ask elsewhere."""
        try:
            self._read(wait_s)
        except BaseException:
            with self._lock:
                self._closed = True
            self._connection.close()
            raise

    def _advance(self) -> None:
        """Read until there is an event or the end."""
        try:
            if self._closed:
                raise UpstreamBroken("The stream was closed.", counts=False)
            self._read(self._chunk_s)
        except UpstreamError as error:
            self._end(error)
            raise

    def _read(self, wait_s: float) -> None:
        connection, events = self._connection, self._events
        try:
            while not events and not self.finished:
                left = self._deadline - time.monotonic()
                if left < wait_s:
                    if left <= 0:
                        raise UpstreamTimeout("The engine's answer took longer than the time allowed.")
                    wait_s = left
                piece = connection.read(timeout_s=wait_s)
                if piece is None:
                    if not self._last_finish:
                        raise UpstreamBroken("The engine ended its stream before the answer was complete.")
                    self.finished = True
                    return
                if connection.received > MAX_STREAM_BYTES:
                    raise UpstreamBroken("The engine's stream is too large.")
                for data in self._parser.feed(piece):
                    if data.strip() == b"[DONE]":
                        self.finished = True
                        return
                    event = event_of(data)
                    for choice in event["choices"]:
                        if choice.get("finish_reason"):
                            self._last_finish = True
                    events.append(event)
                if self._parser.error is not None:
                    raise error_event(self._parser.error)
        except EventTooLarge as error:
            raise UpstreamBroken("The engine's stream holds an event that is too large.") from error
        except UpstreamError as error:
            if not events:
                raise
            # What came before the failure is delivered first; the failure is met on the next read.
            connection.close()
            self._connection = _Failed(error)  # type: ignore[assignment]

    def close(self) -> None:
        """End the stream: a finished one gives its connection back, an unfinished one is cut at once."""
        if not self._closed:
            self._end(None)

    def _end(self, error: UpstreamError | None) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        connection, channel = self._connection, self._channel
        if error is None and self.finished:
            if connection.reusable or (connection.keep_alive and connection.drain()):
                channel.keep(connection)
            elif connection.keep_alive and not connection.complete:
                channel.keep(connection)  # its end has not arrived yet; looked at before it is used again
            else:
                connection.close()
            channel.stats.answered += 1
            channel.stats.last_answer_at = time.time()
            channel.stats.recent_ms.append(self.first_byte_ms)
            self._gate.release(channel, failed=False)
            return
        connection.close()
        if error is None:
            channel.stats.aborted += 1
            # It was answering when we cut it off: that is a working upstream.
            self._gate.release(channel, failed=False)
        else:
            channel.noted(error)
            self._gate.release(channel, failed=True if error.counts else None)

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()


class _Failed:
    """Stands for a connection that failed after events which have not been read yet."""

    keep_alive = complete = reusable = False
    received = 0

    def __init__(self, error: UpstreamError) -> None:
        self._error = error

    def read(self, *, timeout_s: float) -> bytes | None:
        raise self._error

    def close(self) -> None:
        """Closed already."""


class Pool:
    """What one release may ask: the upstreams behind one gate.

    ``model``: the name to ask for; "" takes each upstream's own (``Endpoint.model``).
    """

    def __init__(self, gate: Gate[Channel], *, model: str = "") -> None:
        self.gate = gate
        self.model = model

    def complete(
        self,
        path: str,
        body: bytes | Mapping[str, Any],
        *,
        tenant: str,
        traceparent: str = "",
        deadline: float | None = None,
    ) -> Answer:
        """Ask and wait for the whole answer.

        Args:
            path: below the engine's base URL, such as ``/chat/completions``.
            body: the request as a mapping, or as JSON bytes of an object **without** ``model``; the name that the
                chosen upstream knows is put in.
            tenant: whose turn it is in the queue.
            deadline: of ``time.monotonic()``, seconds; at most the upstream's total timeout applies.
        Raises:
            UpstreamBusy, UpstreamUnavailable, UpstreamTimeout, UpstreamRejected, UpstreamBroken.
        """
        return self._attempt(
            lambda channel, until: self._complete_once(channel, path, body, traceparent, until),
            tenant=tenant,
            deadline=deadline,
        )

    def stream(
        self,
        path: str,
        body: bytes | Mapping[str, Any],
        *,
        tenant: str,
        traceparent: str = "",
        deadline: float | None = None,
    ) -> Stream:
        """Ask for a stream (``stream: true`` must be in the body) and wait for its first event.

        Failures before that are retried like those of :meth:`complete` and raise the same errors; so our own
        client can still be told with a status. Arguments as for :meth:`complete`.
        """
        return self._attempt(
            lambda channel, until: self._stream_once(channel, path, body, traceparent, until),
            tenant=tenant,
            deadline=deadline,
        )

    # ------------------------------------------------------------------ one after the other
    def _attempt(self, once: Callable[[Channel, float], Any], *, tenant: str, deadline: float | None) -> Any:
        started = time.monotonic()
        gate = self.gate
        until = deadline if deadline is not None else started + 86_400.0
        excluded: list[Channel] = []
        attempts = 0
        failure: UpstreamError | None = None
        while True:
            try:
                channel = gate.acquire(tenant, deadline=until, excluded=excluded)
            except UpstreamError as error:
                raise (failure or error) from None
            attempts += 1
            asked = time.monotonic()
            try:
                found = once(channel, min(until, asked + channel.endpoint.total_timeout_s))
            except UpstreamError as error:
                channel.noted(error)
                # A refusal as wrong shows a working upstream; other failures that do not count show nothing.
                works = False if isinstance(error, UpstreamRejected) else None
                gate.release(channel, failed=True if error.counts else works)
                failure = error
            except BaseException:
                gate.release(channel, failed=None)
                raise
            else:
                if type(found) is Stream:  # it gives the place back itself
                    found.queue_ms = (asked - started) * 1000.0
                    found.attempts = attempts
                    return found
                body, status, first_ms = found
                stats = channel.stats
                stats.answered += 1
                stats.last_answer_at = time.time()
                stats.recent_ms.append(first_ms)
                gate.release(channel, failed=False)
                now = time.monotonic()
                return Answer(
                    status,
                    body,
                    channel.endpoint.name,
                    (asked - started) * 1000.0,
                    first_ms,
                    (now - started) * 1000.0,
                    attempts,
                )
            if attempts > RETRIES or not failure.retry:
                raise failure
            if gate.has_other([*excluded, channel]):
                excluded.append(channel)
            elif failure.retry != "anywhere":
                raise failure
            else:
                excluded.clear()
                pause = random.uniform(0.2, 1.0) * _PAUSE_S * attempts  # noqa: S311 (spreads load)
                if time.monotonic() + pause >= until:
                    raise failure
                time.sleep(pause)

    def _complete_once(
        self, channel: Channel, path: str, body: bytes | Mapping[str, Any], traceparent: str, until: float
    ) -> tuple[dict[str, Any], int, float]:
        request = channel.request(
            "POST",
            path,
            channel.body_for(body, self.model or channel.endpoint.model),
            traceparent=traceparent,
        )
        connection, asked = channel.begin(
            request, deadline=until, first_byte_s=channel.endpoint.first_byte_timeout_s
        )
        first_ms = (time.monotonic() - asked) * 1000.0
        if connection.status != 200:
            raise channel.refusal(connection, deadline=until)
        try:
            data = channel.collect(connection, deadline=until, limit=MAX_ANSWER_BYTES)
        except BaseException:
            connection.close()
            raise
        kind = connection.headers.get(b"content-type", b"")
        if connection.reusable:
            channel.keep(connection)
        else:
            connection.close()
        if b"json" not in kind.lower() and kind:
            raise UpstreamBroken("The engine answered with something other than JSON.", retry="elsewhere")
        return answer_of(data, path=path), 200, first_ms

    def _stream_once(
        self, channel: Channel, path: str, body: bytes | Mapping[str, Any], traceparent: str, until: float
    ) -> Stream:
        request = channel.request(
            "POST",
            path,
            channel.body_for(body, self.model or channel.endpoint.model),
            traceparent=traceparent,
            streamed=True,
        )
        first_s = channel.endpoint.first_byte_timeout_s
        connection, asked = channel.begin(request, deadline=until, first_byte_s=first_s)
        if connection.status != 200:
            raise channel.refusal(connection, deadline=until)
        kind = connection.headers.get(b"content-type", b"")
        if not kind.lower().startswith(b"text/event-stream"):
            connection.close()
            raise UpstreamBroken("The engine answered with something other than a stream.", retry="elsewhere")
        stream = Stream(self.gate, channel, connection, deadline=until)
        try:
            stream._prime(first_s)
        except UpstreamError as error:
            if not error.retry and isinstance(error, UpstreamBroken):
                error.retry = "elsewhere"  # nothing has left yet
            raise
        except BaseException:
            connection.close()
            raise
        stream.asked_at = asked
        stream.first_byte_ms = (time.monotonic() - asked) * 1000.0
        return stream
