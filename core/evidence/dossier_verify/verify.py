#!/usr/bin/env python3
"""Check a Signoff dossier offline: python verify.py dossier.zip [--public-key KEY] [--json]

One file, Python 3.9 or newer, standard library only. It checks that

* every file is the one the signed manifest names, none is missing and none was added;
* the archive's own structure is untouched, byte for byte;
* dossier.json has the digest that every signature names, and every Ed25519 signature holds;
* the raw numbers have the digests dossier.json names, and every verdict follows from them: all statistics are
  computed again here, by code that shares nothing with the program that decided.

KEY is the tenant's key as a PEM file or as its fingerprint (SHA-256 of the 32-byte key, hex). Without it the
archive
is only known to be consistent with the key inside it: compare the fingerprint printed with one you trust.

Exit status: 0 everything holds; 1 something does not, each named; 2 this is not a dossier or cannot be read.
"""

# Kept to what Python 3.9 has: no zip(strict=), no modern annotations, os.path throughout.
# ruff: noqa: B904, B905, PTH100, PTH112, PTH118, PTH119, PTH120, PTH123, SIM105

from __future__ import annotations

import argparse
import base64
import datetime
import hashlib
import io
import json
import math
import os
import struct
import sys
import zipfile
import zlib
from statistics import NormalDist
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

METHOD = "signoff.verdict/1"
SIGNATURE_TYPE = "application/vnd.signoff.signature+json"
MANIFEST_TYPE = "application/vnd.signoff.manifest+json"
TOLERANCE = 1e-6
SLACK = 1e-12
NORMAL = NormalDist()


class Unreadable(Exception):
    """Not a dossier at all; exit status 2."""


class Wrong(Exception):
    """Something does not hold; the message says what."""


class TooLittle(Exception):
    """The evidence does not allow a statistic; the verdict must be inconclusive."""


class Findings:
    """What was found, in the order it was found."""

    def __init__(self) -> None:
        self.problems: List[Dict[str, str]] = []
        self.notes: List[str] = []
        self.facts: Dict[str, Any] = {"signatures": [], "gates": [], "keys": []}

    def problem(self, name: str, text: str) -> None:
        entry = {"file": name, "problem": text}
        if entry not in self.problems:
            self.problems.append(entry)


# --- canonical JSON -----------------------------------------------------------------------------------------


def canonical(value: Any) -> str:
    """Sorted keys (UTF-16), no white space, whole numbers in full digits, other floats as repr."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join(canonical(key) + ":" + canonical(value[key]) for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(canonical(item) for item in value) + "]"
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Wrong("holds a number that is not finite")
        return str(int(value)) if value == int(value) else repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def read_json(data: bytes) -> Any:
    """Parse canonical JSON; anything that is not exactly the canonical form is refused."""

    def pairs(items: List[Tuple[str, Any]]) -> Dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            raise Wrong("repeats a key")
        return result

    def refuse(word: str) -> Any:
        raise Wrong("holds " + word)

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=pairs, parse_constant=refuse)
        again = canonical(value).encode("utf-8")
    except (ValueError, RecursionError, OverflowError) as error:
        raise Wrong("is not readable JSON (" + str(error) + ")")
    if again != data:
        raise Wrong("is not in canonical form: it was changed after it was written")
    return value


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


# --- Ed25519 (RFC 8032), verification only ------------------------------------------------------------------

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
Point = Tuple[int, int, int, int]


def _add(a: Point, b: Point) -> Point:
    e = (a[1] - a[0]) * (b[1] - b[0]) % P
    f = (a[1] + a[0]) * (b[1] + b[0]) % P
    g = 2 * a[3] * b[3] * D % P
    h = 2 * a[2] * b[2] % P
    w, x, y, z = f - e, h - g, h + g, f + e
    return w * x % P, y * z % P, x * y % P, w * z % P


def _times(scalar: int, point: Point) -> Point:
    total: Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            total = _add(total, point)
        point = _add(point, point)
        scalar >>= 1
    return total


def _point(data: bytes) -> Optional[Point]:
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - square) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


_BASE = _point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


def ed25519_holds(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature (64 bytes) over the message is by the key (32 bytes)."""
    if len(public) != 32 or len(signature) != 64:
        return False
    key, r = _point(public), _point(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if key is None or r is None or _BASE is None or s >= ORDER:
        return False
    h = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % ORDER
    left, right = _times(s, _BASE), _add(r, _times(h, key))
    return not (
        (left[0] * right[2] - right[0] * left[2]) % P or (left[1] * right[2] - right[1] * left[2]) % P
    )


def unbase64(text: Any, what: str) -> bytes:
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (AttributeError, ValueError):
        raise Wrong(what + " is not base64")
    if base64.b64encode(data).decode() != text:
        raise Wrong(what + " is not in the canonical base64 form")
    return data


_PEM_PREFIX = bytes.fromhex("302a300506032b6570032100")


def read_public_key(data: bytes) -> bytes:
    """The 32 bytes of a PEM Ed25519 public key, in exactly the form written by the exporting program."""
    body = [
        line for line in data.decode("ascii", "replace").split("\n") if line and not line.startswith("-----")
    ]
    der = unbase64("".join(body), "the key")
    if len(der) != 44 or der[:12] != _PEM_PREFIX:
        raise Wrong("is not an Ed25519 public key")
    pem = "-----BEGIN PUBLIC KEY-----\n" + base64.b64encode(der).decode() + "\n-----END PUBLIC KEY-----\n"
    if pem.encode() != data.replace(b"\r\n", b"\n"):
        raise Wrong("is not a plain PEM public key")
    return der[12:]


def open_envelope(data: bytes, kind: str, keys: Dict[str, bytes]) -> Tuple[bytes, List[str]]:
    """Payload and keyids of a DSSE envelope whose every signature holds."""
    envelope = read_json(data)
    if not isinstance(envelope, dict) or set(envelope) != {"payload", "payloadType", "signatures"}:
        raise Wrong("is not a DSSE envelope")
    if envelope["payloadType"] != kind:
        raise Wrong("has the payload type %r, expected %r" % (envelope["payloadType"], kind))
    payload = unbase64(envelope["payload"], "the payload")
    signatures = envelope["signatures"]
    if not isinstance(signatures, list) or not signatures:
        raise Wrong("carries no signature")
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)
    signers = []
    for signature in signatures:
        if not isinstance(signature, dict) or set(signature) != {"keyid", "sig"}:
            raise Wrong("holds something that is not a signature")
        keyid = signature["keyid"]
        if not isinstance(keyid, str) or keyid not in keys:
            raise Wrong("is signed by the key %s, which is not in keys/" % keyid)
        if not ed25519_holds(keys[keyid], message, unbase64(signature["sig"], "the signature")):
            raise Wrong("has a signature that does not hold: payload or signature was changed")
        signers.append(keyid)
    return payload, signers


# --- the archive --------------------------------------------------------------------------------------------


def write_zip(files: Dict[str, bytes]) -> Tuple[bytes, List[Tuple[int, str]]]:
    """The bytes the exporting program writes for these members, and where each part starts."""
    body, directory = b"", b""
    chunks, entries = [], []
    parts: List[Tuple[int, str]] = []
    offset = 0
    for name in sorted(files):
        data, encoded = files[name], name.encode("utf-8")
        common = struct.pack(
            "<HHHHHIIIHH", 20, 0, 0, 0, 0x21, zlib.crc32(data), len(data), len(data), len(encoded), 0
        )
        entries.append(
            (
                name,
                b"PK\1\2"
                + b"\x1e\x03"
                + common
                + struct.pack("<HHHII", 0, 0, 0, 0o100644 << 16, offset)
                + encoded,
            )
        )
        local = b"PK\3\4" + common + encoded + data
        parts.append((offset, "header of " + name))
        parts.append((offset + 30 + len(encoded), name))
        chunks.append(local)
        offset += len(local)
    body = b"".join(chunks)
    position = offset
    for name, entry in entries:
        parts.append((position, "directory entry of " + name))
        position += len(entry)
    directory = b"".join(entry for _, entry in entries)
    parts.append((position, "end record"))
    parts.append((position + 22, "bytes after the end"))
    end = struct.pack("<HHHHIIH", 0, 0, len(files), len(files), len(directory), offset, 0)
    return body + directory + b"PK\5\6" + end, parts


def walk_members(data: bytes) -> Iterator[Tuple[str, bytes]]:
    """Members as they stand in the file, one after the other. Raises Wrong where the chain breaks."""
    offset, last = 0, "the beginning"
    while data[offset : offset + 4] != b"PK\1\2":
        if data[offset : offset + 4] != b"PK\3\4" or offset + 30 > len(data):
            raise Wrong("the archive is damaged at byte %d, after %s" % (offset, last))
        method, size, stored = struct.unpack("<8xH8xII", data[offset : offset + 26])
        name_length, extra = struct.unpack("<HH", data[offset + 26 : offset + 30])
        start = offset + 30 + name_length + extra
        name = data[offset + 30 : offset + 30 + name_length].decode("utf-8", "replace")
        if method != 0 or size != stored or start + size > len(data):
            raise Wrong(
                "the archive is damaged or was packed again: header of %s at byte %d" % (name, offset)
            )
        yield name, data[start : start + size]
        offset, last = start + size, name


def read_archive(path: str, findings: Findings) -> Dict[str, bytes]:
    """Name -> bytes of a zip or of an unpacked folder. Raises Unreadable."""
    if os.path.isdir(path):
        files = {}
        for folder, _, names in os.walk(path):
            for name in names:
                full = os.path.join(folder, name)
                with open(full, "rb") as stream:
                    files[os.path.relpath(full, path).replace(os.sep, "/")] = stream.read()
        if not files:
            raise Unreadable("The folder %s is empty." % path)
        return files
    try:
        with open(path, "rb") as stream:
            data = stream.read()
    except OSError as error:
        raise Unreadable("Cannot read %s: %s." % (path, error.strerror or error))
    if b"PK\3\4" not in data and b"PK\5\6" not in data:
        raise Unreadable("%s is not a zip archive." % path)
    container = os.path.basename(path)
    files = {}
    try:
        for name, content in walk_members(data):
            if name in files:
                findings.problem(name, "is in the archive more than once")
            files[name] = content
    except Wrong as error:
        findings.problem(container, str(error))
        return {**files, **_members_by_directory(data, container, findings)}
    expected, parts = write_zip(files)
    if expected != data:
        length = min(len(expected), len(data))
        first = next((i for i in range(length) if expected[i] != data[i]), length)
        where = [text for start, text in parts if start <= first][-1:] or ["the beginning"]
        findings.problem(container, "the archive's structure was changed at byte %d (%s)" % (first, where[0]))
    return files


def _members_by_directory(data: bytes, container: str, findings: Findings) -> Dict[str, bytes]:
    files = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist():
                try:
                    files[entry.filename] = archive.read(entry)
                except Exception as error:  # zipfile raises many kinds; each means this member is unusable
                    findings.problem(entry.filename, "cannot be read from the archive (%s)" % error)
    except Exception as error:
        findings.problem(container, "the archive's directory cannot be read (%s)" % error)
    return files


# --- distributions ------------------------------------------------------------------------------------------


def beta_share(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta function, by its continued fraction."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_share(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    tiny = 1e-300
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    result = d
    for m in range(1, 10000):
        step = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d, c = 1 + step * d, 1 + step / c
        d, c = 1 / (d if abs(d) > tiny else tiny), c if abs(c) > tiny else tiny
        result *= d * c
        step = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d, c = 1 + step * d, 1 + step / c
        d, c = 1 / (d if abs(d) > tiny else tiny), c if abs(c) > tiny else tiny
        result *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return front * result / a


def t_below(t: float, freedom: float) -> float:
    """P(T <= t) of Student's t."""
    if math.isinf(t):
        return 1.0 if t > 0 else 0.0
    tail = 0.5 * beta_share(freedom / 2, 0.5, freedom / (freedom + t * t))
    return tail if t < 0 else 1 - tail


def bisect(below: Any, low: float, high: float) -> float:
    """Where ``below`` turns from True to False."""
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if below(middle):
            low = middle
        else:
            high = middle
    return (low + high) / 2


def t_quantile(p: float, freedom: float) -> float:
    """For p below one half: the (negative) value with probability p below it."""
    edge = -1.0
    while t_below(edge, freedom) > p:
        edge *= 2
    return bisect(lambda t: t_below(t, freedom) < p, edge, 0.0)


def binomial_at_most(k: int, n: int, p: float) -> float:
    """P(Bin(n, p) <= k)."""
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    return beta_share(n - k, k + 1, 1 - p)


def clopper_pearson(k: int, n: int, alpha: float) -> Tuple[float, float]:
    low = 0.0 if k == 0 else bisect(lambda p: 1 - binomial_at_most(k - 1, n, p) < alpha, 0.0, 1.0)
    high = 1.0 if k == n else bisect(lambda p: binomial_at_most(k, n, p) > alpha, 0.0, 1.0)
    return low, high


# --- resampling ---------------------------------------------------------------------------------------------

MASK = (1 << 64) - 1


class Resamples:
    """SplitMix64 by counter: two indices per 64-bit output, high half first."""

    def __init__(self, seed: int, count: int) -> None:
        self.seed, self.count = seed & MASK, count
        self.kept: Dict[int, List[List[int]]] = {}

    def of(self, n: int) -> Iterator[List[int]]:
        if n in self.kept:
            return iter(self.kept[n])
        if n * self.count <= 4000000:
            self.kept[n] = list(self._draw(n))
            return iter(self.kept[n])
        return self._draw(n)

    def _draw(self, n: int) -> Iterator[List[int]]:
        state, words = self.seed, (n + 1) // 2
        for _ in range(self.count):
            row = []
            for _ in range(words):
                state = (state + 0x9E3779B97F4A7C15) & MASK
                z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
                z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
                z ^= z >> 31
                row.append(((z >> 32) * n) >> 32)
                row.append(((z & 0xFFFFFFFF) * n) >> 32)
            if n & 1:
                row.pop()
            yield row


def rank_of(alpha: float, resamples: int) -> int:
    rank = int(alpha * (resamples + 1) + 1e-9)
    if rank < 1:
        raise TooLittle("too few resamples")
    return rank


def total(values: Sequence[float], row: Sequence[int]) -> float:
    return sum(map(values.__getitem__, row))


# --- tests: each has estimate, upper, lower, p_less, p_greater ----------------------------------------------


class Binary:
    """Right/wrong pairs: ``worse`` and ``better`` flips among n."""

    def __init__(self, worse: int, better: int, n: int) -> None:
        self.worse, self.better, self.n = worse, better, n
        self.estimate = (worse - better) / n

    @staticmethod
    def mcnemar(fewer: int, changed: int) -> float:
        """P(Bin(changed, 1/2) <= fewer), counted exactly in whole numbers."""
        term, count = 1, 0
        for k in range(fewer + 1):
            count += term
            term = term * (changed - k) // (k + 1)
        return count / (1 << changed)

    def score(self, delta: float) -> float:
        """Tango's statistic with half an item of continuity correction."""
        n, b, c = self.n, self.worse, self.better
        # Maximum likelihood of P(better) when P(worse) - P(better) = delta: the positive root of 2n q^2 + k q
        # - m.
        k = delta * (2 * n - b + c) - (b + c)
        m = c * delta * (1 - delta)
        q = (math.sqrt(max(0.0, k * k + 8 * n * m)) - k) / (4 * n)
        variance = n * (2 * q + delta - delta * delta)
        top = b - c - n * delta + 0.5
        if variance <= 1e-12 * n:
            return 0.0 if abs(top) < 1e-12 else math.copysign(math.inf, top)
        return top / math.sqrt(variance)

    def swapped(self) -> "Binary":
        return Binary(self.better, self.worse, self.n)

    def p_less(self, value: float) -> float:
        if value == 0:
            return self.mcnemar(self.worse, self.worse + self.better) if self.worse + self.better else 1.0
        if not -1 < value < 1:
            return 0.0 if value >= 1 else 1.0
        z = self.score(value)
        return (0.0 if z < 0 else 1.0) if math.isinf(z) else NORMAL.cdf(z)

    def p_greater(self, value: float) -> float:
        return self.swapped().p_less(-value)

    def upper(self, alpha: float) -> float:
        z = NORMAL.inv_cdf(alpha)
        bound = 1.0 if self.estimate >= 1 else bisect(lambda x: self.score(x) > z, self.estimate, 1.0)
        # Kept on the side of 0 that the exact test says.
        return min(bound, 0.0) if self.p_less(0.0) <= alpha + SLACK else max(bound, 0.0)

    def lower(self, alpha: float) -> float:
        return -self.swapped().upper(alpha)


class Constant:
    """All items say the same: the interval allows for the items not seen."""

    def __init__(self, estimate: float, scale: float, groups: int) -> None:
        self.estimate, self.scale, self.groups = estimate, scale, groups

    def upper(self, alpha: float) -> float:
        return self.estimate + (1 - alpha ** (1 / self.groups)) * self.scale

    def lower(self, alpha: float) -> float:
        return self.estimate - (1 - alpha ** (1 / self.groups)) * self.scale

    def p_less(self, value: float) -> float:
        return min(1.0, max(0.0, 1 - (value - self.estimate) / self.scale)) ** self.groups

    def p_greater(self, value: float) -> float:
        return min(1.0, max(0.0, 1 - (self.estimate - value) / self.scale)) ** self.groups


class Studentised:
    """Bootstrap-t with Student's t and the worst item as guards."""

    def __init__(self, estimate: float, influence: List[float], draws: List[Tuple[float, float]]) -> None:
        groups = len(influence)
        self.estimate, self.groups = estimate, groups
        squares = math.fsum(x * x for x in influence)
        variance = squares / (groups * (groups - 1))
        floor = variance / groups
        self.error = math.sqrt(variance + floor)
        self.t = sorted(moved / math.sqrt(max(0.0, spread) + floor) for moved, spread in draws)
        skew = math.fsum(x**3 for x in influence) / groups / (squares / groups) ** 1.5
        self.up = min(1.0, max(0.0, 2 * skew)) * max(influence) / groups
        self.down = min(1.0, max(0.0, -2 * skew)) * -min(influence) / groups

    def upper(self, alpha: float) -> float:
        q = min(self.t[rank_of(alpha, len(self.t)) - 1], t_quantile(alpha, self.groups - 1))
        return self.estimate + self.up - q * self.error

    def lower(self, alpha: float) -> float:
        q = max(self.t[-rank_of(alpha, len(self.t))], -t_quantile(alpha, self.groups - 1))
        return self.estimate - self.down - q * self.error

    def p_less(self, value: float) -> float:
        t = (self.estimate + self.up - value) / self.error
        count = sum(x <= t + 1e-9 * (1 + abs(t)) for x in self.t)
        return max((count + 1) / (len(self.t) + 1), t_below(t, self.groups - 1))

    def p_greater(self, value: float) -> float:
        t = (self.estimate - self.down - value) / self.error
        count = sum(x >= t - 1e-9 * (1 + abs(t)) for x in self.t)
        return max((count + 1) / (len(self.t) + 1), t_below(-t, self.groups - 1))


class Percentiles:
    """Percentile bootstrap, for percentiles."""

    def __init__(self, estimate: float, draws: List[float]) -> None:
        self.estimate, self.draws = estimate, sorted(draws)

    def upper(self, alpha: float) -> float:
        return self.draws[-rank_of(alpha, len(self.draws))]

    def lower(self, alpha: float) -> float:
        return self.draws[rank_of(alpha, len(self.draws)) - 1]

    def p_less(self, value: float) -> float:
        count = sum(x >= value - 1e-9 * (1 + abs(value)) for x in self.draws)
        return (count + 1) / (len(self.draws) + 1)

    def p_greater(self, value: float) -> float:
        count = sum(x <= value + 1e-9 * (1 + abs(value)) for x in self.draws)
        return (count + 1) / (len(self.draws) + 1)


def by_cluster(values: Sequence[float], clusters: Optional[Sequence[str]]) -> Tuple[List[float], List[float]]:
    if clusters is None:
        return list(values), [1.0] * len(values)
    sums: Dict[str, float] = {}
    sizes: Dict[str, float] = {}
    for value, label in zip(values, clusters):
        sums[label] = sums.get(label, 0.0) + value
        sizes[label] = sizes.get(label, 0.0) + 1
    return list(sums.values()), list(sizes.values())


def still(influence: Sequence[float], size: float) -> bool:
    return max(map(abs, influence)) <= max(1e-12 * size, 1e-100)


def mean_of(
    values: Sequence[float], clusters: Optional[Sequence[str]], scale: float, resamples: Resamples
) -> Any:
    sums, sizes = by_cluster(values, clusters)
    groups, items = len(sums), math.fsum(sizes)
    if groups < 2:
        raise TooLittle("fewer than two items or clusters")
    mean = math.fsum(sums) / items
    centred = [s - mean * m for s, m in zip(sums, sizes)]
    influence = [x * groups / items for x in centred]
    if still(influence, max(map(abs, values))):
        return Constant(mean, scale, groups)
    square = [x * x for x in centred]
    cross = [x * m for x, m in zip(centred, sizes)]
    size_square = [m * m for m in sizes]
    draws = []
    for row in resamples.of(groups):
        weight = float(groups) if clusters is None else total(sizes, row)
        moved = total(centred, row) / weight
        if clusters is None:
            rest = total(square, row) - groups * moved * moved
        else:
            rest = (
                total(square, row) - 2 * moved * total(cross, row) + moved * moved * total(size_square, row)
            )
        draws.append((moved, groups / (groups - 1) * rest / weight**2))
    return Studentised(mean, influence, draws)


def log_ratio_of(
    first: Sequence[float], second: Sequence[float], clusters: Optional[Sequence[str]], resamples: Resamples
) -> Any:
    if min(min(first), min(second)) <= 0:
        raise TooLittle("a ratio needs values above 0")
    top, bottom = by_cluster(first, clusters)[0], by_cluster(second, clusters)[0]
    groups = len(top)
    if groups < 2:
        raise TooLittle("fewer than two items or clusters")
    mean_top, mean_bottom = math.fsum(top) / groups, math.fsum(bottom) / groups
    x, y = [v / mean_top for v in top], [v / mean_bottom for v in bottom]
    influence = [a - b for a, b in zip(x, y)]
    estimate = math.log(mean_top / mean_bottom)
    if still(influence, 1.0):
        return Constant(estimate, 1.0, groups)
    xx, yy, xy = [a * a for a in x], [b * b for b in y], [a * b for a, b in zip(x, y)]
    draws = []
    for row in resamples.of(groups):
        a, b = total(x, row) / groups, total(y, row) / groups
        rest = total(xx, row) / a**2 - 2 * total(xy, row) / (a * b) + total(yy, row) / b**2
        draws.append((math.log(a / b), rest / (groups * (groups - 1))))
    return Studentised(estimate, influence, draws)


SHARES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


def percentile(values: Sequence[float], q: float) -> float:
    return sorted(values)[max(1, math.ceil(q * len(values) - 1e-9)) - 1]


def percentile_test(
    first: Sequence[float], second: Sequence[float], q: float, ratio: bool, resamples: Resamples
) -> Percentiles:
    if ratio and min(min(first), min(second)) <= 0:
        raise TooLittle("a ratio needs values above 0")

    def statistic(a: Sequence[float], b: Sequence[float]) -> float:
        x, y = percentile(a, q), percentile(b, q)
        return math.log(x / y) if ratio else x - y

    draws = [statistic([first[i] for i in row], [second[i] for i in row]) for row in resamples.of(len(first))]
    return Percentiles(statistic(first, second), draws)


def percentile_bounds(values: Sequence[float], q: float, alpha: float) -> Tuple[float, float]:
    """Order statistics that bound the percentile, infinite where the data have none."""
    ordered, n = sorted(values), len(values)
    low, high = -math.inf, math.inf
    for place in range(1, n + 1):
        below = binomial_at_most(place - 1, n, q)
        if below <= alpha + SLACK:
            low = ordered[place - 1]
        if below >= 1 - alpha - SLACK:
            high = ordered[place - 1]
            break
    return low, high


def holm(values: List[float]) -> List[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, least = [0.0] * len(values), 0.0
    for place, index in enumerate(order):
        least = max(least, min(1.0, (len(values) - place) * values[index]))
        adjusted[index] = least
    return adjusted


# --- verdicts -----------------------------------------------------------------------------------------------


def number(value: Any) -> Optional[float]:
    return None if value is None else float(value)


def usable(value: Optional[float]) -> bool:
    return value is not None and math.isfinite(value) and abs(value) <= 1e100


def spread(values: Sequence[float]) -> float:
    size, sd = max(map(abs, values)), 0.0
    if len(values) > 1:
        mean = math.fsum(values) / len(values)
        sd = math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (len(values) - 1))
    if sd > 1e-12 * size and sd > 1e-100:
        return sd
    return size if size > 1e-100 else 1.0


class Criterion:
    """One criterion judged again from its raw numbers."""

    def __init__(self, spec: Dict[str, Any], raw: Optional[Dict[str, Any]], resamples: Resamples) -> None:
        self.spec, self.rule, self.resamples = spec, spec["rule"], resamples
        self.alpha = float(spec["alpha"])
        self.comparative = self.rule["type"] == "non_inferiority"
        self.status, self.test, self.margin = "not_run", None, 0.0  # type: str, Any, float
        self.complete = True
        self.numbers: Dict[str, Optional[float]] = {
            "threshold": float(self.rule["margin" if self.comparative else "bound"]),
            "n": 0,
        }
        if raw is None:
            return
        if raw["evidence"] == "unpaired":
            self._single(raw)
        else:
            self._paired(raw)

    def _single(self, raw: Dict[str, Any]) -> None:
        value, low, high = number(raw["value"]), number(raw["low"]), number(raw["high"])
        self.numbers["candidate"] = value
        if self.comparative:
            return
        self.numbers.update(observed=value, baseline=number(raw["baseline"]), n=raw["n"] or 0)
        if value is None or not usable(value):
            self.status = "fail"
            return
        if low is None and high is None:
            if not raw["stated"]:
                self.status = "inconclusive"
                return
            low = high = value
        elif raw["level"] < 1 - 2 * self.alpha - SLACK:
            self.status = "inconclusive"
            self.numbers.update(low=low, high=high)
            return
        self._bound(-math.inf if low is None else low, math.inf if high is None else high)

    def _bound(self, low: float, high: float) -> None:
        bound = float(self.rule["bound"])
        if self.rule["op"] == ">=":
            self.status = "pass" if low >= bound else ("fail" if high < bound else "inconclusive")
        else:
            self.status = "pass" if high <= bound else ("fail" if low > bound else "inconclusive")
        self.numbers.update(low=low, high=high)

    def _paired(self, raw: Dict[str, Any]) -> None:
        rows = range(len(raw["keys"]))
        for part in ("baseline", "candidate"):
            if len(raw[part]) != len(rows):
                raise Wrong("has %d keys but %d numbers in %s" % (len(rows), len(raw[part]), part))
        if self.spec["slice"] and raw["slices"]:
            rows = [row for row in rows if self.spec["slice"] in raw["slices"][row]]  # type: ignore[assignment]
        before = [number(raw["baseline"][row]) for row in rows]
        after = [number(raw["candidate"][row]) for row in rows]
        clusters = None if raw["clusters"] is None else [raw["clusters"][row] for row in rows]
        self.complete = raw["complete"]
        self.numbers["n"] = len(before)
        if not before:
            return
        if any(
            y is not None and not usable(y) and (usable(x) or not self.comparative)
            for x, y in zip(before, after)
        ):
            self.status = "fail"
            return
        self.status = "inconclusive"
        if any(y is None for y in after):
            return
        candidate = [y for y in after if y is not None]
        baseline = [x for x in before if x is not None and usable(x)]
        if self.comparative and len(baseline) < len(before):
            return
        kept = dict(self.numbers)
        try:
            if self.comparative:
                self._compare(baseline, candidate, raw["kind"], clusters)
            else:
                self._bounded(baseline, candidate, raw["kind"], clusters)
        except (TooLittle, OverflowError, ZeroDivisionError):
            self.status, self.test, self.numbers = "inconclusive", None, kept

    def _centre(self, values: Sequence[float]) -> float:
        q = SHARES.get(self.rule.get("statistic", "mean"))
        return math.fsum(values) / len(values) if q is None else percentile(values, q)

    def _bounded(
        self, baseline: List[float], candidate: List[float], kind: str, clusters: Optional[List[str]]
    ) -> None:
        q, n = SHARES.get(self.rule.get("statistic", "mean")), len(candidate)
        if q is not None:
            if clusters is not None:
                raise TooLittle("percentiles of clusters")
            low, high = percentile_bounds(candidate, q, self.alpha)
        elif kind == "binary" and clusters is None:
            low, high = clopper_pearson(int(sum(candidate)), n, self.alpha)
        else:
            test = mean_of(candidate, clusters, spread(candidate), self.resamples)
            low, high = test.lower(self.alpha), test.upper(self.alpha)
            if kind == "binary":
                low, high = max(low, 0.0), min(high, 1.0)
        value = self._centre(candidate)
        self.numbers.update(
            observed=value, candidate=value, baseline=self._centre(baseline) if len(baseline) == n else None
        )
        self._bound(low, high)

    def _compare(
        self, baseline: List[float], candidate: List[float], kind: str, clusters: Optional[List[str]]
    ) -> None:
        lower_better = self.rule["direction"] == "lower_is_better"
        ratio = self.rule.get("scale", "difference") == "ratio"
        first, second = (candidate, baseline) if lower_better else (baseline, candidate)
        q, margin = SHARES.get(self.rule.get("statistic", "mean")), float(self.rule["margin"])
        self.margin = margin
        if ratio:
            self.margin = math.log1p(margin) if lower_better else -math.log1p(-margin)
        if q is not None:
            if clusters is not None or len(first) < math.ceil(math.log(self.alpha) / math.log(q) - 1e-9):
                raise TooLittle("too few items for the percentile")
            test: Any = percentile_test(first, second, q, ratio, self.resamples)
        elif ratio:
            test = log_ratio_of(first, second, clusters, self.resamples)
        elif kind == "binary" and clusters is None:
            pairs = list(zip(first, second))
            test = Binary(sum(a > b for a, b in pairs), sum(a < b for a, b in pairs), len(pairs))
        else:
            change = [a - b for a, b in zip(first, second)]
            test = mean_of(change, clusters, spread(baseline), self.resamples)

        def shown(value: float) -> float:
            return (math.expm1(value) if lower_better else -math.expm1(-value)) if ratio else value

        self.numbers.update(
            observed=shown(test.estimate),
            low=shown(test.lower(self.alpha)),
            high=shown(test.upper(self.alpha)),
            baseline=self._centre(baseline),
            candidate=self._centre(candidate),
            p_value=test.p_greater(0.0),
            p_non_inferior=test.p_less(self.margin),
            p_adjusted=None,
        )
        self.test = test


def gate_of(pairs: Sequence[Tuple[str, str]]) -> str:
    blocking = [status for severity, status in pairs if severity == "blocking"]
    for status in ("fail", "inconclusive", "not_run", "stale"):
        if status in blocking:
            return status
    return "pass" if blocking else "not_run"


def moment(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def recompute_gate(
    specs: List[Dict[str, Any]], report: Dict[str, Any], raws: Dict[str, Optional[Dict[str, Any]]]
) -> Tuple[str, Dict[str, Criterion], Dict[str, str]]:
    """Status of the gate, each criterion judged again, and the word of each comparison."""
    resamples = Resamples(int(report["seed"]), int(report["resamples"]))
    judged = {spec["key"]: Criterion(spec, raws[spec["key"]], resamples) for spec in specs}
    words = {key: "inconclusive" if one.comparative else "" for key, one in judged.items()}
    stale = {}
    for key, one in judged.items():
        age, limit = report["ages"].get(key), one.spec["max_age_days"]
        stale[key] = bool(report["stale"].get(key)) or (limit is not None and (age is None or age > limit))
    tested = [key for key, one in judged.items() if one.test is not None and not stale[key]]
    worse = holm([judged[key].test.p_greater(0.0) for key in tested])
    better = holm([judged[key].test.p_less(0.0) for key in tested])
    for key, p_worse, p_better in zip(tested, worse, better):
        one = judged[key]
        alpha = one.alpha + SLACK
        one.numbers["p_adjusted"] = p_worse
        below = one.numbers["p_non_inferior"]
        if below is not None and below <= alpha:
            one.status, words[key] = "pass", "better" if p_better <= alpha else "non-inferior"
        elif p_worse <= alpha:
            one.status = "fail"
    for key, one in judged.items():
        if one.comparative and one.status == "fail":
            words[key] = "regression"
        if not one.complete and one.status == "pass":
            one.status, words[key] = "inconclusive", "inconclusive" if one.comparative else ""
        if stale[key] and one.status != "not_run":
            one.status, words[key] = "stale", "inconclusive" if one.comparative else ""
    return gate_of([(one.spec["severity"], one.status) for one in judged.values()]), judged, words


def same(recorded: Any, computed: Optional[float]) -> bool:
    if computed is not None and not math.isfinite(computed):
        computed = None
    if recorded is None or computed is None:
        return recorded is None and computed is None
    return abs(recorded - computed) <= TOLERANCE * max(1.0, abs(recorded), abs(computed))


def check_waivers(report: Dict[str, Any], waivers: List[Dict[str, Any]]) -> Optional[str]:
    """What is wrong with the recorded status with waivers, or None."""
    recorded = report.get("with_waivers")
    if recorded is None:
        return None
    now = moment(recorded["now"])
    statuses = {one["key"]: one["status"] for one in report["criteria"]}
    applied = {
        waiver["criterion"]
        for waiver in waivers
        if statuses.get(waiver["criterion"], "pass") != "pass"
        and waiver["reason"].strip()
        and not (waiver.get("requested_by") and waiver.get("requested_by") == waiver.get("approved_by"))
        and moment(waiver["expires_at"]) > now
    }
    status = gate_of(
        [(one["severity"], "pass" if one["key"] in applied else one["status"]) for one in report["criteria"]]
    )
    if recorded["status_with_waivers"] != status or set(recorded["applied"]) != applied:
        return "with waivers the gate is %s (waived: %s), the dossier says %s" % (
            status,
            ", ".join(sorted(applied)) or "none",
            recorded["status_with_waivers"],
        )
    return None


def check_gate(
    name: str,
    gate: Dict[str, Any],
    report: Dict[str, Any],
    evidence: Dict[str, Any],
    waivers: List[Any],
    raws: Dict[str, Any],
    findings: Findings,
) -> None:
    """Recompute one gate and compare it with what the dossier says."""
    if report.get("method") != METHOD:
        raise Wrong("was decided by the rules %r; this verifier knows %s" % (report.get("method"), METHOD))
    specs = gate["criteria"]
    recorded = {one["key"]: one for one in report["criteria"]}
    if [spec["key"] for spec in specs] != [one["key"] for one in report["criteria"]]:
        raise Wrong("the gate's criteria and the reported ones are not the same")
    numbers: Dict[str, Any] = {}
    for spec in specs:
        source = evidence.get(spec["key"])
        if source is not None and source not in raws:
            raise Wrong("%s: its raw numbers %s cannot be read" % (spec["key"], source))
        numbers[spec["key"]] = None if source is None else raws[source]
    status, judged, words = recompute_gate(specs, report, numbers)
    for key, one in judged.items():
        says = recorded[key]
        if says["status"] != one.status:
            findings.problem(
                "dossier.json",
                "criterion %s is %s by its raw numbers, the dossier says %s"
                % (key, one.status, says["status"]),
            )
        if says["comparison"] != words[key]:
            findings.problem(
                "dossier.json",
                "criterion %s compares as %r, the dossier says %r" % (key, words[key], says["comparison"]),
            )
        if says["severity"] != one.spec["severity"]:
            findings.problem("dossier.json", "criterion %s has two severities" % key)
        for field in (
            "observed",
            "baseline",
            "candidate",
            "low",
            "high",
            "n",
            "threshold",
            "p_value",
            "p_adjusted",
            "p_non_inferior",
        ):
            if not same(says.get(field), one.numbers.get(field)):
                findings.problem(
                    "dossier.json",
                    "criterion %s: %s is %s by its raw numbers, the dossier says %s"
                    % (key, field, one.numbers.get(field), says.get(field)),
                )
    if report["status"] != status:
        findings.problem(
            "dossier.json", "%s is %s by its criteria, the dossier says %s" % (name, status, report["status"])
        )
    wrong = check_waivers(report, waivers)
    if wrong:
        findings.problem("dossier.json", name + ": " + wrong)
    findings.facts["gates"].append(
        {
            "gate": name,
            "status": report["status"],
            "status_with_waivers": (report.get("with_waivers") or {}).get("status_with_waivers"),
            "criteria": {key: says["status"] for key, says in recorded.items()},
        }
    )


def check_summary(dossier: Dict[str, Any], findings: Findings) -> None:
    """The section ``verdict`` (as it counted when it was signed) must follow from the gate report and the waivers.

    It may be stale where the report is not: time and changed inputs make it so, and the reasons are in it. It may
    never be better than the report, and with waivers only as good as the criteria nobody waived.
    """
    summary, report = dossier.get("verdict"), dossier.get("gate_report")
    if not isinstance(summary, dict):
        return
    says, waived = summary["without_waivers"], set(summary["waived"])
    if report is None:
        if says != "not_run" or summary["with_waivers"] != "not_run":
            findings.problem("dossier.json", "has no gate report, yet says the gate is %s" % says)
        return
    if says != report["status"] and not (says == "stale" and summary["stale_because"]):
        findings.problem(
            "dossier.json", "the verdict is %s, its gate report says %s" % (says, report["status"])
        )
    if not waived <= {waiver["criterion"] for waiver in dossier.get("waivers") or []}:
        findings.problem("dossier.json", "waives %s without a waiver" % ", ".join(sorted(waived)))
    left = [
        one["status"]
        for one in report["criteria"]
        if one["severity"] == "blocking" and one["key"] not in waived
    ]
    blocking = any(one["severity"] == "blocking" for one in report["criteria"])
    if says == "stale":
        possible = {"stale"}
    elif all(status == "pass" for status in left):
        possible = {"pass" if blocking else "not_run"}
    else:
        possible = {"fail"} if "fail" in left else {status for status in left if status != "pass"}
    if summary["with_waivers"] not in possible:
        findings.problem(
            "dossier.json",
            "with waivers the gate can only be %s, the dossier says %s"
            % (" or ".join(sorted(possible)), summary["with_waivers"]),
        )
    if findings.facts["gates"]:
        findings.facts["gates"][0].update(status=says, status_with_waivers=summary["with_waivers"])


def check_gates(dossier: Dict[str, Any], raws: Dict[str, Any], findings: Findings) -> None:
    """Every gate of the dossier: ``gate`` with ``gate_report``, or a list ``gates`` of both."""
    found = list(dossier.get("gates") or [])
    if dossier.get("gate_report") is not None:
        found.insert(0, {"gate": dossier["gate"], "gate_report": dossier["gate_report"]})
    if not found:
        findings.notes.append("The dossier holds no gate report, so there was no verdict to recompute.")
    for entry in found:
        gate = entry["gate"]
        name = "gate %s version %s" % (gate.get("slug", "?"), gate.get("version", "?"))
        try:
            check_gate(
                name,
                gate,
                entry["gate_report"],
                entry.get("evidence", dossier.get("evidence", {})),
                entry.get("waivers", dossier.get("waivers") or []),
                raws,
                findings,
            )
        except Wrong as error:
            findings.problem("dossier.json", "%s: %s" % (name, error))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
            findings.problem(
                "dossier.json", "%s cannot be recomputed (%s: %s)" % (name, type(error).__name__, error)
            )
    try:
        check_summary(dossier, findings)
    except (KeyError, TypeError, AttributeError) as error:
        findings.problem(
            "dossier.json", "its verdict cannot be read (%s: %s)" % (type(error).__name__, error)
        )


# --- the whole ----------------------------------------------------------------------------------------------


def read_manifest(files: Dict[str, bytes], signed: Optional[bytes], findings: Findings) -> Dict[str, Any]:
    """The manifest: the signed one where its signature holds, else the file. {} when neither can be read."""
    name = "manifest.json"
    if name not in files:
        findings.problem(name, "is missing")
    elif signed is not None and files[name] != signed:
        findings.problem(name, "is not the manifest that was signed")
    for text in (signed, files.get(name)):
        if text is None:
            continue
        try:
            manifest = read_json(text)
            for entry in manifest["files"].values():
                entry["sha256"], entry["size"]
            result: Dict[str, Any] = manifest
            return result
        except Wrong as error:
            findings.problem(name, str(error))
        except (KeyError, TypeError, AttributeError):
            findings.problem(name, "is not a dossier's manifest")
    return {}


def check_files(files: Dict[str, bytes], manifest: Dict[str, Any], findings: Findings) -> None:
    """Compare every file with the manifest."""
    if not manifest:
        return
    for name, entry in sorted(manifest["files"].items()):
        if name not in files:
            findings.problem(name, "is missing")
        elif sha256(files[name]) != entry["sha256"]:
            findings.problem(name, "was changed: its SHA-256 is not the one in the manifest")
        elif len(files[name]) != entry["size"]:
            findings.problem(name, "has %d bytes, the manifest says %s" % (len(files[name]), entry["size"]))
    for name in sorted(set(files) - set(manifest["files"]) - {"manifest.json", "manifest.dsse.json"}):
        findings.problem(name, "is not in the manifest: it was added")


def check(files: Dict[str, bytes], wanted: Optional[str], findings: Findings) -> None:
    """All checks; ``wanted`` is the fingerprint the manifest's key must have."""
    keys = {}
    for name in sorted(files):
        if name.startswith("keys/"):
            try:
                key = read_public_key(files[name])
                fingerprint = hashlib.sha256(key).hexdigest()
                if name != "keys/%s.pub" % fingerprint:
                    raise Wrong("holds the key %s" % fingerprint)
                keys[fingerprint] = key
            except Wrong as error:
                findings.problem(name, str(error))
    findings.facts["keys"] = sorted(keys)
    signed = _check_manifest_signature(files, keys, wanted, findings)
    manifest = read_manifest(files, signed, findings)
    check_files(files, manifest, findings)
    dossier = _check_dossier(files, manifest, findings)
    _check_signatures(files, keys, findings)
    if dossier is None:
        return
    raws = {}
    listed = dossier.get("raw")
    if not isinstance(listed, dict):
        findings.problem("dossier.json", "names no raw numbers")
        listed = {}
    for name in sorted(set(listed) | {name for name in files if name.startswith("raw/")}):
        if name not in files:
            findings.problem(name, "is missing")
            continue
        if listed.get(name) != sha256(files[name]):
            findings.problem(name, "is not the file whose digest dossier.json names")
        try:
            raws[name] = read_json(files[name])
        except Wrong as error:
            findings.problem(name, str(error))
    for field in ("product", "candidate", "baseline", "tenant"):
        findings.facts[field] = dossier.get(field)
    check_gates(dossier, raws, findings)


def _check_manifest_signature(
    files: Dict[str, bytes], keys: Dict[str, bytes], wanted: Optional[str], findings: Findings
) -> Optional[bytes]:
    """The signed manifest, or None when its signature does not hold."""
    name = "manifest.dsse.json"
    if name not in files:
        findings.problem(name, "is missing")
        return None
    try:
        payload, signers = open_envelope(files[name], MANIFEST_TYPE, keys)
    except Wrong as error:
        findings.problem(name, str(error))
        return None
    findings.facts["fingerprint"] = signers[0]
    if wanted and wanted not in signers:
        findings.problem(name, "is signed by the key %s, not by %s as you asked" % (signers[0], wanted))
    return payload


def _check_dossier(
    files: Dict[str, bytes], manifest: Dict[str, Any], findings: Findings
) -> Optional[Dict[str, Any]]:
    if "dossier.json" not in files:
        findings.problem("dossier.json", "is missing")
        return None
    found = sha256(files["dossier.json"])
    findings.facts["dossier_digest"] = found
    if manifest and manifest.get("dossier_digest") != found:
        findings.problem(
            "dossier.json",
            "has the digest %s, the manifest says %s" % (found, manifest.get("dossier_digest")),
        )
    try:
        dossier = read_json(files["dossier.json"])
    except Wrong as error:
        findings.problem("dossier.json", str(error))
        return None
    if not isinstance(dossier, dict) or dossier.get("schema") != "signoff.dossier/1":
        findings.problem("dossier.json", "is not a dossier of schema signoff.dossier/1")
        return None
    return dossier


def _check_signatures(files: Dict[str, bytes], keys: Dict[str, bytes], findings: Findings) -> None:
    names = [name for name in files if name.startswith("signatures/")]
    for name in sorted(names, key=lambda text: (len(text), text)):
        try:
            payload, signers = open_envelope(files[name], SIGNATURE_TYPE, keys)
            statement = read_json(payload)
            if not isinstance(statement, dict) or statement.get("schema") != "signoff.signature/1":
                raise Wrong("does not hold a signature statement")
            if statement.get("dossier_digest") != findings.facts.get("dossier_digest"):
                raise Wrong("signs the dossier %s, not this one" % statement.get("dossier_digest"))
            findings.facts["signatures"].append(
                {
                    "file": name,
                    "keyid": signers[0],
                    **{
                        field: statement.get(field)
                        for field in ("signer", "role", "position", "signed_at", "note")
                    },
                }
            )
        except Wrong as error:
            findings.problem(name, str(error))
    if not names:
        findings.notes.append("Nobody has signed this dossier.")


def wanted_fingerprint(text: str) -> str:
    """``--public-key`` as a fingerprint. Raises Unreadable."""
    plain = text.replace("sha256:", "").lower()
    if len(plain) == 64 and all(letter in "0123456789abcdef" for letter in plain):
        return plain
    try:
        with open(text, "rb") as stream:
            return hashlib.sha256(read_public_key(stream.read())).hexdigest()
    except (OSError, Wrong) as error:
        raise Unreadable("--public-key is neither a fingerprint nor a PEM key file: %s." % error)


def describe(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(str(value[key]) for key in ("name", "slug", "version", "digest") if value.get(key))
    return str(value)


def print_report(path: str, findings: Findings, checked: int) -> None:
    facts = findings.facts
    print("Signoff dossier %s: %d files" % (path, checked))
    for field in ("tenant", "product", "candidate", "baseline"):
        if facts.get(field):
            print("  %-10s %s" % (field, describe(facts[field])))
    if facts.get("dossier_digest"):
        print("  %-10s %s" % ("digest", facts["dossier_digest"]))
    if facts.get("fingerprint"):
        print("  %-10s %s" % ("key", facts["fingerprint"]))
    for gate in facts["gates"]:
        print(
            "  %s: %s" % (gate["gate"], gate["status"])
            + (" (with waivers: %s)" % gate["status_with_waivers"] if gate["status_with_waivers"] else "")
        )
        for key, status in gate["criteria"].items():
            print("    %-12s %s" % (status, key))
    for signature in facts["signatures"]:
        print("  signed: %(signer)s as %(role)s, %(position)s, %(signed_at)s" % signature)
    for note in findings.notes:
        print("  note: " + note)
    if not findings.problems:
        print("OK: nothing was changed, every signature holds, every verdict follows from its raw numbers.")
        return
    print("NOT VALID: %d problem%s" % (len(findings.problems), "" if len(findings.problems) == 1 else "s"))
    for problem in findings.problems:
        print("  %(file)s: %(problem)s" % problem)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description="Check a Signoff dossier offline.")
    beside = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument(
        "dossier", nargs="?", default=beside, help="the zip, or a folder it was unpacked into"
    )
    parser.add_argument("--public-key", help="PEM file or fingerprint of the key that must have signed")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    options = parser.parse_args(arguments)
    findings = Findings()
    try:
        wanted = wanted_fingerprint(options.public_key) if options.public_key else None
        files = read_archive(options.dossier, findings)
    except (Unreadable, OSError) as error:
        print(json.dumps({"ok": False, "error": str(error)}) if options.json else str(error), file=sys.stderr)
        return 2
    if not wanted:
        findings.notes.append("No --public-key given: compare the key's fingerprint with one you trust.")
    check(files, wanted, findings)
    ok = not findings.problems
    if options.json:
        print(
            json.dumps(
                {"ok": ok, "problems": findings.problems, "notes": findings.notes, **findings.facts}, indent=2
            )
        )
    else:
        print_report(options.dossier, findings, len(files))
    return 0 if ok else 1


if __name__ == "__main__":
    try:
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    except AttributeError:
        pass
    sys.exit(main())
