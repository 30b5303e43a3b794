"""Fixtures of the whole suite.

Databases: a test that asks for `db` (or is marked `django_db`) runs in tenant *alpha*, inside a transaction
that is rolled back. One that needs commits (other processes, threads, a browser) asks for `transactional_db`;
its database is put back from the template afterwards. Cast: Alice (pmo) and Bob (auditor) work at alpha,
Mallory is admin of beta.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django.test
import pytest
from django.conf import settings
from django.core.cache import cache
from django.db import connection
from django.test import Client
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from tests.database import TestDatabase

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tenants.accounts.models import User
    from tenants.models import Tenant

PASSWORD = "correct-horse-battery-9"
ALPHA_HOST = "alpha.testserver"
BETA_HOST = "beta.testserver"
PUBLIC_HOST = "localhost"

hypothesis_settings.register_profile(
    "signoff",
    derandomize=True,  # the same examples every time: a red build is red for its author too
    deadline=None,  # no wall clock
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
hypothesis_settings.load_profile("signoff")

# ------------------------------------------------------------------ database
_database: TestDatabase | None = None


@pytest.fixture(scope="session")
def django_db_setup(
    request: pytest.FixtureRequest, django_test_environment: None, django_db_blocker: Any
) -> Iterator[None]:
    """The database of this process, copied from the template (replaces pytest-django's own set-up)."""
    global _database
    base = str(settings.DATABASES["default"]["TEST"]["NAME"])
    worker = getattr(request.config, "workerinput", {}).get("workerid", "")
    with django_db_blocker.unblock():
        _database = TestDatabase(f"{base}_{worker}" if worker else base, base=base)
        _database.create()
    yield
    with django_db_blocker.unblock():
        _database.drop()
        _database = None


def _restore_database(self: django.test.TransactionTestCase) -> None:
    """After a test that committed: copy the template again instead of emptying every table."""
    if _database is not None:
        _database.restore()


django.test.TransactionTestCase._fixture_teardown = _restore_database  # type: ignore[method-assign]


def _uses_database(request: pytest.FixtureRequest) -> bool:
    names = set(request.fixturenames)
    return "db" in names or "transactional_db" in names or bool(request.node.get_closest_marker("django_db"))


@pytest.fixture(autouse=True)
def _in_alpha(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests with a database start in tenant alpha, with an empty cache, and leave no tenant behind."""
    if not _uses_database(request):
        yield
        return
    request.getfixturevalue("_django_db_helper")
    _forget_tenants()
    cache.clear()
    connection.set_tenant(_tenant("alpha"))
    yield
    connection.set_schema_to_public()
    _forget_tenants()


def _forget_tenants() -> None:
    """Empty the process's own caches of hosts and tenants: rows of a rolled back test may be in them."""
    from inference.policies import engine as policy_engine
    from tenants import resolver

    resolver.forget()
    policy_engine.forget()


def _tenant(schema: str) -> Tenant:
    from django_tenants.utils import schema_context

    from tenants.models import Tenant

    with schema_context("public"):
        return Tenant.objects.get(schema_name=schema)


# ------------------------------------------------------------------ tenants
@pytest.fixture
def alpha(db: None) -> Tenant:
    """The tenant that tests run in."""
    return _tenant("alpha")


@pytest.fixture
def beta(db: None) -> Tenant:
    """Another tenant, with a host of its own."""
    return _tenant("beta")


@pytest.fixture
def tenant(alpha: Tenant) -> Tenant:
    """The tenant the test runs in: alpha."""
    return alpha


@pytest.fixture
def in_tenant() -> Callable[[Tenant], contextlib.AbstractContextManager[Any]]:
    """`with in_tenant(beta): ...` runs the block in another tenant's schema."""
    from django_tenants.utils import tenant_context

    return tenant_context


# ------------------------------------------------------------------ people
@pytest.fixture
def user_with(db: None) -> Callable[..., User]:
    """`user_with("engineer", email=..., tenant=...)` makes a user with these roles (default: in alpha)."""
    made = 0

    def make(*roles: str, email: str = "", name: str = "", tenant: Tenant | None = None) -> User:
        from django_tenants.utils import schema_context

        from tenants.accounts.models import User

        nonlocal made
        made += 1
        label = "-".join(roles) or "nobody"
        schema = tenant.schema_name if tenant is not None else "alpha"
        with schema_context(schema):
            user = User(
                email=email or f"{label}-{made}@{schema}.example",
                name=name or label.capitalize(),
                roles=list(roles),
            )
            user.set_password(PASSWORD)
            user.save()
        return user

    return make


@pytest.fixture
def alice(user_with: Callable[..., User]) -> User:
    """PMO of alpha: she owns things and signs."""
    return user_with("pmo", email="alice@alpha.example", name="Alice Ahn")


@pytest.fixture
def bob(user_with: Callable[..., User]) -> User:
    """Auditor of alpha: he reads everything and changes nothing."""
    return user_with("auditor", email="bob@alpha.example", name="Bob Berg")


@pytest.fixture
def mallory(user_with: Callable[..., User], beta: Tenant) -> User:
    """Admin of beta, who has no business in alpha."""
    return user_with("admin", email="mallory@beta.example", name="Mallory Moss", tenant=beta)


@pytest.fixture
def operator(db: None) -> User:
    """A user of the public schema: runs the installation, belongs to no tenant."""
    from django_tenants.utils import schema_context

    from tenants.accounts.models import User

    with schema_context("public"):
        user = User(email="olga@operators.example", name="Olga Orr", roles=["operator"])
        user.set_password(PASSWORD)
        user.save()
    return user


class TenantClient(Client):
    """A test client bound to a host; the test's own tenant is back after every request."""

    def __init__(self, host: str = ALPHA_HOST, **kwargs: Any) -> None:
        super().__init__(SERVER_NAME=host, **kwargs)
        self.host = host

    def request(self, **request: Any) -> Any:
        tenant = connection.tenant
        try:
            return super().request(**request)
        finally:
            connection.set_tenant(tenant)


def _signed_in(user: User, *, host: str, schema: str) -> TenantClient:
    from django_tenants.utils import schema_context

    client = TenantClient(host)
    with schema_context(schema):
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def client(db: None) -> TenantClient:
    """A client of alpha's host that is not signed in."""
    return TenantClient(ALPHA_HOST)


@pytest.fixture
def as_role(user_with: Callable[..., User]) -> Callable[[str], TenantClient]:
    """`as_role("pmo")` is a client of alpha's host, signed in as a new user of this role (`client.user`)."""

    def sign_in(role: str) -> TenantClient:
        user = user_with(role)
        client = _signed_in(user, host=ALPHA_HOST, schema="alpha")
        client.user = user  # type: ignore[attr-defined]
        return client

    return sign_in


@pytest.fixture
def as_user() -> Callable[..., TenantClient]:
    """`as_user(alice)`: a client of alpha's host as her; `as_user(mallory, tenant=beta)`: of beta's."""

    def sign_in(user: User, *, tenant: Tenant | None = None) -> TenantClient:
        schema = tenant.schema_name if tenant is not None else "alpha"
        return _signed_in(user, host=f"{schema}.testserver", schema=schema)

    return sign_in


@pytest.fixture
def operator_client(operator: User) -> TenantClient:
    """A client of the operators' site, signed in."""
    return _signed_in(operator, host=PUBLIC_HOST, schema="public")


@pytest.fixture
def acting() -> Iterator[Callable[..., Any]]:
    """`acting(alice)` makes her the actor of service calls until the end; `acting(roles=[...])` anyone."""
    from core.security.actor import Actor, use_actor

    with contextlib.ExitStack() as stack:

        def act(user: User | None = None, *, roles: Sequence[str] = (), schema: str = "alpha") -> Actor:
            actor = Actor(
                kind="user",
                id=str(user.pk) if user is not None else "0",
                label=user.name if user is not None else "Somebody",
                roles=tuple(user.roles) if user is not None else tuple(roles),
                schema=schema,
            )
            return stack.enter_context(use_actor(actor))

        yield act


@pytest.fixture
def api_key(user_with: Callable[..., User]) -> Callable[..., str]:
    """`api_key("release.view", tenant=beta)` is the text of a new API key with these scopes."""

    def make(*scopes: str, tenant: Tenant | None = None, **kwargs: Any) -> str:
        from django_tenants.utils import schema_context

        from core.security.actor import SYSTEM, use_actor
        from tenants.accounts.services import api_key_create

        schema = tenant.schema_name if tenant is not None else "alpha"
        flat = [one for scope in scopes for one in ([scope] if isinstance(scope, str) else scope)]
        with schema_context(schema), use_actor(SYSTEM):
            made = api_key_create(name=f"test key {len(flat)}", scopes=flat, **kwargs)
        return made[1] if isinstance(made, tuple) else str(made)

    return make


# ------------------------------------------------------------------ other processes
def process_environment() -> dict[str, str]:
    """Environment in which a subprocess sees this test's database, broker and cache."""
    from urllib.parse import quote

    database = connection.settings_dict
    url = "postgres://{}:{}@{}:{}/{}".format(
        quote(database["USER"], safe=""),
        quote(database["PASSWORD"], safe=""),
        database["HOST"],
        database["PORT"] or 5432,
        database["NAME"],
    )
    return {
        **os.environ,
        "DATABASE_URL": url,
        "DJANGO_SETTINGS_MODULE": "core.settings",
        "DATABASE_POOL_SIZE": "2",
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def run_manage(transactional_db: None) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_manage("gate", "--json")` runs manage.py as its own process on the test's database."""

    def run(*arguments: str, timeout_s: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(settings.BASE_DIR / "manage.py"), *arguments],
            env={**process_environment(), **environment},
            cwd=settings.BASE_DIR,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    return run


@pytest.fixture
def start_worker(transactional_db: None, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """`start_worker()` starts a real Celery worker on the test's database and broker, and waits for it.

    The test may kill it; what is left is killed afterwards. `worker.log` is the path of its log.
    """
    from core.platform import processes

    _empty_broker()
    started: list[subprocess.Popen[bytes]] = []

    def start(queues: str = "inference,default,documents", **environment: str) -> subprocess.Popen[bytes]:
        log = tmp_path / f"worker-{len(started)}.log"
        with log.open("wb") as output:
            worker = processes.spawn(
                [
                    *(sys.executable, "-m", "celery", "-A", "core.celery", "worker"),
                    *("--pool", "threads", "--concurrency", "1", "--queues", queues),
                    *("--loglevel", "INFO", "--without-gossip", "--without-mingle"),
                    *("--hostname", f"test{len(started)}-{os.getpid()}@localhost"),
                ],
                output=output,
                env={**process_environment(), **environment},
                cwd=settings.BASE_DIR,
            )
        worker.log = log  # type: ignore[attr-defined]
        started.append(worker)
        up = processes.wait_until(
            lambda: worker.poll() is not None or " ready." in log.read_text(errors="replace"), timeout_s=60
        )
        assert up and worker.poll() is None, log.read_text(errors="replace")
        return worker

    yield start
    for worker in started:
        processes.stop(worker, grace_s=0.1)
    _empty_broker()


def _empty_broker() -> None:
    import redis

    with redis.Redis.from_url(settings.BROKER_URL) as broker:
        broker.flushdb()


# ------------------------------------------------------------------ a site for a browser
class LiveSite:
    """The site on a real port, for a browser."""

    def __init__(self, port: int) -> None:
        self.port = port

    def url(self, path: str = "/", *, tenant: str = "alpha") -> str:
        """Address of a page; `tenant=""` is the operators' site."""
        host = f"{tenant}.localhost" if tenant else "localhost"
        return f"http://{host}:{self.port}{path}"

    def __str__(self) -> str:
        return self.url("").rstrip("/")


@pytest.fixture
def live_site(transactional_db: None) -> Iterator[LiveSite]:
    """The site in threads of this process, on a free port, at http://alpha.localhost:PORT."""
    from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler

    from core.wsgi import application

    class Quiet(WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """The test's own report is enough."""

    server = ThreadedWSGIServer(("127.0.0.1", 0), Quiet)
    server.set_app(application)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield LiveSite(server.server_address[1])
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)


def chromium_path() -> str | None:
    """The system's Chromium, or the one named by CHROMIUM; None when there is none."""
    import shutil

    for name in (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name) if name else None
        if found:
            return found
    return None


# How long a test waits for the browser at most, ms: long, because machines are busy; what is there is not waited for.
PATIENCE_MS = 30_000

# No sandbox: root's Chromium has none. The rest keeps it from calling anybody but the site under test.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    path = chromium_path()
    if path is None:
        pytest.fail(
            "Chromium is not installed. To mend it: sudo apt-get install -y chromium (or set CHROMIUM)"
        )
    # Playwright keeps an event loop in this thread; the ORM calls of the tests are not made from inside it.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, headless=True, args=CHROMIUM_FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser, live_site: LiveSite) -> Iterator[Page]:
    """A new page (1440 x 900) at alpha's address; a script error or a CSP violation fails the test."""
    context = browser.new_context(base_url=str(live_site), viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(f"{opened.url}: {error}"))
    opened.on(
        "console",
        lambda message: (
            problems.append(f"{opened.url}: {message.text}")
            if "Content Security Policy" in message.text
            else None
        ),
    )
    yield opened
    context.close()
    assert not problems, problems


@pytest.fixture
def sign_in(page: Page) -> Callable[..., Page]:
    """`sign_in(alice)` fills the sign-in form in the browser as a person would."""

    def through_the_form(user: User, *, password: str = PASSWORD, base: str = "") -> Page:
        from django.urls import reverse

        page.goto(base + reverse("accounts:sign_in"))
        page.locator("input[type=email], input[name=username], input[name=email]").first.fill(user.email)
        page.locator("input[type=password]").first.fill(password)
        with page.expect_navigation():
            page.locator("input[type=password]").first.press("Enter")
        return page

    return through_the_form


# ------------------------------------------------------------------ the real model
@pytest.fixture(scope="session")
def model_store() -> Path:
    """Directory of the model files; kept between runs, since importing the model takes a while."""
    store = Path(settings.MODEL_STORE)
    store.mkdir(parents=True, exist_ok=True)
    return store


# ------------------------------------------------------------------ small helpers
@pytest.fixture
def free_port() -> int:
    """A TCP port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """`eventually(lambda: run.refresh() or run.done)` waits for a true answer and returns it, or fails."""

    def wait(condition: Callable[[], Any], *, timeout_s: float = 60.0) -> Any:
        deadline = time.monotonic() + timeout_s
        while True:
            answer = condition()
            if answer:
                return answer
            assert time.monotonic() < deadline, f"did not happen within {timeout_s:g} s"
            time.sleep(0.05)

    return wait
