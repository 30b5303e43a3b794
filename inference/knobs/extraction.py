"""Extraction detection at run time: features of requests, state per key, alerts and throttles.

`extraction_observe` costs tens of microseconds and keeps no text; a thread closes windows every second, writes what
changed every few seconds and raises alerts. A killed process loses seconds of a key's past. Several gateway processes
each watch their share of a key's requests.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from django_tenants.utils import schema_context

from core.audit.services import audit_record
from core.errors import Invalid, NotFound
from core.security.actor import SYSTEM, current_actor, use_actor
from core.security.fields import tenant_subkey
from core.security.permissions import require
from inference.knobs.extraction_statistics import PATIENCE, KeyState, Window
from inference.knobs.models import ExtractionAlert, KeyProfile

logger = logging.getLogger("signoff.knobs")

# A suspected key may go on at this many times its usual rate, and at least at THROTTLE_FLOOR requests a minute.
THROTTLE_FACTOR: Final = 2.0
THROTTLE_FLOOR: Final = 6.0
THROTTLE_S: Final = 3600
_TICK_S: Final = 1.0
_FLUSH_S: Final = 5.0
_POPULATION_S: Final = 60.0
_FORGET_S: Final = 3600.0
_SHINGLES: Final = 24
_WORD: Final = re.compile(r"\w+")


class AlertNotFound(NotFound):
    """There is no such alert."""

    code = "alert_not_found"


class AlertInvalid(Invalid):
    """An alert is marked confirmed or a false alarm."""

    code = "alert_invalid"


@dataclass(frozen=True, slots=True)
class Throttle:
    """The key asks like somebody who copies; answer 429 and say when to try again."""

    retry_after_s: float
    reason: str


def request_text(body: Mapping[str, Any]) -> str:
    """What a request asks: its last user text, prompt or input."""
    messages = body.get("messages")
    if isinstance(messages, list) and messages:
        last = messages[-1]
        content = last.get("content") if isinstance(last, Mapping) else ""
        if isinstance(content, list):
            content = " ".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
        return content if isinstance(content, str) else ""
    for name in ("prompt", "input"):
        value = body.get(name)
        if isinstance(value, str):
            return value
        if isinstance(value, list):
            return " ".join(one for one in value[:16] if isinstance(one, str))
    return ""


def features(schema: str, text: str) -> tuple[list[int], int]:
    """(keyed 64-bit hashes of up to 24 word triples spread over the text, topic 0 to 31).

    The topic is where the smallest word hash falls (a min-hash): alike texts mostly fall alike.
    """
    words = _WORD.findall(text[:8000].casefold())
    if len(words) < 3:
        words = [*words, "", "", ""][:3]
    step = max(1, (len(words) - 2) // _SHINGLES)
    key = tenant_subkey(schema, "extraction")
    hashes = []
    for at in range(0, len(words) - 2, step):
        digest = hashlib.blake2b(
            "\x00".join(words[at : at + 3]).encode("utf-8", "surrogatepass"), digest_size=8, key=key
        )
        hashes.append(int.from_bytes(digest.digest(), "big"))
        if len(hashes) >= _SHINGLES:
            break
    return hashes, min(hashes) % 32 if hashes else 0


@dataclass(slots=True)
class _Watched:
    state: KeyState
    lock: threading.Lock = field(default_factory=threading.Lock)
    dirty: bool = False
    last: float = 0.0
    # A suspected key's allowance.
    until: float = 0.0
    per_minute: float = 0.0
    tokens: float = 0.0
    filled: float = 0.0


class Watch:
    """The keys this process has seen."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str], _Watched] = {}
        self._population: dict[str, tuple[list[Window], float]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def _of(self, schema: str, key_id: str) -> _Watched:
        found = self._keys.get((schema, key_id))
        if found is None:
            loaded = self._load(schema, key_id)
            with self._lock:
                found = self._keys.setdefault((schema, key_id), loaded)
        return found

    def _load(self, schema: str, key_id: str) -> _Watched:
        with schema_context(schema):
            row = KeyProfile.objects.filter(key_id=key_id).first()
            state = KeyState.restored(row.windows, bytes(row.seen), row.requests) if row else KeyState()
            watched = _Watched(state, last=time.time())
            self._allowance(watched, key_id)
        return watched

    def _allowance(self, watched: _Watched, key_id: str) -> None:
        """Read whether the key is throttled, in the current schema."""
        alert = ExtractionAlert.objects.filter(key_id=key_id, throttled_until__gt=timezone.now()).exclude(
            state=ExtractionAlert.State.DISMISSED
        ).first()  # fmt: skip
        was = watched.until > time.time()
        if alert is not None and alert.throttled_until is not None:
            watched.until = alert.throttled_until.timestamp()
            if not was:
                watched.tokens, watched.filled = 0.0, time.time()
            watched.per_minute = max(THROTTLE_FLOOR, THROTTLE_FACTOR * watched.state.usual_rate())
        elif was:
            # A person said it was a false alarm, here or at another process.
            watched.until = 0.0
            watched.state.reset()

    def check(self, schema: str, key_id: str, now: float | None = None) -> Throttle | None:
        """Whether the key must wait: a token bucket at twice its usual rate while it is suspected."""
        watched = self._of(schema, key_id)
        now = time.time() if now is None else now
        if watched.until <= now:
            return None
        with watched.lock:
            watched.tokens = min(
                watched.per_minute / 6, watched.tokens + (now - watched.filled) * watched.per_minute / 60
            )
            watched.filled = now
            if watched.tokens >= 1:
                watched.tokens -= 1
                return None
            wait = 60 * (1 - watched.tokens) / watched.per_minute
        return Throttle(
            max(1.0, wait),
            "This key is asking in an unusual way and is slowed down until somebody has looked.",
        )

    def observe(self, schema: str, key_id: str, text: str, tokens_out: int, now: float | None = None) -> None:
        """Take one answered request into the key's open window."""
        watched = self._of(schema, key_id)
        hashes, topic = features(schema, text)
        now = time.time() if now is None else now
        with watched.lock:
            watched.state.observe(hashes, topic, tokens_out, now)
            watched.dirty, watched.last = True, now
        if self._thread is None or not self._thread.is_alive():
            self._start()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="extraction-watch", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        flushed = time.monotonic()
        while True:
            time.sleep(_TICK_S)
            try:
                self.tick()
                if time.monotonic() - flushed > _FLUSH_S:
                    flushed = time.monotonic()
                    self.flush()
            except Exception:
                logger.exception("extraction watch: a round failed and will be tried again")
            finally:
                connection.close()

    def tick(self, now: float | None = None) -> list[ExtractionAlert]:
        """Close the windows that are due; the alerts that were raised."""
        now = time.time() if now is None else now
        raised = []
        for (schema, key_id), watched in list(self._keys.items()):
            with watched.lock:
                if not watched.state.due(now):
                    continue
            population = self._others(schema, key_id, now)
            with watched.lock:
                alarm = watched.state.close(now, population)
                watched.dirty = True
            if alarm and watched.until <= now:
                alert = self._alert(schema, key_id, watched)
                if alert is not None:
                    raised.append(alert)
        return raised

    def _others(self, schema: str, key_id: str, now: float) -> list[Window]:
        known = self._population.get(schema)
        if known is None or now - known[1] > _POPULATION_S:
            with schema_context(schema):
                rows = (
                    KeyProfile.objects.exclude(key_id=key_id)
                    .order_by("-updated_at")
                    .values_list("windows", flat=True)
                )
                windows: list[Window] = []
                for stored in rows[:20]:
                    windows += KeyState.restored(stored, b"", 0).windows[-10:]
            known = (windows, now)
            self._population[schema] = known
        return known[0]

    def _alert(self, schema: str, key_id: str, watched: _Watched) -> ExtractionAlert | None:
        state = watched.state
        now = timezone.now()
        until = now + timedelta(seconds=THROTTLE_S)
        with schema_context(schema), use_actor(SYSTEM):
            try:
                with transaction.atomic():
                    alert = ExtractionAlert.objects.create(
                        key_id=key_id,
                        reasons=state.evidence.reasons(),
                        p_value=min(1.0, 1 / max(state.evidence.score, 1.0)),
                        numbers=state.numbers(),
                        requests=state.evidence.requests,
                        throttled_until=until,
                        opened_at=now,
                        last_at=now,
                    )
                    audit_record(
                        "extraction.alerted",
                        target=alert,
                        data={"reasons": alert.reasons, "requests": alert.requests, "key_id": key_id},
                    )
            except IntegrityError:  # another process was first, or nobody has looked at the last one yet
                ExtractionAlert.objects.filter(key_id=key_id, state=ExtractionAlert.State.OPEN).update(
                    last_at=now, throttled_until=until, requests=state.evidence.requests
                )
                alert = None
        watched.per_minute = max(THROTTLE_FLOOR, THROTTLE_FACTOR * state.usual_rate())
        watched.until, watched.tokens, watched.filled = until.timestamp(), 0.0, time.time()
        return alert

    def flush(self) -> None:
        """Write what changed, read who is throttled, and forget keys that were silent for an hour."""
        now = time.time()
        by_schema: dict[str, list[tuple[str, _Watched]]] = {}
        for (schema, key_id), watched in list(self._keys.items()):
            by_schema.setdefault(schema, []).append((key_id, watched))
            if not watched.dirty and now - watched.last > _FORGET_S:
                self._keys.pop((schema, key_id), None)
        for schema, keys in by_schema.items():
            with schema_context(schema):
                for key_id, watched in keys:
                    self._allowance(watched, key_id)
                    if watched.dirty:
                        self._save(key_id, watched)

    def _save(self, key_id: str, watched: _Watched) -> None:
        with watched.lock:
            values = {
                "windows": watched.state.as_dict(),
                "seen": watched.state.seen.as_bytes(),
                "requests": watched.state.requests,
                "updated_at": timezone.now(),
            }
            watched.dirty = False
        KeyProfile.objects.update_or_create(key_id=key_id, defaults=values)

    def forget(self) -> None:
        """Forget everything in memory (tests)."""
        self._keys.clear()
        self._population.clear()


WATCH = Watch()


def extraction_check(schema: str, key_id: str) -> Throttle | None:
    """Whether a key is slowed down now. A failure to look says no."""
    try:
        return WATCH.check(schema, key_id)
    except Exception:
        logger.exception("extraction check failed; the request goes on")
        return None


def extraction_observe(schema: str, key_id: str, body: Mapping[str, Any], tokens_out: int) -> None:
    """Take an answered request into account. Never raises."""
    try:
        WATCH.observe(schema, key_id, request_text(body), tokens_out)
    except Exception:
        logger.exception("extraction observation failed; the request goes on")


@transaction.atomic
def alert_handle(*, pk: int, state: str, note: str = "") -> ExtractionAlert:
    """Say what an alert was. A false alarm ends the throttle within five seconds; a confirmed one keeps it.

    Raises Forbidden, AlertNotFound, AlertInvalid.
    """
    require("guard.edit")
    if state not in {ExtractionAlert.State.CONFIRMED, ExtractionAlert.State.DISMISSED}:
        raise AlertInvalid(
            "Say whether it was confirmed or a false alarm.", fields={"state": ["Choose one."]}
        )
    note = " ".join(note.replace("\x00", "").split())
    if len(note) > 500:
        raise AlertInvalid("Keep the note below 500 characters.", fields={"note": ["Too long."]})
    alert = ExtractionAlert.objects.select_for_update().filter(pk=pk).first()
    if alert is None:
        raise AlertNotFound("There is no such alert.")
    alert.state, alert.note = state, note
    alert.handled_at, alert.handled_by_label = timezone.now(), current_actor().label[:120]
    if state == ExtractionAlert.State.DISMISSED:
        alert.throttled_until = None
    alert.save(update_fields=["state", "note", "handled_at", "handled_by_label", "throttled_until"])
    audit_record("extraction.handled", target=alert, data={"state": alert.get_state_display().lower()})
    return alert


def alerts_open() -> Sequence[ExtractionAlert]:
    """Alerts nobody has looked at, newest first."""
    return list(ExtractionAlert.objects.filter(state=ExtractionAlert.State.OPEN))


__all__ = [
    "PATIENCE", "WATCH", "AlertInvalid", "AlertNotFound", "Throttle", "Watch", "alert_handle", "alerts_open",
    "extraction_check", "extraction_observe", "features", "request_text",
]  # fmt: skip
