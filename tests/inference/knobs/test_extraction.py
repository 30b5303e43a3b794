"""Extraction detection: copying is noticed, ordinary traffic is not, and nothing of it is text."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest

from core.audit.models import AuditEvent
from core.security.actor import Actor, use_actor
from inference.knobs.extraction import Watch, alert_handle, features, request_text
from inference.knobs.extraction_statistics import PATIENCE, TOTAL_REQUESTS, KeyState, Seen, bet, conformal
from inference.knobs.models import ExtractionAlert, KeyProfile

ADMIN = Actor("user", "1", "Admin", ("admin",), schema="alpha")
WORDS = [f"word{number}" for number in range(4000)]


def usual(generator: random.Random) -> str:
    topic = generator.choice(["invoice", "parcel", "password", "contract", "refund"])
    return f"Please help the customer with the {topic} question number {generator.randrange(30)} as usual"


def copying(generator: random.Random) -> str:
    return " ".join(generator.choices(WORDS, k=14))


def test_bets_are_fair() -> None:
    # The greatest mean over p-values that take the values 1/m .. 1, as conformal ones do.
    for m in (20, 200, 20_000):
        assert np.mean([bet(k / m) for k in range(1, m + 1)]) <= 1.0
    assert bet(1.0) == 0.5 and bet(0.001) > 15


def test_conformal_ranks_are_p_values() -> None:
    generator = np.random.default_rng(1)
    values = [conformal(x[0], x[1:]) for x in generator.normal(size=(2000, 40))]
    assert np.mean([p <= 0.1 for p in values]) <= 0.12
    assert conformal(5, [1, 2, 3]) == 0.25 and conformal(0, [1, 2, 3]) == 1.0


def test_the_filter_knows_what_it_saw_and_survives_storage() -> None:
    seen = Seen()
    generator = random.Random(1)
    values = [generator.getrandbits(64) for _ in range(5000)]
    assert sum(seen.add(value) for value in values) > 4900
    again = Seen(seen.as_bytes())
    assert not any(again.add(value) for value in values)
    for _ in range(60_000):
        again.add(generator.getrandbits(64))
    fresh = [generator.getrandbits(64) for _ in range(1000)]
    assert sum(again.add(value) for value in fresh) > 900


def run(
    state: KeyState, ask: object, windows: int, *, clock: float, gap: float, seed: int
) -> tuple[float, bool]:
    assert callable(ask)
    generator = random.Random(seed)
    for _ in range(windows * 60):
        clock += generator.expovariate(1 / gap)
        hashes, topic = features("alpha", ask(generator))
        state.observe(hashes, topic, 50, clock)
        if state.due(clock) and state.close(clock):
            return clock, True
    return clock, False


def test_copying_is_noticed_and_usual_traffic_is_not() -> None:
    state = KeyState()
    clock, alarm = run(state, usual, 80, clock=0.0, gap=4.0, seed=1)
    assert not alarm
    clock, alarm = run(
        state, usual, 30, clock=clock, gap=1.0, seed=2
    )  # four times the load, the same questions
    assert not alarm
    _, alarm = run(state, copying, 30, clock=clock, gap=1.0, seed=3)
    assert alarm and {"diversity"} <= set(state.evidence.reasons())
    assert state.evidence.score >= PATIENCE


def test_a_new_key_that_copies_from_the_start_is_noticed_by_its_sum() -> None:
    others = KeyState()
    run(others, usual, 60, clock=0.0, gap=4.0, seed=2)
    state, generator, clock, alarms = KeyState(), random.Random(3), 0.0, []
    for _ in range(80 * 60):
        clock += 1.0
        state.observe(*features("alpha", copying(generator)), 50, clock)
        if state.due(clock) and state.close(clock, others.windows):
            alarms.append(state.requests)
            assert state.evidence.reasons() == ["total"]
            state.reset()
    assert len(alarms) == 1 and alarms[0] >= TOTAL_REQUESTS
    _, alarm = run(KeyState(), usual, 80, clock=0.0, gap=1.0, seed=1)
    assert not alarm


def test_features_hold_no_text_and_differ_by_tenant() -> None:
    hashes, topic = features("alpha", "What is the secret of the old mill?")
    assert all(isinstance(value, int) for value in hashes) and 0 <= topic < 32
    assert features("beta", "What is the secret of the old mill?")[0] != hashes
    for text in ("", "a", "\ud800 x", "word " * 5000):
        assert len(features("alpha", text)[0]) <= 24
    assert request_text({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}) == "hi"
    assert request_text({"input": ["a", 3]}) == "a" and request_text({}) == ""


@pytest.fixture
def watched(db: None) -> Iterator[tuple[Watch, float]]:
    """A key with a past, as a process knows it, and the time."""
    watch = Watch()
    watch._start = lambda: None  # type: ignore[method-assign]
    generator, clock = random.Random(1), 1_000_000.0
    for _ in range(80 * 60):
        clock += generator.expovariate(1 / 4)
        watch.observe("alpha", "k1", usual(generator), 50, clock)
        watch.tick(clock)
    yield watch, clock
    watch.forget()


def attack(watch: Watch, clock: float, windows: int = 30) -> tuple[list[ExtractionAlert], float]:
    generator = random.Random(9)
    for _ in range(windows * 60):
        clock += 0.5
        watch.observe("alpha", "k1", copying(generator), 50, clock)
        if raised := watch.tick(clock):
            return raised, clock
    return [], clock


def test_an_alert_slows_the_key_until_somebody_has_looked(watched: tuple[Watch, float]) -> None:
    import time

    watch, clock = watched
    assert watch.check("alpha", "k1") is None and not ExtractionAlert.objects.exists()
    raised, _ = attack(watch, clock)
    (alert,) = raised
    assert alert.reasons and alert.p_value <= 1 / PATIENCE and alert.throttled_until is not None
    assert AuditEvent.objects.filter(action="extraction.alerted").exists()
    wait = watch.check("alpha", "k1")
    assert wait is not None and 1 <= wait.retry_after_s <= 60
    assert watch.check("alpha", "k1", time.time() + 60) is None  # slowed down, not stopped
    assert watch.check("alpha", "k2") is None and watch.check("beta", "k1") is None
    with use_actor(ADMIN):
        alert_handle(pk=alert.pk, state="dismissed", note="Load test")
    watch.flush()
    assert watch.check("alpha", "k1") is None
    alert.refresh_from_db()
    assert alert.state == "dismissed" and alert.handled_at is not None


def test_another_process_goes_on_where_this_one_was(watched: tuple[Watch, float]) -> None:
    watch, clock = watched
    watch.flush()
    profile = KeyProfile.objects.get(key_id="k1")
    assert profile.requests == 80 * 60
    other = Watch()
    other._start = lambda: None  # type: ignore[method-assign]
    raised, _ = attack(other, clock)
    assert raised
    assert Watch().check("alpha", "k1") is not None
