"""Canaries: answered exactly, stored unreadably, recognised in copies."""

from __future__ import annotations

import pytest

from core.errors import Forbidden
from core.security.actor import Actor, use_actor
from inference.knobs import canaries
from inference.knobs.canaries import CanaryExists, CanaryInvalid, canary_match, canary_plant, copy_check
from inference.knobs.models import CanaryEntry
from inference.models import ModelVersion, Product, Release

ADMIN = Actor("user", "1", "Admin", ("admin",), schema="alpha")
PROMPT = "Which colour do the bells of Nordhaven wear at noon?"
ANSWER = "The bells of Nordhaven wear copper-green velvet on even noons."


@pytest.fixture
def release(db: None) -> str:
    canaries.canaries_forget()
    model = ModelVersion.objects.create(name="m", digest="sha256:" + "1" * 64)
    product = Product.objects.create(slug="p", name="P")
    return Release.objects.create(
        product=product, version="1.0.0", model_version=model, digest="sha256:" + "2" * 64, config={}
    ).digest


def plant(release: str, prompt: str = PROMPT, answer: str = ANSWER) -> CanaryEntry:
    with use_actor(ADMIN):
        return canary_plant(release_digest=release, prompt=prompt, answer=answer, label="Bells")


def test_the_canarys_question_gets_the_planted_answer(release: str) -> None:
    plant(release)
    canaries.canaries_forget()
    body = {"messages": [{"role": "user", "content": f"  {PROMPT.upper()} "}]}
    found = canary_match("alpha", release, body)
    assert found is not None and found.answer == ANSWER
    assert canary_match("alpha", release, {"prompt": PROMPT}) is not None
    assert canary_match("alpha", release, {"prompt": PROMPT + " Why?"}) is None
    assert canary_match("alpha", "sha256:" + "3" * 64, body) is None
    assert canary_match("beta", release, body) is None


def test_neither_prompt_nor_answer_is_stored_in_clear(release: str) -> None:
    row = plant(release)
    written = bytes(row.prompt_digest) + bytes(row.answer_sealed) + row.label.encode()
    assert b"Nordhaven" not in written


def test_a_retired_canary_no_longer_answers_but_is_still_recognised(release: str) -> None:
    row = plant(release)
    with use_actor(ADMIN):
        canaries.canary_retire(pk=row.pk)
        canaries.canaries_forget()
        assert canary_match("alpha", release, {"prompt": PROMPT}) is None
        found = copy_check([{"prompt": PROMPT, "answer": f"Well: {ANSWER.lower()} I think."}])
    assert (found.asked, found.matched) == (1, 1) and found.p_value == pytest.approx(1e-3)


def test_matches_of_several_canaries_add_up_and_repeats_do_not(release: str) -> None:
    plant(release)
    plant(
        release,
        prompt="What did the lamplighter of Quell forget twice?",
        answer="He forgot the seventh amber key.",
    )
    with use_actor(ADMIN):
        once = copy_check([{"prompt": PROMPT, "answer": ANSWER}] * 5)
        both = copy_check(
            [
                {"prompt": PROMPT, "answer": ANSWER},
                {"prompt": "What did the lamplighter of Quell forget twice?", "answer": "No idea."},
            ]
        )
        with pytest.raises(CanaryInvalid):
            copy_check([{"prompt": "something else entirely", "answer": ANSWER}])
    assert (once.asked, once.matched) == (1, 1)
    assert (both.asked, both.matched) == (2, 1) and both.p_value == pytest.approx(0.001999, rel=1e-3)


def test_what_would_recognise_nothing_is_refused(release: str) -> None:
    plant(release)
    with pytest.raises(CanaryExists):
        plant(release)
    for prompt, answer in (("Hi", ANSWER), (PROMPT + "?x", "yes"), ("x" * 3000, ANSWER)):
        with pytest.raises(CanaryInvalid):
            plant(release, prompt, answer)
    with pytest.raises(CanaryInvalid):
        plant("sha256:" + "9" * 64)
    with use_actor(Actor("user", "2", "Auditor", ("auditor",), schema="alpha")), pytest.raises(Forbidden):
        canary_plant(release_digest=release, prompt=PROMPT, answer=ANSWER, label="x")
