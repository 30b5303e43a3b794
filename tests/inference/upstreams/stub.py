"""An OpenAI-compatible engine over real sockets that behaves well or badly, as the model's name asks.

The model's name chooses: ``good`` (or anything unknown) answers; the others are in :data:`MODES`. Runs as a
thread of the test, or by itself: ``python -m tests.inference.upstreams.stub 9000``. It counts what it served.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

MODES = (
    "good",
    "slow",  # answers after 0.3 s
    "stall-headers",  # never begins
    "stall-body",  # headers and half an answer, then nothing
    "stall-stream",  # three events, then nothing
    "keepalive-stream",  # comments between the events
    "crlf-stream",  # CRLF line ends
    "multiline-stream",  # an event's data in several lines
    "bytes-stream",  # every byte in its own segment
    "error-stream",  # an error event after two events
    "error-first",  # an error event first of all
    "named-error-stream",  # event: error
    "early-stream",  # closes after two events
    "early-chunk",  # closes within a chunk
    "no-done",  # ends properly but without [DONE]
    "garbage-stream",  # an event that is not JSON
    "list-stream",  # an event that is a list
    "number-content",  # content that is a number
    "garbage",  # no HTTP at all
    "chunk-garbage",  # a chunk size that is none
    "invalid-json",
    "html",  # HTML with status 200
    "html-json",  # HTML that calls itself JSON
    "text-stream",  # a stream of the wrong content type
    "early-body",  # less than content-length
    "close-first",  # accepts the request and closes
    "huge-body",
    "huge-header",
    "huge-event",
    "endless-stream",
    "status-204",
    "status-301",
    "status-400",
    "status-400-leak",  # repeats our Authorization header
    "status-401",
    "status-404",
    "status-422",
    "status-429",
    "status-500",
    "status-503",
    "negative-usage",
    "absurd-usage",
    "text-usage",
    "nan",
    "duplicate-keys",
    "no-choices",
    "zero-choices",
    "null-body",
    "no-message",
    "two-answers",  # a second answer nobody asked for
    "continue-first",  # 100 Continue before the answer
)
TEXT = "The quick brown fox jumps over the lazy dog again and again until the day is done and it rests."


@dataclass
class Seen:
    """What the stub noticed; all counts since its start."""

    requests: int = 0
    connections: int = 0
    finished: int = 0
    aborted: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    events: int = 0
    models: Counter[str] = field(default_factory=Counter)
    order: list[str] = field(default_factory=list)
    last_headers: dict[str, str] = field(default_factory=dict)
    last_body: dict[str, Any] = field(default_factory=dict)
    aborted_at: float = 0.0


class Stub:
    """A server in a thread. ``with Stub() as stub: stub.url`` is its base URL (``http://127.0.0.1:PORT/v1``).

    ``fail_first``: as many requests are answered 503 before it behaves. ``delay_s``: before each answer.
    ``event_gap_s``: between events of a stream. ``drop_idle``: closes a connection after each answer without
    saying so.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        delay_s: float = 0.0,
        event_gap_s: float = 0.0,
        events: int = 20,
        drop_idle: bool = False,
        fail_first: int = 0,
    ) -> None:
        self.seen = Seen()
        self.delay_s = delay_s
        self.event_gap_s = event_gap_s
        self.events = events
        self.drop_idle = drop_idle
        self.fail_first = fail_first
        self._wanted = port
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="stub-upstream")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Stub:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Stub:
        self._thread.start()
        self._ready.wait(10)
        return self

    def stop(self) -> None:
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        # What a broken client does to the stub is the test's business, not the log's.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)

        async def listen() -> asyncio.Server:
            return await asyncio.start_server(
                self._serve, "127.0.0.1", self._wanted, limit=1 << 22, backlog=512
            )

        server = self._loop.run_until_complete(listen())
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        try:
            self._loop.run_forever()
        finally:
            server.close()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    # ------------------------------------------------------------------ serving
    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in lines[1:] if line)
                }
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if not await self._answer(lines[0], headers, body, reader, writer):
                    break
                if self.drop_idle:
                    break
        writer.close()

    async def _answer(
        self,
        first: str,
        headers: dict[str, str],
        body: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        seen = self.seen
        path = first.split(" ")[1]
        if path.endswith("/models"):
            self._send(writer, {"object": "list", "data": [{"id": "good", "object": "model"}]})
            await writer.drain()
            return True
        request = json.loads(body or b"{}")
        model = str(request.get("model", "good"))
        seen.requests += 1
        seen.models[model] += 1
        seen.order.append(str(request.get("user", "")))
        seen.last_headers, seen.last_body = headers, request
        seen.in_flight += 1
        seen.most_in_flight = max(seen.most_in_flight, seen.in_flight)
        work = asyncio.ensure_future(self._work(model, path, request, headers, writer))
        # A client that goes away shows as the end of what can be read.
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                    await work
                seen.aborted += 1
                seen.aborted_at = time.monotonic()
                return False
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone
            try:
                keep = work.result()
            except ConnectionError:
                seen.aborted += 1
                seen.aborted_at = time.monotonic()
                return False
            seen.finished += 1
            return keep
        finally:
            seen.in_flight -= 1

    def _send(
        self,
        writer: asyncio.StreamWriter,
        body: object,
        *,
        status: str = "200 OK",
        kind: str = "application/json",
        extra: str = "",
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{extra}Content-Length: {len(data)}\r\n\r\n".encode()
            + data
        )

    async def _work(
        self,
        model: str,
        path: str,
        request: dict[str, Any],
        headers: dict[str, str],
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Answer; False to close the connection afterwards."""
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.fail_first > 0:
            self.fail_first -= 1
            model = "status-503"
        if model == "slow":
            await asyncio.sleep(0.3)
        if model == "stall-headers":
            await asyncio.sleep(3600)
        if model == "close-first":
            return False
        if model == "garbage":
            writer.write(b"\x00\xff\x13 this is not HTTP \r\n\r\n")
            await writer.drain()
            return False
        if model == "huge-header":
            writer.write(b"HTTP/1.1 200 OK\r\n")
            for number in range(4000):
                writer.write(b"X-Pad-%d: %b\r\n" % (number, b"x" * 100))
            await writer.drain()
            return False
        if model.startswith("status-"):
            return await self._refuse(model, headers, writer)
        if request.get("stream"):
            return await self._stream(model, path, request, writer)
        return await self._whole(model, path, request, writer)

    async def _refuse(self, model: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> bool:
        code = int(model.split("-")[1])
        extra = {
            301: "Location: http://169.254.169.254/\r\n",
            429: "Retry-After: 7\r\n",
            503: "Retry-After: 2\r\n",
        }
        message = f"refused with {code}"
        if model.endswith("leak"):
            message += f": your header was {headers.get('authorization')} for {headers.get('host')}"
        error = {
            "error": {"message": message, "type": "some_error", "param": "temperature", "code": "bad_value"}
        }
        if code == 204:
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            self._send(writer, error, status=f"{code} Said So", extra=extra.get(code, ""))
        await writer.drain()
        return True

    def _choice(self, path: str, text: str, position: int = 0) -> dict[str, Any]:
        if path.endswith("/chat/completions"):
            return {
                "index": position,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        return {"index": position, "text": text, "finish_reason": "stop", "logprobs": None}

    async def _whole(
        self, model: str, path: str, request: dict[str, Any], writer: asyncio.StreamWriter
    ) -> bool:
        if path.endswith("/embeddings"):
            self._send(
                writer,
                {
                    "object": "list",
                    "data": [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}],
                    "model": model,
                    "usage": {"prompt_tokens": 3, "total_tokens": 3},
                },
            )
            await writer.drain()
            return True
        chat = path.endswith("/chat/completions")
        answer: dict[str, Any] = {
            "id": "chatcmpl-stub" if chat else "cmpl-stub",
            "object": "chat.completion" if chat else "text_completion",
            "created": 1_700_000_000,
            "model": model,
            "choices": [self._choice(path, TEXT, index) for index in range(int(request.get("n") or 1))],
            "usage": {"prompt_tokens": 12, "completion_tokens": 20, "total_tokens": 32},
        }
        match model:
            case "negative-usage":
                answer["usage"] = {"prompt_tokens": -5, "completion_tokens": 20, "total_tokens": 15}
            case "absurd-usage":
                answer["usage"] = {"prompt_tokens": 12, "completion_tokens": 10**18, "total_tokens": 10**18}
            case "text-usage":
                answer["usage"] = {"prompt_tokens": "12", "completion_tokens": True}
            case "no-choices":
                del answer["choices"]
            case "zero-choices":
                answer["choices"] = []
            case "null-body":
                self._send(writer, b"null")
                await writer.drain()
                return True
            case "no-message":
                answer["choices"] = [{"index": 0, "finish_reason": "stop"}]
            case "number-content":
                answer["choices"] = [
                    {"index": 0, "message": {"role": "assistant", "content": 7}, "finish_reason": "stop"}
                ]
            case _:
                pass
        data = json.dumps(answer).encode()
        match model:
            case "invalid-json":
                self._send(writer, data[:-20])
            case "html":
                self._send(writer, b"<html><body>Welcome to nginx</body></html>", kind="text/html")
            case "html-json":
                self._send(writer, b"<html><body>Welcome to nginx</body></html>")
            case "nan":
                self._send(writer, data.replace(b'"completion_tokens": 20', b'"completion_tokens": NaN'))
            case "duplicate-keys":
                self._send(writer, b'{"choices": [],' + data[1:])
            case "early-body":
                head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data) + 99}\r\n\r\n"
                writer.write(head.encode() + data)
                await writer.drain()
                return False
            case "stall-body":
                head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
                writer.write(head.encode() + data[:40])
                await writer.drain()
                await asyncio.sleep(3600)
            case "chunk-garbage":
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
                    b"zz\r\n" + data
                )
                await writer.drain()
                return False
            case "huge-body":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
                while True:
                    writer.write(b"[" * 1_000_000)
                    await writer.drain()
            case "two-answers":
                self._send(writer, data)
                self._send(writer, data)
            case "continue-first":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                self._send(writer, data)
            case _:
                self._send(writer, data)
        await writer.drain()
        return True

    async def _stream(
        self, model: str, path: str, request: dict[str, Any], writer: asyncio.StreamWriter
    ) -> bool:
        kind = {"html": "text/html", "text-stream": "text/plain"}.get(model, "text/event-stream")
        writer.write(
            f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        end = "\r\n" if model == "crlf-stream" else "\n"

        async def chunk(data: bytes) -> None:
            whole = b"%x\r\n%b\r\n" % (len(data), data)
            if model == "bytes-stream":
                for at in range(len(whole)):
                    writer.write(whole[at : at + 1])
                    await writer.drain()
                    if at % 7 == 0:
                        await asyncio.sleep(0)
                return
            writer.write(whole)
            await writer.drain()

        async def event(value: object) -> None:
            text = value if isinstance(value, str) else json.dumps(value)
            if model == "multiline-stream" and not isinstance(value, str):
                text = json.dumps(value, indent=1)
            data = end.join(f"data: {line}" for line in text.split("\n")) + end * 2
            if model == "keepalive-stream":
                data = f": still here{end}{end}id: 7{end}" + data
            await chunk(data.encode())
            self.seen.events += 1

        chat = path.endswith("/chat/completions")

        def piece(text: str, reason: str | None = None) -> dict[str, Any]:
            choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
            if chat:
                choice["delta"] = {"content": text} if text else {}
            else:
                choice["text"] = text
            return {
                "id": "chatcmpl-stub",
                "object": "chat.completion.chunk" if chat else "text_completion",
                "created": 1_700_000_000,
                "model": model,
                "choices": [choice],
            }

        words = [word + " " for word in TEXT.split(" ")]
        if model == "error-first":
            await event({"error": {"message": "CUDA out of memory at 10.0.0.7", "code": 500}})
            await chunk(b"")
            return False
        number = 0
        while number < self.events or model == "endless-stream":
            if model == "stall-stream" and number == 3:
                await asyncio.sleep(3600)
            if number == 2:
                match model:
                    case "error-stream":
                        await event({"error": {"message": "CUDA out of memory at 10.0.0.7", "code": 500}})
                        return False
                    case "named-error-stream":
                        await chunk(b'event: error\ndata: {"message": "it broke"}\n\n')
                        return False
                    case "early-stream":
                        return False
                    case "early-chunk":
                        writer.write(b"ff\r\ndata: {")
                        await writer.drain()
                        return False
                    case "garbage-stream":
                        await event("{not json")
                    case "list-stream":
                        await event("[1, 2]")
                    case "number-content":
                        await event({"choices": [{"index": 0, "delta": {"content": 7}}]})
                    case "chunk-garbage":
                        writer.write(b"zz\r\nnonsense")
                        await writer.drain()
                        return False
                    case "huge-event":
                        with contextlib.suppress(ConnectionError):
                            for _ in range(64):
                                await chunk(b"data: " + b"x" * 1_000_000)
                        return False
            await event(piece(words[number % len(words)]))
            number += 1
            if self.event_gap_s or model == "endless-stream":
                await asyncio.sleep(self.event_gap_s or 0.001)
        await event(piece("", "stop"))
        if (request.get("stream_options") or {}).get("include_usage"):
            usage: dict[str, Any] = {
                "prompt_tokens": 12,
                "completion_tokens": number,
                "total_tokens": 12 + number,
            }
            if model == "negative-usage":
                usage["completion_tokens"] = -1
            if model == "absurd-usage":
                usage["completion_tokens"] = 10**18
            await event({**piece(""), "choices": [], "usage": usage})
        if model != "no-done":
            await event("[DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


def main() -> None:
    """Serve until interrupted."""
    stub = Stub(port=int(sys.argv[1]) if len(sys.argv) > 1 else 9000).start()
    print(stub.url, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
