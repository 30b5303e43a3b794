"""Pages and REST of the ledger."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

import pytest
from django.utils import timezone

from core.audit.models import AuditEvent
from core.security.actor import SYSTEM, use_actor
from inference.ledger import sealing, selectors
from inference.ledger.models import DataKey, LedgerEntry, LedgerPayload, ModelPrice
from inference.ledger.services import (
    data_key_destroy,
    data_key_rotate,
    payload_open,
    payloads_purge,
    price_set,
)
from inference.models import ModelVersion
from tests.inference.ledger.rest import Api

pytestmark = pytest.mark.django_db


def entry(**values: Any) -> LedgerEntry:
    """A settled row."""
    at = values.pop("created_at", timezone.now() - datetime.timedelta(minutes=5))
    row: dict[str, Any] = {
        "status": "ok", "http_status": 200, "product": "triage", "release_version": "1.0.0", "key_id": "k1",
        "model": "triage", "reserved_nano": 10**9, "total_ms": 12.0,
    } | values  # fmt: skip
    fresh = selectors.uuid7_floor(at).int | uuid.uuid4().int & (2**62 - 1)
    return LedgerEntry.objects.create(id=uuid.UUID(int=fresh), created_at=at, finished_at=at, **row)


def sealed(row: LedgerEntry, key: bytes, **values: Any) -> DataKey:
    """Keep a prompt for a row, under a key of its own."""
    stored = DataKey(purpose="payload", is_active=False)
    stored.wrapped = sealing.wrap("alpha", stored.id, key)
    stored.save()
    sealing._known["alpha", "payload"] = (float("inf"), sealing.OpenKey(stored.id, key))
    try:
        made = sealing.payload_seal("alpha", row.pk, sealing.Payload(b"my prompt", b"an answer", 7))
    finally:
        sealing.forget()
    fields = {
        "created_at": row.created_at,
        "expires_at": timezone.now() + datetime.timedelta(days=7),
    } | values
    LedgerPayload.objects.create(
        entry_id=row.pk, key=stored, prompt=made.prompt, output=made.output, **fields
    )
    return stored


def test_the_list_filters_by_what_the_address_says(as_user: Any, user_with: Any) -> None:
    entry(request_id="req-cheap", cost_nano=0)
    entry(request_id="req-dear", cost_nano=20_000_000)
    entry(request_id="req-denied", status="refused", error_code="policy_denied")
    client = as_user(user_with("engineer"))
    shown = client.get("/gateway/requests/?cost=10000000&cols=id").content.decode()
    assert "req-dear" in shown and "req-cheap" not in shown
    shown = client.get("/gateway/requests/?policy=denied&cols=id").content.decode()
    assert "req-denied" in shown and "req-dear" not in shown
    assert (
        client.get("/gateway/requests/?q=req-dear&cols=id&latency=100&period=x&sort=%00").status_code == 200
    )


def test_the_csv_keeps_money_exact_and_guards_formulas(as_user: Any, user_with: Any) -> None:
    entry(model="=cmd()", cost_nano=1_234)
    client = as_user(user_with("engineer"))
    lines = b"".join(client.get("/gateway/requests/?csv=1").streaming_content).decode()
    assert "'=cmd()" in lines and "0.000001234" in lines


def test_one_request_is_told_as_a_timeline(as_user: Any, user_with: Any) -> None:
    row = entry(
        stages=[["policy", 0.1, 0.2], ["upstream", 1.0, 9.5, "vllm-1"]], redactions={"prompt": {"EMAIL": 2}},
        guards={"input": {"allowed": True}}, policy_version="default-1",
    )  # fmt: skip
    shown = as_user(user_with("engineer")).get(f"/gateway/requests/{row.pk}/").content.decode()
    for words in ("Policy decided", "Engine answered", "vllm-1", "EMAIL: 2", "default-1", "Not kept"):
        assert words in shown


def test_a_request_nobody_made_is_not_found(as_user: Any, user_with: Any) -> None:
    assert as_user(user_with("engineer")).get(f"/gateway/requests/{uuid.uuid4()}/").status_code == 404


def test_a_stored_prompt_is_shown_to_those_who_may_and_looking_is_audited(
    as_user: Any, user_with: Any
) -> None:
    row = entry()
    sealed(row, b"k" * 32)
    address = f"/gateway/requests/{row.pk}/payload/"
    assert as_user(user_with("engineer", email="e@alpha.example")).post(address).status_code == 403
    client = as_user(user_with("security", email="s@alpha.example"))
    assert client.get(address).status_code == 405
    response = client.post(address)
    assert "my prompt" in response.content.decode() and response["Cache-Control"] == "no-store"
    assert AuditEvent.objects.filter(action="payload.opened").count() == 1


def test_a_destroyed_key_leaves_nothing_to_read() -> None:
    row = entry()
    key = sealed(row, b"k" * 32)
    with use_actor(SYSTEM):
        assert payload_open(entry_id=row.pk) == ("my prompt", "an answer")
        assert data_key_destroy(key_id=key.pk) == 1
        with pytest.raises(selectors.PayloadGone, match="destroyed"):
            payload_open(entry_id=row.pk)
    key.refresh_from_db()
    assert key.wrapped == ""


def test_rotation_keeps_what_was_sealed_readable() -> None:
    row = entry()
    sealed(row, b"k" * 32)
    with use_actor(SYSTEM):
        first, second = data_key_rotate(), data_key_rotate()
        assert payload_open(entry_id=row.pk)[0] == "my prompt"
    assert DataKey.objects.get(is_active=True) == second != first


def test_payloads_leave_when_their_days_are_over() -> None:
    row = entry()
    sealed(row, b"k" * 32, expires_at=timezone.now())
    assert payloads_purge(now=timezone.now() + datetime.timedelta(seconds=1)) == 1
    assert LedgerEntry.objects.filter(pk=row.pk).exists()


def test_a_payload_moved_to_another_row_does_not_open() -> None:
    one, other = entry(), entry()
    sealed(one, b"k" * 32)
    LedgerPayload.objects.filter(pk=one.pk).update(entry_id=other.pk)
    with use_actor(SYSTEM), pytest.raises(selectors.PayloadGone, match="not of this row"):
        payload_open(entry_id=other.pk)


@pytest.mark.parametrize("by", list(selectors.DIMENSIONS))
def test_usage_adds_up_by_every_dimension(by: str, as_user: Any, user_with: Any) -> None:
    now = timezone.now()
    entry(cost_nano=100, tokens_in=5, created_at=now - datetime.timedelta(days=2), conversation="a")
    entry(cost_nano=300, tokens_out=7, conversation="a", team="blue")
    entry(status="refused", cost_nano=0)
    rows = selectors.usage_by(selectors.entries_between(now - datetime.timedelta(days=3)), by)
    assert sum(one.cost_nano for one in rows) == 400
    assert sum(one.requests for one in rows) == 3 and sum(one.tokens for one in rows) == 12
    client = as_user(user_with("engineer"))
    assert client.get(f"/gateway/usage/?by={by}").status_code == 200
    assert client.get(f"/gateway/usage/?by={by}&csv=1")["Content-Type"].startswith("text/csv")


def test_cost_per_query_and_conversation_carry_n_and_interval() -> None:
    for number, nano in enumerate((100, 200, 300, 400)):
        entry(cost_nano=nano, conversation=f"c{number // 2}")
    entry(status="failed", cost_nano=0)
    rows = selectors.entries_between(None)
    query, conversation = selectors.cost_per_query(rows), selectors.cost_per_conversation(rows)
    assert (query.value, query.n, conversation.value, conversation.n) == (250.0, 4, 500.0, 2)
    assert query.low is not None and query.high is not None and query.low < 250 < query.high
    assert selectors.cost_per_query(rows.filter(key_id="none")).value is None


def test_rest_lists_requests_usage_and_prices(api_key: Any) -> None:
    row = entry(cost_nano=5, request_id="r-1")
    model = ModelVersion.objects.create(name="m", digest="sha256:9")
    api = Api(api_key("gateway.view", "price.view", "price.edit"))
    found = api.get("/api/v1/requests/?request_id=r-1").json()["results"]
    assert [one["id"] for one in found] == [str(row.pk)]
    assert api.get(f"/api/v1/requests/{row.pk}/").json()["cost_nano"] == 5
    assert api.get("/api/v1/usage/?by=key").json()["total"]["cost_nano"] == 5
    assert api.get("/api/v1/usage/?by=nonsense").status_code == 422
    assert api.get("/api/v1/requests/?since=yesterday").status_code == 422
    assert api.get("/api/v1/requests/?conversation=%00").json()["results"] == []
    body = {
        "model_version": model.pk,
        "input_nano_per_mtok": 150_000_000,
        "valid_from": "2026-01-01T00:00:00Z",
    }
    assert api.post("/api/v1/prices/", body).status_code == 201
    assert api.post("/api/v1/prices/", body).status_code == 409
    assert api.post("/api/v1/prices/", {"model_version": 10**9}).status_code == 422
    assert len(api.get("/api/v1/prices/").json()["results"]) == ModelPrice.objects.count() == 1


def test_a_price_out_of_range_says_which() -> None:
    model = ModelVersion.objects.create(name="m", digest="sha256:9")
    with use_actor(SYSTEM), pytest.raises(Exception, match="out of range") as caught:
        price_set(model_version=model, input_nano_per_mtok=-1)
    assert "input_nano_per_mtok" in caught.value.fields  # type: ignore[attr-defined]
