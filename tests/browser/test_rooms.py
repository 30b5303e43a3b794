"""Every room of the navigation, as each role sees it, before anything has been measured."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.checks import page_problems

pytestmark = pytest.mark.browser

# A folder for pictures of every room, for people who want to look; empty for none.
PICTURES = os.environ.get("SIGNOFF_PICTURES", "")


@pytest.mark.parametrize("role", ["admin", "pmo", "engineer", "security", "legal", "auditor", "customer"])
def test_every_room_of_a_role_opens_and_reads_well(
    page: Any, sign_in: Callable[..., Any], user_with: Callable[..., Any], role: str
) -> None:
    sign_in(user_with(role))
    rooms = page.locator("#nav a").evaluate_all(
        "links => links.map(link => [link.textContent.trim(), link.href])"
    )
    assert rooms, "everyone has at least a home"
    problems = []
    for name, url in rooms:
        for width, theme in ((1440, "light"), (390, "dark")):
            page.set_viewport_size({"width": width, "height": 844})
            page.emulate_media(color_scheme=theme)
            answer = page.goto(url)
            if answer.status != 200:
                problems.append(f"{name}: answered {answer.status}")
                continue
            if page.locator("h1").count() != 1 or not page.locator("h1").inner_text().strip():
                problems.append(f"{name}: a page has one title")
            problems += [f"{name} at {width}, {theme}: {one}" for one in page_problems(page)]
            if PICTURES:
                page.screenshot(path=str(Path(PICTURES) / f"{role}-{name}-{width}.png"), full_page=True)
    assert problems == []
