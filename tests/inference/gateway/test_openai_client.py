"""The official openai package against the gateway: what it expects is what it gets."""

from __future__ import annotations

import openai
import pytest

MESSAGES = [{"role": "user", "content": "Say something."}]


def test_models_are_listed_and_found(gateway):
    client = gateway.client()

    assert {model.id for model in client.models.list()} == {"helper", "helper@1.0.0"}
    assert client.models.retrieve("helper@1.0.0").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("helper@9.9.9")


def test_chat_answers_with_the_release_and_its_usage(gateway, rows):
    raw = gateway.client().chat.completions.with_raw_response.create(model="helper", messages=MESSAGES)
    answer = raw.parse()

    assert answer.choices[0].message.content.startswith("The quick brown fox")
    assert answer.model == "helper@1.0.0"
    assert raw.headers["x-signoff-release"] == "helper@1.0.0"
    [row] = rows()
    assert (row.status, row.http_status) == ("ok", 200)
    assert (row.tokens_in, row.tokens_out) == (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert row.request_id == raw.headers["x-request-id"]
    assert row.bytes_out == len(raw.content)


def test_a_stream_holds_the_same_text_and_usage_when_asked(gateway, rows):
    client = gateway.client()
    whole = client.chat.completions.create(model="helper", messages=MESSAGES).choices[0].message.content

    chunks = list(
        client.chat.completions.create(
            model="helper", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices).strip() == whole
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    row = rows()[-1]
    assert row.stream and row.status == "ok"
    assert row.tokens_out == chunks[-1].usage.completion_tokens


def test_a_stream_without_asking_holds_no_usage(gateway, rows):
    chunks = list(gateway.client().chat.completions.create(model="helper", messages=MESSAGES, stream=True))

    assert all(chunk.usage is None for chunk in chunks)
    assert all(chunk.choices for chunk in chunks)
    assert rows()[-1].tokens_out > 0


def test_completions_and_responses(gateway):
    client = gateway.client()

    assert client.completions.create(model="helper", prompt="Say", max_tokens=40).choices[0].text
    answer = client.responses.create(model="helper", input="Say something.", instructions="Be brief.")
    assert answer.status == "completed"
    assert answer.output_text.startswith("The quick")
    assert gateway.stub.seen.last_body["messages"][0] == {"role": "system", "content": "Be brief."}


def test_responses_stream_ends_with_the_whole(gateway):
    with gateway.client().responses.stream(model="helper", input="Say something.") as stream:
        deltas = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()

    assert final.output_text == deltas
    assert final.usage.output_tokens > 0


WRONG = [
    ({"temperature": 3}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"n": 0}, "n"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"stop": [""]}, "stop"),
    ({"logit_bias": {"abc": 1}}, "logit_bias"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"metadata": {"a": 1}}, "metadata"),
    ({"store": True}, "store"),
    ({"best_of": 2}, "best_of"),
    ({"invented": 1}, "invented"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0]",
    ),
]


def test_what_cannot_be_done_is_refused_by_name(gateway, rows):
    for given, param in WRONG:
        extra = {key: value for key, value in given.items() if key != "messages"}
        with pytest.raises(openai.BadRequestError) as caught:
            gateway.client().chat.completions.create(
                model="helper", messages=given.get("messages", MESSAGES), extra_body=extra
            )

        assert caught.value.body["param"] == param
    assert gateway.stub.seen.requests == 0
    assert rows() == []


def test_parameters_reach_the_engine_unchanged_and_the_gateways_own_do_not(gateway):
    gateway.client().chat.completions.create(
        model="helper",
        messages=MESSAGES,
        temperature=0.5,
        seed=7,
        stop=["END"],
        logit_bias={"5": -100},
        user="anna",
        metadata={"conversation_id": "c1"},
        max_completion_tokens=9,
    )

    body = gateway.stub.seen.last_body
    assert (body["temperature"], body["seed"], body["stop"]) == (0.5, 7, ["END"])
    assert body["logit_bias"] == {"5": -100}
    assert body["max_tokens"] == 9
    assert not {"user", "metadata", "max_completion_tokens"} & set(body)


def test_the_release_decides_where_the_client_is_silent(gateway, in_schema):
    from tests.inference.gateway.conftest import release

    with in_schema("alpha"):
        release(
            "good", gateway.stub, version="2.0.0",
            config={
                "prompt": {"template": "Q: {input}\nA:", "chat": True, "system": "You are Ada."},
                "decoding": {"max_tokens": 33, "temperature": 0.1, "stop": ["\n\n"]},
            },
        )  # fmt: skip
    gateway.client().chat.completions.create(
        model="helper@2.0.0", messages=[{"role": "user", "content": "Why?"}], temperature=0.9
    )

    body = gateway.stub.seen.last_body
    assert body["messages"] == [
        {"role": "system", "content": "You are Ada."},
        {"role": "user", "content": "Q: Why?\nA:"},
    ]
    assert (body["max_tokens"], body["temperature"], body["stop"]) == (33, 0.9, ["\n\n"])


def test_wrong_addresses_are_told_in_openais_shape(gateway):
    import httpx2 as httpx

    for method, path, status in (
        ("GET", "/chat/completions", 405),
        ("POST", "/nowhere", 404),
        ("DELETE", "/models", 405),
    ):
        answer = httpx.request(method, gateway.url + path, headers={"Authorization": f"Bearer {gateway.key}"})

        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_bodies_that_are_no_request_are_400(gateway, rows):
    import httpx2 as httpx

    for body in (b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"model": 1}', b'{"model": "helper"}'):
        answer = httpx.post(
            gateway.url + "/chat/completions",
            content=body,
            headers={"Authorization": f"Bearer {gateway.key}"},
        )

        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert rows() == []
