"""Asking a share of semantic hits again, judging whether the two answers say the same, and acting on it.

Rows hold no text (ShadowAsk). The switch works by itself: past its bound the release's semantic cache is off, for
every process within two seconds, audited, until a person switches it on again.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.db import transaction
from django.utils import timezone
from django_tenants.utils import schema_context

from core.audit.services import audit_record
from core.security.actor import SYSTEM, use_actor
from inference.caches.features import features_of
from inference.caches.keys import Partition
from inference.caches.models import SemanticState, ShadowAsk
from inference.caches.shadow_statistics import interval_anytime, proven_above
from inference.caches.store import Hit

# Until this many hits were asked again, at least PROBATION_SHARE of them are: a new cache has to show itself.
PROBATION: Final = 50
PROBATION_SHARE: Final = 0.5
# Cosine from which two differently worded answers may say the same.
MEANING: Final = 0.80
_STATUS_AGE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class SemanticStatus:
    """What is known of a release's semantic cache. ``low``, ``high``: anytime-valid bounds at 95%."""

    enabled: bool
    n: int = 0
    false_hits: int = 0
    low: float = 0.0
    high: float = 1.0
    reason: str = ""


_known: dict[tuple[str, str], tuple[SemanticStatus, float]] = {}
_lock = threading.Lock()


def status_read(release_digest: str) -> SemanticStatus:
    """The state of a release in the current schema, from the database."""
    state = SemanticState.objects.filter(release_digest=release_digest).first()
    asks = ShadowAsk.objects.filter(release_digest=release_digest)
    if state is not None and state.evidence_since is not None:
        asks = asks.filter(at__gte=state.evidence_since)
    n, wrong = asks.count(), asks.filter(false_hit=True).count()
    low, high = interval_anytime(wrong, n)
    enabled = state is None or state.enabled
    return SemanticStatus(enabled, n, wrong, low, high, state.reason if state is not None else "")


def semantic_status(schema: str, release_digest: str) -> SemanticStatus:
    """As `status_read`, at most two seconds old; what the request path asks. A failure counts as off."""
    known = _known.get((schema, release_digest))
    now = time.monotonic()
    if known is not None and now - known[1] < _STATUS_AGE_S:
        return known[0]
    with _lock:
        known = _known.get((schema, release_digest))
        if known is not None and now - known[1] < _STATUS_AGE_S:
            return known[0]
        try:
            with schema_context(schema):
                found = status_read(release_digest)
        except Exception:  # the cache is a help, never a reason to fail
            found = SemanticStatus(False, reason="The state of the cache could not be read.")
        _known[(schema, release_digest)] = (found, now)
    return found


def status_forget(schema: str, release_digest: str | None = None) -> None:
    """Read anew next time: in this process at once, elsewhere within two seconds."""
    for key in [key for key in _known if key[0] == schema and release_digest in {None, key[1]}]:
        _known.pop(key, None)


def shadow_due(partition: Partition, *, share: float, draw: float | None = None) -> bool:
    """Whether this semantic hit is asked again.

    Args:
        share: the release's ``shadow_share``; 0 switches measuring off.
        draw: a number in [0, 1) instead of a random one.
    """
    if share <= 0:
        return False
    if semantic_status(partition.schema, partition.release_digest).n < PROBATION:
        share = max(share, PROBATION_SHARE)
    return (secrets.SystemRandom().random() if draw is None else draw) < share


# ------------------------------------------------------------------ judging
def _said(answer: Mapping[str, Any]) -> list[str]:
    said = []
    for choice in answer.get("choices") or []:
        message = choice.get("message") or {}
        text = message.get("content") if "message" in choice else choice.get("text")
        calls = [
            f"{(call.get('function') or {}).get('name')}({(call.get('function') or {}).get('arguments')})"
            for call in message.get("tool_calls") or []
        ]
        said.append(" ".join([str(text or ""), *calls]))
    return said


def _normal(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def answers_compare(stored: Mapping[str, Any], fresh: Mapping[str, Any]) -> tuple[bool, str, float | None]:
    """(they say the same, how that was judged, cosine or None).

    The same words are the same. Other words are, when their vectors are close and numbers and negations agree; for
    short answers names and opposites must agree too. In doubt they differ: a wrong alarm costs hits, a missed one
    costs trust.
    """
    first, second = _said(stored), _said(fresh)
    if [_normal(one) for one in first] == [_normal(one) for one in second]:
        return True, "equal", None
    if len(first) != len(second):
        return False, "differs", None
    from inference.caches.encoder import encode

    least = 1.0
    for one, other in zip(first, second, strict=True):
        least = min(least, float(encode(one[:2000]) @ encode(other[:2000])))
        here, there = features_of(one), features_of(other)
        names = ["numbers", "negations"]
        if max(len(one.split()), len(other.split())) <= 30:
            names += ["names", "polar", "quoted"]
        if least < MEANING or any(here[name] != there[name] for name in names):
            return False, "differs", least
    return True, "meaning", least


def shadow_record(
    partition: Partition, hit: Hit, fresh: Mapping[str, Any], *, bound: float, at: Any = None
) -> SemanticStatus:
    """Keep what a shadow ask found, and switch the release's semantic cache off when the evidence says so.

    Takes milliseconds and the ORM: call it outside the request. Args: ``fresh`` is the engine's new answer, treated
    like the stored one; ``bound`` the release's ``max_false_hit``.
    """
    same, how, cosine = answers_compare(hit.answer, fresh)
    return ask_keep(
        partition, entry_id=hit.entry_id, similarity=hit.similarity, false_hit=not same, judged_by=how,
        answer_similarity=cosine, bound=bound, at=at,
    )  # fmt: skip


def ask_keep(
    partition: Partition,
    *,
    entry_id: int | None,
    similarity: float,
    false_hit: bool,
    judged_by: str,
    answer_similarity: float | None,
    bound: float,
    at: Any = None,
) -> SemanticStatus:
    """Store one judged shadow ask and decide."""
    release = partition.release_digest
    with schema_context(partition.schema), use_actor(SYSTEM), transaction.atomic():
        state, _ = SemanticState.objects.get_or_create(
            release_digest=release, defaults={"changed_at": timezone.now()}
        )
        # One judge at a time, so that the switch is thrown once.
        state = SemanticState.objects.select_for_update().get(pk=state.pk)
        ShadowAsk.objects.create(
            release_digest=release, entry_id=entry_id, similarity=similarity, false_hit=false_hit,
            judged_by=judged_by, answer_similarity=answer_similarity, at=at or timezone.now(),
        )  # fmt: skip
        found = status_read(release)
        if state.enabled and proven_above(found.false_hits, found.n, bound):
            reason = (
                f"{found.false_hits} of {found.n} repeated questions had another answer "
                f"({found.low:.1%} to {found.high:.1%}); allowed are {bound:.1%}."
            )
            state.enabled, state.reason, state.changed_at = False, reason, timezone.now()
            state.save(update_fields=["enabled", "reason", "changed_at"])
            audit_record(
                "cache.semantic_off",
                target=state,
                data={"release": release, "false_hits": found.false_hits, "n": found.n, "reason": reason},
            )
            found = status_read(release)
    status_forget(partition.schema, release)
    return found
