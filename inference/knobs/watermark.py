"""The statistical watermark: keys, what the engine is told, and the detector.

KGW, "lefthash", context width 1: the token before decides, with the key, which quarter of the vocabulary is green;
green tokens get ``delta`` added to their logits. Text that holds more green tokens than chance allows was written
under the key. The arithmetic is that of transformers' ``WatermarkLogitsProcessor``, so its detector finds our marks
and ours finds its.

Source: Kirchenbauer et al. (2023), "A Watermark for Large Language Models", algorithm 2.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from django.db import IntegrityError, transaction
from django.utils import timezone
from django_tenants.utils import schema_context
from scipy.stats import binom

from core.audit.services import audit_record
from core.errors import Conflict, Invalid
from core.schema import current_schema
from core.security.fields import tenant_sealer
from core.security.permissions import require
from inference.knobs.models import WatermarkKey

GAMMA: Final = 0.25
DELTA: Final = 2.0
_PURPOSE: Final = "watermark-key"
# Seconds a key stays in memory before the database is asked whether it was rotated.
_KEY_AGE_S: Final = 10.0
# Tokens a detector looks at; more say nothing new.
MAX_TOKENS: Final = 8192


class WatermarkTextInvalid(Invalid):
    """There is nothing a watermark could be found in."""

    code = "watermark_text_invalid"


@dataclass(frozen=True, slots=True)
class Detection:
    """What a detector found.

    ``n_tokens``: distinct pairs of neighbours that were scored; ``p_value``: chance of at least as many green ones
    in text that was not marked with this key (exact binomial); ``z``: the same as a number of standard deviations.
    """

    z: float
    p_value: float
    n_tokens: int
    green: int
    gamma: float
    key_version: int = 0

    @property
    def green_share(self) -> float:
        """Share of scored tokens that are green; gamma is chance."""
        return self.green / self.n_tokens if self.n_tokens else 0.0


def key_number(key: str) -> int:
    """The hashing key of transformers for a hex key."""
    return int(key, 16)


@lru_cache(maxsize=4096)
def _green(key: int, previous: int, vocab_size: int, gamma: float) -> npt.NDArray[np.uint8]:
    import torch

    generator = torch.Generator(device="cpu")
    generator.manual_seed((key * previous) % (2**64 - 1))
    permutation = torch.randperm(vocab_size, generator=generator)
    marked = np.zeros(vocab_size, dtype=np.bool_)
    marked[permutation[: int(vocab_size * gamma)].numpy()] = True
    return np.packbits(marked)


def _is_green(key: int, previous: int, token: int, vocab_size: int, gamma: float) -> bool:
    packed = _green(key, previous, vocab_size, gamma)
    return bool(packed[token >> 3] & (128 >> (token & 7)))


def detect(tokens: Sequence[int], key: str, *, vocab_size: int, gamma: float = GAMMA) -> Detection:
    """Look for a key's mark in token ids.

    A pair of neighbouring tokens counts once, however often it occurs: repetitions are not independent, and counting
    them would make the p-value too small. Takes about half a millisecond per distinct token.

    Args:
        tokens: of the answer alone. key: hex, as the engine was given. vocab_size: rows of the model's logits.
    Raises:
        WatermarkTextInvalid: fewer than two tokens, or an id outside the vocabulary.
    """
    ids = list(tokens[:MAX_TOKENS])
    if len(ids) < 2:
        raise WatermarkTextInvalid(
            "At least two tokens are needed; some forty for a result that means anything."
        )
    if min(ids) < 0 or max(ids) >= vocab_size:
        raise WatermarkTextInvalid(
            "A token is not in the model's vocabulary: choose the model that wrote the text."
        )
    number = key_number(key)
    pairs = set(pairwise(ids))
    green = sum(_is_green(number, previous, token, vocab_size, gamma) for previous, token in pairs)
    share = int(vocab_size * gamma) / vocab_size
    n = len(pairs)
    return Detection(
        z=(green - share * n) / math.sqrt(n * share * (1 - share)),
        p_value=float(binom.sf(green - 1, n, share)),
        n_tokens=n,
        green=green,
        gamma=share,
    )


# ------------------------------------------------------------------ keys of the tenant
def _sealed(version: int, secret: bytes) -> bytes:
    return tenant_sealer(current_schema(), _PURPOSE).seal(secret, str(version).encode())


def _opened(row: WatermarkKey) -> str:
    place = str(row.version).encode()
    return tenant_sealer(current_schema(), _PURPOSE).open(bytes(row.secret_sealed), place).hex()


def _new_secret() -> bytes:
    # 62 bits, odd: the engine multiplies by the token before and takes the remainder by 2^64 - 1.
    return (secrets.randbits(62) | 1 | 1 << 61).to_bytes(8, "big")


def watermark_key() -> WatermarkKey:
    """The tenant's key in use, made when there is none."""
    row = WatermarkKey.objects.filter(retired_at__isnull=True).first()
    if row is None:
        last = WatermarkKey.objects.order_by("-version").first()
        version = last.version + 1 if last is not None else 1
        try:
            with transaction.atomic():
                row = WatermarkKey.objects.create(
                    version=version, secret_sealed=_sealed(version, _new_secret())
                )
        except IntegrityError:  # another process was first
            row = WatermarkKey.objects.get(retired_at__isnull=True)
    return row


@transaction.atomic
def watermark_rotate() -> WatermarkKey:
    """Mark with a new key from now on; engines take it up within ten seconds. Old marks are still found.

    Raises Forbidden.
    """
    require("guard.edit")
    current = watermark_key()
    current = WatermarkKey.objects.select_for_update().get(pk=current.pk)
    if current.retired_at is not None:
        raise Conflict("Somebody else has just started a new key. Look again before starting another.")
    current.retired_at = timezone.now()
    current.save(update_fields=["retired_at"])
    fresh = watermark_key()
    audit_record("watermark.rotated", target=fresh, data={"version": fresh.version})
    schema = current_schema()
    transaction.on_commit(lambda: _known.pop(schema, None))
    return fresh


_known: dict[str, tuple[dict[str, Any], float]] = {}
_lock = threading.Lock()


def watermark_parameters(schema: str) -> dict[str, Any]:
    """What the engine is told with a request: ``{"key": hex, "gamma", "delta"}``. In memory for ten seconds.

    Raises SealBroken when SECRET_KEY does not open the stored key.
    """
    known = _known.get(schema)
    if known is not None and time.monotonic() - known[1] < _KEY_AGE_S:
        return known[0]
    with _lock, schema_context(schema):
        found = {"key": _opened(watermark_key()), "gamma": GAMMA, "delta": DELTA}
        _known[schema] = (found, time.monotonic())
    return found


def keys_forget() -> None:
    """Forget the keys in memory."""
    _known.clear()


def detect_any(tokens: Sequence[int], *, vocab_size: int) -> tuple[Detection, list[Detection]]:
    """The best detection over all of the tenant's keys, its p-value corrected for their number, and each one's.

    Raises WatermarkTextInvalid: too short, or there has never been a key.
    """
    rows = list(WatermarkKey.objects.all())
    if not rows:
        raise WatermarkTextInvalid(
            "Nothing was ever marked: no release of this tenant has had its watermark on."
        )
    each = []
    for row in rows:
        found = detect(tokens, _opened(row), vocab_size=vocab_size)
        each.append(
            Detection(
                found.z, found.p_value, found.n_tokens, found.green, found.gamma, key_version=row.version
            )
        )
    best = min(each, key=lambda one: one.p_value)
    corrected = Detection(
        best.z, min(1.0, best.p_value * len(each)), best.n_tokens, best.green, best.gamma, best.key_version
    )
    return corrected, each


# ------------------------------------------------------------------ text
@lru_cache(maxsize=8)
def _tokenizer(path: str) -> tuple[Any, int]:
    import json
    from pathlib import Path

    from tokenizers import Tokenizer

    directory = Path(path)
    config = json.loads((directory / "config.json").read_text())
    size = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    if not isinstance(size, int) or not (directory / "tokenizer.json").is_file():
        raise WatermarkTextInvalid("This model's tokenizer cannot be read here; give token ids instead.")
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, size


def tokens_of(text: str, model_digest: str) -> tuple[list[int], int]:
    """(token ids, vocabulary size) of a text under a stored model's tokenizer.

    Raises WatermarkTextInvalid when the model is not stored here.
    """
    from inference.registration import tenant_store

    store = tenant_store()
    if not store.has(model_digest):
        raise WatermarkTextInvalid("The files of this model are not here, so its tokenizer is not either.")
    tokenizer, size = _tokenizer(str(store.path_of(model_digest)))
    return list(tokenizer.encode(text, add_special_tokens=False).ids), size


def text_detect(text: str, *, model_digest: str) -> tuple[Detection, list[Detection]]:
    """Look for any of the tenant's marks in a text that a model may have written. Raises WatermarkTextInvalid."""
    require("guard.view")
    if len(text) > 200_000:
        raise WatermarkTextInvalid("Give at most 200,000 characters.")
    tokens, size = tokens_of(text, model_digest)
    return detect_any(tokens, vocab_size=size)
