"""A guard profile made ready to run: compiled once, shared by all threads. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from core.security.redaction import CustomPattern, RedactionConfig, Redactor
from inference.guards.config import GuardConfig, GuardSpec
from inference.guards.verdicts import GuardVerdict


@dataclass(frozen=True, slots=True)
class _Rule:
    guard: str
    action: str


class GuardSet:
    """``name``: "name@version". Redactors in both directions, deny lists, and guards that judge meaning.

    Deny lists are custom patterns of a redactor, so they hold back in streams as redaction does, and see through the
    same disguises (full-width and zero-width characters).
    """

    def __init__(self, name: str, config: GuardConfig, hash_key: bytes) -> None:
        self.name = name
        self.config = config
        self.digest = config.digest
        self.redactor_in = Redactor(config.redaction, hash_key, "input")
        self.redactor_out = Redactor(config.redaction, hash_key, "output")
        self._rules: dict[str, _Rule] = {}
        self.deny_in = self._deny([guard for guard in config.guards if guard.covers("input")])
        self.deny_out = self._deny([guard for guard in config.guards if guard.covers("output")])
        self._judges = tuple(guard for guard in config.guards if guard.kind in ("injection", "topics"))

    @property
    def acts_on_input(self) -> bool:
        return self.redactor_in._active or self.deny_in is not None or bool(self._judges)

    @property
    def acts_on_output(self) -> bool:
        return self.redactor_out._active or self.deny_out is not None

    @property
    def judges_input(self) -> bool:
        return bool(self._judges)

    def _deny(self, guards: Sequence[GuardSpec]) -> Redactor | None:
        patterns: list[CustomPattern] = []
        for guard in guards:
            sources = list(guard.patterns)
            # Several words in one pattern, of a size that compiles to little.
            for start in range(0, len(guard.words), 40):
                sources.append(
                    "(?i)" + "|".join(_word_pattern(word) for word in guard.words[start : start + 40])
                )
            for source in sources:
                rule = f"DENY_{len(self._rules) + 1}"
                self._rules[rule] = _Rule(guard.name, guard.action)
                patterns.append(
                    CustomPattern(rule, source, rule, "block" if guard.action == "block" else "flag")
                )
        if not patterns:
            return None
        config = RedactionConfig.from_dict({"default": "off"})
        return Redactor(
            RedactionConfig(config.entities, {}, tuple(patterns), (), (), {}, config.regions), b"", "deny"
        )

    def deny_verdict(self, rule: str, direction: str) -> GuardVerdict:
        """What a match of a deny list means."""
        found = self._rules[rule]
        what = "request" if direction == "input" else "answer"
        return GuardVerdict(
            "block" if found.action == "block" else "flag",
            found.guard,
            f'The {what} holds a word or phrase that the deny list "{found.guard}" refuses.',
            None,
            direction,
        )

    def judge_input(self, texts: Sequence[str]) -> list[GuardVerdict]:
        """Verdicts of guards that judge meaning; only those that flag or block."""
        if not self._judges:
            return []
        from inference.guards.meaning import judge

        found = []
        for guard in self._judges:
            verdict = judge(guard, texts)
            if verdict.action != "allow":
                found.append(verdict)
                if verdict.action == "block":
                    break
        return found

    def check_input(self, texts: Sequence[str]) -> list[GuardVerdict]:
        """Every verdict on texts that come in, deny lists included. For trying a profile."""
        found = [
            self.deny_verdict(rule, "input") for text in texts for rule in self._denied(self.deny_in, text)
        ]
        return found + self.judge_input(texts)

    def check_output(self, text: str) -> list[GuardVerdict]:
        """Every verdict on a text that goes out."""
        return [self.deny_verdict(rule, "output") for rule in self._denied(self.deny_out, text)]

    @staticmethod
    def _denied(deny: Redactor | None, text: str) -> list[str]:
        return [] if deny is None else list(deny.redact(text).counts)

    def hold_back(self) -> dict[str, int]:
        """Most characters a stream withholds, by stage."""
        return {
            "redaction": self.redactor_out.hold_back if self.redactor_out._active else 0,
            "deny_lists": self.deny_out.hold_back if self.deny_out is not None else 0,
        }


def _word_pattern(word: str) -> str:
    escaped = r"\s{1,3}".join(re.escape(part) for part in word.split())
    left = r"\b" if word[0].isalnum() and word[0].isascii() else ""
    right = r"\b" if word[-1].isalnum() and word[-1].isascii() else ""
    return f"{left}{escaped}{right}"
