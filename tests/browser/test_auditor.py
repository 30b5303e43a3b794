"""The auditor's path in real Chromium: reads the log, narrows it, checks it, takes it along; changes nothing."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from playwright.sync_api import expect

from core.audit.models import AuditEvent
from core.audit.services import audit_record, audit_sequence
from core.security.actor import Actor, use_actor

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

# Parts that reach beyond the window and are not inside a box of their own that scrolls.
TOO_WIDE = """() => [...document.querySelectorAll('main *')]
  .filter((node) => node.checkVisibility() && !node.closest('.table-wrap, pre, code, .tabs, .sr-only, svg'))
  .filter((node) => node.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map((node) => node.outerHTML.slice(0, 120))"""


@pytest.fixture
def story(alice: Any, bob: Any) -> None:
    """Alice gave Bob a role, asked for and was granted a waiver; a hundred runs were started by nobody in person."""
    actor = Actor(kind="user", id=str(alice.pk), label=alice.name, roles=("pmo",), schema="alpha")
    with use_actor(actor):
        audit_record("user.roles_changed", target=bob, data={"roles": ["auditor"]})
        audit_record(
            "waiver.approved",
            data={"criterion": "p95_latency", "until": "30 Nov 2026", "reason": "known spike"},
        )
    with use_actor(Actor(kind="system", label="Signoff")):
        for number in range(100):
            audit_record("run.started", data={"number": number})
    audit_sequence(sign=True)


def shot(page: Any, name: str) -> None:
    """Keep a picture when somebody asks for pictures (SCREENSHOTS names a directory)."""
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def test_auditor_reads_narrows_verifies_and_exports(
    sign_in: Callable[..., Any], bob: Any, story: None
) -> None:
    page = sign_in(bob)
    page.get_by_role("link", name="Audit").first.click()
    page.get_by_role("heading", name="Audit", level=1).wait_for()
    expect(page.get_by_text("Log intact")).to_be_visible()
    shot(page, "audit")

    page.get_by_role("link", name="Older").click()
    assert page.get_by_text("changed the roles of Bob Berg: auditor").count() <= 1
    page.get_by_role("link", name="Newer").click()
    page.get_by_role("heading", name="Audit", level=1).wait_for()

    page.get_by_label("Find").first.fill("latency")
    page.get_by_role("button", name="Show").click()
    row = page.get_by_role("row").filter(has_text="p95 latency")
    assert "Alice Ahn" in row.inner_text()
    expect(page).to_have_url(re.compile(r"text=latency"))
    shot(page, "audit-filtered")
    row.get_by_role("link").first.click()
    page.get_by_role("heading", name="Place in the chain").wait_for()
    page.get_by_text("Alice Ahn").first.wait_for()
    shot(page, "audit-event")
    page.go_back()
    expect(page.get_by_label("Find").first).to_have_value("latency")

    page.get_by_text("Export", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text("utf-8-sig"))))
    assert [one["action"] for one in rows] == ["waiver.approved"]

    page.goto("/audit/verify")
    page.get_by_role("button", name="Verify now").click()
    page.get_by_text("events are as they were written").wait_for()
    shot(page, "audit-verified")


def test_auditor_sees_what_was_altered(sign_in: Callable[..., Any], bob: Any, story: None) -> None:
    victim = AuditEvent.objects.get(action="waiver.approved")
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute("UPDATE audit_auditevent SET sentence = 'refused a waiver' WHERE id = %s", [victim.pk])
        cursor.execute("SET session_replication_role = DEFAULT")
    page = sign_in(bob)
    page.goto("/audit/?action=waiver.approved")
    expect(page.get_by_text("Altered")).to_be_visible()
    page.goto("/audit/verify")
    page.get_by_role("button", name="Verify now").click()
    page.get_by_text("tampered with").wait_for()
    expect(page.get_by_text(f"Event {victim.pk} (waiver.approved")).to_be_visible()
    shot(page, "audit-tampered")


def test_every_place_in_the_auditors_navigation_opens_and_offers_no_change(
    sign_in: Callable[..., Any], bob: Any, story: None
) -> None:
    page = sign_in(bob)
    links = page.locator("nav#nav a").evaluate_all("links => links.map((link) => link.getAttribute('href'))")
    assert "/audit/" in links
    changing = ("New", "Add", "Edit", "Import", "Register", "Sign as", "Delete", "Set up", "Create", "Start")
    for link in dict.fromkeys(links):
        response = page.goto(link)
        assert response is not None, link
        assert response.status == 200, link
        buttons = page.locator("main a.btn, main button").all_inner_texts()
        offered = [text for text in buttons if text.strip().startswith(changing)]
        assert offered == [], f"{link} offers {offered}"


@pytest.mark.parametrize("path", ["/audit/", "/audit/verify", "/ip/", "/pilots/"])
def test_pages_fit_a_phone(sign_in: Callable[..., Any], bob: Any, story: None, path: str) -> None:
    page = sign_in(bob)
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(path)
    assert page.evaluate(TOO_WIDE) == []
    shot(page, f"phone{path.replace('/', '-')}")


def test_log_is_read_and_narrowed_without_script(browser: Any, live_site: Any, bob: Any, story: None) -> None:
    from tests.conftest import PASSWORD

    context = browser.new_context(base_url=str(live_site), java_script_enabled=False)
    page = context.new_page()
    page.goto("/audit/")
    page.locator("input[type=email], input[name=username], input[name=email]").first.fill(bob.email)
    page.locator("input[type=password]").first.fill(PASSWORD)
    with page.expect_navigation():
        page.locator("input[type=password]").first.press("Enter")
    page.goto("/audit/")
    page.locator("select[name=action]").select_option("waiver.approved")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("row")).to_have_count(2)
    context.close()
