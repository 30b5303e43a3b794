"""A tenant admin in a real browser: users, roles, API keys; and a lock-out as a visitor sees it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.conftest import PASSWORD

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def admin(user_with: Callable[..., Any]) -> Any:
    return user_with("admin", name="Ada Adams", email="ada@alpha.example")


def test_an_admin_adds_a_user_changes_roles_and_resets_a_password(
    page: Page, sign_in: Any, admin: Any, live_site: Any
) -> None:
    home = live_site.url("", tenant="alpha")
    sign_in(admin, base=home)
    page.goto(f"{home}/users/")
    page.get_by_role("link", name="Add a user").first.click()
    page.get_by_label("E-mail address").fill("carol@alpha.example")
    page.get_by_label("Name", exact=True).fill("Carol Cho")
    page.get_by_label(re.compile("Engineer:")).check()
    page.get_by_role("button", name="Add user").click()
    expect(page.get_by_role("heading", name="Carol Cho is added")).to_be_visible()
    page.get_by_role("link", name="Done").click()
    page.get_by_role("link", name="Carol Cho").click()
    expect(page.get_by_label(re.compile("Engineer:"))).to_be_checked()
    page.get_by_label(re.compile("Security:")).check()
    page.get_by_role("button", name="Save user").click()
    expect(page.get_by_role("row", name=re.compile("Carol Cho.*Engineer.*Security"))).to_be_visible()
    page.get_by_role("link", name="Carol Cho").click()
    page.get_by_role("button", name="Reset password").click()
    expect(page.get_by_role("heading", name="New password for Carol Cho")).to_be_visible()


def test_the_last_admin_is_told_why_not(page: Page, sign_in: Any, admin: Any, live_site: Any) -> None:
    home = live_site.url("", tenant="alpha")
    sign_in(admin, base=home)
    page.goto(f"{home}/users/{admin.pk}/")
    page.get_by_label("May sign in").uncheck()
    page.get_by_role("button", name="Save user").click()
    expect(page.get_by_text("is the last active admin")).to_be_visible()


def test_an_admin_issues_and_revokes_a_key(page: Page, sign_in: Any, admin: Any, live_site: Any) -> None:
    home = live_site.url("", tenant="alpha")
    sign_in(admin, base=home)
    page.goto(f"{home}/keys/")
    page.get_by_role("link", name="Issue a key").first.click()
    page.get_by_label("Name", exact=True).fill("release pipeline")
    page.get_by_label("release.view", exact=True).check()
    page.get_by_label("Expires after").select_option("30")
    page.get_by_role("button", name="Issue key").click()
    text = page.locator("code").filter(has_text=re.compile(r"^sgn_alpha_")).first.inner_text()
    page.get_by_role("link", name="Done").click()
    assert text not in page.content()
    row = page.get_by_role("row", name=re.compile("release pipeline"))
    expect(row.get_by_text("Active")).to_be_visible()
    row.get_by_role("button", name=re.compile("Revoke")).click()
    expect(
        page.get_by_role("row", name=re.compile("release pipeline")).get_by_text("Revoked")
    ).to_be_visible()


def test_a_visitor_is_locked_out_and_told_for_how_long(
    page: Page, alice: Any, live_site: Any, settings: Any
) -> None:
    page.goto(live_site.url("/sign-in/", tenant="alpha"))
    for _ in range(settings.AXES_FAILURE_LIMIT):
        page.get_by_label("E-mail address").fill(alice.email)
        page.get_by_label("Password").fill("wrong")
        with page.expect_navigation():
            page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Sign-in is locked")).to_be_visible()
    expect(page.get_by_text(re.compile(r"Try again in \d+ minutes"))).to_be_visible()


def test_a_person_changes_password_and_time_zone_and_signs_out(
    page: Page, sign_in: Any, alice: Any, live_site: Any
) -> None:
    home = live_site.url("", tenant="alpha")
    sign_in(alice, base=home)
    page.goto(f"{home}/profile/")
    page.get_by_label("Time zone").select_option("Asia/Tokyo")
    page.get_by_role("button", name="Save profile").click()
    expect(page.get_by_text("Times in Asia/Tokyo")).to_be_visible()
    page.goto(f"{home}/password/")
    page.get_by_label("Current password").fill(PASSWORD)
    page.get_by_label("New password", exact=True).fill("a-long-new-password-5")
    page.get_by_label("New password again").fill("a-long-new-password-5")
    page.get_by_role("button", name="Change password").click()
    page.locator("summary[aria-label^='Your menu']").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
