"""The four kinds of dataset item and their canonical form. Documented for users in docs/datasets.md."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

DEFAULT_SPLIT = "test"


class ItemKind(StrEnum):
    """What an item asks of a model, and so which scorer measures it."""

    MULTIPLE_CHOICE = "multiple_choice"
    GENERATION = "generation"
    TEXT = "text"
    REFERENCE = "reference"


@dataclass(frozen=True, slots=True)
class MultipleChoiceItem:
    """A question with one right choice; ``answer`` is the index of it, from 0. ``context`` is an optional
    passage."""

    kind: ClassVar[ItemKind] = ItemKind.MULTIPLE_CHOICE
    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    context: str = ""
    slices: tuple[str, ...] = ()
    split: str = DEFAULT_SPLIT

    @property
    def main_text(self) -> str:
        return self.question


@dataclass(frozen=True, slots=True)
class GenerationItem:
    """A prompt and every answer accepted after normalisation (lower case, no punctuation, no articles)."""

    kind: ClassVar[ItemKind] = ItemKind.GENERATION
    id: str
    prompt: str
    answers: tuple[str, ...]
    context: str = ""
    slices: tuple[str, ...] = ()
    split: str = DEFAULT_SPLIT

    @property
    def main_text(self) -> str:
        return self.prompt


@dataclass(frozen=True, slots=True)
class TextItem:
    """Plain text whose NLL is a canary for damage. No template is applied to it."""

    kind: ClassVar[ItemKind] = ItemKind.TEXT
    id: str
    text: str
    slices: tuple[str, ...] = ()
    split: str = DEFAULT_SPLIT

    @property
    def main_text(self) -> str:
        return self.text

    @property
    def context(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class ReferenceItem:
    """A prompt and a text written by people (a summary, say) whose NLL after that prompt is measured."""

    kind: ClassVar[ItemKind] = ItemKind.REFERENCE
    id: str
    prompt: str
    reference: str
    context: str = ""
    slices: tuple[str, ...] = ()
    split: str = DEFAULT_SPLIT

    @property
    def main_text(self) -> str:
        return self.prompt


Item = MultipleChoiceItem | GenerationItem | TextItem | ReferenceItem

ITEM_TYPES: dict[ItemKind, type[Item]] = {
    ItemKind.MULTIPLE_CHOICE: MultipleChoiceItem,
    ItemKind.GENERATION: GenerationItem,
    ItemKind.TEXT: TextItem,
    ItemKind.REFERENCE: ReferenceItem,
}


def item_as_dict(item: Item) -> dict[str, Any]:
    """The item as JSON-able values, every field present, tuples as lists. ``kind`` is not part of it."""
    out: dict[str, Any] = {}
    for name in type(item).__dataclass_fields__:
        if name == "kind":
            continue
        value = getattr(item, name)
        out[name] = list(value) if isinstance(value, tuple) else value
    return out


def item_from_dict(kind: ItemKind | str, data: Mapping[str, Any]) -> Item:
    """The inverse of ``item_as_dict``, for rows we stored ourselves. For users' rows use
    ``inference.data.parsing``."""
    cls = ITEM_TYPES[ItemKind(kind)]
    values = {name: data[name] for name in cls.__dataclass_fields__ if name != "kind" and name in data}
    for name, value in values.items():
        if isinstance(value, list):
            values[name] = tuple(value)
    return cls(**values)


def canonical_json(value: Any) -> bytes:
    """One byte string per JSON value: sorted keys, no spaces, UTF-8, no NaN. Used for every digest of
    data."""
    return json.dumps(
        value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    ).encode()


def item_digest(item: Item) -> str:
    """sha256 (hex) of kind and canonical content, id, split and declared slices included."""
    return hashlib.sha256(canonical_json({"kind": item.kind.value, **item_as_dict(item)})).hexdigest()


def dataset_digest(kind: ItemKind | str, items: Iterable[Item]) -> str:
    """``sha256:<hex>`` of a dataset version.

    Independent of the order of rows and of the file format: it hashes the kind and the sorted item digests.
    Ids are unique in a dataset, so sorting loses nothing. Computed slices (length buckets) are not part of
    it.
    """
    digest = hashlib.sha256(f"signoff-dataset-1\n{ItemKind(kind).value}\n".encode())
    for line in sorted(item_digest(item) for item in items):
        digest.update(line.encode() + b"\n")
    return f"sha256:{digest.hexdigest()}"


def sample_order(items: Sequence[Item], *, seed: int) -> list[Item]:
    """Items in the seed's order: by sha256 of (seed, id), so it depends on neither file order nor the other
    items."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{seed}\n{item.id}".encode()).digest())


def sample_items(items: Sequence[Item], *, n: int, seed: int) -> list[Item]:
    """The first ``n`` of ``sample_order`` (all when n exceeds them): a larger n contains every smaller
    one."""
    if n < 0:
        raise ValueError(f"n must not be negative, got {n}.")
    return sample_order(items, seed=seed)[:n]


# Words of the main text (and context) at which the next bucket starts. Fixed, so a slice means the same in
# every set.
LENGTH_BUCKETS = ((0, "short"), (16, "medium"), (64, "long"), (256, "very-long"))


def length_bucket(item: Item) -> str:
    """short (under 16 words), medium (16-63), long (64-255) or very-long (256 and more)."""
    words = len(item.main_text.split()) + len(item.context.split())
    return [name for start, name in LENGTH_BUCKETS if words >= start][-1]


def slices_of(item: Item) -> tuple[str, ...]:
    """Every slice the item belongs to: those its row declares, then the computed ``length:`` (and
    ``choices:``)."""
    computed = [f"length:{length_bucket(item)}"]
    if isinstance(item, MultipleChoiceItem):
        computed.append(f"choices:{len(item.choices)}")
    return tuple(dict.fromkeys([*item.slices, *computed]))
