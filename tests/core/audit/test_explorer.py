"""The explorer and its exports: who may read, what they find, and that no name survives erasure."""

from __future__ import annotations

import csv
import io
import json

import pytest
from django.db import connection

from core.audit.chain import event_digest, link_hash
from core.audit.exports import cell_guarded
from core.audit.models import AuditEvent, AuditLink
from core.audit.selectors import PAGE_SIZE, lines_of
from core.audit.services import audit_record, audit_sequence, person_erase
from core.audit.verification import audit_verify
from core.security.actor import SYSTEM, use_actor
from inference.models import Product

pytestmark = pytest.mark.django_db
LIST = "/audit/"


def text(response) -> str:
    return response.content.decode()


@pytest.fixture
def story(acting, alice, bob):
    """Alice changed Bob's roles and checked a gate of a product."""
    acting(alice)
    product = Product.objects.create(slug="assistant", name="Document assistant")
    audit_record("user.roles_changed", target=bob, data={"roles": ["auditor"]})
    return audit_record("gate.checked", target=product, data={"outcome": "pass"})


# ------------------------------------------------------------------ who may
@pytest.mark.parametrize("role", ["admin", "pmo", "security", "auditor"])
def test_these_roles_read_the_log(as_role, role):
    assert as_role(role).get(LIST).status_code == 200


@pytest.mark.parametrize("role", ["engineer", "legal", "customer"])
def test_other_roles_are_refused(as_role, role):
    client = as_role(role)
    for url in (LIST, f"{LIST}export", f"{LIST}verify", f"{LIST}1/"):
        assert client.get(url).status_code == 403


def test_pmo_reads_but_does_not_export(as_role):
    client = as_role("pmo")
    assert client.get(f"{LIST}export").status_code == 403
    assert "Export" not in text(client.get(LIST))


def test_visitor_is_sent_to_sign_in(client):
    for url in (LIST, f"{LIST}export", f"{LIST}verify", f"{LIST}1/"):
        response = client.get(url)
        assert response.status_code == 302
        assert "next=" in response["location"]


def test_another_tenants_event_does_not_exist_here(mallory, as_user, beta, story):
    AuditEvent.objects.create(pk=900_001, actor_kind="system", action="a.b", sentence="did")
    response = as_user(mallory, tenant=beta).get(f"{LIST}900001/")
    assert response.status_code == 404
    assert "Document assistant" not in text(as_user(mallory, tenant=beta).get(LIST))


def test_session_of_one_tenant_opens_nothing_in_another(mallory, as_user, beta):
    there = as_user(mallory, tenant=beta)
    from tests.conftest import TenantClient

    here = TenantClient("alpha.testserver")
    here.cookies = there.cookies
    assert here.get(LIST).status_code == 302


def test_operators_read_their_own_log_only(operator_client, operator, story):
    connection.set_schema_to_public()
    with use_actor(SYSTEM):
        audit_record("schema.migrated")
    response = operator_client.get(LIST)
    assert response.status_code == 200
    assert "schema.migrated" in text(response)
    assert "Document assistant" not in text(response)


@pytest.mark.parametrize("url", [LIST, f"{LIST}export", f"{LIST}1/"])
@pytest.mark.parametrize("method", ["post", "put", "delete", "patch"])
def test_nothing_in_the_log_is_written_through_its_pages(as_role, url, method):
    assert getattr(as_role("admin"), method)(url).status_code == 405


# ------------------------------------------------------------------ what it shows
def test_rows_read_like_sentences(as_role, story):
    page = text(as_role("auditor").get(LIST))
    assert "<strong>Alice Ahn</strong>" in page
    assert "changed the roles of Bob Berg: auditor" in page
    assert "checked the gate Document assistant: pass" in page
    assert "Log intact" in page or "not yet under a head" in page


def test_event_shows_everything_stored_of_it(as_role, story):
    page = text(as_role("auditor").get(f"{LIST}{story.pk}/"))
    assert "gate.checked" in page
    assert "Place in the chain" in page
    assert story.actor in page


@pytest.mark.parametrize("event_id", ["0", "999999999", "9" * 40])
def test_missing_event_is_not_found(as_role, event_id):
    assert as_role("auditor").get(f"{LIST}{event_id}/").status_code == 404


def test_altered_event_is_marked(as_role, story):
    audit_sequence()
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("UPDATE audit_auditevent SET sentence = 'forged' WHERE id = %s", [story.pk])
        cursor.execute("SET LOCAL session_replication_role = DEFAULT")
    client = as_role("auditor")
    assert "Altered" in text(client.get(LIST))
    assert "This event was altered" in text(client.get(f"{LIST}{story.pk}/"))
    page = text(client.post(f"{LIST}verify"))
    assert "event_changed" in page
    assert "tampered" in page


def test_whole_log_is_verified_on_request(as_role, story):
    page = text(as_role("auditor").post(f"{LIST}verify"))
    assert "are as they were written" in page


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("text=document", True),
        ("text=alice", True),
        ("text=nothing-like-this", False),
        ("action=gate.checked", True),
        ("action=gate.*", True),
        ("action=gate", False),
        ("target=inference.product", True),
        ("target=inference.release", False),
        ("source=action", True),
        ("source=row", False),
        ("since=2000-01-01", True),
        ("since=2999-01-01", False),
        ("until=2000-01-01", False),
        ("actor=system", False),
    ],
)
def test_filters_in_the_address_narrow(as_role, story, query, found):
    page = text(as_role("auditor").get(f"{LIST}?{query}"))
    assert ("checked the gate Document assistant" in page) is found


def test_actor_filter_takes_a_commitment(as_role, story):
    client = as_role("auditor")
    assert "checked the gate" in text(client.get(f"{LIST}?actor={story.actor}"))
    assert "checked the gate" not in text(client.get(f"{LIST}?actor={'0' * 64}"))


@pytest.mark.parametrize(
    "query",
    [
        "since=yesterday",
        "until=2026-99-99",
        "source=x",
        "before=x",
        "before=-1",
        "after=" + "9" * 30,
        "before=9223372036854775807",
        "text=" + "x" * 5000,
        "actor=%00",
        "text=%00",
        "target=%00:%00",
        "action=%F0%28",
        "since=2026-02-01&until=2026-01-01",
        "text=%25_%27;--",
        "target=:::",
        "since=0001-01-01&until=9999-12-31",
    ],
)
def test_nonsense_in_the_address_is_answered(as_role, story, query):
    client = as_role("auditor")
    assert client.get(f"{LIST}?{query}").status_code == 200
    assert client.get(f"{LIST}export?{query}").status_code == 200


def test_invalid_filter_is_named_and_not_applied(as_role, story):
    page = text(as_role("auditor").get(f"{LIST}?since=yesterday"))
    assert "This filter is not applied" in page
    assert "checked the gate" in page


def test_pages_walk_the_log_without_loss(as_role):
    with use_actor(SYSTEM):
        for number in range(PAGE_SIZE * 2 + 7):
            audit_record("walk.done", data={"outcome": f"step {number:03}"})
    client = as_role("auditor")
    seen, url = [], f"{LIST}?action=walk.done"
    for _ in range(5):
        response = client.get(url)
        seen += [line.event.data["outcome"] for line in response.context["page"].lines]
        if not response.context["older_url"]:
            break
        url = LIST + response.context["older_url"]
    assert seen == [f"step {number:03}" for number in reversed(range(PAGE_SIZE * 2 + 7))]
    back = client.get(LIST + response.context["newer_url"]).context["page"].lines
    assert [line.event.data["outcome"] for line in back] == seen[PAGE_SIZE : 2 * PAGE_SIZE]


# ------------------------------------------------------------------ export
@pytest.mark.parametrize("start", list("=+-@\t\r＝＋－＠"))
def test_cell_that_starts_a_formula_is_guarded(start):
    assert cell_guarded(f"{start}1+1") == f"'{start}1+1"


def test_csv_holds_the_filtered_events(as_role, story, acting, alice):
    Product.objects.filter(slug="assistant").update(name='=HYPERLINK("http://x")')
    audit_record("product.renamed", target=Product.objects.get(slug="assistant"))
    response = as_role("auditor").get(f"{LIST}export?format=csv&source=action&target=inference.product")
    assert response["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(response.getvalue().decode("utf-8-sig"))))
    assert [row["action"] for row in rows] == ["gate.checked", "product.renamed"]
    assert rows[0]["actor"] == "Alice Ahn"
    assert rows[1]["target"].startswith("'=")


def test_json_lines_can_be_checked_elsewhere(as_role, story):
    exported = as_role("auditor").get(f"{LIST}export?format=jsonl").getvalue().decode()
    lines = [json.loads(line) for line in exported.splitlines()]
    *events, head = lines
    previous = "0" * 64
    for line in events:
        assert event_digest(line["event"]) == line["link"]["event_digest"]
        assert line["link"]["prev_hash"] == previous
        previous = link_hash(line["link"]["seq"], previous, line["link"]["event_digest"])
        assert previous == line["link"]["hash"]
    assert set(head) == {"head", "payload_type", "public_keys"}
    assert "Alice" not in exported


def test_export_is_recorded(as_role, story):
    client = as_role("auditor")
    client.get(f"{LIST}export?format=csv")
    event = AuditEvent.objects.filter(action="audit.exported").get()
    assert event.data["format"] == "csv"
    assert event.data["events"] >= 2


def test_unknown_format_is_not_found(as_role):
    assert as_role("auditor").get(f"{LIST}export?format=exe").status_code == 404


# ------------------------------------------------------------------ erasure
def test_erased_person_is_unnamed_everywhere_and_every_proof_still_verifies(
    as_role, acting, alice, bob, story
):
    audit_sequence(sign=True)
    acting(roles=("admin",))
    assert person_erase(kind="user", ref=bob.pk) == 1
    assert person_erase(kind="user", ref=alice.pk) == 1
    assert person_erase(kind="user", ref=alice.pk) == 0
    page = text(as_role("auditor").get(LIST))
    assert "erased person" in page
    assert "Alice Ahn" not in page
    assert "Bob Berg" not in page
    report = audit_verify()
    assert report.ok, report.as_json()
    assert AuditLink.objects.count() == AuditEvent.objects.count()


def test_person_who_acts_after_erasure_is_not_tied_to_what_was_before(acting, alice, story):
    acting(roles=("admin",))
    person_erase(kind="user", ref=alice.pk)
    acting(alice)
    assert audit_record("gate.checked").actor != story.actor


def test_erasing_needs_the_right_to_manage_users(acting, alice, bob):
    from core.errors import Forbidden

    acting(bob)
    with pytest.raises(Forbidden):
        person_erase(kind="user", ref=alice.pk)


def test_user_whose_row_is_gone_is_not_called_by_name(acting, alice, bob):
    acting(alice)
    event = audit_record("user.removed", target=bob)
    bob.delete()
    assert lines_of([event])[0].target_name.startswith("removed user")


def test_rename_shows_the_name_of_today(acting, alice, story):
    alice.name = "Alice Baker"
    alice.save()
    assert lines_of([story])[0].actor_name == "Alice Baker"
