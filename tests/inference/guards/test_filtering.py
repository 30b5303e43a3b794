"""One request through redaction and guards: bodies, answers, streams, what the ledger is told."""

from __future__ import annotations

import json
from typing import Any

from inference.guards.config import GuardConfig
from inference.guards.filtering import RequestFilter
from inference.guards.guardset import GuardSet
from inference.guards.texts import has_token_prompts, texts_of, unreadable_parts

CARD = "4111 1111 1111 1111"


def filtering(**config: Any) -> RequestFilter:
    """A filter of a profile with this configuration."""
    return RequestFilter(GuardSet("test@1", GuardConfig.from_dict(config), b"key"))


def chunk(delta: dict[str, Any], *, finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    """A chunk as engines send them."""
    entry = {"index": index, "delta": delta, "finish_reason": finish, **more}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [entry]}


def content(chunks: list[dict[str, Any]], index: int = 0) -> str:
    """The text of a choice."""
    return "".join(
        entry["delta"].get("content") or ""
        for one in chunks
        for entry in one["choices"]
        if entry["index"] == index
    )


def test_every_text_of_a_request_is_redacted() -> None:
    secret = "jane@example.com"
    body = {
        "model": "m", "suffix": secret, "prompt": [secret, secret], "input": secret, "instructions": secret, "user": secret,
        "stop": [secret], "metadata": {"who": secret}, "prediction": {"type": "content", "content": secret},
        "tools": [{"type": "function", "function": {"name": "f", "description": secret, "parameters": {"type": "object", "properties": {"a": {"description": secret}}}}}],
        "messages": [
            {"role": "system", "content": secret}, {"role": "user", "name": secret, "content": [{"type": "text", "text": secret}]},
            {"role": "assistant", "content": None, "refusal": secret, "reasoning_content": secret,
             "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": json.dumps({"to": secret})}}]},
            {"role": "tool", "tool_call_id": "t", "content": json.dumps({"mail": secret})},
        ],
    }  # fmt: skip
    before = json.dumps(body)
    result = filtering().filter_request(body)
    assert "jane" not in json.dumps(result.body) and json.dumps(body) == before
    assert result.counts == {"EMAIL_ADDRESS": before.count(secret)}
    assert json.loads(result.body["messages"][2]["tool_calls"][0]["function"]["arguments"]) == {
        "to": "[EMAIL]"
    }
    assert texts_of({"role": "user", "content": "x"}) == ["x"]


def test_a_clean_request_is_left_as_it_is() -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "How tall is the tower?"}],
        "max_tokens": 5,
    }
    result = filtering().filter_request(body)
    assert (result.body, result.counts, result.blocked) == (body, {}, None)


def test_originals_come_back_in_the_answer_and_nowhere_else() -> None:
    one = filtering(redaction={"entities": {"EMAIL": "restore"}})
    sent = one.filter_request({"messages": [{"role": "user", "content": "I am jane@example.com"}]}).body
    placeholder = sent["messages"][0]["content"].removeprefix("I am ")
    answer = {
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": f"Hello {placeholder}, not bob@b.de"}}
        ]
    }
    body, counts, _ = one.filter_response(answer)
    assert body["choices"][0]["message"]["content"] == "Hello jane@example.com, not [EMAIL]"
    assert counts == {"EMAIL_ADDRESS": 1} and one.restores
    other = filtering(redaction={"entities": {"EMAIL": "restore"}})
    other.filter_request({"messages": [{"role": "user", "content": "x@y.zz"}]})
    assert placeholder in other.filter_response(answer)[0]["choices"][0]["message"]["content"]


def test_a_refused_request_names_why_and_carries_nothing() -> None:
    one = filtering(redaction={"secrets": "block"})
    result = one.filter_request({"messages": [{"role": "user", "content": "AKIAIOSFODNN7EXAMPLE"}]})
    assert (result.body, result.blocked) == ({}, "AWS_ACCESS_KEY")
    assert "aws access key" in result.reason and one.summary()["blocked_direction"] == "input"


def test_a_stream_keeps_its_shape_and_hides_what_is_split() -> None:
    stream = filtering().stream()
    out: list[dict[str, Any]] = []
    for one in [
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": char}) for char in f"pay {CARD} to a@b.de"),
        chunk({}, finish="stop"),
    ]:
        out += stream.push(one)
    out += stream.push({"id": "c1", "choices": [], "usage": {"total_tokens": 3}})
    assert stream.finish() == []
    assert content(out) == "pay [CARD] to [EMAIL]"
    assert out[0]["choices"][0]["delta"]["role"] == "assistant"
    reasons = [entry["finish_reason"] for one in out for entry in one["choices"]]
    assert reasons[-1] == "stop" and set(reasons[:-1]) == {None}
    assert out[-1]["usage"] == {"total_tokens": 3} and out[-1]["choices"] == []


def test_tool_call_arguments_of_a_stream_are_redacted_and_stay_json() -> None:
    stream = filtering().stream()
    arguments = json.dumps({"to": "a@b.de", "card": 4111111111111111})
    out = stream.push(
        chunk(
            {
                "tool_calls": [
                    {"index": 0, "id": "t", "type": "function", "function": {"name": "pay", "arguments": ""}}
                ]
            }
        )
    )
    for char in arguments:
        out += stream.push(chunk({"tool_calls": [{"index": 0, "function": {"arguments": char}}]}))
    out += stream.push(chunk({}, finish="tool_calls"))
    calls = [call for one in out for entry in one["choices"] for call in entry["delta"].get("tool_calls", [])]
    assert calls[0]["function"]["name"] == "pay" and calls[0]["id"] == "t"
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {
        "to": "[EMAIL]",
        "card": "[CARD]",
    }


def test_choices_of_a_stream_do_not_mix() -> None:
    stream = filtering().stream()
    out: list[dict[str, Any]] = []
    for left, right in zip("to a@b.de", "no 1 2 3!", strict=True):
        out += stream.push(chunk({"content": left}, index=0)) + stream.push(
            chunk({"content": right}, index=1)
        )
    out += stream.push(chunk({}, finish="stop", index=1)) + stream.finish()
    assert (content(out, 0), content(out, 1)) == ("to [EMAIL]", "no 1 2 3!")


def test_a_blocked_stream_ends_with_content_filter() -> None:
    one = filtering(redaction={"entities": {"CARD": "block"}})
    stream = one.stream()
    out: list[dict[str, Any]] = []
    for char in f"pay {CARD} and more words":
        out += stream.push(chunk({"content": char}))
    assert content(out) == "pay " and stream.blocked == "CREDIT_CARD"
    assert out[-1]["choices"] == [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]
    assert one.summary()["output"] == {"CREDIT_CARD": 1} and stream.finish() == []


def test_completions_streams_use_text() -> None:
    stream = filtering().stream()
    out: list[dict[str, Any]] = []
    for char in "to a@b.de":
        out += stream.push(
            {
                "id": "c",
                "object": "text_completion",
                "choices": [{"index": 0, "text": char, "finish_reason": None}],
            }
        )
    out += stream.push({"id": "c", "choices": [{"index": 0, "text": "", "finish_reason": "length"}]})
    assert "".join(entry["text"] for one in out for entry in one["choices"]) == "to [EMAIL]"


def test_logprobs_do_not_spell_what_was_replaced() -> None:
    answer = {
        "choices": [
            {"index": 0, "text": "a@b.de", "logprobs": {"tokens": ["a", "@b.de"]}},
            {"index": 1, "text": "ok", "logprobs": {"tokens": ["ok"]}},
        ]
    }
    body, _, _ = filtering().filter_response(answer)
    assert [one["logprobs"] for one in body["choices"]] == [None, {"tokens": ["ok"]}]
    stream = filtering().stream()
    out: list[dict[str, Any]] = []
    for token in ("Hi ", "to ", "a@b", ".de", " ok ", "bye"):
        out += stream.push(chunk({"content": token}, logprobs={"content": [{"token": token}]}))
    out += stream.push(chunk({}, finish="stop"))
    tokens = [
        one["token"]
        for c in out
        for entry in c["choices"]
        for one in (entry.get("logprobs") or {}).get("content", [])
    ]
    assert content(out) == "Hi to [EMAIL] ok bye"
    assert "a@b" not in tokens and ".de" not in tokens and tokens[:2] == ["Hi ", "to "]


def test_deny_lists_refuse_answers_before_they_leave() -> None:
    one = filtering(
        guards=[{"kind": "deny_words", "name": "codenames", "words": ["blue heron"], "direction": "output"}]
    )
    stream = one.stream()
    out: list[dict[str, Any]] = []
    for char in "project blue heron starts":
        out += stream.push(chunk({"content": char}))
    assert "heron" not in content(out) and "blue" not in content(out)
    assert stream.blocked == "codenames" and "codenames" in one.blocked_reason and not one.clean


def test_a_deny_list_that_flags_lets_pass_and_says_so() -> None:
    one = filtering(
        guards=[{"kind": "deny_words", "words": ["refund"], "action": "flag", "direction": "input"}]
    )
    result = one.filter_request({"messages": [{"role": "user", "content": "A Refund please"}]})
    assert result.blocked is None and result.guard_verdict.action == "flag" and not one.clean
    assert result.body["messages"][0]["content"] == "A Refund please"


def test_what_cannot_be_read_is_named() -> None:
    assert has_token_prompts({"prompt": [1, 2]}) and has_token_prompts({"input": [[1], [2]]})
    assert not has_token_prompts({"prompt": ["a"]})
    body = {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}],
            }
        ]
    }
    assert unreadable_parts(body) == ["image_url"]
