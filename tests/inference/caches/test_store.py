"""Answers that are given again, and the walls between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from django_tenants.utils import schema_context

from core.audit.models import AuditEvent
from core.security.actor import Actor, use_actor
from inference.caches import database, services, store
from inference.caches.encoder import encode
from inference.caches.keys import Partition, RequestKey, request_key
from inference.caches.models import CacheCounter, CacheEntry
from inference.caches.plan import CachePlan, cache_plan
from inference.caches.replay import replay_chunks
from inference.gateway.contract import Call
from inference.gateway.release_config import CacheConfig
from tests.inference.caches.conftest import OTHER_RELEASE, RELEASE, answer_of, caller_of, chat, target_of

Settle = Callable[[], None]
BOTH = CacheConfig(exact=True, semantic=True, threshold=0.85)


def plan_of(call: Call, *, schema: str = "alpha", config: CacheConfig = BOTH, **kwargs: Any) -> CachePlan:
    made = cache_plan(
        call, caller_of(schema, kwargs.pop("key", "k1")), target_of(schema, kwargs.pop("release", RELEASE)),
        config=config, allowed=kwargs.pop("allowed", ("exact", "semantic")),
        policy_version=kwargs.pop("policy", "p1"), guard_version=kwargs.pop("guards", "g1"),
    )  # fmt: skip
    assert made is not None
    return made


def test_the_same_request_gets_the_stored_answer(caches: Settle) -> None:
    answer = answer_of("Paris.")
    first = plan_of(chat("Capital of France?"))
    assert first.lookup() is None and first.status == "miss"
    assert first.store(answer, clean=True)
    again = plan_of(chat("Capital of France?", stream=True))
    hit = again.lookup()
    assert hit is not None and hit.answer == answer and hit.kind == "exact" and again.status == "hit-exact"
    caches()
    counted = CacheCounter.objects.get(release_digest=RELEASE)
    assert (counted.exact_hits, counted.misses, counted.stores, counted.tokens_saved) == (1, 1, 1, 12)
    assert CacheEntry.objects.get().hits == 1


def test_identical_prompts_of_two_tenants_never_meet(caches: Settle) -> None:
    question = chat("What is our secret?")
    plan_of(question).store(answer_of("Alpha's secret."), clean=True)
    caches()
    theirs = plan_of(question, schema="beta")
    assert theirs.lookup() is None
    theirs.store(answer_of("Beta's secret."), clean=True)
    caches()
    for schema, said in (("alpha", "Alpha's secret."), ("beta", "Beta's secret.")):
        hit = plan_of(question, schema=schema).lookup()
        assert hit is not None and hit.answer["choices"][0]["message"]["content"] == said
        with schema_context(schema):
            assert CacheEntry.objects.count() == 1
        # Nearly the same question, by meaning.
        near = plan_of(chat("what is our secret"), schema=schema).lookup()
        assert near is not None and near.kind == "semantic" and near.answer == hit.answer


def test_a_row_moved_to_another_tenant_does_not_open(caches: Settle) -> None:
    question = chat("What is our secret?")
    plan_of(question).store(answer_of("Alpha's secret."), clean=True)
    row = CacheEntry.objects.get()
    theirs = plan_of(question, schema="beta")
    with schema_context("beta"):
        row.pk, row.partition, row.digest = None, theirs.partition.digest, theirs.key.digest
        row.save(force_insert=True)
    assert theirs.lookup() is None


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"release": OTHER_RELEASE},
        {"policy": "p2"},
        {"guards": "g2"},
        {"config": CacheConfig(exact=True, scope="key")},
    ],
)
def test_release_policy_guards_and_scope_are_walls(caches: Settle, elsewhere: dict[str, Any]) -> None:
    plan_of(chat("Hello")).store(answer_of("Hi."), clean=True)
    assert plan_of(chat("Hello"), **elsewhere).lookup() is None


def test_a_key_scope_keeps_keys_apart(caches: Settle) -> None:
    config = CacheConfig(exact=True, scope="key")
    plan_of(chat("Hello"), config=config, key="k1").store(answer_of("Hi."), clean=True)
    assert plan_of(chat("Hello"), config=config, key="k1").lookup() is not None
    assert plan_of(chat("Hello"), config=config, key="k2").lookup() is None


def test_nothing_is_kept_that_was_not_clean_or_not_whole(caches: Settle) -> None:
    plan = plan_of(chat("Hello"))
    assert not plan.store(answer_of("Hi."), clean=False)
    for finish in ("content_filter", "length", None):
        assert not plan.store(answer_of("Hi.", finish), clean=True)  # type: ignore[arg-type]
    assert not plan.store({"choices": []}, clean=True)
    assert not plan.store({"error": {}, **answer_of("x")}, clean=True)
    assert not plan.store(answer_of("x" * (store.MAX_ANSWER_BYTES + 1)), clean=True)
    # Cut where the client itself said.
    assert plan_of(chat("Hello", max_tokens=3)).store(answer_of("Hi the", "length"), clean=True)
    assert CacheEntry.objects.count() == 1


def test_the_client_may_refuse_caches(caches: Settle) -> None:
    call = chat("Hello")
    plan_of(call).store(answer_of("Hi."), clean=True)
    call.cache_control = "no-cache"
    fresh = plan_of(call)
    assert fresh.lookup() is None and fresh.store(answer_of("Hello!"), clean=True)
    call.cache_control = "no-store"
    silent = plan_of(call)
    assert silent.lookup() is None and silent.status == "bypass"
    assert not silent.store(answer_of("Never."), clean=True)
    call.cache_control = ""
    hit = plan_of(call).lookup()
    assert hit is not None and hit.answer["choices"][0]["message"]["content"] == "Hello!"


def test_caches_are_off_unless_release_and_policy_allow(db: None) -> None:
    def made(config: CacheConfig, *allowed: str) -> CachePlan | None:
        return cache_plan(
            chat("x"),
            caller_of(),
            target_of(),
            config=config,
            allowed=allowed,
            policy_version="",
            guard_version="",
        )

    assert made(CacheConfig(), "exact", "semantic") is None
    assert made(BOTH) is None
    assert made(CacheConfig(semantic=True), "exact") is None
    only = made(BOTH, "exact")
    assert only is not None and not only.semantic


def test_an_answer_ends_with_its_time(caches: Settle) -> None:
    plan = plan_of(chat("Hello"))
    store.store(plan.partition, plan.key, answer_of("Hi."), ttl_s=0, clean=True)
    assert plan.lookup() is None


@pytest.mark.parametrize("pgvector", [True, False])
def test_meaning_is_compared_alike_with_and_without_pgvector(caches: Settle, pgvector: bool) -> None:
    if pgvector and not store.pgvector_schema():
        pytest.skip("this PostgreSQL has no pgvector")
    partition = Partition("alpha", RELEASE, "p", "g", "tenant")
    group = b"g" * 32
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(20, 384))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for index, vector in enumerate(vectors):
        key = RequestKey("chat.completions", bytes([index]) * 32, group, "t")
        assert store.store(partition, key, answer_of(str(index)), ttl_s=60, clean=True, vector=vector)
    asked = vectors[7] + 0.01 * vectors[3]
    asked /= np.linalg.norm(asked)
    hit = store.semantic_lookup(partition, group, asked, threshold=0.99, pgvector=pgvector)
    assert hit is not None and hit.answer["choices"][0]["message"]["content"] == "7"
    assert hit.similarity == pytest.approx(float(asked @ vectors[7]), abs=1e-4)
    far = generator.normal(size=384)
    far /= np.linalg.norm(far)
    assert store.semantic_lookup(partition, group, far, threshold=0.9, pgvector=pgvector) is None
    assert store.semantic_lookup(partition, b"x" * 32, asked, threshold=0.9, pgvector=pgvector) is None
    other = Partition("alpha", RELEASE, "p2", "g", "tenant")
    assert store.semantic_lookup(other, group, asked, threshold=0.9, pgvector=pgvector) is None


def test_a_paraphrase_hits_and_another_year_does_not(caches: Settle) -> None:
    plan_of(chat("How can I reset my password?")).store(answer_of("Open settings."), clean=True)
    plan_of(chat("What was our revenue in 2023?")).store(answer_of("Ten million."), clean=True)
    caches()
    near = plan_of(chat("How do I reset my password?"))
    hit = near.lookup()
    assert hit is not None and hit.kind == "semantic" and near.status == "hit-semantic"
    assert plan_of(chat("What was our revenue in 2024?")).lookup() is None


def test_answers_with_tool_calls_are_found_by_digest_only(caches: Settle) -> None:
    answer = answer_of("", "tool_calls")
    answer["choices"][0]["message"]["tool_calls"] = [
        {"id": "c", "type": "function", "function": {"name": "pay", "arguments": "{}"}}
    ]
    plan_of(chat("Pay the invoice now")).store(answer, clean=True)
    caches()
    assert plan_of(chat("Pay the invoice now")).lookup() is not None
    assert plan_of(chat("Pay that invoice now")).lookup() is None


def test_neither_prompt_nor_answer_is_in_the_table_in_clear(caches: Settle) -> None:
    plan_of(chat("the quick brown zebra")).store(answer_of("a purple walrus"), clean=True)
    caches()
    row = CacheEntry.objects.values().get()
    written = b" ".join(
        bytes(v) if isinstance(v, memoryview | bytes) else str(v).encode() for v in row.values()
    )
    assert b"zebra" not in written and b"walrus" not in written and row["embedding"] is not None


def test_the_bounds_hold_and_the_useful_stay(caches: Settle) -> None:
    plans = [plan_of(chat(f"Question {index}")) for index in range(6)]
    for plan in plans:
        plan.store(answer_of("x" * 1000), clean=True)
    assert plans[0].lookup() is not None
    caches()
    assert store.bounds_hold("alpha", max_entries=3, max_bytes=10**9) == 3
    assert plans[0].lookup() is not None and plans[1].lookup() is None
    assert store.bounds_hold("alpha", max_entries=3, max_bytes=2500) == 2
    assert plans[0].lookup() is None or CacheEntry.objects.count() == 1


def test_a_database_that_fails_is_a_miss(caches: Settle, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(chat("Hello"), schema="there_is_no_such_schema")
    assert plan.lookup() is None
    assert not plan.store(answer_of("Hi."), clean=True)


def test_a_connection_the_server_closed_is_replaced(caches: Settle) -> None:
    plan = plan_of(chat("Hello"))
    plan.store(answer_of("Hi."), clean=True)
    victim = database.CONNECTIONS._idle[-1][0].info.backend_pid
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [victim])
    assert plan.lookup() is not None


def test_purging_works_at_once_and_is_recorded(caches: Settle) -> None:
    admin = Actor("user", "1", "Admin", ("admin",), schema="alpha")
    first, second = plan_of(chat("Hello")), plan_of(chat("Hello"), release=OTHER_RELEASE)
    third = plan_of(chat("Hello"), policy="p2")
    for plan in (first, second, third):
        plan.store(answer_of("Hi."), clean=True)
    with use_actor(admin):
        assert services.cache_purge(partition=third.partition.digest.hex()) == 1
        assert third.lookup() is None and first.lookup() is not None
        assert services.cache_purge(release_digest=RELEASE) == 1
        assert first.lookup() is None and second.lookup() is not None
        assert services.cache_purge(everything=True) == 1
        with pytest.raises(services.PurgeInvalid):
            services.cache_purge()
    assert second.lookup() is None
    assert AuditEvent.objects.filter(action="cache.purged").count() == 3


def test_purging_leaves_other_tenants_alone(caches: Settle) -> None:
    plan_of(chat("Hello")).store(answer_of("Hi."), clean=True)
    theirs = plan_of(chat("Hello"), schema="beta")
    theirs.store(answer_of("Hi."), clean=True)
    with use_actor(Actor("user", "1", "Admin", ("admin",), schema="alpha")):
        services.cache_purge(everything=True)
    assert theirs.lookup() is not None


def test_the_encoder_gives_the_vectors_of_the_torch_engine() -> None:
    from inference.engines.embeddings import shared_embedder

    texts = ["How can I reset my password?", "Ünïcode — 東京 🙂", "x", "word " * 400]
    expected = shared_embedder().embed(texts)
    for text, vector in zip(texts, expected, strict=True):
        assert float(encode(text) @ vector) == pytest.approx(1.0, abs=1e-4)


def test_a_stored_answer_replays_as_a_stream(caches: Settle) -> None:
    answer = answer_of(
        "The answer is long enough for several chunks, which is what this sentence is for. " * 3
    )
    answer["choices"][0]["message"]["tool_calls"] = [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    ]
    plan = plan_of(chat("Hello"))
    plan.store(answer, clean=True)
    hit = plan.lookup()
    assert hit is not None
    chunks = replay_chunks(hit.answer, request_id="r1")
    assert {chunk["id"] for chunk in chunks} == {"r1"}
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert (
        "".join(delta.get("content") or "" for delta in deltas) == answer["choices"][0]["message"]["content"]
    )
    arguments = [call["function"]["arguments"] for delta in deltas for call in delta.get("tool_calls", ())]
    assert "".join(arguments) == '{"a": 1}'
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == answer["usage"]
    assert replay_chunks(hit.answer, include_usage=False)[-1]["choices"]


def test_text_completions_replay_too() -> None:
    answer = {"object": "text_completion", "choices": [{"index": 0, "text": "abc", "finish_reason": "stop"}]}
    texts = [chunk["choices"][0]["text"] for chunk in replay_chunks(answer, include_usage=False)]
    assert "".join(texts) == "abc"
    with pytest.raises(ValueError, match="no stream"):
        replay_chunks({"object": "list", "data": []})


def test_keys_without_a_group_are_stored_without_a_vector(caches: Settle) -> None:
    key = request_key("alpha", chat("Hello"))
    assert key is not None
    partition = Partition("alpha", RELEASE, "p", "g", "tenant")
    store.store(partition, key, answer_of("x"), ttl_s=60, clean=True, vector=encode("Hello"))
    assert CacheEntry.objects.get().embedding is None
