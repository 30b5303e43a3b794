"""Pilots: who sets them up, and that a customer sees their own scorecard and nothing else."""

from __future__ import annotations

import datetime
import json

import pytest
from django.utils import timezone

from core.audit.models import AuditEvent
from core.audit.services import event_document
from core.errors import Forbidden
from core.evidence.models import Criterion, CriterionVerdict, Gate, GateVerdict, Measurement, Run
from inference.models import ModelVersion, Product, Release
from pilots.errors import MemberExists, PilotInvalid, PilotNotFound
from pilots.models import Customer, Pilot, PilotMember
from pilots.selectors import pilot_get, scorecard
from pilots.services import pilot_create, pilot_member_add, pilot_member_remove, pilot_update

pytestmark = pytest.mark.django_db
START = datetime.date(2026, 11, 2)


def make_release(slug: str = "assistant", version: str = "1.1.0") -> Release:
    product, _ = Product.objects.get_or_create(slug=slug, defaults={"name": f"The {slug}"})
    model, _ = ModelVersion.objects.get_or_create(name="m", digest="sha256:" + "a" * 64)
    return Release.objects.create(
        product=product,
        version=version,
        model_version=model,
        digest=f"sha256:{slug}-{version}".ljust(71, "0"),
    )


@pytest.fixture
def release(db: None) -> Release:
    return make_release()


@pytest.fixture
def gate(db: None) -> Gate:
    gate = Gate.objects.create(slug="pilot", title="Pilot gate", digest="sha256:g")
    for number, key in enumerate(["accuracy", "speed"]):
        Criterion.objects.create(
            gate=gate, key=key, title=key.capitalize(), metric=key, dataset="faq", ordinal=number,
            rule={"type": "bound", "op": ">=", "bound": 0.5},
        )  # fmt: skip
    return gate


@pytest.fixture
def pilot(acting, release, gate) -> Pilot:
    acting(roles=("pmo",))
    return pilot_create(
        customer="Northwind Traders", product=release.product, release=release, gate_slug="pilot", starts_on=START,
        goal="Answer support questions", status="running",
    )  # fmt: skip


@pytest.fixture
def other_pilot(acting, release) -> Pilot:
    acting(roles=("pmo",))
    return pilot_create(customer="Fabrikam Works", product=release.product, release=release, starts_on=START)


def page_of(response) -> str:
    return response.content.decode()


# ------------------------------------------------------------------ setting up
def test_pmo_sets_up_a_pilot_in_the_browser(as_role, release, gate):
    response = as_role("pmo").post(
        "/pilots/new",
        {
            "customer": " Northwind  Traders ", "product": release.product_id, "release": release.pk, "gate": "pilot",
            "goal": "g", "status": "planned", "starts_on": "2026-11-02", "ends_on": "",
        },
    )  # fmt: skip
    pilot = Pilot.objects.get()
    assert response["location"] == f"/pilots/{pilot.pk}/"
    assert (pilot.customer.name, pilot.gate_slug, pilot.starts_on) == ("Northwind Traders", "pilot", START)


def test_known_customer_is_found_again(acting, pilot, release):
    again = pilot_create(
        customer="northwind traders", product=release.product, release=release, starts_on=START
    )
    assert again.customer_id == pilot.customer_id
    assert Customer.objects.count() == 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"customer": ""}, "customer"),
        ({"customer": "x" * 200}, "customer"),
        ({"customer": "nul\x00"}, "customer"),
        ({"release": "999"}, "release"),
        ({"product": "x"}, "product"),
        ({"gate": "unknown"}, "gate"),
        ({"status": "x"}, "status"),
        ({"starts_on": ""}, "starts_on"),
        ({"starts_on": "soon"}, "starts_on"),
        ({"ends_on": "2026-11-01"}, "ends_on"),
    ],
)
def test_bad_detail_is_named_and_nothing_is_saved(as_role, release, gate, changes, field):
    details = {
        "customer": "Northwind", "product": release.product_id, "release": release.pk, "gate": "pilot", "goal": "",
        "status": "planned", "starts_on": "2026-11-02", "ends_on": "",
    }  # fmt: skip
    response = as_role("pmo").post("/pilots/new", {**details, **changes})
    assert response.status_code == 422
    assert field in response.context["form"].errors
    assert not Pilot.objects.exists()
    assert not Customer.objects.exists()


def test_release_of_another_product_is_refused(acting, release):
    acting(roles=("pmo",))
    with pytest.raises(PilotInvalid) as refused:
        pilot_create(
            customer="N", product=make_release("translator").product, release=release, starts_on=START
        )
    assert set(refused.value.fields) == {"release"}


def test_pilot_is_changed(as_role, pilot):
    newer = make_release(version="1.2.0")
    response = as_role("pmo").post(
        f"/pilots/{pilot.pk}/edit",
        {
            "release": newer.pk,
            "gate": "",
            "goal": "other",
            "status": "ended",
            "starts_on": "2026-11-02",
            "ends_on": "2026-12-01",
        },
    )
    assert response.status_code == 302
    pilot.refresh_from_db()
    assert (pilot.release, pilot.gate_slug, pilot.status, pilot.ends_on) == (
        newer,
        "",
        "ended",
        datetime.date(2026, 12, 1),
    )


def test_change_without_a_difference_records_nothing(acting, pilot):
    before = AuditEvent.objects.count()
    pilot_update(pilot=pilot, goal=pilot.goal)
    assert AuditEvent.objects.count() == before


# ------------------------------------------------------------------ members
def test_customers_person_is_added_and_removed(as_role, pilot, user_with):
    person = user_with("customer", name="Cora Cole")
    pmo = as_role("pmo")
    pmo.post(f"/pilots/{pilot.pk}/members", {"user": person.pk})
    member = PilotMember.objects.get()
    assert member.user == person
    assert "Cora Cole" in page_of(pmo.get(f"/pilots/{pilot.pk}/"))
    for _ in range(2):
        assert pmo.post(f"/pilots/{pilot.pk}/members/{member.pk}/remove").status_code == 302
    assert not PilotMember.objects.exists()


@pytest.mark.parametrize("role", ["engineer", "admin", "pmo"])
def test_only_people_with_the_role_customer_become_members(acting, pilot, user_with, role):
    with pytest.raises(PilotInvalid):
        pilot_member_add(pilot=pilot, user=user_with(role))


def test_second_membership_is_refused(acting, pilot, user_with):
    person = user_with("customer")
    pilot_member_add(pilot=pilot, user=person)
    with pytest.raises(MemberExists):
        pilot_member_add(pilot=pilot, user=person)


@pytest.mark.parametrize("user", ["", "x", "999999", "-1"])
def test_nonsense_member_is_refused_without_an_error_page(as_role, pilot, user):
    assert as_role("pmo").post(f"/pilots/{pilot.pk}/members", {"user": user}).status_code == 302
    assert not PilotMember.objects.exists()


# ------------------------------------------------------------------ who sees what
@pytest.mark.parametrize("role", ["admin", "pmo", "engineer", "auditor"])
def test_the_tenants_own_people_see_pilots(as_role, pilot, role):
    client = as_role(role)
    assert "Northwind Traders" in page_of(client.get("/pilots/"))
    assert client.get(f"/pilots/{pilot.pk}/").status_code == 200


@pytest.mark.parametrize("role", ["engineer", "auditor"])
def test_readers_change_nothing(as_role, pilot, user_with, role):
    client = as_role(role)
    person = user_with("customer")
    assert client.get("/pilots/new").status_code == 403
    assert client.post("/pilots/new", {}).status_code == 403
    assert client.post(f"/pilots/{pilot.pk}/edit", {}).status_code == 403
    assert client.post(f"/pilots/{pilot.pk}/members", {"user": person.pk}).status_code == 403
    assert client.post(f"/pilots/{pilot.pk}/members/1/remove").status_code == 403
    assert "Edit pilot" not in page_of(client.get(f"/pilots/{pilot.pk}/"))


@pytest.mark.parametrize("role", ["security", "legal"])
def test_roles_without_pilots_are_refused(as_role, pilot, role):
    client = as_role(role)
    assert client.get("/pilots/").status_code == client.get(f"/pilots/{pilot.pk}/").status_code == 403


def test_customer_sees_the_scorecard_of_their_own_pilot(as_role, acting, pilot):
    client = as_role("customer")
    pilot_member_add(pilot=pilot, user=client.user)
    response = client.get("/scorecard/")
    assert response["location"] == f"/pilots/{pilot.pk}/"
    page = page_of(client.get(f"/pilots/{pilot.pk}/"))
    assert "Accuracy" in page
    assert "nothing measured yet" in page
    assert "People of the customer" not in page


def test_another_customers_pilot_looks_like_one_that_is_not_there(as_role, acting, pilot, other_pilot):
    client = as_role("customer")
    pilot_member_add(pilot=pilot, user=client.user)
    theirs, missing = client.get(f"/pilots/{other_pilot.pk}/"), client.get("/pilots/999999/")
    assert theirs.status_code == missing.status_code == 404
    assert "Fabrikam" not in page_of(theirs)


def test_customer_sees_nothing_else(as_role, acting, pilot):
    client = as_role("customer")
    pilot_member_add(pilot=pilot, user=client.user)
    for url in ("/pilots/", "/pilots/new", f"/pilots/{pilot.pk}/edit", "/audit/", "/ip/"):
        assert client.get(url).status_code == 403, url


def test_customer_who_is_removed_sees_it_no_more(as_role, acting, pilot):
    client = as_role("customer")
    member = pilot_member_add(pilot=pilot, user=client.user)
    pilot_member_remove(pilot=pilot, member_id=member.pk)
    assert client.get(f"/pilots/{pilot.pk}/").status_code == 404
    assert "not in a pilot yet" in page_of(client.get("/scorecard/"))


def test_customer_with_two_pilots_chooses(as_role, acting, pilot, other_pilot):
    client = as_role("customer")
    for one in (pilot, other_pilot):
        pilot_member_add(pilot=one, user=client.user)
    page = page_of(client.get("/scorecard/"))
    assert f"/pilots/{pilot.pk}/" in page
    assert f"/pilots/{other_pilot.pk}/" in page


def test_visitor_is_sent_to_sign_in(client, pilot):
    for url in ("/pilots/", "/pilots/new", f"/pilots/{pilot.pk}/", f"/pilots/{pilot.pk}/edit", "/scorecard/"):
        assert client.get(url).status_code == 302


def test_another_tenants_pilot_is_not_found(as_user, mallory, beta, pilot, user_with):
    client = as_user(mallory, tenant=beta)
    assert client.get(f"/pilots/{pilot.pk}/").status_code == 404
    assert client.get(f"/pilots/{pilot.pk}/edit").status_code == 404
    assert client.post(f"/pilots/{pilot.pk}/members", {"user": 1}).status_code == 404
    assert "Northwind" not in page_of(client.get("/pilots/"))


def test_member_of_the_same_number_in_another_tenant_sees_nothing(as_user, beta, pilot, user_with, acting):
    there = user_with("customer", tenant=beta)
    here = user_with("customer")
    pilot_member_add(pilot=pilot, user=here)
    assert as_user(there, tenant=beta).get(f"/pilots/{pilot.pk}/").status_code == 404


@pytest.mark.parametrize("url", ["/pilots/", "/scorecard/"])
def test_reading_pages_take_no_other_method(as_role, url):
    client = as_role("customer" if url == "/scorecard/" else "pmo")
    assert client.post(url).status_code == 405


@pytest.mark.parametrize(
    "query", ["q=%00", "sort=nonsense", "page=-1", "page=x", "status=zzz", "format=csv", "export=csv"]
)
def test_nonsense_in_the_address_is_answered(as_role, pilot, query):
    assert as_role("pmo").get(f"/pilots/?{query}").status_code == 200


def test_services_refuse_other_roles(acting, pilot, user_with):
    acting(roles=("engineer",))
    for call in (
        lambda: pilot_update(pilot=pilot, goal="x"),
        lambda: pilot_member_add(pilot=pilot, user=user_with("customer")),
        lambda: pilot_member_remove(pilot=pilot, member_id=1),
        lambda: pilot_create(customer="x", product=pilot.product, release=pilot.release, starts_on=START),
    ):
        with pytest.raises(Forbidden):
            call()


def test_key_without_scope_sees_no_pilot(pilot):
    from core.security.actor import Actor, use_actor

    with (
        use_actor(Actor(kind="api_key", id="1", scopes=("run.view",), schema="alpha")),
        pytest.raises(PilotNotFound),
    ):
        pilot_get(pilot.pk)


# ------------------------------------------------------------------ scorecard
def judge(pilot: Pilot, gate: Gate, *, status: str = "pass", days_ago: int = 0) -> GateVerdict:
    """A run, its number and a verdict on the criterion "accuracy"."""
    digest = pilot.release.digest
    now = timezone.now() - datetime.timedelta(days=days_ago)
    run = Run.objects.create(
        kind="evaluation", subject_digest=digest, subject_label="r", dataset_slug="faq", dataset_label="FAQ v1",
        plan={}, plan_digest=f"p{days_ago}", status="succeeded", finished_at=now,
    )  # fmt: skip
    Measurement.objects.create(
        run=run, subject_digest=digest, metric="accuracy", dataset="faq", value=0.62, unit="share", n=200,
        low=0.551, high=0.684,
    )  # fmt: skip
    verdict = GateVerdict.objects.create(
        gate=gate,
        candidate_digest=digest,
        candidate_label="r",
        status=status,
        sentence="s",
        inputs_digest=f"i{days_ago}",
    )
    CriterionVerdict.objects.create(
        gate_verdict=verdict, criterion=gate.criteria.get(key="accuracy"), status=status,
        sentence="Accuracy is 0.620, at least 0.5 was agreed.", candidate_value=0.62, n=200, evidence_at=now,
    )  # fmt: skip
    return verdict


def test_scorecard_shows_number_interval_n_and_source(as_role, pilot, gate):
    judge(pilot, gate)
    card = scorecard(pilot)
    assert [row.status for row in card.rows] == ["pass", "not_run"]
    assert card.sentence() == "1 of 2 success criteria met, 1 not settled."
    page = page_of(as_role("pmo").get(f"/pilots/{pilot.pk}/"))
    for part in ("0.620", "0.551", "0.684", "200", "FAQ v1", "Accuracy is 0.620"):
        assert part in page


def test_nothing_measured_is_said_not_shown_as_zero(pilot):
    card = scorecard(pilot)
    assert [row.value for row in card.rows] == [None, None]
    assert card.sentence().startswith("Nothing is measured yet")


def test_old_evidence_is_stale(pilot, gate):
    judge(pilot, gate, days_ago=31)
    row = scorecard(pilot).rows[0]
    assert row.status == "stale"
    assert "older than 30 days" in row.sentence


def test_changed_criteria_make_the_verdict_stale(pilot, gate):
    judge(pilot, gate)
    newer = Gate.objects.create(slug="pilot", version=2, title="Pilot gate", digest="sha256:g2")
    Criterion.objects.create(
        gate=newer, key="accuracy", title="Accuracy", metric="accuracy", dataset="faq", rule={}
    )
    (row,) = scorecard(pilot).rows
    assert row.status == "stale"


def test_verdict_on_another_release_does_not_count(pilot, gate):
    judge(pilot, gate)
    pilot.release = make_release(version="2.0.0")
    assert scorecard(pilot).measured == 0


def test_pilot_without_gate_says_so(other_pilot):
    assert scorecard(other_pilot).sentence() == "No success criteria are agreed yet."


# ------------------------------------------------------------------ audit
def test_customers_and_their_people_are_commitments_in_the_log(acting, pilot, user_with):
    pilot_member_add(
        pilot=pilot, user=user_with("customer", name="Cora Cole", email="cora@northwind.example")
    )
    stored = json.dumps([event_document(event) for event in AuditEvent.objects.all()]).lower()
    assert "pilot.created" in stored
    assert "pilot.member_added" in stored
    for forbidden in ("northwind", "cora", "cole"):
        assert forbidden not in stored
