"""What is found, what is left alone, and what happens to a finding."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.security.redaction import RedactionConfig, RedactionConfigError, Redactor, Vault

DEFAULT = Redactor(RedactionConfig(), b"key")


def redactor(**settings: Any) -> Redactor:
    """One with these settings."""
    return Redactor(RedactionConfig.from_dict(settings), b"key")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail jane.doe+x@example.co.uk now", "mail [EMAIL] now"),
        ("card 4111 1111 1111 1111.", "card [CARD]."),
        ("amex 378282246310005", "amex [CARD]"),
        ("call +44 20 7946 0958 or (415) 555-0123", "call [PHONE] or [PHONE]"),
        ("at 020 7946 0958, please", "at [PHONE], please"),
        ("to DE89 3704 0044 0532 0130 00.", "to [IBAN]."),
        ("GB82WEST12345698765432", "[IBAN]"),
        ("SSN 219-09-9998", "SSN [SSN]"),
        ("from 203.0.113.9 and 2001:db8::1", "from [IP] and [IP]"),
        ("NI number AB 12 34 56 C", "NI number [NINO]"),
        ("DNI 12345678Z", "DNI [NIF]"),
        ("nhs number 943 476 5919", "nhs number [NHS]"),
        ("key sk-proj-abcdEFGH1234567890abcd", "key [OPENAI_KEY]"),
        ("AKIAIOSFODNN7EXAMPLE", "[AWS_KEY]"),
        ("ghp_" + "a1B2" * 9, "[GITHUB_TOKEN]"),
        ("xoxb-123456789012-abcDEF", "[SLACK_TOKEN]"),
        ("sgn_alpha_abcDEF123456_" + "x" * 43, "[API_KEY]"),
        ("password: hunter2", "password: [PASSWORD]"),
        ("my password is Hunter2! ok", "my password is [PASSWORD] ok"),
        ('api_key = "abcd1234efgh5678"', 'api_key = "[SECRET]"'),
        ("Authorization: Bearer abc123def456ghi789", "Authorization: Bearer [SECRET]"),
        ("postgres://bob:s3cr3t@db/x", "postgres://bob:[URL_PASSWORD]@db/x"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.sig-_x end", "[JWT] end"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\nx=\n-----END RSA PRIVATE KEY----- end", "[PRIVATE_KEY] end"),
        ("ｊｏｅ＠example.com", "[EMAIL]"),
        ("j\u200bo\u00ade@example.com", "[EMAIL]"),
        ("４１１１ 1111 1111 １１１１", "[CARD]"),
        ("4111\u00a01111\u20111111\u20111111", "[CARD]"),
        ("joe\\u0040example.com", "[EMAIL]"),
        ("müller@bücher.de", "[EMAIL]"),
    ],
)  # fmt: skip
def test_it_is_found(text: str, expected: str) -> None:
    assert DEFAULT.redact(text).text == expected


@pytest.mark.parametrize(
    "text",
    [
        "order 4111111111111112 was shipped",  # fails its check digit
        "on 2024-11-23 10:15:00 and 01.02.2024",
        "trace 03863151-1172-4073-a123-123456789012",
        "version 1.2.3, room 12345, ID 1234567890",
        "the password is required; Password: must have 8 characters",
        "password = os.environ['DB_PASSWORD']",
        "max_tokens: 4096 and the token count is high",
        "12, 345, 678, 901, 234",
        "DE89370400440532013001",
        "@app.route and @jane",
        "Chrome/120.0.0.0",
        "localhost is 127.0.0.1",
        "the key: figures",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15",
        "",
    ],
)
def test_it_is_left_alone(text: str) -> None:
    assert DEFAULT.redact(text).text == text
    assert DEFAULT.redact(text).counts == {}


def test_counts_are_what_was_replaced() -> None:
    result = DEFAULT.redact("a@b.de, c@d.de and 4111 1111 1111 1111")
    assert result.counts == {"EMAIL_ADDRESS": 2, "CREDIT_CARD": 1}


@pytest.mark.parametrize("action", ["mask", "hash", "restore"])
def test_a_second_pass_changes_nothing(action: str) -> None:
    one, vault = redactor(default=action), Vault()
    text = "a@b.de 4111 1111 1111 1111 password: Hunter2! ssn 219-09-9998 +44 20 7946 0958 sk-proj-abcdEFGH1234567890abcd"
    first = one.redact(text, vault)
    assert one.redact(first.text, vault).text == first.text
    assert one.redact(first.text, vault).counts == {}


def test_hash_is_stable_in_a_tenant_and_another_in_the_next() -> None:
    config = RedactionConfig.from_dict({"entities": {"EMAIL": "hash"}})
    here, there = Redactor(config, b"alpha"), Redactor(config, b"beta")
    assert here.redact("Joe@X.com").text == here.redact("joe@x.com").text != there.redact("joe@x.com").text
    assert "x.com" not in here.redact("joe@x.com").text


def test_block_says_what_and_gives_nothing_back() -> None:
    result = redactor(secrets="block").redact("hello AKIAIOSFODNN7EXAMPLE")
    assert (result.text, result.blocked) == ("", "AWS_ACCESS_KEY")


def test_restore_comes_back_to_the_same_request_only() -> None:
    one, mine, other = redactor(entities={"EMAIL": "restore"}), Vault(), Vault()
    sent = one.redact("from a@b.de to c@d.de, again a@b.de", mine).text
    assert sent.count("-1]") == 2 and "@" not in sent
    assert mine.restore(sent) == "from a@b.de to c@d.de, again a@b.de"
    other.put("EMAIL", "secret@other.org")
    assert other.restore(sent) == sent


def test_the_way_back_may_differ() -> None:
    config = RedactionConfig.from_dict({"entities": {"EMAIL": "restore"}, "output": {"PHONE": "off"}})
    out = Redactor(config, b"", "output")
    assert out.redact("a@b.de +44 20 7946 0958").text == "[EMAIL] +44 20 7946 0958"


def test_tool_arguments_stay_json() -> None:
    given = json.dumps(
        {"card": 4111111111111111, "who": "jo\u00e9\nann@b.de", "note": 'say "a@b.de"', "n": [1, 2]}
    )
    result = DEFAULT.redact(given, json_text=True)
    parsed = json.loads(result.text)
    assert parsed == {"card": "[CARD]", "who": "jo\u00e9\n[EMAIL]", "note": 'say "[EMAIL]"', "n": [1, 2]}


def test_restored_values_are_escaped_in_json() -> None:
    vault = Vault()
    placeholder = vault.put("NAME", 'a "quoted"\nname')
    assert json.loads(vault.restore(f'{{"x": "{placeholder}"}}', json_text=True)) == {"x": 'a "quoted"\nname'}


def test_allowed_values_and_patterns_stay() -> None:
    one = redactor(allow=["Support@Acme.com"], allow_patterns=[r"[a-z]+@acme\.org"])
    assert one.redact("support@acme.com x@acme.org y@b.de").text == "support@acme.com x@acme.org [EMAIL]"


def test_own_patterns_and_labels() -> None:
    one = redactor(
        custom=[{"name": "STAFF_ID", "pattern": r"\bEMP-[0-9]+", "label": "STAFF"}], labels={"EMAIL": "MAIL"}
    )
    assert one.redact("EMP-12345 a@b.de TEMP-1").text == "[STAFF] [MAIL] TEMP-1"


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"entities": {"PERSON": "mask"}}, "entities"),
        ({"entities": {"EMAIL": "erase"}}, "entities"),
        ({"custom": [{"name": "X", "pattern": "(a"}]}, "custom"),
        ({"custom": [{"name": "X", "pattern": "(?<=a)b"}]}, "custom"),
        ({"custom": [{"name": "X", "pattern": "a*"}]}, "custom"),
        ({"custom": [{"name": "X", "pattern": "^a"}]}, "custom"),
        ({"custom": [{"name": "X", "pattern": "(a{1,100}){1,100}"}]}, "custom"),
        ({"custom": [{"name": "EMAIL_ADDRESS", "pattern": "a"}]}, "custom"),
        ({"allow": "x"}, "allow"),
        ({"regions": ["GBR"]}, "regions"),
        ({"emails": True}, "emails"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(given: dict[str, Any], where: str) -> None:
    with pytest.raises(RedactionConfigError) as refused:
        RedactionConfig.from_dict(given)
    assert list(refused.value.fields) == [where]


def test_a_configuration_survives_its_json() -> None:
    config = RedactionConfig.from_dict(
        {"secrets": "block", "custom": [{"name": "X", "pattern": "x[0-9]{2}"}]}
    )
    assert RedactionConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config


def test_a_cut_finding_leaves_no_tail() -> None:
    one = redactor(custom=[{"name": "CODE", "pattern": r"code-[a-z]{3}"}])
    assert "example" not in one.redact("code-abcd@example.com").text
