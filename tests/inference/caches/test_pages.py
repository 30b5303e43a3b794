"""The page and endpoints of caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from inference.caches.models import CacheEntry, SemanticState
from inference.models import ModelVersion, Product, Release
from tests.conftest import BETA_HOST, TenantClient
from tests.inference.caches.conftest import RELEASE, answer_of, chat
from tests.inference.caches.test_store import plan_of


@pytest.fixture
def release(transactional_db: None) -> Release:
    product = Product.objects.create(slug="desk", name="Desk")
    model = ModelVersion.objects.create(name="m", digest="sha256:" + "1" * 64)
    config = {"gateway": {"cache": {"exact": True, "semantic": True}}}
    return Release.objects.create(
        product=product, version="1.0.0", model_version=model, digest=RELEASE, config=config
    )


def test_the_page_shows_what_a_release_stores_and_hits(
    release: Release, caches: Callable[[], None], as_role: Any
) -> None:
    plan = plan_of(chat("Hello"))
    plan.lookup()
    plan.store(answer_of("Hi."), clean=True)
    plan.lookup()
    caches()
    page = as_role("engineer").get("/gateway/caches/").content.decode()
    assert "desk 1.0.0" in page and "1 answer" in page and "n&nbsp;=&nbsp;2" in page
    assert "No hit was asked again yet" in page


def test_removal_needs_the_typed_name_and_the_right(
    release: Release, caches: Callable[[], None], as_role: Any
) -> None:
    plan_of(chat("Hello")).store(answer_of("Hi."), clean=True)
    engineer = as_role("engineer")
    data = {"release": RELEASE, "confirm": "yes"}
    assert as_role("pmo").post("/gateway/caches/purge/", data).status_code == 403
    assert engineer.post("/gateway/caches/purge/", data).status_code == 422
    assert engineer.post("/gateway/caches/purge/", {"confirm": "all"}).status_code == 422
    assert CacheEntry.objects.count() == 1
    assert engineer.post("/gateway/caches/purge/", {**data, "confirm": "ab" * 6}).status_code == 302
    assert CacheEntry.objects.count() == 0
    plan_of(chat("Hello")).store(answer_of("Hi."), clean=True)
    engineer.post("/gateway/caches/purge/", {"confirm": "remove all answers"})
    assert CacheEntry.objects.count() == 0


def test_the_switch_wants_a_reason(release: Release, as_role: Any) -> None:
    engineer = as_role("engineer")
    address = "/gateway/caches/semantic/"
    assert engineer.post(address, {"release": RELEASE, "enabled": "no"}).status_code == 302
    assert not SemanticState.objects.get().enabled
    assert engineer.post(address, {"release": RELEASE, "enabled": "yes"}).status_code == 422
    assert engineer.post(address, {"release": "nope", "enabled": "yes", "reason": "x"}).status_code == 404
    assert engineer.post(address, {"release": RELEASE, "enabled": "maybe"}).status_code == 422
    engineer.post(address, {"release": RELEASE, "enabled": "yes", "reason": "Checked"})
    assert SemanticState.objects.get().enabled


def test_rest_lists_removes_and_switches(release: Release, api_key: Any, beta: Any) -> None:
    client = TenantClient("alpha.testserver")
    reader = {"Authorization": f"Bearer {api_key('cache.view')}"}
    editor = {"Authorization": f"Bearer {api_key('cache.view', 'cache.purge')}"}
    (row,) = client.get("/api/v1/caches/", headers=reader).json()
    assert row["label"] == "desk 1.0.0" and row["status"]["enabled"] and row["exact"]["value"] is None

    def post(path: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
        return client.post(f"/api/v1/caches/{path}", body, content_type="application/json", headers=headers)

    assert post("purge/", {"everything": True}, reader).status_code == 403
    plan_of(chat("Hello")).store(answer_of("Hi."), clean=True)
    assert post("purge/", {}, editor).status_code == 422
    assert post("purge/", {"release": "x"}, editor).status_code == 422
    assert post("purge/", {"release": RELEASE}, editor).json() == {"removed": 1}
    off = post("semantic/", {"release": RELEASE, "enabled": False}, editor).json()
    assert not off["enabled"]
    theirs = {"Authorization": f"Bearer {api_key('cache.*', tenant=beta)}"}
    assert TenantClient(BETA_HOST).get("/api/v1/caches/", headers=theirs).json() == []
