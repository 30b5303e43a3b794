"""An operator's day in a real browser: create a tenant, hand it over, switch it off, delete it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def test_an_operator_creates_hands_over_switches_off_and_deletes(
    page: Page, sign_in: Any, operator: Any, live_site: Any
) -> None:
    operators = live_site.url("", tenant="")
    sign_in(operator, base=operators)
    assert page.get_by_role("heading", name="Tenants", level=1).is_visible()
    page.get_by_role("link", name="Create a tenant").first.click()

    # A refusal keeps what was typed.
    page.get_by_label("Name", exact=True).fill("Gamma Works")
    page.get_by_label("Short name").fill("gamma-works")
    page.get_by_label("First admin's e-mail address").fill("ada@gamma.example")
    page.get_by_label("First admin's name").fill("Ada")
    page.get_by_role("button", name="Create tenant").click()
    assert page.get_by_text("gamma_works").first.is_visible()
    assert page.get_by_label("Name", exact=True).input_value() == "Gamma Works"
    page.get_by_label("Short name").fill("gamma_works")
    page.get_by_role("button", name="Create tenant").click()
    assert page.get_by_role("heading", name="Gamma Works is created").is_visible()
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
    admin.goto(live_site.url("/users/", tenant="gamma-works"))
    assert admin.get_by_role("heading", name="Users", level=1).is_visible()

    page.get_by_role("link", name="Open the tenant").click()
    assert page.get_by_text("Healthy").is_visible()
    page.get_by_role("button", name="Deactivate tenant").click()
    assert page.get_by_role("button", name="Activate tenant").is_visible()
    admin.reload()
    assert admin.get_by_role("heading", name="Gamma Works is deactivated").is_visible()
    admin.context.close()

    # Deleting waits for the name.
    delete = page.get_by_role("button", name="Delete tenant")
    page.get_by_label(re.compile("to confirm")).fill("Gamma Work")
    assert delete.is_disabled()
    page.get_by_label(re.compile("to confirm")).fill("Gamma Works")
    delete.click()
    page.wait_for_url(re.compile(r"/tenants/$"))
    assert page.get_by_role("row", name=re.compile("Gamma Works")).count() == 0
    assert page.get_by_role("row", name=re.compile("Alpha Ltd")).count() == 1


def test_an_unknown_address_says_so(page: Page, live_site: Any) -> None:
    response = page.goto(live_site.url("/", tenant="nobody"))
    assert response is not None
    assert response.status == 404
    assert page.get_by_role("heading", name="No tenant at this address").is_visible()
