"""Importing datasets: versions, reuse, refusals, limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import DatabaseError, transaction
from django_tenants.utils import schema_context

from core.errors import Forbidden
from core.security.actor import SYSTEM, use_actor
from inference.errors import DatasetInvalid, DatasetNotFound
from inference.models import Dataset, DatasetItem, DatasetVersion
from inference.selectors import dataset_items, dataset_version_get
from inference.services import dataset_import, dataset_import_public
from tenants.models import Plan
from tenants.resolver import forget

GOOD = b'{"id": "a", "text": "One two three.", "slices": ["x"]}\n{"id": "b", "text": "Four five."}\n'


@pytest.fixture(autouse=True)
def _as_signoff(db: None) -> Iterator[None]:
    with use_actor(SYSTEM):
        yield


def test_a_file_becomes_the_first_version_with_splits_and_slices() -> None:
    imported = dataset_import(slug="mine", file=GOOD, format="jsonl", name="Mine", licence="CC0-1.0")
    version = imported.version
    assert imported.created and (version.version, version.item_count) == (1, 2)
    assert version.splits == {"test": 2} and version.slices["x"] == 1
    assert (version.dataset.name, version.dataset.kind, version.dataset.licence) == (
        "Mine",
        "text",
        "CC0-1.0",
    )
    assert [item.key for item in dataset_items(version, slice_name="x")] == ["a"]


def test_the_same_content_gives_the_version_that_is_there_in_any_order_and_format() -> None:
    first = dataset_import(slug="mine", file=GOOD, format="jsonl").version
    turned = b"\n".join(reversed(GOOD.strip().split(b"\n")))
    again = dataset_import(slug="mine", file=turned, format="jsonl")
    csv = dataset_import(
        slug="mine", file=b'id,text,slices\na,One two three.,"[""x""]"\nb,Four five.,\n', file_name="m.csv"
    )
    assert again.version.pk == csv.version.pk == first.pk and not again.created and not csv.created


def test_other_content_is_the_next_version_and_the_old_one_stays() -> None:
    first = dataset_import(slug="mine", file=GOOD, format="jsonl").version
    second = dataset_import(slug="mine", file=GOOD + b'{"id": "c", "text": "Six."}', format="jsonl").version
    assert (second.version, second.item_count, first.items.count()) == (2, 3, 2)
    assert dataset_version_get("mine").pk == second.pk and dataset_version_get("mine", 1).pk == first.pk


def test_row_errors_are_listed_and_nothing_is_imported() -> None:
    bad = b'{"id": "a", "text": "fine"}\n{"id": "a", "text": "again"}\n{"text": 5}\nnot json\n'
    with pytest.raises(DatasetInvalid) as refused:
        dataset_import(slug="mine", file=bad, format="jsonl", kind="text")
    rows: Any = refused.value.extra["rows"]
    assert [(row["row"], row["field"]) for row in rows] == [(2, "id"), (3, "text"), (4, "")]
    assert refused.value.extra["row_errors"] == 3 and refused.value.fields["file"]
    assert not Dataset.objects.exists() and not DatasetItem.objects.exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"slug": "Not A Slug"}, "slug"),
        ({"slug": ""}, "slug"),
        ({"kind": "poem"}, "kind"),
        ({"format": "xlsx"}, "format"),
        ({"name": "x" * 121}, "name"),
        ({"source": "a\x00b"}, "source"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_fields_are_named(change: dict[str, str], field: str) -> None:
    with pytest.raises(DatasetInvalid) as refused:
        dataset_import(**{"slug": "mine", "file": GOOD, "format": "jsonl", **change})
    assert field in refused.value.fields and not Dataset.objects.exists()


def test_a_dataset_keeps_its_kind() -> None:
    dataset_import(slug="mine", file=GOOD, format="jsonl")
    with pytest.raises(DatasetInvalid) as refused:
        dataset_import(slug="mine", file=GOOD, format="jsonl", kind="reference")
    assert "kind" in refused.value.fields
    with pytest.raises(DatasetInvalid):
        dataset_import(slug="mine", file=b'{"prompt": "p", "reference": "r"}', format="jsonl")


def test_the_plans_limit_on_items_holds(alpha: Any) -> None:
    with schema_context("public"):
        Plan.objects.filter(pk=alpha.plan_id).update(max_dataset_items=1)
        forget()
    with pytest.raises(DatasetInvalid, match="allows 1 item"):
        dataset_import(slug="mine", file=GOOD, format="jsonl")
    assert not DatasetVersion.objects.exists()


def test_items_cannot_be_changed_or_removed() -> None:
    dataset_import(slug="mine", file=GOOD, format="jsonl")
    for change in (
        lambda: DatasetItem.objects.update(split="train"),
        lambda: DatasetItem.objects.all().delete(),
    ):
        with pytest.raises(DatabaseError), transaction.atomic():
            change()


def test_an_auditor_cannot_import(acting: Any, bob: Any) -> None:
    acting(bob)
    with pytest.raises(Forbidden):
        dataset_import(slug="mine", file=GOOD, format="jsonl")


def test_a_public_dataset_comes_from_its_package() -> None:
    imported = dataset_import_public(slug="openbookqa")
    assert imported.created and imported.version.item_count > 300
    assert imported.version.dataset.licence and imported.version.dataset.kind == "multiple_choice"
    assert not dataset_import_public(slug="openbookqa").created
    with pytest.raises(DatasetNotFound, match="piqa"):
        dataset_import_public(slug="nonsense")
