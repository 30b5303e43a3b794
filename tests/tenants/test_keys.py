"""The text of an API key."""

from __future__ import annotations

import pytest

from tenants.accounts.keys import bearer, key_generate, key_parse, key_schema, secret_digest, secret_matches


@pytest.mark.parametrize("schema", ["alpha", "a", "acme_west_2", "x" * 40])
def test_a_key_reads_back_as_it_was_made(schema: str) -> None:
    key = key_generate(schema)
    assert key_parse(str(key)) == key
    assert str(key).startswith(f"sgn_{schema}_")
    assert key_schema(f"Bearer {key}") == schema


def test_two_keys_share_nothing() -> None:
    first, second = key_generate("alpha"), key_generate("alpha")
    assert first.key_id != second.key_id
    assert first.secret != second.secret


@pytest.mark.parametrize(
    "text",
    ["", "sgn_", "sgn_alpha", "sgn_alpha_short_x", "sgn_Alpha_" + "a" * 12 + "_" + "b" * 43,
     "xyz_alpha_" + "a" * 12 + "_" + "b" * 43, "sgn_alpha_" + "a" * 12 + "_" + "b" * 42,
     "sgn_al'pha_" + "a" * 12 + "_" + "b" * 43],
)  # fmt: skip
def test_what_is_no_key_is_none(text: str) -> None:
    assert key_parse(text) is None


def test_a_secret_matches_its_own_digest_only() -> None:
    key = key_generate("alpha")
    assert secret_matches(key.secret, secret_digest(key.secret))
    assert not secret_matches(key.secret[:-1] + "!", secret_digest(key.secret))


def test_the_secret_is_not_in_the_repr() -> None:
    key = key_generate("alpha")
    assert key.secret not in repr(key)


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("Basic abc", None),
        ("", None),
        ("Bearer", None),
        ("Bearer ", None),
    ],
)
def test_bearer_tokens_are_found(header: str, token: str | None) -> None:
    assert bearer(header) == token
