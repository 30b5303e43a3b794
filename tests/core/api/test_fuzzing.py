"""The API against its own description: no 5xx, and no answer it does not describe."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from django_tenants.utils import schema_context
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from core.api.docs import schema_document
from tenants.models import Plan
from tests.inference.gate_data import World, finish_run, healthy, make_world

pytestmark = pytest.mark.django_db(transaction=True)

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# Examples per operation: the walk covers some seventy operations.
EXAMPLES = 12


def fuzz(document: dict[str, Any], base_url: str, headers: dict[str, str]) -> int:
    """Call every operation with generated input; returns how many there were."""
    schema = schemathesis.openapi.from_dict(document)
    walked = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        walked += 1

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def attack(case: Any) -> None:
            response = case.call(headers=headers, base_url=base_url)
            case.validate_response(response, checks=CHECKS, headers=headers)

        attack()
    return walked


@pytest.fixture
def world(transactional_db: None) -> World:
    """Something to find, and no rate limit in the way."""
    with schema_context("public"):
        Plan.objects.update(requests_per_minute=None)
    made = make_world(n=20)
    finish_run(made.candidate, made.versions["questions"], healthy)
    return made


def test_a_tenants_api_survives_fuzzing(world: World, api_key: Any, live_site: Any) -> None:
    key = api_key(
        "*.view", "product.edit", "release.create", "dataset.import", "run.cancel", "gate.edit", "review.create",
        "review.edit", "playbook.edit", "pilot.edit", "ip.edit", "key.manage", "comment.write", "waiver.request",
        "channel.edit", "dossier.export",
    )  # fmt: skip
    # The name is in the header only: not every machine resolves *.localhost.
    headers = {"Host": f"alpha.localhost:{live_site.port}", "Authorization": f"Bearer {key}"}
    assert fuzz(schema_document("core.urls"), f"http://127.0.0.1:{live_site.port}", headers) > 50


def test_the_operators_api_survives_fuzzing(transactional_db: None, api_key: Any, live_site: Any) -> None:
    headers = {"Host": f"localhost:{live_site.port}"}
    assert fuzz(schema_document("core.urls_public"), f"http://127.0.0.1:{live_site.port}", headers) > 10
