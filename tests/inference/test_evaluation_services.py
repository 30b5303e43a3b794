"""Evaluations end to end with the real (packaged) model, in this process."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from core.evidence.models import Run
from core.evidence.services import run_execute
from core.security.actor import SYSTEM, use_actor
from inference.models import DatasetVersion, ModelVersion, Release
from inference.services import (
    dataset_import,
    evaluation_request,
    evaluation_start,
    model_register_packaged,
    model_transform,
    product_create,
    release_create,
)

pytestmark = pytest.mark.model


@pytest.fixture(autouse=True)
def _as_signoff(db: None) -> Iterator[None]:
    with use_actor(SYSTEM):
        yield


@pytest.fixture
def packaged(model_store: Any) -> ModelVersion:
    return model_register_packaged().model_version


@pytest.fixture
def release(packaged: ModelVersion) -> Release:
    product = product_create(slug="assistant", name="Assistant")
    return release_create(
        product=product,
        version="1.0.0",
        model_version=packaged,
        config={"prompt": {"template": "Question: {input}\nAnswer:"}},
    )


def _questions(count: int) -> DatasetVersion:
    lines = [
        json.dumps(
            {
                "id": f"q{number}",
                "question": f"What comes after {number}?",
                "choices": [str(number + 1), "a purple tree", str(number + 7)],
                "answer": 0,
                "slices": ["odd" if number % 2 else "even"],
            }
        )
        for number in range(count)
    ]
    return dataset_import(
        slug="after", kind="multiple_choice", file="\n".join(lines).encode(), format="jsonl"
    ).version


def test_an_evaluation_measures_quality_latency_cost_and_slices(release: Release) -> None:
    version = _questions(12)
    run = evaluation_start(
        release=release,
        dataset_version=version,
        sample_size=10,
        seed=3,
        latency_items=2,
        latency_max_tokens=4,
    )

    assert run_execute(run_id=run.pk) == "succeeded", Run.objects.get(pk=run.pk).error_detail

    run.refresh_from_db()
    measured = {(row.metric, row.slice): row for row in run.measurements.all()}
    accuracy = measured["accuracy", ""]
    assert accuracy.n == 10 and 0 <= accuracy.low <= accuracy.value <= accuracy.high <= 1
    assert measured["nll_gold", ""].unit == "nats/token" and measured["nll_gold", ""].low > 0
    assert measured["accuracy", "even"].n + measured["accuracy", "odd"].n == 10
    assert measured["latency_ms", ""].n == 2 and measured["latency_ms_p95", ""].high is None
    timed = [item for item in run.items.all() if item.latency_ms is not None]
    cost = math.fsum(item.metrics["cost_usd"] for item in timed) / 2
    assert measured["cost_usd", ""].value == pytest.approx(cost)
    assert [item.ordinal for item in timed] == [0, 1]
    assert run.environment["engine"] == "torch" and run.environment["dtype"] in {"bfloat16", "float32"}
    assert run.summary["items"] == 10 and run.summary["compute_s"] > 0


def test_the_same_evaluation_is_reused_and_another_seed_is_not(release: Release) -> None:
    version = _questions(6)
    first = evaluation_request(release=release, dataset_version=version, sample_size=4, seed=1)
    again = evaluation_request(release=release, dataset_version=version, sample_size=4, seed=1)
    other = evaluation_request(release=release, dataset_version=version, sample_size=4, seed=2)
    assert first.run.pk == again.run.pk and not again.created and other.created


def test_two_releases_meet_the_same_items_and_damage_shows(release: Release, packaged: ModelVersion) -> None:
    broken, made = model_transform(
        parent=packaged, transform="quantize_rtn", params={"bits": 2, "group_size": 64}
    )
    assert (
        made
        and broken.parent_id == packaged.pk
        and broken.transform["params"] == {"bits": 2, "group_size": 64}
    )
    again, made_again = model_transform(
        parent=packaged, transform="quantize_rtn", params={"bits": 2, "group_size": 64}
    )
    assert again.pk == broken.pk and not made_again
    candidate = release_create(
        product=release.product, version="1.1.0", model_version=broken, config=release.config
    )
    version = _questions(12)
    runs = [
        evaluation_start(release=one, dataset_version=version, sample_size=8, latency_items=0)
        for one in (release, candidate)
    ]
    assert [run_execute(run_id=run.pk) for run in runs] == ["succeeded"] * 2

    healthy, damaged = ({item.key: item.metrics["nll_gold"] for item in run.items.all()} for run in runs)
    assert healthy.keys() == damaged.keys() and len(healthy) == 8
    assert sum(damaged.values()) > sum(healthy.values())
    assert not runs[0].measurements.filter(metric__startswith="latency").exists()


def test_a_model_whose_files_are_gone_fails_the_run_with_a_sentence(
    release: Release, tmp_path: Any, settings: Any
) -> None:
    run = evaluation_start(release=release, dataset_version=_questions(3), latency_items=0)
    settings.MODEL_STORE = tmp_path
    assert run_execute(run_id=run.pk) == "failed"
    run.refresh_from_db()
    assert "Register it again" in run.error


def test_a_run_planned_under_other_scoring_code_is_refused(release: Release, monkeypatch: Any) -> None:
    run = evaluation_start(release=release, dataset_version=_questions(3), latency_items=0)
    monkeypatch.setattr("inference.executors.code_version", lambda: "sha256:newer")
    assert run_execute(run_id=run.pk) == "failed"
    run.refresh_from_db()
    assert "another version of the scoring code" in run.error
