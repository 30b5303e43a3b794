"""What was taken out of one request and may be put back into its answer, and nowhere else."""

from __future__ import annotations

import json
import re
import secrets
from typing import Final

_LETTERS: Final = "abcdefghijklmnop"
_HALVES: Final = {char: _LETTERS[int(char, 16)] for char in "0123456789abcdef"}
# The longest placeholder: [, label (32), #, nonce (10), -, number (5), ].
PLACEHOLDER_CAP: Final = 52
_UNFINISHED: Final = re.compile(r"\[(?:[A-Z][A-Z0-9_]{0,31}(?:#[a-p]{0,10}(?:-[0-9]{0,5})?)?)?\Z")
# Placeholders one request may hold; further findings are masked.
MAX_PLACEHOLDERS: Final = 99_999


def letters(digest: bytes, count: int) -> str:
    """Four bits a letter, a to p: no digit in it, so that no recogniser can take it for a number."""
    return "".join(_HALVES[char] for char in digest.hex()[:count])


class Vault:
    """One request's originals by placeholder. The nonce is random: another request's placeholder means nothing here."""

    __slots__ = ("_by_value", "_found", "_originals", "nonce")

    def __init__(self) -> None:
        self.nonce = letters(secrets.token_bytes(5), 10)
        self._originals: dict[str, str] = {}
        self._by_value: dict[tuple[str, str], str] = {}
        self._found: re.Pattern[str] | None = None

    def __len__(self) -> int:
        return len(self._originals)

    def put(self, label: str, original: str) -> str:
        """The placeholder of a value; the same value gets the same one."""
        placeholder = self._by_value.get((label, original))
        if placeholder is None:
            if len(self._originals) >= MAX_PLACEHOLDERS:
                return f"[{label}]"
            placeholder = f"[{label}#{self.nonce}-{len(self._originals) + 1}]"
            self._originals[placeholder] = original
            self._by_value[label, original] = placeholder
        return placeholder

    def restore(self, text: str, *, json_text: bool = False) -> str:
        """Put originals back. ``json_text``: the text is JSON, so originals are escaped as inside a JSON string."""
        if not self._originals or self.nonce not in text:
            return text
        if self._found is None:
            self._found = re.compile(rf"\[[A-Z][A-Z0-9_]{{0,31}}#{self.nonce}-[0-9]{{1,5}}\]")

        def original(found: re.Match[str]) -> str:
            value = self._originals.get(found.group())
            if value is None:
                return found.group()
            return json.dumps(value, ensure_ascii=False)[1:-1] if json_text else value

        return self._found.sub(original, text)

    def restorer(self, *, json_text: bool = False) -> Restorer:
        """The same for a stream."""
        return Restorer(self, json_text)


class Restorer:
    """Puts originals back into a stream; holds back at most one unfinished placeholder (52 characters)."""

    __slots__ = ("_held", "_json_text", "_vault")

    def __init__(self, vault: Vault, json_text: bool) -> None:
        self._vault = vault
        self._json_text = json_text
        self._held = ""

    def push(self, text: str) -> str:
        """What may go on."""
        if not len(self._vault) and not self._held:
            return text
        text = self._held + text
        self._held = ""
        at = text.rfind("[", max(0, len(text) - PLACEHOLDER_CAP))
        if at >= 0 and _UNFINISHED.match(text, at):
            self._held = text[at:]
            text = text[:at]
        return self._vault.restore(text, json_text=self._json_text)

    def finish(self) -> str:
        """The rest."""
        text, self._held = self._held, ""
        return self._vault.restore(text, json_text=self._json_text)
