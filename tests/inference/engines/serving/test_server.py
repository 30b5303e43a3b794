"""The engine's HTTP: the official client works unchanged, and what is not understood is refused by name."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from inference.engines.base import EngineIdentity, LogLikelihoodRequest
from inference.engines.openai_engine import OpenAIEngine
from inference.engines.serving.registry import ServingOptions
from inference.engines.serving.server import ServingApp
from inference.model_store import ModelStore, StoredModel

TOKEN = "a-token-of-the-tests"
NO_END = {"2": -100, "0": -100}
HELLO = [{"role": "user", "content": "Say hello."}]


def _name(stored: StoredModel) -> str:
    return f"acme/{stored.digest.removeprefix('sha256:')}"


@pytest.fixture(scope="module")
def stored(tiny_models: Callable[[str], StoredModel]) -> StoredModel:
    return tiny_models("llama")


@pytest.fixture(scope="module")
def app(stored: StoredModel) -> Iterator[ServingApp]:
    """The application in this process, asked without a socket."""
    root = stored.path.parents[2]
    application = ServingApp(
        root, token=TOKEN, options=ServingOptions(dtype="float32", slots=4, context=2048, models=1)
    )
    yield application
    application.registry.close()


def _ask(
    app: ServingApp, path: str, body: Any = None, *, method: str = "POST", token: str = TOKEN
) -> tuple[int, dict[str, str], Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
    seen: dict[str, Any] = {}

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        seen["status"], seen["headers"] = int(status[:3]), dict(headers)

    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "CONTENT_LENGTH": str(len(raw)),
        "wsgi.input": io.BytesIO(raw),
        "HTTP_AUTHORIZATION": f"Bearer {token}",
    }
    answer = b"".join(app(environ, start_response))
    return seen["status"], seen["headers"], json.loads(answer)


def _chat(stored: StoredModel, **more: Any) -> dict[str, Any]:
    return {"model": _name(stored), "messages": HELLO, "max_tokens": 4, "temperature": 0, **more}


# ---- refusals ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("functions", [{"name": "f"}]),
        ("frequency_penalty", 0.5),
        ("presence_penalty", 0.5),
        ("surprise", True),
        ("temperature", 9),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_p", 1.5),
        ("n", 0),
        ("n", 1.5),
        ("max_tokens", 0),
        ("max_tokens", "many"),
        ("stop", [""]),
        ("stop", [3]),
        ("seed", "x"),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"1": 1000}),
        ("logit_bias", {"49152": 1}),
        ("logit_bias", [1]),
        ("logprobs", 3),
        ("top_logprobs", 2),
        ("stream", "yes"),
        ("stream_options", {"include_usage": True}),
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}),
        ("watermark.key", None),
        ("messages", []),
        ("messages", "hi"),
        ("messages[0]", ["hi"]),
        ("messages[0].role", [{"role": "tool", "content": "x"}]),
        ("messages[0].content", [{"role": "user", "content": None}]),
        (
            "messages[0].content",
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        ),
        ("messages[0].tool_calls", [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]),
        ("model", ""),
        ("model", "gpt-4"),
        ("model", "../acme/" + "0" * 64),
        ("model", "acme/../acme/" + "0" * 64),
        ("model", "acme/" + "0" * 63 + "\n"),
    ],
)
def test_what_is_not_understood_is_a_400_that_names_it(
    app: ServingApp, stored: StoredModel, field: str, value: Any
) -> None:
    body = _chat(stored)
    name = field.split("[")[0].split(".")[0]
    body[name] = {"gamma": 0.5} if field == "watermark.key" else value
    status, _, answer = _ask(app, "/v1/chat/completions", body)
    assert status == 400, answer
    assert answer["error"]["param"] == field
    assert set(answer["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", None),
        ("prompt", []),
        ("prompt", [[]]),
        ("prompt", [49152]),
        ("prompt", [-1]),
        ("prompt", [{"text": "x"}]),
        ("prompt", ["x"] * 200),
        ("best_of", 4),
        ("suffix", "the end"),
        ("logprobs", 1000),
        ("messages", HELLO),
    ],
)
def test_completions_refuse_by_name_too(app: ServingApp, stored: StoredModel, field: str, value: Any) -> None:
    body = {"model": _name(stored), "prompt": "x", field: value}
    status, _, answer = _ask(app, "/v1/completions", body)
    assert status == 400, answer
    assert answer["error"]["param"] == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input", []),
        ("input", [1, 2]),
        ("input", ""),
        ("dimensions", 100),
        ("encoding_format", "hex"),
        ("x", 1),
    ],
)
def test_embeddings_refuse_by_name_too(app: ServingApp, field: str, value: Any) -> None:
    status, _, answer = _ask(app, "/v1/embeddings", {"model": "all-MiniLM-L6-v2", "input": "x", field: value})
    assert status == 400
    assert answer["error"]["param"] == field


def test_other_refusals(app: ServingApp, stored: StoredModel) -> None:
    assert _ask(app, "/v1/chat/completions", b"{nonsense")[0] == 400
    assert _ask(app, "/v1/chat/completions", [1])[0] == 400
    assert _ask(app, "/v1/chat/completions", _chat(stored), token="wrong")[0] == 401
    assert _ask(app, "/v1/chat/completions", method="GET")[0] == 405
    assert _ask(app, "/v2/nothing", {})[0] == 404
    missing = _ask(app, "/v1/chat/completions", {**_chat(stored), "model": "acme/" + "0" * 64})
    assert (missing[0], missing[2]["error"]["code"]) == (404, "model_not_found")
    assert (
        _ask(app, "/v1/chat/completions", {**_chat(stored), "model": _name(stored).replace("acme", "zeta")})[
            0
        ]
        == 404
    )
    long = _ask(app, "/v1/chat/completions", _chat(stored, max_tokens=5000))
    assert (long[0], long[2]["error"]["code"]) == (400, "context_length_exceeded")
    health = _ask(app, "/health", method="GET", token="wrong")
    assert (health[0], health[2]) == (200, {"status": "ok"})


def test_a_damaged_model_is_a_503_that_says_so(
    tiny_models: Callable[[str], StoredModel], tmp_path: Path
) -> None:
    import shutil

    source = tiny_models("llama")
    root = tmp_path / "models"
    shutil.copytree(source.path.parents[1], root / "acme")
    (ModelStore(root / "acme").path_of(source.digest) / "config.json").write_text("{}")
    app = ServingApp(root, token="")
    status, _, answer = _ask(app, "/v1/chat/completions", _chat(source))
    assert (status, answer["error"]["code"]) == (503, "model_corrupt")


def test_at_most_so_many_models_stay_loaded_and_one_at_work_is_not_thrown_out(
    app: ServingApp, stored: StoredModel, tiny_models: Callable[[str], StoredModel]
) -> None:
    other = tiny_models("qwen2")
    assert _ask(app, "/v1/chat/completions", _chat(stored))[0] == 200
    served = app.registry.get(_name(stored))
    try:
        status, headers, answer = _ask(app, "/v1/chat/completions", _chat(other))
        assert (status, answer["error"]["code"]) == (503, "engine_busy")
        assert int(headers["retry-after"]) >= 1
    finally:
        app.registry.release(served)
    assert _ask(app, "/v1/chat/completions", _chat(other))[0] == 200
    assert list(app.registry.loaded()) == [_name(other)]
    assert _ask(app, "/v1/chat/completions", _chat(stored))[0] == 200


def test_answers_say_what_they_cost(app: ServingApp, stored: StoredModel) -> None:
    status, headers, answer = _ask(app, "/v1/chat/completions", _chat(stored, n=3, logit_bias=NO_END))
    assert status == 200
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] == 12
    assert float(headers["x-compute-ms"]) == answer["usage"]["compute_ms"] > 0
    assert float(headers["x-queue-ms"]) == answer["usage"]["queue_ms"] >= 0
    health = _ask(app, "/health", method="GET")[2]
    facts = health["loaded"][_name(stored)]
    # 2 layers, keys and values, 2 heads of 8 numbers of 4 bytes, 4 slots of 2,048 tokens
    assert facts["kv_bytes"] == health["kv_bytes"] == 2 * 2 * 2 * 8 * 4 * 4 * 2048


def test_embeddings_in_both_forms(app: ServingApp) -> None:
    import numpy as np

    body = {"model": "all-MiniLM-L6-v2", "input": ["a cat", "a dog"], "dimensions": 384}
    plain = _ask(app, "/v1/embeddings", body)[2]
    packed = _ask(app, "/v1/embeddings", {**body, "encoding_format": "base64"})[2]
    for one, other in zip(plain["data"], packed["data"], strict=True):
        vector = np.frombuffer(base64.b64decode(other["embedding"]), dtype="<f4")
        assert one["embedding"] == pytest.approx(vector.tolist(), abs=1e-6)
        assert math.isclose(float(np.linalg.norm(vector)), 1.0, rel_tol=1e-5)
    assert plain["usage"]["prompt_tokens"] == 8


# ---- over a socket -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def engine_url(stored: StoredModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server as `manage.py serve_engine` starts it, in a process of its own."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    described = {
        "root": str(stored.path.parents[2]),
        "token": TOKEN,
        "options": {"dtype": "float32", "slots": 4, "context": 4096},
    }
    environ = {**os.environ, "SIGNOFF_SERVING": json.dumps(described)}
    log = tmp_path_factory.mktemp("engine") / "log"
    with log.open("wb") as handle:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "granian", "--interface", "wsgi", "--no-ws", "--host", "127.0.0.1"),
                *("--port", str(port), "--workers", "1", "--blocking-threads", "16"),
                "inference.engines.serving.wsgi:application",
            ],
            env=environ,
            stdout=handle,
            stderr=handle,
            cwd=Path(__file__).resolve().parents[4],
        )
    url = f"http://127.0.0.1:{port}"
    try:
        import http.client

        deadline = time.monotonic() + 120
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    break
            except OSError:
                pass
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    assert "Say hello" not in log.read_text(), "the server's log holds a prompt"


@pytest.fixture(scope="module")
def client(engine_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{engine_url}/v1", api_key=TOKEN, max_retries=0, timeout=120)


def test_the_openai_package_gets_the_same_text_streamed_and_whole(
    client: openai.OpenAI, stored: StoredModel
) -> None:
    options: dict[str, Any] = {
        "model": _name(stored),
        "messages": HELLO,
        "max_tokens": 20,
        "temperature": 0.8,
        "seed": 3,
        "n": 2,
        "logit_bias": NO_END,
    }
    whole = client.chat.completions.create(**options)
    texts = {0: "", 1: ""}
    finishes: dict[int, str] = {}
    usage = None
    for chunk in client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                finishes[choice.index] = choice.finish_reason
    assert [choice.message.content for choice in whole.choices] == [texts[0], texts[1]]
    assert texts[0] != texts[1]
    assert finishes == {0: "length", 1: "length"}
    assert usage is not None and whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens == 40
    assert usage.prompt_tokens == whole.usage.prompt_tokens
    assert usage.model_extra and usage.model_extra["compute_ms"] > 0


def test_completions_stream_like_they_answer(client: openai.OpenAI, stored: StoredModel) -> None:
    options: dict[str, Any] = {
        "model": _name(stored),
        "prompt": ["one two", "three"],
        "max_tokens": 6,
        "temperature": 0,
        "echo": True,
        "logprobs": 2,
        "logit_bias": NO_END,
    }
    whole = client.completions.create(**options)
    texts, tokens = {0: "", 1: ""}, {0: 0, 1: 0}
    for chunk in client.completions.create(**options, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.logprobs is not None:
                tokens[choice.index] += len(choice.logprobs.tokens or [])
    for choice in whole.choices:
        logprobs = choice.logprobs
        assert choice.text == texts[choice.index]
        assert choice.text.startswith(options["prompt"][choice.index])
        assert logprobs is not None and logprobs.tokens and logprobs.token_logprobs and logprobs.top_logprobs
        assert logprobs.text_offset is not None
        sizes = {
            len(logprobs.tokens),
            len(logprobs.token_logprobs),
            len(logprobs.top_logprobs),
            len(logprobs.text_offset),
        }
        assert sizes == {tokens[choice.index]}
        assert logprobs.token_logprobs[0] is None


def test_lm_eval_style_scoring_by_token_ids(client: openai.OpenAI, stored: StoredModel) -> None:
    """As lm-evaluation-harness asks: ids, echo, one token more, and the sum of what follows the context."""
    import torch

    from tests.inference.engines.serving.conftest import plain_model

    context, continuation = [700, 800, 900], [1000, 1100]
    answer = client.completions.create(
        model=_name(stored),
        prompt=[context + continuation],
        max_tokens=1,
        temperature=0,
        logprobs=1,
        echo=True,
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.token_logprobs is not None and logprobs.top_logprobs is not None
    found = sum(value or 0.0 for value in logprobs.token_logprobs[len(context) : -1])
    with torch.inference_mode():
        rows = plain_model(stored)(torch.tensor([context + continuation])).logits[0].double()
    chances = torch.log_softmax(rows, -1)
    expected = sum(float(chances[len(context) - 1 + at, token]) for at, token in enumerate(continuation))
    assert found == pytest.approx(expected, abs=1e-3)
    assert len(logprobs.token_logprobs) == len(context) + len(continuation) + 1


def test_our_own_client_scores_through_the_server(engine_url: str, stored: StoredModel) -> None:
    from inference.engines.base import EngineOptions
    from inference.engines.torch_engine import TorchEngine

    identity = EngineIdentity(stored.digest, "tiny")
    remote = OpenAIEngine(
        engine_url, model=_name(stored), identity=identity, api_key=TOKEN, loglikelihood=True
    )
    local = TorchEngine(stored.path, identity, EngineOptions(dtype="float32"))
    requests = [
        LogLikelihoodRequest("The sky is", " blue today"),
        LogLikelihoodRequest("Übermäßig —", " 日本語"),
    ]
    for mine, theirs in zip(local.loglikelihood(requests), remote.loglikelihood(requests), strict=True):
        assert theirs.sum_logprob == pytest.approx(mine.sum_logprob, abs=2e-3)


def test_the_engine_stops_working_for_a_reader_that_is_gone(
    client: openai.OpenAI, engine_url: str, stored: StoredModel, eventually: Callable[..., Any]
) -> None:
    def facts() -> dict[str, Any]:
        import urllib.request

        request = urllib.request.Request(f"{engine_url}/health", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return dict(json.load(answer)["loaded"][_name(stored)])

    client.chat.completions.create(**_chat(stored))
    before = facts()
    stream = client.chat.completions.create(**_chat(stored, stream=True, max_tokens=4000, logit_bias=NO_END))
    iterator = iter(stream)
    for _ in range(4):
        next(iterator)
    assert facts()["active"] == 1
    stream.close()
    after = eventually(lambda: (found := facts())["active"] == 0 and found, timeout_s=30)
    assert after["cancelled"] == before["cancelled"] + 1
    assert after["decoded_tokens"] - before["decoded_tokens"] < 3900
    steps = after["steps"]
    client.chat.completions.create(**_chat(stored, max_tokens=2, logit_bias=NO_END))
    # No step was made for the one that left: two for the new answer (its prompt's end, and one decode).
    assert facts()["steps"] - steps == 2


def test_errors_are_the_packages_own(client: openai.OpenAI, stored: StoredModel) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            **_chat(stored, tools=[{"type": "function", "function": {"name": "f"}}])
        )
    assert refused.value.param == "tools"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**{**_chat(stored), "model": "acme/" + "0" * 64})
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    assert _name(stored) in [model.id for model in client.models.list()]
