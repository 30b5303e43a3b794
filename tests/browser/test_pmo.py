"""The PMO's path in real Chromium: sees what waits, reads the evidence, signs once, sees it go stale."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from governance.models import Review, Signature
from tests.conftest import PASSWORD
from tests.governance.conftest import measured_world, open_review
from tests.governance.test_review_sign import tighten
from tests.inference.gate_data import World

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def world(transactional_db: None) -> World:
    """Releases whose gate passes."""
    return measured_world()


@pytest.fixture
def review(world: World) -> Review:
    """An open review that waits for the PMO."""
    return open_review(world)


def fill_and_sign(page: Any, *, password: str = PASSWORD) -> None:
    """Choose go, re-enter the password, press the button."""
    page.get_by_label("Go", exact=True).check()
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign as PMO").click()


def test_the_pmo_signs_what_waits_and_cannot_sign_twice(
    sign_in: Callable[..., Any], alice: Any, review: Review
) -> None:
    page = sign_in(alice)
    page.get_by_role("link", name=review.title).first.click()
    page.get_by_role("heading", name=review.title, level=1).wait_for()
    expect(page.get_by_text("waiting for the signature of: PMO")).to_be_visible()
    page.get_by_role("link", name="Read and sign").click()

    fill_and_sign(page, password="not my password")
    page.get_by_text("Nothing was signed").first.wait_for()
    assert not Signature.objects.exists()

    fill_and_sign(page)
    page.get_by_role("heading", name="Signature certificate").wait_for()
    expect(page.locator("img.qr")).to_be_visible()
    assert Signature.objects.count() == 1

    page.goto(page.url.split("/signatures/")[0] + f"/reviews/{review.pk}/sign/")
    expect(page.get_by_text("You have signed this evidence")).to_be_visible()
    expect(page.get_by_role("button", name="Sign as PMO")).to_have_count(0)


def test_evidence_that_moves_while_reading_is_shown_and_not_signed(
    sign_in: Callable[..., Any], alice: Any, review: Review, world: World
) -> None:
    page = sign_in(alice)
    page.goto(page.url.rstrip("/") + f"/reviews/{review.pk}/sign/")
    tighten(world)
    fill_and_sign(page)
    page.get_by_text("nothing was signed").first.wait_for()
    expect(page.get_by_text("gate_in_force.version")).to_be_visible()
    assert not Signature.objects.exists()


def test_a_signature_goes_stale_in_sight_and_the_dossier_downloads(
    sign_in: Callable[..., Any], alice: Any, review: Review, world: World
) -> None:
    page = sign_in(alice)
    base = page.url.rstrip("/")
    page.goto(f"{base}/reviews/{review.pk}/sign/")
    fill_and_sign(page)
    page.get_by_role("heading", name="Signature certificate").wait_for()
    page.goto(f"{base}/reviews/{review.pk}/")
    page.get_by_text("More", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Dossier (zip)").click()
    with zipfile.ZipFile(io.BytesIO(download.value.path().read_bytes())) as archive:
        assert "signatures/1.dsse.json" in archive.namelist()

    tighten(world)
    page.goto(f"{base}/reviews/{review.pk}/")
    expect(page.get_by_text("The evidence is stale").first).to_be_visible()
    expect(page.get_by_text("Stale").nth(1)).to_be_attached()


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_nothing_of_the_review_reaches_beyond_the_window(
    sign_in: Callable[..., Any], alice: Any, review: Review, width: int, height: int
) -> None:
    page = sign_in(alice)
    base = page.url.rstrip("/")
    page.set_viewport_size({"width": width, "height": height})
    for path in ("/", "/reviews/", f"/reviews/{review.pk}/", f"/reviews/{review.pk}/sign/", "/playbooks/"):
        page.goto(base + path)
        beyond = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert beyond <= 0, path
