"""Who asks does not approve, also when a key of theirs did the asking."""

from __future__ import annotations

from typing import Any

import pytest

from core.security.actor import SYSTEM, use_actor
from governance.errors import OwnRequest
from governance.models import ChecklistItem, Review
from tenants.accounts.services import api_key_create
from tests.governance.test_review_sign import sign
from tests.inference.gate_data import World

pytestmark = pytest.mark.django_db


def test_nobody_approves_a_review_that_their_own_key_opened(
    world: World, client: Any, user_with: Any, alice: Any, acting: Any
) -> None:
    issuer = user_with("admin", "pmo", name="Ina Issuer")
    with use_actor(SYSTEM):
        issued = api_key_create(name="pipeline", scopes=["review.create"], created_by=issuer)
    answer = client.post(
        "/api/v1/reviews/",
        {
            "candidate": str(world.candidate.pk),
            "baseline": str(world.baseline.pk),
            "gate": world.gate.slug,
        },
        content_type="application/json",
        headers={"Authorization": f"Bearer {issued.text}"},
    )
    assert answer.status_code == 201, answer.content
    review = Review.objects.get()
    ChecklistItem.objects.filter(review=review, kind="entrance").update(status="done")
    acting(issuer)
    with pytest.raises(OwnRequest):
        sign(review, issuer, role="pmo")
    acting(alice)
    assert sign(review, alice).role == "pmo"
