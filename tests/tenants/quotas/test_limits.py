"""Limits and keys' places: services, pages, REST."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from django.utils import timezone

from core.audit.models import AuditEvent
from core.errors import Forbidden
from core.security.actor import SYSTEM, use_actor
from inference.models import Product
from tenants.accounts.services import api_key_create
from tenants.quotas import selectors
from tenants.quotas.accounting import Windows
from tenants.quotas.errors import LimitInvalid, PlacementInvalid
from tenants.quotas.models import Counter, KeyPlacement, Limit
from tenants.quotas.services import key_place, limit_alarms_raise, limit_remove, limit_set
from tests.inference.ledger.rest import Api

pytestmark = pytest.mark.django_db


@pytest.fixture
def system() -> Any:
    with use_actor(SYSTEM):
        yield


def version() -> int:
    return Counter.objects.get(scope_kind="tenant", scope_id="", model="").limits_version


def test_setting_and_removing_raise_the_version_every_admission_reads(system: None) -> None:
    limit = limit_set(scope_kind="tenant", tokens_per_day=5)
    first = version()
    limit_set(scope_kind="tenant", tokens_per_day=6)
    limit_remove(limit=limit)
    assert version() == first + 2 and not Limit.objects.exists()
    assert AuditEvent.objects.filter(action__in=["limit.set", "limit.removed"]).count() == 3


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"scope_kind": "planet"}, "scope_kind"),
        ({"scope_kind": "product", "scope_id": "nope"}, "scope_id"),
        ({"scope_kind": "product", "scope_id": ""}, "scope_id"),
        ({"scope_kind": "key", "scope_id": "nope"}, "scope_id"),
        ({"scope_kind": "pilot", "scope_id": "x"}, "scope_id"),
        ({"scope_kind": "user", "scope_id": "ann"}, "scope_id"),
        ({"scope_kind": "tenant", "model": "a b"}, "model"),
        ({"scope_kind": "tenant", "concurrent": -1}, "concurrent"),
        ({"scope_kind": "tenant", "cost_per_day_nano": 2**63}, "cost_per_day_nano"),
        ({"scope_kind": "tenant", "alarm_share": 0}, "alarm_share"),
        ({"scope_kind": "tenant", "allowed_models": ["a b"]}, "allowed_models"),
    ],
)
def test_nonsense_is_refused_at_its_field(system: None, arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(LimitInvalid) as caught:
        limit_set(**({"tokens_per_day": 1} | arguments))
    assert field in caught.value.fields


def test_a_limit_of_nothing_is_refused(system: None) -> None:
    with pytest.raises(LimitInvalid, match="limits nothing"):
        limit_set(scope_kind="tenant")


def test_only_who_may_edit_limits_sets_them(acting: Any, user_with: Any) -> None:
    acting(user_with("engineer"))
    with pytest.raises(Forbidden):
        limit_set(scope_kind="tenant", tokens_per_day=1)


def test_live_use_shows_what_is_left_booked_and_when_it_resets(system: None) -> None:
    limit_set(scope_kind="team", scope_id="blue", cost_per_day_nano=10**9, requests_per_minute=10)
    now = timezone.now()
    windows = Windows.at(now.timestamp())
    Counter.objects.create(
        scope_kind="team", scope_id="blue", minute=windows.minute - 1, requests_minute=9, day=windows.day,
        cost_day_nano=9 * 10**8, open=1, open_cost_nano=10**8,
    )  # fmt: skip
    use = next(one for one in selectors.limits_with_use(now=now) if one.limit is not None)
    requests, money = use.figures
    assert (requests.used, requests.left, requests.variant) == (0, 10, "pass")  # a minute that has passed
    assert (money.used, money.left, money.booked, money.percent, money.variant) == (
        9 * 10**8, 10**8, 10**8, 90, "inconclusive",
    )  # fmt: skip
    assert money.words == "0.90 USD of 1.00 USD"


def test_a_limit_for_each_shows_the_fullest_node(system: None) -> None:
    limit_set(scope_kind="team", scope_id="*", concurrent=10)
    for name, running in (("a", 2), ("b", 7)):
        Counter.objects.create(scope_kind="team", scope_id=name, open=running)
    use = next(one for one in selectors.limits_with_use() if one.limit is not None)
    assert (use.node, use.nodes, use.figures[0].used) == ("b", 2, 7)


def test_an_alarm_is_raised_once_per_window(system: None) -> None:
    limit_set(scope_kind="tenant", cost_per_day_nano=100, alarm_share=0.5)
    now = timezone.now()
    Counter.objects.filter(scope_kind="tenant").update(day=Windows.at(now.timestamp()).day, cost_day_nano=60)
    assert limit_alarms_raise(now=now) == 1
    assert limit_alarms_raise(now=now) == 0
    assert limit_alarms_raise(now=now + datetime.timedelta(days=1)) == 0
    event = AuditEvent.objects.get(action="limit.alarm_reached")
    assert event.data["percent"] == 60


def test_a_key_is_placed_and_misplaced_keys_are_refused(system: None) -> None:
    Product.objects.create(slug="triage", name="Triage")
    key = api_key_create(name="ci", scopes=["gateway.call"]).key
    key_place(key_id=key.key_id, product="triage", team="blue", attributes={"classification": "internal"})
    assert KeyPlacement.objects.get().attributes == {"classification": "internal"}
    for wrong in (
        {"product": "x"},
        {"pilot": "9"},
        {"team": "*"},
        {"attributes": {"Bad Name": "x"}},
        {"key_id": "x"},
    ):
        with pytest.raises(PlacementInvalid) as caught:
            key_place(**({"key_id": key.key_id} | wrong))  # type: ignore[arg-type]
        assert next(iter(wrong)) in caught.value.fields


def test_the_page_shows_and_changes_limits(as_user: Any, user_with: Any) -> None:
    client = as_user(user_with("admin"))
    shown = client.get("/gateway/limits/").content.decode()
    assert "Where keys stand" in shown
    wrong = client.post(
        "/gateway/limits/new/", {"scope_kind": "product", "scope_id": "x", "alarm_percent": 80}
    )
    assert wrong.status_code == 422
    done = client.post(
        "/gateway/limits/new/",
        {"scope_kind": "tenant", "cost_per_day": "1.5", "alarm_percent": 70, "allowed_models": "a, b*"},
    )
    assert done.status_code == 302
    limit = Limit.objects.get()
    assert (limit.cost_per_day_nano, limit.alarm_share, limit.allowed_models) == (
        1_500_000_000,
        0.7,
        ["a", "b*"],
    )
    client.post(f"/gateway/limits/{limit.pk}/", {"concurrent": "3", "alarm_percent": 80})
    limit.refresh_from_db()
    assert (limit.concurrent, limit.cost_per_day_nano) == (3, None)
    shown = client.get("/gateway/limits/").content.decode()
    assert "0 of 3 requests" in shown
    assert client.post(f"/gateway/limits/{limit.pk}/remove/").status_code == 302


def test_rest_sets_changes_and_removes_limits_and_places_keys(api_key: Any) -> None:
    api = Api(api_key("limit.view", "limit.edit"))
    made = api.post("/api/v1/limits/", {"scope_kind": "tenant", "tokens_per_day": 10})
    assert made.status_code == 201
    address = f"/api/v1/limits/{made.json()['id']}/"
    assert api.patch(address, {"concurrent": 2}).status_code == 428
    changed = api.patch(address, {"concurrent": 2}, headers={"If-Match": made["ETag"]})
    assert (changed.json()["concurrent"], changed.json()["tokens_per_day"]) == (2, 10)
    use = [one for one in api.get("/api/v1/limits/use/").json() if one["id"]]
    assert {one["name"] for one in use[0]["figures"]} == {"concurrent", "tokens_per_day"}
    assert api.delete(address).status_code == 204
    assert api.post("/api/v1/limits/", {"scope_kind": "tenant", "typo": 1}).status_code == 422
    with use_actor(SYSTEM):
        key = api_key_create(name="ci", scopes=["gateway.call"]).key
    assert api.put(f"/api/v1/key-placements/{key.key_id}/", {"team": "blue"}).json()["team"] == "blue"
    assert api.get(f"/api/v1/key-placements/{key.key_id}/").status_code == 200
    assert api.put("/api/v1/key-placements/nobody/", {}).status_code == 404
