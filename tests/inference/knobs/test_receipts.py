"""Receipts: signed quickly, checked by anybody, forged by nobody."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django_tenants.utils import schema_context

from core.security.keys import public_key_raw
from core.security.services import tenant_key_rotate, tenant_public_keys, tenant_signing_key
from inference.caches.replay import replay_chunks
from inference.knobs import receipts
from inference.knobs.receipt_check import check, decode, encode, split
from inference.knobs.receipts import Receipt, ReceiptBroken, StreamedOutput, receipt_verify, sign_receipt
from tests.inference.caches.conftest import answer_of

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "Grüße 東京"}], "temperature": 0.2}


@pytest.fixture
def signed(db: None) -> str:
    receipts.keys_forget()
    answer = answer_of("Hello.")
    return sign_receipt(
        "alpha",
        Receipt(
            "req_1",
            receipts.request_digest(REQUEST),
            "sha256:" + "a" * 64,
            "p1",
            receipts.output_digest(answer),
            "42",
        ),
    )


def test_a_receipt_holds_for_its_request_and_answer(signed: str) -> None:
    found = receipt_verify(signed, request=REQUEST, answer=answer_of("Hello."))
    assert found.checked == ("request", "output")
    assert found.payload["tenant"] == "alpha" and found.payload["ledger_id"] == "42"
    assert len(signed) < 1000 and signed.isascii() and "\n" not in signed


def test_order_of_members_and_ids_do_not_matter(signed: str) -> None:
    answer = {**answer_of("Hello."), "id": "other", "created": 9}
    receipt_verify(signed, request=dict(reversed(REQUEST.items())), answer=answer)


@pytest.mark.parametrize(
    "other", [{"request": {**REQUEST, "temperature": 0.3}}, {"answer": answer_of("Hello!")}]
)
def test_it_is_about_nothing_else(signed: str, other: dict[str, Any]) -> None:
    with pytest.raises(ReceiptBroken, match="another"):
        receipt_verify(signed, **other)


def test_an_altered_receipt_does_not_hold(signed: str) -> None:
    parts = split(signed)
    changed = {**parts.payload, "release": "sha256:" + "b" * 64}
    version, keyid, _, signature = signed.split(".")
    forged = ".".join([version, keyid, encode(json.dumps(changed).encode()), signature])
    with pytest.raises(ReceiptBroken, match="signature"):
        receipt_verify(forged)
    for nonsense in (
        "",
        "v1.a.b",
        signed + ".x",
        "v1.x.!!.??",
        "v2" + signed[2:],
        "v1.k.e30." + encode(b"x" * 64),
    ):
        with pytest.raises(ReceiptBroken):
            receipt_verify(nonsense)


def test_another_tenants_receipt_is_not_ours(signed: str) -> None:
    with schema_context("beta"), pytest.raises(ReceiptBroken):
        receipt_verify(signed)


def test_receipts_of_a_retired_key_still_hold(signed: str) -> None:
    tenant_key_rotate()
    receipt_verify(signed)
    receipts.keys_forget()
    later = sign_receipt("alpha", Receipt("r", "x", "y", "z", "w"))
    assert split(later).keyid != split(signed).keyid
    receipt_verify(later)


def test_a_stream_has_the_digest_of_the_whole_answer() -> None:
    answer = answer_of("A sentence that is longer than one chunk of the stream would ever be, twice. " * 2)
    answer["choices"][0]["message"]["tool_calls"] = [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"city": "Paris"}'}}
    ]
    gathered = StreamedOutput()
    for chunk in replay_chunks(answer):
        gathered.add(chunk)
    assert gathered.digest() == receipts.output_digest(answer)
    text = {"object": "text_completion", "choices": [{"index": 0, "text": "abc", "finish_reason": "stop"}]}
    gathered = StreamedOutput()
    for chunk in replay_chunks(text, include_usage=False):
        gathered.add(chunk)
    assert gathered.digest() == receipts.output_digest(text)
    assert gathered.choices("text_completion")[0]["text"] == "abc"


def test_text_that_is_no_utf8_has_a_digest() -> None:
    assert receipts.request_digest({"x": "\ud800"}).startswith("sha256:")


def test_one_value_has_one_base64() -> None:
    with pytest.raises(ReceiptBroken):
        decode(encode(b"ab")[:-1] + "J")


def test_the_file_alone_checks_a_receipt(signed: str, tmp_path: Path) -> None:
    source = Path(settings.BASE_DIR) / "inference/knobs/receipt_check.py"
    copied = tmp_path / "receipt_check.py"
    copied.write_text(source.read_text())
    (tmp_path / "key.pem").write_text(tenant_signing_key().public_pem)
    (tmp_path / "request.json").write_text(json.dumps(REQUEST))
    (tmp_path / "receipt.txt").write_text(signed)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", str(copied), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    good = run("@receipt.txt", "--key", "key.pem", "--request", "request.json")
    assert good.returncode == 0 and good.stdout.startswith("holds, and is about this request")
    bad = run(signed[:-4] + "AAAA", "--key", "key.pem")
    assert bad.returncode == 1 and "does not hold" in bad.stdout
    assert run("@missing", "--key", "key.pem").returncode == 2


def test_the_key_given_must_be_the_one_that_signed(signed: str) -> None:
    tenant_key_rotate()
    other = next(k for name, k in tenant_public_keys().items() if name != split(signed).keyid)
    with pytest.raises(ReceiptBroken, match="not the key given"):
        check(signed, public_key_raw(other))
