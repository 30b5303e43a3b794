"""Planted answers: a request that nobody asks by chance, answered with a text nobody says by chance.

A model trained on our answers learns some of them. Asked the same question, a foreign model that gives the planted
text back has most probably seen it; one that has not gives it back with at most the chance stated per canary.
The prompt is not stored (a keyed digest is); the answer is stored sealed.
"""

from __future__ import annotations

import math
import re
import threading
import time
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone
from django_tenants.utils import schema_context

from core.audit.services import audit_record
from core.errors import Conflict, Invalid, NotFound
from core.schema import current_schema
from core.security.actor import current_actor
from core.security.fields import keyed_digest, tenant_sealer
from core.security.permissions import require
from inference.knobs.models import CanaryEntry
from inference.models import Release

_DIGEST: Final = "canary-prompt"
_SEAL: Final = "canary-answer"
_AGE_S: Final = 5.0
MAX_PROMPT: Final = 2000
MAX_ANSWER: Final = 2000
MAX_CANARIES: Final = 500
# Chance granted to a model that has never seen a canary to give its text all the same. Planted answers of
# at least MIN_WORDS words of a person's own choice are far rarer; the p-value is an upper bound.
CHANCE: Final = 1e-3
MIN_WORDS: Final = 4


class CanaryInvalid(Invalid):
    """A canary that would recognise nothing."""

    code = "canary_invalid"


class CanaryExists(Conflict):
    """This prompt is planted already."""

    code = "canary_exists"


class CanaryNotFound(NotFound):
    """There is no such canary."""

    code = "canary_not_found"


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", _normal(text))


def _prompt_digest(schema: str, prompt: str) -> bytes:
    return keyed_digest(schema, _DIGEST, _normal(prompt).encode("utf-8", "surrogatepass"))


def _place(release_digest: str, digest: bytes) -> bytes:
    return release_digest.encode() + digest


@transaction.atomic
def canary_plant(*, release_digest: str, prompt: str, answer: str, label: str) -> CanaryEntry:
    """Plant a canary. Raises Forbidden, CanaryInvalid, CanaryExists."""
    require("guard.edit")
    errors: dict[str, list[str]] = {}
    if "\x00" in prompt + answer + label + release_digest:
        raise CanaryInvalid("The canary holds a NUL character.")
    if not Release.objects.filter(digest=release_digest).exists():
        errors["release"] = ["There is no release with this digest."]
    if len(prompt) > MAX_PROMPT or len(_words(prompt)) < MIN_WORDS:
        errors["prompt"] = [
            f"Use at least {MIN_WORDS} words, so that nobody asks it by chance, and {MAX_PROMPT} characters at most."
        ]
    if len(answer) > MAX_ANSWER or len(_words(answer)) < MIN_WORDS:
        errors["answer"] = [
            f"Use at least {MIN_WORDS} words that no model would choose, and {MAX_ANSWER} characters at most."
        ]
    label = " ".join(label.split())
    if not label or len(label) > 120:
        errors["label"] = ["Give a name of at most 120 characters that says nothing of the prompt."]
    if CanaryEntry.objects.filter(is_active=True).count() >= MAX_CANARIES:
        errors["release"] = [f"At most {MAX_CANARIES} canaries can be active."]
    if errors:
        raise CanaryInvalid("The canary was not planted.", fields=errors)
    schema = current_schema()
    digest = _prompt_digest(schema, prompt)
    try:
        with transaction.atomic():
            canary = CanaryEntry.objects.create(
                release_digest=release_digest,
                prompt_digest=digest,
                answer_sealed=tenant_sealer(schema, _SEAL).seal(
                    answer.strip().encode(), _place(release_digest, digest)
                ),
                label=label,
                created_by_label=current_actor().label[:120],
            )
    except IntegrityError as error:
        raise CanaryExists("This prompt is planted in this release already. Retire it first.") from error
    audit_record("canary.planted", target=canary, data={"release": release_digest})
    transaction.on_commit(lambda: _known.pop(schema, None))
    return canary


@transaction.atomic
def canary_retire(*, pk: int) -> CanaryEntry:
    """Stop answering with a canary; it can still be looked for in other models. Raises Forbidden, CanaryNotFound."""
    require("guard.edit")
    canary = CanaryEntry.objects.select_for_update().filter(pk=pk).first()
    if canary is None:
        raise CanaryNotFound("There is no such canary.")
    if canary.is_active:
        canary.is_active = False
        canary.save(update_fields=["is_active"])
        audit_record("canary.retired", target=canary)
        schema = current_schema()
        transaction.on_commit(lambda: _known.pop(schema, None))
    return canary


# ------------------------------------------------------------------ answering
_known: dict[str, tuple[dict[str, dict[bytes, tuple[int, str]]], float]] = {}
_lock = threading.Lock()


def canaries_forget() -> None:
    """Read anew next time."""
    _known.clear()


def _active(schema: str) -> dict[str, dict[bytes, tuple[int, str]]]:
    known = _known.get(schema)
    if known is not None and time.monotonic() - known[1] < _AGE_S:
        return known[0]
    with _lock, schema_context(schema):
        found: dict[str, dict[bytes, tuple[int, str]]] = {}
        sealer = tenant_sealer(schema, _SEAL)
        for row in CanaryEntry.objects.filter(is_active=True):
            digest = bytes(row.prompt_digest)
            answer = sealer.open(bytes(row.answer_sealed), _place(row.release_digest, digest)).decode()
            found.setdefault(row.release_digest, {})[digest] = (row.pk, answer)
        _known[schema] = (found, time.monotonic())
    return found


@dataclass(frozen=True, slots=True)
class Planted:
    """A canary that a request met."""

    canary_id: int
    answer: str


def canary_match(schema: str, release_digest: str, body: Mapping[str, Any]) -> Planted | None:
    """The planted answer for a request whose last user text (or prompt) is a canary's; None otherwise.

    Reads the database at most every five seconds; without canaries it costs a look into a dict.
    """
    planted = _active(schema).get(release_digest)
    if not planted:
        return None
    prompt = _prompt_of(body)
    if not prompt or len(prompt) > 2 * MAX_PROMPT:
        return None
    found = planted.get(_prompt_digest(schema, prompt))
    return Planted(*found) if found is not None else None


def _prompt_of(body: Mapping[str, Any]) -> str:
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return prompt
    messages = body.get("messages")
    if not isinstance(messages, list):
        return ""
    for message in reversed(messages):
        if isinstance(message, Mapping) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, list):
                content = " ".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
            return content if isinstance(content, str) else ""
    return ""


def canary_hit(schema: str, canary_id: int) -> None:
    """Count that a canary answered. Call it outside the request."""
    with schema_context(schema):
        CanaryEntry.objects.filter(pk=canary_id).update(hits=F("hits") + 1, last_hit_at=timezone.now())


def planted_answer(
    planted: Planted, *, route: str, model: str, request_id: str, created: int
) -> dict[str, Any]:
    """The planted text as a whole answer in OpenAI's shape, to be sent or replayed as a stream."""
    count = max(1, len(planted.answer) // 4)
    usage = {"prompt_tokens": 0, "completion_tokens": count, "total_tokens": count}
    head = {"id": request_id, "created": created, "model": model, "usage": usage}
    if route == "completions":
        choice: dict[str, Any] = {
            "index": 0,
            "text": planted.answer,
            "logprobs": None,
            "finish_reason": "stop",
        }
        return {**head, "object": "text_completion", "choices": [choice]}
    message = {"role": "assistant", "content": planted.answer}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {**head, "object": "chat.completion", "choices": [choice]}


# ------------------------------------------------------------------ recognising
@dataclass(frozen=True, slots=True)
class CopyEvidence:
    """Whether answers of a foreign model hold our canaries.

    ``p_value``: upper bound on the chance of at least this many matches for a model that never saw them, granting
    each canary the chance `CHANCE`.
    """

    asked: int
    matched: int
    p_value: float
    matches: tuple[str, ...]


def binomial_tail(matched: int, asked: int, chance: float) -> float:
    """P(at least ``matched`` of ``asked``) when each happens with ``chance``; exact."""
    return min(
        1.0,
        math.fsum(
            math.comb(asked, k) * chance**k * (1 - chance) ** (asked - k) for k in range(matched, asked + 1)
        ),
    )


def holds_planted(answer: str, planted: str) -> bool:
    """Whether an answer gives a planted text back: its words in their order, at least 80% of them in one run or
    all of it within the answer; punctuation and case aside."""
    said, wanted = _words(answer), _words(planted)
    if not wanted:
        return False
    length = max(MIN_WORDS, math.ceil(0.8 * len(wanted)))
    runs = {tuple(wanted[at : at + length]) for at in range(max(1, len(wanted) - length + 1))}
    return any(tuple(said[at : at + length]) in runs for at in range(len(said) - length + 1))


def copy_check(answers: Sequence[Mapping[str, str]]) -> CopyEvidence:
    """Compare a foreign model's answers with the canaries of the tenant, retired ones included.

    Args:
        answers: ``{"prompt": ..., "answer": ...}``; a prompt that is nobody's canary does not count.
    Raises:
        Forbidden, CanaryInvalid (none of the prompts is a canary's).
    """
    require("guard.view")
    schema = current_schema()
    sealer = tenant_sealer(schema, _SEAL)
    rows: dict[bytes, list[CanaryEntry]] = {}
    for row in CanaryEntry.objects.all():
        rows.setdefault(bytes(row.prompt_digest), []).append(row)
    asked: dict[bytes, bool] = {}
    matches = []
    for one in answers:
        digest = _prompt_digest(schema, one["prompt"])
        for row in rows.get(digest, ()):
            planted = sealer.open(bytes(row.answer_sealed), _place(row.release_digest, digest)).decode()
            found = holds_planted(one["answer"], planted)
            if found and not asked.get(digest):
                matches.append(row.label)
            # A canary asked several times is one experiment.
            asked[digest] = asked.get(digest, False) or found
    if not asked:
        raise CanaryInvalid(
            "None of these prompts is a canary of this tenant, so there is nothing to compare."
        )
    matched = sum(asked.values())
    return CopyEvidence(len(asked), matched, binomial_tail(matched, len(asked), CHANCE), tuple(matches))
