"""No tenant can sit where the operators' site answers."""

from __future__ import annotations

from typing import Any

import pytest

from tenants.errors import TenantInvalid
from tenants.models import Tenant
from tests.tenants.test_provision import provision

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("domain", ["localhost", "LOCALHOST.", "signoff.example", "127.0.0.1", "10.1.2.3"])
def test_the_operators_addresses_are_refused(
    domain: str, settings: Any, as_system: Any, in_public: None
) -> None:
    settings.BASE_DOMAIN = "signoff.example"
    with pytest.raises(TenantInvalid) as refusal:
        provision(domain=domain)
    assert list(refusal.value.fields) == ["domain"]
    assert not Tenant.objects.filter(schema_name="gamma_west").exists()
