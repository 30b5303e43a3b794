"""Prompt templates and decoding settings are checked once, where they are made."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.evaluation import (
    ConfigInvalid,
    DecodingConfig,
    Example,
    LatencyParams,
    PromptTemplate,
    ScoringParams,
)


@pytest.mark.parametrize(
    ("template", "text", "context", "rendered"),
    [
        ("{input}", "hi", "", "hi"),
        ("Q: {question}\nA:", "why?", "", "Q: why?\nA:"),
        ("{prompt}", "why?", "Because.", "Because.\n\nwhy?"),
        ("{context} | {input}", "why?", "Because.", "Because. | why?"),
        ("{{literal}} {input}", "x", "", "{literal} x"),
        ("{input}", "{context} {0.__class__}", "", "{context} {0.__class__}"),
    ],
)
def test_a_template_renders_the_item(template: str, text: str, context: str, rendered: str) -> None:
    assert PromptTemplate(template).render(text, context) == rendered


@pytest.mark.parametrize(
    "template",
    [
        "", "no placeholder", "{context}", "{", "{input", "}", "{input!r}", "{input:>10}", "{input.__class__}",
        "{input[0]}", "{0}", "{}", "{answer} {input}", "{input}\x00", "x" * 20_001 + "{input}",
    ],
)  # fmt: skip
def test_a_template_that_cannot_work_is_refused(template: str) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        PromptTemplate(template)
    assert "prompt_template" in refused.value.fields


def test_a_system_text_needs_chat() -> None:
    with pytest.raises(ConfigInvalid):
        PromptTemplate("{input}", system="Be brief.")


@given(st.text(max_size=30))
def test_any_template_works_or_is_refused(template: str) -> None:
    try:
        made = PromptTemplate(template)
    except ConfigInvalid:
        return
    assert "§" in made.render("§", "")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"stop": ("",)}, "stop"),
        ({"stop": "text"}, "stop"),
    ],
)
def test_a_wrong_decoding_value_is_named(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        DecodingConfig(**values)
    assert list(refused.value.fields) == [field]


def test_parameters_survive_the_way_through_json() -> None:
    params = ScoringParams(
        prompt=PromptTemplate("{input}", chat=True, system="Be brief."),
        decoding=DecodingConfig(stop=("\n", "##"), temperature=0.7, seed=4),
        examples=(Example("1+1", "2", "sums"),),
    )
    assert ScoringParams.from_dict(json.loads(json.dumps(params.as_dict()))) == params
    assert ScoringParams.from_dict({}) == ScoringParams()


@pytest.mark.parametrize(
    "data", [{"prompt": {"tempalte": "x"}}, {"decoding": {"stop": "x"}}, {"prompt": 3}, {"examples": [{}]}]
)
def test_unknown_or_misplaced_values_are_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ConfigInvalid):
        ScoringParams.from_dict(data)


def test_latency_parameters_have_limits() -> None:
    with pytest.raises(ConfigInvalid):
        LatencyParams(max_tokens=0)
