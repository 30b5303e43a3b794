"""Evidence about false hits, and the switch that acts on it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from core.audit.models import AuditEvent
from core.errors import Forbidden
from core.security.actor import Actor, use_actor
from inference.caches import services, shadow
from inference.caches.keys import Partition
from inference.caches.models import SemanticState, ShadowAsk
from inference.caches.shadow import answers_compare, ask_keep, semantic_status, shadow_due
from inference.caches.shadow_statistics import interval_anytime, log_evidence_above, proven_above
from inference.models import ModelVersion, Product, Release
from tests.inference.caches.conftest import RELEASE, answer_of, chat
from tests.inference.caches.test_store import plan_of

ADMIN = Actor("user", "1", "Admin", ("admin",), schema="alpha")
PARTITION = Partition("alpha", RELEASE, "p1", "g1", "tenant")


def test_the_evidence_is_an_e_value() -> None:
    """Its mean over what a cache exactly at the bound does is at most 1, at every size."""
    from scipy.stats import binom

    for n in (1, 10, 100, 1000):
        mean = sum(
            binom.pmf(k, n, 0.02) * np.exp(log_evidence_above(k, n, 0.02)) for k in range(min(n, 200) + 1)
        )
        assert mean <= 1.0 + 1e-6


def test_a_good_cache_is_hardly_ever_switched_off_and_a_bad_one_soon() -> None:
    generator = np.random.default_rng(1)

    def off_after(rate: float) -> int | None:
        k = 0
        for n, wrong in enumerate(generator.random(400) < rate, start=1):
            k += bool(wrong)
            if wrong and proven_above(k, n, 0.02):
                return n
        return None

    assert sum(off_after(0.02) is not None for _ in range(200)) <= 20
    assert all((off_after(0.3) or 999) < 60 for _ in range(50))


@pytest.mark.parametrize(("k", "n"), [(0, 0), (0, 50), (3, 50), (50, 50)])
def test_the_interval_holds_the_share(k: int, n: int) -> None:
    low, high = interval_anytime(k, n)
    assert 0 <= low <= (k / n if n else 0.5) <= high <= 1
    with pytest.raises(ValueError, match="false hits"):
        interval_anytime(n + 1, n)


def test_edges_of_the_bound() -> None:
    assert proven_above(1, 1, 0.0) and not proven_above(0, 100, 0.0) and not proven_above(5, 5, 1.0)
    with pytest.raises(ValueError, match="share"):
        log_evidence_above(0, 1, 1.5)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Paris.", "paris", True),
        ("You can reset it in the settings.", "It can be reset in the settings.", True),
        ("The fee is 20 euros.", "The fee is 30 euros.", False),
        ("Yes, you may.", "No, you may not.", False),
        ("Paris", "Berlin", False),
    ],
)
def test_answers_are_judged_by_what_they_say(one: str, other: str, same: bool) -> None:
    assert answers_compare(answer_of(one), answer_of(other))[0] is same


def ask(false_hit: bool, *, bound: float = 0.02) -> shadow.SemanticStatus:
    return ask_keep(
        PARTITION, entry_id=1, similarity=0.96, false_hit=false_hit, judged_by="differs", answer_similarity=0.1,
        bound=bound,
    )  # fmt: skip


def test_past_its_bound_a_semantic_cache_goes_off_by_itself(db: None) -> None:
    for _ in range(3):
        assert ask(False).enabled
    while (status := ask(True)).enabled:
        assert status.n < 20
    assert not semantic_status("alpha", RELEASE).enabled
    assert semantic_status("beta", RELEASE).enabled
    event = AuditEvent.objects.get(action="cache.semantic_off")
    assert event.data["false_hits"] == status.false_hits
    assert "another answer" in SemanticState.objects.get().reason
    # What follows changes nothing and is not recorded again.
    ask(True)
    assert AuditEvent.objects.filter(action="cache.semantic_off").count() == 1


def test_a_person_switches_it_on_again_with_new_evidence(db: None) -> None:
    product = Product.objects.create(slug="p", name="P")
    model = ModelVersion.objects.create(name="m", digest="sha256:" + "1" * 64)
    Release.objects.create(product=product, version="1.0.0", model_version=model, digest=RELEASE, config={})
    for _ in range(8):
        ask(True)
    with use_actor(Actor("user", "2", "Auditor", ("auditor",), schema="alpha")), pytest.raises(Forbidden):
        services.semantic_set(release_digest=RELEASE, enabled=True, reason="x")
    with use_actor(ADMIN):
        with pytest.raises(services.PurgeInvalid, match="why"):
            services.semantic_set(release_digest=RELEASE, enabled=True)
        services.semantic_set(release_digest=RELEASE, enabled=True, reason="Threshold raised")
        with pytest.raises(services.CacheReleaseUnknown):
            services.semantic_set(release_digest="sha256:" + "9" * 64, enabled=False)
    shadow.status_forget("alpha")
    status = semantic_status("alpha", RELEASE)
    assert status.enabled and status.n == 0
    assert ShadowAsk.objects.count() == 8


def test_a_new_cache_is_asked_more_often(db: None) -> None:
    assert shadow_due(PARTITION, share=0.05, draw=0.4)
    assert not shadow_due(PARTITION, share=0.05, draw=0.6)
    assert not shadow_due(PARTITION, share=0.0, draw=0.0)
    for _ in range(shadow.PROBATION):
        ask(False)
    assert not shadow_due(PARTITION, share=0.05, draw=0.4) and shadow_due(PARTITION, share=0.05, draw=0.04)


def test_a_cache_that_is_off_does_not_answer_by_meaning(caches: Callable[[], None]) -> None:
    plan_of(chat("How can I reset my password?")).store(answer_of("Open settings."), clean=True)
    caches()
    first = plan_of(chat("How do I reset my password?"))
    assert first.lookup() is not None
    first.shadow_record(answer_of("Call 555 now."))
    for _ in range(8):
        ask(True)
    assert plan_of(chat("How do I reset my password?")).lookup() is None
    assert plan_of(chat("How can I reset my password?")).lookup() is not None  # the very same still is
    assert not {field.name for field in ShadowAsk._meta.get_fields()} & {"text", "prompt", "answer"}
