"""The remote engine against a real HTTP server that speaks the protocol, well and badly."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from inference.engines.base import ChatMessage, GenerateRequest, LogLikelihoodRequest
from inference.engines.errors import BadRequest, EngineNotAble, EngineUnavailable
from inference.engines.openai_engine import OpenAIEngine


class Peer(ThreadingHTTPServer):
    """A small OpenAI-compatible server; ``mode`` chooses how it misbehaves."""

    daemon_threads = True
    mode = ""
    drops = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Peer

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.drops > 0:
            self.server.drops -= 1
            self.connection.close()
            return
        self.server.bodies.append(body)
        self.server.keys.append(self.headers.get("Authorization", ""))
        if self.server.mode in ("400", "503"):
            self.send_error(int(self.server.mode))
            return
        if body.get("echo"):
            self._json(self._echo(body))
        elif "input" in body:
            rows = [{"index": i, "embedding": [float(i)] * 384} for i in range(len(body["input"]))]
            self._json({"data": rows[::-1]})
        else:
            self._stream(body)

    def _json(self, data: dict[str, Any]) -> None:
        payload = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def _echo(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.server.mode == "no logprobs":
            return {"choices": [{"text": "x", "logprobs": None}]}
        words = body["prompt"].replace(" ", "| ").split("|")
        offsets = [sum(map(len, words[:i])) for i in range(len(words))]
        values = [None] + [-float(i) for i in range(1, len(words))]
        return {
            "choices": [
                {
                    "logprobs": {
                        "text_offset": [*offsets, len(body["prompt"])],
                        "token_logprobs": [*values, -99.0],
                        "top_logprobs": [None] + [{w: -1.0} for w in words[1:]] + [{"!": -99.0}],
                    }
                }
            ],
            "usage": {"prompt_tokens": len(words)},
        }

    def _stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        chat = "messages" in body
        for piece in ("Hel", "lo"):
            choice = {"delta": {"content": piece}} if chat else {"text": piece}
            self.wfile.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
        if self.server.mode != "broken stream":
            done = {
                "choices": [{"finish_reason": "stop"}],
                "usage": {"prompt_tokens": 5, "completion_tokens": 2},
            }
            self.wfile.write(b"data: " + json.dumps(done).encode() + b"\n\ndata: [DONE]\n\n")


@pytest.fixture
def peer() -> Iterator[Peer]:
    server = Peer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def engine(peer: Peer, **options: Any) -> OpenAIEngine:
    return OpenAIEngine(f"http://127.0.0.1:{peer.server_address[1]}/v1", model="m", **options)


def test_a_prompt_and_a_conversation_are_answered(peer: Peer) -> None:
    remote = engine(peer, api_key="secret")
    plain = GenerateRequest(prompt="Hi", max_tokens=3, stop=("\n",))
    chat = GenerateRequest(messages=(ChatMessage("user", "Hi"),))
    answers = remote.generate([plain, chat])
    assert [(a.text, a.finish_reason, a.tokens_in, a.tokens_out) for a in answers] == [
        ("Hello", "stop", 5, 2)
    ] * 2
    assert all(0 < a.first_token_ms <= a.total_ms for a in answers)
    assert {frozenset(b) & {"prompt", "messages"} for b in map(frozenset, peer.bodies)}
    assert peer.keys == ["Bearer secret"] * 2
    assert "secret" not in json.dumps(remote.environment())


def test_a_stream_arrives_in_pieces(peer: Peer) -> None:
    chunks = list(engine(peer).stream(GenerateRequest(prompt="Hi")))
    assert [chunk.text for chunk in chunks] == ["Hel", "lo", ""]
    assert chunks[-1].final is not None and chunks[-1].final.text == "Hello"


def test_a_dropped_connection_is_tried_once_more(peer: Peer) -> None:
    peer.drops = 1
    assert engine(peer).generate([GenerateRequest(prompt="Hi")])[0].text == "Hello"
    peer.drops = 2
    with pytest.raises(EngineUnavailable, match="cannot be reached"):
        engine(peer).generate([GenerateRequest(prompt="Hi")])


@pytest.mark.parametrize(
    ("mode", "error", "words"),
    [
        ("400", BadRequest, "answered 400"),
        ("503", EngineUnavailable, "answered 503"),
        ("broken stream", EngineUnavailable, "incomplete"),
    ],
)
def test_failures_are_told_apart(peer: Peer, mode: str, error: type[Exception], words: str) -> None:
    peer.mode = mode
    with pytest.raises(error, match=words):
        engine(peer).generate([GenerateRequest(prompt="Hi")])


def test_loglikelihood_adds_up_the_continuation_only(peer: Peer) -> None:
    remote = engine(peer, loglikelihood=True)
    (result,) = remote.loglikelihood([LogLikelihoodRequest("a b", " c d")])
    assert (result.sum_logprob, result.n_tokens, result.is_greedy) == (-5.0, 2, False)


def test_a_server_without_logprobs_is_said_to_be_unable(peer: Peer) -> None:
    with pytest.raises(EngineNotAble, match="not set up"):
        engine(peer).loglikelihood([LogLikelihoodRequest("a", " b")])
    peer.mode = "no logprobs"
    with pytest.raises(EngineNotAble, match="no log-probabilities"):
        engine(peer, loglikelihood=True).loglikelihood([LogLikelihoodRequest("a", " b")])


def test_embeddings_come_back_in_order(peer: Peer) -> None:
    vectors = engine(peer, embed=True).embed(["a", "b"])
    assert vectors[:, 0].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x/v1", "file:///etc/passwd"])
def test_a_wrong_address_is_refused(url: str) -> None:
    with pytest.raises(BadRequest, match="ENGINE_URL"):
        OpenAIEngine(url, model="m")
