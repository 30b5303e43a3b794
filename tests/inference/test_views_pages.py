"""Every page of inference: works, and refuses whom it should."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.urls import reverse

from core.evidence.models import Gate, Run
from core.security.actor import SYSTEM, use_actor
from inference.gates import gate_as_dict, gate_revise, gate_verdict_compute
from inference.models import Dataset, Product, Registration, Release
from tests.conftest import TenantClient
from tests.inference.gate_data import World, damaged, finish_run, healthy, make_dataset, make_world

pytestmark = pytest.mark.django_db


@pytest.fixture
def world() -> World:
    """Two measured releases, the candidate damaged, and the verdict on them."""
    made = make_world()
    version = made.versions["questions"]
    with use_actor(SYSTEM):
        finish_run(made.baseline, version, healthy)
        finish_run(made.candidate, version, damaged)
        gate_verdict_compute(gate=made.gate, candidate=made.candidate, baseline=made.baseline)
    return made


def address(name: str, world: World) -> str:
    """Address of a page with objects of this world."""
    run = Run.objects.first()
    registration = Registration.objects.create(action="packaged", status="failed", message="It broke.")
    arguments: dict[str, list[Any]] = {
        "release_detail": [world.candidate.pk],
        "run_detail": [run.pk if run else None],
        "run_progress": [run.pk if run else None],
        "run_cancel": [run.pk if run else None],
        "run_retry": [run.pk if run else None],
        "model_detail": [world.candidate.model_version_id],
        "model_transform": [world.candidate.model_version_id],
        "registration_detail": [registration.pk],
        "registration_fragment": [registration.pk],
        "dataset_detail": ["questions"],
        "gate_detail": [world.gate.slug],
        "gate_edit": [world.gate.slug],
        "gate_json": [world.gate.slug],
    }
    url = reverse(f"inference:{name}", args=arguments.get(name, []))
    if name in {"compare", "compare_progress"}:
        url += f"?candidate={world.candidate.pk}&baseline={world.baseline.pk}&gate={world.gate.slug}"
    return url


# name, role that may, role that may not (every signed-in role may read, so a customer is who may not)
READING = [
    ("release_list", "auditor"),
    ("release_detail", "auditor"),
    ("compare", "auditor"),
    ("compare_progress", "auditor"),
    ("run_list", "auditor"),
    ("run_detail", "auditor"),
    ("run_progress", "auditor"),
    ("running_jobs", "auditor"),
    ("model_list", "auditor"),
    ("model_detail", "auditor"),
    ("registration_detail", "auditor"),
    ("registration_fragment", "auditor"),
    ("dataset_list", "auditor"),
    ("dataset_detail", "auditor"),
    ("gate_list", "auditor"),
    ("gate_detail", "auditor"),
    ("gate_json", "auditor"),
]
WRITING = [
    ("product_create", "engineer"),
    ("release_create", "engineer"),
    ("run_create", "engineer"),
    ("run_cancel", "engineer"),
    ("model_register", "engineer"),
    ("model_transform", "engineer"),
    ("dataset_import", "engineer"),
    ("gate_create", "engineer"),
    ("gate_edit", "engineer"),
]
POSTING = [("compare_check", "engineer"), ("run_retry", "engineer")]
EVERY = [*READING, *WRITING, *POSTING]


@pytest.mark.parametrize(("name", "role"), [*READING, *WRITING])
def test_page_works(name: str, role: str, world: World, as_role: Callable[[str], TenantClient]) -> None:
    answer = as_role(role).get(address(name, world))
    assert answer.status_code == 200, answer.content[:2000]


@pytest.mark.parametrize(("name", "role"), READING)
def test_reading_page_refuses_to_be_posted_to(
    name: str, role: str, world: World, as_role: Callable[[str], TenantClient]
) -> None:
    assert as_role(role).post(address(name, world)).status_code == 405


@pytest.mark.parametrize(("name", "role"), POSTING)
def test_action_cannot_be_got(
    name: str, role: str, world: World, as_role: Callable[[str], TenantClient]
) -> None:
    assert as_role(role).get(address(name, world)).status_code == 405


@pytest.mark.parametrize("name", [name for name, _ in EVERY])
def test_anonymous_goes_to_sign_in(name: str, world: World, client: TenantClient) -> None:
    url = address(name, world)
    answer = client.post(url) if name in dict(POSTING) else client.get(url)
    assert answer.status_code == 302 and reverse("accounts:sign_in") in answer["Location"]


@pytest.mark.parametrize("name", [name for name, _ in EVERY])
def test_customer_is_refused(name: str, world: World, as_role: Callable[[str], TenantClient]) -> None:
    url = address(name, world)
    customer = as_role("customer")
    answer = customer.post(url) if name in dict(POSTING) else customer.get(url)
    assert answer.status_code == 403


@pytest.mark.parametrize("name", [name for name, _ in [*WRITING, *POSTING]])
def test_auditor_reads_and_changes_nothing(
    name: str, world: World, as_role: Callable[[str], TenantClient]
) -> None:
    url = address(name, world)
    before = (Gate.objects.count(), Release.objects.count(), Run.objects.count(), Product.objects.count())
    assert as_role("auditor").post(url).status_code == 403
    after = (Gate.objects.count(), Release.objects.count(), Run.objects.count(), Product.objects.count())
    assert after == before


OBJECTS = [
    "release_detail",
    "run_detail",
    "run_progress",
    "run_cancel",
    "model_detail",
    "model_transform",
    "registration_detail",
    "dataset_detail",
    "gate_detail",
    "gate_edit",
    "gate_json",
]


@pytest.mark.parametrize("name", OBJECTS)
def test_another_tenants_object_looks_like_none(
    name: str, world: World, mallory: Any, beta: Any, as_user: Callable[..., TenantClient]
) -> None:
    url = address(name, world)
    assert as_user(mallory, tenant=beta).get(url).status_code in {403, 404}
    engineer = "release_detail"
    assert name != engineer or as_user(mallory, tenant=beta).get(url).status_code == 404


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("release_detail", 999999),
        ("run_detail", uuid.uuid4()),
        ("run_progress", uuid.uuid4()),
        ("run_cancel", uuid.uuid4()),
        ("model_detail", 999999),
        ("model_transform", 999999),
        ("registration_detail", uuid.uuid4()),
        ("dataset_detail", "nothing"),
        ("gate_detail", "nothing"),
        ("gate_edit", "nothing"),
        ("gate_json", "nothing"),
    ],
)
def test_missing_object_is_not_found(
    name: str, argument: Any, as_role: Callable[[str], TenantClient]
) -> None:
    assert as_role("engineer").get(reverse(f"inference:{name}", args=[argument])).status_code == 404


@pytest.mark.parametrize(
    "name",
    [
        "release_list",
        "run_list",
        "model_list",
        "dataset_list",
        "gate_list",
        "compare",
        "gate_create",
        "release_create",
        "run_create",
        "dataset_import",
        "model_register",
        "running_jobs",
    ],
)
def test_page_works_with_nothing_there(name: str, as_role: Callable[[str], TenantClient]) -> None:
    answer = as_role("engineer").get(reverse(f"inference:{name}"))
    assert answer.status_code == 200, answer.content[:2000]


@pytest.mark.parametrize("name", ["release_list", "run_list", "model_list", "dataset_list", "gate_list"])
@pytest.mark.parametrize(
    "query", ["?sort=-nonsense&page=abc&q=%00", "?page=99999999999999999999&size=x", "?csv=1"]
)
def test_lists_survive_nonsense_in_the_address(
    name: str, query: str, world: World, as_role: Callable[[str], TenantClient]
) -> None:
    assert as_role("engineer").get(reverse(f"inference:{name}") + query).status_code == 200


def test_csv_cannot_run_a_formula(as_role: Callable[[str], TenantClient]) -> None:
    version = make_dataset("sums", Dataset.Kind.GENERATION, 3)
    version.dataset.name = "=1+1"
    version.dataset.save()
    answer = as_role("auditor").get(reverse("inference:dataset_list") + "?csv=1")
    assert "'=1+1" in b"".join(answer.streaming_content).decode()


# ------------------------------------------------------------------ what the pages say
def test_release_page_names_what_is_worse(world: World, as_role: Callable[[str], TenantClient]) -> None:
    page = as_role("pmo").get(address("release_detail", world)).content.decode()
    assert "1.1.0 is worse than Assistant 1.0.0 on 1 of 2 criteria" in page
    assert "No security or privacy criterion is measured" in page


@pytest.mark.parametrize("name", ["release_detail", "release_list", "gate_list"])
def test_a_verdict_of_yesterdays_gate_is_shown_as_stale(
    world: World, as_role: Callable[[str], TenantClient], name: str
) -> None:
    client = as_role("pmo")
    assert "verdict-stale" not in client.get(address(name, world)).content.decode()
    changed = gate_as_dict(world.gate)
    changed["criteria"][0]["rule"]["margin"] = 0.04
    with use_actor(SYSTEM):
        gate_revise(**changed)
    page = client.get(address(name, world)).content.decode()
    assert "verdict-stale" in page and "verdict-fail" not in page


def test_release_page_is_honest_when_nothing_is_measured(as_role: Callable[[str], TenantClient]) -> None:
    world = make_world()
    page = as_role("pmo").get(reverse("inference:release_detail", args=[world.candidate.pk])).content.decode()
    assert "has not been judged by a gate yet" in page
    assert page.count("verdict-not_run") + page.count("verdict-not-run") >= 6


def test_compare_shows_verdict_slices_items_and_playbook(
    world: World, as_role: Callable[[str], TenantClient]
) -> None:
    page = (
        as_role("pmo").get(address("compare", world) + "&dataset=questions&metric=nll_gold").content.decode()
    )
    for part in ("length:long", "questions-0", "rollback", "1.1.0 is worse than 1.0.0 on 1 of 2 criteria"):
        assert part in page, part
    assert "Answer 9 of 1.1.0" in page and "Answer 9 of 1.0.0" in page


def test_compare_of_a_release_with_itself_is_explained(
    world: World, as_role: Callable[[str], TenantClient]
) -> None:
    url = f"{reverse('inference:compare')}?candidate={world.candidate.pk}&baseline={world.candidate.pk}"
    answer = as_role("pmo").get(url + f"&gate={world.gate.slug}")
    assert answer.status_code == 200 and "both candidate and baseline" in answer.content.decode()


@pytest.mark.parametrize(
    "query", ["?candidate=abc", "?candidate=99999999999999999999999", "?candidate=1&baseline=%00&gate=x"]
)
def test_compare_survives_nonsense(query: str, world: World, as_role: Callable[[str], TenantClient]) -> None:
    assert as_role("pmo").get(reverse("inference:compare") + query).status_code == 200


def test_compare_check_starts_what_is_missing(as_role: Callable[[str], TenantClient]) -> None:
    world = make_world()
    finish_run(world.baseline, world.versions["questions"], healthy)
    body = {"candidate": world.candidate.pk, "baseline": world.baseline.pk, "gate": world.gate.slug}
    answer = as_role("engineer").post(reverse("inference:compare_check"), body)
    assert answer.status_code == 302
    assert list(Run.objects.exclude(status="succeeded").values_list("subject_digest", flat=True)) == [
        world.candidate.digest
    ]


def test_live_fragment_polls_while_running_and_stops_at_the_end(
    as_role: Callable[[str], TenantClient],
) -> None:
    world = make_world()
    run = finish_run(world.baseline, world.versions["questions"], healthy, status="running", items=50)
    client = as_role("engineer")
    url = reverse("inference:run_progress", args=[run.pk])
    running = client.get(url)
    assert 'hx-trigger="every 2s"' in running.content.decode() and "HX-Refresh" not in running.headers
    assert "provisional" in running.content.decode()
    Run.objects.filter(pk=run.pk).update(status="cancelled", finished_at=run.started_at)
    ended = client.get(url)
    assert "hx-trigger" not in ended.content.decode() and ended["HX-Refresh"] == "true"


def test_cancel_asks_first(as_role: Callable[[str], TenantClient]) -> None:
    world = make_world()
    run = finish_run(world.baseline, world.versions["questions"], healthy, status="running", items=50)
    client = as_role("engineer")
    url = reverse("inference:run_cancel", args=[run.pk])
    assert "are kept" in client.get(url).content.decode()
    assert Run.objects.get(pk=run.pk).cancel_requested_at is None
    client.post(url)
    assert Run.objects.get(pk=run.pk).cancel_requested_at is not None


# ------------------------------------------------------------------ forms
def test_release_form_creates_a_release_and_refuses_its_version_again(
    world: World, as_role: Callable[[str], TenantClient]
) -> None:
    client = as_role("engineer")
    body = {
        "product": "assistant",
        "version": "1.2.0",
        "model_version": world.candidate.model_version_id,
        "prompt_template": "Q: {input}\nA:",
        "max_tokens": 16,
        "temperature": 0,
        "top_p": 1,
    }
    url = reverse("inference:release_create")
    assert client.post(url, body).status_code == 302
    assert Release.objects.get(version="1.2.0").config["prompt"]["template"] == "Q: {input}\nA:"
    again = client.post(url, body)
    assert again.status_code == 422 and "taken" in again.content.decode()


def test_release_form_places_a_wrong_template_at_its_field(
    world: World, as_role: Callable[[str], TenantClient]
) -> None:
    body = {
        "product": "assistant",
        "version": "1.2.0",
        "model_version": world.candidate.model_version_id,
        "prompt_template": "{nonsense}",
        "max_tokens": 16,
        "temperature": 0,
        "top_p": 1,
    }
    answer = as_role("engineer").post(reverse("inference:release_create"), body)
    assert answer.status_code == 422
    assert answer.context["form"].errors.get("prompt_template"), answer.context["form"].errors


def gate_body(*criteria: dict[str, Any], step: str = "save", **fields: Any) -> dict[str, Any]:
    """What the gate form posts."""
    body = {
        "title": "My gate",
        "slug": "mine",
        "alpha": "0.05",
        "step": step,
        "criteria-TOTAL_FORMS": str(len(criteria)),
        "criteria-INITIAL_FORMS": "0",
        **fields,
    }
    defaults = {
        "metric": "accuracy",
        "dataset": "questions",
        "rule_type": "non_inferiority",
        "threshold": "0.05",
        "severity": "blocking",
        "sample_size": "100",
        "power": "0.8",
        "area": "quality",
        "max_age_days": "30",
        "owner_role": "engineer",
    }
    for index, criterion in enumerate(criteria):
        body |= {f"criteria-{index}-{name}": value for name, value in {**defaults, **criterion}.items()}
    return body


def test_gate_form_makes_a_gate_without_script(world: World, as_role: Callable[[str], TenantClient]) -> None:
    client = as_role("engineer")
    url = reverse("inference:gate_create")
    added = client.post(url, gate_body({}, step="add"))
    assert added.context["forms"].total_form_count() == 2 and "0.05" in added.content.decode()
    assert client.post(url, gate_body({}, {"metric": "nll_gold"})).status_code == 302
    gate = Gate.objects.get(slug="mine")
    assert [c.metric for c in gate.criteria.all()] == ["accuracy", "nll_gold"]


def test_gate_edit_makes_the_next_version_and_none_when_nothing_changed(
    world: World, as_role: Callable[[str], TenantClient]
) -> None:
    client = as_role("engineer")
    client.post(reverse("inference:gate_create"), gate_body({}))
    url = reverse("inference:gate_edit", args=["mine"])
    client.post(url, gate_body({}))
    assert Gate.objects.filter(slug="mine").count() == 1
    client.post(url, gate_body({"threshold": "0.03"}))
    assert Gate.objects.filter(slug="mine").latest("version").criteria.get().rule["margin"] == 0.03


def test_gate_form_shows_power_and_places_errors(
    world: World, as_role: Callable[[str], TenantClient]
) -> None:
    client = as_role("engineer")
    url = reverse("inference:gate_create")
    preview = client.post(url, gate_body({}, step="preview"))
    assert "an equal candidate passes the margin" in preview.content.decode()
    refused = client.post(url, gate_body({"metric": "exact_match"}, {"threshold": "-1"}))
    assert refused.status_code == 422
    forms = list(refused.context["forms"])
    assert forms[0].errors["metric"] and forms[1].errors["threshold"]


def test_dataset_import_reports_rows_and_imports_nothing(as_role: Callable[[str], TenantClient]) -> None:
    from django.core.files.uploadedfile import SimpleUploadedFile

    client = as_role("engineer")
    bad = SimpleUploadedFile(
        "mine.jsonl", b'{"id": "a", "question": "Q?", "choices": ["x", "y"], "answer": 7}\n'
    )
    answer = client.post(reverse("inference:dataset_import"), {"slug": "mine", "file": bad})
    assert answer.status_code == 422 and "answer" in answer.content.decode()
    assert not Dataset.objects.filter(slug="mine").exists()
    good = SimpleUploadedFile(
        "mine.jsonl", b'{"id": "a", "question": "Q?", "choices": ["x", "y"], "answer": 1}\n'
    )
    done = client.post(reverse("inference:dataset_import"), {"slug": "mine", "file": good})
    assert done.status_code == 302
    assert Dataset.objects.get(slug="mine").versions.get().item_count == 1
