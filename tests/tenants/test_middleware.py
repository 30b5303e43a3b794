"""Which tenant answers: by host, by key, in single mode; and what the others see."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection, connections
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext

from tenants import resolver
from tenants.accounts.models import User
from tenants.middleware import TenantMiddleware, host_of, is_bare_host
from tenants.models import Domain, Tenant
from tenants.services import tenant_activate, tenant_deactivate
from tests.conftest import ALPHA_HOST, PASSWORD, PUBLIC_HOST, TenantClient

pytestmark = pytest.mark.django_db


def serve(
    path: str = "/x/",
    *,
    host: str = ALPHA_HOST,
    answer: Callable[[HttpRequest], Any] | None = None,
    **headers: str,
) -> Any:
    """One request through the middleware alone; the answer says where the connection stood."""

    def view(request: HttpRequest) -> HttpResponse:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_schema()")
            return HttpResponse(f"{cursor.fetchone()[0]} {request.tenant.schema_name} {request.urlconf}")  # type: ignore[attr-defined]

    tenant = connection.tenant
    try:
        return TenantMiddleware(answer or view)(RequestFactory().get(path, SERVER_NAME=host, headers=headers))
    finally:
        assert connection.schema_name == "public"  # given back, whatever happened
        connection.set_tenant(tenant)


def where(*args: Any, **kwargs: Any) -> str:
    return serve(*args, **kwargs).content.decode().split()[0]


def test_the_host_chooses_the_tenant() -> None:
    assert where(host="alpha.testserver") == "alpha"
    assert where(host="beta.testserver") == "beta"
    assert where(host="ALPHA.testserver") == "alpha"
    assert where(host="alpha.testserver.") == "alpha"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_a_bare_host_is_the_operators_site(host: str, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    answer = serve(host=host).content.decode()
    assert answer == f"public public {settings.PUBLIC_SCHEMA_URLCONF}"


def test_an_unknown_host_gets_a_page_that_says_so(client: TenantClient) -> None:
    page = TenantClient("nobody.localhost").get("/")
    assert page.status_code == 404
    assert "nobody.localhost" in page.content.decode()
    problem = TenantClient("nobody.localhost").get("/api/v1/releases")
    assert problem.status_code == 404
    assert problem["Content-Type"] == "application/problem+json"
    assert problem.json()["code"] == "tenant_not_found"


def test_a_host_we_do_not_serve_is_a_bad_request() -> None:
    assert TenantClient("evil.example").get("/").status_code == 400


def test_markup_in_a_host_is_escaped() -> None:
    page = TenantClient("x.localhost").get("/", headers={"host": "<b>x</b>.localhost"})
    assert page.status_code in {400, 404}
    assert "<b>x</b>" not in page.content.decode()


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        ("/api/v1/x", "beta"),
        ("/v1/models", "beta"),
        ("/v1", "beta"),
        ("/", "public"),
        ("/v10", "public"),
        ("/apix", "public"),
    ],
)
def test_a_key_chooses_the_tenant_on_the_bare_host_of_the_api_only(
    api_key: Callable[..., str], beta: Tenant, path: str, schema: str
) -> None:
    key = api_key("release.view", tenant=beta)
    assert where(path, host=PUBLIC_HOST, Authorization=f"Bearer {key}") == schema


def test_a_key_does_not_move_a_tenants_host(api_key: Callable[..., str], beta: Tenant) -> None:
    key = api_key("release.view", tenant=beta)
    assert where("/api/v1/x", host=ALPHA_HOST, Authorization=f"Bearer {key}") == "alpha"


@pytest.mark.parametrize(
    "key", ["sgn_nothing_aaaaaaaaaaaa_" + "b" * 43, "sgn_public_aaaaaaaaaaaa_" + "b" * 43, "nonsense"]
)
def test_a_key_of_nobody_stays_public(key: str) -> None:
    assert where("/api/v1/x", host=PUBLIC_HOST, Authorization=f"Bearer {key}") == "public"


def test_single_mode_answers_at_any_host(settings: Any) -> None:
    settings.DEPLOYMENT_MODE, settings.SINGLE_TENANT_SCHEMA = "single", "beta"
    settings.ALLOWED_HOSTS = ["*"]
    for host in ("localhost", "alpha.testserver", "signoff.example.com", "10.1.2.3"):
        assert where(host=host) == "beta"


def test_single_mode_without_its_tenant_says_what_to_do(settings: Any) -> None:
    settings.DEPLOYMENT_MODE, settings.SINGLE_TENANT_SCHEMA = "single", "missing"
    response = serve(host="localhost")
    assert response.status_code == 404
    assert "tenant_create" in response.content.decode()


def test_a_deactivated_tenant_is_closed_to_people_keys_and_programs(
    alpha: Tenant, api_key: Callable[..., str], as_system: Any, as_user: Any, alice: User
) -> None:
    key, session = api_key("*.view"), as_user(alice)
    tenant_deactivate(tenant=alpha)
    page = session.get("/profile/")
    assert page.status_code == 403
    assert "deactivated" in page.content.decode()
    for client, headers in (
        (TenantClient(ALPHA_HOST), {}),
        (TenantClient(PUBLIC_HOST), {"Authorization": f"Bearer {key}"}),
    ):
        problem = client.get("/api/v1/releases", headers=headers)
        assert problem.status_code == 403
        assert problem["Content-Type"] == "application/problem+json"
        assert problem.json()["code"] == "tenant_deactivated"
    assert TenantClient("beta.testserver").get("/sign-in/").status_code == 200
    tenant_activate(tenant=alpha)
    assert session.get("/profile/").status_code == 200


def test_an_error_gives_the_connection_back() -> None:
    def broken(request: HttpRequest) -> HttpResponse:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        serve(answer=broken)


def test_a_stream_is_produced_in_its_tenant_and_given_back() -> None:
    def schema() -> Iterator[bytes]:
        for _ in range(2):
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_schema()")
                yield f"{cursor.fetchone()[0]} ".encode()

    response = serve(host="beta.testserver", answer=lambda _: StreamingHttpResponse(schema()))
    assert b"".join(response.streaming_content) == b"beta beta "
    assert connection.schema_name == "public"
    connection.set_schema("alpha")


def test_a_known_host_costs_no_query(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "forget", lambda: None)  # the listener forgets once, when it starts
    serve(host="beta.testserver")
    with CaptureQueriesContext(connection) as queries:
        serve(host="beta.testserver")
    assert not [query["sql"] for query in queries if "tenants_" in query["sql"]]


def test_a_change_is_seen_at_once(alpha: Tenant, django_capture_on_commit_callbacks: Any) -> None:
    assert where(host="beta.testserver") == "beta"
    connection.set_schema_to_public()
    with django_capture_on_commit_callbacks(execute=True):
        Domain.objects.create(domain="second.testserver", tenant=alpha, is_primary=False)
        Domain.objects.filter(domain="beta.testserver").get().delete()
    assert where(host="second.testserver") == "alpha"
    assert serve(host="beta.testserver").status_code == 404


def test_other_processes_hear_of_a_change(settings: Any) -> None:
    import redis

    resolver.tenant_by_host("beta.testserver")
    with redis.Redis.from_url(settings.CACHE_URL) as client:
        for _ in range(200):  # the listener subscribes in its own time
            if (
                client.publish(resolver.CHANNEL, "changed")
                and "host:beta.testserver" not in resolver._entries
            ):
                break
            resolver.tenant_by_host("beta.testserver")
            threading.Event().wait(0.02)
        else:
            pytest.fail("the listener never forgot")


@pytest.mark.parametrize(
    ("host", "bare"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("10.0.0.7", True),
        ("alpha.localhost", False),
        ("example.com", False),
    ],
)
def test_bare_hosts(host: str, bare: bool) -> None:
    assert is_bare_host(host) is bare


def test_the_host_is_read_without_its_port() -> None:
    assert (
        host_of(RequestFactory().get("/", SERVER_NAME="alpha.testserver", SERVER_PORT="8123"))
        == "alpha.testserver"
    )


@pytest.mark.django_db(transaction=True)
def test_many_threads_never_see_another_tenant(user_with: Callable[..., User], beta: Tenant) -> None:
    """Two tenants, sixteen threads sharing a pool of connections, errors and transactions in between."""
    for tenant in (None, beta):
        user_with("engineer", name="beta" if tenant else "alpha", email="probe@example.com", tenant=tenant)
    wrong: list[str] = []
    barrier = threading.Barrier(16)

    def view(request: HttpRequest) -> HttpResponse:
        from django.db import DatabaseError, transaction

        name = User.objects.get(email="probe@example.com").name
        try:
            with transaction.atomic():
                User.objects.filter(email="probe@example.com").update(time_zone="UTC")
                if request.GET.get("fail"):
                    with connection.cursor() as cursor:
                        cursor.execute("SELECT 1 / 0")
        except DatabaseError:
            pass
        return HttpResponse(f"{name} {User.objects.get(email='probe@example.com').name}")

    middleware = TenantMiddleware(view)

    def work(number: int) -> None:
        barrier.wait()
        try:
            for turn in range(25):
                tenant = ("alpha", "beta")[(number + turn) % 2]
                query = "?fail=1" if turn % 3 == 0 else ""
                answer = middleware(
                    RequestFactory().get(f"/{query}", SERVER_NAME=f"{tenant}.testserver")
                ).content.decode()  # type: ignore[attr-defined]
                if answer != f"{tenant} {tenant}":
                    wrong.append(f"{tenant} saw {answer}")
                if turn % 4 == 0:
                    connection.close()
        except Exception as error:
            wrong.append(repr(error))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_sessions_and_keys_of_another_tenant_open_nothing(
    as_user: Any, mallory: User, beta: Tenant, api_key: Callable[..., str]
) -> None:
    session = as_user(mallory, tenant=beta)
    stranger = TenantClient(ALPHA_HOST)
    stranger.cookies = session.cookies
    assert stranger.get("/users/").status_code == 302
    assert stranger.post("/sign-in/", {"username": mallory.email, "password": PASSWORD}).status_code == 422
