"""API keys: issued once, scoped, expiring, revocable; and the tenant they name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from django_tenants.utils import schema_context

from core.errors import Forbidden
from core.security.actor import SYSTEM, Actor, use_actor
from core.security.permissions import can
from tenants.accounts import services
from tenants.accounts.errors import AccountInvalid, KeyNotFound, PlanLimit
from tenants.accounts.keys import key_parse
from tenants.accounts.middleware import key_actor, key_authenticate
from tenants.accounts.models import ApiKey
from tests.conftest import TenantClient

pytestmark = pytest.mark.django_db


def test_an_admin_issues_a_key_and_sees_it_once(as_role: Callable[[str], TenantClient]) -> None:
    admin = as_role("admin")
    response = admin.post(
        "/keys/new/", {"name": "pipeline", "scopes": ["run.start", "release.view"], "expires_in": "30"}
    )
    assert response.status_code == 200
    assert response["Cache-Control"] == "no-store"
    text = response.context["text"]
    assert text in response.content.decode()
    key = ApiKey.objects.get(name="pipeline")
    assert key.scopes == ["release.view", "run.start"]
    assert key.created_by == admin.user  # type: ignore[attr-defined]
    assert key.expires_at is not None
    assert timedelta(days=29) < key.expires_at - timezone.now() <= timedelta(days=30)
    page = admin.get("/keys/").content.decode()
    assert key.key_id in page
    assert text not in page


def test_the_row_holds_no_secret(as_system: Any) -> None:
    issued = services.api_key_create(name="k", scopes=["run.view"])
    parsed = key_parse(issued.text)
    assert parsed is not None
    stored = ApiKey.objects.filter(pk=issued.key.pk).values().get()
    assert parsed.secret not in str(stored)
    assert issued.text not in repr(issued)


def test_a_key_is_known_by_its_secret_only(as_system: Any) -> None:
    issued = services.api_key_create(name="k", scopes=["run.view"])
    key, problem = key_authenticate(issued.text)
    assert key == issued.key
    assert problem == ""
    wrong = issued.text[:-1] + ("a" if issued.text[-1] != "a" else "b")
    assert key_authenticate(wrong)[0] is None
    assert key_authenticate("nonsense")[0] is None


def test_a_key_does_what_its_scopes_say(as_system: Any) -> None:
    issued = services.api_key_create(name="k", scopes=["run.*", "*.view"])
    actor = key_actor(issued.key)
    assert can("run.start", actor)
    assert can("review.view", actor)
    assert not can("release.create", actor)
    assert not can("review.sign", actor)


def test_expired_and_revoked_keys_are_refused_with_the_reason(as_system: Any) -> None:
    expired = services.api_key_create(
        name="old", scopes=["run.view"], expires_at=timezone.now() + timedelta(days=1)
    )
    ApiKey.objects.filter(pk=expired.key.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert "expired" in key_authenticate(expired.text)[1]
    revoked = services.api_key_create(name="gone", scopes=["run.view"])
    services.api_key_revoke(key_id=revoked.key.key_id)
    assert "revoked" in key_authenticate(revoked.text)[1]
    services.api_key_revoke(key_id=revoked.key.key_id)  # twice is the same
    # Who does not know the secret learns nothing.
    assert "revoked" not in key_authenticate(revoked.text[:-3] + "abc")[1].replace(
        "may have been revoked", ""
    )


def test_last_use_is_written_at_most_once_a_minute(as_system: Any, django_assert_num_queries: Any) -> None:
    issued = services.api_key_create(name="k", scopes=["run.view"])
    key_authenticate(issued.text)
    first = ApiKey.objects.get(pk=issued.key.pk).last_used_at
    assert first is not None
    with django_assert_num_queries(1):
        key_authenticate(issued.text)
    ApiKey.objects.filter(pk=issued.key.pk).update(last_used_at=first - timedelta(minutes=2))
    key_authenticate(issued.text)
    assert ApiKey.objects.get(pk=issued.key.pk).last_used_at > first - timedelta(minutes=2)


def test_a_key_of_another_tenant_is_wrong_here(
    as_system: Any, api_key: Callable[..., str], beta: Any
) -> None:
    text = api_key("run.view", tenant=beta)
    assert key_authenticate(text)[0] is None
    with schema_context("beta"):
        assert key_authenticate(text)[0] is not None
    # Naming our schema in their key does not help.
    assert key_authenticate(text.replace("sgn_beta_", "sgn_alpha_"))[0] is None


@pytest.mark.parametrize(
    "scopes",
    [
        [],
        ["nonsense"],
        ["run"],
        ["*"],
        ["*.*"],
        ["review.sign"],
        ["tenant.manage"],
        ["user.manage"],
        ["run.view'"],
    ],
)
def test_a_bad_scope_is_refused(as_system: Any, scopes: list[str]) -> None:
    with pytest.raises(AccountInvalid) as refused:
        services.api_key_create(name="k", scopes=scopes)
    assert "scopes" in refused.value.fields


def test_a_key_cannot_be_born_expired(as_system: Any) -> None:
    with pytest.raises(AccountInvalid):
        services.api_key_create(name="k", scopes=["run.view"], expires_at=timezone.now())


def test_a_key_hands_out_no_more_than_it_has() -> None:
    with use_actor(Actor("api_key", "x", scopes=("key.manage", "run.*", "release.view"), schema="alpha")):
        assert services.api_key_create(name="child", scopes=["run.view", "release.view"]).key.scopes
        for beyond in ("release.create", "release.*", "*.view"):
            with pytest.raises(AccountInvalid):
                services.api_key_create(name="child", scopes=[beyond])


def test_only_who_manages_keys_issues_and_revokes(acting: Callable[..., Any], bob: Any) -> None:
    with use_actor(SYSTEM):
        key = services.api_key_create(name="k", scopes=["run.view"]).key
    acting(bob)
    with pytest.raises(Forbidden):
        services.api_key_create(name="k", scopes=["run.view"])
    with pytest.raises(Forbidden):
        services.api_key_revoke(key_id=key.key_id)


def test_revoking_what_is_not_there_says_so(as_system: Any) -> None:
    with pytest.raises(KeyNotFound):
        services.api_key_revoke(key_id="nothing")


def test_the_plan_limits_live_keys(as_system: Any) -> None:
    from tenants import resolver
    from tenants.models import Plan

    with schema_context("public"):
        Plan.objects.filter(tenants__schema_name="alpha").update(max_api_keys=1)
    resolver.forget()
    first = services.api_key_create(name="k", scopes=["run.view"])
    with pytest.raises(PlanLimit):
        services.api_key_create(name="k2", scopes=["run.view"])
    services.api_key_revoke(key_id=first.key.key_id)
    services.api_key_create(name="k2", scopes=["run.view"])


def test_an_admin_revokes_in_the_page(as_role: Callable[[str], TenantClient], as_system: Any) -> None:
    admin = as_role("admin")
    key = services.api_key_create(name="k", scopes=["run.view"]).key
    assert admin.get(f"/keys/{key.key_id}/revoke/").status_code == 405
    assert admin.post(f"/keys/{key.key_id}/revoke/").status_code == 302
    key.refresh_from_db()
    assert key.state == "revoked"


def test_every_scope_offered_is_accepted_and_used(as_system: Any) -> None:
    scopes = services.scope_choices()
    assert {"*.view", "run.*", "release.view"} <= set(scopes)
    assert not {"review.sign", "tenant.manage"} & set(scopes)
    assert services.api_key_create(name="all", scopes=scopes).key.scopes == sorted(scopes)
