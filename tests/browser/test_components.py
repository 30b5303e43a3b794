"""The live catalogue of components in real Chromium: policy, width, keyboard, contrast, and life without script."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.checks import page_problems

pytestmark = pytest.mark.browser

PATH = "/_components/"


def scroll_through(page: Any) -> None:
    """Bring every chart into view once, as a reader would."""
    for chart in page.locator("[data-chart]").all():
        chart.scroll_into_view_if_needed()
        chart.locator(".js-plotly-plot").wait_for(timeout=60_000)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_catalogue_keeps_policy_width_contrast_and_names(page: Any, width: int, theme: str) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=theme)
    page.goto(PATH)
    scroll_through(page)
    assert page_problems(page) == []
    # The fixture fails the test when the console showed a violation of the content security policy.


def test_charts_take_the_colours_of_the_theme(page: Any) -> None:
    page.emulate_media(color_scheme="light")
    page.goto(PATH)
    chart = page.locator("[data-chart]").first
    chart.scroll_into_view_if_needed()
    chart.locator(".js-plotly-plot").wait_for(timeout=60_000)
    colour = "() => document.querySelector('.js-plotly-plot .xtick text').style.fill"
    before = page.evaluate(colour)
    page.get_by_role("button", name="Switch between light and dark").click()
    page.wait_for_function(f"(before) => ({colour})() !== before", arg=before)


def test_theme_is_kept_and_drawn_by_the_server(page: Any) -> None:
    page.emulate_media(color_scheme="light")
    page.goto(PATH)
    page.get_by_role("button", name="Switch between light and dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    answer = page.reload()
    assert 'data-theme="dark"' in answer.text(), "the page comes with its theme, so nothing flashes"


def test_rows_are_walked_and_opened_with_the_keyboard(page: Any) -> None:
    page.goto(PATH)
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("j")
    rows = page.locator("#table tbody tr")
    expect(rows.nth(1)).to_have_attribute("data-focus", "")
    expect(page.locator("tr[data-focus]")).to_have_count(1)
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("#run-1$"))


def test_letters_typed_into_a_field_are_text(page: Any) -> None:
    page.goto(PATH)
    page.get_by_label("Find", exact=True).fill("")
    page.get_by_label("Find", exact=True).press_sequentially("jk/?")
    expect(page.get_by_label("Find", exact=True)).to_have_value("jk/?")
    expect(page.locator("tr[data-focus]")).to_have_count(0)


def test_question_mark_lists_the_shortcuts_and_escape_closes(page: Any) -> None:
    page.goto(PATH)
    page.keyboard.press("?")
    expect(page.locator("#shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    page.locator("#shortcuts").wait_for(state="hidden")


def test_dialog_is_modal_starts_at_its_field_and_gives_focus_back(page: Any) -> None:
    page.goto(PATH)
    opener = page.locator("[popovertarget=sign-dialog]").first
    opener.click()
    assert page.evaluate("document.querySelector('#sign-dialog').matches(':modal')")
    assert page.evaluate("document.activeElement.type") == "password"
    page.keyboard.press("Escape")
    page.locator("#sign-dialog").wait_for(state="hidden")
    assert page.evaluate("document.activeElement.getAttribute('popovertarget')") == "sign-dialog"


def test_typed_confirmation_frees_the_button_only_for_the_exact_words(page: Any) -> None:
    page.goto(PATH)
    button = page.get_by_role("button", name="Delete summit")
    field = page.locator("#confirm-text")
    expect(button).to_be_disabled()
    field.fill("Summit")
    expect(button).to_be_disabled()
    field.fill("summit")
    expect(button).to_be_enabled()


def test_digest_is_copied_whole(page: Any) -> None:
    page.goto(PATH)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#numbers .digest button").first.click()
    page.locator(".toasts .toast").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith("sha256:9f3c1e5b7a2d4c6e")


def test_leaving_a_form_with_changes_is_asked_about(page: Any) -> None:
    page.goto(PATH)
    page.locator("#forms input[name=version]").fill("1.2.0")
    asked: list[str] = []

    def answer(dialog: Any) -> None:
        asked.append(dialog.type)
        dialog.accept()

    page.on("dialog", answer)
    page.goto(PATH + "?tab=slices")
    assert asked == ["beforeunload"]


def test_tags_are_chips_and_sent_as_words_with_commas(page: Any) -> None:
    page.goto(PATH)
    box = page.locator("[data-tag-input]")
    box.locator("input[type=text]").press_sequentially("tables,")
    expect(box.locator("input[type=hidden]")).to_have_value("long questions, dates, tables")
    box.get_by_role("button", name="Remove dates").click()
    expect(box.locator("input[type=hidden]")).to_have_value("long questions, tables")


def test_sorting_filtering_and_paging_live_in_the_address(page: Any) -> None:
    page.goto(PATH)
    page.locator("#table th a", has_text="Release").click()
    expect(page).to_have_url(re.compile(r"sort=release"))
    page.locator("#table select[name=verdict]").select_option("fail")
    page.wait_for_url(re.compile("verdict=fail"))
    expect(page).to_have_url(re.compile(r"sort=release"))
    page.go_back()
    expect(page).not_to_have_url(re.compile(r"verdict=fail"))


def test_records_become_cards_with_two_facts_on_a_narrow_screen(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(PATH)
    row = page.locator("#table tbody tr").first
    visible = [cell for cell in row.locator("th, td").all() if cell.is_visible()]
    assert [cell.get_attribute("data-label") for cell in visible] == ["Run", "Verdict"]


@pytest.fixture
def scriptless(browser: Any, live_site: Any) -> Any:
    """A page in a browser without script."""
    context = browser.new_context(base_url=str(live_site), java_script_enabled=False)
    yield context.new_page()
    context.close()


def test_without_script_menus_dialogs_tables_and_theme_still_work(scriptless: Any) -> None:
    page = scriptless
    page.goto(PATH)
    page.locator("[popovertarget=sign-dialog]").first.click()
    expect(page.locator("#sign-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    page.locator("#buttons summary", has_text="More").click()
    expect(page.get_by_role("button", name="Archive")).to_be_visible()
    page.locator("#table input[name=q]").fill("run 19")
    page.locator("#table form button", has_text="Show").first.click()
    expect(page).to_have_url(re.compile(r"q=run\+19"))
    expect(page.locator("#table tbody tr")).to_have_count(8)
    assert page.locator(".chart-svg").count() == 5, (
        "the drawings of the server stand where the figures would be"
    )
    page.get_by_role("button", name="Switch between light and dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_palette_finds_a_page_and_letters_go_there(
    page: Any, sign_in: Callable[..., Any], alice: Any
) -> None:
    sign_in(alice)
    page.goto(PATH)
    page.keyboard.press("Control+k")
    page.locator("#palette input").press_sequentially("releases")
    page.locator("#palette-results a", has_text="Releases").first.wait_for()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/releases/"))
    page.goto(PATH)
    page.keyboard.press("/")
    expect(page.locator("#palette")).to_be_visible()
    page.keyboard.press("Escape")
    page.locator("#palette").wait_for(state="hidden")
    page.keyboard.press("g")
    page.keyboard.press("r")
    page.wait_for_url(re.compile("/releases/"))


def test_navigation_is_a_sheet_on_a_narrow_screen(page: Any, sign_in: Callable[..., Any], alice: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    sign_in(alice)
    page.goto(PATH)
    sheet = page.locator("#nav")
    expect(sheet).to_be_hidden()
    page.get_by_role("button", name="Open navigation").click()
    expect(sheet).to_be_visible()
    expect(sheet.get_by_role("link", name="Releases")).to_be_visible()
    page.keyboard.press("Escape")
    sheet.wait_for(state="hidden")


def test_sign_out_is_a_post_in_the_menu(page: Any, sign_in: Callable[..., Any], alice: Any) -> None:
    sign_in(alice)
    page.goto(PATH)
    page.get_by_label(re.compile("^Your menu")).click()
    with page.expect_navigation():
        page.get_by_role("button", name="Sign out").click()
    page.goto(PATH)
    expect(page.get_by_label(re.compile("^Your menu"))).to_have_count(0)
