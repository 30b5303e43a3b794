"""Creating tenants: whole, fast, and nothing left behind when it fails."""

from __future__ import annotations

import hashlib
import importlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django_tenants.utils import schema_context

from core.errors import Forbidden
from tenants import schema_templates, services
from tenants.accounts.models import User
from tenants.accounts.services import api_key_create
from tenants.errors import ConfirmationMismatch, TenantExists, TenantInvalid, TenantNotFound
from tenants.models import Domain, Plan, SchemaTemplate, Tenant
from tests.conftest import PASSWORD, TenantClient

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _stand_in_public(in_public: None) -> None:
    pass


def traces() -> dict[str, set[str]]:
    """Everything that creating a tenant leaves behind."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast)'")
        schemas = {name for (name,) in cursor.fetchall()}
        cursor.execute("SELECT rolname FROM pg_roles")
        roles = {name for (name,) in cursor.fetchall()}
    return {
        "schemas": schemas,
        "roles": roles,
        "tenants": set(Tenant.objects.values_list("schema_name", flat=True)),
        "domains": set(Domain.objects.values_list("domain", flat=True)),
    }


def provision(**changes: Any) -> Tenant:
    """A tenant with good values, except for `changes`."""
    values: dict[str, Any] = {
        "schema_name": "gamma_west", "name": "Gamma", "plan": "team", "admin_email": "ada@gamma.example",
        "admin_password": PASSWORD, "admin_name": "Ada",
    }  # fmt: skip
    return services.tenant_provision(**{**values, **changes})


def test_a_tenant_is_whole(as_system: Any) -> None:
    tenant = provision()
    assert (tenant.name, tenant.plan.slug, tenant.status) == ("Gamma", "team", "active")
    assert tenant.url().startswith("http://gamma-west.localhost")
    with schema_context("gamma_west"):
        ada = User.objects.get()
        assert (ada.email, ada.roles, ada.must_change_password) == ("ada@gamma.example", ["admin"], True)
        assert ada.check_password(PASSWORD)


def test_a_new_schema_has_what_an_old_one_has(as_system: Any) -> None:
    provision()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT n.nspname, count(*), md5(string_agg(c.relname::text || c.relkind::text, ',' ORDER BY c.relname)) "
            "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname IN ('alpha', 'gamma_west') GROUP BY 1"
        )
        rows = {name: rest for name, *rest in cursor.fetchall()}
        assert rows["alpha"] == rows["gamma_west"]
        for table in ("django_migrations", "django_content_type", "auth_permission"):
            cursor.execute(f"SELECT count(*) FROM alpha.{table}")
            expected = cursor.fetchone()
            cursor.execute(f"SELECT count(*) FROM gamma_west.{table}")
            assert cursor.fetchone() == expected
        # Nothing of the template's name is left anywhere.
        cursor.execute("SELECT count(*) FROM pg_proc WHERE prosrc LIKE '%zz_template%'")
        assert cursor.fetchone() == (0,)


def test_rows_get_new_numbers_after_those_of_the_template(as_system: Any) -> None:
    from django.contrib.contenttypes.models import ContentType

    provision()
    with schema_context("gamma_west"):
        highest = ContentType.objects.order_by("-pk").values_list("pk", flat=True)[0]
        assert ContentType.objects.create(app_label="x", model="y").pk > highest


def test_two_tenants_share_no_row(as_system: Any) -> None:
    provision()
    provision(schema_name="delta", name="Delta", admin_email="dan@delta.example")
    with schema_context("gamma_west"):
        User.objects.update(name="changed")
    with schema_context("delta"):
        assert list(User.objects.values_list("name", flat=True)) == ["Ada"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"schema_name": "alpha"}, "schema_name"),
        ({"schema_name": "gamma", "domain": "alpha.testserver"}, "domain"),
        ({"schema_name": "gamma", "domain": "ALPHA.testserver."}, "domain"),
        ({"name": "ALPHA ltd"}, "name"),
    ],
)
def test_what_is_taken_is_a_conflict_at_its_field(
    as_system: Any, changes: dict[str, Any], field: str
) -> None:
    before = traces()
    with pytest.raises(TenantExists) as refused:
        provision(**changes)
    assert field in refused.value.fields
    assert refused.value.status == 409
    assert traces() == before


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"schema_name": "Bad Name"}, "schema_name"),
        ({"plan": "platinum"}, "plan"),
        ({"domain": "under_score.example.com"}, "domain"),
        ({"admin_email": "nobody"}, "admin_email"),
        ({"admin_password": "short"}, "admin_password"),
        ({"admin_password": None}, "admin_password"),
        ({"name": ""}, "name"),
    ],
)
def test_bad_input_is_refused_at_its_field(as_system: Any, changes: dict[str, Any], field: str) -> None:
    before = traces()
    with pytest.raises((TenantInvalid, Exception)) as refused:
        provision(**changes)
    assert field in refused.value.fields  # type: ignore[attr-defined]
    assert traces() == before


def test_a_schema_that_belongs_to_nobody_is_left_alone(as_system: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA gamma_west")
    with pytest.raises(TenantExists):
        provision()
    assert "gamma_west" in traces()["schemas"]
    assert not Tenant.objects.filter(schema_name="gamma_west").exists()


class Injected(Exception):
    """A failure that a test put there."""


@pytest.mark.parametrize(
    "place",
    [
        "tenants.services._schema_create",
        "tenants.services._first_admin",
        "tenants.services.audit_record",
        "tenants.services.Domain.objects.create",
        "tenants.services.post_schema_sync.send",
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_failure_at_any_step_leaves_nothing_behind(
    as_system: Any, monkeypatch: pytest.MonkeyPatch, place: str, when: str
) -> None:
    before = traces()
    owner_path, _, attribute = place.rpartition(".")
    owner: Any
    try:
        owner = importlib.import_module(owner_path)
    except ImportError:
        parts = owner_path.split(".")
        owner = importlib.import_module(".".join(parts[:2]))
        for part in parts[2:]:
            owner = getattr(owner, part)
    real = getattr(owner, attribute)

    def broken(*args: Any, **kwargs: Any) -> Any:
        if when == "after":
            real(*args, **kwargs)
        raise Injected(place)

    monkeypatch.setattr(owner, attribute, broken)
    with pytest.raises(Injected):
        provision()
    monkeypatch.undo()
    assert traces() == before
    assert provision().pk  # and it works at once when the cause is gone


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_sql_that_breaks_half_way_leaves_nothing_behind(
    as_system: Any, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    before = traces()
    real = schema_templates.template_sql

    def broken(schema_name: str) -> str:
        sql = real(schema_name)
        cut = sql.index(";\n", int(len(sql) * share) - 200)
        return sql[: cut + 2] + "SELECT 1 / 0;\n" + sql[cut + 2 :]

    monkeypatch.setattr(schema_templates, "template_sql", broken)
    with pytest.raises(Exception, match="division by zero"):
        provision()
    assert traces() == before


@pytest.mark.parametrize("role", ["admin", "pmo", "auditor"])
def test_only_operators_create_tenants(acting: Any, role: str) -> None:
    acting(roles=[role])
    with pytest.raises(Forbidden):
        provision()


def test_the_template_is_made_once(as_system: Any, django_assert_num_queries: Any) -> None:
    provision()
    stored = SchemaTemplate.objects.get()
    provision(schema_name="delta", name="Delta", admin_email="dan@delta.example")
    assert SchemaTemplate.objects.get().created_at == stored.created_at
    assert stored.schema_name in stored.sql


def test_names_are_replaced_only_where_they_are_the_schema(as_system: Any) -> None:
    sql = (
        SchemaTemplate.objects.get().sql
        if SchemaTemplate.objects.exists()
        else schema_templates.template_sql("x")
    )
    assert "CREATE SCHEMA" in sql
    for line in ("\\restrict", "SET default_table_access_method", "search_path', ''"):
        assert line not in sql


# ------------------------------------------------------------------ switching off, exporting, deleting
def test_switching_off_and_on_is_remembered(as_system: Any) -> None:
    tenant = provision()
    off = services.tenant_deactivate(tenant=tenant, reason="unpaid")
    assert (off.status, off.deactivated_reason) == ("deactivated", "unpaid")
    assert off.deactivated_at is not None
    again = services.tenant_deactivate(tenant=tenant, reason="other")
    assert again.deactivated_reason == "unpaid"
    on = services.tenant_activate(tenant=tenant)
    assert (on.status, on.deactivated_at) == ("active", None)


def test_deleting_needs_the_name(as_system: Any) -> None:
    tenant = provision()
    for wrong in ("", "gamma", "gamma_west", "Gamma!"):
        with pytest.raises(ConfirmationMismatch):
            services.tenant_delete(tenant=tenant, confirmation=wrong)
    assert Tenant.objects.filter(pk=tenant.pk).exists()


def test_deleting_leaves_nothing(as_system: Any) -> None:
    before = traces()
    tenant = provision()
    services.tenant_delete(tenant=tenant, confirmation="Gamma")
    assert traces() == before
    with pytest.raises(TenantNotFound):
        services.tenant_delete(tenant=tenant, confirmation="Gamma")
    assert provision().pk != tenant.pk


def test_an_export_holds_every_row_and_no_secret(as_system: Any, tmp_path: Path) -> None:
    tenant = provision()
    with schema_context("gamma_west"):
        issued = api_key_create(name="pipeline", scopes=["run.view"])
        user = User.objects.get()
    export = services.tenant_export(tenant=tenant, path=tmp_path / "gamma.zip")
    with zipfile.ZipFile(export.path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        everything = "".join(archive.read(name).decode() for name in archive.namelist())
        files = {file["name"]: file for file in manifest["files"]}
        for name, file in files.items():
            data = archive.read(name)
            assert hashlib.sha256(data).hexdigest() == file["sha256"]
            assert len(data.splitlines()) == file["rows"]
        people = [json.loads(line) for line in archive.read("tables/accounts_user.jsonl").splitlines()]
    assert [person["email"] for person in people] == ["ada@gamma.example"]
    assert user.password not in everything
    assert issued.text.rsplit("_", 1)[1] not in everything
    assert issued.key.secret_sha256 not in everything
    assert "tables/django_session.jsonl" not in files
    assert {"accounts_user.password", "accounts_apikey.secret_sha256", "django_session"} <= set(
        manifest["withheld"]
    )
    assert manifest["tenant"]["schema"] == "gamma_west"


def test_an_export_never_overwrites(as_system: Any, tmp_path: Path) -> None:
    tenant = provision()
    path = tmp_path / "gamma.zip"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        services.tenant_export(tenant=tenant, path=path)
    assert path.read_text() == "precious"


def test_a_failed_export_leaves_no_file(
    as_system: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tenants import exporting

    tenant = provision()
    monkeypatch.setattr(exporting, "_write_table", lambda *_: (_ for _ in ()).throw(Injected()))
    with pytest.raises(Injected):
        services.tenant_export(tenant=tenant, path=tmp_path / "gamma.zip")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------ the operators' pages
@pytest.fixture
def form() -> dict[str, str]:
    return {
        "schema_name": "gamma_west",
        "name": "Gamma",
        "plan": "team",
        "domain": "",
        "admin_email": "ada@gamma.example",
        "admin_name": "Ada",
    }


def test_an_operator_creates_a_tenant_in_the_page(
    operator_client: TenantClient, form: dict[str, str]
) -> None:
    response = operator_client.post("/tenants/new/", form)
    assert response.status_code == 200
    assert response["Cache-Control"] == "no-store"
    password = response.context["password"]
    client = TenantClient("gamma-west.localhost")
    assert (
        client.post("/sign-in/", {"username": form["admin_email"], "password": password}).status_code == 302
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema_name", "alpha"),
        ("schema_name", "Nö"),
        ("plan", "x"),
        ("admin_email", "x"),
        ("domain", "a_b.c"),
        ("name", ""),
    ],
)
def test_the_page_keeps_what_was_typed_and_says_what_is_wrong(
    operator_client: TenantClient, form: dict[str, str], field: str, value: str
) -> None:
    response = operator_client.post("/tenants/new/", {**form, field: value})
    assert response.status_code == 422
    assert response.context["form"].errors[field]
    assert "ada@gamma.example" in response.content.decode() or field == "admin_email"


@pytest.mark.parametrize("path", ["/", "/tenants/", "/tenants/new/", "/tenants/alpha/"])
def test_operators_pages_ask_visitors_to_sign_in(path: str) -> None:
    response = TenantClient("localhost").get(path)
    assert response.status_code == 302
    assert response["Location"].startswith("/sign-in/?next=")


@pytest.mark.parametrize("path", ["/tenants/", "/tenants/new/", "/tenants/alpha/", "/tenants/alpha/delete/"])
def test_a_tenants_site_has_no_operators_pages(as_role: Any, path: str) -> None:
    connection.set_schema("alpha")
    admin = as_role("admin")
    assert admin.get(path).status_code == 404
    assert admin.post(path, {"confirm": "Alpha Ltd"}).status_code == 404


def test_the_list_shows_health_and_size(operator_client: TenantClient) -> None:
    page = operator_client.get("/").content.decode()
    assert "Alpha Ltd" in page
    assert "Beta GmbH" in page
    assert "Healthy" in page
    assert operator_client.get("/tenants/?q=beta").content.decode().count("Alpha Ltd") == 0
    assert operator_client.get("/tenants/?csv=1").status_code == 200


def test_operators_pages_climb_the_ladder(operator_client: TenantClient) -> None:
    assert operator_client.get("/tenants/alpha/").status_code == 200
    assert operator_client.get("/tenants/nothing/").status_code == 404
    assert operator_client.post("/tenants/").status_code == 405
    for action in ("deactivate", "activate", "export", "delete"):
        assert operator_client.get(f"/tenants/alpha/{action}/").status_code == 405
        assert operator_client.post(f"/tenants/nothing/{action}/").status_code == 404


def test_an_operator_changes_plan_and_name(operator_client: TenantClient) -> None:
    assert (
        operator_client.post("/tenants/alpha/", {"name": "Alpha New", "plan": "business"}).status_code == 302
    )
    alpha = Tenant.objects.get(schema_name="alpha")
    assert (alpha.name, alpha.plan_id) == ("Alpha New", "business")
    assert (
        operator_client.post("/tenants/alpha/", {"name": "Beta GmbH", "plan": "business"}).status_code == 422
    )


def test_an_operator_deletes_after_typing_the_name(operator_client: TenantClient, as_system: Any) -> None:
    provision()
    assert operator_client.post("/tenants/gamma_west/delete/", {"confirm": "gamma_west"}).status_code == 422
    assert Tenant.objects.filter(schema_name="gamma_west").exists()
    assert operator_client.post("/tenants/gamma_west/delete/", {"confirm": "Gamma"}).status_code == 302
    assert "gamma_west" not in traces()["schemas"]


def test_an_operator_downloads_an_export(operator_client: TenantClient) -> None:
    response = operator_client.post("/tenants/alpha/export/")
    assert response.status_code == 200
    assert b"".join(response.streaming_content).startswith(b"PK")  # type: ignore[attr-defined]


def test_there_are_plans_from_the_start() -> None:
    assert list(Plan.objects.values_list("slug", flat=True)) == ["team", "business", "enterprise"]
    assert set(Plan.objects.get(pk="enterprise").limits()) == set(Plan.LIMITS)
