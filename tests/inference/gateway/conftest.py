"""A gateway on a real port, releases served by a real (stub) engine over sockets, and real OpenAI clients."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from django.db import connection
from django_tenants.utils import schema_context

from core.security.actor import SYSTEM, use_actor
from inference.gateway import authentication, background, routing
from inference.guards import selectors as guards
from inference.knobs import receipts
from inference.ledger import lanes, prices
from inference.ledger.models import LedgerEntry
from inference.models import Channel, ModelVersion, Product, Release
from inference.policies import engine as policies
from inference.upstreams.models import Upstream
from inference.upstreams.routing import Upstreams
from tenants.accounts import services as accounts
from tests.inference.upstreams.stub import Stub


@dataclass
class Gateway:
    """The gateway under test and what stands behind it. ``key``: of tenant alpha, allowed to call."""

    port: int
    stub: Stub
    key: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def client(self, key: str = "", **options: Any) -> openai.OpenAI:
        """The official client, without its own retries."""
        return openai.OpenAI(base_url=self.url, api_key=key or self.key, max_retries=0, timeout=30, **options)


def model_version(mode: str, stub: Stub) -> ModelVersion:
    """A model version of the current schema, served by the stub in one of its modes; free of charge."""
    digest = "sha256:" + hashlib.sha256(mode.encode()).hexdigest()
    version, made = ModelVersion.objects.get_or_create(
        digest=digest, defaults={"name": mode, "price_usd_per_compute_s": 0}
    )
    if made:
        Upstream.objects.create(
            name=mode,
            model_version=version,
            url=stub.url,
            remote_model=mode,
            first_byte_timeout_s=1.0,
            chunk_timeout_s=1.0,
        )
    return version


def release(mode: str, stub: Stub, *, version: str = "", config: dict[str, Any] | None = None) -> Release:
    """A release of the product "helper" whose engine behaves as the mode says."""
    product, _ = Product.objects.get_or_create(slug="helper", defaults={"name": "Helper"})
    number = version or f"1.0.0-{mode}"
    content = hashlib.sha256(f"{mode} {number} {config}".encode()).hexdigest()
    return Release.objects.create(
        product=product,
        version=number,
        model_version=model_version(mode, stub),
        config=config or {},
        digest=f"sha256:{content}",
    )


def forget_everything() -> None:
    """Drop what this process remembers of a database that is about to go."""
    background.wait()
    lanes.forget()
    prices.forget()
    authentication.forget()
    routing.forget()
    policies.forget()
    Upstreams.forget()
    guards.forget()
    receipts.keys_forget()


@pytest.fixture
def in_schema() -> Callable[[str], Any]:
    """`with in_schema("alpha"): …` acts as the system there."""
    from contextlib import contextmanager

    @contextmanager
    def enter(schema: str) -> Iterator[None]:
        with schema_context(schema), use_actor(SYSTEM):
            yield

    return enter


@pytest.fixture
def gateway(transactional_db: None, in_schema: Callable[[str], Any]) -> Iterator[Gateway]:
    """Tenant alpha serves "helper" (channel production/stable: mode good); key allowed to call."""
    from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler

    from inference.gateway.application import application

    class Quiet(WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """The test's own report is enough."""

    forget_everything()
    with Stub() as stub:
        with in_schema("alpha"):
            good = release("good", stub, version="1.0.0")
            Channel.objects.create(product=good.product, release=good)
            key = accounts.api_key_create(name="application", scopes=["gateway.call"]).text
        server = ThreadedWSGIServer(("127.0.0.1", 0), Quiet)
        server.set_app(application)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield Gateway(server.server_address[1], stub, key)
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
    forget_everything()
    connection.close()


@pytest.fixture
def rows(in_schema: Callable[[str], Any]) -> Callable[..., list[LedgerEntry]]:
    """Ledger rows of a tenant, oldest first."""

    def read(schema: str = "alpha") -> list[LedgerEntry]:
        with in_schema(schema):
            return list(LedgerEntry.objects.order_by("id"))

    return read
