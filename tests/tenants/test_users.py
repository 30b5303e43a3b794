"""Users of a tenant, managed by its admins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django_tenants.utils import schema_context

from core.errors import Forbidden
from core.security.actor import SYSTEM, use_actor
from tenants.accounts import services
from tenants.accounts.errors import AccountInvalid, LastAdmin, PlanLimit, UserExists
from tenants.accounts.models import User
from tenants.models import Plan
from tests.conftest import PASSWORD, TenantClient

pytestmark = pytest.mark.django_db

NEW_USER = {"email": "Carol@Alpha.example", "name": "Carol Cho", "roles": ["engineer", "pmo"]}


# ------------------------------------------------------------------ pages
def test_an_admin_adds_a_user_and_sees_the_password_once(
    as_role: Callable[[str], TenantClient], client: TenantClient
) -> None:
    admin = as_role("admin")
    response = admin.post("/users/new/", NEW_USER)
    assert response.status_code == 200
    assert response["Cache-Control"] == "no-store"
    carol = User.objects.get(email="carol@alpha.example")
    assert carol.roles == ["pmo", "engineer"]
    assert carol.must_change_password
    password = response.context["password"]
    assert password in response.content.decode()
    assert password not in admin.get("/users/").content.decode()
    assert client.post("/sign-in/", {"username": carol.email, "password": password}).status_code == 302


@pytest.mark.parametrize(
    "path", ["/users/", "/users/new/", "/keys/", "/keys/new/", "/profile/", "/password/"]
)
def test_pages_send_a_visitor_to_sign_in(client: TenantClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 302
    assert response["Location"] == f"/sign-in/?next={path}"


@pytest.mark.parametrize("role", ["pmo", "engineer", "security", "legal", "auditor", "customer"])
@pytest.mark.parametrize("path", ["/users/new/", "/keys/new/"])
def test_only_an_admin_adds_users_and_keys(
    as_role: Callable[[str], TenantClient], role: str, path: str
) -> None:
    client = as_role(role)
    assert client.get(path).status_code == 403
    assert client.post(path, NEW_USER).status_code == 403
    assert not User.objects.filter(email="carol@alpha.example").exists()


def test_an_auditor_reads_users_and_changes_none(as_role: Callable[[str], TenantClient], alice: Any) -> None:
    auditor = as_role("auditor")
    page = auditor.get("/users/")
    assert page.status_code == 200
    assert "Add a user" not in page.content.decode()
    assert auditor.post(f"/users/{alice.pk}/", {"name": "X", "roles": ["admin"]}).status_code == 403
    assert auditor.post(f"/users/{alice.pk}/reset-password/").status_code == 403


def test_pages_take_their_own_methods_only(as_role: Callable[[str], TenantClient], alice: Any) -> None:
    admin = as_role("admin")
    assert admin.post("/users/").status_code == 405
    assert admin.delete(f"/users/{alice.pk}/").status_code == 405
    assert admin.get(f"/users/{alice.pk}/reset-password/").status_code == 405


@pytest.mark.parametrize("path", ["/users/999999/", "/users/999999/reset-password/", "/keys/nothing/revoke/"])
def test_what_is_missing_is_404(as_role: Callable[[str], TenantClient], path: str) -> None:
    admin = as_role("admin")
    assert admin.post(path, {"name": "X", "roles": ["pmo"]}).status_code == 404


def test_a_user_of_another_tenant_looks_like_a_missing_one(
    as_role: Callable[[str], TenantClient], mallory: Any, beta: Any, as_user: Callable[..., TenantClient]
) -> None:
    admin = as_role("admin")
    with schema_context("beta"):
        User.objects.filter(pk=mallory.pk).update(id=424242)
    assert admin.get("/users/424242/").status_code == 404
    assert admin.post("/users/424242/reset-password/").status_code == 404


def test_an_admin_changes_roles_and_switches_off(as_role: Callable[[str], TenantClient], alice: Any) -> None:
    admin = as_role("admin")
    response = admin.post(f"/users/{alice.pk}/", {"name": "Alice B", "roles": ["legal", "security"]})
    assert response.status_code == 302
    alice.refresh_from_db()
    assert (alice.name, alice.roles, alice.is_active) == ("Alice B", ["security", "legal"], False)


def test_an_admin_resets_a_password(
    as_role: Callable[[str], TenantClient], as_user: Callable[..., TenantClient], alice: Any
) -> None:
    session = as_user(alice)
    response = as_role("admin").post(f"/users/{alice.pk}/reset-password/")
    assert response.status_code == 200
    assert response["Cache-Control"] == "no-store"
    alice.refresh_from_db()
    assert alice.must_change_password
    assert alice.check_password(response.context["password"])
    assert session.get("/profile/").status_code == 302


@pytest.mark.parametrize(
    ("field", "value"),
    [("email", "not an address"), ("email", ""), ("email", "a" * 250 + "@b.example"), ("name", ""), ("name", "x" * 130),
     ("roles", []), ("roles", ["operator"]), ("roles", ["god"])],
)  # fmt: skip
def test_a_bad_user_is_refused_beside_the_field(
    as_role: Callable[[str], TenantClient], field: str, value: Any
) -> None:
    response = as_role("admin").post("/users/new/", {**NEW_USER, field: value})
    assert response.status_code == 422
    assert response.context["form"].errors[field]


def test_an_address_is_taken_once_whatever_its_case(
    as_role: Callable[[str], TenantClient], alice: Any
) -> None:
    response = as_role("admin").post("/users/new/", {**NEW_USER, "email": "ALICE@alpha.example"})
    assert response.status_code == 422
    assert "already" in response.content.decode()


def test_the_same_address_may_work_at_two_tenants(
    as_role: Callable[[str], TenantClient], mallory: Any
) -> None:
    assert as_role("admin").post("/users/new/", {**NEW_USER, "email": mallory.email}).status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        "?q=alice",
        "?role=pmo",
        "?state=off",
        "?sort=-seen",
        "?csv=1",
        "?page=99",
        "?sort=nonsense",
        "?role=%27",
    ],
)
def test_the_list_takes_searches_filters_and_nonsense(
    as_role: Callable[[str], TenantClient], alice: Any, query: str
) -> None:
    assert as_role("admin").get(f"/users/{query}").status_code == 200


# ------------------------------------------------------------------ services
def _admin(name: str = "Ada") -> User:
    user = User(email=f"{name.lower()}@alpha.example", name=name, roles=["admin"])
    user.set_password(PASSWORD)
    user.save()
    return user


def test_the_last_admin_keeps_role_and_access(acting: Callable[..., Any]) -> None:
    User.objects.filter(roles__contains=["admin"]).delete()
    ada = _admin()
    acting(ada)
    for change in ({"roles": ["pmo"]}, {"is_active": False}):
        with pytest.raises(LastAdmin):
            services.user_update(user=ada, **change)  # type: ignore[arg-type]
    ada.refresh_from_db()
    assert (ada.roles, ada.is_active) == (["admin"], True)
    # A switched off admin is nobody who could manage users.
    ben = _admin("Ben")
    services.user_update(user=ben, is_active=False)
    with pytest.raises(LastAdmin):
        services.user_update(user=ada, is_active=False)
    services.user_update(user=ben, is_active=True)
    services.user_update(user=ada, roles=["pmo"])


def test_a_key_never_manages_users(api_key: Callable[..., str]) -> None:
    from core.security.actor import Actor

    with use_actor(Actor("api_key", "x", scopes=("user.*",), schema="alpha")), pytest.raises(Forbidden):
        services.user_create(email="x@y.example", name="X", roles=["admin"], password=PASSWORD)


def test_the_plan_limits_active_users(as_system: Any) -> None:
    from tenants import resolver

    with schema_context("public"):
        Plan.objects.filter(tenants__schema_name="alpha").update(max_users=User.objects.count() + 100)
    resolver.forget()
    limit = User.objects.filter(is_active=True).count()
    with schema_context("public"):
        Plan.objects.filter(tenants__schema_name="alpha").update(max_users=limit)
    resolver.forget()
    limit = User.objects.filter(is_active=True).count()
    with schema_context("public"):
        Plan.objects.filter(tenants__schema_name="alpha").update(max_users=limit)
    resolver.forget()
    with pytest.raises(PlanLimit) as refused:
        services.user_create(email="x@y.example", name="X", roles=["pmo"], password=PASSWORD)
    assert refused.value.status == 429
    assert refused.value.extra["allowed"] == limit


def test_a_double_creation_is_refused(as_system: Any) -> None:
    fields: dict[str, Any] = {"email": "x@y.example", "name": "X", "roles": ["pmo"], "password": PASSWORD}
    services.user_create(**fields)
    with pytest.raises(UserExists) as refused:
        services.user_create(**fields)
    assert "email" in refused.value.fields


def test_a_weak_password_is_refused_with_all_reasons(as_system: Any) -> None:
    with pytest.raises(AccountInvalid) as refused:
        services.user_create(email="x@y.example", name="X", roles=["pmo"], password="short")
    assert refused.value.fields["password"]


def test_generated_passwords_pass_the_validators() -> None:
    for _ in range(20):
        password = services.password_generate()
        assert services.check_password(password, email="x@y.example", name="X") == password


@pytest.mark.parametrize(
    "action", ["user.created", "user.roles_changed", "user.deactivated", "user.password_reset"]
)
def test_changes_are_in_the_audit_log(as_system: Any, action: str) -> None:
    from core.audit.models import AuditEvent

    user = services.user_create(email="x@y.example", name="Xaver Y", roles=["pmo"], password=PASSWORD)
    services.user_update(user=user, roles=["legal"], is_active=False)
    services.user_reset_password(user=user)
    event = AuditEvent.objects.filter(action=action).latest("id")
    assert "x@y.example" not in str(event.data) + event.sentence
    assert "Xaver" not in str(event.data) + event.sentence + event.target_label


def test_the_system_actor_is_not_a_way_in() -> None:
    with pytest.raises(Forbidden):
        services.user_create(email="x@y.example", name="X", roles=["pmo"], password=PASSWORD)
    with use_actor(SYSTEM):
        services.user_create(email="x@y.example", name="X", roles=["pmo"], password=PASSWORD)
