"""Which requests are the same, and which are not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.caches.features import features_of
from inference.caches.keys import Partition, partition_for, request_key
from tests.inference.caches.conftest import RELEASE, caller_of, chat, target_of


def digest(*args: Any, schema: str = "alpha", **kwargs: Any) -> bytes:
    key = request_key(schema, chat(*args, **kwargs))
    assert key is not None
    return key.digest


def group(*args: Any, **kwargs: Any) -> bytes | None:
    key = request_key("alpha", chat(*args, **kwargs), semantic=True)
    assert key is not None
    return key.group


def test_who_asks_and_how_it_is_delivered_change_nothing() -> None:
    plain = digest("Hello")
    assert digest("Hello", user="u", metadata={"a": "b"}, stream=True, stream_options={}, n=1) == plain


@pytest.mark.parametrize(
    "changed",
    [
        {"temperature": 0.0, "seed": 1}, {"max_tokens": 5}, {"stop": ["x"]}, {"n": 2}, {"tools": [{"type": "f"}]},
        {"response_format": {"type": "json_object"}}, {"top_p": 0.5}, {"logit_bias": {"1": 2}},
        {"a_field_nobody_knows": 1},
    ],
)  # fmt: skip
def test_whatever_may_change_the_answer_separates(changed: dict[str, Any]) -> None:
    assert digest("Hello", **changed) != digest("Hello")


def test_earlier_turns_separate() -> None:
    assert digest("Hello", ("system", "Be brief.")) != digest("Hello")
    assert group("What is it?", ("system", "Be brief.")) != group("What is it?")


def test_tenants_have_digests_of_their_own() -> None:
    assert digest("Hello") != digest("Hello", schema="beta")


def test_a_client_that_asks_for_randomness_is_not_cached() -> None:
    assert request_key("alpha", chat("Hi", temperature=0.7)) is None
    assert request_key("alpha", chat("Hi", temperature=None, n=3)) is None
    assert request_key("alpha", chat("Hi", temperature=0.7, seed=4)) is not None
    assert request_key("alpha", chat("Hi", temperature=None)) is not None


def test_what_has_no_json_is_not_cached() -> None:
    assert request_key("alpha", chat("\ud800")) is None
    assert request_key("alpha", chat("Hi", seed=2**80)) is None


def test_partitions_do_not_run_into_each_other() -> None:
    parts = ["a", "b:1", "", "user:x"]
    seen = {
        Partition("alpha", one, two, three, "tenant").digest
        for one in parts
        for two in parts
        for three in parts
    }
    assert len(seen) == len(parts) ** 3


def test_scopes_of_keys_and_users_are_walls() -> None:
    def wall(key: str, user: str, scope: str) -> bytes:
        call = chat("Hi", user=user)
        return partition_for(
            target_of(), caller_of(key=key), call, policy_version="p", guard_version="g", scope=scope
        ).digest

    assert wall("k1", "u", "tenant") == wall("k2", "v", "tenant")
    assert wall("k1", "u", "key") == wall("k1", "v", "key") != wall("k2", "u", "key")
    assert wall("k1", "u", "user") != wall("k1", "v", "user")
    assert wall("k1", "u", "user") != wall("k2", "u", "user")
    with pytest.raises(ValueError, match="scope"):
        wall("k1", "u", "everyone")
    assert Partition("alpha", RELEASE, "p", "g", "user:abc").scope_kind == "user"


def test_only_the_last_user_text_of_a_chat_is_compared_by_meaning() -> None:
    assert group("What is the capital of France?") == group("Tell me what the capital of France is.")
    assert group("Hi", ("assistant", "x")) != group("Hi", ("assistant", "y"))
    assert request_key("alpha", chat("x" * 900), semantic=True).group is None  # type: ignore[union-attr]
    assert group("Hello", logprobs=True) is None
    picture = [{"type": "image_url", "image_url": {"url": "data:"}}]
    assert request_key("alpha", chat(picture), semantic=True).group is None  # type: ignore[arg-type, union-attr]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What was revenue in 2023?", "What was revenue in 2024?"),
        ("Is aspirin safe during pregnancy?", "Is aspirin not safe during pregnancy?"),
        ("Can I return the item?", "Can't I return the item?"),
        ("Who founded Apple?", "Who founded Microsoft?"),
        ("How do I enable two-factor login?", "How do I disable two-factor login?"),
        ("Take it before meals?", "Take it after meals?"),
        ("Convert 5 km to miles", "Convert 6 km to miles"),
        ("When was it built?", "Where was it built?"),
        ("How many people live there?", "How old are people there?"),
        ("Flights from Paris to Rome", "Flights from Rome to Paris"),
        ("Does the plan cover [EMAIL_1]?", "Does the plan cover [EMAIL_2]?"),
        ("Give me two examples", "Give me three examples"),
        ("The first step?", "The last step?"),
        ('What does "open" mean?', 'What does "shut" mean?'),
        ("What is max_tokens?", "What is min_tokens?"),
    ],
)
def test_edits_that_change_the_meaning_are_never_compared(one: str, other: str) -> None:
    assert group(one) != group(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the capital of France?", "Which city is the capital of France?"),
        ("How can I reset my password?", "What should I do to reset my password?"),
        ("Please explain photosynthesis.", "explain photosynthesis"),
        ("I need two tickets", "I'd need 2 tickets"),
    ],
)
def test_paraphrases_may_meet(one: str, other: str) -> None:
    assert group(one) == group(other)


@given(st.text(max_size=300))
def test_features_of_any_text_are_json(text: str) -> None:
    import json

    json.dumps(features_of(text))
