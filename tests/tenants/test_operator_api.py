"""Operators manage tenants by REST, with a key of their own site; nobody else does."""

from __future__ import annotations

from typing import Any

import pytest
from django_tenants.utils import schema_context

from core.security.actor import SYSTEM, Actor, use_actor
from core.security.permissions import decide
from tenants.accounts.services import api_key_create
from tenants.models import Tenant
from tests.conftest import TenantClient
from tests.core.api.test_api import call

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator_key(db: None) -> str:
    """A key of the operators' site that manages tenants."""
    with schema_context("public"), use_actor(SYSTEM):
        return api_key_create(name="provisioning", scopes=["tenant.view", "tenant.manage"]).text


@pytest.fixture
def site(db: None) -> Any:
    """The operators' site."""
    return TenantClient("localhost")


def test_a_tenant_is_provisioned_changed_and_deleted_by_rest(site: Any, operator_key: str) -> None:
    body = {"schema_name": "gamma", "name": "Gamma", "plan": "enterprise"}
    made = call(site, "POST", "/tenants/", operator_key, body)
    assert made.status_code == 201, made.content
    assert call(site, "POST", "/tenants/", operator_key, body).status_code == 409
    stopped = call(site, "POST", "/tenants/gamma/deactivate/", operator_key, {"reason": "Unpaid."})
    assert stopped.json()["status"] == "deactivated"
    refused = call(site, "POST", "/tenants/gamma/delete/", operator_key, {"confirmation": "gamma?"})
    assert refused.status_code == 422
    assert (
        call(site, "POST", "/tenants/gamma/delete/", operator_key, {"confirmation": "Gamma"}).status_code
        == 204
    )
    with schema_context("public"):
        assert not Tenant.objects.filter(schema_name="gamma").exists()


def test_a_tenants_key_manages_no_tenants(site: Any, api_key: Any) -> None:
    assert call(site, "GET", "/tenants/", api_key("*.view")).status_code in {401, 403, 404}


@pytest.mark.parametrize("scope", ["*", "tenant.*", "tenant.manage"])
def test_no_scope_gives_a_tenants_key_the_operators_powers(scope: str) -> None:
    key = Actor(kind="api_key", id="1", scopes=(scope,), schema="alpha")
    assert not decide(key, "tenant.manage").allowed
