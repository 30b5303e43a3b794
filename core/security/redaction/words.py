"""What has no spaces in it: e-mail addresses, IP addresses, crypto addresses; and values that are called secrets."""

from __future__ import annotations

import ipaddress
import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection
from typing import Final

from stdnum import bitcoin

from core.security.redaction.tokens import Finding, Memo, Recogniser

# Characters that end a word: no recogniser of this module's first half reaches across one of them.
_LETTERS: Final = "".join(chr(code) for code in range(0xC0, 0x530))
WORD_ASCII: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-@:/=~#&?!$*^\\"
WORD_ALL: Final = WORD_ASCII + _LETTERS
# Longest finding of this half, with the character after it.
WORD_CAP: Final = 264

_LOCAL_ASCII: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-!#$*^~"
_LOCAL_ALL: Final = _LOCAL_ASCII + _LETTERS
_LOCAL_TRIM: Final = "._%!#$*^~-"
_DOMAIN: Final = re.compile(rf"[A-Za-z0-9.\-{_LETTERS[0]}-{_LETTERS[-1]}]{{3,190}}")


# What stands before the password of a connection string; its password and host are no e-mail address.
_URL_USER: Final = re.compile(r"://[^\s:/@\"'`<>]{0,64}:\Z")


class EmailRecogniser(Recogniser):
    """Around every ``@``: the local part before it and a domain with a top level after it."""

    priority = 45

    def wanted(self, text: str, low: str) -> bool:
        return "@" in text

    def next_from(self, text: str, low: str, position: int, memo: Memo) -> Finding | None:
        at = text.find("@", position)
        while at >= 0:
            # The part before is what may belong to it, at most 64 characters, whatever was consumed before.
            head = text[max(0, at - 64) : at]
            keep = len(head) - len(head.rstrip(_LOCAL_ASCII if head.isascii() else _LOCAL_ALL))
            local = head[len(head) - keep :].lstrip(_LOCAL_TRIM)
            # What an open-ended finding took of it is gone; the rest is an address all the same.
            whole = at - len(local)
            start = max(whole, position)
            if start < at and not _URL_USER.search(text, max(0, whole - 72), whole):
                end = self._domain_end(text, at + 1)
                if end:
                    return (start, self.priority, end, "EMAIL_ADDRESS", self, -1)
            at = text.find("@", at + 1)
        return None

    def _domain_end(self, text: str, start: int) -> int:
        found = _DOMAIN.match(text, start)
        if found is None:
            return 0
        labels = found.group().split(".")
        kept: list[str] = []
        for label in labels:
            if not label or len(label) > 63 or label[0] == "-":
                break
            kept.append(label)
        while len(kept) > 1:
            last = kept[-1].rstrip("-")
            if last and (last.isalpha() or last.startswith("xn--")) and len(last) >= 2:
                kept[-1] = last
                return start + len(".".join(kept))
            kept.pop()
        return 0


class Ip4Recogniser(Recogniser):
    """Addresses of version 4 that name a machine: not loopback, not unspecified, not multicast."""

    priority = 46
    _pattern = re.compile(r"(?<![A-Za-z0-9_.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![A-Za-z0-9_]|\.[0-9])")
    _gate = re.compile(r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]")

    def wanted(self, text: str, low: str) -> bool:
        return self._gate.search(text) is not None

    def next_from(self, text: str, low: str, position: int, memo: Memo) -> Finding | None:
        for found in self._pattern.finditer(text, position):
            start = found.start()
            if start > 1 and text[start - 1] == "/" and text[start - 2].isalpha():
                continue  # Chrome/120.0.0.0
            if _names_a_machine(found.group()):
                return (found.start(), self.priority, found.end(), "IP_ADDRESS", self, -1)
        return None


class Ip6Recogniser(Recogniser):
    """Addresses of version 6 that name a machine."""

    priority = 47
    _pattern = re.compile(r"(?<![A-Za-z0-9_:.])[0-9A-Fa-f:]{4,39}(?![A-Za-z0-9_:])")
    _gate = re.compile(r":[0-9A-Fa-f]{0,4}:")

    def wanted(self, text: str, low: str) -> bool:
        return ":" in text and self._gate.search(text) is not None

    def next_from(self, text: str, low: str, position: int, memo: Memo) -> Finding | None:
        for found in self._pattern.finditer(text, position):
            if found.group().count(":") >= 2 and _names_a_machine(found.group()):
                return (found.start(), self.priority, found.end(), "IP_ADDRESS", self, -1)
        return None


def _names_a_machine(value: str) -> bool:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    return not (
        address.is_loopback or address.is_unspecified or address.is_multicast or value.startswith("255.")
    )


class CryptoRecogniser(Recogniser):
    """Bitcoin (check digits) and Ethereum (form) addresses."""

    priority = 48
    _pattern = re.compile(
        r"(?<![A-Za-z0-9])(?:0x[0-9a-fA-F]{40}|bc1[a-z0-9]{20,60}|[13][1-9A-HJ-NP-Za-km-z]{25,34})(?![A-Za-z0-9])"
    )

    def wanted(self, text: str, low: str) -> bool:
        return True  # asked only when the text has a long run

    def next_from(self, text: str, low: str, position: int, memo: Memo) -> Finding | None:
        for found in self._pattern.finditer(text, position):
            value = found.group()
            if value.startswith("0x") or bitcoin.is_valid(value):
                return (found.start(), self.priority, found.end(), "CRYPTO", self, -1)
        return None


# ---------------------------------------------------------------- values called secrets
VALUE_CAP: Final = 280  # characters of a value a decision may take
_QUOTED: Final = 200
_HEAD: Final = 64  # characters of a value that decide what it is
_SEP: Final = r"[\"'`]?\s{0,3}(?::=|=>|[:=]|\s(?:is|was|ist|lautet|est|es)\s)\s{0,3}"
_SCHEME: Final = re.compile(r"(?:bearer|basic|token|apikey|digest)\s{1,3}(?=\S)")
_PASS: Final = re.compile(
    r"(?:pass(?:word|wd|phrase|code|wort)?s?|passwort|pwd|contraseña|mot de passe|kennwort)[0-9]{0,2}(?:_?(?:value|text|str))?"
    + _SEP
)
_SECRET: Final = re.compile(
    r"(?:secret(?:[ _-]?(?:access[ _-]?)?(?:key|token|value))?|token(?:[ _-]?(?:value|secret|key))?|key(?:[ _-]?(?:id|value|secret|token))?|"
    r"credentials?|authorization|auth[ _-]?code|pat)(?:_?str)?" + _SEP
)
_BEARER: Final = re.compile(r"bearer\s{1,3}(?=[A-Za-z0-9])")
_STEMS: Final = (
    ("pass", _PASS, "PASSWORD"),
    ("pwd", _PASS, "PASSWORD"),
    ("contraseña", _PASS, "PASSWORD"),
    ("mot de passe", _PASS, "PASSWORD"),
    ("kennwort", _PASS, "PASSWORD"),
    ("secret", _SECRET, "SECRET"),
    ("token", _SECRET, "SECRET"),
    ("key", _SECRET, "SECRET"),
    ("credential", _SECRET, "SECRET"),
    ("authorization", _SECRET, "SECRET"),
    ("bearer", _BEARER, "SECRET"),
)
_GATES: Final = tuple(stem for stem, _, _ in _STEMS)
_KEY_OF: Final = re.compile(
    r"(?:api|access|account|private|secret|encryption|signing|shared|auth|client|service|license|master|storage|"
    r"session|app|application|subscription|publishable|deploy|admin|integration|crypt|hmac|webhook)[ _.-]?\Z"
)
_STOP: Final = re.compile(r"[\s\"'`<>]")
_CALL: Final = re.compile(r"[A-Za-z_][\w.]*\(.*", re.DOTALL)
_REFERENCE: Final = re.compile(
    r"\$\{?[A-Za-z_][\w.]*\}?|\$\(.*|\{\{?.*|%[\w(].*|os\.environ.*|process\.env.*|(?:self|this|config|settings|env|var|request|args|params|data|user|"
    r"secrets|vault|ctx)(?:\.|\[).*|\*+|x{3,}|X{3,}|\.{2,}|_+|-+|(?:your|my|the|some)[-_ ].*|(?:change|replace)[-_]?(?:me|this).*",
    re.DOTALL | re.IGNORECASE,
)
_COMMON: Final = frozenset(
    [
        "must",
        "should",
        "shall",
        "will",
        "would",
        "could",
        "required",
        "requirements",
        "needs",
        "need",
        "invalid",
        "incorrect",
        "wrong",
        "correct",
        "valid",
        "expired",
        "missing",
        "none",
        "null",
        "true",
        "false",
        "undefined",
        "string",
        "str",
        "text",
        "varchar",
        "optional",
        "here",
        "reset",
        "policy",
        "field",
        "fields",
        "please",
        "enter",
        "entered",
        "your",
        "with",
        "that",
        "this",
        "from",
        "have",
        "been",
        "about",
        "after",
        "before",
        "again",
        "what",
        "which",
        "when",
        "where",
        "there",
        "their",
        "them",
        "they",
        "also",
        "only",
        "never",
        "always",
        "minimum",
        "maximum",
        "least",
        "hash",
        "hashed",
        "hashing",
        "manager",
        "protected",
        "protection",
        "strength",
        "length",
        "change",
        "changed",
        "changing",
        "forgotten",
        "forgot",
        "same",
        "being",
        "used",
        "using",
        "stored",
        "sent",
        "shown",
        "secret",
        "secrets",
        "weak",
        "strong",
        "too",
        "not",
        "set",
        "empty",
        "blank",
        "unknown",
        "characters",
        "character",
        "confirm",
        "confirmation",
        "new",
        "old",
        "current",
        "previous",
        "default",
        "example",
        "placeholder",
        "password",
        "passwords",
        "token",
        "tokens",
        "username",
        "bytes",
        "number",
        "integer",
        "boolean",
        "object",
        "type",
        "value",
        "values",
        "input",
        "output",
        "authentication",
    ]
)


def entropy_bits(text: str) -> float:
    """Shannon entropy of the characters of ``text``, bits per character."""
    total = len(text)
    return -sum(n / total * math.log2(n / total) for n in Counter(text).values()) if total else 0.0


def _is_password(head: str, quoted: bool, spoken: bool) -> bool:
    if len(head) < 4 or _REFERENCE.fullmatch(head) or _CALL.fullmatch(head):
        return False
    plain = head.strip(".,;:!?)")
    if plain.lower() in _COMMON:
        return False
    if any(char.isdigit() for char in plain) or (
        not plain.isalpha() and not re.fullmatch(r"[\w.'’-]+", plain)
    ):
        return True
    if spoken:  # "the password is wrong": a word alone is not a password
        return False
    return quoted or len(plain) >= 6


def _is_secret(head: str) -> bool:
    if len(head) < 8 or _REFERENCE.fullmatch(head) or _CALL.fullmatch(head):
        return False
    if not any(char.isdigit() for char in head) or not any(char.isalpha() for char in head):
        # Long runs without digits can still be keys, when they look random.
        return (
            len(head) >= 20
            and entropy_bits(head) >= 4.0
            and head.isascii()
            and not any(c in "./ " for c in head)
        )
    return entropy_bits(head) >= 2.75 and "://" not in head


class AssignmentRecogniser(Recogniser):
    """``password = …``, ``"api_key": "…"``, ``Authorization: Bearer …``, "my password is …": the value is the finding."""

    priority = 40
    sticky = True

    def __init__(self, entities: Collection[str]) -> None:
        self._stems = tuple(stem for stem in _STEMS if stem[2] in entities)

    def wanted(self, text: str, low: str) -> bool:
        for gate in _GATES:  # noqa: SIM110
            if gate in low:
                return True
        return False

    def _values(self, text: str, low: str, floor: int) -> list[tuple[int, str, int, bool]]:
        """(start of the value, entity, start of its name, said with "is") at or after ``floor``, in order."""
        found: list[tuple[int, str, int, bool]] = []
        begin = max(0, floor - 96)
        for stem, pattern, entity in self._stems:
            at = low.find(stem, begin)
            while at >= 0:
                match = pattern.match(low, at)
                if match is not None and self._named(low, at, stem, match.group()):
                    value = match.end()
                    if pattern is not _PASS:
                        scheme = _SCHEME.match(low, value)
                        if scheme is not None:
                            value = scheme.end()
                    if value >= floor and value < len(text):
                        found.append((value, entity, at, match.group().rstrip()[-1].isalpha()))
                at = low.find(stem, at + 1)
        found.sort()
        return found

    def _named(self, low: str, at: int, stem: str, matched: str) -> bool:
        if stem == "key":
            return _KEY_OF.search(low, max(0, at - 14), at) is not None
        if stem == "pass" and not matched.startswith(("passw", "passp", "passc")):
            return at == 0 or not low[at - 1].isalpha() or low[max(0, at - 2) : at] == "db"
        return True

    def _span(self, text: str, value: int) -> tuple[int, int, bool, bool]:
        """(start, end, quoted, open): where the value lies; open when more text could still move its end."""
        size = len(text)
        quote = text[value]
        if quote in "\"'`":
            limit = min(size, value + 1 + _QUOTED)
            close = text.find(quote, value + 1, limit)
            line = text.find("\n", value + 1, limit)
            if close >= 0 and (line < 0 or close < line):
                return value + 1, close, True, False
            if close < 0 and line < 0 and limit == size and size < value + 1 + _QUOTED:
                return value + 1, size, True, True
            value += 1
        stop = _STOP.search(text, value)
        if stop is None:
            return value, size, False, True
        return value, stop.start(), False, False

    def next_from(self, text: str, low: str, position: int, memo: Memo) -> Finding | None:
        if "values" not in memo:
            memo["values"] = self._values(text, low, max(0, position - 1))
        values = memo["values"]
        for number in range(bisect_left(values, (position - 1,)), len(values)):
            value, entity, name, spoken = values[number]
            start, end, quoted, unfinished = self._span(text, value)
            if start < position or start >= end:
                continue
            if quoted and unfinished:
                # The text ends inside the quotes: it is judged as if it stood there bare.
                stop = _STOP.search(text, start)
                end, unfinished, quoted = (stop.start(), False, False) if stop else (end, True, False)
            head = text[start : min(end, start + _HEAD)]
            if head.startswith("[") and head[1:2].isupper():
                continue  # a mask that stands where the secret stood
            if entity == "PASSWORD":
                if not _is_password(head, quoted, spoken):
                    continue
            elif not _is_secret(head) or (quoted and " " in head):
                continue
            if not quoted and end - start < _HEAD:
                end = start + len(text[start:end].rstrip(".,;:)]}"))
            if end > start:
                return (start, self.priority, end, entity, self, name)
        return None

    def extend(self, text: str, start: int) -> int:
        stop = _STOP.search(text, start)
        return stop.start() if stop else -1

    def unresolved(self, text: str, low: str, floor: int) -> int:
        size = len(text)
        for value, _, _, _ in self._values(text, low, max(0, floor - 1, size - VALUE_CAP)):
            start, _, _, unfinished = self._span(text, value)
            if unfinished and start >= floor and size - start < VALUE_CAP:
                return start
        return size


_URL_PASSWORD: Final = re.compile(r"://[^\s:/@\"'`<>]{0,64}:([^\s\"'`<>/]{1,128})@")
_URL_OPEN: Final = re.compile(r"://[^\s:/@\"'`<>]{0,64}(?::[^\s\"'`<>/]{0,129})?\Z")
_URL_CAP: Final = 200


class UrlPasswordRecogniser(Recogniser):
    """``scheme://user:password@host``: the password."""

    priority = 38

    def wanted(self, text: str, low: str) -> bool:
        return "://" in text and "@" in text

    def next_from(self, text: str, low: str, position: int, memo: Memo) -> Finding | None:
        at = text.find("://", max(0, position - 72))
        while at >= 0:
            found = _URL_PASSWORD.match(text, at)
            if found is not None and found.start(1) >= position and not found.group(1).startswith("["):
                return (found.start(1), self.priority, found.end(1), "URL_PASSWORD", self, -1)
            at = text.find("://", at + 1)
        return None

    def unresolved(self, text: str, low: str, floor: int) -> int:
        size = len(text)
        at = text.find("://", max(0, size - _URL_CAP))
        while at >= 0:
            if _URL_OPEN.match(text, at):
                return max(floor, at + 3)
            at = text.find("://", at + 1)
        return size
