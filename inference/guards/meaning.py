"""Guards that judge what a text means: prompt injection and topics. Each costs embeddings (10 ms a short text, 130 ms a
prompt of 1 kB, on two busy cores), so profiles name them only where that is worth it.

Embeddings are all-MiniLM-L6-v2. A long text is judged by its worst sentences, because an attack in one sentence
disappears in the average of a document.
"""

from __future__ import annotations

import base64
import codecs
import hashlib
import json
import re
import threading
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from core.security.redaction.normal import plain_of
from inference.guards.config import GuardSpec
from inference.guards.verdicts import ALLOW, GuardVerdict

Vectors = npt.NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]

HEAD: Final = Path(__file__).parent / "data" / "injection_head.json"
# Sentences of one request that are looked at: the first and last ones of a long text.
MAX_SENTENCES: Final = 48
MAX_CHARS: Final = 20_000

_SENTENCE: Final = re.compile(r"(?<=[.!?。！？])\s+|\n+")
_HOMOGLYPHS: Final = str.maketrans(
    "аесорхуіјѕԁԛԝΑΒΕΖΗΙΚΜΝΟΡΤΥΧοаАВЕКМНОРСТХ", "aecopxyijsdqwABEZHIKMNOPTYXoaABEKMHOPCTX"
)
_LEET: Final = str.maketrans("013457@$!", "oieastasi")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]{24,}={0,2}")
_SPACED: Final = re.compile(r"(?:\b\w[ ._-]){6,}\w\b")
_LEETISH: Final = re.compile(r"[A-Za-z][013457@$!]|[013457@$!][A-Za-z]")
_ROT13_WORDS: Final = frozenset(
    [
        "gur",
        "naq",
        "lbh",
        "vtaber",
        "cerivbhf",
        "vafgehpgvbaf",
        "cebzcg",
        "flfgrz",
        "sbetrg",
        "nafjre",
        "abj",
        "nyy",
    ]
)


def sentences(text: str) -> list[str]:
    """Pieces to judge, at most ``MAX_SENTENCES``; short ones are joined with the next."""
    pieces: list[str] = []
    held = ""
    for piece in _SENTENCE.split(text[:MAX_CHARS]):
        held = f"{held} {piece}".strip()
        if len(held) >= 24:
            pieces.append(held[:1000])
            held = ""
    if held:
        pieces.append(held[:1000])
    if len(pieces) > MAX_SENTENCES:
        pieces = pieces[: MAX_SENTENCES // 2] + pieces[-MAX_SENTENCES // 2 :]
    return pieces


def decodings(text: str) -> list[str]:
    """The text and what it may hide: homoglyphs, l33t, spaced letters, base64, rot13. The plain form comes first."""
    plain = unicodedata.normalize("NFKC", plain_of(text).text).translate(_HOMOGLYPHS)
    found = [plain]
    if _SPACED.search(plain):
        found.append(_SPACED.sub(lambda match: re.sub(r"[ ._-]", "", match.group()), plain))
    if len(_LEETISH.findall(plain)) >= 4:
        found.append(plain.translate(_LEET))
    for match in list(_BASE64.finditer(plain))[:4]:
        try:
            decoded = base64.b64decode(
                match.group() + "=" * (-len(match.group()) % 4), validate=True
            ).decode()
        except (ValueError, UnicodeDecodeError):
            continue
        if decoded.isprintable() or "\n" in decoded:
            found.append(decoded)
    words = re.findall(r"[a-z]+", plain.lower())
    if sum(word in _ROT13_WORDS for word in words) >= 2:
        found.append(codecs.decode(plain, "rot13"))
    return found


@lru_cache(maxsize=1)
def injection_head() -> dict[str, Any]:
    """Weights of the logistic head: ``weights`` (384,), ``bias``, ``threshold``, facts about its training."""
    stored = json.loads(HEAD.read_text())
    raw = base64.b64decode(stored["weights"])
    if hashlib.sha256(raw).hexdigest() != stored["digest"]:
        raise RuntimeError("The weights of the injection guard do not match their digest; restore the file.")
    return {**stored, "weights": np.frombuffer(raw, dtype="<f4")}


def injection_scores(vectors: Vectors) -> npt.NDArray[np.float64]:
    """Probability-like score of each vector, shape (n,)."""
    head = injection_head()
    logits = vectors.astype(np.float64) @ head["weights"].astype(np.float64) + head["bias"]
    return np.asarray(1.0 / (1.0 + np.exp(-logits)))


def pieces_of(texts: Sequence[str]) -> list[str]:
    """What the injection guard looks at: sentences of every decoding, and the whole of short texts."""
    found: list[str] = []
    for text in texts:
        for decoded in decodings(text):
            found += sentences(decoded)
            if len(decoded) <= 1000:
                found.append(decoded)
    return list(dict.fromkeys(found))[: 4 * MAX_SENTENCES]


def injection_score(texts: Sequence[str], embed: Embed) -> float:
    """The worst piece of the texts, 0 to 1."""
    pieces = pieces_of(texts)
    return float(injection_scores(embed(pieces)).max()) if pieces else 0.0


_topics: dict[tuple[str, ...], Vectors] = {}
_lock = threading.Lock()


def _topic_vectors(examples: tuple[str, ...], embed: Embed) -> Vectors:
    found = _topics.get(examples)
    if found is None:
        found = embed(list(examples))
        with _lock:
            if len(_topics) > 200:
                _topics.clear()
            _topics[examples] = found
    return found


def judge(guard: GuardSpec, texts: Sequence[str], embed: Embed | None = None) -> GuardVerdict:
    """What one guard of meaning says about the texts of a request."""
    if embed is None:
        from inference.engines.embeddings import shared_embedder

        embed = shared_embedder().embed
    texts = [text for text in texts if text.strip()]
    if not texts:
        return ALLOW
    if guard.kind == "injection":
        score = injection_score(texts, embed)
        if score < guard.threshold:
            return ALLOW
        return GuardVerdict(
            guard.action,  # type: ignore[arg-type]
            guard.name,
            "The request looks like an attempt to change the model's instructions.",
            round(score, 4),
        )
    return _judge_topics(guard, texts, embed)


def _judge_topics(guard: GuardSpec, texts: Sequence[str], embed: Embed) -> GuardVerdict:
    vectors = embed([text[:1000] for text in texts[-8:]])
    if guard.denied:
        nearest = float((vectors @ _topic_vectors(guard.denied, embed).T).max())
        if nearest >= guard.threshold:
            return GuardVerdict(
                guard.action,  # type: ignore[arg-type]
                guard.name,
                "The request is about a topic that this release does not answer.",
                round(max(0.0, nearest), 4),
            )
    if guard.allowed:
        # What the person asks stands in the last text.
        nearest = float((vectors[-1:] @ _topic_vectors(guard.allowed, embed).T).max())
        if nearest < guard.threshold:
            return GuardVerdict(
                guard.action,  # type: ignore[arg-type]
                guard.name,
                "The request is not about a topic that this release answers.",
                round(1.0 - max(0.0, nearest), 4),
            )
    return ALLOW
