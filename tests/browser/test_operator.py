"""An operator's day in a real browser: create a tenant, hand it over, switch it off, delete it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def test_an_operator_creates_hands_over_switches_off_and_deletes(
    page: Page, sign_in: Any, operator: Any, live_site: Any
) -> None:
    operators = live_site.url("", tenant="")
    sign_in(operator, base=operators)
    expect(page.get_by_role("heading", name="Tenants", level=1)).to_be_visible()
    page.get_by_role("link", name="Create a tenant").first.click()

    # A refusal keeps what was typed.
    page.get_by_label("Name", exact=True).fill("Gamma Works")
    page.get_by_label("Short name").fill("gamma-works")
    page.get_by_label("First admin's e-mail address").fill("ada@gamma.example")
    page.get_by_label("First admin's name").fill("Ada")
    page.get_by_role("button", name="Create tenant").click()
    expect(page.get_by_text("gamma_works").first).to_be_visible()
    expect(page.get_by_label("Name", exact=True)).to_have_value("Gamma Works")
    page.get_by_label("Short name").fill("gamma_works")
    page.get_by_role("button", name="Create tenant").click()
    expect(page.get_by_role("heading", name="Gamma Works is created")).to_be_visible()
    password = page.locator("code").filter(has_text=re.compile(r"^\w{5}(-\w{5}){3}$")).inner_text()

    # The first admin signs in and has to choose a password.
    admin = page.context.browser.new_context().new_page()  # type: ignore[union-attr]
    admin.goto(live_site.url("/sign-in/", tenant="gamma-works"))
    admin.get_by_label("E-mail address").fill("ada@gamma.example")
    admin.get_by_label("Password").fill(password)
    admin.get_by_role("button", name="Sign in").click()
    admin.get_by_label("Current password").fill(password)
    admin.get_by_label("New password", exact=True).fill("a-long-new-password-5")
    admin.get_by_label("New password again").fill("a-long-new-password-5")
    admin.get_by_role("button", name="Change password").click()
    admin.wait_for_url(lambda url: "/password/" not in url)
    admin.goto(live_site.url("/users/", tenant="gamma-works"))
    expect(admin.get_by_role("heading", name="Users", level=1)).to_be_visible()

    page.get_by_role("link", name="Open the tenant").click()
    expect(page.get_by_text("Healthy")).to_be_visible()
    page.get_by_role("button", name="Deactivate tenant").click()
    expect(page.get_by_role("button", name="Activate tenant")).to_be_visible()
    admin.reload()
    expect(admin.get_by_role("heading", name="Gamma Works is deactivated")).to_be_visible()
    admin.context.close()

    # Deleting waits for the name.
    delete = page.get_by_role("button", name="Delete tenant")
    page.get_by_label(re.compile("to confirm")).fill("Gamma Work")
    expect(delete).to_be_disabled()
    page.get_by_label(re.compile("to confirm")).fill("Gamma Works")
    delete.click()
    page.wait_for_url(re.compile(r"/tenants/$"))
    expect(page.get_by_role("row", name=re.compile("Gamma Works"))).to_have_count(0)
    expect(page.get_by_role("row", name=re.compile("Alpha Ltd"))).to_have_count(1)


def test_an_unknown_address_says_so(page: Page, live_site: Any) -> None:
    response = page.goto(live_site.url("/", tenant="nobody"))
    assert response is not None
    assert response.status == 404
    expect(page.get_by_role("heading", name="No tenant at this address")).to_be_visible()
