"""Keys and tokens known by their shape: a short head that decides, then every character that may belong to it.

The head is bounded and decides alone, so a key of any length is caught whole, and a stream knows it from its
first characters. Shapes are those the providers document or that public scanners use.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

# One finding: start, priority (small wins at the same start), end, entity, recogniser, start of the word that it
# depends on (-1: none). Offsets are in the plain form.
Finding = tuple[int, int, int, str, "Recogniser", int]
# What a recogniser wants to remember while one text is scanned.
Memo = dict[str, Any]


class Recogniser:
    """Finds one family of things. Subclasses are stateless: one instance serves all threads."""

    priority: int = 50
    # True when a finding that reaches the end of what is known may go on without a limit.
    sticky: bool = False

    def wanted(self, text: str, low: str) -> bool:
        """A cheap test that refuses most texts."""
        raise NotImplementedError

    def next_from(self, text: str, low: str, position: int, memo: Memo) -> Finding | None:
        """The first finding that starts at ``position`` or later."""
        raise NotImplementedError

    def extend(self, text: str, start: int) -> int:
        """Of a sticky finding that is still open: where it ends in ``text`` from ``start``; -1 when it goes on."""
        raise NotImplementedError

    def unresolved(self, text: str, low: str, floor: int) -> int:
        """First position from which more text could still make or change a finding; len(text) for none."""
        return len(text)


@dataclass(frozen=True, slots=True)
class _Shape:
    entity: str
    gates: tuple[str, ...]
    head: str
    tail: str = "A-Za-z0-9_-"  # characters that go on after the head; "" for a fixed length


_SHAPES: Final = (
    _Shape("ANTHROPIC_KEY", ("sk-ant-",), r"sk-ant-[A-Za-z0-9_-]{12}"),
    _Shape(
        "OPENAI_KEY",
        ("sk-",),
        r"sk-(?=[A-Za-z0-9_-]{0,24}[A-Z0-9])(?:proj-|svcacct-|admin-|None-|or-v1-)?[A-Za-z0-9_-]{16}",
    ),
    _Shape("AWS_ACCESS_KEY", ("AKIA", "ASIA", "ABIA", "ACCA", "AROA", "AIDA"),
           r"(?:AKIA|ASIA|ABIA|ACCA|AROA|AIDA)[A-Z0-9]{16}(?![A-Za-z0-9])", ""),
    _Shape("GITHUB_TOKEN", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"gh[pousr]_[A-Za-z0-9]{20}", "A-Za-z0-9_"),
    _Shape("GITHUB_TOKEN", ("github_pat_",), r"github_pat_[A-Za-z0-9_]{20}", "A-Za-z0-9_"),
    _Shape("GITLAB_TOKEN", ("glpat-", "gldt-", "glrt-", "glptt-", "gloas-", "glft-", "glimt-", "glagent-", "glcbt-", "glsoat-"),
           r"gl(?:pat|dt|rt|ptt|oas|ft|imt|agent|cbt|soat)-[A-Za-z0-9_-]{16}", "A-Za-z0-9_.-"),
    _Shape("SLACK_TOKEN", ("xox", "xapp-"), r"(?:xox[abceoprs]-|xapp-[0-9]-)[A-Za-z0-9-]{10}", "A-Za-z0-9-"),
    _Shape("SLACK_TOKEN", ("hooks.slack.com/",), r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/]{12}", "A-Za-z0-9+/_-"),
    _Shape("STRIPE_KEY", ("_live_", "_test_", "whsec_"), r"(?:(?:sk|rk|pk)_(?:live|test)_|whsec_)[A-Za-z0-9]{10}", "A-Za-z0-9_+/="),
    _Shape("GOOGLE_KEY", ("AIza",), r"AIza[0-9A-Za-z_-]{30}"),
    _Shape("GOOGLE_KEY", ("ya29.",), r"ya29\.[0-9A-Za-z_-]{16}", "A-Za-z0-9_.-"),
    _Shape("GOOGLE_KEY", ("GOCSPX-",), r"GOCSPX-[0-9A-Za-z_-]{16}"),
    _Shape("SIGNOFF_KEY", ("sgn_",), r"sgn_[a-z][a-z0-9_]{0,47}_[A-Za-z0-9]{12}_[A-Za-z0-9]{8}", "A-Za-z0-9"),
    # The first bytes of {"alg", {"typ", {"kid" and other header names, in base64url.
    _Shape("JWT", ("eyJ", "ewog", "ewoJ", "eyAi"),
           r"(?:eyJ(?:hbGci|0eXAi|raWQi|lbmMi|jdHki|6aXAi|4NXQi|4NWMi|4NXUi|qa3Ui|qd2si|jcml0|hcHUi|lcGsi|p2Ii)|eyAiYWxn|eyAidHlw|ewogICJhbGci|ewogICJ0eXAi|ewoJImFsZyI)[A-Za-z0-9_=-]{8}",
           "A-Za-z0-9_.=-"),
    _Shape("CLOUD_KEY", ("hf_",), r"hf_[A-Za-z0-9]{24}", "A-Za-z0-9"),
    _Shape("CLOUD_KEY", ("npm_",), r"npm_[A-Za-z0-9]{30}", "A-Za-z0-9"),
    _Shape("CLOUD_KEY", ("pypi-",), r"pypi-AgE[A-Za-z0-9_-]{20}"),
    _Shape("CLOUD_KEY", ("SG.",), r"SG\.[A-Za-z0-9_-]{20,24}\.[A-Za-z0-9_-]{20}"),
    _Shape("CLOUD_KEY", ("key-",), r"key-[0-9a-f]{32}(?![A-Za-z0-9])", ""),
    _Shape("CLOUD_KEY", ("dop_v1_", "doo_v1_", "dor_v1_"), r"do[opr]_v1_[a-f0-9]{32}", "a-f0-9"),
    _Shape("CLOUD_KEY", ("shpat_", "shpca_", "shppa_", "shpss_"), r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{24}", "a-fA-F0-9"),
    _Shape("CLOUD_KEY", ("sq0",), r"sq0(?:atp|csp|idp)-[0-9A-Za-z_-]{20}"),
    _Shape("CLOUD_KEY", ("dapi",), r"dapi[0-9a-f]{32}", "a-f0-9-"),
    _Shape("CLOUD_KEY", ("hvs.", "hvb."), r"hv[sb]\.[A-Za-z0-9_-]{20}"),
    _Shape("CLOUD_KEY", ("gsk_", "xai-", "pplx-", "r8_", "nvapi-", "fw_", "csk-"),
           r"(?:gsk_|xai-|pplx-|r8_|nvapi-|fw_|csk-)[A-Za-z0-9_-]{22}"),
    _Shape("CLOUD_KEY", ("sntrys_", "PMAK-", "lin_api_", "ATATT3", "NRAK-", "dckr_pat_", "tskey-", "rubygems_", "glc_", "glsa_", "AGE-SECRET-KEY-1", "figd_", "EAACEdEose0cBA"),
           r"(?:sntrys_|PMAK-|lin_api_|ATATT3|NRAK-|dckr_pat_|tskey-[a-z]+-|rubygems_|glc_|glsa_|AGE-SECRET-KEY-1|figd_|EAACEdEose0cBA)[A-Za-z0-9_=-]{16}",
           "A-Za-z0-9_=-"),
    _Shape("CLOUD_KEY", ("AC", "SK"), r"(?:AC|SK)[0-9a-f]{32}(?![A-Za-z0-9])", ""),
    _Shape("CLOUD_KEY", (":AA",), r"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}"),
)  # fmt: skip

# Every shape has this many characters of a key in a row (a JWT header, a webhook's path, ... as well).
# Not longer than the shortest head above: the answer must not depend on what else the text holds.
_LONG_RUN: Final = re.compile(r"[A-Za-z0-9_\-.=/:]{14}")


def has_long_run(text: str) -> bool:
    """Whether the text could hold any of these shapes at all."""
    return _LONG_RUN.search(text) is not None


class TokenRecogniser(Recogniser):
    """One shape."""

    def __init__(self, shape: _Shape, priority: int) -> None:
        self.entity = shape.entity
        self.priority = priority
        self.sticky = bool(shape.tail)
        self._gates = shape.gates
        self._head = re.compile(rf"(?<![A-Za-z0-9])(?:{shape.head})")
        self._stop = re.compile(rf"[^{shape.tail}]") if shape.tail else None

    def wanted(self, text: str, low: str) -> bool:
        for gate in self._gates:  # noqa: SIM110  # a generator costs more than the test itself
            if gate in text:
                return True
        return False

    def next_from(self, text: str, low: str, position: int, memo: Memo) -> Finding | None:
        found = self._head.search(text, position)
        if found is None:
            return None
        end = found.end()
        if self._stop is not None:
            end = self.extend(text, end)
            if end < 0:
                end = len(text)
        return (found.start(), self.priority, end, self.entity, self, -1)

    def extend(self, text: str, start: int) -> int:
        assert self._stop is not None
        stop = self._stop.search(text, start)
        return stop.start() if stop else -1


class PemRecogniser(Recogniser):
    """A private key block, from its first line to its last; without a last line, to the end of the text."""

    entity = "PRIVATE_KEY"
    priority = 1
    sticky = True
    CAP = 720  # characters a head may take, with the encryption headers of old formats

    _BEGIN = r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    _HEADERS = r"(?:[A-Za-z][A-Za-z-]{1,24}: ?[^\n\"]{0,90}\n\s{0,4}){0,4}"
    _head = re.compile(_BEGIN + r"[^A-Za-z0-9+/]{0,24}" + _HEADERS + r"[A-Za-z0-9+/=]{12}")
    _partial = re.compile(
        r"-----BEGIN(?: [A-Z0-9 ]{0,60})?(?:-{1,4}\Z|-----[^A-Za-z0-9+/]{0,24}"
        + _HEADERS
        + r"(?:[A-Za-z][A-Za-z-]{0,24}(?:: ?[^\n\"]{0,90}\n?\s{0,4})?|[A-Za-z0-9+/=]{0,11})\Z|\Z)"
    )
    _end = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")

    def wanted(self, text: str, low: str) -> bool:
        return "-----BEGIN" in text

    def next_from(self, text: str, low: str, position: int, memo: Memo) -> Finding | None:
        found = self._head.search(text, position)
        if found is None:
            return None
        end = self.extend(text, found.start())
        return (found.start(), self.priority, end if end >= 0 else len(text), self.entity, self, -1)

    def extend(self, text: str, start: int) -> int:
        found = self._end.search(text, start)
        return found.end() if found else -1

    def unresolved(self, text: str, low: str, floor: int) -> int:
        at = text.find("-----BEGIN", max(floor, len(text) - self.CAP))
        while at >= 0:
            if self._partial.match(text, at) and not self._head.match(text, at):
                return at
            at = text.find("-----BEGIN", at + 1)
        return len(text)


def token_recognisers() -> list[Recogniser]:
    """All shapes, more specific ones first."""
    return [TokenRecogniser(shape, 2 + number) for number, shape in enumerate(_SHAPES)]
