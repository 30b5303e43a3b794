"""Held-back text: whatever the pieces, the same text comes out, and no part of a stop string."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inference.engines.serving.text import StopFilter

ALPHABET = st.text(alphabet="ab\nX", max_size=30)


@given(
    pieces=st.lists(ALPHABET, max_size=12),
    stops=st.lists(st.text(alphabet="ab\nX", min_size=1, max_size=5), max_size=3),
)
def test_any_split_gives_the_text_before_the_first_stop(pieces: list[str], stops: list[str]) -> None:
    whole = "".join(pieces)
    found = StopFilter(stops)
    shown = ""
    for piece in pieces:
        shown += found.push(piece)
        # What is shown is never taken back: it is a beginning of the text before every stop string.
        assert not any(stop in shown for stop in stops)
    shown += found.finish()
    ends = [whole.find(stop) for stop in stops if stop in whole]
    if found.stopped:
        assert shown + "" == whole[: len(shown)]
        assert any(whole[len(shown) :].startswith(stop) for stop in stops)
        assert not any(stop in shown for stop in stops)
    else:
        assert not ends
        assert shown == whole


def test_a_stop_string_that_begins_but_does_not_come_is_shown() -> None:
    found = StopFilter(["END."])
    assert found.push("the EN") == "the "
    assert found.push("D, it") == "END, it"
    assert found.push(" EN") == " "
    assert found.finish() == "EN"
