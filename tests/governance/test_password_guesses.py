"""A found session must not become a found password: wrong re-entries are counted and then refused."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.core.cache import cache
from django.urls import reverse

from governance.models import Review, Signature
from governance.services import snapshot_take
from tests.governance.conftest import PASSWORD

pytestmark = pytest.mark.django_db


def sign(client: Any, review: Review, password: str) -> Any:
    """Post the signing form."""
    return client.post(
        reverse("governance:review_sign", kwargs={"pk": review.pk}, urlconf="core.urls"),
        {
            "role": "pmo",
            "position": "go",
            "password": password,
            "digest": snapshot_take(review=review).digest,
        },
    )


def test_signing_stops_looking_at_passwords_after_too_many_wrong_ones(review: Review, as_role: Any) -> None:
    client = as_role("pmo")
    for guess in range(settings.AXES_FAILURE_LIMIT):
        assert sign(client, review, f"guess {guess}").status_code == 403
    # Also the right one, or the refusal would say which guess was right.
    assert sign(client, review, PASSWORD).status_code == 429
    assert not Signature.objects.exists()
    cache.clear()  # as when the lock-out has passed
    assert sign(client, review, PASSWORD).status_code == 302


def test_a_right_password_forgets_the_wrong_ones_before_it(review: Review, as_role: Any) -> None:
    client = as_role("pmo")
    for guess in range(settings.AXES_FAILURE_LIMIT - 1):
        sign(client, review, f"guess {guess}")
    assert sign(client, review, PASSWORD).status_code == 302
    # Signed already, but the password was looked at.
    assert sign(client, review, "guess").status_code == 403


def test_an_idempotency_key_does_not_undo_the_count(review: Review, as_role: Any) -> None:
    client = as_role("pmo")
    body = {
        "role": "pmo", "position": "go", "password": "guess", "evidence_digest": snapshot_take(review=review).digest,
    }  # fmt: skip
    answers = [
        client.post(
            f"/api/v1/reviews/{review.pk}/signatures/", body, content_type="application/json",
            headers={"Idempotency-Key": f"try-{guess}"},
        ).status_code
        for guess in range(settings.AXES_FAILURE_LIMIT + 1)
    ]  # fmt: skip
    assert answers == [403] * settings.AXES_FAILURE_LIMIT + [429]


def test_one_persons_guesses_lock_nobody_else_out(review: Review, as_role: Any) -> None:
    client, other = as_role("pmo"), as_role("pmo")
    for guess in range(settings.AXES_FAILURE_LIMIT + 1):
        sign(client, review, f"guess {guess}")
    assert sign(other, review, PASSWORD).status_code == 302


def test_changing_a_password_counts_wrong_current_ones_too(as_role: Any) -> None:
    client = as_role("engineer")
    address = reverse("accounts:password_change", urlconf="core.urls")
    new = {"new": "a-much-longer-phrase-4", "repeat": "a-much-longer-phrase-4"}
    for guess in range(settings.AXES_FAILURE_LIMIT):
        client.post(address, {"current": f"guess {guess}", **new})
    response = client.post(address, {"current": PASSWORD, **new})
    assert response.status_code == 422
    assert "Wait" in response.content.decode()
    client.user.refresh_from_db()
    assert client.user.check_password(PASSWORD)
