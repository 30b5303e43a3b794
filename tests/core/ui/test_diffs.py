"""Differences can be read back to both sides."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.ui.diffs import Change, diff_structures, diff_words, flatten

leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=6)
structures = st.recursive(
    leaves,
    lambda child: (
        st.lists(child, max_size=3)
        | st.dictionaries(st.text("abc", min_size=1, max_size=3), child, max_size=3)
    ),
    max_leaves=8,
)


@given(st.text(max_size=60), st.text(max_size=60))
def test_word_diff_joins_to_both_texts(before: str, after: str) -> None:
    pieces = diff_words(before, after)
    assert "".join(p.text for p in pieces if p.kind != "ins") == before
    assert "".join(p.text for p in pieces if p.kind != "del") == after


@given(structures)
def test_a_structure_does_not_differ_from_itself(value) -> None:
    assert diff_structures(value, value) == []


@given(structures, structures)
def test_structure_diff_names_exactly_the_paths_that_differ(before, after) -> None:
    left, right = flatten(before), flatten(after)
    changed = {c.path for c in diff_structures(before, after)}
    assert changed == {path for path in {*left, *right} if left.get(path) != right.get(path)}


def test_structure_diff_by_hand() -> None:
    before = {"decoding": {"temperature": 0.0}, "stop": ["a"]}
    after = {"decoding": {"temperature": 0.0, "top_p": 0.9}, "stop": ["b"]}
    assert diff_structures(before, after) == [
        Change("stop[0]", "a", "b"),
        Change("decoding.top_p", None, "0.9"),
    ]
