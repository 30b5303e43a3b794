"""Datasets from users' files: good rows become items, bad ones are named, and nothing hostile breaks the
reader."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.data.parsing import DatasetRefused, Limits, parse_csv, parse_dataset, parse_jsonl
from inference.data.schema import GenerationItem, ItemKind, MultipleChoiceItem, ReferenceItem, TextItem

MC = {"id": "q1", "question": "Which?", "choices": ["red", "blue"], "answer": 1}


def jsonl(*rows: Any) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


@pytest.mark.parametrize(
    ("row", "item"),
    [
        (MC, MultipleChoiceItem("q1", "Which?", ("red", "blue"), 1)),
        ({**MC, "answer": "blue"}, MultipleChoiceItem("q1", "Which?", ("red", "blue"), 1)),
        ({**MC, "answer": "B"}, MultipleChoiceItem("q1", "Which?", ("red", "blue"), 1)),
        (
            {**MC, "context": "A sky.", "slices": ["easy"], "split": "validation"},
            MultipleChoiceItem("q1", "Which?", ("red", "blue"), 1, "A sky.", ("easy",), "validation"),
        ),
        ({"id": 7, "prompt": "Say", "answers": ["a", "b"]}, GenerationItem("7", "Say", ("a", "b"))),
        ({"id": "g", "question": "Say", "answer": "a"}, GenerationItem("g", "Say", ("a",))),
        ({"id": "t", "text": "Words."}, TextItem("t", "Words.")),
        ({"id": "r", "prompt": "Sum", "reference": "Short."}, ReferenceItem("r", "Sum", "Short.")),
    ],
    ids=[
        "index",
        "text",
        "letter",
        "all fields",
        "number id",
        "question and answer",
        "text kind",
        "reference",
    ],
)
def test_a_good_row_becomes_its_item(row: dict[str, Any], item: Any) -> None:
    parsed = parse_jsonl(jsonl(row))
    assert parsed.ok, parsed.errors
    assert parsed.items == [item]
    assert parsed.kind is item.kind


@pytest.mark.parametrize(
    ("row", "field", "words"),
    [
        ({**MC, "answer": 2}, "answer", "outside the 2 choices"),
        ({**MC, "answer": -1}, "answer", "outside"),
        ({**MC, "answer": True}, "answer", "true or false"),
        ({**MC, "answer": "green"}, "answer", "none of the choices"),
        ({**MC, "choices": ["red"]}, "choices", "at least 2"),
        ({**MC, "choices": ["red", "red"]}, "choices", "same text"),
        ({**MC, "choices": ["red", 5]}, "choices", "not a text"),
        ({**MC, "question": "  "}, "question", "empty"),
        ({**MC, "question": None}, "question", "missing"),
        ({**MC, "question": 3}, "question", "a number"),
        ({**MC, "id": "x" * 121}, "id", "121 characters"),
        ({**MC, "question": "a\x00b"}, "question", "NUL"),
        ({**MC, "slices": "s" * 81}, "slices", "81 characters"),
        ({**MC, "slice": "easy"}, "slice", "Did you mean slices"),
    ],
)
def test_a_bad_field_is_named_with_its_row(row: dict[str, Any], field: str, words: str) -> None:
    parsed = parse_jsonl(jsonl({**MC, "id": "good"}, row))
    assert not parsed.ok and parsed.items == []
    (error,) = parsed.errors
    assert (error.row, error.field.strip("“”")) == (2, field)
    assert words in str(error)
    assert error.cure


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{not json}", "not JSON"),
        (b"[1, 2]x", "not JSON"),
        (b'"text"', "a text, not an object"),
        (b'{"text": NaN}', "NaN"),
        (b'{"text": "a", "text": "b"}', "twice"),
        (b'{"text": "\\ud800"}', "surrogate"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b'{"text": ' + b"9" * 5000 + b"}", "too long"),
        (b'{"text": ' + b"[" * 50_000 + b"}", "nested too deeply|not JSON"),
    ],
)
def test_a_line_that_is_no_row_is_an_error_of_that_row(line: bytes, words: str) -> None:
    import re

    parsed = parse_jsonl(jsonl({"text": "fine"}) + b"\n" + line + b"\n" + jsonl({"text": "also fine"}))
    assert [error.row for error in parsed.errors] == [2]
    assert re.search(words, str(parsed.errors[0]))


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"], ids=["empty", "blank", "only a mark"])
@pytest.mark.parametrize("parse", [parse_jsonl, parse_csv])
def test_an_empty_file_is_refused(parse: Any, content: bytes) -> None:
    with pytest.raises(DatasetRefused, match="no row"):
        parse(content).raise_if_refused()


def test_a_header_without_rows_is_refused() -> None:
    with pytest.raises(DatasetRefused, match="no row"):
        parse_csv(b"id,text\n").raise_if_refused()


def test_repeated_ids_are_refused_with_both_rows() -> None:
    parsed = parse_jsonl(jsonl(MC, {**MC, "question": "Other?"}))
    assert str(parsed.errors[0]) == (
        "Row 2, field id: The id “q1” was used in row 1. Give every row an id of its own."
    )


def test_rows_without_id_get_one_from_their_content() -> None:
    first, second = {"text": "One."}, {"text": "Two."}
    forwards, backwards = parse_jsonl(jsonl(first, second)), parse_jsonl(jsonl(second, first))
    assert {i.id for i in forwards.items} == {i.id for i in backwards.items}
    assert "says the same as row 1" in str(parse_jsonl(jsonl(first, first)).errors[0])


def test_all_errors_are_counted_and_the_first_ones_listed() -> None:
    parsed = parse_jsonl(
        jsonl(*[{**MC, "id": str(i), "answer": 9} for i in range(80)]), limits=Limits(errors=10)
    )
    assert (parsed.total_errors, len(parsed.errors), parsed.rows) == (80, 10, 80)


def test_a_row_over_the_limit_is_one_error_and_reading_goes_on() -> None:
    rows = jsonl({"text": "a"}) + b"\n" + jsonl({"text": "b" * 5000}) + b"\n" + jsonl({"text": "c"})
    parsed = parse_jsonl(rows, limits=Limits(row_bytes=1000))
    assert [error.row for error in parsed.errors] == [2]
    assert parsed.rows == 3


def test_too_many_rows_and_too_many_bytes_are_refused() -> None:
    rows = jsonl(*[{"text": f"row {i}"} for i in range(20)])
    assert "more than 10 rows" in str(parse_jsonl(rows, limits=Limits(rows=10)).errors[0])
    assert "larger than 100 bytes" in str(parse_jsonl(rows, limits=Limits(total_bytes=100)).errors[0])


def test_fields_of_the_users_own_are_left_out_and_reported() -> None:
    parsed = parse_jsonl(jsonl({**MC, "annotator": "x"}, {**MC, "id": "q2", "annotator": "y"}))
    assert parsed.ok
    assert parsed.ignored_fields == {"annotator": 2}


@pytest.mark.parametrize(
    "content",
    [
        'id,question,choices,answer\nq1,Which?,"[""red"", ""blue""]",1\n',
        '\ufeffid,question,choices,answer\nq1,Which?,"[""red"", ""blue""]",B\n',
        "id;question;choice_a;choice_b;answer\nq1;Which?;red;blue;blue\n",
        "ID\tQuestion\tchoice_0\tchoice_1\tAnswer\r\nq1\tWhich?\tred\tblue\t1\r\n",
        "\n\nid|question|choice_1|choice_2|answer\nq1|Which?|red|blue|B\n\n",
    ],
    ids=["json list", "mark and letter", "semicolon", "tab and CRLF", "bar and blank lines"],
)
def test_csv_says_the_same_as_jsonl(content: str) -> None:
    parsed = parse_csv(content.encode())
    assert parsed.ok, parsed.errors
    assert parsed.items == parse_jsonl(jsonl(MC)).items
    assert parsed.digest == parse_jsonl(jsonl(MC)).digest


def test_csv_fields_may_hold_line_breaks_quotes_and_separators() -> None:
    parsed = parse_csv(b'id,text\n1,"two\nlines, a ""quote"" and a comma"\n')
    assert parsed.items == [TextItem("1", 'two\nlines, a "quote" and a comma')]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'id,text\n1,"never closed\n2,x\n', "cannot be read"),
        (b"id,text\n1,a,b\n", "3 fields, the header 2"),
        (b"id,text,text\n1,a,b\n", "twice"),
        (b"id,text\n1,\xff\n", "not UTF-8"),
        (b"\xff\xfei\x00d\x00", "UTF-16"),
        (b"PK\x03\x04....", "compressed"),
        (b"colour,size\nred,2\n", "no kind"),
        (b"id,question,choice_a,choice_b,answer\n1,q,1,0,1\n", "the index of another"),
        (b"id,question,choice_a,choice_c,answer\n1,q,x,y,0\n", "between two others"),
    ],
)
def test_a_broken_csv_says_what_is_wrong(content: bytes, words: str) -> None:
    parsed = parse_csv(content)
    assert not parsed.ok
    assert words in str(parsed.errors[0])


def test_an_unclosed_quote_does_not_swallow_the_file() -> None:
    content = b'id,text\n1,"open\n' + b"2,line\n" * 10_000
    parsed = parse_csv(content, limits=Limits(row_bytes=2000))
    assert "quote" in str(parsed.errors[0])


def test_a_json_array_is_explained() -> None:
    assert "one JSON array" in str(parse_jsonl(b'[{"text": "a"}]').errors[0])


def test_the_file_name_decides_the_format() -> None:
    assert parse_dataset(jsonl(MC), file_name="Set.JSONL").ok
    assert parse_dataset(b"id,text\n1,a\n", file_name="set.csv").ok
    assert "does not end in" in str(parse_dataset(b"x", file_name="set.xlsx").errors[0])


def test_a_declared_kind_wins_over_guessing() -> None:
    parsed = parse_jsonl(jsonl({"text": "a"}), kind=ItemKind.REFERENCE)
    assert parsed.errors[0].field == "prompt"
    assert "is not a kind" in str(parse_jsonl(b"{}", kind="nonsense").errors[0])


@given(st.binary(max_size=400))
def test_any_bytes_end_in_items_or_errors(content: bytes) -> None:
    for parsed in (parse_jsonl(content), parse_csv(content), parse_csv(b"id,text\n" + content)):
        assert bool(parsed.items) != bool(parsed.total_errors)
        assert all(str(error).isprintable() for error in parsed.errors)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    "id",
    "question",
    "choices",
    "answer",
    "answers",
    "prompt",
    "text",
    "reference",
    "slices",
    "split",
    "context",
]


@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=8), max_size=4))
def test_any_values_in_known_fields_end_in_items_or_errors(rows: list[dict[str, Any]]) -> None:
    parsed = parse_jsonl(io.BytesIO(jsonl(*rows)))
    assert bool(parsed.items) != bool(parsed.total_errors)
    for item in parsed.items:
        assert 0 < len(item.id) <= 120
        "".join((item.id, item.main_text)).encode()


@given(st.text(max_size=40).filter(lambda text: bool(text.strip()) and "\x00" not in text))
def test_text_survives_jsonl_and_csv_unchanged(text: str) -> None:
    import csv as csv_module

    out = io.StringIO()
    csv_module.writer(out, quoting=csv_module.QUOTE_ALL).writerows([["id", "text"], ["1", text]])
    from_csv = parse_csv(out.getvalue().encode()).items
    from_jsonl = parse_jsonl(jsonl({"id": "1", "text": text})).items
    assert from_csv == from_jsonl == [TextItem("1", text)]
