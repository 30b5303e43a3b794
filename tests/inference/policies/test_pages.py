"""The pages of policies: write, see tests fail, mend, put in force, and ask the simulator."""

from __future__ import annotations

from typing import Any

import pytest
from django.urls import reverse

from core.security.actor import SYSTEM, use_actor
from inference.policies import engine
from inference.policies.examples import TYPICAL
from inference.policies.models import PolicyBundle
from inference.policies.services import bundle_activate, bundle_save

HEAD = "package signoff.gateway\n\n"
SECRET = HEAD + 'allow := true\n\ndeny contains "No secrets." if input.classification == "secret"\n'
TESTS = """package signoff.gateway_test

import data.signoff.gateway

test_secrets_are_denied if {
	"No secrets." in gateway.deny with input as {"classification": "secret"}
}
"""


def address(name: str, *args: Any) -> str:
    """Address of a page of a tenant's site."""
    return reverse(f"policies:{name}", args=args, urlconf="core.urls")


@pytest.mark.django_db
def test_an_engineer_writes_tries_and_activates_a_version(as_role: Any) -> None:
    client = as_role("engineer")
    assert "default-1" in client.get(address("policy_list")).content.decode()
    page = client.get(address("policy_new")).content.decode()
    assert "package signoff.gateway" in page
    given = {"policy": HEAD + "allow := true\n", "tests": TESTS, "cases": "", "data": ""}
    failing = client.post(address("policy_new"), {**given, "try": "1"})
    assert failing.status_code == 200 and "cannot be put in force" in failing.content.decode()
    assert not PolicyBundle.objects.exists()
    saved = client.post(address("policy_new"), {**given, "policy": SECRET, "save": "1"})
    assert saved.status_code == 302 and saved["Location"] == address("policy_detail", 1)
    assert "test_secrets_are_denied" in client.get(address("policy_detail", 1)).content.decode()
    assert client.get(address("policy_activate", 1)).status_code == 200
    assert client.post(address("policy_activate", 1)).status_code == 302
    assert engine.decide("alpha", {"classification": "secret"}).reason == "No secrets."
    answer = client.get(address("policy_simulator"), {"route": "embeddings", "classification": "secret"})
    shown = answer.content.decode()
    assert "Denied" in shown and "No secrets." in shown and "input.classification" in shown


@pytest.mark.django_db
def test_a_version_whose_tests_fail_stays_a_draft(as_role: Any) -> None:
    client = as_role("security")
    with use_actor(SYSTEM):
        bundle_save(policy=HEAD + "allow := true\n", tests=TESTS)
    refused = client.post(address("policy_activate", 1))
    assert refused.status_code == 409 and "test_secrets_are_denied" in refused.content.decode()
    assert PolicyBundle.objects.get().status == "draft"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("field", "text"),
    [("cases", "{"), ("cases", "{}"), ("data", "[]"), ("cases", '[{"name": 1}]'), ("policy", "")],
)
def test_what_was_typed_is_kept_when_it_is_wrong(as_role: Any, field: str, text: str) -> None:
    given = {"policy": SECRET, "tests": TESTS, "cases": "", "data": "", "save": "1", field: text}
    answer = as_role("admin").post(address("policy_new"), given)
    assert answer.status_code == 422 and "test_secrets_are_denied" in answer.content.decode()
    assert not PolicyBundle.objects.exists()


@pytest.mark.django_db
def test_a_reader_sees_and_changes_nothing(as_role: Any) -> None:
    with use_actor(SYSTEM):
        bundle_activate(bundle=bundle_save(policy=SECRET))
    reader = as_role("auditor")
    for name, args in (("policy_list", ()), ("policy_detail", (1,)), ("policy_simulator", ())):
        assert reader.get(address(name, *args)).status_code == 200
    for name, args in (("policy_new", ()), ("policy_activate", (1,)), ("policy_test", (1,))):
        assert reader.post(address(name, *args)).status_code == 403
    assert as_role("customer").get(address("policy_list")).status_code == 403


@pytest.mark.django_db
@pytest.mark.parametrize(
    "query", [{"attributes": "nonsense"}, {"version": "99"}, {"hour": "x"}, {"route": "x"}]
)
def test_nonsense_in_the_simulator_is_answered_in_words(as_role: Any, query: dict[str, str]) -> None:
    assert as_role("admin").get(address("policy_simulator"), query).status_code == 422


# ------------------------------------------------------------------ REST
@pytest.mark.django_db
def test_the_whole_way_by_rest(client: Any, api_key: Any) -> None:
    headers = {"Authorization": f"Bearer {api_key('policy.*')}"}

    def post(path: str, body: Any = None) -> Any:
        return client.post(f"/api/v1/policies/{path}", body, content_type="application/json", headers=headers)

    made = post("", {"policy": SECRET, "tests": TESTS, "data": {"a": [1]}, "note": "secrets"})
    assert made.status_code == 201 and made.json()["status"] == "draft" and made.json()["results"]["ok"]
    assert made.json()["reads"] == ["input.classification"]
    assert post("1/tests/").json()["ok"]
    assert post("1/activate/").json()["status"] == "active"
    simulated = post("simulate/", {"attributes": {**TYPICAL, "classification": "secret"}}).json()
    assert not simulated["allowed"] and simulated["read"] == {"input.classification": "secret"}
    assert post("1/dry-run/", {"rows": 10}).json()["looked_at"] == 0
    assert post("1/dry-run/", {"rows": 0}).status_code == 422
    assert post("2/activate/").status_code == 404
    bad = post("", {"policy": HEAD + "allow if opa.runtime()"})
    assert bad.status_code == 201 and not bad.json()["results"]["ok"]
    assert post("2/activate/").status_code == 409
    listed = client.get("/api/v1/policies/", headers=headers).json()["results"]
    assert [row["version"] for row in listed] == [2, 1]


@pytest.mark.django_db
def test_a_key_that_only_reads_cannot_save(client: Any, api_key: Any) -> None:
    headers = {"Authorization": f"Bearer {api_key('policy.view')}"}
    answer = client.post(
        "/api/v1/policies/", {"policy": SECRET}, content_type="application/json", headers=headers
    )
    assert answer.status_code == 403


# ------------------------------------------------------------------ the ledger
@pytest.fixture
def past_calls(db: None) -> None:
    """Twelve calls in the ledger: nine of them internal, three secret, one of these denied then."""
    import datetime as dt
    import uuid

    from django.utils import timezone

    from inference.ledger.models import LedgerEntry

    now = timezone.now()
    for number in range(12):
        secret = number < 3
        LedgerEntry.objects.create(
            id=uuid.UUID(int=number + 1),
            created_at=now - dt.timedelta(minutes=number),
            request_id=f"req-{number}",
            status="refused" if number == 0 else "ok",
            error_code="policy_denied" if number == 0 else "",
            policy_version="default-1",
            policy_reason="Not now." if number == 0 else "",
            attributes={**TYPICAL, "classification": "secret" if secret else "internal"}
            if number < 11
            else {},
        )


@pytest.mark.django_db
def test_a_dry_run_says_what_would_have_been_denied(as_role: Any, past_calls: None) -> None:
    with use_actor(SYSTEM):
        bundle_save(policy=SECRET)
    page = as_role("auditor").get(address("policy_detail", 1), {"rows": 100}).content.decode()
    assert "3, of which 2 were allowed then" in page and "No secrets." in page and "req-2" in page
    assert "1 more had no attributes kept" in page
    from inference.policies.selectors import dry_run, source_of

    with use_actor(SYSTEM):
        found = dry_run(source_of(PolicyBundle.objects.get()), rows=100)
    assert (found.looked_at, found.would_deny, found.newly_denied, found.skipped) == (11, 3, 2, 1)
    assert found.share == pytest.approx(3 / 11) and found.low < found.share < found.high


@pytest.mark.django_db
def test_the_list_counts_decisions_by_reason(as_role: Any, past_calls: None) -> None:
    page = as_role("admin").get(address("policy_list")).content.decode()
    assert "12 calls" in page and "Not now." in page


# ------------------------------------------------------------------ in a browser
def test_edit_fail_mend_activate_and_see_the_denial(page: Any, sign_in: Any, user_with: Any) -> None:
    sign_in(user_with("engineer", email="eng@alpha.example"))
    page.goto("/gateway/policies/new/")
    page.fill("textarea[name=policy]", HEAD + "allow := true\n")
    page.fill("textarea[name=tests]", TESTS)
    assert page.locator(".code-gutter").first.inner_text().split()[:3] == ["1", "2", "3"]
    assert page.locator(".code-gutter").first.bounding_box()["height"] > 200
    page.click("button[name=try]")
    page.wait_for_selector("text=It cannot be put in force like this.")
    page.fill("textarea[name=policy]", SECRET)
    page.click("button[name=try]")
    page.wait_for_selector("text=every test passes")
    page.click("button[name=save]")
    page.wait_for_url("**/gateway/policies/1/")
    page.click("a:has-text('Put in force')")
    page.click("button:has-text('Put version 1 in force')")
    page.wait_for_selector("text=Version 1 is in force.")
    page.goto("/gateway/policies/simulator/")
    page.fill("input[name=classification]", "secret")
    page.click("button:has-text('Ask the policy')")
    page.wait_for_selector("text=v1 denies this call: No secrets.")
