"""The REST API: who may, what is refused, and what repeating a request does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from core.api.docs import schema_document
from inference.models import Product
from tests.inference.gate_data import make_world

pytestmark = pytest.mark.django_db

JSON = "application/json"


def call(client: Any, method: str, path: str, key: str = "", body: Any = None, **headers: str) -> Any:
    """One API request, as a program makes it."""
    given = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in headers.items()}
    if key:
        given["HTTP_AUTHORIZATION"] = f"Bearer {key}"
    data = json.dumps(body) if body is not None else None
    return client.generic(method, f"/api/v1{path}", data or "", content_type=JSON, **given)


def endpoints(urlconf: str) -> Iterator[tuple[str, Any]]:
    """Every (path with example values, view class) below /api/v1."""

    def walk(patterns: list[Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for entry in patterns:
            if isinstance(entry, URLResolver):
                yield from walk(entry.url_patterns, prefix + str(entry.pattern))
            elif isinstance(entry, URLPattern) and hasattr(entry.callback, "view_class"):
                yield prefix + str(entry.pattern), entry.callback.view_class

    for path, view in walk(get_resolver(urlconf).url_patterns, ""):
        if path.startswith("api/v1/") and "schema" not in path.split("/")[2]:
            yield path, view


def example(path: str) -> str:
    """The path with ids that exist nowhere."""
    for converter, value in (
        ("<uuid:pk>", "00000000-0000-4000-8000-000000000000"),
        ("<int:pk>", "999999"),
        ("<int:item>", "999999"),
        ("<int:waiver>", "999999"),
        ("<int:version>", "999"),
        ("<int:number>", "999"),
        ("<str:public_id>", "batch_nothing"),
        ("<str:key_id>", "nothing"),
        ("<str:reference>", "nothing@9"),
        ("<slug:slug>", "nothing"),
        ("<slug:key_id>", "nothing"),
        ("<slug:schema_name>", "nothing"),
    ):
        path = path.replace(converter, value)
    assert "<" not in path, path
    return path.removeprefix("api/v1")


def test_every_endpoint_declares_an_action_for_each_method() -> None:
    for urlconf in ("core.urls", "core.urls_public"):
        found = list(endpoints(urlconf))
        assert found
        for path, view in found:
            methods = {
                name.upper() for name in ("get", "post", "put", "patch", "delete") if hasattr(view, name)
            }
            assert methods <= set(view.actions), (path, methods)


def test_every_endpoint_refuses_strangers_and_keys_without_scope(client: Any, api_key: Any) -> None:
    weak = api_key("comment.write")
    for path, view in endpoints("core.urls"):
        for method, action in view.actions.items():
            if action == "me.view":
                continue
            stranger = call(client, method, example(path), body={})
            assert stranger.status_code == 401, (method, path, stranger.content)
            assert stranger["Content-Type"] == "application/problem+json"
            if action != "comment.write":
                refused = call(client, method, example(path), weak, body={})
                assert refused.status_code == 403, (method, path, refused.content)


def test_another_tenants_objects_are_not_found(api_key: Any, beta: Any, client: Any, in_tenant: Any) -> None:
    from tests.conftest import TenantClient

    world = make_world()
    foreign = api_key("*.view", tenant=beta)
    theirs = TenantClient("beta.testserver")
    for path in (
        f"/products/{world.product.slug}/",
        f"/releases/{world.candidate.pk}/",
        f"/models/{world.candidate.model_version_id}/",
        f"/gates/{world.gate.slug}/",
        "/datasets/questions/",
    ):
        assert call(theirs, "GET", path, foreign).status_code == 404, path
        # The key of beta on alpha's host opens nothing of alpha.
        assert call(client, "GET", path, foreign).status_code in {401, 403}, path


def test_a_key_finds_its_tenant_on_a_bare_host(api_key: Any) -> None:
    make_world()
    key = api_key("product.view")
    answer = call(Client(SERVER_NAME="localhost"), "GET", "/products/", key)
    assert answer.status_code == 200, answer.content
    assert [row["slug"] for row in answer.json()["results"]] == ["assistant"]


def test_a_repeated_post_has_its_effect_once(client: Any, api_key: Any) -> None:
    key = api_key("product.edit", "product.view")
    body = {"slug": "assistant", "name": "Assistant"}
    first = call(client, "POST", "/products/", key, body, idempotency_key="a-1")
    second = call(client, "POST", "/products/", key, body, idempotency_key="a-1")
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.json() == first.json() and second["Idempotency-Replayed"] == "true"
    assert Product.objects.count() == 1


def test_an_idempotency_key_is_for_one_request(client: Any, api_key: Any) -> None:
    key = api_key("product.edit")
    call(client, "POST", "/products/", key, {"slug": "one", "name": "One"}, idempotency_key="k")
    other = call(client, "POST", "/products/", key, {"slug": "two", "name": "Two"}, idempotency_key="k")
    assert other.status_code == 422
    assert Product.objects.count() == 1


def test_a_refused_post_leaves_its_key_free(client: Any, api_key: Any) -> None:
    key = api_key("product.edit")
    assert (
        call(client, "POST", "/products/", key, {"slug": "?", "name": ""}, idempotency_key="k").status_code
        == 422
    )
    assert (
        call(client, "POST", "/products/", key, {"slug": "ok", "name": "Ok"}, idempotency_key="k").status_code
        == 201
    )


def test_an_edit_needs_the_version_it_edits(client: Any, api_key: Any) -> None:
    key = api_key("product.*")
    call(client, "POST", "/products/", key, {"slug": "one", "name": "One"})
    etag = call(client, "GET", "/products/one/", key)["ETag"]
    assert call(client, "PATCH", "/products/one/", key, {"name": "Two"}).status_code == 428
    assert call(client, "PATCH", "/products/one/", key, {"name": "Two"}, if_match='"old"').status_code == 412
    assert call(client, "PATCH", "/products/one/", key, {"name": "Two"}, if_match=etag).status_code == 200
    assert call(client, "PATCH", "/products/one/", key, {"name": "Three"}, if_match=etag).status_code == 412
    assert Product.objects.get().name == "Two"


def test_an_unchanged_object_is_not_sent_again(client: Any, api_key: Any) -> None:
    key = api_key("product.*")
    call(client, "POST", "/products/", key, {"slug": "one", "name": "One"})
    etag = call(client, "GET", "/products/one/", key)["ETag"]
    assert call(client, "GET", "/products/one/", key, if_none_match=etag).status_code == 304


@pytest.mark.parametrize(
    "body",
    ['{"slug": "a\\u0000b", "name": "x"}', '{"slug": NaN}', '{"a": 1, "a": 2}', "[", '"\\ud800"', "\xff"],
)
def test_bodies_nobody_can_mean_are_a_400(client: Any, api_key: Any, body: str) -> None:
    answer = client.generic(
        "POST",
        "/api/v1/products/",
        body.encode("latin-1"),
        content_type=JSON,
        HTTP_AUTHORIZATION=f"Bearer {api_key('product.edit')}",
    )
    assert answer.status_code == 400, answer.content
    assert answer["Content-Type"] == "application/problem+json"


def test_a_typing_error_in_a_field_name_is_noticed(client: Any, api_key: Any) -> None:
    answer = call(
        client, "POST", "/products/", api_key("product.edit"), {"slug": "a", "nmae": "x", "name": "y"}
    )
    assert answer.status_code == 422 and "nmae" in answer.json()["fields"]


def test_lists_are_paged_by_cursor(client: Any, api_key: Any) -> None:
    key = api_key("product.*")
    for number in range(5):
        call(client, "POST", "/products/", key, {"slug": f"p{number}", "name": f"P{number}"})
    seen, address = [], "/products/?page_size=2"
    while address:
        page = call(client, "GET", address, key).json()
        seen += [row["slug"] for row in page["results"]]
        address = page["next"].split("/api/v1")[1] if page["next"] else ""
    assert sorted(seen) == [f"p{number}" for number in range(5)] and len(seen) == 5


def test_the_answer_says_version_limit_and_correlation(client: Any, api_key: Any) -> None:
    answer = call(client, "GET", "/products/", api_key("product.view"))
    assert answer["API-Version"] and answer["x-request-id"]
    if "RateLimit-Limit" in answer:
        assert int(answer["RateLimit-Remaining"]) < int(answer["RateLimit-Limit"])


@pytest.mark.parametrize("urlconf", ["core.urls", "core.urls_public"])
def test_every_operation_is_described(urlconf: str) -> None:
    document = schema_document(urlconf)
    assert document["openapi"].startswith("3.1")
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation.get("description"), (method, path)
            assert any(status.startswith("2") for status in operation["responses"]), (method, path)


def test_the_reference_page_lists_every_operation(as_role: Any) -> None:
    page = as_role("engineer").get("/api/v1/docs/").content.decode()
    for path in schema_document("core.urls")["paths"]:
        assert path in page
