"""Numbers that name a person or an account: cards, telephones, social security and other national numbers.

A number counts only when its check digits and shape agree (python-stdnum, phonenumbers), or, where a format has
none, when the text calls it what it is shortly before. A sixteen-digit order number is not a card.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Final

import phonenumbers
from stdnum import iban as stdnum_iban
from stdnum import luhn

from core.security.redaction.tokens import Finding, Memo, Recogniser

# How far before a number the word may stand that says what the number is.
CONTEXT: Final = 48

MAX_GROUPS: Final = 8

_CANDIDATE: Final = re.compile(r"[0-9](?:[ ().\-/]{0,2}[0-9]){6}")
_SPAN: Final = re.compile(r"[+(]{0,2}[0-9](?:[ ().\-/]{0,2}[0-9]){0,18}")
_GROUPS: Final = re.compile(r"[0-9]+")
_DIGITS: Final = re.compile(r"[^0-9]+")
_SSN: Final = re.compile(r"(?!000|666)[0-8][0-9]{2}([- .])(?!00)[0-9]{2}\1(?!0000)[0-9]{4}")
_ITIN: Final = re.compile(r"9[0-9]{2}([- ])(?:5[0-9]|6[0-5]|7[0-9]|8[0-8]|9[0-24-9])\1[0-9]{4}")
_NANP: Final = re.compile(
    r"(?:\+?1[ .\-]?)?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .\-/])[0-9]{3}[ .\-][0-9]{4}"
)
_LOCAL: Final = re.compile(r"[2-9][0-9]{2}[-.][0-9]{4}")
_DATE: Final = re.compile(
    r"(?:(?:19|20)[0-9]{2}([-./])[01]?[0-9]\1[0-3]?[0-9]|[0-3]?[0-9]([-./])[0-3]?[0-9]\2(?:19|20)?[0-9]{2})(?![0-9])"
)
_CARD_SHAPES: Final = frozenset(
    {(4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3), (4, 4, 4, 1), (6, 13), (4, 4, 5), (8, 8)}
)
_PHONE_WORDS: Final = re.compile(
    r"(?<![a-z])(?:tele)?phone|(?<![a-z])(?:tel|call|mobile|cell|fax|whatsapp|handy|telefon|téléphone|teléfono|text me|"
    r"sms|dial|hotline)(?![a-z])"
)

# Beginnings and lengths of the networks' numbers: Visa, Mastercard, American Express, Diners, JCB, UnionPay, Discover.
_ISSUERS: Final = (
    (("4",), frozenset({13, 16, 19})),
    (("51", "52", "53", "54", "55", *(str(n) for n in range(2221, 2721))), frozenset({16})),
    (("34", "37"), frozenset({15})),
    (("30", "36", "38", "39"), frozenset({14, 16, 17, 18, 19})),
    (("35",), frozenset({16, 17, 18, 19})),
    (("50", "56", "57", "58", "6"), frozenset({13, 14, 15, 16, 17, 18, 19})),
)
# Lengths of IBANs by country: the IBAN registry.
IBAN_LENGTHS: Final = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28, "CH": 21,
    "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FO": 18, "FR": 27,
    "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26,
    "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27, "MD": 24,
    "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29,
    "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TN": 24, "TR": 26, "UA": 29, "VA": 22,
    "VG": 24, "XK": 20,
}  # fmt: skip


def _check(module: str) -> Callable[[str], bool]:
    """The validator of a python-stdnum module, loaded at first use."""
    cache: list[Callable[[str], bool]] = []

    def valid(number: str) -> bool:
        if not cache:
            cache.append(import_module(f"stdnum.{module}").is_valid)
        try:
            return bool(cache[0](number))
        except Exception:  # some validators raise on odd input instead of answering no
            return False

    return valid


@dataclass(frozen=True, slots=True)
class _Kind:
    """A number of digits only. ``words`` None: its check digits and prefix are enough."""

    entity: str
    lengths: frozenset[int]
    valid: Callable[[str], bool]
    words: re.Pattern[str] | None


def _words(text: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z])(?:{text})(?![a-z])")


_KINDS: Final = (
    _Kind("US_SSN", frozenset({9}), _check("us.ssn"), _words("ssn|social security(?: number)?|soc sec")),
    _Kind("US_ITIN", frozenset({9}), _check("us.itin"), _words("itin|taxpayer")),
    _Kind("UK_NHS", frozenset({10}), _check("gb.nhs"), _words("nhs|national health")),
    _Kind("PL_PESEL", frozenset({11}), _check("pl.pesel"), _words("pesel")),
    _Kind("FR_NIR", frozenset({15}), _check("fr.nir"), _words("nir|insee|sécurité sociale|securite sociale|social security")),
    _Kind("DE_TAX_ID", frozenset({11}), _check("de.idnr"), _words("steuer-?id\\w*|idnr|tin|tax id\\w*|steuernummer|steuerliche identifikationsnummer")),
    _Kind("NL_BSN", frozenset({9}), _check("nl.bsn"), _words("bsn|burgerservicenummer|sofinummer")),
    _Kind("BE_NN", frozenset({11}), _check("be.nn"), _words("rijksregister\\w*|registre national|national number|nrn|niss|insz")),
    _Kind("IN_AADHAAR", frozenset({12}), _check("in_.aadhaar"), _words("aadhaar|aadhar|uidai|uid")),
    _Kind("BR_CPF", frozenset({11}), _check("br.cpf"), _words("cpf")),
    _Kind("CA_SIN", frozenset({9}), _check("ca.sin"), _words("sin|social insurance(?: number)?")),
    _Kind("AU_TFN", frozenset({8, 9}), _check("au.tfn"), _words("tfn|tax file(?: number)?")),
    _Kind("CH_AHV", frozenset({13}), _check("ch.ssn"), None),
    _Kind("ABA_ROUTING_NUMBER", frozenset({9}), _check("us.rtn"), _words("routing(?: number| no)?|aba|rtn")),
    _Kind("BANK_ACCOUNT", frozenset(range(7, 18)), lambda number: True,
          _words("account (?:number|no|nr)|acct|bank account|kontonummer|account #|a/c")),
    _Kind("PASSPORT", frozenset({8, 9}), lambda number: True, _words("passports?(?: number| no| nr)?|reisepass|passeport")),
    _Kind("DRIVER_LICENSE", frozenset(range(7, 14)), lambda number: True,
          _words("driver'?s?'? licen[cs]e|driving licen[cs]e|dl number|führerschein")),
    _Kind("DATE_OF_BIRTH", frozenset({6, 7, 8}), lambda number: True, _words("born|birth ?date|date of birth|dob|birthday|geboren|geburtsdatum|né le|née le")),
)  # fmt: skip
_BY_LENGTH: Final = {
    length: tuple(kind for kind in _KINDS if length in kind.lengths) for length in range(6, 20)
}
# Dotted formats that are unmistakable without a word: Brazilian CPF, Belgian number, Swiss AHV.
_CPF: Final = re.compile(r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}")


def _context(low: str, start: int, words: re.Pattern[str], memo: Memo) -> int:
    """Where the nearest such word before ``start`` begins; -1 when there is none. Never looks across a ``]``."""
    first = memo.get(words.pattern)
    if first is None:  # most texts have none at all: one search for the whole text
        match = words.search(low)
        first = memo[words.pattern] = match.start() if match else len(low)
    if first >= start:
        return -1
    begin = max(0, start - CONTEXT)
    bracket = low.rfind("]", begin, start)
    if bracket >= 0:
        begin = bracket + 1
    found = -1
    for match in words.finditer(low, begin, start):
        found = match.start()
    return found


class NumberRecogniser(Recogniser):
    """Everything that is made of digits and separators."""

    priority = 70
    # Longest stretch that one finding may take, and the alphabet a finding and its right edge are made of.
    CAP = 64
    ALPHABET = "0123456789 ().-/+"

    def __init__(self, entities: Collection[str], regions: Sequence[str]) -> None:
        self._entities = frozenset(entities)
        self._regions = tuple(regions)

    def wanted(self, text: str, low: str) -> bool:
        return _CANDIDATE.search(text) is not None

    def next_from(self, text: str, low: str, position: int, memo: Memo) -> Finding | None:
        size = len(text)
        at = position
        while (found := _CANDIDATE.search(text, at)) is not None:
            digit = found.start()
            start = digit
            while start > position and digit - start < 2 and text[start - 1] in "(+":
                start -= 1
            # Every place where the number may begin is judged by itself, whatever was looked at before.
            for begin in range(start, digit + 1):
                before = text[begin - 1] if begin else " "
                if before.isalnum() or before in "_+":
                    continue
                finding = self._judge(text, low, begin, memo)
                if finding is not None:
                    return finding
            at = digit + 1
            while at < size and "0" <= text[at] <= "9":
                at += 1
        return None

    def _judge(self, text: str, low: str, start: int, memo: Memo) -> Finding | None:
        span = _SPAN.match(text, start)
        if span is None:
            return None
        groups = [(m.start(), m.end()) for m in _GROUPS.finditer(text, start, span.end())]
        # No number is written in more groups than this; lists of small numbers are left early.
        del groups[MAX_GROUPS:]
        entities = self._entities
        plus = text[start] == "+"
        # (end, digits up to there) for every end that is a right edge, the longest first.
        ends: list[tuple[int, int, int]] = []
        digits = 0
        for number, (low_at, high_at) in enumerate(groups):
            digits += high_at - low_at
            after = text[high_at : high_at + 1]
            if after.isalnum() or after == "_":
                continue
            ends.append((high_at, digits, number))
        ends.reverse()
        for end, digits, number in ends:
            if digits < 6:
                break
            part = text[start:end]
            if not plus and digits >= 9:
                if (
                    "CREDIT_CARD" in entities
                    and 13 <= digits <= 19
                    and self._is_card(text, part, groups[: number + 1])
                ):
                    return (start, 70, end, "CREDIT_CARD", self, -1)
                if digits == 9:
                    if "US_SSN" in entities and _SSN.fullmatch(part):
                        return (start, 71, end, "US_SSN", self, -1)
                    if "US_ITIN" in entities and _ITIN.fullmatch(part):
                        return (start, 71, end, "US_ITIN", self, -1)
                if digits == 11 and "BR_CPF" in entities and _CPF.fullmatch(part) and _KINDS[9].valid(part):
                    return (start, 71, end, "BR_CPF", self, -1)
            if not plus:
                found = self._national(low, start, end, digits, part, memo)
                if found is not None:
                    return found
            if "PHONE_NUMBER" in entities and 7 <= digits <= 15:
                needs = self._phone(text, low, start, part, digits, memo)
                if needs is not None:
                    return (start, 73, end, "PHONE_NUMBER", self, needs)
        return None

    def _is_card(self, text: str, part: str, groups: list[tuple[int, int]]) -> bool:
        if len(groups) > 1:
            sizes = tuple(high - low for low, high in groups)
            if sizes not in _CARD_SHAPES and not (
                len(set(sizes[:-1])) == 1 and sizes[0] >= 2 and sizes[-1] <= 5
            ):
                return False
            if any(
                text[groups[i][1] : groups[i + 1][0]] not in (" ", "-", ".") for i in range(len(groups) - 1)
            ):
                return False
        number = _DIGITS.sub("", part)
        if not any(number.startswith(prefixes) and len(number) in lengths for prefixes, lengths in _ISSUERS):
            return False
        return len(set(number)) > 1 and bool(luhn.is_valid(number))

    def _national(self, low: str, start: int, end: int, digits: int, part: str, memo: Memo) -> Finding | None:
        number = ""
        for kind in _BY_LENGTH.get(digits, ()):
            if kind.entity not in self._entities:
                continue
            needs = -1
            if kind.words is None:
                if not part.startswith("756"):
                    continue
            else:
                needs = _context(low, start, kind.words, memo)
                if needs < 0:
                    continue
            if kind.entity == "DATE_OF_BIRTH":
                if not _DATE.fullmatch(part):
                    continue
            else:
                if _DATE.fullmatch(part):
                    continue
                number = number or _DIGITS.sub("", part)
                if not kind.valid(number):
                    continue
            return (start, 72, end, kind.entity, self, needs)
        return None

    def _phone(self, text: str, low: str, start: int, part: str, digits: int, memo: Memo) -> int | None:
        """Start of the word it depends on, -1 for none; None when it is no telephone number."""
        before = text[start - 1] if start else " "
        if (
            before in ".-/,:#=$€£"
            and start > 1
            and text[start - 2].isalnum()
            and before != ":"
            and before != "="
        ):
            return None
        if part.count("(") != part.count(")"):
            return None
        if part[0] == "+":
            if digits < 8:
                return None
            try:
                number = phonenumbers.parse(part, None)
            except phonenumbers.NumberParseException:
                return None
            return -1 if phonenumbers.is_possible_number(number) else None
        if _NANP.fullmatch(part):
            return -1
        if _DATE.match(part):
            return None
        end = start + len(part)
        if text[end : end + 1] == "-" and text[end + 1 : end + 2].isalnum():
            return None  # the middle of an identifier
        separated = not part.isdigit() and not ("." in part and " " in part)
        first = part.lstrip("(")
        if separated and 9 <= digits <= 13 and first[0] == "0" and "/" not in part[3:]:
            if first.startswith("00"):
                try:
                    number = phonenumbers.parse("+" + first[2:], None)
                except phonenumbers.NumberParseException:
                    return None
                return -1 if phonenumbers.is_valid_number(number) else None
            if self._valid_somewhere(part):
                return -1
        needs = _context(low, start, _PHONE_WORDS, memo)
        if needs < 0:
            return None
        if _LOCAL.fullmatch(part) or (9 <= digits <= 13 and self._valid_somewhere(part)):
            return needs
        return None

    def _valid_somewhere(self, part: str) -> bool:
        for region in self._regions:
            try:
                number = phonenumbers.parse(part, region)
            except phonenumbers.NumberParseException:
                continue
            if phonenumbers.is_valid_number(number):
                return True
        return False

    def unresolved(self, text: str, low: str, floor: int) -> int:
        return trailing_run(text, floor, self.ALPHABET, self.CAP, " ).-/")


def trailing_run(text: str, floor: int, alphabet: str, cap: int, skip: str) -> int:
    """Where the run of ``alphabet`` at the end of the text begins, at most ``cap`` back, without leading ``skip``."""
    size = len(text)
    begin = max(floor, size - cap)
    tail = text[begin:]
    run = tail[len(tail.rstrip(alphabet)) :]
    return size - len(run.lstrip(skip)) if run else size


_RIGHT: Final = r"(?![A-Za-z0-9_])"
_IBAN: Final = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]){11,30}")


# Two digits with a capital right before them, or more digits and a capital after: part of every such number. It
# begins with digits, because the regular expression engine skips to those quickly.
_LETTERED_GATE: Final = re.compile(
    r"[0-9]{2}(?:(?<=[A-Z][0-9][0-9])|(?<=[A-Z][ -][0-9][0-9])|[0-9]-?[A-Z]|[0-9]{4}[-+A-FU-Y][0-9]{3})"
)
LETTERED_CAP: Final = 64
LETTERED_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -+"


def lettered_wanted(text: str) -> bool:
    """Whether the text has capitals beside digits as all of these numbers have."""
    return _LETTERED_GATE.search(text) is not None


def lettered_unresolved(text: str, floor: int) -> int:
    """First position from which more text could still make such a number."""
    return trailing_run(text, floor, LETTERED_ALPHABET, LETTERED_CAP, " -+")


class LetteredRecogniser(Recogniser):
    """A national number with capital letters in it: finds the pattern, then asks the validator."""

    def __init__(self, entity: str, pattern: str, valid: Callable[[str], bool], words: str = "") -> None:
        self.entity = entity
        self._pattern = re.compile(rf"(?<![A-Za-z0-9_]){pattern}{_RIGHT}")
        self._valid = valid
        self._words = _words(words) if words else None

    def next_from(self, text: str, low: str, position: int, memo: Memo) -> Finding | None:
        at = position
        while (found := self._pattern.search(text, at)) is not None:
            start = found.start()
            needs = -1 if self._words is None else _context(low, start, self._words, memo)
            if (self._words is None or needs >= 0) and self._valid(found.group()):
                return (start, self.priority, found.end(), self.entity, self, needs)
            at = start + 1
        return None


class IbanRecogniser(Recogniser):
    """An IBAN of its country's length whose check digits agree, in one piece or in groups."""

    priority = 49
    entity = "IBAN_CODE"

    def next_from(self, text: str, low: str, position: int, memo: Memo) -> Finding | None:
        at = position
        while (found := _IBAN.search(text, at)) is not None:
            end = self._end(text, found.start(), found.end())
            if end is not None:
                return (found.start(), self.priority, end, self.entity, self, -1)
            at = found.start() + 1
        return None

    def _end(self, text: str, start: int, limit: int) -> int | None:
        length = IBAN_LENGTHS.get(text[start : start + 2])
        if length is None:
            return None
        seen = 0
        for at in range(start, limit):
            if text[at] not in " -":
                seen += 1
                if seen == length:
                    after = text[at + 1 : at + 2]
                    number = text[start : at + 1].replace(" ", "").replace("-", "")
                    if after.isalnum() or after == "_" or not stdnum_iban.is_valid(number):
                        return None
                    return at + 1
        return None


_es_dni: Final = _check("es.dni")
_es_nie: Final = _check("es.nie")


def _es(number: str) -> bool:
    plain = number.replace("-", "")
    return _es_nie(plain) if plain[0] in "XYZ" else _es_dni(plain)


def _nric(number: str) -> bool:
    """Check letter of a Singapore NRIC or FIN (weights 2765432)."""
    total = sum(w * int(d) for w, d in zip((2, 7, 6, 5, 4, 3, 2), number[1:8], strict=True))
    if number[0] in "TG":
        total += 4
    elif number[0] == "M":
        total += 3
        return number[8] == "KLJNPQRTUWX"[10 - total % 11]
    return number[8] == ("JZIHGFEDCBA" if number[0] in "ST" else "XWUTRQPNMLK")[total % 11]


_LETTERED: Final = (
    LetteredRecogniser("UK_NINO", r"(?![DFIQUV]|BG|GB|KN|NK|NT|TN|ZZ)[A-Z](?![DFIOQUV])[A-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]", lambda n: True),
    LetteredRecogniser("ES_NIF", r"(?:[0-9]{8}-?[A-Z]|[XYZ]-?[0-9]{7}-?[A-Z])", _es),
    LetteredRecogniser("IT_FISCAL_CODE", r"[A-Z]{6}[0-9]{2}[ABCDEHLMPRST][0-9LMNPQRSTUV]{2}[A-Z][0-9LMNPQRSTUV]{3}[A-Z]", _check("it.codicefiscale")),
    LetteredRecogniser("IN_PAN", r"[A-Z]{3}[ABCFGHJLPT][A-Z][0-9]{4}[A-Z]", lambda n: True),
    LetteredRecogniser("FI_HETU", r"[0-3][0-9][01][0-9]{3}[-+A-FU-Y][0-9]{3}[0-9A-Y]", _check("fi.hetu")),
    LetteredRecogniser("SG_NRIC", r"[STFGM][0-9]{7}[A-Z]", _nric),
    LetteredRecogniser("PASSPORT", r"[A-Z]{1,2}[0-9]{6,8}", lambda n: True, "passports?(?: number| no| nr)?|reisepass|passeport"),
    LetteredRecogniser("DRIVER_LICENSE", r"[A-Z]{1,2}[0-9]{6,12}", lambda n: True, "driver'?s?'? licen[cs]e|driving licen[cs]e|dl number|führerschein"),
    LetteredRecogniser("DRIVER_LICENSE", r"[A-Z][A-Z9]{4}[0-9][0156][0-9][0-3][0-9][0-9][A-Z9]{2}[A-Z0-9]{3}", lambda n: True),
)  # fmt: skip


for _number, _one in enumerate(_LETTERED):
    _one.priority = 50 + _number  # distinct, so that the order of two findings never depends on chance


def lettered_recognisers(entities: Collection[str]) -> list[Recogniser]:
    """Those of the wanted entities."""
    made: list[Recogniser] = [one for one in _LETTERED if one.entity in entities]
    if "IBAN_CODE" in entities:
        made.append(IbanRecogniser())
    return made
