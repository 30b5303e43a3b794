"""Digest, sampling order and slices of datasets."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.data.schema import (
    GenerationItem,
    Item,
    MultipleChoiceItem,
    TextItem,
    dataset_digest,
    item_as_dict,
    item_from_dict,
    length_bucket,
    sample_items,
    sample_order,
    slices_of,
)

ITEMS: list[Item] = [TextItem(f"t{i}", f"text number {i}") for i in range(200)]


def test_the_digest_ignores_the_order_of_rows() -> None:
    assert dataset_digest("text", ITEMS) == dataset_digest("text", ITEMS[::-1])


@pytest.mark.parametrize(
    "change", [{"id": "other"}, {"text": "Other."}, {"split": "train"}, {"slices": ("s",)}], ids=str
)
def test_the_digest_changes_with_any_field(change: dict[str, object]) -> None:
    changed = [replace(ITEMS[0], **change), *ITEMS[1:]]  # type: ignore[arg-type]
    assert dataset_digest("text", changed) != dataset_digest("text", ITEMS)


def test_fields_cannot_be_shifted_into_each_other() -> None:
    one = GenerationItem("a", "b", ("c", "d"))
    other = GenerationItem("a", "b", ("c,d",))
    assert dataset_digest("generation", [one]) != dataset_digest("generation", [other])


def test_a_larger_sample_contains_the_smaller() -> None:
    small, large = sample_items(ITEMS, n=20, seed=3), sample_items(ITEMS, n=90, seed=3)
    assert large[:20] == small


def test_a_sample_depends_on_the_seed_and_not_on_the_files_order() -> None:
    assert sample_items(ITEMS, n=30, seed=1) == sample_items(ITEMS[::-1], n=30, seed=1)
    assert sample_items(ITEMS, n=30, seed=1) != sample_items(ITEMS, n=30, seed=2)
    assert len(sample_items(ITEMS, n=1000, seed=1)) == 200


def test_removing_an_item_leaves_the_order_of_the_others() -> None:
    order = sample_order(ITEMS, seed=9)
    assert sample_order([i for i in ITEMS if i != order[0]], seed=9) == order[1:]


def test_every_tenth_of_the_ids_is_drawn_about_equally_often() -> None:
    drawn = {int(item.id[1:]) // 100 for seed in range(20) for item in sample_items(ITEMS, n=3, seed=seed)}
    assert drawn == {0, 1}


@pytest.mark.parametrize(
    ("words", "bucket"),
    [
        (1, "short"),
        (15, "short"),
        (16, "medium"),
        (63, "medium"),
        (64, "long"),
        (255, "long"),
        (256, "very-long"),
    ],
)
def test_length_buckets_start_where_documented(words: int, bucket: str) -> None:
    assert length_bucket(TextItem("a", "word " * words)) == bucket


def test_slices_are_declared_ones_then_computed_ones() -> None:
    item = MultipleChoiceItem("a", "q", ("x", "y", "z"), 0, slices=("legal", "length:short"))
    assert slices_of(item) == ("legal", "length:short", "choices:3")


@given(st.text(), st.lists(st.text(), min_size=1), st.text())
def test_items_survive_the_way_through_json(prompt: str, answers: list[str], context: str) -> None:
    item = GenerationItem("a", prompt, tuple(answers), context, ("s",), "train")
    assert item_from_dict("generation", item_as_dict(item)) == item
