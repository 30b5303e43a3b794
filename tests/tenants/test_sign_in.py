"""Signing in and out, passwords, lock-out and profile."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from axes.models import AccessAttempt
from django.db import connection
from django.utils import timezone

from tests.conftest import ALPHA_HOST, BETA_HOST, PASSWORD, PUBLIC_HOST, TenantClient

pytestmark = pytest.mark.django_db


def sign_in(client: TenantClient, email: str, password: str, **more: Any) -> Any:
    return client.post("/sign-in/", {"username": email, "password": password, **more})


def test_a_person_signs_in_and_comes_home(client: TenantClient, alice: Any) -> None:
    response = sign_in(client, "Alice@Alpha.example", PASSWORD)
    assert response.status_code == 302
    assert response["Location"] == "/"
    assert client.get("/profile/").status_code == 200


def test_sign_in_goes_to_where_one_wanted_to_be(client: TenantClient, alice: Any) -> None:
    assert client.get("/profile/")["Location"] == "/sign-in/?next=/profile/"
    assert sign_in(client, alice.email, PASSWORD, next="/profile/")["Location"] == "/profile/"


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example/", "javascript:alert(1)"])
def test_sign_in_never_leads_to_another_site(client: TenantClient, alice: Any, target: str) -> None:
    assert sign_in(client, alice.email, PASSWORD, next=target)["Location"] == "/"


@pytest.mark.parametrize(
    ("email", "password"),
    [("alice@alpha.example", "wrong"), ("nobody@alpha.example", PASSWORD), ("", ""), ("x", "y" * 5000)],
)
def test_a_wrong_sign_in_is_refused_without_saying_what_was_wrong(
    client: TenantClient, alice: Any, email: str, password: str
) -> None:
    response = sign_in(client, email, password)
    assert response.status_code == 422
    assert client.get("/profile/").status_code == 302


def test_a_person_of_another_tenant_cannot_sign_in_here(client: TenantClient, mallory: Any) -> None:
    assert sign_in(client, mallory.email, PASSWORD).status_code == 422
    assert sign_in(TenantClient(BETA_HOST), mallory.email, PASSWORD).status_code == 302


def test_an_operator_cannot_sign_in_at_a_tenant(client: TenantClient, operator: Any) -> None:
    assert sign_in(client, operator.email, PASSWORD).status_code == 422
    assert sign_in(TenantClient(PUBLIC_HOST), operator.email, PASSWORD).status_code == 302


def test_a_session_of_one_tenant_is_nobody_in_another(
    as_user: Callable[..., TenantClient], alice: Any, beta: Any
) -> None:
    client = as_user(alice)
    assert client.get("/profile/").status_code == 200
    stranger = TenantClient(BETA_HOST)
    stranger.cookies = client.cookies
    assert stranger.get("/profile/").status_code == 302


def test_someone_switched_off_cannot_sign_in_and_is_signed_out(
    client: TenantClient, as_user: Callable[..., TenantClient], alice: Any
) -> None:
    signed_in = as_user(alice)
    alice.is_active = False
    alice.save()
    assert sign_in(client, alice.email, PASSWORD).status_code == 422
    assert signed_in.get("/profile/").status_code == 302


def test_too_many_failures_lock_and_say_for_how_long(client: TenantClient, alice: Any, settings: Any) -> None:
    for _ in range(settings.AXES_FAILURE_LIMIT - 1):
        assert sign_in(client, alice.email, "wrong").status_code == 422
    locked = sign_in(client, alice.email, "wrong")
    assert locked.status_code == 429
    assert "Try again in 15 minutes" in locked.content.decode()
    assert 0 < int(locked["Retry-After"]) <= 900
    # The right password does not help any more, and neither does other spelling.
    assert sign_in(client, alice.email, PASSWORD).status_code == 429
    assert sign_in(client, alice.email.upper(), PASSWORD).status_code == 429
    # From another computer it does: the lock is on the pair.
    assert (
        client.post(
            "/sign-in/", {"username": alice.email, "password": PASSWORD}, REMOTE_ADDR="10.0.0.9"
        ).status_code
        == 302
    )


def test_a_lock_runs_out(client: TenantClient, alice: Any, settings: Any) -> None:
    for _ in range(settings.AXES_FAILURE_LIMIT):
        sign_in(client, alice.email, "wrong")
    AccessAttempt.objects.update(attempt_time=timezone.now() - timedelta(minutes=16))
    assert sign_in(client, alice.email, PASSWORD).status_code == 302


def test_a_lock_at_one_tenant_does_not_lock_another(
    client: TenantClient, mallory: Any, settings: Any
) -> None:
    for _ in range(settings.AXES_FAILURE_LIMIT):
        sign_in(client, mallory.email, "wrong")
    assert sign_in(TenantClient(BETA_HOST), mallory.email, PASSWORD).status_code == 302


def test_the_password_is_not_kept_in_the_record_of_failures(client: TenantClient, alice: Any) -> None:
    sign_in(client, alice.email, "a-secret-typed-here")
    attempt = AccessAttempt.objects.get()
    assert "a-secret-typed-here" not in attempt.post_data


def test_signing_out_takes_a_post(as_user: Callable[..., TenantClient], alice: Any) -> None:
    client = as_user(alice)
    assert client.get("/sign-out/").status_code == 405
    assert client.get("/profile/").status_code == 200
    assert client.post("/sign-out/").status_code == 302
    assert client.get("/profile/").status_code == 302


def test_sign_in_demands_a_csrf_token(alice: Any) -> None:
    client = TenantClient(ALPHA_HOST, enforce_csrf_checks=True)
    assert sign_in(client, alice.email, PASSWORD).status_code == 403


# ------------------------------------------------------------------ passwords
NEW = "a-new-and-long-password-7"


def test_a_person_changes_their_password(as_user: Callable[..., TenantClient], alice: Any) -> None:
    client, other = as_user(alice), as_user(alice)
    response = client.post("/password/", {"current": PASSWORD, "new": NEW, "repeat": NEW})
    assert response.status_code == 302
    alice.refresh_from_db()
    assert alice.check_password(NEW)
    assert client.get("/profile/").status_code == 200
    assert other.get("/profile/").status_code == 302  # the other session has ended


@pytest.mark.parametrize(
    ("current", "new", "repeat", "words"),
    [
        ("wrong", NEW, NEW, "not your current password"),
        (PASSWORD, "short", "short", "at least 12 characters"),
        (PASSWORD, "1q2w3e4r5t6y", "1q2w3e4r5t6y", "too common"),
        (PASSWORD, NEW, NEW + "x", "differ"),
        (PASSWORD, PASSWORD, PASSWORD, "Choose another"),
        (PASSWORD, "alice@alpha.example", "alice@alpha.example", "similar"),
        ("", "", "", "required"),
    ],
)  # fmt: skip
def test_a_bad_new_password_is_refused(
    as_user: Callable[..., TenantClient], alice: Any, current: str, new: str, repeat: str, words: str
) -> None:
    response = as_user(alice).post("/password/", {"current": current, "new": new, "repeat": repeat})
    assert response.status_code == 422
    assert words in response.content.decode()
    alice.refresh_from_db()
    assert alice.check_password(PASSWORD)


def test_a_handed_out_password_must_be_changed_before_anything_else(client: TenantClient, alice: Any) -> None:
    alice.must_change_password = True
    alice.save()
    sign_in(client, alice.email, PASSWORD)
    assert client.get("/profile/")["Location"] == "/password/"
    assert client.get("/users/")["Location"] == "/password/"
    api = client.get("/api/v1/nothing-here")
    assert api.status_code in {403, 404}
    assert client.get("/password/").status_code == 200
    client.post("/password/", {"current": PASSWORD, "new": NEW, "repeat": NEW})
    assert client.get("/profile/").status_code == 200


def test_pages_of_passwords_and_sign_in_are_not_cached(
    as_user: Callable[..., TenantClient], client: TenantClient, alice: Any
) -> None:
    assert "no-store" in client.get("/sign-in/")["Cache-Control"]
    assert "no-store" in as_user(alice).get("/password/")["Cache-Control"]


# ------------------------------------------------------------------ profile
def test_a_person_sets_name_and_time_zone(as_user: Callable[..., TenantClient], alice: Any) -> None:
    client = as_user(alice)
    assert client.post("/profile/", {"name": "Alice A.", "time_zone": "Asia/Tokyo"}).status_code == 302
    alice.refresh_from_db()
    assert (alice.name, alice.time_zone) == ("Alice A.", "Asia/Tokyo")
    assert "Asia/Tokyo" in client.get("/profile/").content.decode()


@pytest.mark.parametrize(
    ("name", "zone"), [("", "UTC"), ("Alice", "Mars/Base"), ("Alice", "../../etc/passwd"), ("x" * 200, "UTC")]
)
def test_a_bad_profile_is_refused(
    as_user: Callable[..., TenantClient], alice: Any, name: str, zone: str
) -> None:
    assert as_user(alice).post("/profile/", {"name": name, "time_zone": zone}).status_code == 422
    alice.refresh_from_db()
    assert (alice.name, alice.time_zone) == ("Alice Ahn", "UTC")


def test_last_seen_is_kept_to_the_minute(
    as_user: Callable[..., TenantClient], alice: Any, django_assert_num_queries: Any
) -> None:
    client = as_user(alice)
    client.get("/profile/")
    alice.refresh_from_db()
    first = alice.last_seen_at
    assert first is not None
    client.get("/profile/")
    alice.refresh_from_db()
    assert alice.last_seen_at == first


def test_an_anonymous_visitor_costs_no_query_for_being_nobody(
    client: TenantClient, django_assert_num_queries: Any
) -> None:
    client.get("/sign-in/")  # host remembered
    with django_assert_num_queries(0):
        client.get("/sign-in/")
    assert connection.schema_name == "alpha"
