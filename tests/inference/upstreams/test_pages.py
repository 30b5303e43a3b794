"""Setting up upstreams by page and by REST: who may, what is refused, that no key is ever shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings

from core.audit.models import AuditEvent
from core.errors import Forbidden
from core.schema import current_schema
from inference.gateway.contract import RouteTarget
from inference.models import ModelVersion
from inference.upstreams.client import UpstreamUnavailable
from inference.upstreams.models import Upstream
from inference.upstreams.routing import Upstreams, endpoint_of, own_ports
from inference.upstreams.services import (
    UpstreamExists,
    UpstreamInvalid,
    upstream_check,
    upstream_create,
    upstream_update,
    upstreams_check_due,
)
from tests.inference.upstreams.stub import TEXT, Stub

pytestmark = pytest.mark.django_db
KEY = "sk-engine-secret"


@pytest.fixture
def model() -> ModelVersion:
    return ModelVersion.objects.create(name="stub", digest="sha256:" + "ab" * 32)


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as running:
        yield running
    Upstreams.forget()


@pytest.fixture
def made(model: ModelVersion, stub: Stub, acting: Callable[..., Any]) -> Upstream:
    acting(roles=["engineer"])
    return upstream_create(values=values(model, stub.url), api_key=KEY)


def values(model: ModelVersion, url: str, **changes: Any) -> dict[str, Any]:
    return {"name": "rack", "model_version": model, "url": url, "remote_model": "good", **changes}


def target(model: ModelVersion) -> RouteTarget:
    return RouteTarget("alpha", "p", 1, "1.0.0", "sha256:0", model.pk, model.digest)


def test_a_release_is_answered_by_its_models_upstream(
    made: Upstream, model: ModelVersion, stub: Stub
) -> None:
    pool = Upstreams.for_route(target(model))
    answer = pool.complete("/chat/completions", {}, tenant="alpha")
    assert answer.body["choices"][0]["message"]["content"] == TEXT and answer.upstream == "rack"
    assert stub.seen.last_headers["authorization"] == f"Bearer {KEY}"
    assert Upstreams.for_route(target(model)) is pool
    made.enabled = False
    made.save()
    Upstreams.forget()
    with pytest.raises(UpstreamUnavailable):
        Upstreams.for_route(target(model)).complete("/chat/completions", {}, tenant="alpha")


def test_without_upstreams_the_embedded_engine_answers_by_schema_and_digest(model: ModelVersion) -> None:
    Upstreams.forget()
    pool = Upstreams.for_route(target(model))
    assert pool.model == f"alpha/{model.digest}" and pool.gate.places[0].endpoint.id == "embedded"


def test_the_key_is_sealed_bound_to_its_row_and_audited_without(made: Upstream, model: ModelVersion) -> None:
    row = Upstream.objects.get()
    assert KEY.encode() not in bytes(row.api_key_sealed)
    assert endpoint_of(current_schema(), row).api_key == KEY
    assert KEY not in repr(endpoint_of(current_schema(), row))
    event = AuditEvent.objects.latest("pk")
    assert event.action == "upstream.created" and KEY not in str(event.data)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"url": "file:///etc/passwd"}, "url"),
        ({"url": "http://user:secret@host/v1"}, "url"),
        ({"url": "http://host/v1?key=1"}, "url"),
        ({"weight": 0}, "weight"),
        ({"max_concurrency": 100_000}, "max_concurrency"),
        ({"total_timeout_s": float("nan")}, "total_timeout_s"),
        ({"total_timeout_s": -1.0}, "total_timeout_s"),
        ({"name": ""}, "name"),
        ({"remote_model": "a\x00b"}, "remote_model"),
        ({"model_version": 987654321}, "model_version"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(
    model: ModelVersion, acting: Callable[..., Any], changes: dict[str, Any], field: str
) -> None:
    acting(roles=["engineer"])
    with pytest.raises(UpstreamInvalid) as refused:
        upstream_create(values=values(model, "http://engine/v1") | changes)
    assert field in refused.value.fields


def test_a_name_is_taken_once(made: Upstream, model: ModelVersion) -> None:
    with pytest.raises(UpstreamExists):
        upstream_create(values=values(model, "http://other/v1"))


def test_a_stored_key_does_not_follow_a_new_host(made: Upstream) -> None:
    with pytest.raises(UpstreamInvalid) as refused:
        upstream_update(upstream=made, values={"url": "http://elsewhere.example/v1"})
    assert "api_key" in refused.value.fields
    upstream_update(upstream=made, values={"url": "http://elsewhere.example/v1"}, api_key="")
    assert bytes(Upstream.objects.get().api_key_sealed) == b""


@pytest.mark.parametrize("role", ["pmo", "security", "auditor", "legal"])
def test_who_may_only_look_changes_nothing(
    model: ModelVersion, acting: Callable[..., Any], role: str
) -> None:
    acting(roles=[role])
    with pytest.raises(Forbidden):
        upstream_create(values=values(model, "http://engine/v1"))


def test_a_check_says_how_it_is(made: Upstream, stub: Stub) -> None:
    assert upstream_check(upstream=made).healthy
    upstream_update(upstream=made, values={"remote_model": "unknown"})
    made.refresh_from_db()
    assert made.health == "unknown"
    assert upstreams_check_due() == 1 and upstreams_check_due() == 0
    made.refresh_from_db()
    assert made.health == "failing" and "does not list" in made.health_detail


@pytest.mark.parametrize(
    "address", ["http://169.254.169.254/v1", "http://[::ffff:169.254.169.254]/v1", "own"]
)
def test_addresses_nobody_should_reach_are_not_called(
    model: ModelVersion, acting: Callable[..., Any], address: str
) -> None:
    acting(roles=["engineer"])
    url = f"http://127.0.0.1:{min(own_ports())}/v1" if address == "own" else address
    found = upstream_check(upstream=upstream_create(values=values(model, url)))
    assert not found.healthy and "not allowed" in found.detail


def test_the_pages_show_state_and_never_the_key(made: Upstream, as_role: Any) -> None:
    engineer = as_role("engineer")
    for path in ("", f"{made.pk}/", f"{made.pk}/edit/", f"{made.pk}/remove/", "new/"):
        response = engineer.get(f"/gateway/upstreams/{path}")
        assert response.status_code == 200 and KEY not in response.content.decode()
    assert engineer.post(f"/gateway/upstreams/{made.pk}/test/").status_code == 302
    assert b"It answers and lists the model" in engineer.get(f"/gateway/upstreams/{made.pk}/").content
    assert engineer.post(f"/gateway/upstreams/{made.pk}/switch/").status_code == 302
    assert not Upstream.objects.get().enabled


def test_a_wrong_form_keeps_what_was_typed(model: ModelVersion, as_role: Any) -> None:
    form = {
        "name": "rack", "model_version": model.pk, "url": "ftp://x/v1", "remote_model": "m", "weight": 1,
        "max_concurrency": 8, "connect_timeout_s": 1, "first_byte_timeout_s": 1, "chunk_timeout_s": 1,
        "total_timeout_s": 1,
    }  # fmt: skip
    response = as_role("engineer").post("/gateway/upstreams/new/", form)
    assert (
        response.status_code == 422 and b"ftp://x/v1" in response.content and b"http://" in response.content
    )


def test_rest_adds_changes_and_removes_without_showing_the_key(
    model: ModelVersion, stub: Stub, api_key: Callable[..., str], client: Any
) -> None:
    headers = {"Authorization": f"Bearer {api_key('upstream.view', 'upstream.edit')}"}
    body = values(model, stub.url, model_version=model.pk, api_key=KEY)
    made = client.post("/api/v1/upstreams/", body, content_type="application/json", headers=headers)
    assert made.status_code == 201 and made.json()["has_api_key"] and KEY not in made.content.decode()
    path = f"/api/v1/upstreams/{made.json()['id']}/"
    read = client.get(path, headers=headers)
    changed = client.patch(
        path, {"weight": 3}, content_type="application/json", headers={**headers, "If-Match": read["ETag"]}
    )
    assert changed.status_code == 200 and changed.json()["weight"] == 3
    state = client.post(f"{path}state/", headers=headers)
    assert state.status_code == 200 and state.json()["health"] == "healthy"
    looker = {"Authorization": f"Bearer {api_key('upstream.view')}"}
    assert client.delete(path, headers=looker).status_code == 403
    assert client.delete(path, headers=headers).status_code == 204


def test_the_list_shows_what_gateway_processes_say(made: Upstream, model: ModelVersion, as_role: Any) -> None:
    import redis

    from inference.upstreams.live import live_states, publish_once

    assert live_states("alpha") == {}
    Upstreams.for_route(target(model)).complete("/chat/completions", {}, tenant="alpha")
    with redis.Redis.from_url(settings.CACHE_URL) as cache:
        assert publish_once(cache) == 1
    state = live_states("alpha")[made.pk]
    assert (state.answered, state.in_flight, state.breaker, state.processes) == (1, 0, "closed", 1)
    assert live_states("beta") == {}
    page = as_role("auditor").get("/gateway/upstreams/").content.decode()
    assert "Asked normally" in page and "0 of 32" in page
