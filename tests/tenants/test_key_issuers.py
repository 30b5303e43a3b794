"""A key has a person behind it; when they are deactivated it rests, however it was issued."""

from __future__ import annotations

from typing import Any

import pytest

from core.security.actor import SYSTEM, use_actor
from tenants.accounts.models import ApiKey
from tenants.accounts.services import api_key_create, user_update
from tests.conftest import TenantClient

pytestmark = pytest.mark.django_db


def me(text: str) -> Any:
    """Who the key is, as the API says it."""
    return TenantClient().get("/api/v1/me/", headers={"Authorization": f"Bearer {text}"})


def issue(client: Any, *scopes: str, **headers: str) -> str:
    """Issue a key by REST and return its text."""
    answer = client.post(
        "/api/v1/api-keys/",
        {"name": "pipeline", "scopes": list(scopes)},
        content_type="application/json",
        headers=headers,
    )
    assert answer.status_code == 201, answer.content
    return str(answer.json()["text"])


def test_keys_rest_while_their_issuer_is_deactivated(as_role: Any) -> None:
    admin = as_role("admin")
    first = issue(admin, "key.manage", "run.view")
    # A key that a key issued has the same person behind it.
    second = issue(TenantClient(), "run.view", Authorization=f"Bearer {first}")
    assert {key.created_by for key in ApiKey.objects.all()} == {admin.user}
    with use_actor(SYSTEM):
        other = api_key_create(name="of the machine", scopes=["run.view"]).text
    as_role("admin")  # somebody remains
    with use_actor(SYSTEM):
        user_update(user=admin.user, is_active=False)
    for text in (first, second):
        answer = me(text)
        assert answer.status_code == 401
        assert "deactivated" in answer.json()["detail"]
    assert me(other).status_code == 200
    with use_actor(SYSTEM):
        user_update(user=admin.user, is_active=True)
    assert me(first).status_code == 200


def test_a_session_of_a_deactivated_person_ends_at_once(as_role: Any) -> None:
    admin, person = as_role("admin"), as_role("engineer")
    assert person.get("/api/v1/me/").status_code == 200
    with use_actor(SYSTEM):
        user_update(user=person.user, is_active=False)
    assert person.get("/api/v1/me/").status_code == 401
    assert admin.get("/api/v1/me/").status_code == 200
