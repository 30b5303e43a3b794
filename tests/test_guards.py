"""Every page, found from the resolver: strangers are sent to sign in, and other tenants find nothing.

A page that is added is walked from then on. One that may be open to everybody has to be named in OPEN, with
the reason beside it; one with a kind of id nobody has seen here needs an example in `alphas_objects`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.urls import NoReverseMatch, URLPattern, URLResolver, get_resolver, reverse
from django.utils import timezone
from django_tenants.utils import schema_context

from core.audit.models import AuditEvent
from core.evidence.models import Run
from core.security.actor import SYSTEM, use_actor
from governance.models import ChecklistItem
from governance.services import playbook_save
from inference.gateway.models import Batch, GatewayFile
from inference.guards.services import profile_save
from inference.ledger.models import LedgerEntry
from inference.ledger.sealing import PAYLOAD, active_key
from inference.models import Dataset, Registration
from inference.policies.services import bundle_save
from inference.upstreams.models import Upstream
from ip_portfolio.services import application_create
from pilots.models import Customer, Pilot, PilotMember
from tenants.accounts.models import User
from tenants.accounts.services import api_key_create, scope_choices
from tenants.quotas.models import Limit
from tests.conftest import ALPHA_HOST, BETA_HOST, PASSWORD, PUBLIC_HOST, TenantClient
from tests.governance.conftest import measured_world, open_review
from tests.governance.test_review_sign import sign

TENANT_SITE, OPERATORS_SITE = "core.urls", "core.urls_public"
# Pages that anybody may open, and why.
OPEN = {
    "accounts:sign_in": "one has to get in",
    "accounts:sign_out": "ends a session; without one it goes to sign-in",
    "platform:health": "asked by load balancers; says ok",
    "platform:ready": "asked by load balancers; names services that do not answer",
    "api:schema": "says what there is, not what is in it",
    "api:docs": "drawn from the schema",
    "ui:theme": "sets the colours of one's own browser",
    "ui:shortcuts": "a list of keys",
    "ui:components": "invented data; 404 unless SHOW_COMPONENTS is on",
}
# Parameters that some page reads from its address.
QUERY = (
    "q", "page", "size", "sort", "cols", "status", "kind", "product", "version", "dataset", "metric", "gate",
    "candidate", "baseline", "release", "model", "transform", "n", "before", "after", "actor", "action", "target",
    "since", "until", "source", "next", "items-q", "items-page", "items-sort", "items-slice",
)  # fmt: skip
EVERY_ROLE = ("admin", "pmo", "engineer", "security", "legal", "auditor", "customer")


@dataclass(frozen=True)
class PageAddress:
    """A named page and the names of the ids in its address."""

    name: str
    parameters: tuple[str, ...]


def _pages(urlconf: str) -> list[PageAddress]:
    found: dict[str, PageAddress] = {}

    def walk(patterns: Any, namespace: str, outer: tuple[str, ...]) -> Iterator[PageAddress]:
        for one in patterns:
            ids = (*outer, *one.pattern.converters)
            if isinstance(one, URLResolver):
                inner = f"{namespace}{one.namespace}:" if one.namespace else namespace
                yield from walk(one.url_patterns, inner, ids)
            elif isinstance(one, URLPattern) and one.name:
                yield PageAddress(f"{namespace}{one.name}", ids)

    for page in walk(get_resolver(urlconf).url_patterns, "", ()):
        found.setdefault(page.name, page)
    return sorted(found.values(), key=lambda page: page.name)


def _unnamed(urlconf: str) -> Iterator[str]:
    """Addresses without a name outside the API, which the walks would miss."""

    def walk(patterns: Any, prefix: str) -> Iterator[str]:
        for one in patterns:
            address = prefix + str(one.pattern)
            if isinstance(one, URLResolver):
                yield from walk(one.url_patterns, address)
            elif not one.name and not address.startswith("api/v1/"):
                yield address

    yield from walk(get_resolver(urlconf).url_patterns, "")


_PLACE = re.compile(r"<(?:\w+:)?(\w+)>")


def _api_views(urlconf: str) -> Iterator[tuple[str, Any]]:
    """(address with its places, view class) of every endpoint of the API."""

    def walk(patterns: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for one in patterns:
            address = prefix + str(one.pattern)
            if isinstance(one, URLResolver):
                yield from walk(one.url_patterns, address)
            elif address.startswith("api/v1/") and hasattr(
                getattr(one.callback, "view_class", None), "actions"
            ):
                yield f"/{address}", one.callback.view_class

    yield from walk(get_resolver(urlconf).url_patterns, "")


def _fill(template: str, values: dict[str, Any]) -> str:
    return _PLACE.sub(lambda place: str(values[place[1]]), template)


# What an address could name when nothing is there; strangers are stopped before anything is looked up.
_NOBODYS = {
    "pk": 1, "slug": "x", "key_id": "x", "schema_name": "alpha", "number": 1, "public_id": "batch_x", "reference": "x@1",
}  # fmt: skip


def _address(page: PageAddress, urlconf: str, values: dict[str, Any]) -> str:
    """The address with these ids; `pk` is a number on some pages and a UUID on others."""
    arguments = {name: values.get(name, 1) for name in page.parameters}
    try:
        return reverse(page.name, kwargs=arguments, urlconf=urlconf)
    except NoReverseMatch:
        arguments["pk"] = values.get("uuid", uuid.UUID(int=1))
        return reverse(page.name, kwargs=arguments, urlconf=urlconf)


def _open_or_post(client: TenantClient, address: str) -> Any:
    """GET, or POST where the page takes nothing else (the test client sends no CSRF token and needs none)."""
    response = client.get(address)
    return client.post(address) if response.status_code == 405 else response


@pytest.mark.django_db
@pytest.mark.parametrize(("urlconf", "host"), [(TENANT_SITE, ALPHA_HOST), (OPERATORS_SITE, PUBLIC_HOST)])
def test_a_stranger_is_sent_to_sign_in_from_every_page(urlconf: str, host: str) -> None:
    pages = _pages(urlconf)
    assert len(pages) > 20, "the walk found too little to mean anything"
    let_in = []
    for page in pages:
        if page.name in OPEN:
            continue
        client = TenantClient(host)
        response = _open_or_post(client, _address(page, urlconf, _NOBODYS))
        to_sign_in = response.status_code == 302 and "/sign-in/" in response["Location"]
        if not to_sign_in and response.status_code not in {401, 403, 404}:
            let_in.append(f"{page.name}: {response.status_code}")
    assert not let_in


@pytest.mark.parametrize("urlconf", [TENANT_SITE, OPERATORS_SITE])
def test_every_page_has_a_name_so_that_the_walks_find_it(urlconf: str) -> None:
    assert not list(_unnamed(urlconf))


def test_the_list_of_open_pages_names_only_pages_that_are_there() -> None:
    known = {page.name for site in (TENANT_SITE, OPERATORS_SITE) for page in _pages(site)}
    assert set(OPEN) <= known


@pytest.mark.django_db
@pytest.mark.parametrize(("urlconf", "host"), [(TENANT_SITE, ALPHA_HOST), (OPERATORS_SITE, PUBLIC_HOST)])
def test_a_stranger_and_a_key_with_too_little_get_nothing_from_the_api(
    urlconf: str, host: str, api_key: Any
) -> None:
    endpoints = [
        (_fill(address, dict.fromkeys(_PLACE.findall(address), 1) | {"schema_name": "alpha"}), view)
        for address, view in _api_views(urlconf)
    ]
    assert len(endpoints) > 8
    client = TenantClient(host)
    # A key of alpha: at the operators' site it is a wrong key, in alpha one with hardly a scope.
    narrow = {"Authorization": f"Bearer {api_key('home.view')}"}
    wrong = []
    for address, view in endpoints:
        for method, action in view.actions.items():
            stranger = client.generic(method, address, "{}", content_type="application/json")
            # An address whose id must be a UUID is none with a number in it.
            if stranger.status_code not in {401, 404}:
                wrong.append(f"{method} {address} as nobody: {stranger.status_code}")
            if action == "me.view":
                continue  # says who one is to whoever is somebody
            answer = client.generic(method, address, "{}", content_type="application/json", headers=narrow)
            if answer.status_code not in {401, 403, 404}:
                wrong.append(f"{method} {address} with a narrow key: {answer.status_code}")
    assert not wrong


# ------------------------------------------------------------------ another tenant
@pytest.fixture
def alphas_objects(db: None, alice: Any, acting: Any) -> dict[str, dict[str, Any]]:
    """Ids of alpha's objects as addresses call them, by the beginning of the names of their pages."""
    world = measured_world()
    review = open_review(world)
    run = Run.objects.first()
    item = ChecklistItem.objects.first()
    dataset = Dataset.objects.first()
    assert run is not None and item is not None and dataset is not None
    with use_actor(SYSTEM):
        playbook = playbook_save(slug="secret-plan", title="Plan", body="Do it.")
        key = api_key_create(name="alpha's", scopes=["run.view"]).key
        policy = bundle_save(policy="package signoff.gateway\n\nallow := true\n")
        profile = profile_save(name="secret", config={})
        application = application_create(
            docket_number="A-1", title="A secret", jurisdiction="US", type="provisional"
        )
    acting(alice)
    signature = sign(review, alice)
    # Ids are counted in each schema; this one beta cannot have by chance.
    person = User.objects.create_user(
        "carol@alpha.example", PASSWORD, pk=7_000_001, name="Carol", roles=["customer"]
    )
    customer = Customer.objects.create(name="Secret Bank")
    pilot = Pilot.objects.create(
        customer=customer, product=world.product, release=world.candidate, starts_on="2026-01-01"
    )
    member = PilotMember.objects.create(pilot=pilot, user=person)
    registration = Registration.objects.create(action="packaged", arguments={})
    request = LedgerEntry.objects.create(id=uuid.uuid4(), created_at=timezone.now(), status="ok")
    limit = Limit.objects.create(pk=7_000_002, scope_kind="tenant", tokens_per_day=10)
    upstream = Upstream.objects.create(
        name="secret",
        model_version=world.candidate.model_version,
        url="http://192.0.2.1/v1",
        remote_model="m",
    )
    batch = Batch.objects.create(
        key_id=key.key_id,
        endpoint="/v1/chat/completions",
        input_file_public_id="file-secret",
        output_file=GatewayFile.objects.create(
            key_id=key.key_id,
            purpose="batch_output",
            filename="answers.jsonl",
            data_key=active_key("alpha", PAYLOAD).id,
            expires_at=timezone.now() + timedelta(days=1),
        ),
        expires_at=timezone.now() + timedelta(days=1),
    )
    return {
        "inference:release": {"pk": world.candidate.pk},
        "inference:model": {"pk": world.candidate.model_version_id},
        "inference:run": {"pk": run.pk},
        "inference:registration": {"pk": registration.pk},
        "inference:dataset": {"slug": dataset.slug},
        "inference:gate": {"slug": world.gate.slug},
        "governance:certificate": {"pk": signature.pk},
        "governance:playbook": {"slug": playbook.slug},
        "governance:": {"pk": review.pk, "item": item.pk, "waiver": 1},
        "audit:": {"event_id": AuditEvent.objects.latest("pk").pk},
        "pilots:": {"pilot_id": pilot.pk, "member_id": member.pk},
        "accounts:": {"user_id": person.pk, "key_id": key.key_id},
        "ip_portfolio:": {"pk": application.pk},
        "ledger:": {"pk": request.pk},
        "quotas:": {"pk": limit.pk, "key_id": key.key_id},
        "policies:": {"version": policy.version, "number": policy.version},
        "upstreams:": {"pk": upstream.pk},
        "gateway:": {"public_id": batch.public_id},
        "guards:": {"reference": f"{profile.name}@{profile.version}"},
    }


def _of_alpha(page: PageAddress, objects: dict[str, dict[str, Any]]) -> str:
    """The page's address with ids of alpha's objects, found by the longest known beginning of its name."""
    known = [start for start in objects if page.name.startswith(start)]
    assert known, f"Name an object of alpha for {page.name} in alphas_objects."
    values = objects[max(known, key=len)]
    missing = set(page.parameters) - set(values)
    assert not missing, f"Give {page.name} an example of {', '.join(missing)} in alphas_objects."
    return reverse(page.name, kwargs={name: values[name] for name in page.parameters}, urlconf=TENANT_SITE)


def _with_ids() -> list[PageAddress]:
    return [page for page in _pages(TENANT_SITE) if page.parameters and page.name not in OPEN]


@pytest.mark.django_db
def test_our_own_people_do_find_these_objects(
    alphas_objects: dict[str, dict[str, Any]], as_user: Any, user_with: Any
) -> None:
    """Without this the next test would pass with addresses that lead nowhere for anybody."""
    ours = as_user(user_with(*EVERY_ROLE, email="zoe@alpha.example"))
    lost = []
    for page in _with_ids():
        # Only looked at: these addresses would change something when posted to.
        status = ours.get(_of_alpha(page, alphas_objects)).status_code
        if status not in {200, 405}:
            lost.append(f"{page.name}: {status}")
    assert not lost


@pytest.mark.django_db
def test_another_tenants_admin_finds_none_of_our_objects(
    alphas_objects: dict[str, dict[str, Any]], mallory: Any, beta: Any, as_user: Any, user_with: Any
) -> None:
    eve = user_with(*EVERY_ROLE, email="eve@beta.example", name="Eve", tenant=beta)
    pages = _with_ids()
    assert len(pages) > 25, "the walk found too little to mean anything"
    opened = []
    for user in (mallory, eve):
        client = as_user(user, tenant=beta)
        for page in pages:
            status = _open_or_post(client, _of_alpha(page, alphas_objects)).status_code
            if status not in {302, 403, 404}:
                opened.append(f"{page.name} as {user.name}: {status}")
    assert not opened


@pytest.mark.django_db
def test_another_tenants_key_finds_none_of_our_objects(
    alphas_objects: dict[str, dict[str, Any]], beta: Any, api_key: Any
) -> None:
    """With every scope there is, on its own host, on the bare host and on ours."""
    values = {name: value for of in alphas_objects.values() for name, value in of.items()}
    with schema_context("beta"):
        scopes = scope_choices()
    headers = {"Authorization": f"Bearer {api_key(scopes, tenant=beta)}"}
    addresses = set()
    for template, view in _api_views(TENANT_SITE):
        names = _PLACE.findall(template)
        if not names or "GET" not in getattr(view, "actions", {}):
            continue
        for of in alphas_objects.values():
            filled = {**values, **of, "version": 1}
            if set(names) <= set(filled):
                addresses.add(_fill(template, filled))
    assert len(addresses) > 20, "the walk found too little to mean anything"
    opened = []
    for address in sorted(addresses):
        for host in (BETA_HOST, PUBLIC_HOST):
            status = TenantClient(host).get(address, headers=headers).status_code
            if status not in {403, 404}:
                opened.append(f"{address} at {host}: {status}")
        # On our host it is a wrong key, whatever it asks for.
        status = TenantClient(ALPHA_HOST).get(address, headers=headers).status_code
        if status not in {401, 404}:
            opened.append(f"{address} at {ALPHA_HOST}: {status}")
    assert not opened


# Pages about oneself, which every signed-in person has.
OWN = {"home", "accounts:profile", "accounts:password_change", "ui:search"}


@pytest.mark.django_db
def test_a_customer_sees_their_own_pages_and_nothing_else(
    alphas_objects: dict[str, dict[str, Any]], as_role: Any
) -> None:
    customer = as_role("customer")  # of no pilot
    allowed = OWN | set(OPEN) | {"pilots:scorecard"}
    seen = []
    for page in _pages(TENANT_SITE):
        if page.name in allowed:
            continue
        address = _of_alpha(page, alphas_objects) if page.parameters else _address(page, TENANT_SITE, {})
        status = _open_or_post(customer, address).status_code
        if status not in {403, 404}:
            seen.append(f"{page.name}: {status}")
    assert not seen


@pytest.mark.django_db
def test_an_auditor_changes_nothing_on_any_page(
    alphas_objects: dict[str, dict[str, Any]], as_role: Any
) -> None:
    auditor = as_role("auditor")
    # Recomputing the log reads it only.
    allowed = OWN | set(OPEN) | {
        "audit:verify",
        "knobs:watermark_detect", "knobs:receipt_check", "knobs:copy_check",
    }  # fmt: skip
    taken = []
    for page in _pages(TENANT_SITE):
        if page.name in allowed:
            continue
        address = _of_alpha(page, alphas_objects) if page.parameters else _address(page, TENANT_SITE, {})
        status = auditor.post(address).status_code
        if status not in {403, 404, 405}:
            taken.append(f"{page.name}: {status}")
    assert not taken


@pytest.mark.django_db
@pytest.mark.parametrize("schema", ["alpha", "public"])
def test_no_page_breaks_for_an_api_key(alphas_objects: dict[str, dict[str, Any]], schema: str) -> None:
    """Pages are for people, but a key gets to them: it is nobody's user and has no number."""
    urlconf, host = (TENANT_SITE, ALPHA_HOST) if schema == "alpha" else (OPERATORS_SITE, PUBLIC_HOST)
    with schema_context(schema), use_actor(SYSTEM):
        issued = api_key_create(name="everything", scopes=scope_choices())
    headers = {"Authorization": f"Bearer {issued.text}"}
    broken = []
    for page in _pages(urlconf):
        known = not page.parameters or schema == "alpha"
        address = _of_alpha(page, alphas_objects) if page.parameters and known else None
        address = address or _address(page, urlconf, _NOBODYS)
        client = TenantClient(host, raise_request_exception=False)
        if client.get(address, headers=headers).status_code >= 500:
            broken.append(page.name)
    assert not broken


@pytest.mark.django_db
@pytest.mark.parametrize("value", ["\x00", "²", "9" * 25, "-1", "'\"><script>"])
def test_nonsense_in_the_address_breaks_no_page(
    alphas_objects: dict[str, dict[str, Any]], as_user: Any, user_with: Any, value: str
) -> None:
    session = as_user(user_with(*EVERY_ROLE, email="zoe@alpha.example")).cookies
    client = TenantClient(ALPHA_HOST, raise_request_exception=False)
    client.cookies = session
    broken = []
    for page in _pages(TENANT_SITE):
        address = (
            _of_alpha(page, alphas_objects) if page.parameters else reverse(page.name, urlconf=TENANT_SITE)
        )
        response = client.get(address, dict.fromkeys(QUERY, value))
        # What is JSON or CSV is not read as a page (nosniff).
        shown = response["Content-Type"].startswith("text/html") and not response.streaming
        if response.status_code >= 500 or (shown and b'"><script>' in response.content):
            broken.append(f"{page.name}: {response.status_code}")
    assert not broken


@pytest.mark.django_db
def test_no_page_takes_a_form_that_another_site_sent(
    alphas_objects: dict[str, dict[str, Any]], as_user: Any, user_with: Any
) -> None:
    session = as_user(user_with(*EVERY_ROLE, email="zoe@alpha.example")).cookies
    client = TenantClient(ALPHA_HOST, enforce_csrf_checks=True)
    client.cookies = session
    taken = []
    for page in _pages(TENANT_SITE):
        address = (
            _of_alpha(page, alphas_objects) if page.parameters else reverse(page.name, urlconf=TENANT_SITE)
        )
        response = client.post(address)
        # Pages that only show something answer a form with 405 after the check, or open to programs with 401.
        if response.status_code not in {401, 403, 405}:
            taken.append(f"{page.name}: {response.status_code}")
    assert not taken
    refusal = client.post(reverse("accounts:profile", urlconf=TENANT_SITE))
    assert "This form has expired" in refusal.content.decode()


@pytest.mark.django_db
def test_every_answer_forbids_framing_and_foreign_script(as_role: Any, settings: Any) -> None:
    admin = as_role("admin")
    nobody = TenantClient(f"nobody.{settings.BASE_DOMAIN}")
    for client, address in (
        (admin, "/"),
        (admin, "/there-is-no-such-page/"),
        (admin, "/api/v1/me/"),
        (admin, "/api/v1/docs/"),
        (TenantClient(ALPHA_HOST), "/sign-in/"),
        (TenantClient(PUBLIC_HOST), "/sign-in/"),
        (nobody, "/"),
    ):
        headers = client.get(address).headers
        policy = headers.get("Content-Security-Policy", "")
        assert "unsafe-inline" not in policy and "default-src 'self'" in policy, (client.host, address)
        assert "frame-ancestors 'none'" in policy, (client.host, address)
        assert headers.get("X-Frame-Options") == "DENY", (client.host, address)
        assert headers.get("X-Content-Type-Options") == "nosniff", (client.host, address)


@pytest.mark.django_db
def test_alphas_session_is_nobody_at_beta(as_role: Any) -> None:
    ours = as_role("admin")
    theirs = TenantClient(BETA_HOST)
    theirs.cookies = ours.cookies
    response = theirs.get(reverse("accounts:user_list", urlconf=TENANT_SITE))
    assert response.status_code == 302 and "/sign-in/" in response["Location"]
