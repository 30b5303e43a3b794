"""Finding and replacing. One rule decides for whole texts and for streams alike, so that both give the same result.

Every recogniser moves from left to right and says what starts next. Of all findings the one that starts first
counts (at the same start: by priority, then the longer); one that lies inside what is already replaced is dropped;
one that reaches beyond it is cut to the part that is left and replaced as well, so that no tail of it is sent.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from core.security.redaction.config import (
    CompiledCustom,
    RedactionConfig,
    compile_custom,
    compile_re2,
)
from core.security.redaction.entities import ENTITIES, SECRETS
from core.security.redaction.normal import Plain, join_surrogates, plain_of
from core.security.redaction.numbers import (
    NumberRecogniser,
    lettered_recognisers,
    lettered_unresolved,
    lettered_wanted,
)
from core.security.redaction.tokens import (
    Finding,
    Memo,
    PemRecogniser,
    Recogniser,
    has_long_run,
    token_recognisers,
)
from core.security.redaction.vault import Vault, letters
from core.security.redaction.words import (
    WORD_ALL,
    WORD_ASCII,
    WORD_CAP,
    AssignmentRecogniser,
    CryptoRecogniser,
    EmailRecogniser,
    Ip4Recogniser,
    Ip6Recogniser,
    UrlPasswordRecogniser,
)

# Characters before the undecided part that a stream keeps: words of context, left edges.
CONTEXT_KEPT: Final = 128
# What an allow list compares is never longer than this.
_ALLOW_CAP: Final = 200
KEEP: Final = ""  # the entity of a mask that stands in the text already: kept as it is, not counted


@dataclass(frozen=True, slots=True)
class Redacted:
    """``counts``: replacements by entity. ``blocked``: the entity that refuses the text, which is then empty."""

    text: str
    counts: dict[str, int]
    blocked: str | None = None


class MaskRecogniser(Recogniser):
    """What an earlier pass put in: never looked into again."""

    priority = 0

    def __init__(self, labels: frozenset[str]) -> None:
        ordered = "|".join(sorted(labels, key=lambda one: (-len(one), one)))
        self._pattern = re.compile(rf"\[(?:{ordered})(?:#[a-p]{{10}}(?:-[0-9]{{1,5}})?)?\]")
        self._partial = re.compile(r"\[(?:[A-Z][A-Z0-9_]{0,31}(?:#[a-p]{0,10}(?:-[0-9]{0,5})?)?)?\Z")

    def wanted(self, text: str, low: str) -> bool:
        return "[" in text

    def next_from(self, text: str, low: str, position: int, memo: Memo) -> Finding | None:
        found = self._pattern.search(text, position)
        return (found.start(), 0, found.end(), KEEP, self, -1) if found else None

    def ends_at(self, text: str, end: int) -> bool:
        """Whether a mask stands right before ``end``."""
        at = text.rfind("[", max(0, end - 56), end)
        return at >= 0 and self._pattern.fullmatch(text, at, end) is not None

    def unresolved(self, text: str, low: str, floor: int) -> int:
        at = text.rfind("[", max(floor, len(text) - 56))
        return at if at >= 0 and self._partial.match(text, at) else len(text)


class CustomRecogniser(Recogniser):
    """A tenant's own pattern, matched by RE2."""

    def __init__(self, name: str, compiled: CompiledCustom, priority: int) -> None:
        self.entity = name
        self.priority = priority
        self._regex = compiled.regex
        self._prefix = compiled.prefix
        self._reach = compiled.width + 1

    def wanted(self, text: str, low: str) -> bool:
        return self._prefix in text

    def next_from(self, text: str, low: str, position: int, memo: Memo) -> Finding | None:
        # RE2 encodes the whole text for every call, so one iterator serves a scan; what was consumed across
        # `position` is looked for anew.
        matches = memo.get("matches")
        if matches is None:
            matches = memo["matches"] = self._regex.finditer(text, position)
        for found in matches:
            start, end = found.span()
            if start >= position:
                return (start, self.priority, end, self.entity, self, -1)
            if end > position:
                matches = memo["matches"] = self._regex.finditer(text, position)
                return self.next_from(text, low, position, memo)
        return None

    def unresolved(self, text: str, low: str, floor: int) -> int:
        size = len(text)
        begin = max(floor, size - self._reach)
        if not self._prefix:
            return begin
        at = text.find(self._prefix, begin)
        if at >= 0:
            return at
        for length in range(min(len(self._prefix) - 1, size - begin), 0, -1):
            if text.endswith(self._prefix[:length]):
                return size - length
        return size


@dataclass(slots=True)
class Progress:
    """How far a scan is. Offsets are in the plain form of the text at hand."""

    covered: int = 0  # everything before is replaced or kept as a mask
    replaced: int = 0  # end of the last replacement: words of context before it do not count
    floor: int = 0  # no finding starts before (after an open-ended one)
    resume: dict[Recogniser, int] = field(default_factory=dict)

    def shift(self, by: int) -> None:
        """The text lost its first ``by`` characters."""
        self.covered -= by
        self.replaced -= by
        self.floor -= by
        self.resume = {rec: at - by for rec, at in self.resume.items() if at > by}


@lru_cache(maxsize=1)
def _tokens() -> tuple[Recogniser, ...]:
    return tuple(token_recognisers())


class Redactor:
    """Redaction by one configuration in one direction. Stateless after construction: share it between threads.

    Args:
        config: what is found and what happens to it.
        hash_key: key of the tenant for the action ``hash``; the same value then has the same hash in this tenant.
        direction: "input" (to the model) or "output" (to the client).
    """

    def __init__(self, config: RedactionConfig, hash_key: bytes = b"", direction: str = "input") -> None:
        self.config = config
        self.direction = direction
        self._hash_key = hash_key
        self._actions = {name: config.action(name, direction) for name in ENTITIES}
        self._labels = {name: config.label(name) for name in ENTITIES}
        custom: list[CustomRecogniser] = []
        for number, one in enumerate(config.custom):
            action = config.output.get(one.name, one.action) if direction == "output" else one.action
            if direction == "output" and action == "restore":
                action = "mask"
            self._actions[one.name] = action
            self._labels[one.name] = config.labels.get(one.name, one.label)
            if action != "off":
                custom.append(CustomRecogniser(one.name, compile_custom(one.pattern), 100 + number))
        wanted = frozenset(name for name, action in self._actions.items() if action != "off")
        # Only noted, the text stays: deny lists that flag.
        self._flags = frozenset(name for name, action in self._actions.items() if action == "flag")
        self._active = bool(wanted)
        all_labels = frozenset(self._labels.values()) | {entity.label for entity in ENTITIES.values()}
        self._tokens = tuple(one for one in _tokens() if one.entity in wanted)  # type: ignore[attr-defined]
        self._crypto = CryptoRecogniser() if "CRYPTO" in wanted else None
        self._lettered = tuple(lettered_recognisers(wanted))
        self._masks = MaskRecogniser(all_labels)
        self._others: list[Recogniser] = [self._masks, *custom]
        if "PRIVATE_KEY" in wanted:
            self._others.append(PemRecogniser())
        if "EMAIL_ADDRESS" in wanted:
            self._others.append(EmailRecogniser())
        if "IP_ADDRESS" in wanted:
            self._others += [Ip4Recogniser(), Ip6Recogniser()]
        if wanted & {"PASSWORD", "SECRET"}:
            self._others.append(AssignmentRecogniser(wanted))
        if "URL_PASSWORD" in wanted:
            self._others.append(UrlPasswordRecogniser())
        numbers = NumberRecogniser(wanted, config.regions)
        self._others.append(numbers)
        self._holders = tuple(
            one for one in self._others if type(one).unresolved is not Recogniser.unresolved
        )
        self._allow = frozenset(_allow_key(one) for one in config.allow)
        self._allow_patterns = tuple(compile_re2(one) for one in config.allow_patterns)
        # Characters a stream may withhold at most.
        self.hold_back = max([WORD_CAP, 280, *(one._reach for one in custom)])

    # ---------------------------------------------------------------- whole texts
    def redact(self, text: str, vault: Vault | None = None, *, json_text: bool = False) -> Redacted:
        """Replace every finding. ``json_text``: the text is JSON (tool-call arguments) and stays JSON.

        Without ``vault``, what should be restorable is masked.
        """
        text = join_surrogates(text)
        if not self._active or not text:
            return Redacted(text, {})
        plain = plain_of(text)
        pieces: list[str] = []
        counts: dict[str, int] = {}
        writer = Writer(self, vault, json_text, pieces, counts)
        progress = Progress()
        at = 0
        for finding, start, end in self.scan(plain, 0, len(plain.text) + 1, progress):
            if start < 0:
                writer.note(finding)
                continue
            original = plain.start(start)
            writer.keep(text[at:original])
            at = plain.end(end)
            writer.replace(finding, text[original:at], plain.text[start:end])
            if writer.blocked:
                return Redacted("", counts, writer.blocked)
        if not at:
            return Redacted(text, counts)
        writer.keep(text[at:])
        return Redacted("".join(pieces), counts)

    def stream(self, vault: Vault | None = None, *, json_text: bool = False) -> StreamRedactor:
        """The same for a text that arrives in pieces."""
        from core.security.redaction.stream import StreamRedactor

        return StreamRedactor(self, vault, json_text=json_text)

    # ---------------------------------------------------------------- shared by texts and streams
    def recognisers(self, text: str, low: str) -> list[Recogniser]:
        """Those worth asking about this text."""
        found = [one for one in self._others if one.wanted(text, low)]
        if has_long_run(text):
            found += [one for one in self._tokens if one.wanted(text, low)]
            if self._crypto is not None:
                found.append(self._crypto)
        if self._lettered and lettered_wanted(text):
            found += self._lettered
        return found

    def scan(
        self, plain: Plain, begin: int, limit: int, progress: Progress
    ) -> Iterator[tuple[Finding, int, int]]:
        """Findings that start in [begin, limit), in order, each with the part of it that is to be replaced.

        (-1, -1) for a finding that is only noted.
        """
        text, low = plain.text, plain.low
        memos: dict[Recogniser, Memo] = {}
        ahead: list[Finding] = []
        # What a finding needs stands in it, or shortly before it: a stream's context is not searched again.
        edge = max(0, begin - 120)
        for one in self.recognisers(text[edge:], low[edge:]) if edge else self.recognisers(text, low):
            memo = memos[one] = {}
            position = max(begin, progress.floor, progress.resume.get(one, 0))
            finding = one.next_from(text, low, position, memo)
            if finding is not None and finding[0] < limit:
                ahead.append(finding)
        while ahead:
            finding = min(ahead, key=_order) if len(ahead) > 1 else ahead[0]
            start, _, end, entity, one, needs = finding
            if entity in self._flags:
                yield finding, -1, -1  # noted, nothing is covered by it
            elif start and text[start - 1] == "]" and one.priority < 100 and self._masks.ends_at(text, start):
                # Glued to a mask: before the mask was put there, something stood here that made it no finding.
                pass
            elif end > progress.covered and (needs < 0 or needs >= progress.replaced):
                allowed = entity != KEEP and self._allowed(text[start:end])
                low_end = max(start, progress.covered)
                if one.sticky:
                    progress.floor = end
                if not allowed:
                    yield finding, low_end, end
                    if entity != KEEP:
                        progress.replaced = end
                progress.covered = end
            progress.resume[one] = end
            # Whoever stands before the new floor, and the one just used, look further.
            renewed: list[Finding] = []
            for other in ahead:
                if other is finding or other[0] < progress.floor:
                    found = other[4].next_from(
                        text, low, max(other[2] if other is finding else 0, progress.floor), memos[other[4]]
                    )
                    if found is not None and found[0] < limit:
                        renewed.append(found)
                else:
                    renewed.append(other)
            ahead = renewed

    def unresolved(self, plain: Plain, floor: int) -> int:
        """First position from which more text could still make or change a finding."""
        text, low = plain.text, plain.low
        size = len(text)
        first = max(size - WORD_CAP, len(text.rstrip(WORD_ASCII if text.isascii() else WORD_ALL)))
        for one in self._holders:
            at = one.unresolved(text, low, floor)
            if at < first:
                first = at
        if self._lettered:
            first = min(first, lettered_unresolved(text, floor))
        return max(first, floor)

    def _allowed(self, found: str) -> bool:
        if not (self._allow or self._allow_patterns) or len(found) > _ALLOW_CAP:
            return False
        return _allow_key(found) in self._allow or any(one.fullmatch(found) for one in self._allow_patterns)

    def replacement(self, entity: str, original: str, plain: str, vault: Vault | None) -> str:
        """What stands for a finding; empty when it blocks."""
        action = self._actions[entity]
        label = self._labels[entity]
        if action == "hash":
            digest = hmac.digest(
                self._hash_key, f"{entity}\0{_allow_key(plain)}".encode("utf-8", "replace"), hashlib.sha256
            )
            return f"[{label}#{letters(digest, 10)}]"
        if action == "restore" and vault is not None:
            return vault.put(label, original)
        return "" if action == "block" else f"[{label}]"


def _order(finding: Finding) -> tuple[int, int, int]:
    return finding[0], finding[1], -finding[2]


_SEPARATORS: Final = str.maketrans("", "", " -().")


def _allow_key(text: str) -> str:
    """How values are compared: without case, spaces and separators of numbers."""
    return text.casefold().translate(_SEPARATORS)


class Writer:
    """Puts pieces together. In JSON it knows whether it stands inside a string, so that a number becomes a string."""

    __slots__ = ("_in_string", "_json_text", "_pieces", "_redactor", "_vault", "blocked", "counts")

    def __init__(
        self,
        redactor: Redactor,
        vault: Vault | None,
        json_text: bool,
        pieces: list[str],
        counts: dict[str, int],
    ) -> None:
        self._redactor = redactor
        self._vault = vault
        self._json_text = json_text
        self._pieces = pieces
        self.counts = counts
        self.blocked: str | None = None
        self._in_string = False

    def keep(self, text: str) -> None:
        """Text as it is."""
        if not text:
            return
        self._pieces.append(text)
        if self._json_text and '"' in text:
            bare = text.replace("\\\\", "").replace('\\"', "") if "\\" in text else text
            if bare.count('"') % 2:
                self._in_string = not self._in_string

    def note(self, finding: Finding) -> None:
        """Count a finding that changes nothing."""
        self.counts[finding[3]] = self.counts.get(finding[3], 0) + 1

    def replace(self, finding: Finding, original: str, plain: str) -> None:
        """A finding."""
        entity = finding[3]
        if entity == KEEP:
            self.keep(original)
            return
        self.counts[entity] = self.counts.get(entity, 0) + 1
        if self._json_text and "\\" in original:
            original = _unescaped(original)
        text = self._redactor.replacement(entity, original, plain, self._vault)
        if not text:
            self.blocked = entity
        elif self._json_text and not self._in_string:
            text = f'"{text}"'
        self._pieces.append(text)


def _unescaped(inside: str) -> str:
    """The text a piece of a JSON string stands for; the piece itself when it is not one."""
    try:
        value: Any = json.loads(f'"{inside}"', strict=False)
    except ValueError:
        return inside
    return str(value)


__all__ = ["SECRETS", "Redacted", "Redactor"]

# For annotations only; the module of streams imports this one.
from core.security.redaction.stream import StreamRedactor  # noqa: E402
