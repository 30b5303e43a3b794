"""Measure redaction on this machine: what it costs, how much it finds, and how long streams wait.

    python benchmarks/redaction.py speed      # microseconds per 1 kB prompt, and per chunk of a stream
    python benchmarks/redaction.py quality    # precision and recall by entity on a labelled synthetic set
    python benchmarks/redaction.py hold       # characters withheld when text arrives in token-sized pieces

The labelled set is made here from a seed: sentences of the installed package presidio-evaluator (only its template
file is read; ``pip install --no-deps presidio-evaluator==0.3.2``), and sentences of our own, filled with valid values,
beside texts that look alike and hold nothing. Its figures describe this set, not your traffic.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import re
import statistics
import string
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import phonenumbers
from stdnum import luhn
from stdnum.iso7064 import mod_97_10

from core.evidence.statistics.proportions import wilson_interval
from core.security.redaction import RedactionConfig, Redactor
from core.security.redaction.normal import plain_of
from core.security.redaction.redactor import Progress

PROSE = (
    "Dear colleague, thank you for sending the draft of the quarterly review. I read it on the train this morning and have "
    "a few remarks. The second section says that latency improved by a third since the spring, but the chart beside it begins "
    "in June, so the reader cannot see the comparison. Please extend it, or say in the caption where the earlier figures are "
    "kept. In section 4 the cost per query is given without the share of cached tokens; finance asked for both last time. "
    "The paragraph about the pilot with the logistics team is good, and I would move it to the front because it carries the "
    "argument of the whole document. Two small things: the word significant is used where no test was made, and the key of "
    "the last figure has its colours swapped. Could you also ask somebody from support to read the part about incidents? "
    "They will know whether the order of events is right. I am out of the office until 14:30 on Thursday and answer then. "
    "Best regards and many thanks for the careful work on a difficult subject. "
)  # fmt: skip


def speed() -> None:
    redactor = Redactor(RedactionConfig(), b"benchmark")
    clean = (PROSE * 2)[:1024]
    some = clean[:900] + " Write to jane.doe@example.com or call +44 20 7946 0958, card 4111 1111 1111 1111."
    many = ("jane@example.com 4111 1111 1111 1111 +44 20 7946 0958 DE89370400440532013000 " * 20)[:1024]
    print("whole texts of 1 kB, microseconds: median of 300 [5th, 95th percentile]; findings")
    for name, text in (
        ("prose, nothing in it", clean),
        ("three findings", some),
        ("nothing but findings", many),
    ):
        for _ in range(30):
            found = redactor.redact(text)
        times = []
        for _ in range(300):
            began = time.perf_counter()
            redactor.redact(text)
            times.append((time.perf_counter() - began) * 1e6)
        times.sort()
        print(
            f"  {name:24} {statistics.median(times):7.0f} [{times[15]:.0f}, {times[285]:.0f}]  n={sum(found.counts.values())}"
        )
    chunks = [clean[i : i + 50] for i in range(0, 1000, 50)]
    times = []
    for _ in range(300):
        began = time.perf_counter()
        stream = redactor.stream()
        for chunk in chunks:
            stream.push(chunk)
        stream.finish()
        times.append((time.perf_counter() - began) * 1e6)
    print(
        f"stream of 20 chunks of 50 characters: {statistics.median(times):.0f} us, {statistics.median(times) / 20:.1f} a chunk"
    )
    tokens = re.findall(r"\s?\S{1,5}", clean)
    times = []
    for _ in range(100):
        began = time.perf_counter()
        stream = redactor.stream()
        for token in tokens:
            stream.push(token)
        stream.finish()
        times.append((time.perf_counter() - began) * 1e6 / len(tokens))
    print(f"stream of tokens: {statistics.median(times):.1f} us a token, n={len(tokens)} tokens")
    print("hostile inputs of 200,000 characters, milliseconds")
    for name, text in (
        ("digits and spaces", "1 " * 100_000),
        ("one digit run", "1" * 200_000),
        ("at signs", "@" * 200_000),
        ("a@a@a@", "a@" * 100_000),
        ("addresses", "a@b.co " * 28_571),
        ("password=", "password=" * 22_222),
        ("IBAN look-alikes", "DE89 3704 0044 " * 13_333),
        ("tokens", "sk-Ab1" * 33_333),
        ("PEM beginnings", "-----BEGIN PRIVATE KEY-----\n" * 7_142),
        ("brackets", "[" * 200_000),
        ("://a:b", "://a:b" * 33_333),
        ("zero-width", "a\u200b" * 100_000),
        ("backslashes", "\\" * 200_000),
    ):
        began = time.perf_counter()
        redactor.redact(text)
        print(f"  {name:24} {(time.perf_counter() - began) * 1e3:8.0f}")


# ---------------------------------------------------------------- labelled texts
FIRST = [
    "Anna",
    "Björn",
    "Carla",
    "Deepak",
    "Elena",
    "Farid",
    "Grace",
    "Hugo",
    "Ines",
    "Jonas",
    "Kemi",
    "Liam",
    "Mina",
    "Noah",
    "Olga",
    "Pedro",
    "Qiu",
    "Rosa",
    "Sven",
    "Tara",
]
LAST = [
    "Almeida",
    "Brandt",
    "Costa",
    "Dubois",
    "Eriksen",
    "Fischer",
    "Garcia",
    "Hughes",
    "Ivanov",
    "Jansen",
    "Khan",
    "Lopez",
    "Meyer",
    "Novak",
    "Okafor",
    "Patel",
]
CITY = [
    "Lyon",
    "Porto",
    "Leeds",
    "Utrecht",
    "Graz",
    "Turin",
    "Malmö",
    "Bristol",
    "Gdansk",
    "Austin",
    "Pune",
    "Recife",
]


class Maker:
    def __init__(self, seed: int) -> None:
        self.r = random.Random(seed)

    def digits(self, n: int) -> str:
        return "".join(self.r.choice(string.digits) for _ in range(n))

    def alnum(self, n: int) -> str:
        return "".join(self.r.choice(string.ascii_letters + string.digits) for _ in range(n))

    def card(self) -> str:
        prefix, length = self.r.choice(
            [("4", 16), ("51", 16), ("55", 16), ("2221", 16), ("34", 15), ("37", 15), ("6011", 16)]
        )
        body = prefix + self.digits(length - len(prefix) - 1)
        number = body + luhn.calc_check_digit(body)
        if len(number) == 16 and self.r.random() < 0.5:
            sep = self.r.choice(" -")
            return sep.join(number[i : i + 4] for i in range(0, 16, 4))
        return number

    def iban(self) -> str:
        country, length = self.r.choice(
            [("DE", 22), ("FR", 27), ("NL", 18), ("GB", 22), ("AT", 20), ("PL", 28), ("DK", 18)]
        )
        body = self.digits(length - 4)
        if country == "GB":
            body = "NWBK" + self.digits(14)
        if country == "NL":
            body = "ABNA" + self.digits(10)
        if country == "FR":  # its own check digits as well
            base = self.digits(21)
            body = (
                base + f"{97 - (89 * int(base[:5]) + 15 * int(base[5:10]) + 3 * int(base[10:21])) % 97:02d}"
            )
        if country == "PL":
            base = self.digits(7)
            check = -sum(w * int(d) for w, d in zip((3, 9, 7, 1, 3, 9, 7), base, strict=True)) % 10
            body = base + str(check) + self.digits(16)
        number = country + mod_97_10.calc_check_digits(body + country) + body
        return (
            " ".join(number[i : i + 4] for i in range(0, len(number), 4)) if self.r.random() < 0.5 else number
        )

    def phone(self) -> str:
        region = self.r.choice(["US", "GB", "DE", "FR", "ES", "NL", "IN", "BR", "AU", "IT"])
        kind = self.r.choice([phonenumbers.PhoneNumberType.FIXED_LINE, phonenumbers.PhoneNumberType.MOBILE])
        number = phonenumbers.example_number_for_type(region, kind) or phonenumbers.example_number(region)
        text = str(number.national_number)
        number.national_number = int(text[:-3] + self.digits(3))
        if not phonenumbers.is_valid_number(number):
            return self.phone()
        style = self.r.choice(["INTERNATIONAL", "E164", "NATIONAL"])
        return phonenumbers.format_number(number, getattr(phonenumbers.PhoneNumberFormat, style))

    def email(self) -> str:
        first, last = self.r.choice(FIRST).lower(), self.r.choice(LAST).lower()
        local = self.r.choice(
            [f"{first}.{last}", f"{first[0]}{last}{self.digits(2)}", f"{first}+{last}", f"{first}_{last}"]
        )
        return (
            f"{local}@{self.r.choice(['example.com', 'mail.example.org', 'firma.example.de', 'acme.co.uk'])}"
        )

    def ip(self) -> str:
        if self.r.random() < 0.25:
            return ":".join(f"{self.r.randrange(1, 65536):x}" for _ in range(8))
        return f"{self.r.randrange(11, 223)}." + ".".join(str(self.r.randrange(256)) for _ in range(3))

    def ssn(self) -> str:
        return f"{self.r.randrange(101, 665)}-{self.r.randrange(10, 99)}-{self.r.randrange(1000, 9999)}"

    def nino(self) -> str:
        return f"{self.r.choice(['AB', 'CE', 'JK', 'PR'])} {self.digits(2)} {self.digits(2)} {self.digits(2)} {self.r.choice('ABCD')}"

    def dni(self) -> str:
        number = self.digits(8)
        return number + "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23]

    def secret(self) -> tuple[str, str]:
        r = self.r
        return r.choice(
            [
                ("OPENAI_KEY", "sk-proj-" + self.alnum(48)),
                (
                    "AWS_ACCESS_KEY",
                    "AKIA" + "".join(r.choice(string.ascii_uppercase + "234567") for _ in range(16)),
                ),
                ("GITHUB_TOKEN", "ghp_" + self.alnum(36)),
                ("GITLAB_TOKEN", "glpat-" + self.alnum(20)),
                ("SLACK_TOKEN", f"xoxb-{self.digits(12)}-{self.digits(12)}-{self.alnum(24)}"),
                ("STRIPE_KEY", "sk_live_" + self.alnum(24)),
                ("GOOGLE_KEY", "AIza" + self.alnum(35)),
                ("JWT", f"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ{self.alnum(30)}.{self.alnum(43)}"),
                ("ANTHROPIC_KEY", "sk-ant-api03-" + self.alnum(80)),
            ]
        )

    def password(self) -> str:
        return self.r.choice(
            ["Hunter2!", "s3cr3t-" + self.alnum(5), "Tr0ub4dor&" + self.digits(1), self.alnum(12) + "7a"]
        )


OWN = (
    ("PHONE_NUMBER", "Call me on {} after lunch.", "phone"),
    ("PHONE_NUMBER", "My mobile is {}, please text first.", "phone"),
    ("EMAIL_ADDRESS", "Forward it to {} and copy the team.", "email"),
    ("EMAIL_ADDRESS", '{{"to": "{}", "subject": "Invoice"}}', "email"),
    ("CREDIT_CARD", "Charge the card {} for the order.", "card"),
    ("CREDIT_CARD", "card={};exp=12/28", "card"),
    ("IBAN_CODE", "Please transfer the amount to {} by Friday.", "iban"),
    ("IP_ADDRESS", "The request came from {} at noon.", "ip"),
    ("US_SSN", "Her SSN is {} according to the form.", "ssn"),
    ("UK_NINO", "National Insurance number: {}.", "nino"),
    ("ES_NIF", "El DNI del titular es {}.", "dni"),
    ("SECRET_TOKEN", "I exported {} in my shell, is that safe?", "secret"),
    ("SECRET_TOKEN", 'client = Client("{}")', "secret"),
    ("PASSWORD", "The admin password is {} on staging.", "password"),
    ("PASSWORD", "DB_PASSWORD={}", "password"),
)
NOTHING: tuple[tuple[str, Callable[[Maker], str]], ...] = (
    ("Order {} was shipped.", lambda m: _not_luhn(m)),
    ("Tracking number {} has no update.", lambda m: m.digits(12)),
    (
        "The meeting moved to {}.",
        lambda m: f"2026-{m.r.randrange(1, 13):02d}-{m.r.randrange(1, 29):02d} 10:{m.digits(2)}",
    ),
    ("It happened on {} in Graz.", lambda m: f"{m.r.randrange(1, 29):02d}.{m.r.randrange(1, 13):02d}.2024"),
    ("Commit {} broke the build.", lambda m: "".join(m.r.choice("0123456789abcdef") for _ in range(40))),
    (
        "The trace id is {}.",
        lambda m: f"{m.digits(8)}-{m.digits(4)}-4{m.digits(3)}-a{m.digits(3)}-{m.digits(12)}",
    ),
    ("Revenue rose to {} dollars.", lambda m: f"{m.digits(1)},{m.digits(3)},{m.digits(3)}.{m.digits(2)}"),
    ("Upgrade to version {} first.", lambda m: f"{m.r.randrange(9)}.{m.r.randrange(30)}.{m.r.randrange(9)}"),
    (
        "The password is {} for new users.",
        lambda m: m.r.choice(["required", "optional", "hashed", "too short"]),
    ),
    ("Set token to {} tokens at most.", lambda m: m.digits(4)),
    (
        "password = {}",
        lambda m: m.r.choice(["os.environ['DB_PASSWORD']", "get_password()", "${DB_PASSWORD}", "None"]),
    ),
    (
        "ISBN {} is out of print.",
        lambda m: "978-" + m.digits(1) + "-" + m.digits(4) + "-" + m.digits(4) + "-" + m.digits(1),
    ),
    ("The array is [{}].", lambda m: ", ".join(m.digits(m.r.randrange(1, 4)) for _ in range(12))),
    ("Sensor readings: {}", lambda m: " ".join(m.digits(2) + "." + m.digits(1) for _ in range(10))),
    ("Ask @{} on the channel.", lambda m: m.r.choice(FIRST).lower()),
    ("Room {} is free.", lambda m: m.digits(3)),
    ("Key {} figures are below.", lambda m: m.r.choice(["performance", "business", "ten"])),
)


def _not_luhn(maker: Maker) -> str:
    number = "4" + maker.digits(15)
    return number if not luhn.is_valid(number) else _not_luhn(maker)


_PRESIDIO = {
    "credit_card_number": "card",
    "phone_number": "phone",
    "email": "email",
    "iban": "iban",
    "ssn": "ssn",
    "ip_address": "ip",
}
_NAMES = {
    "card": "CREDIT_CARD",
    "phone": "PHONE_NUMBER",
    "email": "EMAIL_ADDRESS",
    "iban": "IBAN_CODE",
    "ssn": "US_SSN",
    "ip": "IP_ADDRESS",
}


def presidio_templates() -> list[str]:
    spec = importlib.util.find_spec("presidio_evaluator")
    if spec is None or not spec.submodule_search_locations:
        return []
    path = Path(next(iter(spec.submodule_search_locations))) / "data_generator" / "raw_data" / "templates.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip().replace("\\n", "\n") for line in lines if line.strip()]


def labelled(seed: int, each: int) -> list[tuple[str, list[tuple[str, int, int]]]]:
    maker = Maker(seed)
    made: list[tuple[str, list[tuple[str, int, int]]]] = []
    for entity, template, kind in OWN:
        for _ in range(each):
            value = getattr(maker, kind)()
            name = entity
            if isinstance(value, tuple):
                name, value = value
            before, after = template.replace("{{", "\0").replace("}}", "\1").split("{}")
            before, after = (part.replace("\0", "{").replace("\1", "}") for part in (before, after))
            made.append((before + value + after, [(name, len(before), len(before) + len(value))]))
    for template, make in NOTHING:
        for _ in range(each):
            made.append((template.replace("{}", make(maker)), []))
    for template in presidio_templates():
        for _ in range(max(1, each // 10)):
            text, spans = "", []
            for piece in re.split(r"(\{\{[a-z_]+\}\})", template):
                if not piece.startswith("{{"):
                    text += piece
                    continue
                slot = piece.strip("{}")
                kind_of = _PRESIDIO.get(slot)
                if kind_of:
                    value = getattr(maker, kind_of)()
                    spans.append((_NAMES[kind_of], len(text), len(text) + len(value)))
                elif slot in ("zipcode", "postcode", "building_number", "age", "year"):
                    value = maker.digits({"age": 2, "year": 4, "building_number": 3}.get(slot, 5))
                elif "city" in slot or "country" in slot or "address" in slot or "street" in slot:
                    value = (
                        f"{maker.digits(2)} {maker.r.choice(CITY)} Street"
                        if "ad" in slot
                        else maker.r.choice(CITY)
                    )
                elif slot in ("us_driver_license", "url", "date_time", "date_of_birth"):
                    value = {"url": "https://example.com/page", "us_driver_license": "D123"}.get(
                        slot, "3 May 2021"
                    )
                else:
                    value = f"{maker.r.choice(FIRST)} {maker.r.choice(LAST)}"
                text += value
            made.append((text, spans))
    return made


def quality(seed: int, each: int) -> None:
    redactor = Redactor(RedactionConfig(), b"benchmark")
    truth: dict[str, list[int]] = {}
    false: dict[str, int] = {}
    clean = clean_hit = 0
    rows = labelled(seed, each)
    for text, spans in rows:
        plain = plain_of(text)
        found = [
            (f[3], plain.start(s), plain.end(e))
            for f, s, e in redactor.scan(plain, 0, len(plain.text) + 1, Progress())
            if f[3]
        ]
        if not spans:
            clean += 1
            clean_hit += bool(found)
        for entity, start, end in spans:
            hit = any(s <= start and e >= end and name == entity for name, s, e in found)
            covered = hit or any(s <= start and e >= end for _, s, e in found)
            one = truth.setdefault(entity, [0, 0, 0])
            one[0] += hit
            one[1] += covered
            one[2] += 1
        for name, s, e in found:
            if not any(s < end and e > start for _, start, end in spans):
                false[name] = false.get(name, 0) + 1
    print(
        f"labelled texts: {len(rows)} (seed {seed}); {'with' if presidio_templates() else 'without'} presidio-evaluator's templates"
    )
    print(f"{'entity':18} {'recall [95%]':28} {'hidden under any name':24} {'precision [95%]':26} n")
    for entity in sorted(truth):
        hit, covered, n = truth[entity]
        recall = wilson_interval(hit, n)
        precision = wilson_interval(hit, hit + false.get(entity, 0)) if hit + false.get(entity, 0) else None
        shown = (
            f"{hit / (hit + false.get(entity, 0)):.3f} [{precision.low:.3f}, {precision.high:.3f}]"
            if precision
            else "-"
        )
        print(
            f"{entity:18} {hit / n:.3f} [{recall.low:.3f}, {recall.high:.3f}]       {covered / n:.3f}                    {shown:26} {n}"
        )
    for entity in sorted(set(false) - set(truth)):
        print(f"{entity:18} only false: {false[entity]}")
    interval = wilson_interval(clean_hit, clean)
    print(
        f"texts without anything that were changed: {clean_hit / clean:.4f} [{interval.low:.4f}, {interval.high:.4f}] n={clean}"
    )


def hold() -> None:
    redactor = Redactor(RedactionConfig(), b"benchmark")
    text = PROSE * 3
    print(f"bound: {redactor.hold_back} characters (a private key's head: 720)")
    for size in (1, 2, 4, 8, 16):
        stream = redactor.stream()
        held, first = [], 0
        for number, at in enumerate(range(0, len(text), size), 1):
            out = stream.push(text[at : at + size])
            if out and not first:
                first = number
            held.append(stream.held)
        print(
            f"  pieces of {size:2} characters: {statistics.mean(held):5.1f} withheld on average, "
            f"{sorted(held)[int(len(held) * 0.95)]} at the 95th percentile, {max(held)} at most; first output with piece {first}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["speed", "quality", "hold"])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--each", type=int, default=60)
    given = parser.parse_args()
    if given.what == "quality":
        quality(given.seed, given.each)
    else:
        {"speed": speed, "hold": hold}[given.what]()


if __name__ == "__main__":
    main()
