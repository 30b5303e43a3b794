"""The live catalogue of components in real Chromium: policy, width, keyboard, contrast, and life without script."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

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
    assert page.locator("html").get_attribute("data-theme") == "dark"
    answer = page.reload()
    assert 'data-theme="dark"' in answer.text(), "the page comes with its theme, so nothing flashes"


def test_rows_are_walked_and_opened_with_the_keyboard(page: Any) -> None:
    page.goto(PATH)
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("j")
    rows = page.locator("#table tbody tr")
    assert rows.nth(1).get_attribute("data-focus") == ""
    assert page.locator("tr[data-focus]").count() == 1
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("#run-1$"))


def test_letters_typed_into_a_field_are_text(page: Any) -> None:
    page.goto(PATH)
    page.get_by_label("Find", exact=True).fill("")
    page.get_by_label("Find", exact=True).press_sequentially("jk/?")
    assert page.get_by_label("Find", exact=True).input_value() == "jk/?"
    assert page.locator("tr[data-focus]").count() == 0


def test_question_mark_lists_the_shortcuts_and_escape_closes(page: Any) -> None:
    page.goto(PATH)
    page.keyboard.press("?")
    assert page.locator("#shortcuts").is_visible()
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
    assert button.is_disabled()
    field.fill("Summit")
    assert button.is_disabled()
    field.fill("summit")
    assert button.is_enabled()


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
    assert box.locator("input[type=hidden]").input_value() == "long questions, dates, tables"
    box.get_by_role("button", name="Remove dates").click()
    assert box.locator("input[type=hidden]").input_value() == "long questions, tables"


def test_sorting_filtering_and_paging_live_in_the_address(page: Any) -> None:
    page.goto(PATH)
    page.locator("#table th a", has_text="Release").click()
    assert "sort=release" in page.url
    page.locator("#table select[name=verdict]").select_option("fail")
    page.wait_for_url(re.compile("verdict=fail"))
    assert "sort=release" in page.url
    page.go_back()
    assert "verdict=fail" not in page.url


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
    assert page.locator("#sign-dialog").is_visible()
    page.keyboard.press("Escape")
    page.locator("#buttons summary", has_text="More").click()
    assert page.get_by_role("button", name="Archive").is_visible()
    page.locator("#table input[name=q]").fill("run 19")
    page.locator("#table form button", has_text="Show").first.click()
    assert "q=run+19" in page.url
    assert page.locator("#table tbody tr").count() == 8
    assert page.locator(".chart-svg").count() == 5, (
        "the drawings of the server stand where the figures would be"
    )
    page.get_by_role("button", name="Switch between light and dark").click()
    assert page.locator("html").get_attribute("data-theme") == "dark"


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
    assert page.locator("#palette").is_visible()
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
    assert sheet.is_hidden()
    page.get_by_role("button", name="Open navigation").click()
    assert sheet.is_visible()
    assert sheet.get_by_role("link", name="Releases").is_visible()
    page.keyboard.press("Escape")
    sheet.wait_for(state="hidden")


def test_sign_out_is_a_post_in_the_menu(page: Any, sign_in: Callable[..., Any], alice: Any) -> None:
    sign_in(alice)
    page.goto(PATH)
    page.get_by_label(re.compile("^Your menu")).click()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_load_state()
    page.goto(PATH)
    assert page.get_by_label(re.compile("^Your menu")).count() == 0
