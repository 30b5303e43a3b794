"""The commands: answers, exit codes, one clear line for a refusal."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection

from core.evidence.models import Run
from inference.models import DatasetVersion, ModelVersion, Release

GOOD = '{"id": "a", "text": "One two three."}\n{"id": "b", "text": "Four five."}\n'


@pytest.fixture(autouse=True)
def _database(db: None) -> None:
    """In alpha."""


def _call(*arguments: str) -> tuple[Any, str]:
    out, err = StringIO(), StringIO()
    call_command(*arguments, "--tenant", "alpha", "--json", stdout=out, stderr=err)
    return json.loads(out.getvalue()), err.getvalue()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "My texts.jsonl"
    path.write_text(GOOD)
    return path


def _model() -> ModelVersion:
    return ModelVersion.objects.create(name="Tiny", digest="sha256:" + "b" * 64)


def test_a_dataset_is_imported_once(file: Path) -> None:
    answer, noise = _call("dataset_import", str(file))
    again, _ = _call("dataset_import", str(file))
    assert answer["dataset"] == "my-texts" and answer["items"] == 2 and answer["created"] and noise == ""
    assert not again["created"] and DatasetVersion.objects.count() == 1
    assert connection.schema_name == "alpha"


def test_row_errors_are_told_line_by_line_and_nothing_is_imported(file: Path) -> None:
    file.write_text(GOOD + '{"id": "b", "text": ""}\n')
    err = StringIO()
    with pytest.raises(CommandError, match="Nothing was imported"):
        call_command("dataset_import", str(file), "--tenant", "alpha", stdout=StringIO(), stderr=err)
    assert "row 3" in err.getvalue() and not DatasetVersion.objects.exists()


def test_a_release_and_its_product_are_added_and_a_run_started(file: Path) -> None:
    model = _model()
    _call("dataset_import", str(file), "--slug", "texts")
    release, _ = _call(
        *("release_create", "--product", "p", "--product-name", "P", "--release", "1.0.0", "--model", "Tiny"),
        *("--config", '{"decoding": {"max_tokens": 3}}'),
    )
    assert Release.objects.get().config["decoding"]["max_tokens"] == 3 and release["model"] == model.digest

    started, _ = _call("run_start", "--release", "p/1.0.0", "--dataset", "texts", "--sample", "1")
    again, _ = _call("run_start", "--release", "1.0.0", "--dataset", "texts", "--sample", "1")

    assert (
        started["created"] and started["status"] == "queued" and started["items"] == {"done": 0, "total": 1}
    )
    assert again["id"] == started["id"] and not again["created"]
    assert Run.objects.get().requested_by_label == "command line"


@pytest.mark.parametrize(
    "arguments",
    [
        ["dataset_import", "missing.jsonl"],
        ["dataset_import"],
        ["dataset_import", "--public", "nonsense"],
        ["model_register", "/no/such/directory"],
        ["model_register"],
        ["model_transform", "nobody", "add_noise", "sigma=1"],
        ["release_create", "--product", "p", "--release", "1.0.0", "--model", "nobody"],
        ["release_create", "--product", "p", "--release", "1.0.0", "--model", "Tiny", "--config", "{"],
        ["run_start", "--release", "9.9.9", "--dataset", "texts"],
    ],
    ids=lambda arguments: " ".join(arguments)[:50],
)
def test_a_refusal_is_one_sentence(arguments: list[str]) -> None:
    _model()
    with pytest.raises(CommandError) as refused:
        call_command(*arguments, "--tenant", "alpha", stdout=StringIO(), stderr=StringIO())
    assert str(refused.value).strip() and "\n" not in str(refused.value)


def test_an_unknown_tenant_is_told_who_there_is(file: Path) -> None:
    with pytest.raises(CommandError, match="alpha"):
        call_command("dataset_import", str(file), "--tenant", "nowhere", stdout=StringIO(), stderr=StringIO())
