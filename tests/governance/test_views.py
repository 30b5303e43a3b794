"""Pages of governance: what works, what is refused, and to whom."""

from __future__ import annotations

from typing import Any

import pytest
from django.urls import reverse

from governance.models import Playbook, Review, Signature
from governance.templatetags.roles import written_moment
from tests.governance.conftest import PASSWORD
from tests.governance.test_review_sign import sign, tighten
from tests.inference.gate_data import World

pytestmark = pytest.mark.django_db


def detail(review: Review, name: str = "review_detail", **more: Any) -> str:
    return reverse(f"governance:{name}", kwargs={"pk": review.pk, **more}, urlconf="core.urls")


@pytest.mark.parametrize("role", ["pmo", "engineer", "security", "legal", "auditor", "admin"])
def test_staff_read_the_review(review: Review, as_role: Any, role: str) -> None:
    response = as_role(role).get(detail(review))
    assert response.status_code == 200
    assert "The gate passes" in response.content.decode()


def test_customers_see_no_review(review: Review, as_role: Any) -> None:
    assert as_role("customer").get(detail(review)).status_code == 403


def test_anonymous_visitors_are_sent_to_sign_in(review: Review, client: Any) -> None:
    response = client.get(detail(review))
    assert response.status_code == 302 and "next=" in response["Location"]


def test_another_tenants_review_is_not_found(review: Review, as_user: Any, mallory: Any, beta: Any) -> None:
    assert as_user(mallory, tenant=beta).get(detail(review)).status_code == 404


def test_the_pmo_signs_in_the_page(review: Review, as_role: Any) -> None:
    client = as_role("pmo")
    page = client.get(detail(review, "review_sign"))
    digest = page.context["digest"]
    response = client.post(
        detail(review, "review_sign"),
        {"role": "pmo", "position": "go", "password": PASSWORD, "digest": digest},
    )
    assert response.status_code == 302, response.content.decode()
    signature = Signature.objects.get()
    assert str(signature.pk) in response["Location"]
    certificate = client.get(response["Location"])
    assert signature.snapshot.digest in certificate.content.decode()


def test_signing_after_a_change_shows_what_moved(world: World, review: Review, as_role: Any) -> None:
    client = as_role("pmo")
    digest = client.get(detail(review, "review_sign")).context["digest"]
    tighten(world)
    response = client.post(
        detail(review, "review_sign"),
        {"role": "pmo", "position": "go", "password": PASSWORD, "digest": digest},
    )
    assert response.status_code == 409
    assert "gate_in_force.version" in response.content.decode()
    assert not Signature.objects.exists()


def test_signing_keeps_what_was_typed_and_never_the_password(review: Review, as_role: Any) -> None:
    client = as_role("pmo")
    digest = client.get(detail(review, "review_sign")).context["digest"]
    response = client.post(
        detail(review, "review_sign"),
        {"role": "pmo", "position": "go", "comment": "Looks right", "password": "not-it", "digest": digest},
    )
    text = response.content.decode()
    assert response.status_code == 403
    assert "Looks right" in text and "not-it" not in text


@pytest.mark.parametrize("role", ["auditor", "admin", "customer"])
def test_roles_without_a_voice_get_no_signing_page(review: Review, as_role: Any, role: str) -> None:
    assert as_role(role).get(detail(review, "review_sign")).status_code == 403


@pytest.mark.parametrize("name", ["review_withdraw", "comment_add", "checklist_add", "waiver_request"])
def test_changing_addresses_take_post_only(review: Review, as_role: Any, name: str) -> None:
    assert as_role("pmo").get(detail(review, name)).status_code == 405


@pytest.mark.parametrize(
    "name", ["review_withdraw", "comment_add", "checklist_add", "waiver_request", "review_decide"]
)
def test_an_auditor_changes_nothing(review: Review, as_role: Any, name: str) -> None:
    assert as_role("auditor").post(detail(review, name), {}).status_code == 403


def test_a_decision_through_the_page(review: Review, alice: Any, acting: Any, as_user: Any) -> None:
    acting(alice)
    sign(review, alice)
    client = as_user(alice)
    digest = client.get(detail(review, "review_decide")).context["digest"]
    client.post(detail(review, "review_decide"), {"decision": "go", "digest": digest})
    review.refresh_from_db()
    assert (review.status, review.decision) == ("decided", "go")


def test_the_list_filters_and_exports(review: Review, as_role: Any) -> None:
    client = as_role("auditor")
    address = reverse("governance:review_list", urlconf="core.urls")
    assert review.title in client.get(address, {"q": "1.1.0"}).content.decode()
    assert "No review matches" in client.get(address, {"q": "nothing like it"}).content.decode()
    assert review.title in client.get(address, {"format": "csv"}).content.decode()


def test_an_empty_list_says_what_to_do(db: None, as_role: Any) -> None:
    address = reverse("governance:review_list", urlconf="core.urls")
    assert "No review yet" in as_role("pmo").get(address).content.decode()


def test_a_playbook_is_written_in_versions_and_its_script_is_harmless(db: None, as_role: Any) -> None:
    client = as_role("engineer")
    address = reverse("governance:playbook_create", urlconf="core.urls")
    body = "1. Point stable at the baseline.\n\n<script>alert(1)</script>"
    data = {
        "slug": "rollback",
        "title": "Roll back",
        "kind": "rollback",
        "on_call_role": "engineer",
        "body": body,
    }
    assert client.post(address, data).status_code == 302
    edit = reverse("governance:playbook_edit", kwargs={"slug": "rollback"}, urlconf="core.urls")
    client.post(edit, data | {"body": body + "\n2. Tell the PMO."})
    assert list(Playbook.objects.values_list("version", flat=True)) == [2, 1]
    page = client.get(reverse("governance:playbook_detail", kwargs={"slug": "rollback"}, urlconf="core.urls"))
    assert "<script>alert(1)" not in page.content.decode()


@pytest.mark.parametrize("role", ["pmo", "engineer", "security", "legal", "auditor", "admin"])
def test_every_role_has_a_home(review: Review, as_role: Any, role: str) -> None:
    response = as_role(role).get("/")
    assert response.status_code == 200
    if role == "pmo":
        assert review.title in response.content.decode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-11-23T09:28:39.312591+00:00", "23 Nov 2026, 09:28 UTC"),
        ("", ""),
        ("None", "None"),
    ],
)
def test_moments_of_a_frozen_document_are_written_for_people(text: str, shown: str) -> None:
    assert written_moment(text).replace("\N{NO-BREAK SPACE}", " ") == shown


def test_the_api_says_which_signature_is_stale(
    world: World, review: Review, alice: Any, acting: Any, api_key: Any, client: Any
) -> None:
    acting(alice)
    sign(review, alice)
    key = {"Authorization": f"Bearer {api_key('review.view')}"}
    address = f"/api/v1/reviews/{review.pk}/signatures/"
    assert [one["current"] for one in client.get(address, headers=key).json()["results"]] == [True]
    tighten(world)
    assert [one["current"] for one in client.get(address, headers=key).json()["results"]] == [False]
