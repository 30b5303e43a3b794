"""The engineer's path in a real browser: a dataset of one's own, a gate over it, a failing candidate, a run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from django.urls import reverse
from playwright.sync_api import expect

from core.evidence.models import Gate, Run
from core.security.actor import SYSTEM, use_actor
from inference.gates import gate_verdict_compute
from inference.models import Dataset
from tests.inference.gate_data import damaged, finish_run, healthy, make_release, make_world

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tenants.accounts.models import User

pytestmark = pytest.mark.django_db(transaction=True)

ROW = '{"id": "%s", "question": "Is %s right?", "choices": ["yes", "no"], "answer": %s}\n'


def test_engineer_imports_gates_compares_and_cancels(
    page: Page,
    sign_in: Callable[..., Page],
    user_with: Callable[..., User],
    tmp_path: Path,
) -> None:
    world = make_world()
    with use_actor(SYSTEM):
        finish_run(world.baseline, world.versions["questions"], healthy)
        finish_run(world.candidate, world.versions["questions"], damaged)
        gate_verdict_compute(gate=world.gate, candidate=world.candidate, baseline=world.baseline)
    sign_in(user_with("engineer", name="Erin Eng"))

    # A file with a wrong row is refused row by row, and nothing of it is kept.
    bad = tmp_path / "checks.jsonl"
    bad.write_text(ROW % ("a", "a", 0) + ROW % ("b", "b", 9))
    page.goto(reverse("inference:dataset_import"))
    page.set_input_files("input[type=file]", str(bad))
    page.fill("input[name=slug]", "checks")
    page.get_by_role("button", name="Check and import").click()
    report = page.get_by_role("region", name="Problems in the file")
    assert "2" in report.inner_text() and "answer" in report.inner_text()
    assert page.input_value("input[name=slug]") == "checks"
    assert not Dataset.objects.filter(slug="checks").exists()

    # Mended, it is imported.
    bad.write_text("".join(ROW % (f"i{n}", n, n % 2) for n in range(90)))
    page.set_input_files("input[type=file]", str(bad))
    page.get_by_role("button", name="Check and import").click()
    page.wait_for_url("**/datasets/checks/")
    expect(page.locator(".page-state")).to_contain_text("90 items")

    # A gate over it, two criteria, power stated before anything runs.
    page.goto(reverse("inference:gate_create"))
    page.fill("input[name=title]", "Checks stay right")
    page.fill("input[name=slug]", "checks-gate")
    page.select_option("select[name=criteria-0-dataset]", "checks")
    page.fill("input[name=criteria-0-threshold]", "0.1")
    page.get_by_role("button", name="Show power").click()
    expect(page.locator("#criterion-1")).to_contain_text("an equal candidate passes the margin")
    page.get_by_role("button", name="Add a criterion").click()
    page.select_option("select[name=criteria-1-metric]", "nll_gold")
    page.select_option("select[name=criteria-1-dataset]", "checks")
    page.fill("input[name=criteria-1-threshold]", "0.05")
    page.get_by_role("button", name="Create gate").click()
    page.wait_for_url("**/gates/checks-gate/")
    assert Gate.objects.get(slug="checks-gate").criteria.count() == 2

    # The damaged candidate: release page, then compare, which names metric, slice and items.
    page.goto(reverse("inference:release_list"))
    page.get_by_role("link", name="1.1.0", exact=True).first.click()
    expect(page.locator(".page-state")).to_contain_text(
        "1.1.0 is worse than Assistant 1.0.0 on 1 of 2 criteria"
    )
    page.get_by_role("link", name="Compare with 1.0.0").click()
    expect(page.locator(".page-state")).to_contain_text("1.1.0 is worse than 1.0.0 on 1 of 2 criteria")
    text = page.inner_text("main")
    for part in ("length:long", "questions-0", "rollback", "interval of the worsening"):
        assert part in text, part
    page.get_by_role("link", name="nll_gold").click()
    expect(page).to_have_url(re.compile(r"metric=nll_gold"))

    # A new candidate has no evidence: the gate starts what is missing, and a run can be cancelled.
    fresh = make_release(world.product, "1.2.0")
    query = f"?candidate={fresh.pk}&baseline={world.baseline.pk}&gate={world.gate.slug}"
    page.goto(reverse("inference:compare") + query)
    expect(page.locator(".page-state")).to_contain_text("has not been run")
    page.get_by_role("button", name="Run the gate").click()
    page.get_by_text("The evaluations are under way").wait_for()
    run = Run.objects.get(subject_digest=fresh.digest)
    page.get_by_role("link", name="Look at this run").first.click()
    page.wait_for_url(f"**{reverse('inference:run_detail', args=[run.pk])}")
    page.get_by_role("link", name="Cancel run").click()
    page.get_by_role("button", name="Cancel the run").click()
    page.wait_for_url(f"**{reverse('inference:run_detail', args=[run.pk])}")
    expect(page.locator(".page-state")).to_contain_text("cancelled")
    assert Run.objects.get(pk=run.pk).status == Run.Status.CANCELLED
    page.get_by_role("button", name="Resume").click()
    page.get_by_text("goes on with the items that are missing").wait_for()
    assert Run.objects.get(pk=run.pk).status == Run.Status.QUEUED


def test_pages_do_not_scroll_sideways_on_a_phone(
    page: Page, sign_in: Callable[..., Page], user_with: Callable[..., User]
) -> None:
    world = make_world()
    with use_actor(SYSTEM):
        run = finish_run(world.baseline, world.versions["questions"], healthy)
        finish_run(world.candidate, world.versions["questions"], damaged)
        gate_verdict_compute(gate=world.gate, candidate=world.candidate, baseline=world.baseline)
    sign_in(user_with("engineer"))
    page.set_viewport_size({"width": 390, "height": 844})
    query = f"?candidate={world.candidate.pk}&baseline={world.baseline.pk}&gate={world.gate.slug}"
    for url in (
        reverse("inference:release_detail", args=[world.candidate.pk]),
        reverse("inference:compare") + query,
        reverse("inference:run_detail", args=[run.pk]),
        reverse("inference:gate_edit", args=[world.gate.slug]),
        reverse("inference:dataset_detail", args=["questions"]),
    ):
        page.goto(url)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1"), url
