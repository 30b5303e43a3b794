"""What is redacted on the way, whatever form the prompt has, and what the ledger and receipts say of it."""

from __future__ import annotations

import openai
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from inference.gateway import routing, tokens
from inference.guards.services import profile_save
from inference.knobs import receipts
from tests.inference.gateway.conftest import release

ADDRESS = "jane.doe@example.org"


def profile(in_schema, action):
    with in_schema("alpha"):
        made = profile_save(name="house", config={"redaction": {"entities": {"EMAIL_ADDRESS": action}}})
    return f"{made.name}@{made.version}"


def serve(gateway, in_schema, **config):
    with in_schema("alpha"):
        release("good", gateway.stub, version="5.0.0", config={"gateway": config})
    routing.forget()


def ask(gateway, text=f"Write to {ADDRESS}.", **more):
    return gateway.client().chat.completions.with_raw_response.create(
        model="helper@5.0.0", messages=[{"role": "user", "content": text}], **more
    )


def test_an_address_reaches_neither_engine_nor_ledger(gateway, in_schema, rows):
    serve(gateway, in_schema)
    ask(gateway)

    assert ADDRESS not in str(gateway.stub.seen.last_body)
    [row] = rows()
    assert sum(row.redactions["prompt"].values()) == 1
    assert ADDRESS not in str(row.__dict__)


def test_the_bound_is_that_of_the_redacted_prompt(gateway, in_schema, rows):
    serve(gateway, in_schema, guards=profile(in_schema, "restore"))
    ask(gateway, text="a@b.co " * 40)

    sent = gateway.stub.seen.last_body["messages"][0]["content"]
    assert len(sent.encode()) > len("a@b.co " * 40)
    assert rows()[0].reserved_in >= len(sent.encode())


def test_what_redaction_blocks_is_one_refused_row_and_no_call(gateway, in_schema, rows):
    serve(gateway, in_schema, guards=profile(in_schema, "block"))
    with pytest.raises(openai.BadRequestError) as caught:
        ask(gateway)

    assert caught.value.body["code"] == "content_blocked"
    assert [(row.status, row.error_code, row.reserved_nano) for row in rows()] == [
        ("refused", "content_blocked", 0)
    ]
    assert gateway.stub.seen.requests == 0


def test_token_ids_that_nobody_can_read_are_refused(gateway, in_schema, rows):
    serve(gateway, in_schema)
    with pytest.raises(openai.BadRequestError) as caught:
        gateway.client().completions.create(model="helper@5.0.0", prompt=[1, 2, 3])

    assert (caught.value.body["code"], caught.value.body["param"]) == ("unreadable_prompt", "prompt")
    assert [row.status for row in rows()] == ["refused"]


def test_token_ids_are_read_and_go_on_as_they_came_or_redacted(gateway, in_schema, monkeypatch):
    serve(gateway, in_schema)
    reader = Tokenizer(WordLevel({"?": 0, "hello": 1, ADDRESS: 2}, unk_token="?"))
    reader.pre_tokenizer = Whitespace()
    monkeypatch.setattr(tokens, "_tokenizer", lambda schema, digest: reader)
    client = gateway.client()

    client.completions.create(model="helper@5.0.0", prompt=[1, 1])
    assert gateway.stub.seen.last_body["prompt"] == [1, 1]
    client.completions.create(model="helper@5.0.0", prompt=[[1], [1, 2]])
    sent = gateway.stub.seen.last_body["prompt"]
    assert sent[0] == "hello" and ADDRESS not in sent[1] and sent[1].startswith("hello")


def test_a_receipt_comes_with_stored_answers_too_streamed_or_not(gateway, in_schema):
    serve(gateway, in_schema, cache={"exact": True}, receipts=True)
    body = {"model": "helper@5.0.0", "messages": [{"role": "user", "content": "Hello."}]}
    found = [ask(gateway, text="Hello.") for _ in range(2)]

    assert [raw.headers["x-signoff-cache"] for raw in found] == ["miss", "exact"]
    for raw in found:
        with in_schema("alpha"):
            receipts.receipt_verify(
                raw.headers["x-signoff-receipt"], request=body, answer=raw.parse().model_dump()
            )
    chunks = list(
        gateway.client().chat.completions.create(**body, stream=True)  # type: ignore[call-overload]
    )
    told = [
        chunk.model_extra["signoff"]["receipt"]
        for chunk in chunks
        if (chunk.model_extra or {}).get("signoff")
    ]
    assert len(told) == 1
    with in_schema("alpha"):
        receipts.receipt_verify(told[0], request={**body, "stream": True})
