"""HTTP/1.1 over one plain or TLS socket: blocking, kept alive, bounded in every direction.

httptools (the parser of Node.js, in C) reads what comes; nothing here knows about JSON or OpenAI.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable

import httptools

from inference.upstreams.endpoint import Location
from inference.upstreams.errors import UpstreamBroken, UpstreamError, UpstreamTimeout, UpstreamUnavailable

__all__ = ["Connection", "Dropped"]

_RECEIVE_BYTES = 65536
MAX_HEADER_BYTES = 65536
# Seconds. How long the next request waits for the last one's end before it opens a new connection instead.
_END_S = 0.005
_WANTED = frozenset({b"content-type", b"retry-after", b"content-length", b"transfer-encoding"})


class Dropped(UpstreamUnavailable):
    """The connection ended before a single byte of the answer came."""


class Connection:
    """One connection and the answer being read from it.

    A request is :meth:`send`, then :meth:`read_head` (status and headers), then :meth:`read` until it gives
    None. After that :attr:`reusable` says whether another request may follow. Any exception makes the
    connection unusable; the owner closes it.
    """

    __slots__ = (
        "_closed",
        "_header_bytes",
        "_informational",
        "_parser",
        "_socket",
        "_timeout",
        "_until_close",
        "born",
        "complete",
        "headers",
        "headers_done",
        "idle_since",
        "keep_alive",
        "pieces",
        "received",
        "requests",
        "status",
    )

    def __init__(self, connected: socket.socket, born: float) -> None:
        self._socket = connected
        self._closed = False
        self._timeout = -1.0
        self._parser = httptools.HttpResponseParser(self)
        self.born = born
        self.idle_since = born
        self.requests = 0
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.headers_done = False
        self.complete = False
        self.keep_alive = False
        self.pieces: list[bytes] = []
        self.received = 0
        self._header_bytes = 0
        self._until_close = False
        self._informational = False

    # ------------------------------------------------------------------ opening and closing
    @classmethod
    def open(
        cls,
        location: Location,
        *,
        timeout_s: float,
        context: ssl.SSLContext | None,
        refuse: Callable[[str, int], str] | None = None,
    ) -> Connection:
        """Connect, within ``timeout_s`` in all. ``refuse(address, port)`` says why not to, or "".

        The address that was checked is the one connected to, so a name that resolves differently the second
        time gains nothing.
        """
        until = time.monotonic() + timeout_s
        try:
            found = socket.getaddrinfo(location.host, location.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise UpstreamUnavailable(
                "The engine's host name cannot be resolved.", retry="elsewhere"
            ) from error
        refused = ""
        failure: OSError | None = None
        for family, kind, protocol, _, address in found:
            refused = refuse(str(address[0]), int(address[1])) if refuse is not None else ""
            if refused:
                continue
            left = until - time.monotonic()
            if left <= 0:
                break
            plain = socket.socket(family, kind, protocol)
            try:
                plain.settimeout(left)
                plain.connect(address)
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if context is not None:
                    plain.settimeout(max(0.01, until - time.monotonic()))
                    plain = context.wrap_socket(plain, server_hostname=location.host)
            except OSError as error:
                failure = error
                plain.close()
                continue
            return cls(plain, time.monotonic())
        if isinstance(failure, ssl.SSLCertVerificationError):
            raise UpstreamUnavailable("The engine's TLS certificate cannot be verified.", retry="elsewhere")
        if isinstance(failure, ssl.SSLError):
            raise UpstreamUnavailable("No TLS connection to the engine could be made.", retry="elsewhere")
        if failure is not None and not isinstance(failure, TimeoutError):
            raise UpstreamUnavailable("The engine refuses connections.", retry="anywhere") from failure
        if failure is None and refused:
            raise UpstreamUnavailable(f"The engine's address is not allowed. {refused}", retry="elsewhere")
        raise UpstreamTimeout(
            f"The engine did not accept a connection within {timeout_s:g} s.", retry="elsewhere"
        )

    def alive(self) -> bool:
        """Whether an idle connection is still open, with nothing unread on it but the end of its last answer."""
        if not self.complete and not self.drain(timeout_s=_END_S):
            return False
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        return not poller.poll(0)

    def close(self) -> None:
        """End it at once, also while another thread reads."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    # ------------------------------------------------------------------ asking
    def send(self, data: bytes, *, timeout_s: float) -> None:
        """Send a whole request. Raises Dropped when the other side has gone, UpstreamTimeout."""
        self._reset()
        self.requests += 1
        try:
            self._set_timeout(timeout_s)
            self._socket.sendall(data)
        except TimeoutError as error:
            raise UpstreamTimeout(
                "The engine did not take the request in time.", retry="elsewhere"
            ) from error
        except OSError as error:
            raise Dropped("The engine closed the connection.", retry="anywhere") from error

    # ------------------------------------------------------------------ reading
    def read_head(self, *, timeout_s: float) -> None:
        """Read until the headers are complete; part of the body may be in :attr:`pieces` then."""
        until = 0.0
        while not self.headers_done:
            if until == 0.0:
                self._set_timeout(timeout_s)
                until = time.monotonic() + timeout_s
            else:  # a drip of single bytes must not restart the clock
                self._set_timeout(max(0.001, until - time.monotonic()))
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except TimeoutError as error:
                raise UpstreamTimeout(
                    f"The engine did not begin to answer within {timeout_s:.3g} s."
                ) from error
            except OSError as error:
                raise self._ended() from error
            if not data:
                raise self._ended()
            self._header_bytes += len(data)
            self._feed(data)
            if not self.headers_done and self._header_bytes > MAX_HEADER_BYTES:
                raise UpstreamBroken("The engine sent headers that are too large.", retry="elsewhere")

    def read(self, *, timeout_s: float) -> bytes | None:
        """The next part of the body, or None at its end. Waits at most ``timeout_s`` for one.

        Raises:
            UpstreamTimeout: nothing came in time.
            UpstreamBroken: the connection ended too early, or what came is not HTTP.
        """
        pieces = self.pieces
        while not pieces:
            if self.complete:
                return None
            if timeout_s != self._timeout:
                self._set_timeout(timeout_s)
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except TimeoutError as error:
                raise UpstreamTimeout(
                    f"The engine fell silent for {timeout_s:.3g} s in its answer."
                ) from error
            except OSError as error:
                raise UpstreamBroken("The engine broke the connection off in its answer.") from error
            if not data:
                if self._until_close:
                    self.complete = True
                    return None
                raise UpstreamBroken("The engine ended its answer too early.")
            self._feed(data)
        if len(pieces) == 1:
            return pieces.pop()
        whole = b"".join(pieces)
        pieces.clear()
        return whole

    def drain(self, *, timeout_s: float = 0.0) -> bool:
        """Take what is left of the answer's end, waiting at most ``timeout_s``. True when it is complete."""
        try:
            while not self.complete and not self._until_close:
                self._set_timeout(timeout_s)
                data = self._socket.recv(_RECEIVE_BYTES)
                if not data:
                    return False
                self._feed(data)
                if self.pieces:
                    return False  # more than an end
        except (OSError, UpstreamError):
            return False
        return self.complete and self.keep_alive

    @property
    def reusable(self) -> bool:
        """The answer is complete and both sides keep the connection."""
        return self.complete and self.keep_alive and not self._closed

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            raise UpstreamBroken("The engine changed the protocol.", retry="elsewhere") from error
        except httptools.HttpParserError as error:
            self.keep_alive = False
            if self.complete:
                return  # garbage after the end is not part of the answer
            raise UpstreamBroken(
                "What the engine sent is not HTTP.", retry="" if self.headers_done else "elsewhere"
            ) from error

    def _ended(self) -> UpstreamError:
        if self._header_bytes:
            return UpstreamBroken("The engine ended its answer within the headers.", retry="elsewhere")
        return Dropped("The engine closed the connection without an answer.", retry="anywhere")

    def _set_timeout(self, timeout_s: float) -> None:
        self._socket.settimeout(timeout_s)
        self._timeout = timeout_s

    # ------------------------------------------------------------------ called by the parser
    def on_message_begin(self) -> None:
        if self.complete:  # a second answer to one request
            self.keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.complete:
            return
        name = name.lower()
        if name in _WANTED:
            self.headers[name] = value

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._informational = True
            self.headers.clear()
            return
        self.status = status
        self.headers_done = True
        self.keep_alive = self._parser.should_keep_alive()
        self._until_close = (
            b"content-length" not in self.headers
            and b"chunked" not in self.headers.get(b"transfer-encoding", b"").lower()
            and status not in {204, 304}
        )

    def on_body(self, body: bytes) -> None:
        if self.complete:
            return
        self.received += len(body)
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        if self._informational:
            self._informational = False
            return
        self.complete = True
