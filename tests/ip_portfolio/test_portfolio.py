"""The portfolio's pages: legal edits, the auditor reads, nobody else sees any of it."""

from __future__ import annotations

import datetime
import json

import pytest

from core.audit.models import AuditEvent
from core.audit.services import event_document
from core.errors import Forbidden
from ip_portfolio.errors import ApplicationChanged, ApplicationInvalid
from ip_portfolio.models import PatentApplication
from ip_portfolio.selectors import deadlines_upcoming
from ip_portfolio.services import application_create, application_update

pytestmark = pytest.mark.django_db
D = datetime.date
DETAILS = {
    "docket_number": "SGN-0001-US", "title": "Paired evaluation of language models", "jurisdiction": "US",
    "type": "nonprovisional", "status": "filed", "inventors": "Ada Ames\nBen Boyd\n\nAda Ames", "made_in": "US",
    "priority_date": "", "filing_date": "2026-03-02", "notes": "",
}  # fmt: skip


@pytest.fixture
def application(acting) -> PatentApplication:
    acting(roles=("legal",))
    return application_create(
        docket_number="SGN-0001-US", title="Paired evaluation", jurisdiction="US", type="nonprovisional",
        status="filed", inventors=["Ada Ames"], filing_date=D(2026, 3, 2),
    )  # fmt: skip


def urls(application: PatentApplication) -> dict[str, str]:
    return {
        "list": "/ip/",
        "detail": f"/ip/{application.pk}/",
        "new": "/ip/new",
        "edit": f"/ip/{application.pk}/edit",
    }


def test_legal_adds_an_application(as_role):
    response = as_role("legal").post("/ip/new", DETAILS)
    application = PatentApplication.objects.get()
    assert response["location"] == f"/ip/{application.pk}/"
    assert application.inventors == ["Ada Ames", "Ben Boyd"]
    assert application.filing_date == D(2026, 3, 2)


def test_legal_edits_and_sees_the_deadlines(as_role, application):
    client = as_role("legal")
    page = client.get(f"/ip/{application.pk}/").content.decode()
    assert "Priority year ends" in page
    assert "2 Mar 2027" in page
    response = client.post(f"/ip/{application.pk}/edit", {**DETAILS, "title": "Another", "revision": "1"})
    assert response.status_code == 302
    application.refresh_from_db()
    assert (application.title, application.revision) == ("Another", 2)
    assert "Another" in client.get("/ip/").content.decode()


def test_auditor_reads_and_changes_nothing(as_role, application):
    client = as_role("auditor")
    where = urls(application)
    assert client.get(where["list"]).status_code == client.get(where["detail"]).status_code == 200
    assert "Add application" not in client.get(where["list"]).content.decode()
    for name in ("new", "edit"):
        assert client.get(where[name]).status_code == 403
        assert client.post(where[name], DETAILS).status_code == 403


@pytest.mark.parametrize("role", ["admin", "pmo", "engineer", "security", "customer"])
def test_others_see_nothing_of_it(as_role, application, role):
    client = as_role(role)
    for url in urls(application).values():
        response = client.get(url)
        assert response.status_code == 403
        assert b"SGN-0001" not in response.content


def test_visitor_is_sent_to_sign_in(client, application):
    for url in urls(application).values():
        assert client.get(url).status_code == 302


def test_another_tenants_application_is_not_found(as_user, user_with, beta, application):
    lawyer = user_with("legal", tenant=beta)
    client = as_user(lawyer, tenant=beta)
    for name in ("detail", "edit"):
        assert client.get(urls(application)[name]).status_code == 404
    assert b"SGN-0001" not in client.get("/ip/").content


@pytest.mark.parametrize("pk", ["0", "999999", "9" * 30])
def test_missing_application_is_not_found(as_role, pk):
    assert as_role("legal").get(f"/ip/{pk}/").status_code == 404


@pytest.mark.parametrize("name", ["list", "detail"])
def test_reading_pages_take_no_other_method(as_role, application, name):
    assert as_role("legal").post(urls(application)[name]).status_code == 405


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"docket_number": ""}, "docket_number"),
        ({"docket_number": "a b"}, "docket_number"),
        ({"docket_number": "x" * 41}, "docket_number"),
        ({"title": ""}, "title"),
        ({"title": "t" * 501}, "title"),
        ({"jurisdiction": "XX"}, "jurisdiction"),
        ({"type": "international"}, "type"),
        ({"type": "provisional", "priority_date": "2026-01-01"}, "priority_date"),
        ({"priority_date": "2026-05-01"}, "filing_date"),
        ({"filing_date": ""}, "filing_date"),
        ({"filing_date": "yesterday"}, "filing_date"),
        ({"filing_date": "9999-12-31"}, "filing_date"),
        ({"made_in": "usa"}, "made_in"),
        ({"made_in": "us"}, "made_in"),
        ({"inventors": "x" * 200}, "inventors"),
        ({"inventors": "\n".join(f"Inventor {n}" for n in range(101))}, "inventors"),
        ({"notes": "nul \x00 byte"}, "notes"),
    ],
)
def test_bad_detail_is_named_beside_its_field_and_nothing_is_saved(as_role, changes, field):
    response = as_role("legal").post("/ip/new", {**DETAILS, **changes})
    assert response.status_code == 422
    assert field in response.context["form"].errors
    assert not PatentApplication.objects.exists()


def test_docket_number_is_used_once(as_role, application):
    response = as_role("legal").post("/ip/new", DETAILS)
    assert response.status_code == 422
    assert "already" in str(response.context["form"].errors["docket_number"])


def test_edit_of_something_saved_meanwhile_is_refused(as_role, application, acting):
    application_update(application=application, title="Saved meanwhile")
    response = as_role("legal").post(
        f"/ip/{application.pk}/edit", {**DETAILS, "title": "Mine", "revision": "1"}
    )
    assert response.status_code == 409
    application.refresh_from_db()
    assert application.title == "Saved meanwhile"
    with pytest.raises(ApplicationChanged):
        application_update(application=application, revision=1, title="Mine")


def test_services_refuse_other_roles(acting, application):
    acting(roles=("pmo",))
    with pytest.raises(Forbidden):
        application_create(docket_number="X", title="x", jurisdiction="US", type="provisional")
    with pytest.raises(Forbidden):
        application_update(application=application, title="x")


def test_ep_application_is_regional(acting):
    acting(roles=("legal",))
    with pytest.raises(ApplicationInvalid) as refused:
        application_create(docket_number="X", title="x", jurisdiction="EP", type="provisional")
    assert set(refused.value.fields) == {"type"}


def test_upcoming_deadlines_leave_out_what_is_long_past_or_far(application):
    kinds = [one.deadline.kind for one in deadlines_upcoming(today=D(2026, 4, 1))]
    assert kinds == ["foreign_filing_licence", "priority_year"]
    assert [one.deadline.kind for one in deadlines_upcoming(today=D(2026, 10, 1))] == ["priority_year"]
    assert deadlines_upcoming(today=D(2026, 4, 1), days=30) == []
    (missed,) = deadlines_upcoming(today=D(2027, 3, 10))
    assert (missed.days_left, missed.variant) == (-8, "fail")
    assert deadlines_upcoming(today=D(2028, 1, 1)) == []


def test_titles_and_inventors_stay_out_of_the_audit_log(application):
    stored = json.dumps([event_document(event) for event in AuditEvent.objects.all()])
    assert "SGN-0001-US" in stored
    assert "Ada Ames" not in stored
    assert "Paired" not in stored
