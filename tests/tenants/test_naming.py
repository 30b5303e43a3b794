"""Names of tenants, schemas and hosts."""

from __future__ import annotations

import pytest

from tenants.errors import TenantInvalid
from tenants.naming import domain_clean, host_label, schema_name_clean, tenant_name_clean


@pytest.mark.parametrize("name", ["acme", "acme2", "acme_west_2", "a", "x" * 40, " acme "])
def test_a_good_short_name_is_kept(name: str) -> None:
    assert schema_name_clean(name) == name.strip()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "short name, for example"),
        ("Acme", "small letters"),
        ("2acme", "begin with a letter"),
        ("_acme", "begin with a letter"),
        ("acme_", "single underscores"),
        ("acme__west", "single underscores"),
        ("acme-west", "'acme_west'"),
        ("acme west", "small letters, digits"),
        ("acme.west", "small letters, digits"),
        ('acme"; drop schema public; --', "small letters, digits"),
        ("acmé", "small letters, digits"),
        ("public", "reserved"),
        ("pg_acme", "reserved"),
        ("information_schema", "reserved"),
        ("www", "reserved"),
        ("zz_template_1", "reserved"),
        ("x" * 41, "at most 40"),
        ("acme\n", None),
    ],
)
def test_a_bad_short_name_is_refused_with_its_reason(name: str, words: str | None) -> None:
    if words is None:
        assert schema_name_clean(name) == "acme"  # a line break around it is only white space
        return
    with pytest.raises(TenantInvalid) as refused:
        schema_name_clean(name)
    assert words in refused.value.message
    assert "schema_name" in refused.value.fields


def test_the_host_label_has_no_underscore() -> None:
    assert host_label("acme_west") == "acme-west"


@pytest.mark.parametrize(
    ("domain", "clean"),
    [("Acme.Example.COM", "acme.example.com"), ("acme.example.com.", "acme.example.com"), ("a-b.c", "a-b.c")],
)
def test_a_domain_is_cleaned(domain: str, clean: str) -> None:
    assert domain_clean(domain) == clean


@pytest.mark.parametrize(
    "domain",
    [
        "",
        "a_b.example.com",
        "https://a.example.com",
        "a.example.com:80",
        "a/b",
        "-a.com",
        "a..b",
        "a" * 64 + ".com",
        "a b.com",
        "ü.com",
    ],
)
def test_a_bad_domain_is_refused(domain: str) -> None:
    with pytest.raises(TenantInvalid) as refused:
        domain_clean(domain)
    assert "domain" in refused.value.fields


def test_a_name_loses_its_extra_white_space() -> None:
    assert tenant_name_clean("  Acme \n Ltd ") == "Acme Ltd"


@pytest.mark.parametrize("name", ["", "  ", "x" * 121, "bad\x00name", "bad\x1bname"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(TenantInvalid):
        tenant_name_clean(name)
