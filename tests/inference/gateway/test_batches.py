"""/v1/files and /v1/batches, and how batches are carried out, whatever is killed."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone

from inference.gateway import batches, files
from inference.gateway.contract import Caller, GatewayProblem
from inference.gateway.models import Batch, BatchItem, GatewayFile, GatewayFileChunk
from inference.ledger import lanes, sealing
from tenants.accounts.models import ApiKey
from tests.conftest import process_environment

pytestmark = pytest.mark.django_db(transaction=True)
BOUNDARY = "----boundary7"
Answer = tuple[int, dict[str, Any]]


@pytest.fixture(autouse=True)
def _no_keys_of_other_databases() -> Iterator[None]:
    """What the ledger remembers of a database, connections included, goes with it."""
    for forget in (lanes.forget, sealing.forget):
        forget()
    yield
    for forget in (lanes.forget, sealing.forget):
        forget()


@pytest.fixture
def caller(api_key: Callable[..., str]) -> Caller:
    api_key("gateway.call")
    key = ApiKey.objects.latest("pk")
    return Caller(schema="alpha", key_id=key.key_id, key_pk=key.pk, scopes=("gateway.call",))


@pytest.fixture
def other(api_key: Callable[..., str]) -> Caller:
    api_key("gateway.call")
    key = ApiKey.objects.latest("pk")
    return Caller(schema="alpha", key_id=key.key_id, key_pk=key.pk, scopes=("gateway.call",))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts what was asked; an engine that answers by what the prompt says."""
    seen: Counter[str] = Counter()

    def serve(_: Caller, body: dict[str, Any], route: str, **__: Any) -> Answer:
        prompt = str(body.get("prompt"))
        seen[prompt] += 1
        if prompt.startswith("refuse"):
            return 400, {
                "error": {"message": "no", "type": "invalid_request_error", "param": None, "code": "bad"}
            }
        if prompt.startswith("broke"):
            return 429, {
                "error": {"message": "spent", "type": "insufficient_quota", "code": "insufficient_quota"}
            }
        if prompt.startswith("limit") and seen[prompt] == 1:
            return 429, {
                "error": {"message": "slow", "type": "rate_limit_error", "code": "rate_limit_exceeded"}
            }
        if prompt.startswith("flaky") and seen[prompt] < 3:
            return 503, {"error": {"message": "away", "type": "server_error", "code": "upstream_unavailable"}}
        if prompt.startswith("crash"):
            raise RuntimeError("a bug")
        return 200, {"echo": prompt, "usage": {"prompt_tokens": 3, "completion_tokens": 4}}

    monkeypatch.setattr(batches, "serve", serve)
    monkeypatch.setattr(batches, "_FIRST_PAUSE_S", 0.001)
    # Messages are the scheduler's and the broker's; each test is the worker itself.
    monkeypatch.setattr(batches, "_send", lambda *_, **__: None)
    return seen


def form(
    content: bytes, *, purpose: str = "batch", name: str = "in.jsonl", more: dict[str, str] | None = None
) -> dict[str, Any]:
    fields = {"purpose": purpose, **(more or {})}
    head = "".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
        for key, value in fields.items()
    )
    head += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return environ(head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode())


def environ(
    body: bytes, *, query: str = "", kind: str = f"multipart/form-data; boundary={BOUNDARY}"
) -> dict[str, Any]:
    return {
        "wsgi.input": io.BytesIO(body),
        "CONTENT_LENGTH": str(len(body)),
        "CONTENT_TYPE": kind,
        "QUERY_STRING": query,
    }


def upload(caller: Caller, content: bytes, **changes: Any) -> dict[str, Any]:
    status, document = files.handle_files("POST", "/v1/files", caller, form(content, **changes))
    assert status == 200 and isinstance(document, dict)
    return document


def line(custom_id: str, prompt: str, **changes: Any) -> bytes:
    request = {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": {"prompt": prompt}}
    return json.dumps(request | changes).encode()


def create(caller: Caller, file_id: str, **changes: Any) -> dict[str, Any]:
    body = {"input_file_id": file_id, "endpoint": "/v1/completions", "completion_window": "24h", **changes}
    status, document = batches.handle_batches(
        "POST", "/v1/batches", caller, environ(json.dumps(body).encode())
    )
    assert status == 200 and isinstance(document, dict)
    return document


def look(caller: Caller, batch_id: str) -> dict[str, Any]:
    document = batches.handle_batches("GET", f"/v1/batches/{batch_id}", caller, {})[1]
    assert isinstance(document, dict)
    return document


def content(caller: Caller, file_id: str) -> list[dict[str, Any]]:
    data = files.handle_files("GET", f"/v1/files/{file_id}/content", caller, {})[1]
    assert isinstance(data, bytes)
    return [json.loads(row) for row in data.splitlines()]


def started(caller: Caller, *lines: bytes) -> str:
    return str(create(caller, upload(caller, b"\n".join(lines))["id"])["id"])


# ---------------------------------------------------------------------- files
def test_a_file_is_kept_sealed_listed_given_back_and_deleted(caller: Caller, other: Caller) -> None:
    data = b"".join(b"line %d with a secret\n" % number for number in range(60_000))
    made = upload(caller, data, name="../dir/in put.jsonl")
    assert made["bytes"] == len(data) and made["purpose"] == "batch" and made["filename"] == "in put.jsonl"
    assert GatewayFileChunk.objects.count() > 1
    for sealed in GatewayFileChunk.objects.values_list("sealed", flat=True):
        assert b"secret" not in bytes(sealed)
    path = f"/v1/files/{made['id']}"
    assert files.handle_files("GET", f"{path}/content", caller, {})[1] == data
    listed = files.handle_files("GET", "/v1/files", caller, environ(b"", query="purpose=batch&limit=1"))[1]
    assert isinstance(listed, dict) and [row["id"] for row in listed["data"]] == [made["id"]]
    for method, where in (("GET", path), ("GET", f"{path}/content"), ("DELETE", path)):
        with pytest.raises(GatewayProblem) as refused:
            files.handle_files(method, where, other, {})
        assert refused.value.status == 404
    assert files.handle_files("DELETE", path, caller, {})[1] == {
        "id": made["id"],
        "object": "file",
        "deleted": True,
    }
    assert not GatewayFile.objects.exists() and not GatewayFileChunk.objects.exists()


@pytest.mark.parametrize(
    ("request_environ", "status"),
    [
        (form(b"x", purpose="fine-tune"), 400),
        (form(b""), 400),
        (form(b"x", more={"surprise": "1"}), 400),
        (form(b"x", more={"expires_after[anchor]": "created_at", "expires_after[seconds]": "5"}), 400),
        (environ(b"{}", kind="application/json"), 400),
        (environ(b"garbage"), 400),
        (environ(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"\r\n\r\nhalf'.encode()), 400),
        ({**form(b"x"), "CONTENT_LENGTH": str(10**12)}, 413),
    ],
)  # fmt: skip
def test_an_upload_that_is_wrong_is_refused_and_leaves_nothing(
    caller: Caller, request_environ: dict[str, Any], status: int
) -> None:
    request_environ["wsgi.input"].seek(0)
    with pytest.raises(GatewayProblem) as refused:
        files.handle_files("POST", "/v1/files", caller, request_environ)
    assert refused.value.status == status
    assert not GatewayFile.objects.exists()


def test_a_key_without_the_scope_may_do_nothing(caller: Caller) -> None:
    powerless = Caller(schema="alpha", key_id=caller.key_id, key_pk=caller.key_pk, scopes=("run.view",))
    for handler in (files.handle_files, batches.handle_batches):
        with pytest.raises(GatewayProblem) as refused:
            handler("GET", "/v1/x", powerless, {})
        assert refused.value.status == 403


def test_files_whose_time_is_over_are_gone(caller: Caller) -> None:
    made = upload(
        caller, b"x", more={"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    )
    assert made["expires_at"] - made["created_at"] == 3600
    GatewayFile.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    with pytest.raises(GatewayProblem):
        files.handle_files("GET", f"/v1/files/{made['id']}", caller, {})
    assert files.files_remove_expired() == 1 and not GatewayFile.objects.exists()


# ---------------------------------------------------------------------- batches
def test_each_line_is_asked_once_and_is_in_exactly_one_file(caller: Caller, asked: Counter[str]) -> None:
    lines = [line(f"c{number}", f"ok {number}") for number in range(30)]
    lines += [line("bad", "refuse"), line("poor", "broke"), line("odd", "crash"), line("back", "flaky")]
    name = started(caller, *lines)
    assert look(caller, name)["status"] == "validating"
    assert batches.batch_execute(public_id=name) == "completed"
    found = look(caller, name)
    assert found["status"] == "completed" and found["completed_at"]
    assert found["request_counts"] == {"total": 34, "completed": 31, "failed": 3}
    assert found["usage"]["total_tokens"] == 31 * 7
    good, bad = content(caller, found["output_file_id"]), content(caller, found["error_file_id"])
    assert [row["custom_id"] for row in good] == [f"c{number}" for number in range(30)] + ["back"]
    assert good[3]["response"]["status_code"] == 200 and good[3]["response"]["body"]["echo"] == "ok 3"
    assert good[3]["error"] is None and good[3]["response"]["request_id"]
    assert {row["custom_id"]: row["response"]["status_code"] for row in bad} == {
        "bad": 400,
        "poor": 429,
        "odd": 500,
    }
    assert asked["ok 3"] == 1 and asked["flaky"] == 3 and asked["refuse"] == 1
    assert batches.batch_execute(public_id=name) == "nothing to do"
    assert all(bytes(sealed) == b"" for sealed in BatchItem.objects.values_list("sealed", flat=True))


def test_wrong_lines_are_named_and_the_others_are_carried_out(caller: Caller, asked: Counter[str]) -> None:
    name = started(
        caller,
        line("a", "ok a"),
        b"{not json",
        b'"text"',
        line("", "no id"),
        line("b", "ok b", method="GET"),
        line("c", "ok c", url="/v1/embeddings"),
        line("a", "ok again"),
        line("d", "ok d", body="text"),
        b"   ",
        line("z", "ok z"),
    )
    batches.batch_execute(public_id=name)
    found = look(caller, name)
    assert found["status"] == "completed"
    assert found["request_counts"] == {"total": 9, "completed": 2, "failed": 7}
    problems = {row["line"]: row["code"] for row in found["errors"]["data"]}
    assert problems == {
        2: "invalid_json_line",
        3: "invalid_json_line",
        4: "invalid_custom_id",
        5: "invalid_method",
        6: "mismatched_endpoint",
        7: "duplicate_custom_id",
        8: "invalid_request",
    }
    assert sorted(asked) == ["ok a", "ok z"]
    assert len(content(caller, found["error_file_id"])) == 7


@pytest.mark.parametrize("text", [b"{not json\n[]", b"\n\n  \n"])
def test_a_file_without_any_request_fails(caller: Caller, asked: Counter[str], text: bytes) -> None:
    name = started(caller, text)
    batches.batch_execute(public_id=name)
    found = look(caller, name)
    assert found["status"] == "failed" and found["errors"]["data"] and not asked


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"endpoint": "/v1/images"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": 7}, "input_file_id"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_batch_that_is_wrong_is_refused(caller: Caller, changes: dict[str, Any], param: str) -> None:
    file_id = upload(caller, line("a", "ok"))["id"]
    with pytest.raises(GatewayProblem) as refused:
        create(caller, file_id, **changes)
    assert refused.value.status == 400 and refused.value.param == param


def test_another_keys_file_and_batch_are_not_found(
    caller: Caller, other: Caller, asked: Counter[str]
) -> None:
    file_id = upload(caller, line("a", "ok"))["id"]
    name = create(caller, file_id)["id"]
    for ask in (
        lambda: create(other, file_id),
        lambda: look(other, name),
        lambda: batches.handle_batches("POST", f"/v1/batches/{name}/cancel", other, environ(b"")),
    ):
        with pytest.raises(GatewayProblem) as refused:
            ask()
        assert refused.value.status == 404
    document = batches.handle_batches("GET", "/v1/batches", other, environ(b""))[1]
    assert isinstance(document, dict) and document["data"] == []


def test_a_limit_that_passes_only_pauses_the_batch(caller: Caller, asked: Counter[str]) -> None:
    name = started(caller, line("a", "ok"), line("b", "limit"))
    assert batches.batch_execute(public_id=name) == "paused"
    assert look(caller, name)["request_counts"]["completed"] == 1
    assert batches.batch_execute(public_id=name) == "completed"
    assert asked == {"ok": 1, "limit": 2}
    assert look(caller, name)["request_counts"] == {"total": 2, "completed": 2, "failed": 0}


def test_a_slice_ends_in_time_and_the_next_goes_on(
    caller: Caller, asked: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = started(caller, *(line(f"c{number}", f"ok {number}") for number in range(40)))
    monkeypatch.setattr(batches, "SLICE_S", 0.0)
    assert batches.batch_execute(public_id=name) == "continued"
    monkeypatch.setattr(batches, "SLICE_S", 30.0)
    assert batches.batch_execute(public_id=name) == "completed"
    assert set(asked.values()) == {1} and len(asked) == 40


def test_cancelling_keeps_what_is_done_and_says_so_of_the_rest(caller: Caller, asked: Counter[str]) -> None:
    name = started(caller, line("a", "ok"), line("b", "limit"))
    batches.batch_execute(public_id=name)
    document = batches.handle_batches("POST", f"/v1/batches/{name}/cancel", caller, environ(b""))[1]
    assert isinstance(document, dict) and document["status"] == "cancelling"
    assert batches.batch_execute(public_id=name) == "cancelled"
    found = look(caller, name)
    assert [row["custom_id"] for row in content(caller, found["output_file_id"])] == ["a"]
    assert content(caller, found["error_file_id"])[0]["error"]["code"] == "batch_cancelled"
    with pytest.raises(GatewayProblem):
        Batch.objects.update(status="completed")
        batches.handle_batches("POST", f"/v1/batches/{name}/cancel", caller, environ(b""))


def test_when_its_window_is_over_the_rest_expires(caller: Caller, asked: Counter[str]) -> None:
    name = started(caller, line("a", "ok"), line("b", "limit"))
    batches.batch_execute(public_id=name)
    Batch.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert batches.batch_execute(public_id=name) == "expired"
    found = look(caller, name)
    assert found["request_counts"] == {"total": 2, "completed": 1, "failed": 1} and found["expired_at"]
    assert content(caller, found["error_file_id"])[0]["error"]["code"] == "batch_expired"


def test_a_revoked_key_sends_nothing_more(caller: Caller, asked: Counter[str]) -> None:
    name = started(caller, line("a", "ok"))
    ApiKey.objects.filter(key_id=caller.key_id).update(revoked_at=timezone.now())
    assert batches.batch_execute(public_id=name) == "completed"
    assert not asked and look(caller, name)["request_counts"]["failed"] == 1


def test_a_batch_somebody_holds_is_left_alone_and_a_lost_one_is_sent_again(
    caller: Caller, asked: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = started(caller, line("a", "ok"))
    sent: list[str] = []
    monkeypatch.setattr(batches, "_send", lambda schema, batch, *_, **__: sent.append(batch))
    Batch.objects.update(lease_owner="else", lease_expires_at=timezone.now() + timedelta(minutes=1))
    assert batches.batch_execute(public_id=name) == "nothing to do" and batches.batches_requeue_stale() == 0
    Batch.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    assert batches.batches_requeue_stale() == 1 and sent == [name]
    assert batches.batches_requeue_stale() == 0, "its message is fresh"
    assert batches.batch_execute(public_id=name) == "completed"


def test_after_kill_9_of_the_worker_every_line_has_one_result(caller: Caller, asked: Counter[str]) -> None:
    name = started(caller, *(line(f"c{number}", f"ok {number}") for number in range(20)))
    for after in (5, 3):
        dead = subprocess.run(
            [sys.executable, "-m", "tests.inference.gateway.batch_worker", name, str(after)],
            env={**process_environment(), "RUN_LEASE_S": "20"},
            cwd=settings.BASE_DIR,
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert dead.returncode == -9, dead.stderr.decode()[-2000:]
        assert BatchItem.objects.count() >= 5
        assert batches.batch_execute(public_id=name) == "nothing to do", "the dead worker's lease still holds"
        Batch.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    assert batches.batch_execute(public_id=name) == "completed"
    found = look(caller, name)
    rows = content(caller, found["output_file_id"])
    assert [row["custom_id"] for row in rows] == [f"c{number}" for number in range(20)]
    assert found["request_counts"] == {"total": 20, "completed": 20, "failed": 0}
    assert len(asked) < 20, "what was done before was not asked again"
