"""A key opens its own tenant and nothing else."""

from __future__ import annotations

import httpx2 as httpx
import openai
import pytest

from tenants.accounts import services as accounts
from tests.inference.gateway.conftest import release

MESSAGES = [{"role": "user", "content": "Say something."}]


def post(gateway, *, key, host="", **body):
    headers = {"Authorization": f"Bearer {key}"}
    if host:
        headers["Host"] = host
    return httpx.post(
        gateway.url + "/chat/completions",
        json={"model": "helper", "messages": MESSAGES, **body},
        headers=headers,
    )


@pytest.fixture
def beta_key(gateway, in_schema):
    with in_schema("beta"):
        return accounts.api_key_create(name="other", scopes=["gateway.call"]).text


def test_another_tenants_release_does_not_exist(gateway, beta_key):
    answer = post(gateway, key=beta_key)

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert gateway.client(beta_key).models.list().data == []


def test_a_key_at_another_tenants_host_is_a_wrong_key(gateway, beta_key, rows):
    for host, key in (("alpha.testserver", beta_key), ("beta.testserver", gateway.key)):
        answer = post(gateway, key=key, host=host)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert post(gateway, key=gateway.key, host="alpha.testserver").status_code == 200
    assert post(gateway, key=gateway.key, host="nobody.testserver").status_code == 404
    assert len(rows()) == 1


def test_identical_prompts_of_two_tenants_share_nothing(gateway, beta_key, in_schema, rows):
    config = {"gateway": {"cache": {"exact": True}}}
    with in_schema("alpha"):
        release("good", gateway.stub, version="3.0.0", config=config)
    with in_schema("beta"):
        release("good", gateway.stub, version="3.0.0", config=config)

    answers = [
        post(gateway, key=key, model="helper@3.0.0", temperature=0)
        for key in (gateway.key, gateway.key, beta_key, beta_key)
    ]

    assert [answer.headers["x-signoff-cache"] for answer in answers] == ["miss", "exact", "miss", "exact"]
    assert gateway.stub.seen.requests == 2
    digests = {row.prompt_digest for row in rows("alpha")} & {row.prompt_digest for row in rows("beta")}
    assert not digests


def test_a_wrong_secret_an_expired_key_and_a_missing_scope_are_refused(gateway, in_schema, rows):
    from datetime import timedelta

    from django.utils import timezone

    from tenants.accounts.models import ApiKey

    assert post(gateway, key=gateway.key[:-4] + "AAAA").status_code == 401
    with in_schema("alpha"):
        late = accounts.api_key_create(
            name="late", scopes=["gateway.call"], expires_at=timezone.now() + timedelta(days=1)
        )
        ApiKey.objects.filter(pk=late.key.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
        narrow = accounts.api_key_create(name="narrow", scopes=["run.view"]).text
    answer = post(gateway, key=late.text)
    assert answer.status_code == 401 and "expired" in answer.json()["error"]["message"]
    with pytest.raises(openai.PermissionDeniedError) as caught:
        gateway.client(narrow).chat.completions.create(model="helper", messages=MESSAGES)
    assert caught.value.body["code"] == "policy_denied"
    # Who is nobody leaves no row; who is somebody and refused does.
    assert [row.error_code for row in rows()] == ["policy_denied"]
    assert gateway.stub.seen.requests == 0


def test_a_deactivated_tenant_is_told_so(gateway, in_schema):
    from tenants.models import Tenant

    Tenant.objects.filter(schema_name="alpha").update(status="deactivated")
    from tenants import resolver

    resolver.forget()
    answer = post(gateway, key=gateway.key)

    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "tenant_deactivated"
