"""What an event says in words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.conf import settings

from core.audit.sentences import PHRASES, sentence_for


@pytest.mark.parametrize(
    ("action", "target", "data", "expected"),
    [
        (
            "waiver.approved",
            True,
            {"criterion": "p95_latency", "expires_at": "2026-11-30T00:00:00+00:00", "reason": "known spike"},
            "waived p95 latency in {target} until 30 Nov 2026: known spike",
        ),
        ("waiver.approved", True, {}, "granted a waiver in {target}"),
        ("review.signed", True, {"role": "pmo", "position": "no_go"}, "signed {target} as pmo: no go"),
        (
            "user.roles_changed",
            True,
            {"before": [], "after": ["pmo", "admin"]},
            "changed the roles of {target} from nothing to pmo, admin",
        ),
        ("user.signed_in", True, {}, "signed in"),
        ("user.locked_out", False, {}, "was locked out after repeated failures to sign in"),
        ("thing.made_up", True, {}, "made up the thing {target}"),
        ("thing.made_up", False, {"status": "odd"}, "made up the thing: odd"),
        ("nodot", False, {}, "nodot the nodot"),
        ("thing.done", False, {"reason": "{target} {0} %s {"}, "done the thing: (target) (0) %s ("),
        ("pilot.member_added", True, {"member": {"subject": "ab"}}, "gave a person the scorecard of the {target}"),
    ],
)  # fmt: skip
def test_sentence(action, target, data, expected):
    assert sentence_for(action, noun="", has_target=target, data=data) == expected


def test_every_action_in_the_code_has_a_phrase():
    root = Path(settings.BASE_DIR)
    found: set[str] = set()
    for app in ("core", "tenants", "inference", "governance", "pilots", "ip_portfolio", "workers"):
        for path in (root / app).rglob("*.py"):
            found |= set(re.findall(r'audit_record\(\s*"([a-z_]+\.[a-z_]+)"', path.read_text()))
    assert found
    assert found <= set(PHRASES), f"without a phrase: {sorted(found - set(PHRASES))}"
