"""Canonical JSON: one value, one text."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.security.canonical import CanonicalError, canonical_bytes, digest

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [True, None]}, '{"a":[true,null],"b":1}'),
        ((1, 2), "[1,2]"),
        (1.0, "1"),
        (-0.0, "0"),
        (1e20, "100000000000000000000"),
        (0.1, "0.1"),
        (1e-7, "1e-07"),
        (2**63, "9223372036854775808"),
        ('é\n"\\\x1f/', '"é\\n\\"\\\\\\u001f/"'),
        (np.float64(0.5), "0.5"),
        ({}, "{}"),
    ],
    ids=str,
)
def test_known_forms(value: Any, text: str) -> None:
    assert canonical_bytes(value) == text.encode()


def test_keys_are_sorted_by_utf16_as_rfc_8785_shows() -> None:
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    expected = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert list(json.loads(canonical_bytes(dict.fromkeys(keys, 0)))) == expected


@given(JSON)
def test_reading_it_back_and_writing_it_again_changes_nothing(value: Any) -> None:
    try:
        written = canonical_bytes(value)
    except CanonicalError:
        assert "\\ud" in json.dumps(value)  # only a lone surrogate may be refused
        return
    # As floats: beyond 2**53 a whole float is written with the digits jsonb gives back, which are its shortest.
    assert json.loads(written, parse_int=float) == json.loads(json.dumps(value), parse_int=float)
    assert canonical_bytes(json.loads(written)) == written


@given(st.dictionaries(st.text("abc"), st.integers(), min_size=2))
def test_order_of_keys_does_not_matter_and_values_do(value: dict[str, int]) -> None:
    turned = dict(reversed(value.items()))
    assert digest(turned) == digest(value)
    key = next(iter(value))
    assert digest({**value, key: value[key] + 1}) != digest(value)


def test_digest_is_the_sha256_of_the_text() -> None:
    # echo -n '{}' | sha256sum
    assert digest({}) == "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"a": [1, math.nan]}, r"\$\.a\[1\] is nan"),
        (math.inf, "infinity"),
        ({1: 2}, "keys must be text"),
        (datetime(2026, 1, 1, tzinfo=UTC), "datetime"),
        ({"a": {1, 2}}, "set"),
        (b"x", "bytes"),
        ("\ud800", "surrogate"),
        ({"\ud800": 1}, "surrogate"),
    ],
)
def test_what_is_not_json_is_refused_with_its_place(value: Any, says: str) -> None:
    with pytest.raises(CanonicalError, match=says):
        canonical_bytes(value)


def test_a_value_within_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(CanonicalError, match="nested"):
        canonical_bytes(loop)
